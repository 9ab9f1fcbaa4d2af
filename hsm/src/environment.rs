//! Clock and entropy: the only module of this crate that asks the system for time or random bytes.
//!
//! The clock measures how long calls took and decides nothing. Keys are made by aws-lc-rs or by
//! the token, each with its own generator; the caller chooses key ids.

use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;

use crate::error::SignerError;

/// The monotonic clock.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The generator behind signatures made in memory.
#[allow(clippy::disallowed_methods)]
pub(crate) fn generator() -> SystemRandom {
    SystemRandom::new()
}

/// Random bytes: the salt of sealed keys, and throw-away ids of the test suites.
#[allow(clippy::disallowed_methods)]
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SignerError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SignerError::Crypto {
        operation: "asking for random bytes",
    })?;
    Ok(bytes)
}
