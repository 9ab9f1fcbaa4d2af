//! The one narrow trait of this crate and the words it is spoken in.
//!
//! Promises that every backend keeps are checked by the conformance suite (`testing::conformance`).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;

use crate::error::SignerError;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;

/// Holds private keys and signs with them.
///
/// Every method may be called from many tasks at once. Each ends: backends that may stall carry a
/// deadline of their own and answer [`SignerError::Deadline`]. What was started for a caller that
/// went away may still happen, so `generate` refuses an id that exists and the caller reads the
/// public key instead.
#[async_trait]
pub trait Signer: Send + Sync + 'static {
    /// What is behind this signer.
    fn kind(&self) -> BackendKind;

    /// Serial numbers of the tokens behind this signer; empty where there is none.
    fn token_serials(&self) -> Vec<String>;

    /// Makes a key pair under the id and label that the caller chose.
    ///
    /// # Errors
    /// [`SignerError::AlreadyExists`] where a key has this id, whatever its label.
    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError>;

    /// The public half of a key, found by its id.
    ///
    /// # Errors
    /// [`SignerError::NotFound`], [`SignerError::Ambiguous`] where two keys have this id, and
    /// [`SignerError::UnsafeKey`] where the private half might have been outside its token.
    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError>;

    /// Signs `message` (hashed here, as `algorithm` says).
    ///
    /// # Errors
    /// As [`Signer::public_key`], and [`SignerError::AlgorithmMismatch`] where the key is of
    /// another type.
    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError>;

    /// As [`Signer::sign`], ahead of every document that waits: for work on authorities, such as
    /// signing an intermediate with a key that signs documents too. Rare by its nature; a storm
    /// of it would let documents wait for ever.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    async fn sign_first(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.sign(key, algorithm, message).await
    }

    /// Destroys a key for good: both halves, or the half that a crash left. For intents that were
    /// abandoned.
    ///
    /// # Errors
    /// [`SignerError::NotFound`], and [`SignerError::LabelMismatch`] where the id belongs to a key
    /// of another label.
    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError>;

    /// Every key whose label starts with `label_prefix` and whose id is a [`KeyId`], by label, then
    /// id.
    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError>;

    /// How the backend is, from what was last seen; never waits for it.
    fn health(&self) -> Health;
}

/// What is behind a signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendKind {
    /// Keys of this process, gone with it.
    Memory,
    /// Keys in files of this machine.
    Disk,
    /// Keys on a PKCS#11 token.
    Pkcs11,
}

impl BackendKind {
    /// The name used in metrics and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Pkcs11 => "pkcs11",
        }
    }
}

/// Names a key inside its backend: 16 random bytes chosen by the caller before the key exists
/// (`CKA_ID`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KeyId::BYTES]);

impl KeyId {
    /// The length of every id.
    pub const BYTES: usize = 16;

    /// Wraps the bytes as they are.
    #[must_use]
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl From<[u8; KeyId::BYTES]> for KeyId {
    fn from(bytes: [u8; KeyId::BYTES]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for KeyId {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A key as the caller knows it. Keys are found by `id`; `label` is for people and for sweeping.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRef {
    /// `CKA_ID`.
    pub id: KeyId,
    /// `CKA_LABEL`, 1 to [`KeyRef::LABEL_BYTES_MAX`] bytes.
    pub label: String,
}

impl KeyRef {
    /// The longest label that `generate` accepts.
    pub const LABEL_BYTES_MAX: usize = 255;

    pub(crate) fn check_label(&self) -> Result<(), SignerError> {
        match self.label.len() {
            1..=Self::LABEL_BYTES_MAX => Ok(()),
            bytes => Err(SignerError::LabelLength { bytes }),
        }
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" (id {})", self.label, self.id)
    }
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// What it will be called.
    pub key: KeyRef,
    /// What it will be.
    pub key_type: KeyType,
}

/// The key types that SPIRE's key managers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// ECDSA over NIST P-256.
    EcP256,
    /// ECDSA over NIST P-384.
    EcP384,
    /// RSA, 2048-bit modulus, exponent 65537.
    Rsa2048,
    /// RSA, 4096-bit modulus, exponent 65537.
    Rsa4096,
}

impl KeyType {
    /// Every key type.
    pub const ALL: [Self; 4] = [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096];

    /// The one algorithm that keys of this type sign with here.
    #[must_use]
    pub const fn algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::EcP256 => SignatureAlgorithm::EcdsaP256Sha256,
            Self::EcP384 => SignatureAlgorithm::EcdsaP384Sha384,
            Self::Rsa2048 | Self::Rsa4096 => SignatureAlgorithm::RsaPkcs1Sha256,
        }
    }

    /// The name used in configuration and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// Width of every signature made by a key of this type: `r || s`, or the modulus.
    pub(crate) const fn signature_bytes(self) -> usize {
        match self {
            Self::EcP256 => 64,
            Self::EcP384 => 96,
            Self::Rsa2048 => 256,
            Self::Rsa4096 => 512,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a message becomes a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignatureAlgorithm {
    /// `ecdsa-with-SHA256` over P-256; ES256.
    EcdsaP256Sha256,
    /// `ecdsa-with-SHA384` over P-384; ES384.
    EcdsaP384Sha384,
    /// `sha256WithRSAEncryption` (RSASSA-PKCS1-v1_5, RFC 8017 §8.2); RS256.
    RsaPkcs1Sha256,
}

impl SignatureAlgorithm {
    /// The name used in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::EcdsaP384Sha384 => "ecdsa-p384-sha384",
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
        }
    }

    pub(crate) fn digest(self, message: &[u8]) -> digest::Digest {
        match self {
            Self::EcdsaP256Sha256 | Self::RsaPkcs1Sha256 => {
                digest::digest(&digest::SHA256, message)
            }
            Self::EcdsaP384Sha384 => digest::digest(&digest::SHA384, message),
        }
    }

    /// Refuses to let a key sign in a way that is not its own.
    pub(crate) fn require_for(self, key_type: KeyType) -> Result<(), SignerError> {
        if key_type.algorithm() == self {
            Ok(())
        } else {
            Err(SignerError::AlgorithmMismatch {
                key_type,
                algorithm: self,
            })
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One id found by [`Signer::list`].
///
/// A whole key has one private and one public object. A crash in the middle of a generation leaves
/// a public object alone, and a token accepts several objects with one id: both show here so that a
/// sweep can name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyListing {
    /// Id and label as the backend has them.
    pub key: KeyRef,
    /// Private objects with this id and label.
    pub private_objects: u32,
    /// Public objects with this id and label.
    pub public_objects: u32,
}

impl KeyListing {
    /// Whether this is exactly one key with both halves.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.private_objects == 1 && self.public_objects == 1
    }
}

/// How a backend is, from what was last seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the next call has a chance: no device error since the last success, and a thread
    /// free to take it.
    pub usable: bool,
    /// The error that made it unusable, or the last one of the backend since a call succeeded.
    pub last_error: Option<SignerError>,
    /// Sessions (threads) of the backend; 0 where it needs none.
    pub sessions: u32,
    /// Sessions that wait for work now.
    pub sessions_free: u32,
    /// Calls that wait for a session.
    pub queued: u32,
}

#[async_trait]
impl<S: Signer + ?Sized> Signer for Arc<S> {
    fn kind(&self) -> BackendKind {
        (**self).kind()
    }

    fn token_serials(&self) -> Vec<String> {
        (**self).token_serials()
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        (**self).generate(spec).await
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        (**self).public_key(key).await
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        (**self).sign(key, algorithm, message).await
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        (**self).delete(key).await
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        (**self).list(label_prefix).await
    }

    fn health(&self) -> Health {
        (**self).health()
    }
}
