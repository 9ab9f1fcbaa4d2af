//! The signature algorithms of JWT-SVIDs.

use aws_lc_rs::signature::{self, UnparsedPublicKey};

use crate::key::{KeyError, KeyKind, PublicKey, SignatureAlgorithm};

/// An algorithm that Chancery issues with and believes, by kind of key. The others
/// that JWT-SVID §2.1 permits are refused, not guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JwtAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl JwtAlgorithm {
    /// The algorithm with which a key of this kind signs tokens, if it does.
    #[must_use]
    pub fn for_key(kind: KeyKind) -> Option<Self> {
        match kind {
            KeyKind::EcP256 => Some(JwtAlgorithm::Es256),
            KeyKind::EcP384 => Some(JwtAlgorithm::Es384),
            KeyKind::Rsa { .. } => Some(JwtAlgorithm::Rs256),
            KeyKind::EcP521 | KeyKind::Ed25519 => None,
        }
    }

    /// The value of `alg` (RFC 7518 §3.1).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            JwtAlgorithm::Es256 => "ES256",
            JwtAlgorithm::Es384 => "ES384",
            JwtAlgorithm::Rs256 => "RS256",
        }
    }

    /// The algorithm of a value of `alg`. `none` and the MACs are not among them.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            JwtAlgorithm::Es256,
            JwtAlgorithm::Es384,
            JwtAlgorithm::Rs256,
        ]
        .into_iter()
        .find(|algorithm| algorithm.name() == name)
    }

    /// Length of a raw ECDSA signature in bytes; RSA's depends on the key.
    pub(super) fn signature_bytes(self) -> Option<usize> {
        match self {
            JwtAlgorithm::Es256 => Some(64),
            JwtAlgorithm::Es384 => Some(96),
            JwtAlgorithm::Rs256 => None,
        }
    }

    /// Verifies a raw signature as tokens carry it.
    ///
    /// # Errors
    /// [`KeyError::AlgorithmMismatch`] when the key is of another kind, so that the
    /// key decides and never the token; [`KeyError::BadSignature`].
    pub fn verify(
        self,
        key: &PublicKey,
        signing_input: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        if Self::for_key(key.kind()) != Some(self) {
            return Err(KeyError::AlgorithmMismatch);
        }
        let fixed = match self {
            JwtAlgorithm::Rs256 => {
                return key.verify(SignatureAlgorithm::RsaPkcs1Sha256, signing_input, signature);
            }
            JwtAlgorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            JwtAlgorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        };
        UnparsedPublicKey::new(fixed, key.bits())
            .verify(signing_input, signature)
            .map_err(|_| KeyError::BadSignature)
    }
}
