//! What each fuzz target does with its bytes.
//!
//! The bodies stand here and not in `fuzz_targets`, so that `tests/tests/fuzz_smoke.rs`
//! can run the same code over the same corpora with a stable compiler. A body panics
//! where a parser panics or breaks a property; refusing the input is never a finding.

/// Name and body of a target.
pub type Target = (&'static str, fn(&[u8]));

pub mod hsm;
pub mod identity;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "store")]
pub mod raft_store;
