use std::sync::Arc;

use chancery_hsm::{KeyRef, KeySpec, KeyType, MemorySigner, Signer as _};
use chancery_identity::bundle::X509Authority as BundleX509;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::Profile;

use super::*;
use crate::issue::{
    CertificateRequest, Draw, X509Authority, prepare_certificate, prepare_self_signed,
};

const NOW: i64 = 1_767_225_600;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn draw(seed: u8) -> Draw {
    Draw {
        now: NOW,
        serial: [seed; 16],
        spread: 0,
    }
}

async fn generate(signer: &MemorySigner, id: u8) -> (KeyRef, PublicKey) {
    let key = KeyRef {
        id: [id; 16].into(),
        label: format!("test-{id}"),
    };
    let spec = KeySpec {
        key: key.clone(),
        key_type: KeyType::EcP256,
    };
    let info = signer.generate(&spec).await.unwrap();
    (key, PublicKey::from_spki_der(&info.spki_der).unwrap())
}

async fn root(signer: &MemorySigner, seed: u8) -> Arc<X509Authority> {
    let (key, public_key) = generate(signer, seed).await;
    let request = CertificateRequest {
        profile: Profile::SelfSignedCa,
        id: &SpiffeId::of_trust_domain(&domain()),
        public_key: &public_key,
        subject: Subject::of_authorities(),
        ttl_seconds: 7200,
    };
    let prepared = prepare_self_signed(key.clone(), request, &draw(seed)).unwrap();
    let der = prepared.sign(signer).await.unwrap().certificate_der;
    Arc::new(X509Authority::new(&domain(), key, der, vec![]).unwrap())
}

async fn issue(
    signer: &MemorySigner,
    authority: &Arc<X509Authority>,
    profile: Profile,
    id: &SpiffeId,
    key: &PublicKey,
) -> Vec<Vec<u8>> {
    let subject = if profile.is_ca() {
        authority.downstream_subject().unwrap()
    } else {
        Subject::of_svids()
    };
    let request = CertificateRequest {
        profile,
        id,
        public_key: key,
        subject,
        ttl_seconds: 3600,
    };
    let prepared = prepare_certificate(authority, request, &draw(99)).unwrap();
    prepared.sign(signer).await.unwrap().chain
}

fn bundle(roots: &[&X509Authority]) -> Bundle {
    let mut bundle = Bundle::new(domain());
    bundle.x509_authorities = roots
        .iter()
        .map(|root| BundleX509::new(root.certificate_der().to_vec(), false).unwrap())
        .collect();
    bundle
}

#[tokio::test]
async fn the_chain_is_told_from_the_server_to_its_root() {
    let signer = MemorySigner::new();
    let (other, root) = (root(&signer, 1).await, root(&signer, 2).await);
    let (_, key) = generate(&signer, 3).await;
    let server = SpiffeId::server(&domain());
    let chain = issue(&signer, &root, Profile::Server, &server, &key).await;
    let told = chain_message(&chain, &bundle(&[&other, &root]), NOW).unwrap();
    let leaf = Cert {
        id: Some(wire::id_message(&domain(), "/spire/server")),
        expires_at: NOW + 3600,
        subject: "O=SPIRE,C=US".into(),
    };
    let top = Cert {
        id: Some(wire::id_message(&domain(), "")),
        expires_at: NOW + 7200,
        subject: format!("SERIALNUMBER={},O=SPIFFE,C=US", root.facts().serial()),
    };
    assert_eq!(told, [leaf.clone(), top.clone()]);

    // With a signing certificate in between.
    let (key_of_ca, public_key) = generate(&signer, 4).await;
    let id = SpiffeId::of_trust_domain(&domain());
    let below = issue(&signer, &root, Profile::DownstreamCa, &id, &public_key).await;
    let below = X509Authority::new(&domain(), key_of_ca, below[0].clone(), below).unwrap();
    let chain = issue(&signer, &Arc::new(below), Profile::Server, &server, &key).await;
    let told = chain_message(&chain, &bundle(&[&root]), NOW).unwrap();
    let subjects: Vec<&str> = told.iter().map(|cert| cert.subject.as_str()).collect();
    let serial = root.facts().serial();
    let middle = format!("SERIALNUMBER={serial},OU=DOWNSTREAM-1,O=SPIFFE,C=US");
    assert_eq!(subjects, [&leaf.subject, &middle, &top.subject]);
}

#[tokio::test]
async fn a_chain_that_does_not_verify_is_an_error_as_in_spire() {
    let signer = MemorySigner::new();
    let (other, root) = (root(&signer, 1).await, root(&signer, 2).await);
    let (_, key) = generate(&signer, 3).await;
    let server = SpiffeId::server(&domain());
    let chain = issue(&signer, &root, Profile::Server, &server, &key).await;
    for (bundle, now) in [(bundle(&[&other]), NOW), (bundle(&[&root]), NOW + 3601)] {
        let status = chain_message(&chain, &bundle, now).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
        let text = status.message();
        assert!(
            text.starts_with("failed verification against bundle: "),
            "{text}"
        );
    }
}
