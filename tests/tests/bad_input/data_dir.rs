//! Data directories of somebody else, and such as have lost something.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::Cluster;

use crate::server::{Setup, run, stop};
use crate::site::Site;

/// A site with an entry, so that a lost state would show.
async fn site_with_entry() -> anyhow::Result<Site> {
    let site = Site::start()?;
    let agent = site.agent().await?;
    site.entry_of(&agent, "/web").await?;
    Ok(site)
}

fn entry_count(cluster: &Cluster) -> anyhow::Result<String> {
    let output = cluster.cli(&cluster.nodes()[0], &["entry", "count"])?;
    Ok(chancery_tests::cluster::text(&output))
}

/// The node's configuration with another line in the place of one.
fn config_with(site: &Site, dir: &Path, from: &str, to: &str) -> anyhow::Result<PathBuf> {
    let text = fs::read_to_string(&site.node().config)?;
    ensure!(text.contains(from), "no {from} in {text}");
    let file = dir.join("changed.toml");
    fs::write(&file, text.replace(from, to))?;
    Ok(file)
}

#[tokio::test]
async fn a_second_process_on_a_data_directory_changes_nothing_in_it() -> anyhow::Result<()> {
    let site = site_with_entry().await?;
    let node = site.node();
    let identity = node.data_dir.join("identity");
    let before = fs::read(&identity)?;
    let watch = site.watch().await?;

    // The same command typed twice; and a server of other addresses, whose data_dir is wrong.
    let setup = Setup::new()?;
    let own = setup.data_dir().display().to_string();
    let mistaken = setup.write(
        &setup
            .text("")
            .replace(&own, &node.data_dir.display().to_string()),
    )?;
    for config in [&node.config, &mistaken] {
        let said = run(config).await?;
        let wanted = format!(
            "Error: another process uses the data directory {}: stop it first",
            node.data_dir.display()
        );
        ensure!(
            said.starts_with(&wanted) && said.contains("data_dir of its own"),
            "{said}"
        );
        ensure!(
            fs::read(&identity)? == before,
            "the refused start wrote the identity record"
        );
        watch.unchanged("a second process").await?;
    }
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn a_data_directory_of_another_trust_domain_or_cluster_is_refused_untouched()
-> anyhow::Result<()> {
    let (mut site, other) = (site_with_entry().await?, site_with_entry().await?);
    let cluster_id = |site: &Site| -> anyhow::Result<String> {
        let status = site.cluster.status(site.node())?;
        Ok(status["cluster_id"]
            .as_str()
            .context("no cluster_id")?
            .to_owned())
    };
    let (ours, theirs) = (cluster_id(&site)?, cluster_id(&other)?);
    let (node, others) = (site.node().clone(), other.node().clone());
    let before = entry_count(&site.cluster)?;
    stop(&site.cluster, &node).await?;
    stop(&other.cluster, &others).await?;
    let identity = node.data_dir.join("identity");
    let record = fs::read(&identity)?;
    let dir = tempfile::tempdir()?;

    let changed = config_with(&site, dir.path(), "\"example.org\"", "\"other.org\"")?;
    let said = run(&changed).await?;
    let wanted = format!(
        "Error: the data directory {} belongs to node 1 of cluster {ours} in trust domain example.org, the \
         configuration is for other.org; check data_dir and trust_domain",
        node.data_dir.display()
    );
    ensure!(said.starts_with(&wanted), "{said}");
    ensure!(
        fs::read(&identity)? == record,
        "the refused start wrote the identity record"
    );

    // The other node's configuration, pointed at this node's directory.
    let (ours_dir, theirs_dir) = (
        node.data_dir.display().to_string(),
        others.data_dir.display().to_string(),
    );
    let changed = config_with(&other, dir.path(), &theirs_dir, &ours_dir)?;
    let said = run(&changed).await?;
    for part in [
        format!("belongs to node 1 of cluster {ours} at {}", node.peer),
        format!("this node is configured as {}", others.peer),
        "check data_dir and [peer] advertise".to_owned(),
    ] {
        ensure!(said.contains(&part), "{part:?} is not in {said}");
    }

    // The other cluster's store beside this node's identity record.
    let (store, aside) = (node.data_dir.join("store"), node.data_dir.join("aside"));
    fs::rename(&store, &aside)?;
    fs::rename(others.data_dir.join("store"), &store)?;
    let said = run(&node.config).await?;
    let wanted = format!(
        "is not what it was: it is of node 1 of cluster {theirs}, not of node 1 of cluster {ours}: put back its own"
    );
    ensure!(said.contains(&wanted), "{said}");
    fs::remove_dir_all(&store)?;
    fs::rename(&aside, &store)?;

    // None of it is held against the node.
    site.cluster.restart("1", &[])?;
    assert_eq!(entry_count(&site.cluster)?, before);
    Ok(())
}

#[tokio::test]
async fn a_node_that_lost_its_store_or_its_identity_does_not_start_as_a_new_one()
-> anyhow::Result<()> {
    let mut site = site_with_entry().await?;
    let before = entry_count(&site.cluster)?;
    let node = site.node().clone();
    stop(&site.cluster, &node).await?;
    let aside = tempfile::tempdir_in(node.data_dir.parent().context("no parent")?)?;
    let (store, identity) = (node.data_dir.join("store"), node.data_dir.join("identity"));
    let record = fs::read(&identity)?;

    let kept = aside.path().join("store");
    fs::rename(&store, &kept)?;
    let said = run(&node.config).await?;
    let wanted = format!(
        "has lost its store {}: it must not start as that node again; let it",
        store.display()
    );
    ensure!(
        said.starts_with("Error: node 1 of cluster ") && said.contains(&wanted),
        "{said}"
    );
    ensure!(said.contains("let it join under a new id"), "{said}");
    ensure!(!store.exists(), "a new store was made");
    ensure!(
        fs::read(&identity)? == record,
        "the refused start wrote the identity record"
    );
    fs::rename(&kept, &store)?;

    let mut flipped = record.clone();
    flipped[record.len() / 2] ^= 1;
    let damaged = [
        ("a flipped bit", flipped, "wrong checksum"),
        (
            "a short record",
            record[..record.len() - 1].to_vec(),
            "wrong checksum",
        ),
        ("an empty file", Vec::new(), "wrong magic number"),
        (
            "another file",
            b"-----BEGIN CERTIFICATE-----".to_vec(),
            "wrong magic number",
        ),
    ];
    for (what, bytes, why) in damaged {
        fs::write(&identity, &bytes)?;
        let said = run(&node.config).await?;
        let wanted = format!(
            "Error: {} is not an identity record or is damaged ({why}); restore it",
            identity.display()
        );
        ensure!(
            said.starts_with(&wanted) && said.contains("remove this data directory"),
            "{what}: {said}"
        );
        ensure!(fs::read(&identity)? == bytes, "{what} was written over");
    }

    fs::remove_file(&identity)?;
    let said = run(&node.config).await?;
    let wanted = format!(
        "{} holds a store but no identity record: restore the record",
        node.data_dir.display()
    );
    ensure!(said.contains(&wanted), "{said}");
    ensure!(
        !identity.exists(),
        "a new identity was made beside an old store"
    );

    fs::write(&identity, &record)?;
    site.cluster.restart("1", &[])?;
    assert_eq!(entry_count(&site.cluster)?, before);
    Ok(())
}

/// The directory is put back as it was at an earlier time, in part.
#[tokio::test]
async fn a_node_that_was_rolled_back_in_part_does_not_start() -> anyhow::Result<()> {
    let mut site = site_with_entry().await?;
    let before = entry_count(&site.cluster)?;
    let node = site.node().clone();
    stop(&site.cluster, &node).await?;
    let aside = tempfile::tempdir()?;
    let copy = |from: &Path, to: &Path| -> anyhow::Result<()> {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status()?;
        ensure!(status.success(), "cp of {}", from.display());
        Ok(())
    };
    for part in ["store", "identity", "high-water"] {
        copy(&node.data_dir.join(part), &aside.path().join(part))?;
    }
    site.cluster.restart("1", &[])?;
    stop(&site.cluster, site.node()).await?;
    for (part, wanted) in [
        (
            "store",
            "it was last opened by start 1 of the node, and start 2 had it open since",
        ),
        ("identity", "does not fit the identity record beside it"),
    ] {
        let (place, kept) = (node.data_dir.join(part), aside.path().join("kept"));
        fs::rename(&place, &kept)?;
        copy(&aside.path().join(part), &place)?;
        let said = run(&node.config).await?;
        ensure!(
            said.contains(wanted)
                && said.contains(&node.data_dir.display().to_string())
                && said.contains("join again under a new id"),
            "{part}: {said}"
        );
        match place.is_dir() {
            true => fs::remove_dir_all(&place)?,
            false => fs::remove_file(&place)?,
        }
        fs::rename(&kept, &place)?;
    }
    // None of it is held against the node: the refused starts changed nothing that counts.
    site.cluster.restart("1", &[])?;
    assert_eq!(entry_count(&site.cluster)?, before);
    Ok(())
}
