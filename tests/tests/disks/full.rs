//! Disks that fill up, on small file systems in memory. Needs root, for mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, eventually};
use tonic::Code;

use crate::node::{TERMINATE, copy, gone, leader_and_others, stop, write};

const SETTINGS: &str = "[storage]\nmin_free_mib = 32\nreserve_mib = 24\n";
const SIZE_MIB: u64 = 224;
const MIB: u64 = 1 << 20;
const KILL: i32 = 9;
const LIMIT: Duration = Duration::from_secs(30);

/// A small file system over the data directory of a node.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left the node running.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

impl Small {
    /// Moves a node's data directory onto it; the node is stopped and started again.
    async fn under(cluster: &mut Cluster, id: &str) -> anyhow::Result<Self> {
        stop(cluster, id).await?;
        let place = cluster.node(id)?.data_dir.clone();
        let aside = place.with_extension("aside");
        fs::rename(&place, &aside)?;
        fs::create_dir(&place)?;
        let output = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={SIZE_MIB}m,mode=700"),
                "tmpfs",
            ])
            .arg(&place)
            .output()?;
        ensure!(output.status.success(), "mount (as root?): {output:?}");
        let small = Self(place.clone());
        for file in fs::read_dir(&aside)? {
            let file = file?;
            if file.file_name() != "reserve" {
                copy(&file.path(), &place.join(file.file_name()))?;
            }
        }
        cluster.restart(id, &[])?;
        eventually("the reserve", LIMIT, || async {
            Ok(place.join("reserve").exists().then_some(()))
        })
        .await?;
        Ok(small)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves so much free space.
    fn leave(&self, bytes: u64) -> anyhow::Result<()> {
        const TRIES: usize = 20;
        for left in (0..TRIES).rev() {
            let free = free(&self.0)?;
            let has = fs::metadata(self.filler()).map_or(0, |m| m.len());
            let wanted = (free + has).saturating_sub(bytes);
            let output = Command::new("fallocate")
                .args(["-l", &wanted.to_string()])
                .arg(self.filler())
                .output()?;
            if output.status.success() {
                break;
            }
            // The node may have written meanwhile.
            ensure!(left > 0, "fallocate: {output:?}");
        }
        Ok(())
    }

    fn empty(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

fn free(path: &Path) -> anyhow::Result<u64> {
    let output = Command::new("stat")
        .args(["-f", "-c", "%a %S"])
        .arg(path)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next().context("stat -f says nothing");
    Ok(next()?? * next()??)
}

/// Waits until a write through `node` is refused for want of room; what was said.
async fn refused(cluster: &Cluster, node: &Node, name: &str) -> anyhow::Result<String> {
    let mut attempt = 0;
    eventually("a refused write", LIMIT, || {
        attempt += 1;
        let name = format!("{name}/{attempt}");
        async move {
            let error = write(cluster, node, &name).await.err();
            let status = error
                .as_ref()
                .and_then(|e| e.downcast_ref::<tonic::Status>());
            if let Some(status) = status {
                ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
            }
            Ok(status.map(|s| s.message().to_owned()))
        }
    })
    .await
}

async fn accepted(cluster: &Cluster, node: &Node, name: &str) -> anyhow::Result<String> {
    let mut attempt = 0;
    eventually("a write", LIMIT, || {
        attempt += 1;
        let name = format!("{name}/{attempt}");
        async move { write(cluster, node, &name).await.map(Some) }
    })
    .await
}

/// Status code of, and all that is said by `path` on the port at `address`.
fn http(address: &str, path: &str) -> anyhow::Result<(String, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let code = text.split(' ').nth(1).context("no status")?.to_owned();
    Ok((code, text))
}

/// An agent with an entry, so that a node has something to sign.
async fn agent(cluster: &Cluster, node: &Node) -> anyhow::Result<Agent> {
    let token = cluster.token(node).await?;
    let agent = Agent::attest(&node.api, &cluster.trust()?, &token, None).await?;
    cluster
        .create(node, vec![cluster.entry(agent.path(), "/signed")])
        .await?;
    Ok(agent)
}

async fn signs(agent: &Agent, node: &Node) -> anyhow::Result<()> {
    let svids = agent.round(&node.api).await?;
    ensure!(!svids.is_empty(), "nothing was signed");
    Ok(())
}

fn alone() -> anyhow::Result<Cluster> {
    Cluster::start(&Options {
        nodes: 1,
        extra: SETTINGS,
        ..Options::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_before_the_disk_is_full_and_signing_goes_on() -> anyhow::Result<()> {
    let mut cluster = alone()?;
    let small = Small::under(&mut cluster, "1").await?;
    let node = cluster.node("1")?.clone();
    let agent = agent(&cluster, &node).await?;
    small.leave(20 * MIB)?;
    let said = refused(&cluster, &node, "/refused").await?;
    for part in [
        "for want of disk space",
        "MiB are free on the disk of",
        "need 32 MiB",
    ] {
        ensure!(said.contains(part), "{part:?} is not in {said}");
    }
    signs(&agent, &node).await?;
    ensure!(
        http(&node.health, "/ready")?.0 == "200",
        "{:?}",
        http(&node.health, "/ready")?
    );
    let (code, text) = http(&node.health, "/ready?for=write")?;
    ensure!(
        code == "500" && text.contains("writes are refused"),
        "{text}"
    );
    let status = cluster.status(&node)?.to_string();
    ensure!(status.contains("node 1 takes no writes"), "{status}");
    let metrics = http(&node.metrics, "/metrics")?.1;
    ensure!(metrics.contains("chancery_disk_short 1"), "{metrics}");
    // Still far from full: what was refused was not written anyway.
    ensure!(
        free(&node.data_dir)? > 10 * MIB,
        "{}",
        free(&node.data_dir)?
    );

    small.empty()?;
    accepted(&cluster, &node, "/again").await?;
    ensure!(http(&node.health, "/ready?for=write")?.0 == "200");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ended_on_a_full_disk_starts_from_its_reserve() -> anyhow::Result<()> {
    let mut cluster = alone()?;
    let small = Small::under(&mut cluster, "1").await?;
    let node = cluster.node("1")?.clone();
    let agent = agent(&cluster, &node).await?;
    let acknowledged = 51;
    for n in 1..acknowledged {
        write(&cluster, &node, &format!("/before/{n}")).await?;
    }
    small.leave(0)?;
    ensure!(free(&node.data_dir)? == 0, "there is room left");
    // It notices at once, however fast its disk was filled.
    refused(&cluster, &node, "/full").await?;
    cluster.signal("1", KILL)?;
    gone(node.pid).await?;
    let reserve = node.data_dir.join("reserve");
    ensure!(
        reserve.exists() && free(&node.data_dir)? == 0,
        "there is room left"
    );

    cluster.restart("1", &[])?;
    let node = cluster.node("1")?.clone();
    ensure!(!reserve.exists(), "the reserve was not used");
    refused(&cluster, &node, "/refused").await?;
    signs(&agent, &node).await?;
    let log = fs::read_to_string(&node.log)?;
    ensure!(log.contains("the reserve file was removed"), "{log}");

    small.empty()?;
    accepted(&cluster, &node, "/again").await?;
    eventually("the reserve", LIMIT, || async {
        Ok(reserve.exists().then_some(()))
    })
    .await?;
    let output = cluster.cli(&node, &["entry", "count"])?;
    let text = chancery_tests::cluster::text(&output);
    ensure!(
        text.contains(&format!("{} registration", acknowledged + 1)),
        "{text}, not {acknowledged} + 1"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_short_of_room_hands_over_to_one_that_has_some() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        keys: "memory",
        extra: SETTINGS,
        ..Options::default()
    })?;
    let (leader, _) = leader_and_others(&cluster).await?;
    let small = Small::under(&mut cluster, &leader.id).await?;
    let node = cluster.node(&leader.id)?.clone();
    // Its restart moved leadership: it gets it back when the others are asked to give it.
    eventually("its leadership", Duration::from_secs(60), || async {
        let (now, _) = leader_and_others(&cluster).await?;
        if now.id == node.id {
            return Ok(Some(()));
        }
        cluster.signal(&now.id, 19)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.signal(&now.id, 18)?;
        Ok(None)
    })
    .await?;
    small.leave(20 * MIB)?;
    eventually("another leader", LIMIT, || async {
        let (now, _) = leader_and_others(&cluster).await?;
        Ok((now.id != node.id).then_some(()))
    })
    .await?;
    // Through the short node as through any other.
    for (n, node) in cluster.nodes().iter().enumerate() {
        accepted(&cluster, node, &format!("/through/{n}")).await?;
    }
    Ok(())
}

/// Waits until the log of `node` says `what` so many times.
async fn said(node: &Node, what: &str, times: usize) -> anyhow::Result<()> {
    eventually(what, LIMIT, || async {
        let log = fs::read_to_string(&node.log)?;
        Ok((log.matches(what).count() >= times).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_is_full_waits_signs_and_stops_when_it_is_told_to()
-> anyhow::Result<()> {
    const WAITS: &str = "what is to be written waits until space is freed";
    let mut cluster = Cluster::start(&Options {
        extra: SETTINGS,
        ..Options::default()
    })?;
    let (_, others) = leader_and_others(&cluster).await?;
    let (id, other) = (&others[0].id, &others[1]);
    let small = Small::under(&mut cluster, id).await?;
    let node = cluster.node(id)?.clone();
    accepted(&cluster, &node, "/before").await?;
    eventually("its authority", LIMIT, || async {
        Ok((http(&node.health, "/ready")?.0 == "200").then_some(()))
    })
    .await?;
    let agent = agent(&cluster, &node).await?;

    small.leave(0)?;
    accepted(&cluster, other, "/while-full").await?;
    said(&node, WAITS, 1).await?;
    signs(&agent, &node).await?;
    small.empty()?;
    accepted(&cluster, &node, "/again").await?;
    said(&node, "there is room on the disk again", 1).await?;

    small.leave(0)?;
    accepted(&cluster, other, "/while-full-again").await?;
    said(&node, WAITS, 2).await?;
    cluster.signal(id, TERMINATE)?;
    gone(node.pid).await?;
    let log = fs::read_to_string(&node.log)?;
    ensure!(!log.contains("were still open at the end"), "{log}");
    Ok(())
}
