//! What the tests of this program do with nodes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::types;
use chancery_tests::cluster::{Cluster, Node, Options, bin_dir, eventually};

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

/// Gives the order `what` for the place `point` to a node that takes orders; the file,
/// which ends the order when it is removed.
pub(crate) fn order(node: &Node, point: &str, what: &str) -> anyhow::Result<std::path::PathBuf> {
    let directory = node.data_dir.join("faults");
    std::fs::create_dir_all(&directory)?;
    let file = directory.join(point);
    std::fs::write(&file, what)?;
    Ok(file)
}

/// A node alone, as a child of this process: its exit code can be seen.
pub(crate) struct Solo {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    pub(crate) process: tokio::process::Child,
}

impl Solo {
    pub(crate) async fn start(env: &[(&str, &str)], extra: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::start(&Options {
            nodes: 1,
            keys: "memory",
            extra,
            ..Options::default()
        })?;
        let node = cluster.nodes()[0].clone();
        stop(&cluster, &node.id).await?;
        let process = tokio::process::Command::new(bin_dir()?.join("chancery"))
            .args(["server", "run", "--config"])
            .arg(&node.config)
            .envs(env.iter().copied())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let solo = Self {
            cluster,
            node,
            process,
        };
        eventually("the node serves", Duration::from_secs(30), || async {
            Ok(solo.cluster.status(&solo.node)?["leader"]
                .as_str()
                .map(|_| ()))
        })
        .await?;
        Ok(solo)
    }

    /// Waits for the end of the process; its exit code, and the error it ended with.
    pub(crate) async fn end(self) -> anyhow::Result<(Option<i32>, String)> {
        let output = tokio::time::timeout(Duration::from_secs(30), self.process.wait_with_output());
        let output = output.await.context("the node goes on")??;
        let said = chancery_tests::cluster::text(&output);
        let error = said
            .rfind("Error: ")
            .with_context(|| format!("no error: {said}"))?;
        Ok((output.status.code(), said[error..].to_owned()))
    }
}
