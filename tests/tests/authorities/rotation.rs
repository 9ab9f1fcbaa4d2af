//! Authorities that rotate by themselves, and what has ended leaves the bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_identity::jwt_svid::validate;
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::{Purpose, verify_chain};
use chancery_tests::cluster::{Cluster, Node, Options, eventually};
use chancery_tests::tls::connect_admin;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;

use super::{bundle, show};

const KILL: i32 = 9;
const LIMIT: Duration = Duration::from_secs(600);
const WORKLOAD: &str = "spiffe://example.org/rotated";

fn now() -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_secs())?)
}

fn csr() -> anyhow::Result<Vec<u8>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::URI(WORKLOAD.try_into()?)];
    let key = KeyPair::generate()?;
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// Which authorities sign on a node: what it mints, verified with the bundle of `verifier`; the
/// X.509-SVID with a chain of `certificates`. `None` where it cannot mint at the moment.
async fn signing(
    node: &Node,
    verifier: &Node,
    certificates: usize,
) -> anyhow::Result<Option<[String; 2]>> {
    let Ok(channel) = connect_admin(&node.admin_socket).await else {
        return Ok(None);
    };
    let mut client = SvidClient::new(channel);
    let csr = csr()?;
    let minted = client.mint_x509svid(MintX509svidRequest { csr, ttl: 0 });
    let Ok(x509) = minted.await else {
        return Ok(None);
    };
    let token = client.mint_jwtsvid(MintJwtsvidRequest {
        id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: "/rotated".into(),
        }),
        audience: vec!["someone".into()],
        ttl: 0,
    });
    let Ok(jwt) = token.await else {
        return Ok(None);
    };
    let x509 = x509.into_inner().svid.context("an X.509-SVID")?;
    let jwt = jwt.into_inner().svid.context("a JWT-SVID")?.token;

    let trusted = bundle(verifier).await?;
    let trust_domain = TrustDomain::parse("example.org")?;
    ensure!(
        x509.cert_chain.len() == certificates,
        "a chain of {}",
        x509.cert_chain.len()
    );
    let chain: Vec<_> = x509
        .cert_chain
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let mut issuer = None;
    for root in trusted.x509_authorities {
        let roots = [root.asn1];
        if verify_chain(&chain, &trust_domain, &roots, Purpose::Client, now()?).is_ok() {
            issuer = roots.first().map(hex::encode);
        }
    }
    let issuer = issuer.context("an X.509-SVID of no root of the bundle")?;
    let mut signer = None;
    for key in trusted.jwt_authorities {
        let public = PublicKey::from_spki_der(&key.public_key)?;
        let keys = BTreeMap::from([(key.key_id.clone(), public)]);
        if validate(&jwt, &keys, &trust_domain, "someone", now()?).is_ok() {
            signer = Some(key.key_id);
        }
    }
    let signer = signer.context("a JWT-SVID of no key of the bundle")?;
    Ok(Some([issuer, signer]))
}

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
            let Some(ids) = signing(node, verifier, certificates).await? else {
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
        signing(&node, &node, certificates).await
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
