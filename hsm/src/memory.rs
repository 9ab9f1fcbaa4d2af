//! Keys of this process: for short-lived intermediates, for a first look and for tests.
//!
//! Promises: keys are made and held by aws-lc-rs, which wipes a private key when the last use of it
//! ends; there is no way to read one out. Refuses to write anything anywhere: with the process the
//! keys are gone.

use std::fmt;

use async_trait::async_trait;

use crate::error::SignerError;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{
    BackendKind, Health, KeyListing, KeyRef, KeySpec, KeyType, SignatureAlgorithm, Signer,
};
use crate::software::{KeyTable, SoftwareKey};

/// Keys held in memory.
#[derive(Default)]
pub struct MemorySigner {
    keys: KeyTable,
}

impl MemorySigner {
    /// A signer without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for MemorySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySigner")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Signer for MemorySigner {
    fn kind(&self) -> BackendKind {
        BackendKind::Memory
    }

    fn token_serials(&self) -> Vec<String> {
        Vec::new()
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        spec.key.check_label()?;
        self.keys.require_free(spec.key.id)?;
        let made = match spec.key_type {
            KeyType::EcP256 | KeyType::EcP384 => SoftwareKey::generate(spec)?,
            // Searching for primes takes up to seconds: not on a thread that serves others.
            KeyType::Rsa2048 | KeyType::Rsa4096 => {
                let spec = spec.clone();
                tokio::task::spawn_blocking(move || SoftwareKey::generate(&spec))
                    .await
                    .map_err(|_| SignerError::Crypto {
                        operation: "key generation",
                    })??
            }
        };
        let public = made.public().clone();
        self.keys.insert(made)?;
        Ok(public)
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        Ok(self.keys.find(key)?.public().clone())
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.keys.find(key)?.sign(algorithm, message)
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        self.keys.find_labelled(key)?;
        self.keys.remove(key.id);
        Ok(())
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        Ok(self.keys.list(label_prefix))
    }

    fn health(&self) -> Health {
        Health {
            usable: true,
            last_error: None,
            sessions: 0,
            sessions_free: 0,
            queued: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::software::KEYS_MAX;

    #[tokio::test]
    async fn key_count_is_bounded() {
        let signer = MemorySigner::new();
        let spec = |n: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            KeySpec {
                key: KeyRef {
                    id: id.into(),
                    label: "k".into(),
                },
                key_type: KeyType::EcP256,
            }
        };
        for n in 0..KEYS_MAX {
            signer.generate(&spec(n)).await.expect("below the bound");
        }
        let refused = signer
            .generate(&spec(KEYS_MAX))
            .await
            .expect_err("at the bound");
        assert_eq!(refused, SignerError::TooManyKeys { limit: KEYS_MAX });
    }
}
