//! Public keys: from what a token shows to a canonical `SubjectPublicKeyInfo`, and from there to a
//! verifier.
//!
//! One SPKI per key, byte for byte, whatever backend told us of it: replicated records compare
//! these bytes.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents, VerificationAlgorithm,
};

use crate::signer::KeyType;

/// DER OBJECT IDENTIFIER `prime256v1` (RFC 5480 §2.1.1.1): `CKA_EC_PARAMS` of P-256.
pub(crate) const P256_OID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// DER OBJECT IDENTIFIER `secp384r1`: `CKA_EC_PARAMS` of P-384.
pub(crate) const P384_OID: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// All of a P-256 SPKI before its point: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT
/// STRING, 0 unused }.
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for secp384r1.
const P384_SPKI: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
const P256_POINT_BYTES: usize = 65;
const P384_POINT_BYTES: usize = 97;
/// 65537, the one exponent used here.
pub(crate) const RSA_EXPONENT: &[u8] = &[0x01, 0x00, 0x01];

/// A public key as it is recorded.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKeyInfo {
    /// DER `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7), canonical.
    pub spki_der: Vec<u8>,
    /// What it is.
    pub key_type: KeyType,
}

impl PublicKeyInfo {
    /// Reads a recorded SPKI back; `None` where it is malformed, not canonical, or of no type known
    /// here.
    #[must_use]
    pub fn from_spki_der(spki_der: &[u8]) -> Option<Self> {
        VerifyingKey::from_spki(spki_der).ok().map(|key| key.info())
    }
}

impl fmt::Debug for PublicKeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PublicKeyInfo({}, {})",
            self.key_type,
            hex::encode(&self.spki_der)
        )
    }
}

/// A parsed public key, ready to verify.
#[derive(Debug, Clone)]
pub(crate) struct VerifyingKey {
    spki: Arc<[u8]>,
    key_type: KeyType,
    parsed: Arc<ParsedPublicKey>,
}

impl VerifyingKey {
    /// From a canonical SPKI of one of our key types. The error says what is wrong.
    pub(crate) fn from_spki(spki: &[u8]) -> Result<Self, &'static str> {
        if spki.starts_with(P256_SPKI) {
            Self::parse(spki, KeyType::EcP256)
        } else if spki.starts_with(P384_SPKI) {
            Self::parse(spki, KeyType::EcP384)
        } else {
            // Two sizes are allowed, and the size of a canonical SPKI with our exponent tells
            // which.
            match spki.len() {
                294 => Self::parse(spki, KeyType::Rsa2048),
                550 => Self::parse(spki, KeyType::Rsa4096),
                _ => Err("public key of an unknown type"),
            }
        }
    }

    /// From an uncompressed point (SEC 1 §2.3.3), 0x04 || X || Y.
    pub(crate) fn from_ec_point(key_type: KeyType, point: &[u8]) -> Result<Self, &'static str> {
        let (prefix, bytes) = match key_type {
            KeyType::EcP256 => (P256_SPKI, P256_POINT_BYTES),
            KeyType::EcP384 => (P384_SPKI, P384_POINT_BYTES),
            KeyType::Rsa2048 | KeyType::Rsa4096 => return Err("an RSA key has no point"),
        };
        if point.len() != bytes || point.first() != Some(&0x04) {
            return Err("public point is not uncompressed");
        }
        Self::parse(&[prefix, point].concat(), key_type)
    }

    /// From `CKA_EC_PARAMS` and `CKA_EC_POINT`. PKCS#11 wants the point inside an OCTET STRING;
    /// some tokens show it bare. The curve must be named: explicit parameters could be anything.
    pub(crate) fn from_pkcs11_ec(params: &[u8], point: &[u8]) -> Result<Self, &'static str> {
        let (key_type, bytes) = match params {
            _ if params == P256_OID => (KeyType::EcP256, P256_POINT_BYTES),
            _ if params == P384_OID => (KeyType::EcP384, P384_POINT_BYTES),
            _ => return Err("curve is not named P-256 or P-384"),
        };
        // 0x04 is the tag of OCTET STRING and the mark of an uncompressed point: only the length
        // tells them apart.
        let bare = match point {
            [0x04, length, bare @ ..]
                if point.len() == bytes + 2 && usize::from(*length) == bytes =>
            {
                bare
            }
            _ => point,
        };
        Self::from_ec_point(key_type, bare)
    }

    /// From `CKA_MODULUS` and `CKA_PUBLIC_EXPONENT`, big endian, perhaps with leading zeros.
    pub(crate) fn from_pkcs11_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, &'static str> {
        let n = without_leading_zeros(modulus);
        let e = without_leading_zeros(exponent);
        if e != RSA_EXPONENT {
            return Err("RSA exponent is not 65537");
        }
        let key_type = match n.len() {
            256 if n[0] & 0x80 != 0 => KeyType::Rsa2048,
            512 if n[0] & 0x80 != 0 => KeyType::Rsa4096,
            _ => return Err("RSA modulus is not of 2048 or 4096 bits"),
        };
        let spki = RsaPublicKeyComponents { n, e }
            .as_der()
            .map_err(|_| "RSA public key is malformed")?;
        Self::parse(spki.as_ref(), key_type)
    }

    fn parse(spki: &[u8], key_type: KeyType) -> Result<Self, &'static str> {
        let algorithm: &'static dyn VerificationAlgorithm = match key_type {
            KeyType::EcP256 => &ECDSA_P256_SHA256_FIXED,
            KeyType::EcP384 => &ECDSA_P384_SHA384_FIXED,
            KeyType::Rsa2048 | KeyType::Rsa4096 => &RSA_PKCS1_2048_8192_SHA256,
        };
        let parsed =
            ParsedPublicKey::new(algorithm, spki).map_err(|_| "public key is malformed")?;
        let canonical = parsed.as_der().map_err(|_| "public key is malformed")?;
        if canonical.as_ref() != spki {
            return Err("public key is not canonical DER");
        }
        Ok(Self {
            spki: spki.into(),
            key_type,
            parsed: Arc::new(parsed),
        })
    }

    pub(crate) const fn key_type(&self) -> KeyType {
        self.key_type
    }

    pub(crate) fn spki_shared(&self) -> Arc<[u8]> {
        Arc::clone(&self.spki)
    }

    pub(crate) fn info(&self) -> PublicKeyInfo {
        PublicKeyInfo {
            spki_der: self.spki.to_vec(),
            key_type: self.key_type,
        }
    }

    /// Whether `raw` (as [`Signature`](crate::Signature) keeps it) signs `digest`.
    pub(crate) fn verifies(&self, digest: &Digest, raw: &[u8]) -> bool {
        raw.len() == self.key_type.signature_bytes()
            && self.parsed.verify_digest_sig(digest, raw).is_ok()
    }
}

fn without_leading_zeros(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    &integer[zeros..]
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        RsaKeyPair,
    };

    use super::*;

    fn point(key_type: KeyType) -> Vec<u8> {
        let algorithm = if key_type == KeyType::EcP256 {
            &ECDSA_P256_SHA256_FIXED_SIGNING
        } else {
            &ECDSA_P384_SHA384_FIXED_SIGNING
        };
        EcdsaKeyPair::generate(algorithm)
            .expect("generates")
            .public_key()
            .as_ref()
            .to_vec()
    }

    #[test]
    fn a_point_is_read_bare_or_wrapped_to_the_same_key() {
        for (oid, key_type) in [(P256_OID, KeyType::EcP256), (P384_OID, KeyType::EcP384)] {
            let bare = point(key_type);
            let wrapped = [&[0x04, bare.len() as u8][..], &bare].concat();
            let from_bare = VerifyingKey::from_pkcs11_ec(oid, &bare).expect("bare");
            let from_wrapped = VerifyingKey::from_pkcs11_ec(oid, &wrapped).expect("wrapped");
            assert_eq!(from_bare.info(), from_wrapped.info());
            assert_eq!(from_bare.key_type(), key_type);
            assert_eq!(
                PublicKeyInfo::from_spki_der(&from_bare.spki),
                Some(from_bare.info())
            );
        }
    }

    #[test]
    fn points_off_the_curve_compressed_or_cut_are_refused() {
        let good = point(KeyType::EcP256);
        let mut off = good.clone();
        off[64] ^= 1;
        let mut compressed = good[..33].to_vec();
        compressed[0] = 2;
        for bad in [&off[..], &compressed, &good[..64], &[], &[4]] {
            assert!(VerifyingKey::from_pkcs11_ec(P256_OID, bad).is_err());
        }
    }

    #[test]
    fn curves_that_are_not_named_are_refused() {
        let explicit = [&[0x30, 0x0a][..], P256_OID].concat();
        assert!(VerifyingKey::from_pkcs11_ec(&explicit, &point(KeyType::EcP256)).is_err());
        assert!(VerifyingKey::from_pkcs11_ec(P384_OID, &point(KeyType::EcP256)).is_err());
    }

    #[test]
    fn rsa_sizes_are_told_apart_and_other_exponents_refused() {
        for (size, key_type) in [
            (KeySize::Rsa2048, KeyType::Rsa2048),
            (KeySize::Rsa4096, KeyType::Rsa4096),
        ] {
            let pair = RsaKeyPair::generate(size).expect("generates");
            let spki = AsDer::as_der(pair.public_key()).expect("encodes");
            let key = VerifyingKey::from_spki(spki.as_ref()).expect("reads");
            assert_eq!(key.key_type(), key_type);
        }
        let modulus = [0xff; 256];
        assert!(VerifyingKey::from_pkcs11_rsa(&modulus, &[3]).is_err());
        assert!(VerifyingKey::from_pkcs11_rsa(&modulus[1..], RSA_EXPONENT).is_err());
        assert!(VerifyingKey::from_pkcs11_rsa(&[0; 300], RSA_EXPONENT).is_err());
    }
}
