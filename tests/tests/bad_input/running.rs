//! A node with a configuration of the test's own, which `deploy/local/up` does not write.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::entry::v1::BatchCreateEntryRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_tests::agent::{Agent, Svid};
use chancery_tests::cluster::{bin_dir, eventually};
use chancery_tests::tls::{ClientIdentity, Trust, connect, connect_admin};
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::server::{Setup, path};
use crate::site::http_code;

/// A cluster of one node in a process of its own, gone with this.
pub(crate) struct Running {
    setup: Setup,
    _process: Child,
    pub(crate) trust: Trust,
}

impl Running {
    /// Starts a node and waits until it issues. `top` stands before the sections, `api`
    /// in the section of that name, `rest` at the end.
    pub(crate) async fn start(top: &str, api: &str, rest: &str) -> anyhow::Result<Self> {
        let setup = Setup::new()?;
        let own = setup.ports[1];
        let rest = format!("[cluster]\npeers = [\"127.0.0.1:{own}\"]\n{rest}");
        let text = setup
            .text(&rest)
            .replace("[api]\n", &format!("[api]\n{api}\n"));
        let config = setup.write(&format!("{top}\n{text}"))?;
        let log = std::fs::File::create(setup.dir.path().join("log"))?;
        let process = Command::new(bin_dir()?.join("chancery"))
            .args(["server", "run", "--config", path(&config)?])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let health = format!("127.0.0.1:{}", setup.ports[3]);
        let ready = || async { Ok((http_code(&health, "/ready")? == 200).then_some(())) };
        let started = eventually("a ready node", Duration::from_secs(60), ready).await;
        let log = || std::fs::read_to_string(setup.dir.path().join("log")).unwrap_or_default();
        started.with_context(log)?;
        let bundle = BundleClient::new(connect_admin(&setup.socket()).await?)
            .get_bundle(GetBundleRequest { output_mask: None })
            .await?
            .into_inner();
        let trust = Trust {
            trust_domain: TrustDomain::parse("example.org")?,
            roots: bundle
                .x509_authorities
                .into_iter()
                .map(|a| a.asn1)
                .collect(),
        };
        let this = Self {
            setup,
            _process: process,
            trust,
        };
        // A server SVID opens the port a moment after the authority is there.
        let open = || async { Ok(this.anonymous().await.ok()) };
        eventually("an open agent port", Duration::from_secs(20), open).await?;
        Ok(this)
    }

    /// host:port for agents.
    pub(crate) fn api(&self) -> String {
        format!("127.0.0.1:{}", self.setup.ports[0])
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<Channel> {
        connect_admin(&self.setup.socket()).await
    }

    pub(crate) async fn anonymous(&self) -> anyhow::Result<Channel> {
        connect(&self.api(), &self.trust, None, None).await
    }

    /// A caller with this SVID.
    pub(crate) async fn caller(&self, svid: &Svid) -> anyhow::Result<Channel> {
        let identity = ClientIdentity {
            chain: svid.chain.clone(),
            key: svid.key.clone(),
        };
        connect(&self.api(), &self.trust, Some(&identity), None).await
    }

    pub(crate) async fn token(&self) -> anyhow::Result<String> {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        let mut client = AgentClient::new(self.admin().await?);
        Ok(client.create_join_token(request).await?.into_inner().value)
    }

    /// A newly attested agent.
    pub(crate) async fn agent(&self) -> anyhow::Result<Agent> {
        Agent::attest(&self.api(), &self.trust, &self.token().await?, None).await
    }

    /// Creates an entry below `agent`, changed by `with`; its id.
    pub(crate) async fn entry(
        &self,
        agent: &Agent,
        path: &str,
        with: impl FnOnce(&mut types::Entry),
    ) -> anyhow::Result<String> {
        let id = |path: &str| {
            Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            })
        };
        let mut entry = types::Entry {
            parent_id: id(agent.path()),
            spiffe_id: id(path),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:1000".into(),
            }],
            ..Default::default()
        };
        with(&mut entry);
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let mut client = EntryClient::new(self.admin().await?);
        let created = client.batch_create_entry(request).await?.into_inner();
        let created = created.results.into_iter().next().context("no result")?;
        let refused = || format!("entry {path}: {:?}", created.status);
        Ok(created.entry.clone().with_context(refused)?.id)
    }

    /// The SVID of a workload of `agent`, by a new entry.
    pub(crate) async fn workload(
        &self,
        agent: &Agent,
        path: &str,
        with: impl FnOnce(&mut types::Entry),
    ) -> anyhow::Result<Svid> {
        let id = self.entry(agent, path, with).await?;
        let channel = agent.connect(&self.api()).await?;
        let signed = agent
            .sign(channel, &[id])
            .await?
            .pop()
            .context("no result")?;
        signed.map_err(|status| anyhow::anyhow!("{path}: {status:?}"))
    }

    /// What `/metrics` says.
    pub(crate) fn metrics(&self) -> anyhow::Result<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.setup.ports[2]))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}
