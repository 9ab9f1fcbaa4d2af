//! Clocks lie: on a follower, on the leader, on all nodes at once.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, eventually, text};
use serde_json::Value;
use tonic::Code;

const HOUR_MS: i64 = 3_600_000;
const LIMIT: Duration = Duration::from_secs(30);

/// A cluster whose nodes' clocks a test sets.
struct Clocks {
    dir: tempfile::TempDir,
}

impl Clocks {
    fn start() -> anyhow::Result<(Self, Cluster)> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().display().to_string();
        let cluster = Cluster::start(&Options {
            keys: "memory",
            env: &[("CHANCERY_FAULT_CLOCK_DIR", &path)],
            ..Options::default()
        })?;
        Ok((Self { dir }, cluster))
    }

    fn set(&self, node: &Node, ahead_ms: i64) -> anyhow::Result<()> {
        self.write(&node.pid.to_string(), ahead_ms)
    }

    fn set_all(&self, ahead_ms: i64) -> anyhow::Result<()> {
        self.write("all", ahead_ms)
    }

    /// In one step: half a number must not be read.
    fn write(&self, name: &str, ahead_ms: i64) -> anyhow::Result<()> {
        let new = self.dir.path().join("new");
        std::fs::write(&new, ahead_ms.to_string())?;
        Ok(std::fs::rename(new, self.dir.path().join(name))?)
    }
}

fn own<'a>(status: &'a Value, node: &Node) -> anyhow::Result<&'a Value> {
    let members = status["members"].as_array().context("members")?;
    let own = members.iter().find(|m| m["id"] == node.id.as_str());
    own.context("itself")
}

/// Waits until `node` says of itself that it can issue, or why not.
async fn issues(cluster: &Cluster, node: &Node, why_not: Option<&str>) -> anyhow::Result<()> {
    eventually("the node's judgement of itself", LIMIT, || async {
        let status = cluster.status(node)?;
        let said = own(&status, node)?["not_ready"]
            .as_str()
            .unwrap_or_default();
        Ok(match why_not {
            None => said.is_empty(),
            Some(why) => said.contains(why),
        }
        .then_some(()))
    })
    .await
}

/// Milliseconds that the cluster's time is ahead of the right one.
fn cluster_ahead_ms(cluster: &Cluster, node: &Node) -> anyhow::Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let clock = cluster.status(node)?["cluster_clock_ms"].as_i64();
    Ok(clock.context("a clock")? - i64::try_from(now.as_millis())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_off_does_not_sign_and_the_others_do() -> anyhow::Result<()> {
    let (clocks, cluster) = Clocks::start()?;
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let off = cluster.nodes().iter().find(|n| n.id != leader);
    let off = off.context("a follower")?;
    let right = cluster.node(&leader)?;
    let token = cluster.token(right).await?;
    let agent = Agent::attest(&right.api, &cluster.trust()?, &token, None).await?;
    let draft = cluster.entry(agent.path(), "/web");
    let created = cluster.create(right, vec![draft]).await?;
    let ids = [created[0].1.clone().context("an entry")?.id];
    // Behind: what it signs would have ended early; its certificates still verify here. Ahead: more
    // than the ten seconds that are allowed, by what a busy machine makes uncertain.
    for (ahead_ms, why) in [
        (-HOUR_MS, "s behind those of the majority"),
        (15_000, "s ahead of those of the majority"),
    ] {
        clocks.set(off, ahead_ms)?;
        issues(&cluster, off, Some(why)).await?;
        let answer = match agent.connect(&off.api).await {
            // To a clock an hour behind the agent's certificate is of the future.
            Err(_) if ahead_ms < 0 => None,
            Err(error) => return Err(error.context("connecting to the node that is ahead")),
            Ok(channel) => Some(agent.sign(channel, &ids).await),
        };
        match answer {
            None => {}
            Some(Err(_)) if ahead_ms < 0 => {}
            Some(Err(status)) => ensure!(status.code() == Code::Unavailable, "{status:?}"),
            Some(Ok(_)) => anyhow::bail!("it signed while {ahead_ms} ms ahead"),
        }
        let signed = agent.sign(agent.connect(&right.api).await?, &ids).await;
        let signed = signed.context("at the leader")?;
        ensure!(signed.iter().all(Result::is_ok), "the leader signs");
    }
    clocks.set(off, 0)?;
    issues(&cluster, off, None).await?;
    let signed = agent.sign(agent.connect(&off.api).await?, &ids).await;
    let signed = signed.context("at the node whose clock is right again")?;
    ensure!(signed.iter().all(Result::is_ok), "it signs again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_a_year_ahead_hands_over_and_takes_no_time_into_the_log() -> anyhow::Result<()> {
    let (clocks, cluster) = Clocks::start()?;
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let off = cluster.node(&leader)?.clone();
    let others: Vec<&Node> = cluster.nodes().iter().filter(|n| n.id != leader).collect();
    clocks.set(&off, 365 * 24 * HOUR_MS)?;
    for number in 0..20 {
        let draft = cluster.entry("/p", &format!("/during/{number}"));
        eventually("a write", LIMIT, || async {
            let created = cluster.create(others[0], vec![draft.clone()]).await?;
            Ok((created[0].0.code == Code::Ok as i32).then_some(()))
        })
        .await?;
    }
    eventually("another leader", LIMIT, || async {
        let now = cluster.leader(others[0]).await?;
        Ok((now != leader).then_some(()))
    })
    .await?;
    let ahead = cluster_ahead_ms(&cluster, others[0])?;
    ensure!(ahead < 5_000, "the cluster is {ahead} ms ahead");
    // The log goes on by right clocks.
    cluster.token(others[1]).await?;
    let ahead = cluster_ahead_ms(&cluster, others[1])?;
    ensure!(ahead.abs() < 10_000, "the cluster is {ahead} ms ahead");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_that_all_clocks_agree_on_is_believed_and_can_be_taken_back() -> anyhow::Result<()>
{
    let (clocks, cluster) = Clocks::start()?;
    let first = &cluster.nodes()[0];
    let month_ms = 30 * 24 * HOUR_MS;
    clocks.set_all(month_ms)?;
    eventually("the new time", LIMIT, || async {
        cluster.token(first).await?;
        let ahead = cluster_ahead_ms(&cluster, first)?;
        Ok(((ahead - month_ms).abs() < 10_000).then_some(()))
    })
    .await?;
    clocks.set_all(0)?;
    eventually("advice", LIMIT, || async {
        let advice = cluster.status(first)?["advice"].to_string();
        Ok(advice
            .contains("`chancery cluster clock set` sets it")
            .then_some(()))
    })
    .await?;
    let set = |flags: &[&str]| {
        let line = [["cluster", "clock", "set"].as_slice(), flags].concat();
        cluster.cli(first, &line)
    };
    let asked = set(&[])?;
    ensure!(
        text(&asked).starts_with("Would set the cluster's time"),
        "{}",
        text(&asked)
    );
    ensure!(cluster_ahead_ms(&cluster, first)? > HOUR_MS, "only said");
    eventually("the clock is set", LIMIT, || async {
        let done = set(&["-yes"])?;
        ensure!(done.status.success(), "{}", text(&done));
        Ok(Some(()))
    })
    .await?;
    cluster.token(first).await?;
    let ahead = cluster_ahead_ms(&cluster, first)?;
    ensure!(ahead.abs() < 10_000, "the cluster is {ahead} ms ahead");
    Ok(())
}
