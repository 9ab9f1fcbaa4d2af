//! No private scalar of an authority is anywhere but in its token, and the search that says so
//! finds one where it is.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, count, eventually};
use chancery_tests::secrets::{Found, Memory, Search};
use chancery_tests::softhsm_file::scalars;
use chancery_tests::tls::connect_admin;
use chancery_tests::token_server::{PIN, TokenServer};

use super::{cluster, csr, mint};

const LIMIT: Duration = Duration::from_secs(60);
/// Keys of an authority are P-256 by default.
const SCALAR_BYTES: usize = 32;

fn step(cluster: &Cluster, node: &Node, args: &[&str]) -> anyhow::Result<serde_json::Value> {
    let output = cluster.cli(node, &[args, &["-output", "json"]].concat())?;
    ensure!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Makes the next authority of a kind, and lets it sign.
fn rotate(cluster: &Cluster, node: &Node, kind: &str) -> anyhow::Result<()> {
    let prepared = step(cluster, node, &["localauthority", kind, "prepare"])?;
    let id = prepared["prepared_authority"]["authority_id"].as_str();
    let id = id.with_context(|| format!("no id in {prepared}"))?;
    let activate = ["localauthority", kind, "activate", "-authorityID", id];
    step(cluster, node, &activate).map(drop)
}

/// A full run: attested agents, documents of every kind, rotations, restarts, a backup.
async fn live(cluster: &mut Cluster, env: &[(&str, &str)]) -> anyhow::Result<()> {
    let nodes = cluster.nodes().to_vec();
    let csr = csr()?;
    for turn in 0..count(2, 10) {
        let node = &nodes[turn % nodes.len()];
        let trust = cluster.trust_of(node)?;
        let token = cluster.token(node).await?;
        let agent = Agent::attest(&node.api, &trust, &token, None).await?;
        let entry = cluster.entry(agent.path(), &format!("/proof-{turn}"));
        cluster.create(node, vec![entry]).await?;
        for node in &nodes {
            // The entry was written through another node.
            eventually("a node knows the entry", LIMIT, || async {
                let signed = agent.round(&node.api).await?;
                Ok((!signed.is_empty()).then_some(()))
            })
            .await?;
            for _ in 0..20 {
                mint(node, csr.clone()).await?;
            }
        }
        for kind in ["x509", "jwt"] {
            rotate(cluster, node, kind)?;
        }
        cluster.restart(&node.id, env)?;
    }
    for (at, node) in cluster.nodes().iter().enumerate() {
        let file = cluster.dir().join(format!("saved-{at}.backup"));
        let file = file.display().to_string();
        let saved = cluster.cli(node, &["backup", "save", "-file", &file])?;
        ensure!(saved.status.success(), "backup save");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_of_an_authority_is_outside_its_token() -> anyhow::Result<()> {
    let token = TokenServer::start()?;
    let mut cluster = cluster(&token, "")?;
    let (variable, address) = token.environment();
    if let Err(error) = live(&mut cluster, &[(variable, &address)]).await {
        return Err(error.context(cluster.logs()));
    }

    let keys = scalars(&token.tokens(), PIN)?;
    let rotations = count(2, 10);
    ensure!(keys.len() >= 2 + 2 * rotations, "{} keys", keys.len());
    ensure!(keys.iter().all(|key| key.len() == SCALAR_BYTES));
    let search = Search::new(&keys)?;

    let files = search.files(cluster.dir())?;
    ensure!(files.bytes > 100_000, "{} bytes of files", files.bytes);
    ensure!(files.found.is_empty(), "{:?}", files.found);
    let mut bytes = 0;
    for node in cluster.nodes() {
        // While it signs: keys that come and go would be there now.
        let csr = csr()?;
        let signing = {
            let node = node.clone();
            tokio::spawn(async move { while mint(&node, csr.clone()).await.is_ok() {} })
        };
        let memory = search.memory(node.pid)?;
        signing.abort();
        ensure!(memory.found.is_empty(), "{:?}", memory.found);
        ensure!(
            memory.bytes > 10_000_000,
            "{} bytes of memory",
            memory.bytes
        );
        bytes += memory.bytes;
    }
    // What is found where it is: the same files with one key among them.
    let planted = cluster.dir().join("node-1/data/planted");
    std::fs::write(&planted, &keys[0])?;
    let found = search.files(cluster.dir())?.found;
    let wanted = Found {
        secret: 0,
        form: "raw",
        place: planted.display().to_string(),
    };
    ensure!(found.into_iter().collect::<Vec<_>>() == [wanted]);
    println!(
        "private scalars of {} keys of authorities, looked for in {} KB of files and {} MB of memory of nodes: 0 found",
        keys.len(),
        files.bytes >> 10,
        bytes >> 20,
    );
    Ok(())
}

/// The private scalar of a public key, out of the memory of a process: tries what could be one.
fn scalar_in_memory(pid: u32, point: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    let memory = Memory::of(pid)?;
    for mapping in memory.mappings()? {
        let own = mapping.name.is_empty() || mapping.name == "[heap]";
        if !own || !mapping.writable {
            continue;
        }
        let bytes = memory.read(&mapping);
        for at in (0..bytes.len().saturating_sub(SCALAR_BYTES)).step_by(8) {
            let window = &bytes[at..at + SCALAR_BYTES];
            if !looks_random(window) {
                continue;
            }
            let backwards: Vec<u8> = window.iter().rev().copied().collect();
            for candidate in [window, &backwards] {
                if is_of(candidate, point) {
                    return Ok(Some(candidate.to_vec()));
                }
            }
        }
    }
    Ok(None)
}

/// Text, pointers and counters are not worth a try.
fn looks_random(window: &[u8]) -> bool {
    let high = window.iter().filter(|byte| **byte >= 0x80).count();
    let mut seen = [false; 256];
    for byte in window {
        seen[usize::from(*byte)] = true;
    }
    (6..=26).contains(&high) && seen.iter().filter(|seen| **seen).count() >= 24
}

fn is_of(scalar: &[u8], point: &[u8]) -> bool {
    let Ok(key) = PrivateKey::from_private_key(&ECDH_P256, scalar) else {
        return false;
    };
    key.compute_public_key()
        .is_ok_and(|public| public.as_ref() == point)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_search_finds_keys_that_are_kept_in_memory() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options {
        nodes: 1,
        keys: "memory",
        ..Options::default()
    })?;
    let node = &cluster.nodes()[0];
    mint(node, csr()?).await?;
    let mut client = BundleClient::new(connect_admin(&node.admin_socket).await?);
    let request = GetBundleRequest { output_mask: None };
    let bundle = client.get_bundle(request).await?.into_inner();
    let root = bundle.x509_authorities.first().context("no root")?;
    let (_, root) = x509_parser::parse_x509_certificate(&root.asn1)?;
    let point = root.public_key().subject_public_key.data.as_ref();

    let scalar = scalar_in_memory(node.pid, point)?.context("its key is not in its memory")?;
    let found = Search::new(&[scalar])?.memory(node.pid)?.found;
    ensure!(!found.is_empty(), "the search misses it");
    println!("the key of a memory backend: {found:?}");
    Ok(())
}
