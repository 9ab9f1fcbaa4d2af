//! A whole data directory is put back: the node itself cannot tell, its peers can.

use std::time::Duration;

use anyhow::ensure;
use chancery_tests::cluster::{Cluster, Options, eventually};

use crate::node::{copy, leader_and_others, stop, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_rolled_back_is_refused_by_its_peers_and_ends() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        keys: "memory",
        ..Options::default()
    })?;
    let (leader, others) = leader_and_others(&cluster).await?;
    let follower = others[0].clone();
    // The one that leads comes second: the other one then follows a new leader.
    for (round, id) in [&follower.id, &leader.id].into_iter().enumerate() {
        let node = cluster.node(id)?.clone();
        stop(&cluster, id).await?;
        let aside = tempfile::tempdir()?;
        let (image, newest) = (aside.path().join("image"), aside.path().join("newest"));
        copy(&node.data_dir, &image)?;
        cluster.restart(id, &[])?;
        for n in 0..20 {
            write(&cluster, &node, &format!("/kept/{round}/{n}")).await?;
        }
        stop(&cluster, id).await?;
        std::fs::rename(&node.data_dir, &newest)?;
        copy(&image, &node.data_dir)?;
        let said = match cluster.restart(id, &[]) {
            Ok(()) => anyhow::bail!("node {id} serves from an older copy"),
            Err(error) => format!("{error:#}"),
        };
        for part in [
            "remembers more of this node than it holds",
            "its data directory is an older copy",
            "join again under a new id",
        ] {
            ensure!(said.contains(part), "{part:?} is not in {said}");
        }
        // The others go on, and so does the node with what is its own.
        let other = cluster.nodes().iter().find(|n| n.id != *id).cloned();
        write(
            &cluster,
            &other.expect("three nodes"),
            &format!("/others/{round}"),
        )
        .await?;
        std::fs::remove_dir_all(&node.data_dir)?;
        std::fs::rename(&newest, &node.data_dir)?;
        cluster.restart(id, &[])?;
        eventually("all entries", Duration::from_secs(30), || async {
            let output = cluster.cli(cluster.node(id)?, &["entry", "count"])?;
            let text = chancery_tests::cluster::text(&output);
            Ok(text
                .contains(&format!("{} registration", 21 * (round + 1)))
                .then_some(()))
        })
        .await?;
    }
    Ok(())
}
