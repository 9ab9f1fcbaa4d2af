//! What chance and the clock give to one document.

use crate::environment::{self, Clock};

/// Time and random bits for one document, drawn once by the caller. Drawing is apart from preparing
/// so that a document is a function of its inputs.
#[derive(Debug)]
pub struct Draw {
    /// Unix seconds.
    pub now: i64,
    /// 128 random bits for the serial number, or for the id of a token.
    pub serial: [u8; 16],
    /// Random bits that spread the ends of documents capped by their authority.
    pub spread: u16,
}

impl Draw {
    /// Draws from the clock and the system's generator.
    #[must_use]
    pub fn new(clock: &dyn Clock) -> Self {
        Draw {
            now: clock.now_unix_ms().div_euclid(1_000),
            serial: environment::random_serial(),
            spread: u16::from_be_bytes(environment::random()),
        }
    }
}
