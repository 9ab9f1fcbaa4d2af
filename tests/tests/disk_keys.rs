//! Keys in sealed files: each node has its own authorities, and they outlive its process.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::localauthority::v1 as api;
use chancery_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use chancery_hsm::disk::inspect;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, count};
use chancery_tests::tls::connect_admin;

const KILL: i32 = 9;

/// What signs on a node: its X.509 and its JWT authority.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Active {
    x509: String,
    jwt: String,
}

async fn active(node: &Node) -> anyhow::Result<Active> {
    let mut client = LocalAuthorityClient::new(connect_admin(&node.admin_socket).await?);
    let x509 = client
        .get_x509_authority_state(api::GetX509AuthorityStateRequest {})
        .await?
        .into_inner();
    let jwt = client
        .get_jwt_authority_state(api::GetJwtAuthorityStateRequest {})
        .await?
        .into_inner();
    Ok(Active {
        x509: x509.active.context("no X.509 authority")?.authority_id,
        jwt: jwt.active.context("no JWT authority")?.authority_id,
    })
}

/// Authorities in the bundle: X.509 and JWT.
async fn published(node: &Node) -> anyhow::Result<(usize, usize)> {
    let mut client = BundleClient::new(connect_admin(&node.admin_socket).await?);
    let request = GetBundleRequest { output_mask: None };
    let bundle = client.get_bundle(request).await?.into_inner();
    Ok((bundle.x509_authorities.len(), bundle.jwt_authorities.len()))
}

/// The file of the key of a node's X.509 authority.
fn x509_key_file(node: &Node) -> anyhow::Result<PathBuf> {
    let keys = node.config.parent().context("a folder")?.join("keys");
    for file in std::fs::read_dir(&keys)? {
        let path = file?.path();
        if path.extension().is_some_and(|suffix| suffix == "key") {
            let facts = inspect(&std::fs::read(&path)?)?;
            ensure!(facts.sealed, "{} is not sealed", path.display());
            if facts.key.label.contains("/x509/") {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("no key of an X.509 authority in {}", keys.display())
}

/// The start of `node` is refused with these words about its file.
fn refused(cluster: &mut Cluster, id: &str, file: &Path, why: &str) -> anyhow::Result<()> {
    let error = cluster.restart(id, &[]).err().context("it started")?;
    let said = error.to_string();
    ensure!(
        said.contains(&file.display().to_string()) && said.contains(why),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_goes_on_with_the_authority_whose_key_it_has() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        keys: "disk",
        ..Options::default()
    })?;
    let nodes = cluster.nodes().to_vec();
    let trust = cluster.trust()?;
    let token = cluster.token(&nodes[0]).await?;
    let agent = Agent::attest(&nodes[0].api, &trust, &token, None).await?;
    cluster
        .create(&nodes[0], vec![cluster.entry(agent.path(), "/kept")])
        .await?;
    let mut before = Vec::new();
    for node in &nodes {
        before.push(active(node).await?);
    }
    ensure!(before[0].x509 != before[1].x509, "not each its own");
    ensure!(published(&nodes[0]).await? == (3, 3));

    let last = nodes[2].id.clone();
    for round in 0..count(3, 12) {
        // In turn: one that is asked to end, one that is killed, all.
        let id = if round % 3 == 2 { "all" } else { &last };
        if round % 3 == 1 {
            cluster.signal(id, KILL)?;
        }
        cluster.restart(id, &[])?;
        for (node, before) in cluster.nodes().to_vec().iter().zip(&before) {
            let now = active(node).await?;
            ensure!(now == *before, "round {round}, node {}: {now:?}", node.id);
            let published = published(node).await?;
            ensure!(published == (3, 3), "round {round}: {published:?}");
            // With the bundle of the first day.
            ensure!(!agent.round(&node.api).await?.is_empty(), "nothing signed");
        }
    }

    // What is damaged keeps the node out, and is named.
    let file = x509_key_file(&nodes[2])?;
    let whole = std::fs::read(&file)?;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&file, &damaged)?;
    refused(&mut cluster, &last, &file, "damaged")?;
    std::fs::write(&file, &whole[..whole.len() - 9])?;
    refused(&mut cluster, &last, &file, "torn")?;
    std::fs::write(&file, &whole)?;
    cluster.restart(&last, &[])?;
    ensure!(active(cluster.node(&last)?).await? == before[2]);

    // A key that is gone stays gone: the node makes another, the root of before stays.
    std::fs::remove_file(&file)?;
    cluster.restart(&last, &[])?;
    let now = active(cluster.node(&last)?).await?;
    ensure!(
        now.x509 != before[2].x509 && now.jwt == before[2].jwt,
        "{now:?}"
    );
    ensure!(published(cluster.node(&last)?).await? == (4, 3));
    ensure!(x509_key_file(&nodes[2])? != file);
    Ok(())
}
