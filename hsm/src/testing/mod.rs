//! What tests of this and other crates need: one suite for every backend, a signer that fails on
//! command, and a SoftHSM token that lasts as long as a test.

mod conformance;
mod failing;
mod softhsm;

pub use conformance::conformance;
pub use failing::{FailingSigner, Fault, Operation};
pub use softhsm::{SoftHsm, in_own_process, in_own_process_with};

use crate::environment;
use crate::signer::{KeyId, KeyRef};

/// A key reference that no test used before.
#[must_use]
pub fn fresh_key(label: &str) -> KeyRef {
    KeyRef {
        id: KeyId::new(environment::random()),
        label: label.to_owned(),
    }
}
