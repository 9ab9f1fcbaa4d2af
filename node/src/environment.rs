//! Clock and entropy.
//!
//! Why it exists: every other module of the server is handed time and random
//! bytes, so that tests and the simulation decide both. This is the only
//! module of the crate that asks the operating system for either; clippy's
//! `disallowed-methods` refuses the calls everywhere else.
//!
//! Promises: two clocks that are never confused (wall time for documents, boot
//! time for ages), and random bytes from the provider that makes the keys.
//! Refuses to know: what the time is used for.

use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use uuid::Builder;

/// How long a span that another machine's clock measures may last on this one's.
///
/// Rates of two clocks are taken to be less than 10 % off either way, the most to which
/// Linux lets a time source steer one: 1.1 / 0.9 and something. Only what a node says of
/// others rests on this; Raft's promises rest on no rate.
pub fn elsewhere(span: Duration) -> Duration {
    span.saturating_add(span / 4)
}

/// The two clocks a server reads.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May step in either direction: it is
    /// for dates in documents, never for measuring an age.
    fn now_unix_ms(&self) -> i64;

    /// Time since boot, suspended time included (`CLOCK_BOOTTIME`). Never goes
    /// back; the measure of freshness, because a machine that slept holds old
    /// state however few instructions it ran meanwhile.
    fn boottime(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks for wall time"
    )]
    fn now_unix_ms(&self) -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let ms = now
            .tv_sec
            .saturating_mul(1_000)
            .saturating_add(now.tv_nsec / 1_000_000);
        #[cfg(feature = "faults")]
        let ms = ms.saturating_add(wrong_by_ms());
        ms
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks for boot time"
    )]
    fn boottime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Both fields are never negative on this clock; a kernel that said
        // otherwise would only make state look older, which is the safe side.
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        )
    }
}

/// Fault: what this process's clock is ahead of the right one, from the file of its process
/// id in `CHANCERY_FAULT_CLOCK_DIR`, else from the file `all` there. Read each time, so that
/// a test can have the clock step.
#[cfg(feature = "faults")]
fn wrong_by_ms() -> i64 {
    static DIR: std::sync::OnceLock<Option<std::path::PathBuf>> = std::sync::OnceLock::new();
    let dir = DIR.get_or_init(|| std::env::var_os("CHANCERY_FAULT_CLOCK_DIR").map(Into::into));
    let Some(dir) = dir else { return 0 };
    [std::process::id().to_string().as_str(), "all"]
        .iter()
        .find_map(|name| {
            std::fs::read_to_string(dir.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// Hands a [`Clock`] to rustls, which otherwise reads system time by itself.
#[derive(Debug, Clone)]
pub struct TlsClock(std::sync::Arc<dyn Clock>);

impl TlsClock {
    /// TLS sees the time of `clock`.
    pub fn new(clock: std::sync::Arc<dyn Clock>) -> Self {
        Self(clock)
    }
}

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        // Before 1970 there is no `UnixTime`: rustls then fails the handshake.
        let ms = u64::try_from(self.0.now_unix_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

/// Measures how long something took; for metrics only, never for decisions.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts measuring.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks for monotonic time"
    )]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since the start.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks for monotonic time"
    )]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// `N` bytes from the system generator behind the cryptographic provider.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that asks for random bytes"
)]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("aws-lc aborts the process rather than report a failed generator");
    bytes
}

/// A certificate serial: 128 random bits, big-endian, never zero
/// (RFC 5280 §4.1.2.2 wants it positive and at most 20 octets). The encoder
/// adds the zero octet that keeps a set top bit from reading as a sign.
pub fn random_serial() -> [u8; 16] {
    loop {
        let serial = random();
        if serial != [0; 16] {
            return serial;
        }
    }
}

/// A random UUID (RFC 9562 §5.4), lower case with hyphens.
pub fn uuid_v4() -> String {
    Builder::from_random_bytes(random()).into_uuid().to_string()
}

/// Clocks that tests move by hand.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    use std::time::Duration;

    use super::Clock;

    /// Stands still until told otherwise.
    #[derive(Debug)]
    pub(crate) struct ManualClock {
        unix_ms: AtomicI64,
        boot_ms: AtomicU64,
    }

    impl ManualClock {
        /// Wall time as given, boot time zero.
        pub(crate) fn at_unix_ms(unix_ms: i64) -> Self {
            Self {
                unix_ms: AtomicI64::new(unix_ms),
                boot_ms: AtomicU64::new(0),
            }
        }

        /// Moves both clocks forward.
        pub(crate) fn advance(&self, by: Duration) {
            let ms = u64::try_from(by.as_millis()).expect("a test advances less than an age");
            self.boot_ms.fetch_add(ms, Ordering::SeqCst);
            let signed = i64::try_from(ms).expect("a test advances less than an age");
            self.unix_ms.fetch_add(signed, Ordering::SeqCst);
        }
    }

    impl Clock for ManualClock {
        fn now_unix_ms(&self) -> i64 {
            self.unix_ms.load(Ordering::SeqCst)
        }

        fn boottime(&self) -> Duration {
            Duration::from_millis(self.boot_ms.load(Ordering::SeqCst))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::testing::ManualClock;
    use super::*;

    #[test]
    fn boot_time_never_goes_back_and_has_fine_grain() {
        let first = SystemClock.boottime();
        let mut last = first;
        for _ in 0..1_000 {
            let next = SystemClock.boottime();
            assert!(next >= last);
            last = next;
        }
        assert!(last > first, "1,000 readings within one tick of the clock");
        assert!(last - first < Duration::from_secs(10));
    }

    #[test]
    fn wall_time_is_in_milliseconds() {
        // 2024-01-01 and 2100-01-01.
        let now = SystemClock.now_unix_ms();
        assert!(
            (1_704_067_200_000..4_102_444_800_000).contains(&now),
            "{now}"
        );
    }

    #[test]
    fn tls_sees_the_time_it_is_handed() {
        let clock = Arc::new(ManualClock::at_unix_ms(5_000));
        let tls = TlsClock::new(clock.clone());
        assert_eq!(tls.current_time().map(|t| t.as_secs()), Some(5));
        clock.advance(Duration::from_secs(2));
        assert_eq!(tls.current_time().map(|t| t.as_secs()), Some(7));
        assert!(
            TlsClock::new(Arc::new(ManualClock::at_unix_ms(-1)))
                .current_time()
                .is_none()
        );
    }

    #[test]
    fn random_values_do_not_repeat() {
        let serials: BTreeSet<_> = (0..1_000).map(|_| random_serial()).collect();
        assert_eq!(serials.len(), 1_000);
        assert!(!serials.contains(&[0; 16]));
        // Every bit is used: none stays the same over a thousand draws.
        for bit in 0..128 {
            let set = serials
                .iter()
                .filter(|s| s[bit / 8] >> (bit % 8) & 1 == 1)
                .count();
            assert!(
                (300..700).contains(&set),
                "bit {bit} set {set} times of 1,000"
            );
        }
    }

    #[test]
    fn uuid_has_the_shape_of_version_4() {
        let id = uuid_v4();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(id, id.to_lowercase());
        assert_ne!(id, uuid_v4());
    }
}
