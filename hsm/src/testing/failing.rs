//! A signer that fails on command, to test what stands in front of one.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::error::SignerError;
use crate::lock;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{BackendKind, Health, KeyListing, KeyRef, KeySpec, SignatureAlgorithm, Signer};

/// A method of [`Signer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`Signer::generate`].
    Generate,
    /// [`Signer::public_key`].
    PublicKey,
    /// [`Signer::sign`].
    Sign,
    /// [`Signer::delete`].
    Delete,
    /// [`Signer::list`].
    List,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The call fails with this error, and the signer is not healthy.
    Fail(SignerError),
    /// The call waits until the fault is lifted, then goes on.
    Hang,
    /// The call is done, then its answer is lost: the error is returned instead.
    LoseReply(SignerError),
    /// One bit of each signature is wrong. Other operations are left alone.
    Corrupt,
}

/// Does what the inner signer does, except where it was told to fail.
#[derive(Debug)]
pub struct FailingSigner<S> {
    inner: S,
    faults: watch::Sender<BTreeMap<Operation, Fault>>,
    calls: Mutex<BTreeMap<Operation, u64>>,
}

impl<S: Signer> FailingSigner<S> {
    /// Faultless until told otherwise.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            faults: watch::Sender::default(),
            calls: Mutex::default(),
        }
    }

    /// Makes one operation fail from now on.
    pub fn inject(&self, operation: Operation, fault: Fault) {
        self.faults.send_modify(|faults| {
            faults.insert(operation, fault);
        });
    }

    /// Makes every operation fail from now on: the backend is away.
    pub fn inject_all(&self, fault: &Fault) {
        for operation in [
            Operation::Generate,
            Operation::PublicKey,
            Operation::Sign,
            Operation::Delete,
            Operation::List,
        ] {
            self.inject(operation, fault.clone());
        }
    }

    /// Lifts every fault; calls that hang go on.
    pub fn heal(&self) {
        self.faults.send_modify(BTreeMap::clear);
    }

    /// How often the operation was called, failures included.
    pub fn calls(&self, operation: Operation) -> u64 {
        lock(&self.calls).get(&operation).copied().unwrap_or(0)
    }

    /// Counts the call, waits or fails as told, and says what is to happen after it.
    async fn before(&self, operation: Operation) -> Result<Option<Fault>, SignerError> {
        *lock(&self.calls).entry(operation).or_default() += 1;
        let mut faults = self.faults.subscribe();
        let settled = faults
            .wait_for(|faults| !matches!(faults.get(&operation), Some(Fault::Hang)))
            .await
            .map_err(|_| SignerError::Closed)?
            .get(&operation)
            .cloned();
        match settled {
            Some(Fault::Fail(error)) => Err(error),
            after => Ok(after),
        }
    }
}

fn after<T>(fault: Option<Fault>, outcome: Result<T, SignerError>) -> Result<T, SignerError> {
    match fault {
        Some(Fault::LoseReply(error)) => outcome.and(Err(error)),
        _ => outcome,
    }
}

#[async_trait]
impl<S: Signer> Signer for FailingSigner<S> {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn token_serials(&self) -> Vec<String> {
        self.inner.token_serials()
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        let fault = self.before(Operation::Generate).await?;
        after(fault, self.inner.generate(spec).await)
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        let fault = self.before(Operation::PublicKey).await?;
        after(fault, self.inner.public_key(key).await)
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        let fault = self.before(Operation::Sign).await?;
        let signature = self.inner.sign(key, algorithm, message).await?;
        if matches!(fault, Some(Fault::Corrupt)) {
            let mut bytes = signature.to_jws();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            return Signature::from_raw(algorithm, bytes);
        }
        after(fault, Ok(signature))
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        let fault = self.before(Operation::Delete).await?;
        after(fault, self.inner.delete(key).await)
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        let fault = self.before(Operation::List).await?;
        after(fault, self.inner.list(label_prefix).await)
    }

    fn health(&self) -> Health {
        let health = self.inner.health();
        let faults = self.faults.borrow();
        match faults.get(&Operation::Sign) {
            Some(Fault::Fail(error)) => Health {
                usable: false,
                last_error: Some(error.clone()),
                ..health
            },
            Some(Fault::Hang) => Health {
                usable: false,
                ..health
            },
            _ => health,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::fresh_key;
    use crate::{KeyType, MemorySigner, verify};

    const ES256: SignatureAlgorithm = SignatureAlgorithm::EcdsaP256Sha256;

    #[tokio::test]
    async fn faults_last_until_healed_and_every_call_is_counted() {
        let signer = Arc::new(FailingSigner::new(MemorySigner::new()));
        let key = fresh_key("k");
        let spec = KeySpec {
            key: key.clone(),
            key_type: KeyType::EcP256,
        };

        // Done, but nobody heard: what an intent must survive.
        signer.inject(Operation::Generate, Fault::LoseReply(SignerError::Closed));
        assert_eq!(signer.generate(&spec).await, Err(SignerError::Closed));
        let spki = signer.public_key(&key).await.expect("it was made").spki_der;

        let busy = SignerError::Busy {
            retry_after: std::time::Duration::from_millis(3),
        };
        signer.inject(Operation::Sign, Fault::Fail(busy.clone()));
        assert_eq!(
            signer.sign(&key, ES256, b"m").await.expect_err("told to"),
            busy
        );
        assert!(!signer.health().usable);

        signer.inject(Operation::Sign, Fault::Corrupt);
        let bad = signer.sign(&key, ES256, b"m").await.expect("signs");
        assert!(!verify(&spki, ES256, b"m", &bad));

        signer.inject(Operation::Sign, Fault::Hang);
        let hung = tokio::spawn({
            let (signer, key) = (Arc::clone(&signer), key.clone());
            async move { signer.sign(&key, ES256, b"m").await }
        });
        while signer.calls(Operation::Sign) < 3 {
            tokio::task::yield_now().await;
        }
        assert!(!hung.is_finished());
        signer.heal();
        let good = hung.await.expect("joins").expect("signs");
        assert!(verify(&spki, ES256, b"m", &good));
        assert_eq!(signer.calls(Operation::Sign), 3);
        assert!(signer.health().usable);
    }
}
