//! Keys of this process: for short-lived intermediates, for a first look and for tests.
//!
//! Promises: keys are made and held by aws-lc-rs, which wipes a private key when the last use of it
//! ends; there is no way to read one out. Refuses to write anything anywhere: with the process the
//! keys are gone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};

use crate::environment;
use crate::error::SignerError;
use crate::lock;
use crate::public_key::{PublicKeyInfo, VerifyingKey};
use crate::signature::Signature;
use crate::signer::{
    BackendKind, Health, KeyId, KeyListing, KeyRef, KeySpec, KeyType, SignatureAlgorithm, Signer,
};

/// More keys than any node rotates through; reaching it means that somebody forgets to delete.
const KEYS_MAX: usize = 1024;

/// Keys held in memory.
#[derive(Default)]
pub struct MemorySigner {
    keys: Mutex<BTreeMap<KeyId, Arc<MemoryKey>>>,
}

struct MemoryKey {
    label: String,
    pair: Pair,
    public: PublicKeyInfo,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl MemorySigner {
    /// A signer without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn find(&self, key: &KeyRef) -> Result<Arc<MemoryKey>, SignerError> {
        let found = lock(&self.keys).get(&key.id).cloned();
        found.ok_or_else(|| SignerError::NotFound { key: key.clone() })
    }
}

impl fmt::Debug for MemorySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySigner")
            .field("keys", &lock(&self.keys).len())
            .finish_non_exhaustive()
    }
}

impl MemoryKey {
    fn generate(spec: &KeySpec) -> Result<Self, SignerError> {
        let failed = SignerError::Crypto {
            operation: "key generation",
        };
        let (pair, public) = match spec.key_type {
            KeyType::EcP256 | KeyType::EcP384 => {
                let algorithm = if spec.key_type == KeyType::EcP256 {
                    &ECDSA_P256_SHA256_FIXED_SIGNING
                } else {
                    &ECDSA_P384_SHA384_FIXED_SIGNING
                };
                let pair = EcdsaKeyPair::generate(algorithm).map_err(|_| failed.clone())?;
                let public = VerifyingKey::from_ec_point(spec.key_type, pair.public_key().as_ref());
                (Pair::Ecdsa(pair), public)
            }
            KeyType::Rsa2048 | KeyType::Rsa4096 => {
                let size = if spec.key_type == KeyType::Rsa2048 {
                    KeySize::Rsa2048
                } else {
                    KeySize::Rsa4096
                };
                let pair = RsaKeyPair::generate(size).map_err(|_| failed.clone())?;
                let spki = pair.public_key().as_der().map_err(|_| failed.clone())?;
                (Pair::Rsa(pair), VerifyingKey::from_spki(spki.as_ref()))
            }
        };
        let public = public
            .map_err(|reason| SignerError::UnsupportedKey {
                id: spec.key.id,
                reason,
            })?
            .info();
        Ok(Self {
            label: spec.key.label.clone(),
            pair,
            public,
        })
    }

    fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        algorithm.require_for(self.public.key_type)?;
        let failed = |_| SignerError::Crypto {
            operation: "signing",
        };
        let random = environment::generator();
        let bytes = match &self.pair {
            Pair::Ecdsa(pair) => pair
                .sign(&random, message)
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Pair::Rsa(pair) => {
                let mut bytes = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut bytes)
                    .map_err(failed)?;
                bytes
            }
        };
        Signature::from_raw(algorithm, bytes)
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
        let id = spec.key.id;
        if lock(&self.keys).contains_key(&id) {
            return Err(SignerError::AlreadyExists { id });
        }
        let made = match spec.key_type {
            KeyType::EcP256 | KeyType::EcP384 => MemoryKey::generate(spec)?,
            // Searching for primes takes up to seconds: not on a thread that serves others.
            KeyType::Rsa2048 | KeyType::Rsa4096 => {
                let spec = spec.clone();
                tokio::task::spawn_blocking(move || MemoryKey::generate(&spec))
                    .await
                    .map_err(|_| SignerError::Crypto {
                        operation: "key generation",
                    })??
            }
        };
        let mut keys = lock(&self.keys);
        if keys.contains_key(&id) {
            return Err(SignerError::AlreadyExists { id });
        }
        if keys.len() >= KEYS_MAX {
            return Err(SignerError::TooManyKeys { limit: KEYS_MAX });
        }
        let public = made.public.clone();
        keys.insert(id, Arc::new(made));
        Ok(public)
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        Ok(self.find(key)?.public.clone())
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.find(key)?.sign(algorithm, message)
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        let mut keys = lock(&self.keys);
        match keys.get(&key.id) {
            None => Err(SignerError::NotFound { key: key.clone() }),
            Some(held) if held.label != key.label => Err(SignerError::LabelMismatch {
                id: key.id,
                wanted: key.label.clone(),
                found: held.label.clone(),
            }),
            Some(_) => {
                keys.remove(&key.id);
                Ok(())
            }
        }
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        let mut found: Vec<KeyListing> = lock(&self.keys)
            .iter()
            .filter(|(_, held)| held.label.starts_with(label_prefix))
            .map(|(id, held)| KeyListing {
                key: KeyRef {
                    id: *id,
                    label: held.label.clone(),
                },
                private_objects: 1,
                public_objects: 1,
            })
            .collect();
        found.sort_by(|a, b| (&a.key.label, a.key.id).cmp(&(&b.key.label, b.key.id)));
        Ok(found)
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
