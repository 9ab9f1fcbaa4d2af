//! From shared authorities to each node's own, and back, on clusters of real processes.

use std::collections::BTreeSet;

use chancery_tests::token_server::TokenServer;
use serde_json::Value;

use super::*;

const KILL: i32 = 9;
/// Both kinds of authority.
const KINDS: [&str; 2] = ["x509", "jwt"];

/// Has the scope become another, and waits for it to be done.
fn migrate(cluster: &Cluster, node: &Node, words: &[&str]) -> anyhow::Result<String> {
    let output = cluster.cli(node, &[&["localauthority", "migrate"], words].concat())?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// Owners of the authorities of a kind and status; empty for those that nodes share.
fn owners(status: &Value, kind: &str, is: &str) -> anyhow::Result<Vec<String>> {
    let all = status["authorities"].as_array().context("authorities")?;
    let mut owners: Vec<_> = all
        .iter()
        .filter(|a| a["kind"] == kind && a["status"] == is)
        .map(|a| a["node_id"].as_str().unwrap_or_default().to_owned())
        .collect();
    owners.sort();
    Ok(owners)
}

/// The authority that a node says signs on it.
fn active(cluster: &Cluster, node: &Node, kind: &str) -> anyhow::Result<String> {
    let words = ["localauthority", kind, "show", "-output", "json"];
    let shown = cluster.cli(node, &words)?;
    ensure!(shown.status.success(), "{}", text(&shown));
    let shown: Value = serde_json::from_slice(&shown.stdout)?;
    let id = shown["active"]["authority_id"].as_str();
    Ok(id.context("an active authority")?.to_owned())
}

/// Gives a node other `[keys]`: the lines of those that it has end with that of the key `last`.
fn set_keys(node: &Node, last: &str, keys: &str) -> anyhow::Result<()> {
    let config = std::fs::read_to_string(&node.config)?;
    let (before, had) = config.split_once("[keys]").context("[keys]")?;
    let (_, after) = had.split_once(last).context("the last key")?;
    let (_, after) = after.split_once('\n').context("the end of its line")?;
    Ok(std::fs::write(
        &node.config,
        format!("{before}{keys}{after}"),
    )?)
}

/// An agent that has asked for the bundle since.
async fn informed(agent: &Agent, cluster: &Cluster, node: &Node) -> anyhow::Result<Agent> {
    let mut agent = agent.clone();
    let channel = connect(&node.api, &cluster.trust_of(node)?, None, None).await?;
    agent.follow_bundle(channel).await?;
    Ok(agent)
}

/// Every node tells of the authorities that it is to sign with: as many as `count`.
fn judge_active(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    for kind in KINDS {
        let told: anyhow::Result<BTreeSet<_>> = cluster
            .nodes()
            .iter()
            .map(|node| active(cluster, node, kind))
            .collect();
        let told = told?;
        ensure!(told.len() == count, "{kind}: {told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stop_to_share_authorities_and_share_again_without_a_failure() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    ensure!(migrate(&cluster, &nodes[0], &[])? == "Authorities are shared.\n");
    judge_active(&cluster, 1)?;
    let first = active(&cluster, &nodes[0], "x509")?;
    let (agent, entry) = agent_with_entry(&cluster).await?;

    let load = Load::start(agent, nodes.clone(), entry);
    let said = migrate(&cluster, &nodes[1], &["per-node"])?;
    ensure!(
        said.starts_with("Authorities were shared and are to be per-node.\n")
            && said.contains("Done: every node signs with authorities of its own.\n"),
        "{said}"
    );
    judge_active(&cluster, 3)?;
    for node in &nodes {
        let status = cluster.status(node)?;
        for kind in KINDS {
            ensure!(
                owners(&status, kind, "active")? == ["1", "2", "3"],
                "{status}"
            );
            ensure!(owners(&status, kind, "old")? == [""], "{status}");
        }
    }
    let [handshakes, svids, _] = load.end().await?;
    println!("to each node's own: {handshakes} handshakes, {svids} SVIDs, 0 failed");
    // What all shared concerns every node: any of them takes it away, once none shows it.
    for step in ["taint", "revoke"] {
        let force: &[&str] = if step == "revoke" { &["-force"] } else { &[] };
        let words = ["localauthority", "x509", step, "-authorityID", &first];
        let done = cluster.cli(&nodes[2], &[&words, force].concat())?;
        ensure!(done.status.success(), "{}", text(&done));
    }

    // Back, and the node that leads is killed on the way.
    let led = cluster.leader(&nodes[0]).await?;
    let others: Vec<_> = nodes.iter().filter(|n| n.id != led).cloned().collect();
    // The first agent's SVID was of the authority that is revoked.
    let (agent, entry) = agent_with_entry_of(&cluster, &others[0]).await?;
    for node in &others {
        await_entry(&agent, node, &entry).await?;
    }
    let load = Load::start(agent, others.clone(), entry);
    let said = migrate(&cluster, &others[0], &["shared", "-wait", "0"])?;
    ensure!(!said.contains("Done"), "{said}");
    cluster.signal(&led, KILL)?;
    cluster.restart(&led, &[])?;
    let said = migrate(&cluster, &others[1], &["shared"])?;
    ensure!(
        said.starts_with("Authorities are to be shared already.\n")
            && said.contains("Done: every node signs with the shared authorities.\n"),
        "{said}"
    );
    judge_active(&cluster, 1)?;
    let status = cluster.status(&others[0])?;
    for kind in KINDS {
        ensure!(owners(&status, kind, "active")? == [""], "{status}");
        ensure!(owners(&status, kind, "prepared")?.is_empty(), "{status}");
    }
    let [handshakes, svids, _] = load.end().await?;
    println!("to shared ones, the leader killed: {handshakes} handshakes, {svids} SVIDs, 0 failed");
    let log = std::fs::read_to_string(&nodes[1].log)?;
    ensure!(log.contains("authority_scope_set"), "it is audited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_move_from_disks_into_a_token_and_are_shared_then() -> anyhow::Result<()> {
    let token = TokenServer::start()?;
    let mut cluster = Cluster::start(&Options {
        keys: "disk",
        ..Options::default()
    })?;
    let nodes = cluster.nodes().to_vec();
    judge_active(&cluster, 3)?;
    let refused = cluster.cli(&nodes[0], &["localauthority", "migrate", "shared"])?;
    ensure!(!refused.status.success());
    let why = text(&refused);
    ensure!(
        why.contains("node 1 has them in its data directory, node 2 has") && why.contains("[keys]"),
        "{why}"
    );

    let (variable, address) = token.environment();
    for node in &nodes {
        set_keys(node, "passphrase_file", &token.keys()?)?;
        cluster.restart(&node.id, &[(variable, &address)])?;
        // Mixed: some have their keys on disk and some in the token, and all sign.
        judge_active(&cluster, 3)?;
        let (agent, entry) = agent_with_entry_of(&cluster, node).await?;
        for node in &nodes {
            eventually("an SVID of every node", LIMIT, || async {
                let agent = informed(&agent, &cluster, node).await?;
                issue(&agent, node, &entry).await.map(Some)
            })
            .await?;
        }
    }
    let said = migrate(&cluster, &nodes[0], &["shared"])?;
    ensure!(
        said.contains("Done: every node signs with the shared"),
        "{said}"
    );
    judge_active(&cluster, 1)?;
    let status = cluster.status(&nodes[0])?;
    for kind in KINDS {
        ensure!(owners(&status, kind, "active")? == [""], "{status}");
        // Three of files, and three of the token.
        ensure!(owners(&status, kind, "old")?.len() == 6, "{status}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_may_begin_with_each_nodes_own_in_a_token() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options {
        extra: "\n[issuance]\nauthority_scope = \"per-node\"\n",
        ..Options::default()
    })?;
    judge_active(&cluster, 3)?;
    let node = &cluster.nodes()[0];
    let status = cluster.status(node)?;
    ensure!(status["authority_scope"] == "per-node", "{status}");
    ensure!(
        owners(&status, "x509", "active")? == ["1", "2", "3"],
        "{status}"
    );
    let told = text(&cluster.cli(node, &["cluster", "status"])?);
    ensure!(
        told.contains("Authorities   : per-node: each node has its own"),
        "{told}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_without_the_token_signs_by_what_others_certify() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let id = cluster.add(&["--learner"])?;
    let learner = cluster.node(&id)?.clone();
    set_keys(&learner, "pin_file", "[keys]\nbackend = \"memory\"\n")?;
    cluster.restart(&id, &[])?;
    let (agent, entry) = agent_with_entry(&cluster).await?;
    let svid = issue(&agent, &learner, &entry).await?;
    ensure!(svid.chain.len() == 2, "{}", svid.chain.len());
    judge_intermediate(&svid.chain[1])?;
    ensure!(
        issue(&agent, &cluster.nodes()[0], &entry)
            .await?
            .chain
            .len()
            == 1
    );

    // What takes the key itself is not done, and said.
    let channel = agent.connect(&learner.api).await?;
    let jwt = agent.jwt(channel, &entry, "someone").await;
    let refused = jwt.expect_err("a JWT-SVID without the token");
    ensure!(refused.code() == tonic::Code::Unavailable, "{refused}");
    let first = cluster.nodes()[0].clone();
    eventually("the others know", LIMIT, || async {
        let told = text(&cluster.cli(&first, &["cluster", "status"])?);
        Ok(told.contains("it has no token: JWT-SVIDs").then_some(()))
    })
    .await?;

    // A rotation waits for its intermediate of the next one, and for no JWT key of its.
    let load = Load::start_x509(agent.clone(), vec![learner.clone()], entry.clone());
    for kind in KINDS {
        let prepared = cluster.cli(
            &first,
            &["localauthority", kind, "prepare", "-output", "json"],
        )?;
        ensure!(prepared.status.success(), "{}", text(&prepared));
        let prepared: Value = serde_json::from_slice(&prepared.stdout)?;
        let next = prepared["prepared_authority"]["authority_id"].as_str();
        let next = next.context("an id")?;
        let words = ["localauthority", kind, "activate", "-authorityID", next];
        let activated = cluster.cli(&first, &words)?;
        ensure!(activated.status.success(), "{}", text(&activated));
        let status = cluster.status(&first)?;
        let all = status["authorities"].as_array().context("authorities")?;
        let active = all
            .iter()
            .any(|a| a["authority_id"] == next && a["status"] == "active");
        ensure!(active, "{status}");
    }
    let root = |svid: &Svid| -> anyhow::Result<Vec<u8>> {
        let der = svid.chain.last().context("a chain")?;
        let (_, certificate) = X509Certificate::from_der(der)?;
        Ok(certificate.issuer().as_raw().to_vec())
    };
    let before = root(&svid)?;
    eventually("it signs under the next one", LIMIT, || async {
        let agent = informed(&agent, &cluster, &learner).await?;
        let svid = issue(&agent, &learner, &entry).await?;
        Ok((root(&svid)? != before).then_some(()))
    })
    .await?;
    let [_, _, by_intermediates] = load.end().await?;
    ensure!(by_intermediates > 0);

    // Whoever certified one says so.
    let of_learner = format!("node={id} ");
    let mut audited = 0;
    for node in &cluster.nodes()[..3] {
        let log = std::fs::read_to_string(&node.log)?;
        let told = log.lines().filter(|l| l.contains("intermediate_certified"));
        audited += told.filter(|line| line.contains(&of_learner)).count();
    }
    ensure!(audited >= 2, "{audited} audit events");
    Ok(())
}
