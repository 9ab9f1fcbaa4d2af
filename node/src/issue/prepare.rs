//! The proof that a document may be signed, and the one way to sign it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chancery_hsm::{BackendKind, KeyRef, Signature, SignatureAlgorithm, Signer};
use chancery_identity::key::{KeyKind, PublicKey};

use super::error::IssueError;

/// Of the signatures that a memory key makes, the first and every one of this many after it are
/// verified before they leave. A key in this process fails either always or never; every signature
/// of a token is verified.
pub const MEMORY_CHECK_INTERVAL: u64 = 4_096;

/// An authority's key: how the signer finds it, and the public half that was recorded when it was
/// proved.
#[derive(Debug)]
pub struct SigningKey {
    reference: KeyRef,
    public_key: PublicKey,
    algorithm: SignatureAlgorithm,
    /// Signatures since the last one that was verified.
    unverified: AtomicU64,
}

impl SigningKey {
    /// The key at `reference`, whose signatures `public_key` verifies.
    ///
    /// # Errors
    /// [`IssueError::AuthorityKeyKind`] when no signer signs with keys of this kind.
    pub fn new(reference: KeyRef, public_key: PublicKey) -> Result<Self, IssueError> {
        let algorithm = match public_key.kind() {
            KeyKind::EcP256 => SignatureAlgorithm::EcdsaP256Sha256,
            KeyKind::EcP384 => SignatureAlgorithm::EcdsaP384Sha384,
            KeyKind::Rsa { .. } => SignatureAlgorithm::RsaPkcs1Sha256,
            kind @ (KeyKind::EcP521 | KeyKind::Ed25519) => {
                return Err(IssueError::AuthorityKeyKind(kind));
            }
        };
        Ok(SigningKey {
            reference,
            public_key,
            algorithm,
            unverified: AtomicU64::new(0),
        })
    }

    /// How the signer finds it.
    #[must_use]
    pub fn reference(&self) -> &KeyRef {
        &self.reference
    }

    /// The recorded public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Whether this signature is one of those that are verified.
    pub(super) fn is_due(&self, backend: BackendKind, signature: &Signature) -> bool {
        // The signer verified it with the very key that is recorded: that is this check.
        if signature.verified_with() == Some(self.public_key.spki_der()) {
            return false;
        }
        match backend {
            BackendKind::Memory | BackendKind::Disk => {
                let made = self.unverified.fetch_add(1, Ordering::Relaxed);
                made.is_multiple_of(MEMORY_CHECK_INTERVAL)
            }
            BackendKind::Pkcs11 => true,
        }
    }

    /// After a bad signature nothing of this key is believed until one verifies.
    pub(super) fn distrust(&self) {
        self.unverified.store(0, Ordering::Relaxed);
    }
}

/// A kind of document. Implemented in this room only: the trait is public so that [`Prepared`] can
/// name it, its methods take what nobody else can make.
pub trait Document: Sized {
    /// What leaves.
    type Issued;

    /// Whether `signature` is one by `key` over `message`.
    #[doc(hidden)]
    fn verifies(&self, key: &SigningKey, message: &[u8], signature: &Signature) -> bool;

    /// Whether it goes ahead of others that wait for the signer: it lets many be signed.
    #[doc(hidden)]
    fn goes_first(&self) -> bool {
        false
    }

    /// Puts message and signature together and judges the whole.
    #[doc(hidden)]
    fn finish(self, message: Vec<u8>, signature: &Signature) -> Result<Self::Issued, IssueError>;
}

/// A document that was judged and may be signed: once, by the key of the authority that it was
/// prepared for.
///
/// It cannot be cloned or made outside of this room, its contents cannot be changed, and signing
/// consumes it.
#[derive(Debug)]
#[must_use = "a prepared document that is not signed is thrown away"]
pub struct Prepared<D> {
    draft: D,
    message: Vec<u8>,
    key: Arc<SigningKey>,
}

impl<D: Document> Prepared<D> {
    /// Callers have judged `message` against what `draft` says.
    pub(super) fn new(draft: D, message: Vec<u8>, key: Arc<SigningKey>) -> Self {
        Prepared {
            draft,
            message,
            key,
        }
    }

    /// What the document will say: for the audit event that goes before the signature.
    pub fn draft(&self) -> &D {
        &self.draft
    }

    /// Signs and judges again. Dropping the future leaves nothing behind but, perhaps, a signature
    /// that nobody sees.
    ///
    /// # Errors
    /// [`IssueError::Signer`], [`IssueError::WrongSignature`], and the violations of the document.
    /// Nothing leaves then.
    pub async fn sign(self, signer: &dyn Signer) -> Result<D::Issued, IssueError> {
        let Prepared {
            draft,
            message,
            key,
        } = self;
        let (reference, algorithm) = (&key.reference, key.algorithm);
        let signature = if draft.goes_first() {
            signer.sign_first(reference, algorithm, &message).await
        } else {
            signer.sign(reference, algorithm, &message).await
        };
        let signature = signature.map_err(IssueError::Signer)?;
        if key.is_due(signer.kind(), &signature) && !draft.verifies(&key, &message, &signature) {
            key.distrust();
            return Err(IssueError::WrongSignature(key.reference.clone()));
        }
        draft.finish(message, &signature)
    }
}
