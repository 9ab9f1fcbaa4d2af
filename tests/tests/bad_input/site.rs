//! One node with keys in memory, and the proof that bad input left it as it was.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::google::rpc;
use chancery_api::spire::api::server::agent::v1::CountAgentsRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::entry::v1::ListEntriesRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::types;
use chancery_api::spire::api::types::permission_denied_details::Reason;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, text};
use chancery_tests::tls::{Trust, connect, connect_admin};
use prost::Message as _;
use tokio::sync::MutexGuard;
use tonic::Status;
use tonic::transport::Channel;

/// A cluster of one node: what is refused here is refused without its peers.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
}

/// What bad input must not change.
#[derive(Debug, PartialEq)]
struct State {
    entries: Vec<types::Entry>,
    agents: i32,
}

/// A site as it was before the bad input.
pub(crate) struct Watch<'a> {
    site: &'a Site,
    before: State,
}

/// The shared site, for as long as this is held.
pub(crate) struct Turn {
    site: Arc<Site>,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Site {
    /// The site that tests take turns on: each compares the state before with the state
    /// after. Whoever waits holds it too, and the last one stops it; a static that kept
    /// it would leave its process behind.
    pub(crate) async fn shared() -> anyhow::Result<Turn> {
        static SHARED: Mutex<Weak<Site>> = Mutex::new(Weak::new());
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let site = {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            match shared.upgrade() {
                Some(site) => site,
                None => {
                    let site = Arc::new(Self::start()?);
                    *shared = Arc::downgrade(&site);
                    site
                }
            }
        };
        let _alone = TURN.lock().await;
        Ok(Turn { site, _alone })
    }

    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::start_in("example.org")
    }

    pub(crate) fn start_in(trust_domain: &str) -> anyhow::Result<Self> {
        let options = Options {
            nodes: 1,
            keys: "memory",
            trust_domain,
            ..Options::default()
        };
        Ok(Self {
            cluster: Cluster::start(&options)?,
        })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.cluster.nodes()[0]
    }

    pub(crate) fn trust(&self) -> anyhow::Result<Trust> {
        self.cluster.trust()
    }

    /// Over the admin socket.
    pub(crate) async fn admin(&self) -> anyhow::Result<Channel> {
        connect_admin(&self.node().admin_socket).await
    }

    /// Over TCP, without a certificate.
    pub(crate) async fn anonymous(&self) -> anyhow::Result<Channel> {
        connect(&self.node().api, &self.trust()?, None, None).await
    }

    /// A newly attested agent.
    pub(crate) async fn agent(&self) -> anyhow::Result<Agent> {
        let token = self.cluster.token(self.node()).await?;
        Agent::attest(&self.node().api, &self.trust()?, &token, None).await
    }

    /// Creates an entry below `agent`; its id.
    pub(crate) async fn entry_of(&self, agent: &Agent, path: &str) -> anyhow::Result<String> {
        let entry = self.cluster.entry(agent.path(), path);
        let mut created = self.cluster.create(self.node(), vec![entry]).await?;
        let (status, entry) = created.pop().context("no result")?;
        ensure!(status.code == 0, "entry create: {}", status.message);
        Ok(entry.context("no entry")?.id)
    }

    /// The CLI's answer to an administrator who gets something wrong.
    pub(crate) fn cli_refuses(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.cluster.cli(self.node(), args)?;
        ensure!(
            output.status.code() == Some(1),
            "{args:?} ended with {}: {}",
            output.status,
            text(&output)
        );
        Ok(text(&output))
    }

    /// What holds now, to compare with later.
    pub(crate) async fn watch(&self) -> anyhow::Result<Watch<'_>> {
        Ok(Watch {
            site: self,
            before: self.state().await?,
        })
    }

    async fn state(&self) -> anyhow::Result<State> {
        let admin = self.admin().await?;
        let entries = EntryClient::new(admin.clone())
            .list_entries(ListEntriesRequest::default())
            .await?;
        let agents = AgentClient::new(admin)
            .count_agents(CountAgentsRequest::default())
            .await?;
        Ok(State {
            entries: entries.into_inner().entries,
            agents: agents.into_inner().count,
        })
    }
}

impl Watch<'_> {
    /// Fails unless entries and agents are as they were and the node serves.
    pub(crate) async fn unchanged(&self, after: &str) -> anyhow::Result<()> {
        let now = self
            .site
            .state()
            .await
            .with_context(|| format!("after {after}"))?;
        ensure!(
            now == self.before,
            "{after} changed the state from {:?} to {now:?}",
            self.before
        );
        let code = http_code(&self.site.node().health, "/ready")
            .with_context(|| format!("after {after}"))?;
        ensure!(
            code == 200,
            "/ready is {code} after {after}\n{}",
            self.site.cluster.logs()
        );
        Ok(())
    }

    /// The same, and that the command line counts as many entries.
    pub(crate) async fn unchanged_for_administrators(&self) -> anyhow::Result<()> {
        self.unchanged("all of it").await?;
        let output = self
            .site
            .cluster
            .cli(self.site.node(), &["entry", "count"])?;
        let said = text(&output);
        let wanted = format!("{} registration", self.before.entries.len());
        ensure!(
            output.status.success() && said.starts_with(&wanted),
            "entry count: {said}, not {wanted}"
        );
        Ok(())
    }
}

/// The status code of a GET.
pub(crate) fn http_code(address: &str, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer
        .split(' ')
        .nth(1)
        .with_context(|| format!("no HTTP answer: {answer:?}"))?;
    Ok(code.parse()?)
}

/// Calls a method by its path with an empty request; any answer counts as yes.
pub(crate) async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let path = path
        .parse()
        .map_err(|_| Status::internal("the test's path is no path"))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client
        .unary(tonic::Request::new(()), path, codec)
        .await
        .map(drop)
}

/// The refusal of a call that must be refused.
pub(crate) fn refusal<T>(what: &str, outcome: Result<T, Status>) -> anyhow::Result<Status> {
    outcome
        .err()
        .with_context(|| format!("{what} was not refused"))
}

/// The typed reason that an agent acts upon, from `grpc-status-details-bin`.
pub(crate) fn reason(status: &Status) -> anyhow::Result<Option<Reason>> {
    if status.details().is_empty() {
        return Ok(None);
    }
    let full = rpc::Status::decode(status.details())?;
    ensure!(
        full.code == i32::from(status.code()),
        "the details are of code {}",
        full.code
    );
    let [detail] = full.details.as_slice() else {
        anyhow::bail!("{} details", full.details.len())
    };
    ensure!(
        detail.type_url == "type.googleapis.com/spire.api.types.PermissionDeniedDetails",
        "a detail of type {}",
        detail.type_url
    );
    Ok(Some(
        types::PermissionDeniedDetails::decode(detail.value.as_slice())?.reason(),
    ))
}
