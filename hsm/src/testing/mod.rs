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
///
/// # Panics
/// Without random bytes of the system.
#[must_use]
pub fn fresh_key(label: &str) -> KeyRef {
    let id =
        environment::random().expect("the system generator answers, or nothing here can be tested");
    KeyRef {
        id: KeyId::new(id),
        label: label.to_owned(),
    }
}
