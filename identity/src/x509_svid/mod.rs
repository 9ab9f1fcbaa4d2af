//! X.509-SVIDs: what one must and must not say, and whether to believe one.
//!
//! The node builds certificates; this module judges them. It judges the bytes that
//! are about to be signed ([`judge_tbs`]) and the certificate that is about to
//! leave ([`judge_certificate`]) against the same closed list of rules, each one
//! citing its clause, so that what was checked is what is signed. Towards the
//! other side it decides whether a peer's chain proves a SPIFFE ID
//! ([`verify_chain`]): path first, then the rules of X509-SVID §5.
//!
//! It knows nothing of who may ask for a certificate, and it does not see whether a
//! serial was used before: two nodes share an authority's serials, and only a
//! random number is unique there.

mod ca;
mod chain;
mod profile;
mod rules;
mod serial;
mod violation;

pub use ca::{CaError, CaFacts};
pub use chain::{
    CERTIFICATE_BYTES_MAX, CHAIN_CERTIFICATES_MAX, Purpose, VerifyError, read_svid, verify_chain,
};
pub use profile::{Expected, Facts, Profile};
pub use serial::{Serial, SerialError};
pub use violation::ProfileViolation;

use crate::certificate::{self, Certificate, Tbs};
use crate::der::DerError;
use crate::key::{KeyError, PublicKey, SignatureAlgorithm};
use rules::Judged;

/// Judges to-be-signed bytes. They may be signed if and only if this returns `Ok`.
///
/// # Errors
/// The first rule that is broken.
pub fn judge_tbs(tbs_der: &[u8], expected: &Expected<'_>) -> Result<Facts, ProfileViolation> {
    let tbs = Tbs::parse(tbs_der).map_err(ProfileViolation::Malformed)?;
    judge(&tbs, None, expected)
}

/// Judges a whole certificate by the same rules, and that its outer algorithm is
/// the signed one. Whether the signature verifies is for whoever holds the
/// issuer's key to check.
///
/// # Errors
/// The first rule that is broken.
pub fn judge_certificate(der: &[u8], expected: &Expected<'_>) -> Result<Facts, ProfileViolation> {
    let certificate = Certificate::parse(der).map_err(ProfileViolation::Malformed)?;
    judge(
        &certificate.tbs,
        Some(certificate.signature_algorithm),
        expected,
    )
}

fn judge(
    tbs: &Tbs<'_>,
    outer_algorithm: Option<&[u8]>,
    expected: &Expected<'_>,
) -> Result<Facts, ProfileViolation> {
    let judged = Judged {
        tbs,
        outer_algorithm,
        expected,
    };
    for rule in rules::RULES {
        (rule.check)(&judged)?;
    }
    // The rules established that the names, the key and the serial are as expected.
    Ok(Facts {
        id: expected.id.clone(),
        serial: Serial::from_content(tbs.serial).map_err(ProfileViolation::Serial)?,
        not_before: tbs.not_before.at,
        not_after: tbs.not_after.at,
        ski: expected.public_key.ski().to_vec(),
        aki: expected.issuer.map(|issuer| issuer.ski().to_vec()),
        public_key: expected.public_key.clone(),
    })
}

/// Puts a certificate together from to-be-signed bytes and the signature over them:
/// DER for ECDSA, raw for RSA. The outer algorithm is taken from inside the signed
/// bytes, so the two cannot differ (RFC 5280 §4.1.1.2).
///
/// # Errors
/// [`DerError`] when the bytes are not a TBSCertificate.
pub fn assemble_certificate(tbs_der: &[u8], signature: &[u8]) -> Result<Vec<u8>, DerError> {
    certificate::assemble(tbs_der, signature)
}

/// The same to-be-signed bytes under another issuer name, given as the DER of a
/// Name. A name must match its issuer's subject (RFC 5280 §6.1.3 (a)(4)), and the
/// safe way to match a name that someone else encoded is to copy its bytes.
///
/// # Errors
/// [`DerError`] when the bytes are not a TBSCertificate.
pub fn with_issuer(tbs_der: &[u8], issuer_name_der: &[u8]) -> Result<Vec<u8>, DerError> {
    certificate::with_issuer(tbs_der, issuer_name_der)
}

/// The same to-be-signed bytes with another subject, given as the DER of a Name: for
/// subjects that a builder cannot express, such as one with two organizations.
///
/// # Errors
/// [`DerError`] when the bytes are not a TBSCertificate.
pub fn with_subject(tbs_der: &[u8], subject_name_der: &[u8]) -> Result<Vec<u8>, DerError> {
    certificate::with_subject(tbs_der, subject_name_der)
}

/// Checks the signature of a certificate, as it stands in its bytes, against the
/// issuer's key.
///
/// # Errors
/// [`KeyError`]; [`KeyError::Malformed`] when the bytes are not a certificate.
pub fn verify_certificate_signature(der: &[u8], issuer: &PublicKey) -> Result<(), KeyError> {
    let certificate = Certificate::parse(der).map_err(KeyError::Malformed)?;
    let algorithm = SignatureAlgorithm::from_identifier_der(certificate.signature_algorithm)?;
    issuer.verify(algorithm, certificate.tbs.raw, certificate.signature)
}
