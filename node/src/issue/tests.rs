#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use chancery_hsm::{
    BackendKind, Health, KeyListing, KeyRef, KeySpec, KeyType, MemorySigner, PublicKeyInfo,
    Signature, SignatureAlgorithm, Signer, SignerError,
};
use chancery_identity::csr::Csr;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::jwt_svid::{ClaimsError, JwtViolation, validate};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::{
    CaFacts, Facts, Profile, ProfileViolation, Purpose, VerifyError, verify_chain,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

const NOW: i64 = 1_767_225_600;
const DAY: i64 = 86_400;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&domain(), path).unwrap()
}

/// A draw that is the same for the same `seed` and has more than 64 bits of serial.
fn draw(seed: u8) -> Draw {
    Draw {
        now: NOW,
        serial: [seed.max(1); 16],
        spread: 0,
    }
}

/// A public key with its request, as an agent would send it.
fn requested_key() -> PublicKey {
    let pair = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default()
        .serialize_request(&pair)
        .unwrap();
    let csr = Csr::parse(request.der()).unwrap();
    csr.verify_signature().unwrap();
    csr.public_key().clone()
}

async fn generate(signer: &dyn Signer, key_type: KeyType, id: u8) -> (KeyRef, PublicKey) {
    let key = KeyRef {
        id: [id; 16].into(),
        label: format!("test-{id}"),
    };
    let spec = KeySpec {
        key: key.clone(),
        key_type,
    };
    let info = signer.generate(&spec).await.unwrap();
    (key, PublicKey::from_spki_der(&info.spki_der).unwrap())
}

/// A root of `ttl_seconds` whose key `signer` makes.
async fn root(signer: &dyn Signer, key_type: KeyType, ttl_seconds: i64) -> Arc<X509Authority> {
    let (key, public_key) = generate(signer, key_type, 1).await;
    let request = CertificateRequest {
        profile: Profile::SelfSignedCa,
        id: &id(""),
        public_key: &public_key,
        subject: Subject::of_authorities(),
        ttl_seconds,
    };
    let prepared = prepare_self_signed(key.clone(), request, &draw(200)).unwrap();
    let issued = prepared.sign(signer).await.unwrap();
    assert_eq!(issued.chain, std::slice::from_ref(&issued.certificate_der));
    let authority = X509Authority::new(&domain(), key, issued.certificate_der, vec![]).unwrap();
    assert_eq!(authority.id(), issued.authority_id);
    Arc::new(authority)
}

fn leaf<'a>(profile: Profile, id: &'a SpiffeId, key: &'a PublicKey) -> CertificateRequest<'a> {
    CertificateRequest {
        profile,
        id,
        public_key: key,
        subject: Subject::of_svids(),
        ttl_seconds: 3600,
    }
}

fn workload(dns_names: &[&str]) -> Profile {
    Profile::Workload {
        dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// What webpki and the SPIFFE rules say to a peer that presents `chain`.
fn verify(chain: &[Vec<u8>], root: &X509Authority) -> Result<Facts, VerifyError> {
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
    let roots = [root.certificate_der().to_vec()];
    verify_chain(&chain, &domain(), &roots, Purpose::Either, NOW)
}

fn subject_of(der: &[u8]) -> String {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    certificate.subject().to_string()
}

#[tokio::test]
async fn every_leaf_proves_its_id_under_every_type_of_authority_key() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let signer = MemorySigner::new();
        let root = root(&signer, key_type, DAY).await;
        for (seed, (profile, path)) in [
            (Profile::Server, "/spire/server"),
            (Profile::Agent, "/spire/agent/join_token/x"),
            (workload(&[]), "/workload"),
            (workload(&["a.example.org", "*.b.example.org"]), "/workload"),
        ]
        .into_iter()
        .enumerate()
        {
            let (id, key) = (id(path), requested_key());
            let draw = draw(u8::try_from(seed).unwrap() + 1);
            let prepared = prepare_certificate(&root, leaf(profile, &id, &key), &draw).unwrap();
            assert_eq!(prepared.draft().authority_id(), root.id());
            let issued = prepared.sign(&signer).await.unwrap();
            assert_eq!(issued.chain, std::slice::from_ref(&issued.certificate_der));
            let facts = verify(&issued.chain, &root).unwrap();
            assert_eq!(facts, issued.facts);
            assert_eq!(facts.id, id);
            assert_eq!(facts.public_key, key);
            assert_eq!(facts.serial.as_bytes(), draw.serial);
            assert_eq!((facts.not_before, facts.not_after), (NOW - 10, NOW + 3600));
            assert!(!issued.capped);
        }
    }
}

#[tokio::test]
async fn an_intermediate_signs_leaves_that_lead_to_the_root() {
    let signer = MemorySigner::new();
    let root = root(&signer, KeyType::EcP256, DAY).await;
    let (key, public_key) = generate(&signer, KeyType::EcP256, 2).await;
    let trust_domain_id = id("");
    let request = CertificateRequest {
        subject: Subject::of_authorities(),
        ..leaf(Profile::Intermediate, &trust_domain_id, &public_key)
    };
    let issued = prepare_certificate(&root, request, &draw(7)).unwrap();
    let issued = issued.sign(&signer).await.unwrap();
    let chain = vec![issued.certificate_der.clone()];
    let intermediate = X509Authority::new(&domain(), key, issued.certificate_der, chain).unwrap();
    assert_eq!(intermediate.facts().path_len(), Some(0));
    let intermediate = Arc::new(intermediate);

    let (workload_id, key) = (id("/w"), requested_key());
    let request = leaf(workload(&[]), &workload_id, &key);
    let prepared = prepare_certificate(&intermediate, request, &draw(8)).unwrap();
    let issued = prepared.sign(&signer).await.unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(verify(&issued.chain, &root), Ok(issued.facts.clone()));
    assert!(verify(&issued.chain[..1], &root).is_err());

    // Path length zero: no CA below it, whatever is asked.
    for profile in [Profile::Intermediate, Profile::DownstreamCa] {
        let request = leaf(profile, &trust_domain_id, &key);
        assert!(matches!(
            prepare_certificate(&intermediate, request, &draw(9)),
            Err(IssueError::Certificate(ProfileViolation::IssuerPathLength))
        ));
    }
}

#[tokio::test]
async fn subjects_are_those_of_spire() {
    let signer = MemorySigner::new();
    let root = root(&signer, KeyType::EcP256, DAY).await;
    let serial = root.facts().serial().to_string();
    assert_eq!(
        subject_of(root.certificate_der()),
        format!("C=US, O=SPIFFE, serialNumber={serial}")
    );
    let (workload_id, trust_domain_id, key) = (id("/w"), id(""), requested_key());
    let downstream = CertificateRequest {
        subject: root.downstream_subject().unwrap(),
        ..leaf(Profile::DownstreamCa, &trust_domain_id, &key)
    };
    for (request, subject) in [
        (
            leaf(workload(&[]), &workload_id, &key),
            "C=US, O=SPIRE".to_owned(),
        ),
        (
            leaf(workload(&["a.org", "b.org"]), &workload_id, &key),
            "C=US, O=SPIRE, CN=a.org".to_owned(),
        ),
        (
            downstream,
            format!("C=US, O=SPIFFE, OU=DOWNSTREAM-1, serialNumber={serial}"),
        ),
    ] {
        let prepared = prepare_certificate(&root, request, &draw(3)).unwrap();
        let issued = prepared.sign(&signer).await.unwrap();
        assert_eq!(subject_of(&issued.certificate_der), subject);
        let (_, parsed) = X509Certificate::from_der(&issued.certificate_der).unwrap();
        assert_eq!(parsed.issuer().as_raw(), root.facts().subject_der());
    }
}

#[tokio::test]
async fn an_issuer_name_that_someone_else_encoded_is_kept_byte_for_byte() {
    // As an upstream may write it: UTF8String where we would write PrintableString, and an
    // attribute that we do not know.
    let signer = MemorySigner::new();
    let (key, public_key) = generate(&signer, KeyType::EcP256, 5).await;
    let upstream = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = time::OffsetDateTime::from_unix_timestamp(NOW - DAY).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(NOW + DAY).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let odd = rcgen::DnType::CustomDnType(vec![2, 5, 4, 45]);
    params.distinguished_name.push(odd, "überseeisch");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "Upstream");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let ski = public_key.ski().to_vec();
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(ski);
    let issuer = rcgen::Issuer::from_params(&params, &upstream);
    let spki = rcgen::SubjectPublicKeyInfo::from_der(public_key.spki_der()).unwrap();
    let der = params.signed_by(&spki, &issuer).unwrap().der().to_vec();

    let authority = X509Authority::new(&domain(), key, der.clone(), vec![der]).unwrap();
    assert_eq!(
        authority.downstream_subject().unwrap(),
        Subject {
            organization: vec!["Upstream".into()],
            organizational_unit: vec!["DOWNSTREAM-1".into()],
            ..Subject::default()
        }
    );
    let (workload_id, key) = (id("/w"), requested_key());
    let request = leaf(workload(&[]), &workload_id, &key);
    let prepared = prepare_certificate(&Arc::new(authority), request, &draw(4)).unwrap();
    let issued = prepared.sign(&signer).await.unwrap();
    let (_, parsed) = X509Certificate::from_der(&issued.certificate_der).unwrap();
    let upstream = CaFacts::read(&issued.chain[1]).unwrap();
    assert_eq!(parsed.issuer().as_raw(), upstream.subject_der());
}

#[tokio::test]
async fn a_request_to_an_upstream_asks_for_our_trust_domain_and_proves_the_key() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let signer = Liar::new(BackendKind::Memory);
        let (key, public_key) = generate(&signer, key_type, 6).await;
        let prepare = || {
            let subject = Subject::of_authorities();
            prepare_request(key.clone(), &public_key, &domain(), subject, &draw(1)).unwrap()
        };
        let csr = Csr::parse(&prepare().sign(&signer).await.unwrap()).unwrap();
        assert_eq!(csr.verify_signature(), Ok(()));
        assert_eq!(csr.public_key(), &public_key);
        assert_eq!(
            csr.requested_names().unwrap().uris,
            ["spiffe://example.org"]
        );
        let subject = Subject::from_name_der(csr.subject_der()).unwrap();
        assert_eq!(subject.organization, ["SPIFFE"]);
        assert!(subject.serial_number.is_some());
        signer.lie(1);
        assert!(matches!(
            prepare().sign(&signer).await,
            Err(IssueError::WrongSignature(_))
        ));
    }
}

#[tokio::test]
async fn what_the_judge_refuses_never_reaches_the_key() {
    let signer = MemorySigner::new();
    let root = root(&signer, KeyType::EcP256, DAY).await;
    let key = requested_key();
    let foreign = SpiffeId::parse("spiffe://example.com/w").unwrap();
    let refuse_named = |profile, id: SpiffeId, subject| {
        let request = CertificateRequest {
            subject,
            ..leaf(profile, &id, &key)
        };
        match prepare_certificate(&root, request, &draw(1)) {
            Err(IssueError::Certificate(violation)) => violation,
            other => panic!("{other:?}"),
        }
    };
    let refuse = |profile, id| refuse_named(profile, id, Subject::of_svids());
    assert!(matches!(
        refuse(workload(&[]), id("/spire/server")),
        ProfileViolation::IdKind(_)
    ));
    assert!(matches!(
        refuse(Profile::Agent, id("/w")),
        ProfileViolation::IdKind(_)
    ));
    for (profile, path) in [
        (Profile::Server, "/spire/server2"),
        (Profile::DownstreamCa, "/w"),
    ] {
        assert_eq!(refuse(profile, id(path)), ProfileViolation::IdPath);
    }
    assert_eq!(
        refuse(workload(&[]), foreign),
        ProfileViolation::TrustDomain
    );
    assert_eq!(
        refuse(workload(&["-a"]), id("/w")),
        ProfileViolation::DnsNameInvalid
    );
    assert_eq!(
        refuse_named(workload(&[]), id("/w"), Subject::default()),
        ProfileViolation::EmptySubject
    );
    let small = Draw {
        serial: *b"\0\0\0\0\0\0\0\0\0chances",
        ..draw(1)
    };
    assert!(matches!(
        prepare_certificate(&root, leaf(workload(&[]), &id("/w"), &key), &small),
        Err(IssueError::Certificate(ProfileViolation::SerialShort(_)))
    ));
}

#[tokio::test]
async fn a_document_is_a_function_of_request_and_draw() {
    let signer = MemorySigner::new();
    // RSA, whose signatures are too.
    let root = root(&signer, KeyType::Rsa2048, DAY).await;
    let (id, key) = (id("/w"), requested_key());
    let issue = async |seed| {
        let request = leaf(workload(&[]), &id, &key);
        let prepared = prepare_certificate(&root, request, &draw(seed)).unwrap();
        prepared.sign(&signer).await.unwrap().certificate_der
    };
    assert_eq!(issue(1).await, issue(1).await);
    assert_ne!(issue(1).await, issue(2).await);
}

#[tokio::test]
async fn a_capped_certificate_says_so_and_an_ended_authority_signs_nothing() {
    let signer = MemorySigner::new();
    let root = root(&signer, KeyType::EcP256, 1800).await;
    let (id, key) = (id("/w"), requested_key());
    let prepared = prepare_certificate(&root, leaf(workload(&[]), &id, &key), &draw(1)).unwrap();
    let issued = prepared.sign(&signer).await.unwrap();
    assert!(issued.capped);
    assert_eq!(issued.facts.not_after, root.facts().not_after());
    let late = Draw {
        now: NOW + 1800,
        ..draw(1)
    };
    assert!(matches!(
        prepare_certificate(&root, leaf(workload(&[]), &id, &key), &late),
        Err(IssueError::AuthorityExpired { .. })
    ));
}

#[test]
fn a_prepared_document_cannot_be_cloned() {
    trait AmbiguousIfClone<A> {
        fn holds() {}
    }
    struct IsClone;
    impl<T: ?Sized> AmbiguousIfClone<()> for T {}
    impl<T: Clone> AmbiguousIfClone<IsClone> for T {}
    // Does not compile once either type is `Clone`.
    <Prepared<CertificateDraft> as AmbiguousIfClone<_>>::holds();
    <Prepared<TokenDraft> as AmbiguousIfClone<_>>::holds();
}

/// Signs other bytes than it is asked to, while `lies` are left, and says that it is `kind`.
struct Liar {
    inner: MemorySigner,
    kind: BackendKind,
    lies: AtomicU64,
    /// Signatures that were asked for ahead of others.
    firsts: AtomicU64,
}

impl Liar {
    fn new(kind: BackendKind) -> Self {
        Liar {
            inner: MemorySigner::new(),
            kind,
            lies: AtomicU64::new(0),
            firsts: AtomicU64::new(0),
        }
    }

    fn lie(&self, times: u64) {
        self.lies.store(times, Ordering::SeqCst);
    }
}

#[async_trait]
impl Signer for Liar {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn token_serials(&self) -> Vec<String> {
        self.inner.token_serials()
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        self.inner.generate(spec).await
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        self.inner.public_key(key).await
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        let lies = self.lies.load(Ordering::SeqCst);
        if lies > 0 {
            self.lies.store(lies - 1, Ordering::SeqCst);
            return self.inner.sign(key, algorithm, b"something else").await;
        }
        self.inner.sign(key, algorithm, message).await
    }

    async fn sign_first(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.firsts.fetch_add(1, Ordering::SeqCst);
        self.sign(key, algorithm, message).await
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        self.inner.delete(key).await
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        self.inner.list(label_prefix).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

#[tokio::test]
async fn authorities_go_ahead_of_documents_and_a_downstream_server_s_does_not() {
    let signer = Liar::new(BackendKind::Pkcs11);
    let root = root(&signer, KeyType::EcP256, DAY).await;
    assert_eq!(signer.firsts.load(Ordering::SeqCst), 1, "the root");
    let (trust_domain_id, workload_id, key) = (id(""), id("/w"), requested_key());
    for (profile, id, first) in [
        (Profile::Intermediate, &trust_domain_id, 1),
        (Profile::DownstreamCa, &trust_domain_id, 0),
        (workload(&[]), &workload_id, 0),
    ] {
        signer.firsts.store(0, Ordering::SeqCst);
        let request = leaf(profile.clone(), id, &key);
        let prepared = prepare_certificate(&root, request, &draw(1)).unwrap();
        prepared.sign(&signer).await.unwrap();
        assert_eq!(signer.firsts.load(Ordering::SeqCst), first, "{profile:?}");
    }
}

#[tokio::test]
async fn every_signature_of_a_token_is_verified_before_it_leaves() {
    let signer = Liar::new(BackendKind::Pkcs11);
    let root = root(&signer, KeyType::EcP256, DAY).await;
    let (id, key) = (id("/w"), requested_key());
    for lies in [0, 1, 0, 1, 1, 0] {
        signer.lie(lies);
        let request = leaf(workload(&[]), &id, &key);
        let prepared = prepare_certificate(&root, request, &draw(1)).unwrap();
        let issued = prepared.sign(&signer).await;
        assert_eq!(
            matches!(issued, Err(IssueError::WrongSignature(_))),
            lies == 1
        );
    }
}

#[tokio::test]
async fn a_memory_key_is_verified_at_first_at_intervals_and_after_a_bad_signature() {
    let signer = Liar::new(BackendKind::Memory);
    let (reference, public_key) = generate(&signer, KeyType::EcP256, 1).await;
    let signature = signer.sign(&reference, SignatureAlgorithm::EcdsaP256Sha256, b"m");
    let signature = signature.await.unwrap();
    let key = SigningKey::new(reference, public_key).unwrap();
    let due: Vec<u64> = (0..=2 * MEMORY_CHECK_INTERVAL)
        .filter(|_| key.is_due(BackendKind::Memory, &signature))
        .collect();
    assert_eq!(due, [0, MEMORY_CHECK_INTERVAL, 2 * MEMORY_CHECK_INTERVAL]);
    assert!(!key.is_due(BackendKind::Memory, &signature));
    key.distrust();
    assert!(key.is_due(BackendKind::Memory, &signature));
    assert!(key.is_due(BackendKind::Pkcs11, &signature));
}

#[tokio::test]
async fn a_wrong_first_signature_of_a_memory_key_is_caught() {
    let signer = Liar::new(BackendKind::Memory);
    let root = root(&signer, KeyType::EcP256, DAY).await;
    let (id, key) = (id("/w"), requested_key());
    signer.lie(1);
    let prepared = prepare_certificate(&root, leaf(workload(&[]), &id, &key), &draw(1)).unwrap();
    assert!(matches!(
        prepared.sign(&signer).await,
        Err(IssueError::WrongSignature(_))
    ));
}

#[tokio::test]
async fn a_signer_that_fails_lets_nothing_leave() {
    let signer = MemorySigner::new();
    let root = root(&signer, KeyType::EcP256, DAY).await;
    signer.delete(root.key().reference()).await.unwrap();
    let (id, key) = (id("/w"), requested_key());
    let prepared = prepare_certificate(&root, leaf(workload(&[]), &id, &key), &draw(1)).unwrap();
    let error = prepared.sign(&signer).await.unwrap_err();
    assert!(matches!(
        error,
        IssueError::Signer(SignerError::NotFound { .. })
    ));
    assert!(!error.is_our_mistake());
}

#[test]
fn only_signing_certificates_of_the_trust_domain_become_authorities() {
    let key = KeyRef {
        id: [1; 16].into(),
        label: "k".into(),
    };
    let junk = X509Authority::new(&domain(), key, b"junk".to_vec(), vec![]);
    assert!(matches!(junk, Err(IssueError::Authority(_))));
}

async fn jwt_authority(signer: &dyn Signer, key_type: KeyType) -> Arc<JwtAuthority> {
    let (key, public_key) = generate(signer, key_type, 3).await;
    let spki = public_key.spki_der();
    Arc::new(JwtAuthority::new("kid".into(), key, spki, NOW + 1800).unwrap())
}

fn token<'a>(id: &'a SpiffeId, audience: &[&str]) -> TokenRequest<'a> {
    TokenRequest {
        id,
        audience: audience.iter().map(|aud| (*aud).to_owned()).collect(),
        ttl_seconds: 300,
        issuer: None,
        with_jwt_id: false,
    }
}

#[tokio::test]
async fn tokens_of_every_type_of_key_are_believed() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let signer = MemorySigner::new();
        let authority = jwt_authority(&signer, key_type).await;
        let workload_id = id("/w");
        let request = TokenRequest {
            issuer: Some("https://issuer".into()),
            with_jwt_id: true,
            ..token(&workload_id, &["a", "", "b"])
        };
        let prepared = prepare_token(&authority, request, &draw(9)).unwrap();
        assert_eq!(prepared.draft().kid(), "kid");
        let issued = prepared.sign(&signer).await.unwrap();
        let keys = BTreeMap::from([("kid".to_owned(), authority.key().public_key().clone())]);
        let believed = validate(&issued.token, &keys, &domain(), "b", NOW).unwrap();
        assert_eq!(believed.id, workload_id);
        assert_eq!(believed.audience, ["a", "b"]);
        assert_eq!(believed.expires_at, NOW + 300);
        assert_eq!(believed.claims["iat"], NOW);
        assert_eq!(believed.claims["iss"], "https://issuer");
        // 16 bytes of 9, marked as a version 4 UUID.
        assert_eq!(believed.claims["jti"], "CQkJCQkJSQmJCQkJCQkJCQ");
        assert_eq!(issued.claims.expires_at(), NOW + 300);
        assert!(!issued.capped);
    }
}

#[tokio::test]
async fn a_token_never_outlives_its_authority() {
    let signer = MemorySigner::new();
    let authority = jwt_authority(&signer, KeyType::EcP256).await;
    let workload_id = id("/w");
    let request = TokenRequest {
        ttl_seconds: 3600,
        ..token(&workload_id, &["a"])
    };
    let issued = prepare_token(&authority, request, &draw(1)).unwrap();
    let issued = issued.sign(&signer).await.unwrap();
    assert!(issued.capped);
    assert_eq!(issued.claims.expires_at(), NOW + 1800);
    let late = Draw {
        now: NOW + 1800,
        ..draw(1)
    };
    assert!(matches!(
        prepare_token(&authority, token(&workload_id, &["a"]), &late),
        Err(IssueError::AuthorityExpired { .. })
    ));
}

#[tokio::test]
async fn tokens_for_nobody_or_for_nowhere_are_refused_before_signing() {
    let signer = MemorySigner::new();
    let authority = jwt_authority(&signer, KeyType::EcP256).await;
    assert!(matches!(
        prepare_token(&authority, token(&id("/w"), &[""]), &draw(1)),
        Err(IssueError::Claims(ClaimsError::NoAudience))
    ));
    assert!(matches!(
        prepare_token(&authority, token(&id(""), &["a"]), &draw(1)),
        Err(IssueError::Token(JwtViolation::SubjectPath))
    ));
}

#[tokio::test]
async fn a_wrong_signature_over_a_token_is_caught() {
    let signer = Liar::new(BackendKind::Pkcs11);
    let authority = jwt_authority(&signer, KeyType::EcP384).await;
    signer.lie(1);
    let prepared = prepare_token(&authority, token(&id("/w"), &["a"]), &draw(1)).unwrap();
    assert!(matches!(
        prepared.sign(&signer).await,
        Err(IssueError::WrongSignature(_))
    ));
}
