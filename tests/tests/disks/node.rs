//! What the tests of this program do with nodes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::types;
use chancery_tests::cluster::{Cluster, Node, eventually};

pub(crate) const TERMINATE: i32 = 15;

/// Waits until the process `pid` is gone; a zombie holds nothing any more.
pub(crate) async fn gone(pid: u32) -> anyhow::Result<()> {
    eventually("the node's end", Duration::from_secs(30), || async move {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        Ok(stat
            .map_or(true, |stat| stat.contains(") Z "))
            .then_some(()))
    })
    .await
}

/// Asks a node to stop, and waits until its process is gone.
pub(crate) async fn stop(cluster: &Cluster, id: &str) -> anyhow::Result<()> {
    let pid = cluster.node(id)?.pid;
    cluster.signal(id, TERMINATE)?;
    gone(pid).await
}

/// A node that leads, and the others.
pub(crate) async fn leader_and_others(cluster: &Cluster) -> anyhow::Result<(Node, Vec<Node>)> {
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let others = cluster.nodes().iter().filter(|n| n.id != leader);
    Ok((cluster.node(&leader)?.clone(), others.cloned().collect()))
}

/// Creates an entry through a node; its id.
pub(crate) async fn write(cluster: &Cluster, node: &Node, name: &str) -> anyhow::Result<String> {
    let entry = cluster.entry("/spire/agent/x", name);
    let created = cluster.create(node, vec![entry]).await?;
    let (status, entry): (types::Status, _) = created.into_iter().next().context("no result")?;
    ensure!(status.code == 0, "{status:?}");
    Ok(entry.context("no entry")?.id)
}

/// Copies a file or folder that is not there yet.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("cp").arg("-a").args([from, to]).output()?;
    ensure!(output.status.success(), "cp: {output:?}");
    Ok(())
}
