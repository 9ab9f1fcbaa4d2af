//! Clock and entropy: the only module of this crate that asks the system for time or random bytes.
//!
//! The clock measures how long calls took and decides nothing. Keys are made by aws-lc-rs or by
//! the token, each with its own generator; the caller chooses key ids.

use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;

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

/// Random bytes for the throw-away ids of the test suites.
#[cfg(feature = "testing")]
#[allow(clippy::disallowed_methods)]
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the system generator answers, or nothing here can be tested");
    bytes
}
