//! Issuance modes on clusters of real processes, keys in SoftHSM.

#[path = "issuance/outage.rs"]
mod outage;
#[path = "issuance/scope.rs"]
mod scope;
#[path = "issuance/taint.rs"]
mod taint;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::debug::v1::GetInfoRequest;
use chancery_api::spire::api::server::debug::v1::debug_client::DebugClient;
use chancery_identity::x509_svid::{Purpose, verify_chain};
use chancery_tests::agent::{Agent, Svid};
use chancery_tests::cluster::{Cluster, Node, Options, count, eventually, text};
use chancery_tests::tls::{Trust, connect, connect_admin};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const LIMIT: Duration = Duration::from_secs(120);
const WORKLOAD: &str = "/workload";

fn now() -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_secs())?)
}

/// Verifies an SVID as a client of it does: what it came with, and the roots alone.
fn verify(svid: &Svid, trust: &Trust) -> anyhow::Result<()> {
    let chain: Vec<_> = svid
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    for purpose in [Purpose::Client, Purpose::Server] {
        let facts = verify_chain(&chain, &trust.trust_domain, &trust.roots, purpose, now()?)?;
        ensure!(facts.id.to_string() == svid.id, "{}", facts.id);
    }
    Ok(())
}

/// Sets the mode through a node, or reads it.
fn mode(cluster: &Cluster, node: &Node, words: &[&str]) -> anyhow::Result<String> {
    let output = cluster.cli(node, &[&["issuance", "mode"], words].concat())?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Certificates of the server SVID that a node shows, its root included.
async fn shown(node: &Node) -> anyhow::Result<usize> {
    let mut client = DebugClient::new(connect_admin(&node.admin_socket).await?);
    let info = client.get_info(GetInfoRequest {}).await?.into_inner();
    Ok(info.svid_chain.len())
}

/// An agent and the id of the entry of its one workload, which every node knows.
async fn agent_with_entry(cluster: &Cluster) -> anyhow::Result<(Agent, String)> {
    let (agent, id) = agent_with_entry_of(cluster, &cluster.nodes()[0]).await?;
    for node in cluster.nodes() {
        await_entry(&agent, node, &id).await?;
    }
    Ok((agent, id))
}

/// Waits until a node knows an entry of the agent's.
async fn await_entry(agent: &Agent, node: &Node, id: &str) -> anyhow::Result<()> {
    eventually("the entry on every node", LIMIT, || async {
        let channel = agent.connect(&node.api).await?;
        let entries = agent.sync(channel).await?;
        Ok(entries.iter().any(|e| e.id == id).then_some(()))
    })
    .await
}

/// The same, attested by a node.
async fn agent_with_entry_of(cluster: &Cluster, node: &Node) -> anyhow::Result<(Agent, String)> {
    let token = cluster.token(node).await?;
    let trust = cluster.trust_of(node)?;
    let agent = Agent::attest(&node.api, &trust, &token, None).await?;
    let parent = agent.svid.id.trim_start_matches("spiffe://example.org");
    let entry = cluster.entry(parent, WORKLOAD);
    let (status, entry) = cluster
        .create(node, vec![entry])
        .await?
        .pop()
        .context("an answer")?;
    ensure!(status.code == 0, "{status:?}");
    Ok((agent, entry.context("an entry")?.id))
}

/// One SVID for the workload from a node, verified.
async fn issue(agent: &Agent, node: &Node, entry: &str) -> anyhow::Result<Svid> {
    let channel = agent.connect(&node.api).await?;
    let signed = agent.sign(channel, &[entry.to_owned()]).await?;
    let svid = signed.into_iter().next().context("an answer")?;
    let svid = svid.map_err(|status| anyhow::anyhow!("{} {}", status.code, status.message))?;
    verify(&svid, &agent.trust)?;
    Ok(svid)
}

/// Asks all nodes in turn, all the time: a handshake without a certificate, one with the agent's,
/// an X.509-SVID and a JWT-SVID. The agent follows the bundle. One thing that fails ends it.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<anyhow::Result<[usize; 3]>>,
}

impl Load {
    fn start(agent: Agent, nodes: Vec<Node>, entry: String) -> Self {
        Self::of(agent, nodes, entry, true)
    }

    /// Without JWT-SVIDs.
    fn start_x509(agent: Agent, nodes: Vec<Node>, entry: String) -> Self {
        Self::of(agent, nodes, entry, false)
    }

    fn of(mut agent: Agent, nodes: Vec<Node>, entry: String, with_jwt: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            // Handshakes, SVIDs of one certificate, SVIDs of two.
            let mut counts = [0; 3];
            let mut turn = 0;
            while !stopped.load(Ordering::Relaxed) {
                let node = &nodes[turn % nodes.len()];
                turn += 1;
                connect(&node.api, &agent.trust, None, None)
                    .await
                    .with_context(|| format!("handshake {turn} at node {}", node.id))?;
                let svid = issue(&agent, node, &entry)
                    .await
                    .with_context(|| format!("SVID {turn} at node {}", node.id))?;
                let channel = agent.connect(&node.api).await?;
                agent
                    .follow_bundle(channel.clone())
                    .await
                    .with_context(|| format!("bundle {turn} at node {}", node.id))?;
                if with_jwt {
                    agent
                        .jwt(channel, &entry, "someone")
                        .await
                        .with_context(|| format!("JWT-SVID {turn} at node {}", node.id))?;
                }
                counts[0] += 3;
                let certificates = svid.chain.len();
                ensure!((1..=2).contains(&certificates), "{certificates}");
                counts[certificates] += 1;
            }
            Ok(counts)
        });
        Self { stop, task }
    }

    async fn end(self) -> anyhow::Result<[usize; 3]> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// What the certificate of a node's intermediate must be.
fn judge_intermediate(der: &[u8]) -> anyhow::Result<()> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    let constraints = certificate.basic_constraints()?.context("constraints")?;
    ensure!(constraints.critical && constraints.value.ca);
    ensure!(constraints.value.path_len_constraint == Some(0));
    let usage = certificate.key_usage()?.context("a key usage")?;
    ensure!(
        usage.critical && usage.value.flags == 1 << 5,
        "certSign alone"
    );
    ensure!(certificate.name_constraints()?.is_none());
    let names = certificate.subject_alternative_name()?.context("a name")?;
    ensure!(names.value.general_names == [GeneralName::URI("spiffe://example.org")]);
    ensure!(certificate.extended_key_usage()?.is_none());
    let life = certificate.validity.not_after.timestamp() - now()?;
    ensure!(life > 0 && life <= 24 * 3_600, "it lives for {life} s more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_changes_under_load_and_nothing_fails() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    ensure!(mode(&cluster, &nodes[0], &[])? == "direct");
    let (agent, entry) = agent_with_entry(&cluster).await?;
    let load = Load::start(agent.clone(), nodes.clone(), entry.clone());
    // Another one renews its own SVID in each mode, and shows what it got to every node.
    let (mut renewing, its_entry) = agent_with_entry(&cluster).await?;
    for round in 0..count(2, 20) {
        for (name, certificates) in [("intermediate", 2), ("direct", 1)] {
            let said = mode(&cluster, &nodes[round % 3], &[name])?;
            ensure!(said.ends_with(&format!("is {name}.")), "{said}");
            for node in &nodes {
                eventually("each node follows", LIMIT, || async {
                    let root_too = certificates + 1;
                    Ok((shown(node).await? == root_too).then_some(()))
                })
                .await?;
                ensure!(mode(&cluster, node, &[])? == name);
                ensure!(cluster.status(node)?["issuance_mode"] == name);
                // Agents' SVIDs of either kind are let in by every node in either mode.
                for (agent, entry) in [(&agent, &entry), (&renewing, &its_entry)] {
                    let svid = issue(agent, node, entry).await?;
                    ensure!(svid.chain.len() == certificates, "{name}");
                    if let Some(intermediate) = svid.chain.get(1) {
                        judge_intermediate(intermediate)?;
                    }
                }
            }
            let channel = renewing.connect(&nodes[0].api).await?;
            renewing = renewing.renew(channel).await?;
            verify(&renewing.svid, &renewing.trust)?;
            ensure!(renewing.svid.chain.len() == certificates);
            for node in &nodes {
                issue(&renewing, node, &its_entry).await?;
            }
        }
    }
    let [handshakes, direct, by_intermediates] = load.end().await?;
    println!(
        "{handshakes} handshakes, {direct} SVIDs by authorities, {by_intermediates} by intermediates, 0 failed"
    );
    ensure!(
        direct > 0 && by_intermediates > 0,
        "both are seen under load"
    );
    let log = std::fs::read_to_string(&nodes[0].log)?;
    ensure!(log.contains("issuance_mode_set"), "it is audited");
    ensure!(log.contains("intermediate_certified"), "it is audited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_counts_when_the_cluster_is_founded_and_is_noted_later() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        nodes: 1,
        keys: "disk",
        extra: "\n[issuance]\nmode = \"intermediate\"\n",
        ..Options::default()
    })?;
    let node = cluster.nodes()[0].clone();
    ensure!(mode(&cluster, &node, &[])? == "intermediate");
    ensure!(shown(&node).await? == 3);
    let noted = "[issuance] mode is another than the cluster's";
    ensure!(!std::fs::read_to_string(&node.log)?.contains(noted));
    ensure!(
        mode(&cluster, &node, &["direct"])? == "The issuance mode was intermediate and is direct."
    );
    ensure!(mode(&cluster, &node, &["direct"])? == "The issuance mode is direct already.");
    cluster.restart(&node.id, &[])?;
    ensure!(mode(&cluster, &node, &[])? == "direct");
    eventually("the notice", LIMIT, || async {
        Ok(std::fs::read_to_string(&node.log)?
            .contains(noted)
            .then_some(()))
    })
    .await?;
    Ok(())
}
