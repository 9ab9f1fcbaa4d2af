//! Restarts make no authority and lose none: a bundle does not grow with them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::types::Bundle;
use chancery_tests::cluster::{Cluster, Node, Options, count, eventually, long};
use chancery_tests::documents::signing;
use chancery_tests::faults::random::Random;
use serde_json::Value;

use super::rotation::{KILL, LIMIT};
use super::{KINDS, bundle};

/// One in so many restarts is of every node at once.
const ALL_AT_ONCE: usize = 10;

/// Authorities of every status: revoked, old and tainted, active, prepared.
fn live(cluster: &Cluster, kind: &str) -> anyhow::Result<()> {
    let node = &cluster.nodes()[0];
    let step = |name: &str, id: &str| cluster.authority(node, kind, name, id);
    let shown = cluster.json(node, &["localauthority", kind, "show"])?;
    let first = shown["active"]["authority_id"].as_str();
    let first = first.context("an authority that signs")?;
    let second = step("prepare", "")?;
    step("activate", &second)?;
    step("taint", first)?;
    step("revoke", first)?;
    let third = step("prepare", "")?;
    step("activate", &third)?;
    step("taint", &second)?;
    step("prepare", "")?;
    Ok(())
}

/// What a node knows of authorities and keys.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    shown: Vec<Value>,
    keys: Vec<Value>,
    missing: Value,
    bundle: Bundle,
}

impl Known {
    async fn by(cluster: &Cluster, node: &Node) -> anyhow::Result<Self> {
        let mut shown = Vec::new();
        for kind in KINDS {
            let mut state = cluster.json(node, &["localauthority", kind, "show"])?;
            let state_of = state.as_object_mut().context("an object")?;
            // Not of the authorities: who has documents of them.
            state_of.remove("holders");
            shown.push(state);
        }
        let listed = cluster.json(node, &["hsm", "keys"])?;
        let mut keys = listed["keys"].as_array().context("keys")?.clone();
        keys.sort_by_key(|key| key["id"].to_string());
        Ok(Self {
            shown,
            keys,
            missing: listed["missing"].clone(),
            bundle: bundle(node).await?,
        })
    }

    /// How many authorities of a kind have a status.
    fn count(&self, kind: &str, status: &str) -> usize {
        let keys = self.keys.iter();
        keys.filter(|k| k["authority_kind"] == kind && k["authority_status"] == status)
            .count()
    }
}

/// A node that was started knows what all knew, as soon as a leader answers it.
async fn knows(cluster: &Cluster, node: &Node, before: &Known) -> anyhow::Result<()> {
    let known = eventually("an exact answer", LIMIT, || async {
        Known::by(cluster, node).await.map(Some)
    })
    .await?;
    ensure!(
        known == *before,
        "node {} knows {known:#?}, not {before:#?}",
        node.id
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_make_no_authority_and_lose_none() -> anyhow::Result<()> {
    // The short run is the same every time, a long one never; the seed repeats it.
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seed = match std::env::var("CHANCERY_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) if long() => fresh,
        Err(_) => 1,
    };
    println!("restarts by CHANCERY_TEST_SEED={seed}");
    let mut random = Random::new(seed, 0);
    let mut cluster = Cluster::start(&Options::default())?;
    for kind in KINDS {
        live(&cluster, kind)?;
    }
    let before = Known::by(&cluster, &cluster.nodes()[0]).await?;
    for kind in KINDS {
        for status in ["revoked", "tainted", "active", "prepared"] {
            let of = before.count(kind, status);
            ensure!(of == 1, "{of} {status} of {kind}: {before:#?}");
        }
    }
    for node in cluster.nodes() {
        knows(&cluster, node, &before).await?;
    }

    let wanted = count(30, 200);
    let nodes = cluster.nodes().len();
    let (mut restarts, mut killed) = (0, 0);
    let began = Instant::now();
    while restarts < wanted {
        let id = cluster.nodes()[random.below(nodes)].id.clone();
        let kills = random.below(2) == 0;
        let all = random.below(ALL_AT_ONCE) == 0;
        let ids: Vec<_> = cluster.nodes().iter().map(|n| n.id.clone()).collect();
        let dying = ids.iter().filter(|of| kills && (all || **of == id));
        for of in dying {
            cluster.signal(of, KILL)?;
            killed += 1;
        }
        cluster.restart(if all { "all" } else { &id }, &[])?;
        restarts += if all { nodes } else { 1 };
        let node = cluster.node(&id)?;
        knows(&cluster, node, &before)
            .await
            .with_context(|| format!("restart {restarts}, killed: {kills}, all: {all}"))?;
    }
    let took = began.elapsed();
    for node in cluster.nodes() {
        knows(&cluster, node, &before).await?;
        let signs = eventually("it signs", LIMIT, || {
            signing(&node.admin_socket, &node.admin_socket, 1)
        });
        signs.await?;
    }
    println!(
        "{restarts} restarts, {killed} of them by SIGKILL, in {} s: {} keys before and after, {} roots and {} JWT keys in the bundle",
        took.as_secs(),
        before.keys.len(),
        before.bundle.x509_authorities.len(),
        before.bundle.jwt_authorities.len()
    );
    Ok(())
}
