//! Keys that aws-lc-rs holds in this process, and the table that they are found in: what the
//! backends without a token have in common.
//!
//! Promises: a private key is wiped when the last use of it ends, and shown to nobody but
//! [`SoftwareKey::to_pkcs8`]. Refuses to know where keys come from or go to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use zeroize::Zeroizing;

use crate::environment;
use crate::error::SignerError;
use crate::lock;
use crate::public_key::{PublicKeyInfo, VerifyingKey};
use crate::signature::Signature;
use crate::signer::{KeyId, KeyListing, KeyRef, KeySpec, KeyType, SignatureAlgorithm};

/// More keys than any node rotates through; reaching it means that somebody forgets to delete.
pub(crate) const KEYS_MAX: usize = 1024;

/// A key pair in memory.
pub(crate) struct SoftwareKey {
    reference: KeyRef,
    pair: Pair,
    public: PublicKeyInfo,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

const fn ecdsa(key_type: KeyType) -> Option<&'static EcdsaSigningAlgorithm> {
    match key_type {
        KeyType::EcP256 => Some(&ECDSA_P256_SHA256_FIXED_SIGNING),
        KeyType::EcP384 => Some(&ECDSA_P384_SHA384_FIXED_SIGNING),
        KeyType::Rsa2048 | KeyType::Rsa4096 => None,
    }
}

impl Pair {
    fn generate(key_type: KeyType) -> Option<Self> {
        if let Some(algorithm) = ecdsa(key_type) {
            return EcdsaKeyPair::generate(algorithm).ok().map(Self::Ecdsa);
        }
        let size = if key_type == KeyType::Rsa2048 {
            KeySize::Rsa2048
        } else {
            KeySize::Rsa4096
        };
        RsaKeyPair::generate(size).ok().map(Self::Rsa)
    }

    fn from_pkcs8(key_type: KeyType, pkcs8: &[u8]) -> Option<Self> {
        match ecdsa(key_type) {
            Some(algorithm) => EcdsaKeyPair::from_pkcs8(algorithm, pkcs8)
                .ok()
                .map(Self::Ecdsa),
            None => RsaKeyPair::from_pkcs8(pkcs8).ok().map(Self::Rsa),
        }
    }

    /// The public half, which is of `key_type` or refused.
    fn public(&self, key_type: KeyType) -> Result<PublicKeyInfo, &'static str> {
        let public = match self {
            Self::Ecdsa(pair) => VerifyingKey::from_ec_point(key_type, pair.public_key().as_ref())?,
            Self::Rsa(pair) => {
                let spki = pair
                    .public_key()
                    .as_der()
                    .map_err(|_| "RSA public key is malformed")?;
                VerifyingKey::from_spki(spki.as_ref())?
            }
        };
        if public.key_type() != key_type {
            return Err("key of another type");
        }
        Ok(public.info())
    }
}

impl SoftwareKey {
    /// Makes a key. Searching for the primes of RSA takes up to seconds.
    pub(crate) fn generate(spec: &KeySpec) -> Result<Self, SignerError> {
        let pair = Pair::generate(spec.key_type).ok_or(SignerError::Crypto {
            operation: "key generation",
        })?;
        let public = pair
            .public(spec.key_type)
            .map_err(|reason| SignerError::UnsupportedKey {
                id: spec.key.id,
                reason,
            })?;
        Ok(Self {
            reference: spec.key.clone(),
            pair,
            public,
        })
    }

    /// Takes a key back in; `None` unless it is one of `public.key_type` whose public half is just
    /// `public`.
    pub(crate) fn from_pkcs8(
        reference: KeyRef,
        public: PublicKeyInfo,
        pkcs8: &[u8],
    ) -> Option<Self> {
        let pair = Pair::from_pkcs8(public.key_type, pkcs8)?;
        let derived = pair.public(public.key_type).ok()?;
        (derived == public).then_some(Self {
            reference,
            pair,
            public,
        })
    }

    /// The private key, for a backend that keeps it.
    pub(crate) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SignerError> {
        let failed = |_| SignerError::Crypto {
            operation: "encoding a key",
        };
        // Both documents wipe themselves.
        Ok(Zeroizing::new(match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                der.as_ref().to_vec()
            }
        }))
    }

    pub(crate) fn reference(&self) -> &KeyRef {
        &self.reference
    }

    pub(crate) fn public(&self) -> &PublicKeyInfo {
        &self.public
    }

    pub(crate) fn sign(
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

/// Keys by their id. Every method is one step.
#[derive(Default)]
pub(crate) struct KeyTable {
    keys: Mutex<BTreeMap<KeyId, Arc<SoftwareKey>>>,
}

impl KeyTable {
    pub(crate) fn len(&self) -> usize {
        lock(&self.keys).len()
    }

    pub(crate) fn find(&self, key: &KeyRef) -> Result<Arc<SoftwareKey>, SignerError> {
        let found = lock(&self.keys).get(&key.id).cloned();
        found.ok_or_else(|| SignerError::NotFound { key: key.clone() })
    }

    /// Finds a key that is to be deleted, which must have the label too.
    pub(crate) fn find_labelled(&self, key: &KeyRef) -> Result<(), SignerError> {
        let held = self.find(key)?;
        if held.reference.label == key.label {
            return Ok(());
        }
        Err(SignerError::LabelMismatch {
            id: key.id,
            wanted: key.label.clone(),
            found: held.reference.label.clone(),
        })
    }

    /// Whether a key may be made under this id.
    pub(crate) fn require_free(&self, id: KeyId) -> Result<(), SignerError> {
        Self::free(&lock(&self.keys), id)
    }

    fn free(keys: &BTreeMap<KeyId, Arc<SoftwareKey>>, id: KeyId) -> Result<(), SignerError> {
        if keys.contains_key(&id) {
            Err(SignerError::AlreadyExists { id })
        } else if keys.len() >= KEYS_MAX {
            Err(SignerError::TooManyKeys { limit: KEYS_MAX })
        } else {
            Ok(())
        }
    }

    /// Adds a key whose id is free.
    pub(crate) fn insert(&self, key: SoftwareKey) -> Result<(), SignerError> {
        let mut keys = lock(&self.keys);
        let id = key.reference.id;
        Self::free(&keys, id)?;
        keys.insert(id, Arc::new(key));
        Ok(())
    }

    pub(crate) fn remove(&self, id: KeyId) {
        lock(&self.keys).remove(&id);
    }

    /// As [`Signer::list`](crate::Signer::list) has it.
    pub(crate) fn list(&self, label_prefix: &str) -> Vec<KeyListing> {
        let mut found: Vec<KeyListing> = lock(&self.keys)
            .values()
            .filter(|held| held.reference.label.starts_with(label_prefix))
            .map(|held| KeyListing {
                key: held.reference.clone(),
                private_objects: 1,
                public_objects: 1,
            })
            .collect();
        found.sort_by(|a, b| (&a.key.label, a.key.id).cmp(&(&b.key.label, b.key.id)));
        found
    }
}
