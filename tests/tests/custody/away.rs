//! A token whose processes are stopped, or killed and started again, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::{Cluster, Node, count, eventually};
use chancery_tests::token_server::TokenServer;
use tokio::task::JoinSet;

use super::{cluster, csr, mint};

/// A call is given up after it. A stopped token makes calls hang.
const CALL: Duration = Duration::from_secs(2);
/// A signature that takes so long shows that the token hangs: made ones take milliseconds.
const HANGS: Duration = Duration::from_millis(500);
/// What is measured takes well under a second.
const LIMIT: Duration = Duration::from_secs(20);

/// Whether a node signs now, and within what time it said so.
async fn signs(node: &Node, csr: &[u8], patience: Duration) -> bool {
    matches!(
        tokio::time::timeout(patience, mint(node, csr.to_vec())).await,
        Ok(Ok(()))
    )
}

/// The time until a node signs, or no longer does.
async fn until(node: &Node, csr: &[u8], wanted: bool, since: Instant) -> anyhow::Result<Duration> {
    let patience = if wanted { CALL } else { HANGS };
    while signs(node, csr, patience).await != wanted {
        ensure!(
            since.elapsed() < LIMIT,
            "node {}: signing is not {wanted} within {LIMIT:?}",
            node.id
        );
        tokio::task::yield_now().await;
    }
    Ok(since.elapsed())
}

/// What must go on without the token: the leader leads, a write is acknowledged, and the process
/// says that it lives.
async fn unaffected(cluster: &Cluster, node: &Node, led: &str, round: usize) -> anyhow::Result<()> {
    let status = cluster.status(node)?;
    ensure!(
        status["leader"].as_str() == Some(led),
        "round {round}: the leader was {led}: {status}"
    );
    let entry = cluster.entry("/spire/server", &format!("/round-{round}"));
    let made = cluster.create(node, vec![entry]).await?;
    let (status, _) = made.first().context("no result")?;
    ensure!(status.code == 0, "round {round}: {}", status.message);
    let live = http_status(&node.health, "/live").await?;
    ensure!(live == 200, "round {round}: /live says {live}");
    Ok(())
}

async fn http_status(address: &str, path: &str) -> anyhow::Result<u16> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split_whitespace().nth(1).context("no status line")?;
    Ok(code.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_stops_or_dies_is_used_again_when_it_is_back() -> anyhow::Result<()> {
    let mut token = TokenServer::start()?;
    let cluster = cluster(&token, "")?;
    let nodes = cluster.nodes().to_vec();
    let led = cluster.leader(&nodes[0]).await?;
    let csr = csr()?;

    // The load: every node is asked all the time.
    let signed = Arc::new(AtomicU64::new(0));
    let mut load: JoinSet<()> = JoinSet::new();
    for node in nodes.clone() {
        let (csr, signed) = (csr.clone(), Arc::clone(&signed));
        load.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                pace.tick().await;
                let made = signs(&node, &csr, CALL).await;
                signed.fetch_add(u64::from(made), Ordering::Relaxed);
            }
        });
    }

    let rounds = count(6, 100);
    let mut back_after = Vec::new();
    for round in 0..rounds {
        let dies = round % 2 == 1;
        let gone = Instant::now();
        if dies {
            token.kill()?;
        } else {
            token.pause()?;
        }
        for node in &nodes {
            let lost = until(node, &csr, false, gone);
            lost.await.with_context(|| format!("round {round}"))?;
        }
        unaffected(&cluster, &nodes[round % nodes.len()], &led, round).await?;

        let back = Instant::now();
        if dies {
            token.serve()?;
        } else {
            token.resume()?;
        }
        let mut returns = JoinSet::new();
        for node in nodes.clone() {
            let csr = csr.clone();
            returns.spawn(async move { until(&node, &csr, true, back).await });
        }
        while let Some(returned) = returns.join_next().await {
            let after = returned?.with_context(|| format!("round {round}\n{}", cluster.logs()))?;
            back_after.push(after);
        }
    }
    load.abort_all();
    for node in &nodes {
        ensure!(
            cluster.leader(node).await? == led,
            "the leader changed\n{}",
            cluster.logs()
        );
    }
    back_after.sort_unstable();
    let worst = back_after.last().context("no rounds")?;
    println!(
        "token stopped or killed {rounds} times, {} signatures meanwhile: signing again after {:.0?} in the median, \
         {worst:.0?} at worst, of {} returns; leader changes 0",
        signed.load(Ordering::Relaxed),
        back_after[back_after.len() / 2],
        back_after.len(),
    );
    Ok(())
}

/// p11-kit's client then says for ever that its list of slots has grown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_shows_no_token_is_said_and_holds_nobody() -> anyhow::Result<()> {
    let mut token = TokenServer::start()?;
    let cluster = cluster(&token, "")?;
    let node = &cluster.nodes()[0];
    let csr = csr()?;
    mint(node, csr.clone()).await?;
    token.kill()?;
    token.serve_token("another")?;
    let wanted = "the module shows no initialised token";
    eventually("the node says what it sees", LIMIT * 3, || async {
        let answer = mint(node, csr.clone()).await;
        let error = answer.err().context("it signs without its token")?;
        let log = std::fs::read_to_string(&node.log)?;
        Ok(log.contains(wanted).then_some(error))
    })
    .await?;
    token.kill()?;
    token.serve()?;
    for node in cluster.nodes() {
        until(node, &csr, true, Instant::now()).await?;
    }
    Ok(())
}
