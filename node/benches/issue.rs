//! What one document costs beside the cryptography that it cannot do without.
//!
//! Each group measures the whole path with a P-256 key in memory, and in the same run the bare
//! operations of the library under it. Signing cost is sound while `whole` stays near the sum of
//! the bare ones:
//!
//! ```text
//! cargo bench -p chancery-node --bench issue
//! ```

// A bench that cannot be set up has nothing to report, and its keys come from the system's
// generator.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use chancery_hsm::{KeyRef, KeySpec, KeyType, MemorySigner, Signer};
use chancery_identity::csr::Csr;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::Profile;
use chancery_node::issue::{
    CertificateRequest, Draw, JwtAuthority, Subject, TokenRequest, X509Authority,
    prepare_certificate, prepare_self_signed, prepare_token,
};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};

const NOW: i64 = 1_767_225_600;
/// About what is signed for a workload certificate.
const MESSAGE_BYTES: usize = 450;

struct Fixture {
    runtime: Runtime,
    signer: MemorySigner,
    trust_domain: TrustDomain,
    key: KeyRef,
    public_key: PublicKey,
    drawn: u128,
}

impl Fixture {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().build().unwrap();
        let signer = MemorySigner::new();
        let key = KeyRef {
            id: [1; 16].into(),
            label: "bench".into(),
        };
        let spec = KeySpec {
            key: key.clone(),
            key_type: KeyType::EcP256,
        };
        let info = runtime.block_on(signer.generate(&spec)).unwrap();
        Fixture {
            public_key: PublicKey::from_spki_der(&info.spki_der).unwrap(),
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            runtime,
            signer,
            key,
            drawn: 1 << 120,
        }
    }

    /// Another serial each time, as in life.
    fn draw(&mut self) -> Draw {
        self.drawn += 1;
        Draw {
            now: NOW,
            serial: self.drawn.to_be_bytes(),
            spread: 0,
        }
    }

    fn x509_authority(&mut self) -> Arc<X509Authority> {
        let request = CertificateRequest {
            profile: Profile::SelfSignedCa,
            id: &SpiffeId::of_trust_domain(&self.trust_domain),
            public_key: &self.public_key.clone(),
            subject: Subject::of_authorities(),
            ttl_seconds: 86_400,
        };
        let prepared = prepare_self_signed(self.key.clone(), request, &self.draw()).unwrap();
        let issued = self.runtime.block_on(prepared.sign(&self.signer)).unwrap();
        let key = self.key.clone();
        let certificate = issued.certificate_der;
        Arc::new(X509Authority::new(&self.trust_domain, key, certificate, vec![]).unwrap())
    }
}

fn request() -> Vec<u8> {
    let pair = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&pair);
    request.unwrap().der().to_vec()
}

/// The library's own sign and verify, for the ratio.
fn bare(group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let random = SystemRandom::new();
    let message = [7u8; MESSAGE_BYTES];
    group.bench_function("bare_sign", |bencher| {
        bencher.iter(|| pair.sign(&random, black_box(&message)).unwrap());
    });
    let signature = pair.sign(&random, &message).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key().as_ref());
    group.bench_function("bare_verify", |bencher| {
        bencher.iter(|| {
            public
                .verify(black_box(&message), signature.as_ref())
                .unwrap()
        });
    });
}

fn workload_certificate(criterion: &mut Criterion) {
    let mut fixture = Fixture::new();
    let authority = fixture.x509_authority();
    let id = SpiffeId::new(&fixture.trust_domain, "/ns/default/sa/web").unwrap();
    let der = request();
    let mut group = criterion.benchmark_group("x509_svid_p256");
    group.throughput(Throughput::Elements(1));
    bare(&mut group);
    let issue = |fixture: &mut Fixture, public_key: &PublicKey| {
        let request = CertificateRequest {
            profile: Profile::Workload { dns_names: vec![] },
            id: &id,
            public_key,
            subject: Subject::of_svids(),
            ttl_seconds: 3600,
        };
        let prepared = prepare_certificate(&authority, request, &fixture.draw()).unwrap();
        fixture
            .runtime
            .block_on(prepared.sign(&fixture.signer))
            .unwrap()
    };
    group.bench_function("whole", |bencher| {
        bencher.iter(|| {
            let csr = Csr::parse(black_box(&der)).unwrap();
            csr.verify_signature().unwrap();
            issue(&mut fixture, csr.public_key())
        });
    });
    let public_key = Csr::parse(&der).unwrap().public_key().clone();
    group.bench_function("whole_without_request", |bencher| {
        bencher.iter(|| issue(&mut fixture, black_box(&public_key)));
    });
    group.finish();
}

fn token(criterion: &mut Criterion) {
    let mut fixture = Fixture::new();
    let (key, spki) = (fixture.key.clone(), fixture.public_key.spki_der().to_vec());
    let authority = JwtAuthority::new("kid".into(), key, &spki, NOW + 86_400).unwrap();
    let authority = Arc::new(authority);
    let id = SpiffeId::new(&fixture.trust_domain, "/ns/default/sa/web").unwrap();
    let mut group = criterion.benchmark_group("jwt_svid_es256");
    group.throughput(Throughput::Elements(1));
    bare(&mut group);
    group.bench_function("whole", |bencher| {
        bencher.iter(|| {
            let request = TokenRequest {
                id: &id,
                audience: vec!["spiffe://example.org/ns/default/sa/db".into()],
                ttl_seconds: 300,
                issuer: None,
                with_jwt_id: false,
            };
            let prepared = prepare_token(&authority, request, &fixture.draw()).unwrap();
            fixture
                .runtime
                .block_on(prepared.sign(&fixture.signer))
                .unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, workload_certificate, token);
criterion_main!(benches);
