//! The builder: to-be-signed bytes through rcgen, without rcgen signing anything.
//!
//! rcgen wants a key that signs at once; ours may be in an HSM, behind an await. So it gets a key
//! that only remembers what it was asked to sign. Every field that rcgen would otherwise fill in by
//! itself is set: its defaults are a validity from 1975 to 4096, a fixed common name, and a serial
//! number derived from the key, the same at every renewal.

use std::cell::RefCell;

use chancery_identity::csr;
use chancery_identity::id::SpiffeId;
use chancery_identity::key::{KeyKind, PublicKey};
use chancery_identity::x509_svid::{CaFacts, Profile, Serial, with_issuer, with_subject};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    SigningKey,
};
use time::OffsetDateTime;

use super::error::IssueError;
use super::subject::Subject;
use super::validity::Validity;

/// Everything that a certificate will say, decided.
pub(super) struct Contents<'a> {
    pub(super) profile: &'a Profile,
    pub(super) id: &'a SpiffeId,
    pub(super) public_key: &'a PublicKey,
    pub(super) subject: &'a Subject,
    pub(super) serial: &'a Serial,
    pub(super) validity: Validity,
}

/// Builds the to-be-signed bytes of a certificate under `issuer`.
pub(super) fn build(contents: &Contents<'_>, issuer: &CaFacts) -> Result<Vec<u8>, IssueError> {
    let mut issuer_params = CertificateParams::default();
    // Replaced below by the exact bytes of the issuer's subject, which someone else may have
    // encoded.
    issuer_params.distinguished_name = placeholder();
    issuer_params.key_identifier_method = KeyIdMethod::PreSpecified(issuer.ski().to_vec());
    let key = Recorder::new(issuer.public_key());
    let mut params = params(contents)?;
    params.use_authority_key_identifier_extension = true;
    params
        .signed_by(
            &Subjected(contents.public_key),
            &Issuer::from_params(&issuer_params, &key),
        )
        .map_err(IssueError::Build)?;
    let tbs = with_issuer(&key.recorded()?, issuer.subject_der()).map_err(IssueError::Assemble)?;
    with_subject(&tbs, &contents.subject.to_name_der()?).map_err(IssueError::Assemble)
}

/// Builds the to-be-signed bytes of a certificate that its own key signs.
pub(super) fn build_self_signed(contents: &Contents<'_>) -> Result<Vec<u8>, IssueError> {
    let key = Recorder::new(contents.public_key);
    params(contents)?
        .self_signed(&key)
        .map_err(IssueError::Build)?;
    let name = contents.subject.to_name_der()?;
    let tbs = with_issuer(&key.recorded()?, &name).map_err(IssueError::Assemble)?;
    with_subject(&tbs, &name).map_err(IssueError::Assemble)
}

/// Builds the information of a request to certify `public_key` as a CA named `id` (RFC 2986 §4.1).
pub(super) fn build_request(
    id: &SpiffeId,
    public_key: &PublicKey,
    subject: &Subject,
) -> Result<Vec<u8>, IssueError> {
    let key = Recorder::new(public_key);
    let mut params = CertificateParams::default();
    params.distinguished_name = placeholder();
    let uri = id.as_str().try_into().map_err(IssueError::Build)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.serialize_request(&key).map_err(IssueError::Build)?;
    csr::with_subject(&key.recorded()?, &subject.to_name_der()?).map_err(IssueError::Assemble)
}

/// A name that is replaced: rcgen's have one value of a type at most. Not an empty one, with which
/// rcgen would make the alternative name critical.
fn placeholder() -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "placeholder");
    name
}

fn params(contents: &Contents<'_>) -> Result<CertificateParams, IssueError> {
    let Contents {
        profile, validity, ..
    } = contents;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(contents.serial.as_bytes()));
    params.not_before = time(validity.not_before)?;
    params.not_after = time(validity.not_after)?;
    params.distinguished_name = placeholder();
    params.subject_alt_names = names(contents)?;
    params.key_identifier_method = KeyIdMethod::PreSpecified(contents.public_key.ski().to_vec());
    params.is_ca = match profile {
        Profile::SelfSignedCa | Profile::DownstreamCa => IsCa::Ca(BasicConstraints::Unconstrained),
        Profile::Intermediate => IsCa::Ca(BasicConstraints::Constrained(0)),
        Profile::Server | Profile::Agent | Profile::Workload { .. } => IsCa::ExplicitNoCa,
    };
    params.key_usages = match profile {
        Profile::SelfSignedCa | Profile::DownstreamCa => {
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]
        }
        Profile::Intermediate => vec![KeyUsagePurpose::KeyCertSign],
        Profile::Server | Profile::Agent | Profile::Workload { .. } => vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ],
    };
    if !profile.is_ca() {
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
    }
    Ok(params)
}

fn names(contents: &Contents<'_>) -> Result<Vec<SanType>, IssueError> {
    let text = |text: &str| text.try_into().map_err(IssueError::Build);
    // In Go's order, for whoever compares.
    let mut names = Vec::new();
    for name in contents.profile.dns_names() {
        names.push(SanType::DnsName(text(name)?));
    }
    names.push(SanType::URI(text(contents.id.as_str())?));
    Ok(names)
}

fn time(seconds: i64) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| IssueError::Lifetime(seconds))
}

/// The key to certify, as rcgen reads keys.
struct Subjected<'a>(&'a PublicKey);

impl PublicKeyData for Subjected<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        algorithm(self.0)
    }
}

/// A key that remembers what it was asked to sign, and signs nothing.
struct Recorder<'a> {
    public_key: &'a PublicKey,
    message: RefCell<Option<Vec<u8>>>,
}

impl<'a> Recorder<'a> {
    fn new(public_key: &'a PublicKey) -> Self {
        Recorder {
            public_key,
            message: RefCell::new(None),
        }
    }

    fn recorded(self) -> Result<Vec<u8>, IssueError> {
        let message = self.message.into_inner();
        message.ok_or(IssueError::Build(rcgen::Error::RemoteKeyError))
    }
}

impl PublicKeyData for Recorder<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        algorithm(self.public_key)
    }
}

impl SigningKey for Recorder<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.message.borrow_mut() = Some(message.to_vec());
        Ok(Vec::new())
    }
}

/// rcgen's name for the kind of a key and for the algorithm that it signs certificates with.
fn algorithm(key: &PublicKey) -> &'static SignatureAlgorithm {
    match key.kind() {
        KeyKind::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyKind::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        KeyKind::EcP521 => &rcgen::PKCS_ECDSA_P521_SHA512,
        KeyKind::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
        KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
    }
}
