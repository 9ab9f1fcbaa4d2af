//! Authorities with keys of every type that can be configured, in every backend, and from one type
//! to another.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_identity::key::{KeyKind, PublicKey};
use chancery_tests::cluster::{Cluster, Node, Options, eventually, long, text};
use chancery_tests::documents::{bundle, signing};

const LIMIT: Duration = Duration::from_secs(120);

/// What a node signs with: the kinds of the keys of its root and of its JWT authority, by documents
/// that verify with the bundle, the X.509-SVID with a chain of `certificates`.
async fn kinds(node: &Node, certificates: usize) -> anyhow::Result<[KeyKind; 2]> {
    let socket = &node.admin_socket;
    let [root, kid] =
        eventually("documents", LIMIT, || signing(socket, socket, certificates)).await?;
    let trusted = bundle(socket).await?;
    let keys: BTreeMap<_, _> = trusted
        .jwt_authorities
        .into_iter()
        .map(|key| (key.key_id, key.public_key))
        .collect();
    let jwt = PublicKey::from_spki_der(&keys[&kid])?.kind();
    let der = hex::decode(root)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)?;
    let root = PublicKey::from_spki_der(certificate.public_key().raw)?.kind();
    Ok([root, jwt])
}

fn kind(name: &str) -> KeyKind {
    match name {
        "ec-p384" => KeyKind::EcP384,
        "rsa-2048" => KeyKind::Rsa { bits: 2048 },
        "rsa-4096" => KeyKind::Rsa { bits: 4096 },
        _ => KeyKind::EcP256,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_have_keys_of_the_configured_type() -> anyhow::Result<()> {
    let mut cases = vec![
        ("softhsm", "ec-p384"),
        ("softhsm", "rsa-2048"),
        ("disk", "ec-p384"),
        ("memory", "rsa-2048"),
    ];
    if long() {
        cases.extend([
            ("softhsm", "rsa-4096"),
            ("disk", "rsa-2048"),
            ("disk", "rsa-4096"),
            ("memory", "ec-p384"),
            ("memory", "rsa-4096"),
        ]);
    }
    for (keys, name) in cases {
        let cluster = Cluster::start(&Options {
            nodes: 1,
            keys,
            extra: &format!("\n[issuance]\nca_key_type = \"{name}\"\n"),
            ..Options::default()
        })
        .with_context(|| format!("{keys}, {name}"))?;
        let node = &cluster.nodes()[0];
        let signed = kinds(node, 1).await?;
        ensure!(signed == [kind(name); 2], "{keys}, {name}: {signed:?}");
        // A CA of the node's own is of P-256, whatever certifies it.
        let mode = cluster.cli(node, &["issuance", "mode", "intermediate"])?;
        ensure!(mode.status.success(), "{}", text(&mode));
        let signed = kinds(node, 2).await?;
        ensure!(signed == [kind(name); 2], "{keys}, {name}: {signed:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_authority_has_the_type_that_is_configured_then() -> anyhow::Result<()> {
    let old = "ca_key_type = \"ec-p256\"";
    let mut cluster = Cluster::start(&Options {
        extra: &format!("\n[issuance]\n{old}\n"),
        ..Options::default()
    })?;
    let nodes = cluster.nodes().to_vec();
    ensure!(kinds(&nodes[0], 1).await? == [KeyKind::EcP256; 2]);
    for node in &nodes {
        let config = std::fs::read_to_string(&node.config)?;
        ensure!(config.contains(old), "{config}");
        std::fs::write(
            &node.config,
            config.replace(old, "ca_key_type = \"rsa-2048\""),
        )?;
        cluster.restart(&node.id, &[])?;
    }
    for of in ["x509", "jwt"] {
        let next = cluster.authority(&nodes[0], of, "prepare", "")?;
        cluster.authority(&nodes[0], of, "activate", &next)?;
    }
    for node in &nodes {
        let wanted = [kind("rsa-2048"); 2];
        eventually("documents of the new authorities", LIMIT, || async {
            Ok((kinds(node, 1).await? == wanted).then_some(()))
        })
        .await?;
    }
    Ok(())
}
