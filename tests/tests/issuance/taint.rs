//! An authority tainted in mode `intermediate`: nodes drop their intermediates of it, everything
//! that hangs from it is replaced, and it is revoked, while agents go on as stock agents do.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;

use super::*;

/// How often a stock agent asks for the bundle.
const SYNC: Duration = Duration::from_secs(5);
/// More than ten times what nodes need to drop an intermediate and to be asked for it.
const DROP_LIMIT: Duration = Duration::from_secs(10);

/// The ledger takes a document that another node handed out for replaced by one that was asked for
/// so much later: clocks of nodes may be apart. The holder of a younger SVID counts to its end.
const SURELY_LATER: Duration = Duration::from_secs(24);

/// A document by the time at which it was asked for, and the root that it hangs from.
struct Document {
    asked_at: Instant,
    node: String,
    root: Vec<u8>,
}

/// What an agent lived through.
#[derive(Default)]
struct Lived {
    handshakes: usize,
    documents: Vec<Document>,
}

/// An agent that asks all nodes in turn, all the time, for documents of its workload, and renews
/// its own SVID when the bundle says that its authority is tainted. One thing that fails ends it.
struct Life {
    stop: Arc<AtomicBool>,
    renewals: Arc<AtomicUsize>,
    rounds: Arc<AtomicUsize>,
    /// When the agent got its own SVID.
    svid_of: Arc<Mutex<Instant>>,
    task: tokio::task::JoinHandle<anyhow::Result<Lived>>,
}

/// The root that a chain hangs from.
fn root_of(svid: &Svid, trust: &Trust) -> anyhow::Result<Vec<u8>> {
    let hangs_from = |root: &&Vec<u8>| {
        let trust = Trust {
            roots: vec![(*root).clone()],
            ..trust.clone()
        };
        verify(svid, &trust).is_ok()
    };
    let root = trust.roots.iter().find(hangs_from);
    Ok(root.context("a document of no root of the bundle")?.clone())
}

impl Life {
    fn start(agent: Agent, nodes: Vec<Node>, entry: String) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let renewals: Arc<AtomicUsize> = Arc::default();
        let rounds: Arc<AtomicUsize> = Arc::default();
        let svid_of = Arc::new(Mutex::new(Instant::now()));
        let life = |task| Self {
            stop: Arc::clone(&stop),
            renewals: Arc::clone(&renewals),
            rounds: Arc::clone(&rounds),
            svid_of: Arc::clone(&svid_of),
            task,
        };
        let (stop, renewals) = (Arc::clone(&stop), Arc::clone(&renewals));
        let (rounds, svid_of) = (Arc::clone(&rounds), Arc::clone(&svid_of));
        life(tokio::spawn(async move {
            let mut agent = agent;
            let mut lived = Lived::default();
            let mut synced = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let node = &nodes[lived.handshakes % nodes.len()];
                let at = || format!("handshake {} at node {}", lived.handshakes, node.id);
                let channel = agent.connect(&node.api).await.with_context(at)?;
                lived.handshakes += 1;
                if synced.elapsed() >= SYNC {
                    synced = Instant::now();
                    let mut client = BundleClient::new(channel.clone());
                    let request = GetBundleRequest { output_mask: None };
                    let bundle = client.get_bundle(request).await?.into_inner();
                    let roots = bundle.x509_authorities;
                    agent.trust.roots = roots.iter().map(|a| a.asn1.clone()).collect();
                    let own = root_of(&agent.svid, &agent.trust)?;
                    if roots.iter().any(|root| root.tainted && root.asn1 == own) {
                        agent = agent.renew(channel.clone()).await.context("RenewAgent")?;
                        let next = root_of(&agent.svid, &agent.trust)?;
                        ensure!(next != own, "renewed by the tainted authority");
                        ensure!(agent.svid.chain.len() == 2, "not by an intermediate");
                        *svid_of.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                        renewals.fetch_add(1, Ordering::Relaxed);
                    }
                }
                let asked_at = Instant::now();
                let signed = agent.sign(channel, std::slice::from_ref(&entry)).await?;
                let svid = signed.into_iter().next().context("an answer")?;
                let svid = svid.map_err(|s| anyhow::anyhow!("{} {}", s.code, s.message))?;
                ensure!(svid.chain.len() == 2, "not by an intermediate");
                // Of an authority that the agent has not heard of yet.
                let mut trust = agent.trust.clone();
                trust.roots = bundle_roots(node).await?;
                lived.documents.push(Document {
                    asked_at,
                    node: node.id.clone(),
                    root: root_of(&svid, &trust)?,
                });
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            Ok(lived)
        }))
    }

    fn svid_age(&self) -> Duration {
        let got = self.svid_of.lock().unwrap_or_else(PoisonError::into_inner);
        got.elapsed()
    }

    async fn end(self) -> anyhow::Result<Lived> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Roots of the bundle, as a node tells them now.
async fn bundle_roots(node: &Node) -> anyhow::Result<Vec<Vec<u8>>> {
    let bundle = chancery_tests::documents::bundle(&node.admin_socket).await?;
    let roots = bundle.x509_authorities.into_iter();
    Ok(roots.map(|a| a.asn1).collect())
}

/// Waits until a node has told that it dropped its intermediate of an authority.
async fn until_dropped(node: &Node, authority: &str) -> anyhow::Result<()> {
    let what = format!("node {} drops its intermediate of {authority}", node.id);
    eventually(&what, DROP_LIMIT, || async {
        let log = std::fs::read_to_string(&node.log)?;
        let told = |line: &str| line.contains("an intermediate is dropped");
        let mut lines = log.lines();
        Ok(lines
            .any(|line| told(line) && line.contains(authority))
            .then_some(()))
    })
    .await
}

/// An agent's life must go on until `done`.
async fn until(what: &str, lives: &[Life], done: impl Fn(&Life) -> bool) -> anyhow::Result<()> {
    eventually(what, LIMIT, || async {
        Ok(lives
            .iter()
            .all(|life| done(life) || life.task.is_finished())
            .then_some(()))
    })
    .await?;
    ensure!(
        lives.iter().all(|life| !life.task.is_finished()),
        "an agent could not go on: {what}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tainted_authority_signs_nothing_more_through_intermediates() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    mode(&cluster, &nodes[0], &["intermediate"])?;
    for node in &nodes {
        eventually("each node follows", LIMIT, || async {
            Ok((shown(node).await? == 3).then_some(()))
        })
        .await?;
    }
    let mut lives = Vec::new();
    for _ in 0..2 {
        let (agent, entry) = agent_with_entry(&cluster).await?;
        lives.push(Life::start(agent, nodes.clone(), entry));
    }
    let mut tainted = Vec::new();
    for round in 0..count(1, 6) {
        let outcome = rotate(&cluster, &nodes, round, &lives).await;
        match outcome {
            Ok(gone) => tainted.push(gone),
            Err(error) => {
                let failed = lives.into_iter().filter(|life| life.task.is_finished());
                for life in failed {
                    life.end().await?;
                }
                return Err(error.context(cluster.logs()));
            }
        }
    }
    let (mut handshakes, mut documents, mut between) = (0, 0, 0);
    let renewals: Vec<_> = lives
        .iter()
        .map(|life| life.renewals.load(Ordering::Relaxed))
        .collect();
    for life in lives {
        let lived = life.end().await?;
        handshakes += lived.handshakes;
        documents += lived.documents.len();
        for document in &lived.documents {
            for gone in tainted.iter().filter(|gone| gone.root == document.root) {
                ensure!(
                    document.asked_at < gone.dropped_at,
                    "node {} issued of an authority that it had dropped",
                    document.node
                );
                between += usize::from(document.asked_at > gone.tainted_at);
            }
        }
    }
    ensure!(renewals.iter().all(|n| *n == tainted.len()), "{renewals:?}");
    println!(
        "{handshakes} handshakes, 0 failed; {documents} documents, 0 of a tainted authority after its intermediates were dropped, {between} before; renewals by agent {renewals:?}"
    );
    Ok(())
}

/// A root, when it was tainted and when every node had dropped its intermediate of it.
struct Gone {
    root: Vec<u8>,
    tainted_at: Instant,
    dropped_at: Instant,
}

/// Another authority takes over, through another node at each step and without a pause, and the
/// one before is tainted and revoked.
#[expect(clippy::print_stdout, reason = "tests print what they measured")]
async fn rotate(
    cluster: &Cluster,
    nodes: &[Node],
    round: usize,
    lives: &[Life],
) -> anyhow::Result<Gone> {
    let node = |step: usize| &nodes[(round + step) % nodes.len()];
    let before: BTreeSet<_> = bundle_roots(node(0)).await?.into_iter().collect();
    let root = before.iter().next().context("a root")?.clone();
    ensure!(before.len() == 1, "{} roots", before.len());
    let shown = cluster.json(node(0), &["localauthority", "x509", "show"])?;
    let old = shown["active"]["authority_id"].as_str().context("an id")?;
    let step = |at: usize, name: &str, id: &str| cluster.authority(node(at), "x509", name, id);
    let renewed: Vec<_> = lives
        .iter()
        .map(|life| life.renewals.load(Ordering::Relaxed) + 1)
        .collect();

    until("SVIDs of another time", lives, |life| {
        life.svid_age() > SURELY_LATER
    })
    .await?;
    let new = step(0, "prepare", "")?;
    step(1, "activate", &new)?;
    let began = Instant::now();
    step(2, "taint", old)?;
    let tainted_at = Instant::now();
    for node in nodes {
        until_dropped(node, old).await?;
    }
    let dropped_at = Instant::now();
    let roots = bundle_roots(node(0)).await?;
    let new_root = roots.into_iter().find(|der| *der != root);
    let trust = Trust {
        roots: vec![new_root.context("another root")?],
        ..cluster.trust()?
    };
    for node in nodes {
        eventually("a server SVID of the new authority", LIMIT, || async {
            connect(&node.api, &trust, None, None).await.map(Some)
        })
        .await?;
    }
    let shown_after = began.elapsed();
    until("agents renew", lives, |life| {
        let of = lives.iter().position(|l| std::ptr::eq(l, life));
        of.is_some_and(|of| life.renewals.load(Ordering::Relaxed) >= renewed[of])
    })
    .await?;
    let renewed_after = began.elapsed();
    // Without -force: not before nobody holds anything of it.
    eventually("nobody holds documents of it", LIMIT, || {
        let revoked = step(0, "revoke", old);
        async { revoked.map(Some) }
    })
    .await?;
    let revoked_after = began.elapsed();
    for node in nodes {
        ensure!(
            bundle_roots(node).await? == trust.roots,
            "it is still there"
        );
    }
    // Everybody goes on with what is left, after another look at the bundle.
    let seen: Vec<_> = lives
        .iter()
        .map(|life| life.rounds.load(Ordering::Relaxed))
        .collect();
    until("agents go on", lives, |life| {
        let of = lives.iter().position(|l| std::ptr::eq(l, life));
        of.is_some_and(|of| life.rounds.load(Ordering::Relaxed) >= seen[of] + 2 * nodes.len())
    })
    .await?;
    println!(
        "intermediates dropped after {} ms, server SVIDs of the new authority after {} ms, agents renewed after {} ms, revoked after {} ms",
        dropped_at.duration_since(began).as_millis(),
        shown_after.as_millis(),
        renewed_after.as_millis(),
        revoked_after.as_millis()
    );
    Ok(Gone {
        root,
        tainted_at,
        dropped_at,
    })
}
