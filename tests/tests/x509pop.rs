//! Three nodes attest agents by the keys of certificates: every kind of key, every kind
//! of no, and what becomes of an agent that attests again, is banned, or is evicted.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, ensure};
use chancery_api::google::rpc;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::agent::v1::{
    BanAgentRequest, DeleteAgentRequest, GetAgentRequest,
};
use chancery_api::spire::api::types;
use chancery_api::spire::api::types::permission_denied_details::Reason;
use chancery_tests::agent::{Agent, Svid, key_and_csr, pem};
use chancery_tests::cluster::{Cluster, Node, Options};
use chancery_tests::tls::{connect, connect_admin};
use chancery_tests::x509pop::{Identity, Key, attest};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tonic::{Code, Status};

/// The section that all three nodes start with.
fn section(roots: &Path) -> String {
    format!(
        "[node_attestors.x509pop]\nca_bundle_path = {:?}\n",
        roots.display()
    )
}

/// A PKI of an enterprise.
struct Pki {
    root: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

fn authority(name: &str) -> anyhow::Result<(CertificateParams, KeyPair)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok((params, KeyPair::generate()?))
}

fn leaf(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

impl Pki {
    fn new(name: &str) -> anyhow::Result<Self> {
        let (params, key) = authority(name)?;
        let der = params.self_signed(&key)?.der().to_vec();
        Ok(Self {
            root: Issuer::new(params, key),
            der,
        })
    }

    /// An identity whose key is `of(pkcs8)`.
    fn issue(
        &self,
        params: &CertificateParams,
        pair: &KeyPair,
        of: impl Fn(Vec<u8>) -> Key,
    ) -> anyhow::Result<Identity> {
        let chain = vec![params.signed_by(pair, &self.root)?.der().to_vec()];
        let key = of(pair.serialize_der());
        Ok(Identity { chain, key })
    }

    fn p256(&self, params: &CertificateParams) -> anyhow::Result<Identity> {
        self.issue(params, &KeyPair::generate()?, Key::P256)
    }
}

/// The typed reason of a status, if it has one.
fn reason(status: &Status) -> anyhow::Result<Option<Reason>> {
    if status.details().is_empty() {
        return Ok(None);
    }
    let details = rpc::Status::decode(status.details())?;
    let any = details.details.first().context("no detail")?;
    let detail = types::PermissionDeniedDetails::decode(any.value.as_slice())?;
    Ok(Some(detail.reason()))
}

/// An attested agent, and what it attested with.
struct Attested {
    agent: Agent,
    identity: Identity,
}

struct Site {
    cluster: Cluster,
    pki: Pki,
}

impl Site {
    fn node(&self, at: usize) -> &Node {
        &self.cluster.nodes()[at]
    }

    /// Attests at a node without a client certificate, from `source`.
    async fn attest(
        &self,
        at: usize,
        identity: Identity,
        source: Option<IpAddr>,
    ) -> anyhow::Result<Result<Attested, Status>> {
        let trust = self.cluster.trust()?;
        let channel = connect(&self.node(at).api, &trust, None, source).await?;
        let (key, csr) = key_and_csr()?;
        let answer = |challenge: &[u8]| identity.answer(challenge).ok();
        let attested = match attest(channel, identity.payload(), csr, answer).await {
            Ok(attested) => attested,
            Err(status) => return Ok(Err(status)),
        };
        ensure!(attested.reattestable, "an x509pop agent attests again");
        let svid = attested.svid.context("no SVID")?;
        let id = svid.id.context("no ID")?;
        let svid = Svid {
            id: format!("spiffe://{}{}", id.trust_domain, id.path),
            chain: svid.cert_chain,
            key,
            expires_at: svid.expires_at,
        };
        let agent = Agent {
            trust,
            svid,
            source,
        };
        Ok(Ok(Attested { agent, identity }))
    }

    /// What an administrator sees of an agent at a node.
    async fn record(&self, at: usize, agent: &Agent) -> anyhow::Result<types::Agent> {
        let mut client = AgentClient::new(connect_admin(&self.node(at).admin_socket).await?);
        let request = GetAgentRequest {
            id: self.id(agent),
            output_mask: None,
        };
        Ok(client.get_agent(request).await?.into_inner())
    }

    fn id(&self, agent: &Agent) -> Option<types::Spiffeid> {
        Some(types::Spiffeid {
            trust_domain: self.cluster.trust().ok()?.trust_domain.as_str().to_owned(),
            path: agent.path().to_owned(),
        })
    }

    /// Changes a node's x509pop section and starts it again.
    fn configure(&mut self, at: usize, section: &str) -> anyhow::Result<()> {
        let node = self.node(at).clone();
        let text = std::fs::read_to_string(&node.config)?;
        let at = text
            .find("[node_attestors.x509pop]")
            .context("the section")?;
        std::fs::write(&node.config, format!("{}{section}", &text[..at]))?;
        self.cluster.restart(&node.id, &[])
    }

    /// The code and text of a no.
    async fn refusal(&self, at: usize, identity: Identity) -> anyhow::Result<(Code, String)> {
        match self.attest(at, identity, None).await? {
            Ok(_) => anyhow::bail!("it was attested"),
            Err(status) => {
                ensure!(
                    reason(&status)?.is_none(),
                    "a typed reason for a node without identity"
                );
                Ok((status.code(), status.message().to_owned()))
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_attest_with_the_keys_of_their_certificates() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let roots = dir.path().join("roots.pem");
    let pki = Pki::new("Enterprise Root")?;
    std::fs::write(&roots, pem("CERTIFICATE", &pki.der))?;
    let section = section(&roots);
    let options = Options {
        extra: &section,
        ..Options::default()
    };
    let mut site = Site {
        cluster: Cluster::start(&options)?,
        pki,
    };
    every_kind_of_key(&site).await?;
    every_kind_of_no(&site).await?;
    again_banned_and_evicted(&site).await?;

    // A template and the address at one node, the other mode at another.
    let template = "agent_path_template = \"/cn/{{ .Subject.CommonName | lower }}\"\nverify_client_ip = true\n";
    site.configure(1, &format!("{section}{template}"))?;
    site.configure(2, "[node_attestors.x509pop]\nmode = \"spiffe\"\n")?;
    template_and_address(&site).await?;
    svids_are_exchanged(&site).await
}

async fn every_kind_of_key(site: &Site) -> anyhow::Result<()> {
    let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512)?;
    let params = leaf("Node")?;
    let pki = &site.pki;
    let identities = [
        pki.issue(&params, &rsa()?, |key| Key::Rsa(key, None))?,
        pki.issue(&params, &rsa()?, |key| Key::Rsa(key, Some(32)))?,
        pki.issue(&params, &rsa()?, |key| Key::Rsa(key, Some(0)))?,
        pki.p256(&params)?,
        pki.issue(&params, &p521, Key::P521)?,
    ];
    for (at, identity) in identities.into_iter().enumerate() {
        let attested = site
            .attest(at % 3, identity, None)
            .await?
            .context("attest")?;
        let leaf = &attested.identity.chain[0];
        let sha1 = |der: &[u8]| {
            hex::encode(aws_lc_rs::digest::digest(
                &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
                der,
            ))
        };
        let path = format!("/spire/agent/x509pop/{}", sha1(leaf));
        assert_eq!(attested.agent.path(), path);
        let record = site.record((at + 1) % 3, &attested.agent).await?;
        let mut selectors: Vec<String> = record
            .selectors
            .iter()
            .map(|s| format!("{}:{}", s.r#type, s.value))
            .collect();
        selectors.sort();
        let serial = chancery_identity::pki::Certificate::parse(leaf)?;
        let mut expected = vec![
            format!("x509pop:ca:fingerprint:{}", sha1(&pki.der)),
            format!("x509pop:serialnumber:{}", hex::encode(serial.serial())),
            "x509pop:subject:cn:Node".to_owned(),
        ];
        expected.sort();
        assert_eq!(selectors, expected);
        assert!(record.can_reattest && !record.banned);
        assert_eq!(record.attestation_type, "x509pop");
        // The SVID is good at every node.
        for node in site.cluster.nodes() {
            attested.agent.round(&node.api).await?;
        }
    }
    Ok(())
}

async fn every_kind_of_no(site: &Site) -> anyhow::Result<()> {
    let pki = &site.pki;
    let prefix = "nodeattestor(x509pop): ";
    let params = leaf("Node")?;

    // The answer to another challenge, which was right there.
    let identity = pki.p256(&params)?;
    let trust = site.cluster.trust()?;
    let channel = connect(&site.node(0).api, &trust, None, None).await?;
    let csr = key_and_csr()?.1;
    let mut kept = Vec::new();
    let answer = |challenge: &[u8]| {
        kept = identity.answer(challenge).ok()?;
        Some(kept.clone())
    };
    attest(channel.clone(), identity.payload(), csr.clone(), answer).await?;
    let replay = attest(channel.clone(), identity.payload(), csr.clone(), |_| {
        Some(kept.clone())
    });
    let status = replay.await.err().context("a replayed answer was taken")?;
    assert_eq!(status.code(), Code::PermissionDenied);
    let failed = "challenge response verification failed: ECDSA signature verify failed";
    assert_eq!(status.message(), format!("{prefix}{failed}"));

    // The right nonce and another key.
    let other = pki.p256(&params)?;
    let forged = attest(channel.clone(), identity.payload(), csr.clone(), |c| {
        other.answer(c).ok()
    });
    let status = forged
        .await
        .err()
        .context("another key's answer was taken")?;
    assert_eq!(status.message(), format!("{prefix}{failed}"));

    // A message without an answer is an empty one.
    let silent = attest(channel.clone(), identity.payload(), csr.clone(), |_| None);
    let status = silent.await.err().context("no answer was taken")?;
    assert_eq!(status.code(), Code::InvalidArgument);
    let unread = format!("{prefix}unable to unmarshal challenge response: ");
    assert!(
        status.message().starts_with(&unread),
        "{}",
        status.message()
    );

    // A CSR that is none, after everything else was right.
    let bad_csr = attest(channel, identity.payload(), vec![1], |c| {
        identity.answer(c).ok()
    });
    let status = bad_csr.await.err().context("a bad CSR was taken")?;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().starts_with("failed to parse CSR: "),
        "{}",
        status.message()
    );

    let foreign = Pki::new("Enterprise Root")?.p256(&params)?;
    let (code, text) = site.refusal(1, foreign).await?;
    assert_eq!(code, Code::PermissionDenied);
    let unknown = format!(
        "{prefix}certificate verification failed: x509: certificate does not lead to a trusted root"
    );
    assert!(text.starts_with(&unknown), "{text}");

    let mut many = pki.p256(&params)?;
    many.chain.extend(vec![pki.der.clone(); 5]);
    assert_eq!(
        site.refusal(2, many).await?,
        (
            Code::InvalidArgument,
            format!("{prefix}too many intermediate certificates")
        )
    );

    let mut expired = leaf("Node")?;
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 2);
    let (code, text) = site.refusal(0, pki.p256(&expired)?).await?;
    assert_eq!(code, Code::PermissionDenied);
    assert!(
        text.contains("x509: certificate has expired or is not yet valid"),
        "{text}"
    );

    let mut unusable = leaf("Node")?;
    unusable.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    assert_eq!(
        site.refusal(0, pki.p256(&unusable)?).await?,
        (
            Code::Internal,
            format!(
                "{prefix}unable to generate challenge: certificate not intended for digital signature use"
            )
        )
    );
    Ok(())
}

async fn again_banned_and_evicted(site: &Site) -> anyhow::Result<()> {
    let identity = site.pki.p256(&leaf("Again")?)?;
    let first = site.attest(0, identity, None).await?.context("attest")?;
    let old = first.agent;

    // It may not renew.
    let renewed = old.renew(old.connect(&site.node(1).api).await?).await;
    let status = renewed.err().context("it renewed")?;
    assert_eq!(status.message(), "agent must reattest instead of renew");
    assert_eq!(reason(&status)?, Some(Reason::AgentMustReattest));

    // Over a connection with its certificate as over one without.
    let (_, csr) = key_and_csr()?;
    let identity = first.identity;
    let channel = old.connect(&site.node(1).api).await?;
    let answer = |c: &[u8]| identity.answer(c).ok();
    attest(channel, identity.payload(), csr, answer).await?;
    let second = site
        .attest(2, identity, None)
        .await?
        .context("attest again")?;
    assert_eq!(second.agent.svid.id, old.svid.id);
    second.agent.round(&site.node(0).api).await?;

    // The serial was replaced, and the old SVID is over everywhere.
    for node in site.cluster.nodes() {
        let status = old.sync(old.connect(&node.api).await?).await;
        let status = status.err().context("the old SVID is still good")?;
        assert_eq!(reason(&status)?, Some(Reason::AgentNotActive));
    }

    // Banned: no way back.
    let agent = second.agent;
    let mut admin = AgentClient::new(connect_admin(&site.node(0).admin_socket).await?);
    let id = site.id(&agent);
    admin.ban_agent(BanAgentRequest { id: id.clone() }).await?;
    let status = agent.sync(agent.connect(&site.node(1).api).await?).await;
    assert_eq!(
        reason(&status.err().context("a banned agent syncs")?)?,
        Some(Reason::AgentBanned)
    );
    let trust = site.cluster.trust()?;
    let channel = connect(&site.node(2).api, &trust, None, None).await?;
    let (_, csr) = key_and_csr()?;
    let identity = second.identity;
    let answer = |c: &[u8]| identity.answer(c).ok();
    let status = attest(channel, identity.payload(), csr, answer).await;
    let status = status.err().context("a banned agent attests")?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "failed to attest: agent is banned")
    );
    assert_eq!(reason(&status)?, None);

    // Evicted: it comes back.
    admin.delete_agent(DeleteAgentRequest { id }).await?;
    let status = agent.sync(agent.connect(&site.node(1).api).await?).await;
    assert_eq!(
        reason(&status.err().context("an evicted agent syncs")?)?,
        Some(Reason::AgentNotAttested)
    );
    let back = site
        .attest(1, identity, None)
        .await?
        .context("attest after eviction")?;
    assert_eq!(back.agent.svid.id, agent.svid.id);
    back.agent.round(&site.node(2).api).await?;
    Ok(())
}

async fn template_and_address(site: &Site) -> anyhow::Result<()> {
    let mut params = leaf("Host-7")?;
    let own = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
    params.subject_alt_names = vec![SanType::IpAddress(own)];
    let identity = site.pki.p256(&params)?;
    let (code, text) = site.refusal(1, site.pki.p256(&params)?).await?;
    assert_eq!(
        (code, text.as_str()),
        (
            Code::PermissionDenied,
            "nodeattestor(x509pop): client IP 127.0.0.1 does not match any certificate IP SAN"
        )
    );
    let attested = site
        .attest(1, identity, Some(own))
        .await?
        .context("attest")?;
    assert_eq!(attested.agent.path(), "/spire/agent/cn/host-7");
    attested.agent.round(&site.node(0).api).await?;

    // A name that makes no path makes no agent.
    let mut params = leaf("not a segment")?;
    params.subject_alt_names = vec![SanType::IpAddress(own)];
    let refused = site.attest(1, site.pki.p256(&params)?, Some(own)).await?;
    let status = refused.err().context("it was attested")?;
    assert_eq!(status.code(), Code::Internal);
    let failed = "nodeattestor(x509pop): failed to make spiffe id: invalid agent path suffix";
    assert!(status.message().starts_with(failed), "{}", status.message());
    Ok(())
}

async fn svids_are_exchanged(site: &Site) -> anyhow::Result<()> {
    // A workload's SVID is what the node shows.
    let token = site.cluster.token(site.node(0)).await?;
    let host = Agent::attest(&site.node(0).api, &site.cluster.trust()?, &token, None).await?;
    let entries = vec![
        site.cluster
            .entry(host.path(), "/spire-exchange/rack/host-1"),
        site.cluster.entry(host.path(), "/other/host-1"),
    ];
    for (status, _) in site.cluster.create(site.node(0), entries).await? {
        ensure!(status.code == 0, "{}", status.message);
    }
    let svids = host.round(&site.node(0).api).await?;
    let of = |path: &str| {
        let svid = svids.iter().find(|s| s.id.ends_with(path)).cloned();
        svid.map(|svid| Identity {
            chain: svid.chain,
            key: Key::P256(svid.key),
        })
        .context("no SVID")
    };
    let attested = site
        .attest(2, of("/spire-exchange/rack/host-1")?, None)
        .await?;
    let attested = attested.context("attest")?;
    assert_eq!(attested.agent.path(), "/spire/agent/x509pop/rack/host-1");
    attested.agent.round(&site.node(1).api).await?;
    assert_eq!(
        site.refusal(2, of("/other/host-1")?).await?,
        (
            Code::PermissionDenied,
            "nodeattestor(x509pop): x509 cert doesnt match SVID prefix".to_owned()
        )
    );
    // What is rooted elsewhere is not exchanged.
    let (code, _) = site.refusal(2, site.pki.p256(&leaf("Node")?)?).await?;
    assert_eq!(code, Code::PermissionDenied);
    Ok(())
}
