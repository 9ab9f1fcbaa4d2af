//! Clock and entropy: the one module that asks the operating system for either.

/// Unix seconds by this machine's clock: for dates in documents.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that asks for wall time"
)]
pub(crate) fn now() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec
}

/// A number from 0 to 1, to spread what many agents do.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without entropy nothing is spread, and keys are not made either.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
