//! Clients that write and sign while a test does something to the cluster.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::types;
use tonic::Code;

use crate::agent::Agent;
use crate::cluster::{Cluster, Node, create, entry_ids, eventually};

/// Writes entries and signs SVIDs without a pause, each through the next node that is there
/// and through another where one cannot, as clients do.
pub struct Load {
    nodes: Arc<Mutex<Vec<Node>>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<Done>>,
}

/// What became of it.
pub struct Done {
    /// Ids of entries whose creation was acknowledged.
    pub written: BTreeSet<String>,
    /// SVIDs.
    pub signed: usize,
}

impl Load {
    /// Starts to load a cluster's nodes.
    pub async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let first = &cluster.nodes()[0];
        let token = cluster.token(first).await?;
        let agent = Agent::attest(&first.api, &cluster.trust()?, &token, None).await?;
        let drafts = Drafts {
            template: cluster.entry(agent.path(), "/load"),
        };
        let nodes = Arc::new(Mutex::new(cluster.nodes().to_vec()));
        let stop = Arc::new(AtomicBool::new(false));
        let (known, told) = (Arc::clone(&nodes), Arc::clone(&stop));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::spawn(move || runtime.block_on(run(agent, drafts, known, told)));
        Ok(Self {
            nodes,
            stop,
            thread,
        })
    }

    /// The nodes that clients know from now on.
    pub fn knows(&self, nodes: Vec<Node>) {
        *self.nodes.lock().expect("nobody panics while holding it") = nodes;
    }

    /// Stops.
    ///
    /// # Errors
    /// What failed after retries.
    pub async fn end(self) -> anyhow::Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("the load panicked"))?
    }
}

struct Drafts {
    template: types::Entry,
}

impl Drafts {
    fn numbered(&self, number: usize) -> types::Entry {
        let mut draft = self.template.clone();
        if let Some(id) = &mut draft.spiffe_id {
            id.path = format!("/load/{number}");
        }
        draft
    }
}

async fn run(
    agent: Agent,
    drafts: Drafts,
    nodes: Arc<Mutex<Vec<Node>>>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Done> {
    let mut done = Done {
        written: BTreeSet::new(),
        signed: 0,
    };
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let draft = drafts.numbered(number);
        let id = with_retries(&nodes, number, async |node| {
            let mut results = create(node, vec![draft.clone()]).await?;
            let (status, entry) = results.pop().context("a result")?;
            // A try whose answer was lost may have written it.
            let there = status.code == Code::Ok as i32 || status.code == Code::AlreadyExists as i32;
            ensure!(there, "{status:?}");
            Ok(entry.context("an entry")?.id)
        })
        .await
        .with_context(|| format!("write {number}"))?;
        with_retries(&nodes, number + 1, async |node| {
            let ids = [id.clone()];
            let svids = agent.sign(agent.connect(&node.api).await?, &ids).await?;
            for svid in svids {
                svid.map_err(|status| anyhow::anyhow!("{status:?}"))?;
            }
            Ok(())
        })
        .await
        .with_context(|| format!("signature {number}"))?;
        done.written.insert(id);
        done.signed += 1;
        number += 1;
    }
    Ok(done)
}

/// The call, at one node after the other, until one does it.
async fn with_retries<T>(
    nodes: &Mutex<Vec<Node>>,
    from: usize,
    call: impl AsyncFn(&Node) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    const TRIES: usize = 40;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut last = None;
    for attempt in 0..TRIES {
        let node = {
            let nodes = nodes.lock().expect("nobody panics while holding it");
            nodes[(from + attempt) % nodes.len()].clone()
        };
        match tokio::time::timeout(Duration::from_secs(15), call(&node)).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(anyhow::anyhow!("no answer of node {}", node.id)),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(last.context("no try")?)
}

/// Every acknowledged entry is on every one of these nodes, and their states are the same.
pub async fn nothing_is_lost(cluster: &Cluster, nodes: &[Node], done: &Done) -> anyhow::Result<()> {
    for node in nodes {
        let ids = entry_ids(node).await?;
        let lost: Vec<_> = done.written.difference(&ids).collect();
        ensure!(lost.is_empty(), "node {} lacks {lost:?}", node.id);
    }
    eventually("one state", Duration::from_secs(30), || async {
        let mut states = BTreeSet::new();
        for node in nodes {
            let status = cluster.status(node)?;
            let members = status["members"].as_array().context("members")?;
            let own = members.iter().find(|m| m["id"] == node.id.as_str());
            let own = own.context("itself")?;
            states.insert((
                own["applied_index"].to_string(),
                own["state_digest"].to_string(),
            ));
        }
        Ok((states.len() == 1).then_some(()))
    })
    .await
}
