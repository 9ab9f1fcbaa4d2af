//! Authorities that rotate by themselves, and what has ended leaves the bundle.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::{Cluster, Options, eventually};
use chancery_tests::documents::signing;

use super::{bundle, show};

pub(crate) const KILL: i32 = 9;
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_rotate_by_themselves_without_the_node_that_led() -> anyhow::Result<()> {
    rotate("\n[issuance]\nca_ttl = \"30s\"\n", 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_rotate_above_intermediates_without_the_node_that_led() -> anyhow::Result<()> {
    rotate(
        "\n[issuance]\nmode = \"intermediate\"\nca_ttl = \"60s\"\n",
        2,
    )
    .await
}

#[allow(clippy::print_stdout, reason = "what was verified is told")]
async fn rotate(extra: &str, certificates: usize) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        extra,
        ..Options::default()
    })?;
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    let mut minted = 0;
    let mut dead: Option<String> = None;
    let deadline = std::time::Instant::now() + LIMIT;
    // Two rotations of each kind, the first with all, the second without the node that led.
    while seen.iter().any(|ids| ids.len() < 3) {
        ensure!(
            std::time::Instant::now() < deadline,
            "no rotation: {seen:?}"
        );
        let here: Vec<_> = cluster
            .nodes()
            .iter()
            .filter(|n| Some(&n.id) != dead.as_ref())
            .cloned()
            .collect();
        for (at, node) in here.iter().enumerate() {
            let verifier = &here[(at + 1) % here.len()];
            let Some(ids) =
                signing(&node.admin_socket, &verifier.admin_socket, certificates).await?
            else {
                continue;
            };
            minted += 1;
            for (seen, id) in seen.iter_mut().zip(ids) {
                seen.insert(id);
            }
        }
        if dead.is_none() && seen.iter().all(|ids| ids.len() == 2) {
            let leader = cluster.leader(&here[0]).await?;
            cluster.signal(&leader, KILL)?;
            dead = Some(leader);
        }
    }
    // It comes back, and signs with what was made without it.
    let dead = dead.context("nobody was killed")?;
    cluster.restart(&dead, &[])?;
    let node = cluster.node(&dead)?.clone();
    eventually("the node that was away signs", LIMIT, || async {
        signing(&node.admin_socket, &node.admin_socket, certificates).await
    })
    .await?;
    // Nothing is pruned for a day; each turn has made one of each kind.
    let told = bundle(&node).await?;
    for (seen, told) in seen
        .iter()
        .zip([told.x509_authorities.len(), told.jwt_authorities.len()])
    {
        ensure!(told <= seen.len() + 3, "{told} after {} signed", seen.len());
    }
    println!("documents minted and verified over two rotations: {minted}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_leaves_the_bundle_a_day_after_its_end() -> anyhow::Result<()> {
    let clocks = tempfile::tempdir()?;
    let path = clocks.path().display().to_string();
    let cluster = Cluster::start(&Options {
        env: &[("CHANCERY_FAULT_CLOCK_DIR", &path)],
        extra: "\n[issuance]\nca_ttl = \"24h\"\n",
        ..Options::default()
    })?;
    let node = &cluster.nodes()[0];
    let first = show(node).await?[0].clone().context("an authority")?;
    // In one step: half a number must not be read.
    let ahead = |hours: i64| -> anyhow::Result<()> {
        let new = clocks.path().join("new");
        std::fs::write(&new, (hours * 3_600_000).to_string())?;
        Ok(std::fs::rename(new, clocks.path().join("all"))?)
    };
    let state = || async {
        let bundle = bundle(node).await?;
        let [active, ..] = show(node).await?;
        let sizes = [bundle.x509_authorities.len(), bundle.jwt_authorities.len()];
        anyhow::Ok((active, sizes))
    };
    ahead(30)?;
    eventually(
        "a successor beside the one that has ended",
        LIMIT,
        || async {
            let (active, sizes) = state().await?;
            Ok((active.as_ref() != Some(&first) && sizes == [2, 2]).then_some(()))
        },
    )
    .await?;
    ahead(49)?;
    eventually("the one that ended a day ago has left", LIMIT, || async {
        let names = bundle(node).await?.x509_authorities;
        let [active, prepared, old] = show(node).await?;
        let gone = [active, prepared, old]
            .iter()
            .flatten()
            .all(|id| *id != first);
        Ok((gone && !names.is_empty() && names.len() <= 2).then_some(()))
    })
    .await?;
    Ok(())
}
