//! Who may hold documents of an authority, on clusters of real processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::localauthority::v1 as api;
use chancery_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, eventually, text};
use chancery_tests::tls::{Trust, connect_admin};
use serde_json::Value;

const STOP: i32 = 19;
const CONTINUE: i32 = 18;
const KILL: i32 = 9;

/// Runs a verb that must succeed; what it prints.
fn run(cluster: &Cluster, node: &Node, args: &[&str]) -> anyhow::Result<String> {
    let output = cluster.cli(node, args)?;
    ensure!(output.status.success(), "{args:?}: {}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a verb that must be refused; what it says.
fn refused(cluster: &Cluster, node: &Node, args: &[&str]) -> anyhow::Result<String> {
    let output = cluster.cli(node, args)?;
    ensure!(!output.status.success(), "{args:?}: {}", text(&output));
    Ok(String::from_utf8(output.stderr)?)
}

fn json(cluster: &Cluster, node: &Node, args: &[&str]) -> anyhow::Result<Value> {
    let args = [args, &["-output", "json"]].concat();
    Ok(serde_json::from_str(&run(cluster, node, &args)?)?)
}

/// What `show` says of holders.
struct Shown {
    active: String,
    old: Option<String>,
    holders: BTreeMap<String, (u64, bool)>,
    unheard: Vec<String>,
}

impl Shown {
    /// Holders of an authority, by number, and whether there may be unknown ones.
    fn of(&self, authority_id: &str) -> (u64, bool) {
        self.holders.get(authority_id).copied().unwrap_or_default()
    }
}

fn show(cluster: &Cluster, node: &Node, kind: &str) -> anyhow::Result<Shown> {
    let told = json(cluster, node, &["localauthority", kind, "show"])?;
    let id = |which: &str| told[which]["authority_id"].as_str().map(str::to_owned);
    let all = told["holders"]["authorities"].as_array();
    let one = |of: &Value| {
        let count = of["holders"].as_str()?.parse().ok()?;
        let id = of["authority_id"].as_str()?.to_owned();
        Some((id, (count, of["unnamed"].as_bool()?)))
    };
    let unheard = told["holders"]["unheard"].as_array();
    Ok(Shown {
        active: id("active").context("no active authority")?,
        old: id("old"),
        holders: all.into_iter().flatten().filter_map(one).collect(),
        unheard: unheard
            .into_iter()
            .flatten()
            .filter_map(|node| node.as_str().map(str::to_owned))
            .collect(),
    })
}

/// Prepares and activates the next authority; the bundle of then.
async fn rotate(cluster: &Cluster, node: &Node, kind: &str) -> anyhow::Result<Trust> {
    let told = json(cluster, node, &["localauthority", kind, "prepare"])?;
    let id = told["prepared_authority"]["authority_id"].as_str();
    let id = id.context("no prepared authority")?;
    run(
        cluster,
        node,
        &["localauthority", kind, "activate", "-authorityID", id],
    )?;
    trust(cluster, node).await
}

async fn trust(cluster: &Cluster, node: &Node) -> anyhow::Result<Trust> {
    let mut client = BundleClient::new(connect_admin(&node.admin_socket).await?);
    let request = GetBundleRequest { output_mask: None };
    let bundle = client.get_bundle(request).await?.into_inner();
    Ok(Trust {
        roots: bundle
            .x509_authorities
            .into_iter()
            .map(|a| a.asn1)
            .collect(),
        ..cluster.trust()?
    })
}

async fn attest(cluster: &Cluster, node: &Node) -> anyhow::Result<Agent> {
    let token = cluster.token(node).await?;
    Agent::attest(&node.api, &trust(cluster, node).await?, &token, None).await
}

/// Makes entries for the agent's workloads; their ids.
async fn workloads(
    cluster: &Cluster,
    node: &Node,
    agent: &Agent,
    paths: &[&str],
) -> anyhow::Result<Vec<String>> {
    let entries = paths.iter().map(|path| cluster.entry(agent.path(), path));
    cluster.create(node, entries.collect()).await?;
    let channel = agent.connect(&node.api).await?;
    let entries = agent.sync(channel).await?;
    Ok(entries.into_iter().map(|entry| entry.id).collect())
}

async fn sign(agent: &Agent, node: &Node, ids: &[String]) -> anyhow::Result<()> {
    let signed = agent.sign(agent.connect(&node.api).await?, ids).await?;
    for svid in signed {
        svid.map_err(|status| anyhow::anyhow!("not signed: {status:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_revoked_when_nobody_holds_anything_of_it() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let (here, there) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    let first = show(&cluster, there, "x509")?.active;
    ensure!(show(&cluster, there, "x509")?.of(&first) == (0, false));
    let agent = attest(&cluster, here).await?;
    let ids = workloads(&cluster, here, &agent, &["/one", "/two"]).await?;
    ensure!(ids.len() == 2);
    sign(&agent, here, &ids).await?;
    ensure!(show(&cluster, there, "x509")?.of(&first) == (1, false));

    let revoke = |id| ["localauthority", "x509", "revoke", "-authorityID", id];
    let taint = |id| ["localauthority", "x509", "taint", "-authorityID", id];
    let mut agent = agent;
    agent.trust = rotate(&cluster, there, "x509").await?;
    let shown = show(&cluster, there, "x509")?;
    ensure!(shown.old.as_deref() == Some(&*first) && shown.of(&first) == (1, false));
    let pretty = run(&cluster, there, &["localauthority", "x509", "show"])?;
    ensure!(pretty.contains("  1 holder left, until 20"), "{pretty}");
    run(&cluster, here, &taint(&first))?;
    let why = refused(&cluster, there, &revoke(&first))?;
    ensure!(
        why.contains("1 holder (spiffe://example.org/spire/agent/join_token/")
            && why.contains("still has documents of authority")
            && why.contains("-force"),
        "{why}"
    );

    // One after the other, the last one ends it.
    sign(&agent, here, &ids[..1]).await?;
    let agent = agent.renew(agent.connect(&here.api).await?).await?;
    ensure!(show(&cluster, there, "x509")?.of(&first) == (1, false));
    refused(&cluster, there, &revoke(&first))?;
    sign(&agent, here, &ids).await?;
    eventually("nobody left", Duration::from_secs(10), || async {
        let shown = show(&cluster, there, "x509")?;
        Ok((shown.of(&first) == (0, false)).then_some(()))
    })
    .await?;
    let pretty = run(&cluster, there, &["localauthority", "x509", "show"])?;
    ensure!(pretty.contains("  No holders left"), "{pretty}");
    run(&cluster, there, &revoke(&first))?;

    // Who must go goes.
    let second = show(&cluster, here, "x509")?.active;
    rotate(&cluster, here, "x509").await?;
    run(&cluster, here, &taint(&second))?;
    refused(&cluster, here, &revoke(&second))?;
    run(
        &cluster,
        here,
        &[&revoke(&second)[..], &["-force"]].concat(),
    )?;

    // The API asks nobody.
    let third = show(&cluster, here, "x509")?.active;
    let agent = attest(&cluster, here).await?;
    rotate(&cluster, here, "x509").await?;
    run(&cluster, here, &taint(&third))?;
    refused(&cluster, here, &revoke(&third))?;
    ensure!(show(&cluster, here, "x509")?.of(&third) == (1, false));
    let mut client = LocalAuthorityClient::new(connect_admin(&here.admin_socket).await?);
    let request = api::RevokeX509AuthorityRequest {
        authority_id: third.clone(),
    };
    client.revoke_x509_authority(request).await?;
    drop(agent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_handed_out_another_one_replaces() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let [here, there, third] = cluster.nodes() else {
        anyhow::bail!("not three nodes");
    };
    let first = show(&cluster, here, "x509")?.active;
    let jwt = show(&cluster, here, "jwt")?.active;
    let agent = attest(&cluster, here).await?;
    let ids = workloads(&cluster, here, &agent, &["/one"]).await?;
    sign(&agent, here, &ids).await?;
    let channel = agent.connect(&third.api).await?;
    for which in ["first", "second"] {
        let begun = Instant::now();
        let signed = agent.sign(channel.clone(), &ids).await?;
        println!("the {which} document of a node: {:?}", begun.elapsed());
        ensure!(signed.iter().all(Result::is_ok));
    }
    agent
        .jwt(agent.connect(&here.api).await?, &ids[0], "somebody")
        .await?;
    ensure!(show(&cluster, third, "jwt")?.of(&jwt) == (1, false));
    let mut agent = agent;
    agent.trust = rotate(&cluster, there, "x509").await?;
    // The clocks of nodes may differ: what follows within 21 s is not surely later.
    let begun = Instant::now();
    eventually("nobody left", Duration::from_secs(60), || {
        let (agent, ids, cluster, first) = (&agent, &ids, &cluster, &first);
        async move {
            sign(agent, there, ids).await?;
            agent.renew(agent.connect(&there.api).await?).await?;
            let shown = show(cluster, third, "x509")?;
            Ok((shown.of(first) == (0, false)).then_some(()))
        }
    })
    .await?;
    println!("replaced at another node after {:?}", begun.elapsed());
    // Whoever took JWT-SVIDs has them to their end.
    rotate(&cluster, there, "jwt").await?;
    agent
        .jwt(agent.connect(&here.api).await?, &ids[0], "somebody")
        .await?;
    let why = refused(
        &cluster,
        third,
        &["localauthority", "jwt", "revoke", "-authorityID", &jwt],
    )?;
    ensure!(why.contains("still has documents of authority"), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_handed_out_without_a_quorum_is_not_forgotten() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    let [here, there, alone] = &nodes[..] else {
        anyhow::bail!("not three nodes");
    };
    let first = show(&cluster, here, "x509")?.active;
    let agent = attest(&cluster, here).await?;
    let ids = workloads(&cluster, here, &agent, &["/one"]).await?;
    // Its connection authenticates while there is still somebody to ask.
    sign(&agent, here, &ids).await?;
    ensure!(show(&cluster, alone, "x509")?.of(&first) == (1, false));
    for other in [here, there] {
        cluster.signal(&other.id, STOP)?;
    }
    let outcome = async {
        let begun = Instant::now();
        // The first of this node for this agent.
        sign(&agent, alone, &ids).await?;
        println!(
            "without a quorum the first document took {:?}",
            begun.elapsed()
        );
        let begun = Instant::now();
        sign(&agent, alone, &ids).await?;
        println!("the second one {:?}", begun.elapsed());
        anyhow::Ok(())
    }
    .await;
    cluster.signal(&alone.id, KILL)?;
    for other in [here, there] {
        cluster.signal(&other.id, CONTINUE)?;
    }
    outcome?;
    let unheard = eventually("a quorum", Duration::from_secs(30), || async {
        let shown = show(&cluster, here, "x509")?;
        Ok((shown.of(&first).0 == 1 && shown.unheard.len() == 1).then_some(shown.unheard))
    })
    .await?;
    ensure!(unheard == [alone.id.clone()], "{unheard:?}");
    cluster.restart(&alone.id, &[])?;
    let told = eventually("what it owed", Duration::from_secs(30), || async {
        let shown = show(&cluster, here, "x509")?;
        Ok(shown.unheard.is_empty().then_some(shown.of(&first)))
    })
    .await?;
    ensure!(told == (1, true), "{told:?}");
    Ok(())
}
