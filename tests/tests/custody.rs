//! Keys in a token that is a process of its own: what happens when it stops, dies and comes back,
//! and that nothing of a key is ever outside it.

#[path = "custody/away.rs"]
mod away;
#[path = "custody/proof.rs"]
mod proof;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::svid::v1::MintX509svidRequest;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_tests::cluster::{Cluster, Node, Options};
use chancery_tests::tls::connect_admin;
use chancery_tests::token_server::TokenServer;
use rcgen::{CertificateParams, KeyPair, SanType};

/// Three nodes that share the token of a server.
fn cluster(token: &TokenServer, extra: &str) -> anyhow::Result<Cluster> {
    let (variable, address) = token.environment();
    Cluster::start(&Options {
        keys: "extra",
        env: &[(variable, &address)],
        extra: &format!("{extra}{}", token.keys()?),
        ..Options::default()
    })
}

fn csr() -> anyhow::Result<Vec<u8>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org/w".try_into()?)];
    let key = KeyPair::generate()?;
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// Has a node sign an X.509-SVID.
async fn mint(node: &Node, csr: Vec<u8>) -> anyhow::Result<()> {
    let mut client = SvidClient::new(connect_admin(&node.admin_socket).await?);
    let minted = client.mint_x509svid(MintX509svidRequest { csr, ttl: 0 });
    let svid = minted.await?.into_inner().svid.context("no SVID")?;
    ensure!(!svid.cert_chain.is_empty(), "no certificate");
    Ok(())
}
