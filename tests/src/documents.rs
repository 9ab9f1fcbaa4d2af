//! What a node signs, judged by what another one trusts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_identity::jwt_svid::validate;
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::{Purpose, verify_chain};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;

use crate::tls::connect_admin;

const WORKLOAD: &str = "spiffe://example.org/rotated";

/// The bundle, as the node behind an admin socket tells it.
pub async fn bundle(socket: &Path) -> anyhow::Result<types::Bundle> {
    let mut client = BundleClient::new(connect_admin(socket).await?);
    let request = GetBundleRequest { output_mask: None };
    Ok(client.get_bundle(request).await?.into_inner())
}

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

/// Which authorities sign on the node behind an admin socket, by what it mints, verified with the
/// bundle of `verifier`: the root in hex, of an X.509-SVID with a chain of `certificates`, and the
/// JWT key's id. `None` where it cannot mint at the moment.
pub async fn signing(
    node: &Path,
    verifier: &Path,
    certificates: usize,
) -> anyhow::Result<Option<[String; 2]>> {
    let Ok(channel) = connect_admin(node).await else {
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
