//! Keys of certificates, and signatures by them.

use aws_lc_rs::signature::{self, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};

use super::certificate::PkiError;
use crate::der::{DerError, Reader, encode, encode_unsigned, tag};
use crate::key::algorithm::verifier;
use crate::key::{KeyKind, SignatureAlgorithm};

/// Below this Go verifies nothing.
const RSA_BITS_MIN: usize = 1024;
/// Above this the signer library verifies nothing.
const RSA_BITS_MAX: usize = 8192;
/// Largest exponent that Go takes.
const RSA_EXPONENT_MAX: u64 = (1 << 31) - 1;
/// Contents of 1.2.840.10045.2.1 (RFC 5480 §2.1.1).
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// Contents of 1.2.840.113549.1.1.1 (RFC 8017 §A.1).
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// Contents of 1.3.101.112 (RFC 8410 §3).
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A curve whose signatures are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    /// Size of a coordinate, in bytes.
    fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn kind(self) -> KeyKind {
        match self {
            Self::P256 => KeyKind::EcP256,
            Self::P384 => KeyKind::EcP384,
            Self::P521 => KeyKind::EcP521,
        }
    }

    /// ECDSA over this curve and SHA-256, signatures in ASN.1.
    fn with_sha256(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            Self::P384 => &signature::ECDSA_P384_SHA256_ASN1,
            Self::P521 => &signature::ECDSA_P521_SHA256_ASN1,
        }
    }
}

/// The key that a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectKey {
    /// RSA: modulus and exponent, big-endian without leading zeros.
    Rsa {
        /// Modulus.
        n: Vec<u8>,
        /// Exponent.
        e: Vec<u8>,
    },
    /// A point on a curve, uncompressed.
    Ec {
        /// Which curve.
        curve: Curve,
        /// The point.
        point: Vec<u8>,
    },
    /// Ed25519.
    Ed25519(Vec<u8>),
    /// An algorithm that signs nothing here.
    Other,
}

impl SubjectKey {
    /// Reads a SubjectPublicKeyInfo, header included.
    pub(super) fn parse(spki: &[u8]) -> Result<Self, PkiError> {
        let mut fields = Reader::new(spki).nested(tag::SEQUENCE)?;
        let mut algorithm = fields.nested(tag::SEQUENCE)?;
        let id = algorithm.contents(tag::OID)?;
        let bits = fields.octet_aligned_bits()?;
        fields.finish()?;
        match id {
            RSA_ENCRYPTION => {
                // RFC 3279 §2.3.1: the parameters are NULL, not absent.
                let null = algorithm.contents(0x05)?;
                algorithm.finish()?;
                if !null.is_empty() {
                    return Err(PkiError::Key);
                }
                let mut outer = Reader::new(bits);
                let mut numbers = outer.nested(tag::SEQUENCE)?;
                let (n, e) = (numbers.unsigned()?, numbers.unsigned()?);
                numbers.finish()?;
                outer.finish()?;
                if n == [0] || e == [0] {
                    return Err(PkiError::Key);
                }
                Ok(Self::Rsa {
                    n: n.to_vec(),
                    e: e.to_vec(),
                })
            }
            EC_PUBLIC_KEY => {
                let named = algorithm.contents(tag::OID)?;
                algorithm.finish()?;
                let curve = match named {
                    [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7] => Curve::P256,
                    [0x2b, 0x81, 0x04, 0x00, 0x22] => Curve::P384,
                    [0x2b, 0x81, 0x04, 0x00, 0x23] => Curve::P521,
                    _ => return Err(PkiError::Curve),
                };
                // Only the uncompressed form, as Go; the library checks that it is
                // on its curve.
                let form = bits.len() == 1 + 2 * curve.bytes() && bits.first() == Some(&0x04);
                if !form || ParsedPublicKey::new(curve.with_sha256(), bits).is_err() {
                    return Err(PkiError::Key);
                }
                Ok(Self::Ec {
                    curve,
                    point: bits.to_vec(),
                })
            }
            ED25519 => {
                algorithm.finish()?;
                if bits.len() == 32 {
                    Ok(Self::Ed25519(bits.to_vec()))
                } else {
                    Err(PkiError::Key)
                }
            }
            _ => Ok(Self::Other),
        }
    }

    /// Size of the modulus in bits, of an RSA key.
    #[must_use]
    pub fn rsa_bits(&self) -> Option<usize> {
        match self {
            Self::Rsa { n, .. } => Some(bits(n)),
            _ => None,
        }
    }

    /// Verifies a signature of a certificate; says whether it holds.
    pub(super) fn has_signed(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        match self {
            Self::Rsa { n, e } => {
                let Some(algorithm) = rsa_verifier(bits(n), algorithm) else {
                    return false;
                };
                let numbers = [encode_unsigned(n), encode_unsigned(e)];
                let key = encode(tag::SEQUENCE, &[&numbers[0], &numbers[1]]);
                is_rsa_acceptable(n, e) && verify(algorithm, &key, message, signature)
            }
            Self::Ec { curve, point } => verifier(curve.kind(), algorithm)
                .is_some_and(|algorithm| verify(algorithm, point, message, signature)),
            Self::Ed25519(key) => verifier(KeyKind::Ed25519, algorithm)
                .is_some_and(|algorithm| verify(algorithm, key, message, signature)),
            Self::Other => false,
        }
    }

    /// Verifies ECDSA with SHA-256 where the two numbers of the signature come
    /// apart, big-endian of any width (not as X.509 encodes them). No for any other
    /// kind of key.
    #[must_use]
    pub fn verify_ecdsa_sha256(&self, message: &[u8], r: &[u8], s: &[u8]) -> bool {
        let Self::Ec { curve, point } = self else {
            return false;
        };
        let numbers = [encode_unsigned(r), encode_unsigned(s)];
        let signature = encode(tag::SEQUENCE, &[&numbers[0], &numbers[1]]);
        verify(curve.with_sha256(), point, message, &signature)
    }

    /// Verifies RSASSA-PSS with SHA-256 throughout and a salt of any length
    /// (RFC 8017 §8.1.2). No for any other kind of key, and below 1024 bits.
    #[must_use]
    pub fn verify_pss_sha256(&self, message: &[u8], signature: &[u8]) -> bool {
        let Self::Rsa { n, e } = self else {
            return false;
        };
        is_rsa_acceptable(n, e) && super::pss::verify_sha256(n, e, message, signature)
    }
}

/// Bits of a number without leading zeros.
fn bits(number: &[u8]) -> usize {
    let first = number
        .first()
        .map_or(8, |first| first.leading_zeros() as usize);
    number.len() * 8 - first
}

/// What Go demands of a key before it verifies anything with it.
fn is_rsa_acceptable(n: &[u8], e: &[u8]) -> bool {
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    let exponent = e.iter().try_fold(0u64, |sum, octet| {
        Some(sum.checked_mul(256)? + u64::from(*octet))
    });
    (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits(n))
        && odd(n)
        && odd(e)
        && exponent.is_some_and(|e| (2..=RSA_EXPONENT_MAX).contains(&e))
}

fn rsa_verifier(
    bits: usize,
    algorithm: SignatureAlgorithm,
) -> Option<&'static dyn VerificationAlgorithm> {
    if bits >= crate::key::RSA_BITS_MIN {
        return verifier(KeyKind::Rsa { bits }, algorithm);
    }
    // Old authorities; the library has no SHA-384 and no PSS for them.
    match algorithm {
        SignatureAlgorithm::RsaPkcs1Sha256 => {
            Some(&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY)
        }
        SignatureAlgorithm::RsaPkcs1Sha512 => {
            Some(&signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY)
        }
        _ => None,
    }
}

fn verify(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = UnparsedPublicKey::new(algorithm, key);
    key.verify(message, signature).is_ok()
}

/// Whether the identifier names PSS, whose parameters matter.
const PSS: [(SignatureAlgorithm, AlgorithmIdentifier); 3] = [
    (SignatureAlgorithm::RsaPssSha256, alg_id::RSA_PSS_SHA256),
    (SignatureAlgorithm::RsaPssSha384, alg_id::RSA_PSS_SHA384),
    (SignatureAlgorithm::RsaPssSha512, alg_id::RSA_PSS_SHA512),
];
const PLAIN: [(SignatureAlgorithm, AlgorithmIdentifier); 6] = [
    (SignatureAlgorithm::EcdsaSha256, alg_id::ECDSA_SHA256),
    (SignatureAlgorithm::EcdsaSha384, alg_id::ECDSA_SHA384),
    (SignatureAlgorithm::EcdsaSha512, alg_id::ECDSA_SHA512),
    (SignatureAlgorithm::RsaPkcs1Sha256, alg_id::RSA_PKCS1_SHA256),
    (SignatureAlgorithm::RsaPkcs1Sha384, alg_id::RSA_PKCS1_SHA384),
    (SignatureAlgorithm::RsaPkcs1Sha512, alg_id::RSA_PKCS1_SHA512),
];

/// The algorithm that an AlgorithmIdentifier names, header included. Without PSS and
/// Ed25519 its parameters say nothing, and issuers get them wrong; Go does not look.
pub(super) fn signature_algorithm(raw: &[u8]) -> Result<Option<SignatureAlgorithm>, DerError> {
    let contents = Reader::new(raw).contents(tag::SEQUENCE)?;
    let id = Reader::new(contents).value(tag::OID)?.raw;
    if contents == alg_id::ED25519.as_ref() {
        return Ok(Some(SignatureAlgorithm::Ed25519));
    }
    let pss = PSS.iter().find(|(_, known)| known.as_ref() == contents);
    let plain = PLAIN.iter().find(|(_, known)| {
        let known = Reader::new(known.as_ref()).value(tag::OID);
        known.is_ok_and(|known| known.raw == id)
    });
    Ok(pss.or(plain).map(|(algorithm, _)| *algorithm))
}
