//! Trust bundles and federation relationships on a cluster of real processes: what is
//! written on one node holds on each, and is told in the codes and words of SPIRE.

#[path = "bundles/federated.rs"]
mod federated;
#[path = "bundles/own.rs"]
mod own;
#[path = "bundles/trust_domains.rs"]
mod trust_domains;

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
const ENV: &[(&str, &str)] = &[("CHANCERY_FAULT_PRUNE_EVERY_MS", "200")];

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
