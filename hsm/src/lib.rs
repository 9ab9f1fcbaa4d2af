//! Key custody: the one place that holds or reaches private keys.
//!
//! Exists so that the rest of the system signs through one narrow trait, [`Signer`], and cannot
//! tell (or leak) what is behind it: a PKCS#11 token ([`pkcs11`]), files ([`disk`]) or this
//! process's memory ([`memory`]).
//!
//! Promises: a private key never leaves its backend; a PIN is tried once and never guessed again; a
//! signature made by a token is verified before it is returned; every wait has a deadline and every
//! queue a bound.
//!
//! Refuses to know: SPIFFE, certificates, tokens, clusters. It signs bytes and names keys.

mod ckr;
pub mod disk;
mod environment;
mod error;
pub mod memory;
pub mod metered;
pub mod pkcs11;
mod public_key;
mod secret_file;
mod signature;
mod signer;
mod software;
#[cfg(feature = "testing")]
pub mod testing;

pub use ckr::Ckr;
pub use disk::{DiskConfig, DiskSigner, KeyDirectoryProblem, KeyFileProblem};
pub use error::{
    PinWarning, Retry, SecretFileProblem, SignerError, SlotContent, SlotSeen, TokenName,
};
pub use memory::MemorySigner;
pub use metered::Metered;
pub use pkcs11::{AwaitedSigner, Pkcs11Config, Pkcs11Signer, TokenSelector};
pub use public_key::PublicKeyInfo;
pub use signature::{Signature, verify};
pub use signer::{
    BackendKind, Health, KeyId, KeyListing, KeyRef, KeySpec, KeyType, SignatureAlgorithm, Signer,
};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data is valid between any two statements, so that a panic elsewhere need not
/// spread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
