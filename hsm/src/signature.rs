//! One signature in the one form kept here, and the forms others want.
//!
//! Tokens return ECDSA as `r || s`; JWS wants just that (RFC 7518 §3.4), X.509 wants a DER sequence
//! of two minimal integers (RFC 3279 §2.2.3). Kept raw, converted at the edge.

use std::sync::Arc;

use crate::error::SignerError;
use crate::public_key::VerifyingKey;
use crate::signer::{KeyType, SignatureAlgorithm};

/// A signature: fixed-width `r || s` for ECDSA, the octet string of RFC 8017 §8.2.1 for RSA.
#[derive(Debug, Clone)]
pub struct Signature {
    algorithm: SignatureAlgorithm,
    bytes: Vec<u8>,
    verified_with: Option<Arc<[u8]>>,
}

impl Signature {
    /// Wraps raw bytes. Says nothing about whether they verify.
    ///
    /// # Errors
    /// [`SignerError::SignatureWidth`] where no key signs `algorithm` at this width.
    pub fn from_raw(algorithm: SignatureAlgorithm, bytes: Vec<u8>) -> Result<Self, SignerError> {
        let fits = KeyType::ALL.iter().any(|key_type| {
            key_type.algorithm() == algorithm && key_type.signature_bytes() == bytes.len()
        });
        if !fits {
            return Err(SignerError::SignatureWidth {
                algorithm,
                bytes: bytes.len(),
            });
        }
        Ok(Self {
            algorithm,
            bytes,
            verified_with: None,
        })
    }

    /// Notes that `key` verified these bytes over the message they were asked for.
    pub(crate) fn verified_with_key(mut self, key: &VerifyingKey) -> Self {
        self.verified_with = Some(key.spki_shared());
        self
    }

    /// How it was made.
    #[must_use]
    pub const fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The SPKI of the key that this crate verified the signature with, over the message that was
    /// to be signed; `None` where it was not verified here. A caller that compares this with the
    /// recorded key need not verify again.
    #[must_use]
    pub fn verified_with(&self) -> Option<&[u8]> {
        self.verified_with.as_deref()
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As JWS has it: the raw bytes (RFC 7518 §3.3, §3.4).
    #[must_use]
    pub fn to_jws(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// As X.509 has it in `signatureValue`: `ECDSA-Sig-Value` for ECDSA, the raw bytes for RSA.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        match self.algorithm {
            SignatureAlgorithm::RsaPkcs1Sha256 => self.bytes.clone(),
            SignatureAlgorithm::EcdsaP256Sha256 | SignatureAlgorithm::EcdsaP384Sha384 => {
                let (r, s) = self.bytes.split_at(self.bytes.len() / 2);
                let mut body = Vec::with_capacity(self.bytes.len() + 6);
                push_integer(&mut body, r);
                push_integer(&mut body, s);
                let mut der = Vec::with_capacity(body.len() + 2);
                der.extend([0x30, short_length(body.len())]);
                der.extend(body);
                der
            }
        }
    }
}

/// Whether `signature` is one of `message` by the key in `spki_der` (DER `SubjectPublicKeyInfo`,
/// named curve).
///
/// False as well for a key that is malformed, of another type than `algorithm` has, or not in
/// canonical DER.
#[must_use]
pub fn verify(
    spki_der: &[u8],
    algorithm: SignatureAlgorithm,
    message: &[u8],
    signature: &Signature,
) -> bool {
    signature.algorithm == algorithm
        && VerifyingKey::from_spki(spki_der).is_ok_and(|key| {
            key.key_type().algorithm() == algorithm
                && key.verifies(&algorithm.digest(message), &signature.bytes)
        })
}

/// Appends a non-negative DER INTEGER (X.690 §8.3): no needless leading zeros, one where the top
/// bit is set.
fn push_integer(der: &mut Vec<u8>, big_endian: &[u8]) {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    // Zero itself keeps one octet.
    let minimal = &big_endian[zeros.min(big_endian.len().saturating_sub(1))..];
    let pad = minimal.first().is_some_and(|byte| byte & 0x80 != 0);
    der.extend([0x02, short_length(minimal.len() + usize::from(pad))]);
    if pad {
        der.push(0);
    }
    der.extend(minimal);
}

fn short_length(length: usize) -> u8 {
    u8::try_from(length)
        .ok()
        .filter(|length| *length < 0x80)
        .expect("two P-384 integers take 102 octets at most")
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use proptest::prelude::*;

    use super::*;
    use crate::{KeyRef, KeySpec, MemorySigner, Signer};

    fn ecdsa(bytes: Vec<u8>) -> Signature {
        Signature::from_raw(SignatureAlgorithm::EcdsaP256Sha256, bytes).expect("64 bytes")
    }

    /// A reader of its own, stricter than any library: it takes nothing but the one DER form.
    fn read_der(der: &[u8], width: usize) -> Option<Vec<u8>> {
        let [0x30, length, body @ ..] = der else {
            return None;
        };
        let mut rest = body;
        let mut raw = Vec::new();
        if usize::from(*length) != body.len() {
            return None;
        }
        for _ in 0..2 {
            let [0x02, length, tail @ ..] = rest else {
                return None;
            };
            let (integer, after) = tail.split_at_checked(usize::from(*length))?;
            rest = after;
            let digits = match integer {
                [] => return None,
                [0] => &[][..],
                [0, next, ..] if next & 0x80 == 0 => return None,
                [0, digits @ ..] => digits,
                [first, ..] if first & 0x80 != 0 => return None,
                digits => digits,
            };
            raw.extend(std::iter::repeat_n(0, width.checked_sub(digits.len())?));
            raw.extend(digits);
        }
        rest.is_empty().then_some(raw)
    }

    proptest! {
        #[test]
        fn der_is_minimal_and_keeps_both_integers(
            r_zeros in 0usize..=32, s_zeros in 0usize..=32, mut raw in proptest::collection::vec(any::<u8>(), 64)
        ) {
            raw[..r_zeros].fill(0);
            raw[32..32 + s_zeros].fill(0);
            prop_assert_eq!(read_der(&ecdsa(raw.clone()).to_der(), 32), Some(raw));
        }
    }

    #[test]
    fn integers_with_the_high_bit_get_one_zero_octet() {
        let mut raw = vec![0; 64];
        raw[0] = 0x80;
        raw[63] = 0x7f;
        let der = ecdsa(raw).to_der();
        assert_eq!(&der[..5], &[0x30, 38, 0x02, 33, 0x00]);
        assert_eq!(&der[der.len() - 3..], &[0x02, 1, 0x7f]);
    }

    #[test]
    fn widths_that_no_key_has_are_refused() {
        for bytes in [0, 63, 65, 96] {
            assert!(
                Signature::from_raw(SignatureAlgorithm::EcdsaP256Sha256, vec![1; bytes]).is_err()
            );
        }
        assert!(Signature::from_raw(SignatureAlgorithm::RsaPkcs1Sha256, vec![1; 384]).is_err());
    }

    #[tokio::test]
    async fn verify_takes_only_the_key_message_and_algorithm_that_signed() {
        let signer = MemorySigner::new();
        let key = KeyRef {
            id: [7; 16].into(),
            label: "k".into(),
        };
        let spec = KeySpec {
            key: key.clone(),
            key_type: KeyType::EcP256,
        };
        let spki = signer.generate(&spec).await.expect("generates").spki_der;
        let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
        let signature = signer.sign(&key, algorithm, b"m").await.expect("signs");
        assert!(verify(&spki, algorithm, b"m", &signature));
        assert!(!verify(&spki, algorithm, b"n", &signature));
        assert!(!verify(
            &spki,
            SignatureAlgorithm::EcdsaP384Sha384,
            b"m",
            &signature
        ));
        assert!(!verify(
            &spki[..spki.len() - 1],
            algorithm,
            b"m",
            &signature
        ));
        // The bare point is a key to the library, not an SPKI to us.
        assert!(!verify(
            &spki[spki.len() - 65..],
            algorithm,
            b"m",
            &signature
        ));
        let asn1 = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki);
        assert!(asn1.verify(b"m", &signature.to_der()).is_ok());
    }
}
