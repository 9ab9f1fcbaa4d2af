//! Algorithm identifiers, matched as whole byte strings.
//!
//! An identifier is an OID and its parameters together (RFC 5280 §4.1.1.2): RSA
//! with absent parameters, ECDSA with explicit NULL, or PSS with an unusual salt
//! are other identifiers than the ones here, and are refused. So is everything
//! that hashes with SHA-1.

use aws_lc_rs::signature::{self, VerificationAlgorithm};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};

use super::{KeyError, KeyKind};
use crate::der::{Reader, encode, tag};

/// A signature algorithm as X.509 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256 (RFC 5758 §3.2).
    EcdsaSha256,
    /// ecdsa-with-SHA384.
    EcdsaSha384,
    /// ecdsa-with-SHA512.
    EcdsaSha512,
    /// sha256WithRSAEncryption (RFC 4055 §5).
    RsaPkcs1Sha256,
    /// sha384WithRSAEncryption.
    RsaPkcs1Sha384,
    /// sha512WithRSAEncryption.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256 throughout and a salt of 32 bytes (RFC 4055 §3.1).
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384 throughout and a salt of 48 bytes.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512 throughout and a salt of 64 bytes.
    RsaPssSha512,
    /// Ed25519 (RFC 8410 §3).
    Ed25519,
}

use SignatureAlgorithm as Alg;

const SIGNATURES: [(Alg, AlgorithmIdentifier); 10] = [
    (Alg::EcdsaSha256, alg_id::ECDSA_SHA256),
    (Alg::EcdsaSha384, alg_id::ECDSA_SHA384),
    (Alg::EcdsaSha512, alg_id::ECDSA_SHA512),
    (Alg::RsaPkcs1Sha256, alg_id::RSA_PKCS1_SHA256),
    (Alg::RsaPkcs1Sha384, alg_id::RSA_PKCS1_SHA384),
    (Alg::RsaPkcs1Sha512, alg_id::RSA_PKCS1_SHA512),
    (Alg::RsaPssSha256, alg_id::RSA_PSS_SHA256),
    (Alg::RsaPssSha384, alg_id::RSA_PSS_SHA384),
    (Alg::RsaPssSha512, alg_id::RSA_PSS_SHA512),
    (Alg::Ed25519, alg_id::ED25519),
];

impl SignatureAlgorithm {
    /// The algorithm that an AlgorithmIdentifier, header included, names.
    ///
    /// # Errors
    /// [`KeyError::Malformed`], [`KeyError::UnsupportedSignature`].
    pub fn from_identifier_der(der: &[u8]) -> Result<Self, KeyError> {
        let mut outer = Reader::new(der);
        let contents = outer.contents(tag::SEQUENCE).map_err(KeyError::Malformed)?;
        outer.finish().map_err(KeyError::Malformed)?;
        SIGNATURES
            .iter()
            .find(|(_, identifier)| identifier.as_ref() == contents)
            .map(|(algorithm, _)| *algorithm)
            .ok_or(KeyError::UnsupportedSignature)
    }

    /// The AlgorithmIdentifier, header included.
    #[must_use]
    pub fn identifier_der(self) -> Vec<u8> {
        let (_, identifier) = SIGNATURES
            .iter()
            .find(|(algorithm, _)| *algorithm == self)
            .expect("every algorithm has a row in the table");
        encode(tag::SEQUENCE, &[identifier.as_ref()])
    }
}

/// What the identifier of a key tells before its bits are looked at.
pub(super) enum Family {
    /// The size is in the key itself.
    Rsa,
    /// All is known.
    Other(KeyKind),
}

pub(super) const RSA_IDENTIFIER: AlgorithmIdentifier = alg_id::RSA_ENCRYPTION;

const KEYS: [(KeyKind, AlgorithmIdentifier); 4] = [
    (KeyKind::EcP256, alg_id::ECDSA_P256),
    (KeyKind::EcP384, alg_id::ECDSA_P384),
    (KeyKind::EcP521, alg_id::ECDSA_P521),
    (KeyKind::Ed25519, alg_id::ED25519),
];

pub(super) fn key_family(contents: &[u8]) -> Option<Family> {
    if contents == RSA_IDENTIFIER.as_ref() {
        return Some(Family::Rsa);
    }
    KEYS.iter()
        .find(|(_, identifier)| identifier.as_ref() == contents)
        .map(|(kind, _)| Family::Other(*kind))
}

pub(super) fn key_identifier(kind: KeyKind) -> Option<AlgorithmIdentifier> {
    KEYS.iter()
        .find(|(known, _)| *known == kind)
        .map(|(_, identifier)| *identifier)
}

/// How a key of `kind` verifies `algorithm`; none where they do not go together.
pub(crate) fn verifier(
    kind: KeyKind,
    algorithm: Alg,
) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (kind, algorithm) {
        (KeyKind::EcP256, Alg::EcdsaSha256) => &signature::ECDSA_P256_SHA256_ASN1,
        (KeyKind::EcP256, Alg::EcdsaSha384) => &signature::ECDSA_P256_SHA384_ASN1,
        (KeyKind::EcP256, Alg::EcdsaSha512) => &signature::ECDSA_P256_SHA512_ASN1,
        (KeyKind::EcP384, Alg::EcdsaSha256) => &signature::ECDSA_P384_SHA256_ASN1,
        (KeyKind::EcP384, Alg::EcdsaSha384) => &signature::ECDSA_P384_SHA384_ASN1,
        (KeyKind::EcP384, Alg::EcdsaSha512) => &signature::ECDSA_P384_SHA512_ASN1,
        (KeyKind::EcP521, Alg::EcdsaSha256) => &signature::ECDSA_P521_SHA256_ASN1,
        (KeyKind::EcP521, Alg::EcdsaSha384) => &signature::ECDSA_P521_SHA384_ASN1,
        (KeyKind::EcP521, Alg::EcdsaSha512) => &signature::ECDSA_P521_SHA512_ASN1,
        (KeyKind::Rsa { .. }, Alg::RsaPkcs1Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa { .. }, Alg::RsaPkcs1Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa { .. }, Alg::RsaPkcs1Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::Rsa { .. }, Alg::RsaPssSha256) => &signature::RSA_PSS_2048_8192_SHA256,
        (KeyKind::Rsa { .. }, Alg::RsaPssSha384) => &signature::RSA_PSS_2048_8192_SHA384,
        (KeyKind::Rsa { .. }, Alg::RsaPssSha512) => &signature::RSA_PSS_2048_8192_SHA512,
        (KeyKind::Ed25519, Alg::Ed25519) => &signature::ED25519,
        _ => return None,
    })
}
