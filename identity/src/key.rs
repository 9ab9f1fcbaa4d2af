//! Public keys that Chancery is ready to certify or to believe.
//!
//! A key is read from its one canonical SubjectPublicKeyInfo encoding and checked
//! for strength once; whoever holds a [`PublicKey`] need not check again. Points
//! are uncompressed and on their curve, curves are named, RSA parameters are NULL.
//!
//! The strength rules, and why:
//! - RSA moduli have 2048 to 8192 bits: less is too weak (NIST SP 800-131A §3),
//!   more lets a caller buy server time with one request.
//! - RSA exponents are odd and at least 65537 (FIPS 186-5 §5.1 with §A.1.1:
//!   `2^16 < e`), and at most `2^31 - 1`, the largest that Go reads: a stock agent
//!   drops a bundle that holds a key it cannot parse.
//! - P-256, P-384, P-521 and Ed25519 are what Go reads as well; anything else
//!   (secp256k1, ML-DSA, Ed448) would be dropped by stock clients.

pub(crate) mod algorithm;

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};

pub use algorithm::SignatureAlgorithm;

use crate::der::{DerError, Reader, encode, encode_unsigned, tag};

/// Smallest RSA modulus, in bits.
pub const RSA_BITS_MIN: usize = 2048;
/// Largest RSA modulus, in bits.
pub const RSA_BITS_MAX: usize = 8192;
const RSA_EXPONENT_MIN: u64 = 65_537;
const RSA_EXPONENT_MAX: u64 = (1 << 31) - 1;

/// Why bytes are not a key that we accept, or a signature not one by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The SubjectPublicKeyInfo is not DER.
    #[error("malformed public key: {0}")]
    Malformed(DerError),
    /// The algorithm or the curve is not one of those accepted.
    #[error("unsupported public key algorithm")]
    UnsupportedKey,
    /// The point is compressed, not on its curve, or of the wrong size.
    #[error("invalid elliptic curve point")]
    InvalidPoint,
    /// The RSA modulus has too few or too many bits, or is even.
    #[error("RSA modulus of {bits} bits is not acceptable")]
    RsaModulus {
        /// Its size.
        bits: usize,
    },
    /// The RSA exponent is even, too small or too large.
    #[error("RSA exponent is not acceptable")]
    RsaExponent,
    /// The signature algorithm is unknown.
    #[error("unsupported signature algorithm")]
    UnsupportedSignature,
    /// The signature algorithm is not one for this kind of key.
    #[error("signature algorithm does not fit the key")]
    AlgorithmMismatch,
    /// The signature is not one by this key over this message.
    #[error("signature does not verify")]
    BadSignature,
}

/// Family and size of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// NIST P-256.
    EcP256,
    /// NIST P-384.
    EcP384,
    /// NIST P-521.
    EcP521,
    /// RSA, for PKCS #1 v1.5 and PSS signatures.
    Rsa {
        /// Size of the modulus.
        bits: usize,
    },
    /// Ed25519 (RFC 8410).
    Ed25519,
}

/// A public key of acceptable kind and strength.
#[derive(Clone)]
pub struct PublicKey {
    kind: KeyKind,
    spki: Vec<u8>,
    /// Where the contents of the BIT STRING begin in `spki`; they end with it.
    bits_at: usize,
    /// Parsed for the algorithm that its own kind signs with by default, so that the
    /// point is checked once and the common verification does not parse again.
    parsed: ParsedPublicKey,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7); the whole input is consumed.
    ///
    /// # Errors
    /// The key variants of [`KeyError`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let mut outer = Reader::new(der);
        let mut fields = outer.nested(tag::SEQUENCE).map_err(KeyError::Malformed)?;
        outer.finish().map_err(KeyError::Malformed)?;
        let algorithm = fields
            .contents(tag::SEQUENCE)
            .map_err(KeyError::Malformed)?;
        let bits = fields.octet_aligned_bits().map_err(KeyError::Malformed)?;
        fields.finish().map_err(KeyError::Malformed)?;

        let kind = match algorithm::key_family(algorithm).ok_or(KeyError::UnsupportedKey)? {
            algorithm::Family::Rsa => KeyKind::Rsa {
                bits: check_rsa(bits)?,
            },
            algorithm::Family::Other(kind) => {
                // aws-lc-rs would take a compressed point too; Go does not.
                if let Some(size) = coordinate_bytes(kind)
                    && (bits.len() != 1 + 2 * size || bits[0] != 0x04)
                {
                    return Err(KeyError::InvalidPoint);
                }
                kind
            }
        };
        let parsed = ParsedPublicKey::new(default_verification(kind), bits)
            .map_err(|_| KeyError::InvalidPoint)?;
        Ok(PublicKey {
            kind,
            spki: der.to_vec(),
            bits_at: der.len() - bits.len(),
            parsed,
        })
    }

    /// Builds the key of an RSA modulus and exponent, both big-endian.
    pub(crate) fn from_rsa_components(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let key = encode(tag::SEQUENCE, &[&encode_unsigned(n), &encode_unsigned(e)]);
        Self::from_parts(&algorithm::RSA_IDENTIFIER, &key)
    }

    /// Builds the key of an elliptic curve point or an Edwards key.
    pub(crate) fn from_point(kind: KeyKind, point: &[u8]) -> Result<Self, KeyError> {
        let identifier = algorithm::key_identifier(kind).ok_or(KeyError::UnsupportedKey)?;
        Self::from_parts(&identifier, point)
    }

    fn from_parts(identifier: &[u8], bits: &[u8]) -> Result<Self, KeyError> {
        let algorithm = encode(tag::SEQUENCE, &[identifier]);
        let bits = encode(tag::BIT_STRING, &[&[0], bits]);
        Self::from_spki_der(&encode(tag::SEQUENCE, &[&algorithm, &bits]))
    }

    /// Family and size.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The SubjectPublicKeyInfo it was read from.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Contents of the subjectPublicKey BIT STRING.
    #[must_use]
    pub fn bits(&self) -> &[u8] {
        &self.spki[self.bits_at..]
    }

    /// The subject key identifier: SHA-1 of the contents of the BIT STRING, method 1
    /// of RFC 5280 §4.2.1.2, as SPIRE computes it. A name, not a protection.
    #[must_use]
    pub fn ski(&self) -> [u8; 20] {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, self.bits());
        digest
            .as_ref()
            .try_into()
            .expect("a SHA-1 digest has 20 bytes")
    }

    /// The algorithm with which a key of this kind signs certificates: SHA-256 for
    /// RSA and P-256, SHA-384 for P-384, SHA-512 for P-521.
    #[must_use]
    pub fn certificate_algorithm(&self) -> SignatureAlgorithm {
        match self.kind {
            KeyKind::EcP256 => SignatureAlgorithm::EcdsaSha256,
            KeyKind::EcP384 => SignatureAlgorithm::EcdsaSha384,
            KeyKind::EcP521 => SignatureAlgorithm::EcdsaSha512,
            KeyKind::Rsa { .. } => SignatureAlgorithm::RsaPkcs1Sha256,
            KeyKind::Ed25519 => SignatureAlgorithm::Ed25519,
        }
    }

    /// Verifies a signature as X.509 carries it: DER for ECDSA, raw otherwise.
    ///
    /// # Errors
    /// [`KeyError::AlgorithmMismatch`], [`KeyError::BadSignature`].
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        let result = if algorithm == self.certificate_algorithm() {
            self.parsed.verify_sig(message, signature)
        } else {
            let verifier =
                algorithm::verifier(self.kind, algorithm).ok_or(KeyError::AlgorithmMismatch)?;
            signature::UnparsedPublicKey::new(verifier, self.bits()).verify(message, signature)
        };
        result.map_err(|_| KeyError::BadSignature)
    }

    /// Modulus and exponent of an RSA key, big-endian without leading zeros.
    pub(crate) fn rsa_components(&self) -> Option<(&[u8], &[u8])> {
        match self.kind {
            KeyKind::Rsa { .. } => read_rsa(self.bits()).ok(),
            _ => None,
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?}, {})", self.kind, hex::encode(self.ski()))
    }
}

/// Size of one coordinate on the curve of `kind`, in bytes.
pub(crate) fn coordinate_bytes(kind: KeyKind) -> Option<usize> {
    match kind {
        KeyKind::EcP256 => Some(32),
        KeyKind::EcP384 => Some(48),
        KeyKind::EcP521 => Some(66),
        KeyKind::Rsa { .. } | KeyKind::Ed25519 => None,
    }
}

fn default_verification(kind: KeyKind) -> &'static dyn VerificationAlgorithm {
    match kind {
        KeyKind::EcP256 => &signature::ECDSA_P256_SHA256_ASN1,
        KeyKind::EcP384 => &signature::ECDSA_P384_SHA384_ASN1,
        KeyKind::EcP521 => &signature::ECDSA_P521_SHA512_ASN1,
        KeyKind::Rsa { .. } => &signature::RSA_PKCS1_2048_8192_SHA256,
        KeyKind::Ed25519 => &signature::ED25519,
    }
}

fn read_rsa(bits: &[u8]) -> Result<(&[u8], &[u8]), DerError> {
    let mut outer = Reader::new(bits);
    let mut fields = outer.nested(tag::SEQUENCE)?;
    outer.finish()?;
    let (modulus, exponent) = (fields.unsigned()?, fields.unsigned()?);
    fields.finish()?;
    Ok((modulus, exponent))
}

/// The size of the modulus, if modulus and exponent are acceptable.
fn check_rsa(bits: &[u8]) -> Result<usize, KeyError> {
    let (modulus, exponent) = read_rsa(bits).map_err(KeyError::Malformed)?;
    // `unsigned` leaves no leading zero octet, so the first one counts.
    let size = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
    let odd = modulus[modulus.len() - 1] & 1 == 1;
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&size) || !odd {
        return Err(KeyError::RsaModulus { bits: size });
    }
    if exponent.len() > 8 {
        return Err(KeyError::RsaExponent);
    }
    let exponent = exponent
        .iter()
        .fold(0u64, |sum, octet| sum << 8 | u64::from(*octet));
    if !(RSA_EXPONENT_MIN..=RSA_EXPONENT_MAX).contains(&exponent) || exponent & 1 == 0 {
        return Err(KeyError::RsaExponent);
    }
    Ok(size)
}

#[cfg(test)]
mod tests;
