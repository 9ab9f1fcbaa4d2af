//! A node whose store is damaged is refused, and the documented way brings it back.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::{Cluster, Options, bin_dir, entry_ids, eventually, text};

use crate::node::{stop, write};

/// The largest file of a store with such a name.
fn file_of(store: &Path, ending: &str) -> anyhow::Result<std::path::PathBuf> {
    let mut found = Vec::new();
    for file in fs::read_dir(store)? {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == ending) {
            found.push((path.metadata()?.len(), path));
        }
    }
    found.sort();
    Ok(found
        .pop()
        .with_context(|| format!("no .{ending} in {}", store.display()))?
        .1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_damaged_store_joins_again_as_the_runbook_says() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        keys: "memory",
        ..Options::default()
    })?;
    let first = cluster.nodes()[0].clone();
    for n in 0..20 {
        write(&cluster, &first, &format!("/kept/{n}")).await?;
    }
    let kept = entry_ids(&first).await?;
    let third = cluster.node("3")?.clone();
    stop(&cluster, "3").await?;
    let wal = file_of(&third.data_dir.join("store"), "log")?;
    let mut bytes = fs::read(&wal)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&wal, bytes)?;
    let said = match cluster.restart("3", &[]) {
        Ok(()) => anyhow::bail!("node 3 serves with a damaged store"),
        Err(error) => format!("{error:#}"),
    };
    let name = wal
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();
    for part in [
        &*name,
        "chancery cluster rejoin",
        "join again under a new id",
    ] {
        ensure!(said.contains(part), "{part:?} is not in {said}");
    }

    let removed = cluster.cli(&first, &["cluster", "remove", "-allowEven", "3"])?;
    ensure!(removed.status.success(), "{}", text(&removed));
    let rejoined = Command::new(bin_dir()?.join("chancery"))
        .args(["cluster", "rejoin", "-yes", "-config"])
        .arg(&third.config)
        .output()?;
    ensure!(rejoined.status.success(), "{}", text(&rejoined));
    cluster.restart("3", &[])?;
    eventually("a voter with a new id", Duration::from_secs(60), || async {
        let status = cluster.status(&first)?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let roles: Vec<_> = members
            .iter()
            .map(|m| (m["id"].clone(), m["role"] == "learner"))
            .collect();
        Ok((roles
            == [
                ("1".into(), false),
                ("2".into(), false),
                ("4".into(), false),
            ])
        .then_some(()))
    })
    .await?;
    let back = cluster.node("4")?.clone();
    ensure!(entry_ids(&back).await? == kept, "not all entries are there");
    write(&cluster, &back, "/again").await?;
    Ok(())
}
