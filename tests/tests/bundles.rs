//! Trust bundles and federation relationships on a cluster of real processes: what is
//! written on one node holds on each, and is told in the codes and words of SPIRE.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::bundle::v1 as api;
use chancery_api::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::entry::v1::GetEntryRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use chancery_api::spire::api::server::localauthority::v1::{
    RevokeJwtAuthorityRequest, TaintJwtAuthorityRequest,
};
use chancery_api::spire::api::server::trustdomain::v1 as relationships;
use chancery_api::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use chancery_api::spire::api::types;
use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, eventually};
use chancery_tests::tls::{ClientIdentity, connect, connect_admin};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use tokio::sync::MutexGuard;
use tonic::transport::Channel;
use tonic::{Code, Status};

const FOREIGN_ADMIN: &str = "spiffe://admins.test/operator";
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster of three that the tests of this file share, one at a time.
struct Turn {
    cluster: Arc<Cluster>,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

async fn shared() -> anyhow::Result<Turn> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let cluster = {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.upgrade() {
            Some(cluster) => cluster,
            None => {
                let cluster = Arc::new(start()?);
                *shared = Arc::downgrade(&cluster);
                cluster
            }
        }
    };
    let _alone = TURN.lock().await;
    Ok(Turn { cluster, _alone })
}

/// The third node knows an administrator of another trust domain.
fn start() -> anyhow::Result<Cluster> {
    let options = Options {
        env: ENV,
        ..Options::default()
    };
    let mut cluster = Cluster::start(&options)?;
    let third = cluster.nodes()[2].clone();
    let config = std::fs::read_to_string(&third.config)?;
    let admins = format!("admin_ids = [\"{FOREIGN_ADMIN}\"]\n");
    std::fs::write(&third.config, admins + &config)?;
    cluster.restart(&third.id, ENV)?;
    Ok(cluster)
}

/// Nobody waits six hours for what has ended to be pruned.
const ENV: &[(&str, &str)] = &[("CHANCERY_FAULT_PRUNE_BUNDLE_MS", "200")];

async fn bundles(node: &Node) -> anyhow::Result<BundleClient<Channel>> {
    Ok(BundleClient::new(connect_admin(&node.admin_socket).await?))
}

async fn trust_domains(node: &Node) -> anyhow::Result<TrustDomainClient<Channel>> {
    Ok(TrustDomainClient::new(
        connect_admin(&node.admin_socket).await?,
    ))
}

fn refused<T>(outcome: Result<T, Status>) -> anyhow::Result<(Code, String)> {
    let status = outcome.err().context("this was not refused")?;
    Ok((status.code(), status.message().to_owned()))
}

/// Code and words of an item's status, which is always there.
fn words(status: Option<types::Status>) -> anyhow::Result<(Code, String)> {
    let status = status.context("an item without a status")?;
    Ok((Code::from(status.code), status.message))
}

fn ok() -> (Code, String) {
    (Code::Ok, "OK".into())
}

/// An authority of a trust domain, made on the spot.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: Vec<u8>,
}

impl Authority {
    fn of(trust_domain: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![SanType::URI(name.as_str().try_into()?)];
        let root = params.self_signed(&key)?.der().to_vec();
        Ok(Self {
            issuer: Issuer::new(params, key),
            root,
        })
    }

    fn svid(&self, id: &str) -> anyhow::Result<ClientIdentity> {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(Vec::new())?;
        leaf.distinguished_name = DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        leaf.use_authority_key_identifier_extension = true;
        leaf.is_ca = IsCa::ExplicitNoCa;
        Ok(ClientIdentity {
            chain: vec![leaf.signed_by(&key, &self.issuer)?.der().to_vec()],
            key: key.serialize_der(),
        })
    }
}

fn jwt_key(key_id: &str, expires_at: i64) -> anyhow::Result<types::JwtKey> {
    Ok(types::JwtKey {
        public_key: KeyPair::generate()?.subject_public_key_info(),
        key_id: key_id.into(),
        expires_at,
        tainted: false,
    })
}

fn certificate(der: &[u8]) -> types::X509Certificate {
    types::X509Certificate {
        asn1: der.to_vec(),
        tainted: false,
    }
}

fn bundle(trust_domain: &str) -> anyhow::Result<types::Bundle> {
    Ok(types::Bundle {
        trust_domain: trust_domain.into(),
        x509_authorities: vec![certificate(&Authority::of(trust_domain)?.root)],
        jwt_authorities: vec![jwt_key("kid", 1_900_000_000)?],
        refresh_hint: 300,
        sequence_number: 7,
        ..Default::default()
    })
}

async fn set(node: &Node, bundle: types::Bundle) -> anyhow::Result<()> {
    let request = api::BatchSetFederatedBundleRequest {
        bundle: vec![bundle.clone()],
        output_mask: None,
    };
    let mut client = bundles(node).await?;
    let response = client.batch_set_federated_bundle(request);
    let mut results = response.await?.into_inner().results;
    let result = results.pop().context("no result")?;
    assert_eq!(words(result.status)?, ok());
    assert_eq!(result.bundle, Some(bundle));
    Ok(())
}

async fn get(node: &Node, trust_domain: &str) -> anyhow::Result<Result<types::Bundle, Status>> {
    let request = api::GetFederatedBundleRequest {
        trust_domain: trust_domain.into(),
        output_mask: None,
    };
    let mut client = bundles(node).await?;
    let answer = client.get_federated_bundle(request).await;
    Ok(answer.map(tonic::Response::into_inner))
}

async fn delete(node: &Node, name: &str, mode: Mode) -> anyhow::Result<(Code, String)> {
    let request = api::BatchDeleteFederatedBundleRequest {
        trust_domains: vec![name.into()],
        mode: mode.into(),
    };
    let mut client = bundles(node).await?;
    let response = client.batch_delete_federated_bundle(request);
    let mut results = response.await?.into_inner().results;
    let result = results.pop().context("no result")?;
    assert_eq!(result.trust_domain, name);
    words(result.status)
}

async fn entry(node: &Node, id: &str) -> anyhow::Result<Result<types::Entry, Status>> {
    let mut client = EntryClient::new(connect_admin(&node.admin_socket).await?);
    let request = GetEntryRequest {
        id: id.into(),
        output_mask: None,
    };
    let answer = client.get_entry(request).await;
    Ok(answer.map(tonic::Response::into_inner))
}

async fn agent(cluster: &Cluster, node: &Node) -> anyhow::Result<Agent> {
    let token = cluster.token(node).await?;
    Agent::attest(&node.api, &cluster.trust()?, &token, None).await
}

#[tokio::test]
async fn a_federated_bundle_written_on_one_node_is_there_on_each() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let count = |node| async move {
        let mut client = bundles(node).await?;
        let response = client.count_bundles(api::CountBundlesRequest {});
        anyhow::Ok(response.await?.into_inner().count)
    };
    let before = count(one).await?;
    let (a, b) = (bundle("a.seen.test")?, bundle("b.seen.test")?);
    let request = api::BatchCreateFederatedBundleRequest {
        bundle: vec![
            a.clone(),
            a.clone(),
            bundle("example.org")?,
            types::Bundle {
                x509_authorities: vec![certificate(b"malformed")],
                ..b.clone()
            },
            types::Bundle::default(),
            b.clone(),
        ],
        output_mask: None,
    };
    let mut client = bundles(one).await?;
    let created = client.batch_create_federated_bundle(request);
    let results = created.await?.into_inner().results;
    let told = results.iter().map(|r| words(r.status.clone()));
    let told = told.collect::<anyhow::Result<Vec<_>>>()?;
    let invalid = |text: &str| (Code::InvalidArgument, text.to_owned());
    assert_eq!(
        told,
        [
            ok(),
            (Code::AlreadyExists, "bundle already exists".into()),
            invalid("creating a federated bundle for the server's own trust domain is not allowed"),
            invalid(
                "failed to convert bundle: unable to parse X.509 authority: \
                 x509: malformed certificate"
            ),
            invalid("trust domain argument is not valid: trust domain is missing"),
            ok(),
        ]
    );
    assert_eq!(results[0].bundle, Some(a.clone()));
    assert!(results[1..5].iter().all(|r| r.bundle.is_none()));
    for node in [two, three] {
        assert_eq!(get(node, "a.seen.test").await??, a);
        assert_eq!(get(node, "spiffe://b.seen.test").await??, b);
        assert_eq!(count(node).await?, before + 2);
        let mut token = String::new();
        let mut names = Vec::new();
        loop {
            let request = api::ListFederatedBundlesRequest {
                output_mask: Some(types::BundleMask::default()),
                page_size: 1,
                page_token: token,
            };
            let mut client = bundles(node).await?;
            let response = client.list_federated_bundles(request);
            let page = response.await?.into_inner();
            assert!(page.bundles.iter().all(|b| b.jwt_authorities.is_empty()));
            names.extend(page.bundles.into_iter().map(|b| b.trust_domain));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let seen = |name: &str| names.iter().filter(|n| *n == name).count();
        assert_eq!((seen("a.seen.test"), seen("b.seen.test")), (1, 1));
        assert_eq!(seen("example.org"), 0, "the own one is not listed");
    }

    let none = types::BundleMask::default();
    let update = |bundle: types::Bundle, input_mask| async move {
        let request = api::BatchUpdateFederatedBundleRequest {
            bundle: vec![bundle],
            input_mask,
            output_mask: None,
        };
        let mut client = bundles(two).await?;
        let response = client.batch_update_federated_bundle(request);
        let result = response.await?.into_inner().results.pop();
        result.context("no result")
    };
    let other = types::Bundle {
        refresh_hint: 5,
        sequence_number: 99,
        ..bundle("a.seen.test")?
    };
    let hint = types::BundleMask {
        refresh_hint: true,
        ..none
    };
    let result = update(other.clone(), Some(hint)).await?;
    let expected = types::Bundle {
        refresh_hint: 5,
        ..a.clone()
    };
    assert_eq!(words(result.status)?, ok());
    assert_eq!(result.bundle, Some(expected.clone()));
    assert_eq!(get(three, "a.seen.test").await??, expected);
    let result = update(other.clone(), None).await?;
    assert_eq!(result.bundle, Some(other.clone()));
    assert_eq!(get(one, "a.seen.test").await??, other);
    let result = update(bundle("c.seen.test")?, None).await?;
    let not_found = || (Code::NotFound, "bundle not found".to_owned());
    assert_eq!((words(result.status)?, result.bundle), (not_found(), None));

    set(three, a.clone()).await?;
    assert_eq!(get(two, "a.seen.test").await??, a);
    assert_eq!(refused(get(one, "c.seen.test").await?)?, not_found());
    let own = "getting a federated bundle for the server's own trust domain is not allowed";
    assert_eq!(refused(get(one, "example.org").await?)?, invalid(own));
    for name in ["a.seen.test", "b.seen.test"] {
        assert_eq!(delete(two, name, Mode::Restrict).await?, ok());
        assert_eq!(refused(get(one, name).await?)?, not_found());
        assert_eq!(delete(one, name, Mode::Restrict).await?, not_found());
    }
    let own = "removing the bundle for the server trust domain is not allowed";
    assert_eq!(
        delete(one, "example.org", Mode::Delete).await?,
        invalid(own)
    );
    assert_eq!(count(one).await?, before);
    Ok(())
}

#[tokio::test]
async fn entries_federate_with_bundles_that_are_there() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let agent = agent(cluster, two).await?;
    let (a, b) = (bundle("a.with.test")?, bundle("b.with.test")?);
    set(one, a.clone()).await?;
    set(two, b).await?;
    let draft = |path: &str, with: &[&str]| types::Entry {
        federates_with: with.iter().map(|name| (*name).into()).collect(),
        ..cluster.entry(agent.path(), path)
    };
    let drafts = vec![
        draft("/with/1", &["a.with.test", "b.with.test"]),
        draft("/with/2", &["spiffe://a.with.test"]),
        draft("/with/3", &["a.with.test", "c.with.test"]),
        draft("/with/4", &["example.org"]),
    ];
    let created = cluster.create(three, drafts).await?;
    let unknown = |name: &str| {
        let text =
            format!("failed to create entry: unable to find federated bundle \"spiffe://{name}\"");
        (Code::Internal, text)
    };
    let told: Vec<_> = created
        .iter()
        .map(|(status, _)| (Code::from(status.code), status.message.clone()))
        .collect();
    assert_eq!(
        told,
        [ok(), ok(), unknown("c.with.test"), unknown("example.org")]
    );
    let ids: Vec<_> = created
        .iter()
        .filter_map(|(_, entry)| entry.as_ref())
        .map(|entry| entry.id.clone())
        .collect();
    let [first, second] = ids.as_slice() else {
        anyhow::bail!("{ids:?}")
    };

    // The agent reads it on the way that a stock one does.
    let channel = agent.connect(&three.api).await?;
    let told = agent.sync(channel.clone()).await?;
    let with = told.iter().find(|e| e.id == *second).context("an entry")?;
    assert_eq!(with.federates_with, ["a.with.test"]);
    let mut client = BundleClient::new(channel);
    let ask = |name: &str| api::GetFederatedBundleRequest {
        trust_domain: name.into(),
        output_mask: None,
    };
    let told = client.get_federated_bundle(ask("a.with.test")).await?;
    assert_eq!(told.into_inner(), a);
    let not_found = (Code::NotFound, "bundle not found".to_owned());
    let missing = client.get_federated_bundle(ask("c.with.test")).await;
    assert_eq!(refused(missing)?, not_found);
    let denied = client.count_bundles(api::CountBundlesRequest {}).await;
    assert_eq!(refused(denied)?.0, Code::PermissionDenied);

    let kept = "failed to delete federated bundle: datastore-sql: cannot delete bundle; federated \
                with 2 registration entries";
    assert_eq!(
        delete(one, "a.with.test", Mode::Restrict).await?,
        (Code::FailedPrecondition, kept.into())
    );
    assert!(get(two, "a.with.test").await?.is_ok());
    assert_eq!(delete(three, "a.with.test", Mode::Dissociate).await?, ok());
    let after = entry(two, first).await??;
    assert_eq!(after.federates_with, ["b.with.test"]);
    assert_eq!(after.revision_number, 1);
    assert!(entry(one, second).await??.federates_with.is_empty());
    assert_eq!(delete(one, "b.with.test", Mode::Delete).await?, ok());
    for node in [one, two, three] {
        assert_eq!(refused(entry(node, first).await?)?.0, Code::NotFound);
        assert!(entry(node, second).await?.is_ok());
    }
    let told = agent.sync(agent.connect(&one.api).await?).await?;
    assert!(told.iter().all(|e| e.id != *first));

    let unknown_mode = api::BatchDeleteFederatedBundleRequest {
        trust_domains: vec!["a.with.test".into()],
        mode: 3,
    };
    let mut client = bundles(one).await?;
    let answer = client.batch_delete_federated_bundle(unknown_mode);
    assert_eq!(
        refused(answer.await)?,
        (
            Code::InvalidArgument,
            "failed to parse deletion mode: unhandled delete mode \"3\"".into()
        )
    );
    Ok(())
}

#[tokio::test]
async fn a_bundle_goes_with_more_entries_than_one_command_touches() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, _] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let agent = agent(cluster, one).await?;
    set(one, bundle("many.test")?).await?;
    let mut ids = Vec::new();
    for part in 0..3 {
        let draft = |n: usize| types::Entry {
            federates_with: vec!["many.test".into()],
            ..cluster.entry(agent.path(), &format!("/many/{part}/{n}"))
        };
        let drafts = (0..367).map(draft).collect();
        for (status, created) in cluster.create(two, drafts).await? {
            ensure!(status.code == 0, "{}", status.message);
            ids.push(created.context("an entry")?.id);
        }
    }
    assert!(ids.len() > 1000, "more than one command");
    assert_eq!(delete(two, "many.test", Mode::Delete).await?, ok());
    let gone = (Code::NotFound, "bundle not found".to_owned());
    assert_eq!(refused(get(one, "many.test").await?)?, gone);
    for id in ids.iter().step_by(100).chain(ids.last()) {
        assert_eq!(refused(entry(one, id).await?)?.0, Code::NotFound);
    }
    Ok(())
}

async fn own_bundle(channel: Channel) -> Result<types::Bundle, Status> {
    let request = api::GetBundleRequest { output_mask: None };
    let answer = BundleClient::new(channel).get_bundle(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn what_is_appended_to_the_own_bundle_is_trusted_on_each_node() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let admin = connect_admin(&one.admin_socket).await?;
    let before = own_bundle(admin.clone()).await?;
    let (first, second) = (Authority::of("example.org")?, Authority::of("example.org")?);
    let key = jwt_key("appended", 4_000_000_000)?;
    let request = api::AppendBundleRequest {
        // Two in one item, which agents could not read.
        x509_authorities: vec![types::X509Certificate {
            asn1: [first.root.clone(), second.root.clone()].concat(),
            tainted: true,
        }],
        jwt_authorities: vec![key.clone()],
        ..Default::default()
    };
    let mut client = BundleClient::new(admin);
    let appended = client.append_bundle(request.clone()).await?.into_inner();
    let mut expected = before.clone();
    expected.sequence_number += 1;
    expected.x509_authorities.push(certificate(&first.root));
    expected.x509_authorities.push(certificate(&second.root));
    expected.jwt_authorities.push(key.clone());
    assert_eq!(appended, expected);
    let again = client.append_bundle(request.clone()).await?.into_inner();
    assert_eq!(again, expected, "nothing is new, so nothing is counted");
    for node in [two, three] {
        let admin = connect_admin(&node.admin_socket).await?;
        assert_eq!(own_bundle(admin).await?, expected);
    }

    // The handshake trusts it at each node; nobody is an administrator by it.
    let visitor = second.svid("spiffe://example.org/visitor")?;
    for node in [one, two, three] {
        let denied = eventually("a root that is trusted", PATIENCE, || async {
            let channel = connect(&node.api, &cluster.trust()?, Some(&visitor), None).await?;
            let mut client = BundleClient::new(channel);
            let answer = client.count_bundles(api::CountBundlesRequest {}).await;
            let code = answer.err().context("a visitor was served")?.code();
            Ok((code == Code::PermissionDenied).then_some(()))
        });
        denied.await?;
        let anonymous = connect(&node.api, &cluster.trust()?, None, None).await?;
        eventually("the bundle for everyone", PATIENCE, || async {
            Ok((own_bundle(anonymous.clone()).await? == expected).then_some(()))
        })
        .await?;
    }

    let nothing = api::AppendBundleRequest::default();
    let wrong_key = api::AppendBundleRequest {
        jwt_authorities: vec![types::JwtKey {
            key_id: String::new(),
            ..key.clone()
        }],
        ..Default::default()
    };
    let wrong_root = api::AppendBundleRequest {
        x509_authorities: vec![certificate(b"malformed")],
        ..Default::default()
    };
    for (request, text) in [
        (nothing, "no authorities to append"),
        (wrong_key, "failed to convert JWT authority: missing key ID"),
        (
            wrong_root,
            "failed to convert X.509 authority: x509: malformed certificate",
        ),
    ] {
        assert_eq!(
            refused(client.append_bundle(request).await)?,
            (Code::InvalidArgument, text.into())
        );
    }
    // A key id that already names a key names no other.
    let taken = api::AppendBundleRequest {
        jwt_authorities: vec![jwt_key("appended", 4_000_000_000)?],
        ..Default::default()
    };
    assert_eq!(
        refused(client.append_bundle(taken).await)?.0,
        Code::AlreadyExists
    );
    let mask = types::BundleMask {
        sequence_number: true,
        ..Default::default()
    };
    let masked = api::AppendBundleRequest {
        output_mask: Some(mask),
        ..request
    };
    assert_eq!(
        client.append_bundle(masked).await?.into_inner(),
        types::Bundle {
            trust_domain: "example.org".into(),
            sequence_number: expected.sequence_number,
            ..Default::default()
        }
    );
    Ok(())
}

#[tokio::test]
async fn a_downstream_server_publishes_its_keys() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let agent = agent(cluster, one).await?;
    let draft = types::Entry {
        downstream: true,
        ..cluster.entry(agent.path(), "/downstream")
    };
    let (status, created) = cluster.create(two, vec![draft]).await?.remove(0);
    ensure!(status.code == 0, "{}", status.message);
    let id = created.context("an entry")?.id;
    let channel = agent.connect(&one.api).await?;
    let svid = agent.sign(channel.clone(), &[id]).await?.remove(0);
    let svid = svid.map_err(|status| anyhow::anyhow!(status.message))?;
    let downstream = Agent {
        svid,
        ..agent.clone()
    };
    let mut client = BundleClient::new(downstream.connect(&three.api).await?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let now = i64::try_from(now)?;
    let key = jwt_key("downstream", now + 3600)?;
    let publish =
        |key: Option<types::JwtKey>| api::PublishJwtAuthorityRequest { jwt_authority: key };
    let answer = client.publish_jwt_authority(publish(Some(key.clone())));
    let keys = answer.await?.into_inner().jwt_authorities;
    assert!(keys.contains(&key) && keys.len() > 1, "all keys come back");
    for node in [one, two] {
        let told = own_bundle(connect_admin(&node.admin_socket).await?).await?;
        assert_eq!(told.jwt_authorities, keys);
    }
    assert_eq!(
        refused(client.publish_jwt_authority(publish(None)).await)?,
        (Code::InvalidArgument, "missing JWT authority".into())
    );
    let nameless = types::JwtKey {
        key_id: String::new(),
        ..key.clone()
    };
    assert_eq!(
        refused(client.publish_jwt_authority(publish(Some(nameless))).await)?,
        (
            Code::InvalidArgument,
            "invalid JWT authority: missing key ID".into()
        )
    );
    let unbounded = [
        (jwt_key("endless", 0)?, "missing expiration"),
        (jwt_key("past", now - 1)?, "expired already"),
        (
            jwt_key(&"k".repeat(256), now + 3600)?,
            "key ID is longer than 255 bytes",
        ),
    ];
    for (bad, why) in unbounded {
        assert_eq!(
            refused(client.publish_jwt_authority(publish(Some(bad))).await)?,
            (
                Code::InvalidArgument,
                format!("invalid JWT authority: {why}")
            )
        );
    }
    // One server has its share and no more, and what it published can be taken out again.
    for n in 1..16 {
        let key = jwt_key(&format!("downstream-{n}"), now + 3600)?;
        client.publish_jwt_authority(publish(Some(key))).await?;
    }
    let surplus = jwt_key("downstream-16", now + 3600)?;
    let surplus = client.publish_jwt_authority(publish(Some(surplus)));
    assert_eq!(refused(surplus.await)?.0, Code::ResourceExhausted);
    let admin = connect_admin(&two.admin_socket).await?;
    let mut authorities = LocalAuthorityClient::new(admin.clone());
    let taint = |id: &str| TaintJwtAuthorityRequest {
        authority_id: id.into(),
    };
    let revoke = |id: &str| RevokeJwtAuthorityRequest {
        authority_id: id.into(),
    };
    assert_eq!(
        refused(authorities.taint_jwt_authority(taint("nope")).await)?,
        (Code::InvalidArgument, "unexpected authority ID".into())
    );
    assert_eq!(
        refused(
            authorities
                .revoke_jwt_authority(revoke("downstream-1"))
                .await
        )?,
        (
            Code::Internal,
            "failed to revoke JWT authority: it is not possible to revoke an untainted key".into()
        )
    );
    for n in 1..16 {
        let id = format!("downstream-{n}");
        let tainted = authorities.taint_jwt_authority(taint(&id)).await?;
        let tainted = tainted.into_inner().tainted_authority;
        assert_eq!(tainted.context("a state")?.authority_id, id);
        let marked = own_bundle(admin.clone()).await?.jwt_authorities;
        assert!(marked.iter().any(|key| key.key_id == id && key.tainted));
        authorities.revoke_jwt_authority(revoke(&id)).await?;
    }
    assert_eq!(own_bundle(admin).await?.jwt_authorities, keys);
    let wit = api::PublishWitAuthorityRequest::default();
    assert_eq!(
        refused(client.publish_wit_authority(wit).await)?,
        (
            Code::Unimplemented,
            "WIT-SVID functionality is not yet implemented".into()
        )
    );
    let mut by_agent = BundleClient::new(channel);
    let denied = by_agent.publish_jwt_authority(publish(Some(key))).await;
    assert_eq!(refused(denied)?.0, Code::PermissionDenied);
    Ok(())
}

#[tokio::test]
async fn what_ended_is_pruned_and_the_rest_stays() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, _] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let admin = connect_admin(&one.admin_socket).await?;
    let before = own_bundle(admin.clone()).await?;
    let ended = jwt_key("ended", 1_000_000_000)?;
    let endless = jwt_key("endless", 0)?;
    let request = api::AppendBundleRequest {
        jwt_authorities: vec![ended.clone(), endless.clone()],
        ..Default::default()
    };
    BundleClient::new(admin).append_bundle(request).await?;
    let admin = connect_admin(&two.admin_socket).await?;
    let pruned = eventually("pruning", PATIENCE, || async {
        let told = own_bundle(admin.clone()).await?;
        Ok((!told.jwt_authorities.contains(&ended)).then_some(told))
    })
    .await?;
    let mut expected = before.clone();
    expected.jwt_authorities.push(endless);
    expected.sequence_number += 2;
    assert_eq!(pruned, expected, "one for appending, one for pruning");
    let told = cluster.nodes().iter().any(|node| {
        let log = std::fs::read_to_string(&node.log).unwrap_or_default();
        log.contains("Pruning JWT signing key due to expiration")
    });
    assert!(told, "{}", cluster.logs());
    Ok(())
}

#[tokio::test]
async fn an_administrator_of_another_trust_domain_needs_its_bundle() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, _, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let (authority, impostor) = (Authority::of("admins.test")?, Authority::of("admins.test")?);
    let operator = authority.svid(FOREIGN_ADMIN)?;
    let call = |identity: ClientIdentity| async move {
        let channel = connect(&three.api, &cluster.trust()?, Some(&identity), None).await?;
        let request = api::CountBundlesRequest {};
        let answer = BundleClient::new(channel).count_bundles(request).await;
        anyhow::Ok(answer?.into_inner().count)
    };
    assert!(call(operator.clone()).await.is_err(), "there is no bundle");
    set(
        one,
        types::Bundle {
            trust_domain: "admins.test".into(),
            x509_authorities: vec![certificate(&authority.root)],
            ..Default::default()
        },
    )
    .await?;
    let count = eventually("the administrator is known", PATIENCE, || async {
        Ok(call(operator.clone()).await.ok())
    });
    assert!(count.await? >= 2);
    // Neither another ID of that trust domain nor another authority.
    let other = authority.svid("spiffe://admins.test/other")?;
    assert!(call(other).await.is_err());
    assert!(call(impostor.svid(FOREIGN_ADMIN)?).await.is_err());
    assert_eq!(delete(one, "admins.test", Mode::Restrict).await?, ok());
    eventually("the administrator is refused", PATIENCE, || async {
        Ok(call(operator.clone()).await.is_err().then_some(()))
    })
    .await
}

fn relationship(name: &str, id: Option<&str>) -> types::FederationRelationship {
    let profile = match id {
        None => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
        Some(id) => BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
            endpoint_spiffe_id: id.into(),
        }),
    };
    types::FederationRelationship {
        trust_domain: name.into(),
        bundle_endpoint_url: format!("https://{name}/bundle"),
        bundle_endpoint_profile: Some(profile),
        trust_domain_bundle: None,
    }
}

#[tokio::test]
async fn relationships_are_records_that_every_node_tells() -> anyhow::Result<()> {
    use relationships as api;
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let with_bundle = types::FederationRelationship {
        trust_domain_bundle: Some(bundle("a.rel.test")?),
        ..relationship("a.rel.test", None)
    };
    let spiffe = relationship("b.rel.test", Some("spiffe://c.rel.test/bundle"));
    let request = api::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![
            with_bundle.clone(),
            with_bundle.clone(),
            relationship("example.org", None),
            types::FederationRelationship {
                bundle_endpoint_url: "http://b.rel.test".into(),
                ..spiffe.clone()
            },
            spiffe.clone(),
        ],
        output_mask: None,
    };
    let mut client = trust_domains(one).await?;
    let created = client.batch_create_federation_relationship(request);
    let results = created.await?.into_inner().results;
    let told = results.iter().map(|r| words(r.status.clone()));
    assert_eq!(
        told.collect::<anyhow::Result<Vec<_>>>()?,
        [
            ok(),
            (
                Code::Internal,
                "failed to create federation relationship: datastore-sql: UNIQUE constraint \
                 failed: federated_trust_domains.trust_domain"
                    .into()
            ),
            (
                Code::InvalidArgument,
                "unable to create federation relationship for server trust domain".into()
            ),
            (
                Code::InvalidArgument,
                "failed to convert federation relationship: bundle endpoint URL must use the \
                 https scheme"
                    .into()
            ),
            ok(),
        ]
    );
    let log = std::fs::read_to_string(&one.log)?;
    assert!(log.contains("bundle not found for the endpoint SPIFFE ID trust domain"));
    assert_eq!(
        get(two, "a.rel.test").await??.refresh_hint,
        300,
        "the bundle came with it"
    );
    let get_one = |node, name: &'static str| async move {
        let request = api::GetFederationRelationshipRequest {
            trust_domain: name.into(),
            output_mask: None,
        };
        let mut client = trust_domains(node).await?;
        let answer = client.get_federation_relationship(request).await;
        anyhow::Ok(answer.map(tonic::Response::into_inner))
    };
    for node in [two, three] {
        let request = api::ListFederationRelationshipsRequest::default();
        let mut client = trust_domains(node).await?;
        let listed = client.list_federation_relationships(request).await?;
        let listed = listed.into_inner().federation_relationships;
        assert_eq!(listed, [with_bundle.clone(), spiffe.clone()]);
        assert_eq!(get_one(node, "b.rel.test").await??, spiffe);
    }
    assert_eq!(
        refused(get_one(one, "c.rel.test").await?)?,
        (
            Code::NotFound,
            "federation relationship does not exist".into()
        )
    );

    let update = |relationship: types::FederationRelationship, input_mask| async move {
        let request = api::BatchUpdateFederationRelationshipRequest {
            federation_relationships: vec![relationship],
            input_mask,
            output_mask: None,
        };
        let mut client = trust_domains(three).await?;
        let response = client.batch_update_federation_relationship(request);
        let result = response.await?.into_inner().results.pop();
        result.context("no result")
    };
    let changed = types::FederationRelationship {
        bundle_endpoint_url: "https://new.test".into(),
        ..relationship("b.rel.test", None)
    };
    let mask = types::FederationRelationshipMask {
        bundle_endpoint_url: true,
        ..Default::default()
    };
    let result = update(changed.clone(), Some(mask)).await?;
    let expected = types::FederationRelationship {
        bundle_endpoint_url: "https://new.test".into(),
        ..spiffe
    };
    assert_eq!(words(result.status)?, ok());
    assert_eq!(result.federation_relationship, Some(expected));
    let result = update(changed.clone(), None).await?;
    assert_eq!(result.federation_relationship, Some(changed.clone()));
    assert_eq!(get_one(one, "b.rel.test").await??, changed);
    let result = update(relationship("c.rel.test", None), None).await?;
    assert_eq!(
        words(result.status)?,
        (
            Code::Internal,
            "failed to update federation relationship: unable to fetch federation relationship: \
             record not found"
                .into()
        )
    );

    let refresh = |name: &'static str| async move {
        let request = api::RefreshBundleRequest {
            trust_domain: name.into(),
        };
        refused(trust_domains(two).await?.refresh_bundle(request).await)
    };
    let (code, text) = refresh("a.rel.test").await?;
    assert_eq!(code, Code::Unimplemented);
    assert!(text.starts_with("failed to refresh bundle: "), "{text}");
    assert_eq!(
        refresh("c.rel.test").await?,
        (
            Code::NotFound,
            "no relationship with trust domain \"c.rel.test\"".into()
        )
    );
    assert_eq!(
        refresh("").await?,
        (
            Code::InvalidArgument,
            "failed to parse trust domain: trust domain is missing".into()
        )
    );

    let request = api::BatchDeleteFederationRelationshipRequest {
        trust_domains: ["spiffe://a.rel.test", "a.rel.test", "", "b.rel.test"]
            .map(String::from)
            .into(),
    };
    let deleted = trust_domains(two).await?;
    let deleted = { deleted }
        .batch_delete_federation_relationship(request)
        .await?;
    let told = deleted.into_inner().results;
    let told = told
        .into_iter()
        .map(|r| Ok((r.trust_domain, words(r.status)?.1)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let text = |name: &str, words: &str| (name.to_owned(), words.to_owned());
    assert_eq!(
        told,
        [
            text("a.rel.test", "OK"),
            text("a.rel.test", "federation relationship not found"),
            text("", "missing trust domain"),
            text("b.rel.test", "OK"),
        ]
    );
    let request = api::ListFederationRelationshipsRequest::default();
    let left = client.list_federation_relationships(request).await?;
    assert!(left.into_inner().federation_relationships.is_empty());
    assert_eq!(
        delete(three, "a.rel.test", Mode::Restrict).await?,
        ok(),
        "the bundle stayed"
    );
    Ok(())
}
