//! The clocks of one simulated machine.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chancery_node::environment::Clock;
use tokio::time::Instant;

/// Wall time at which every run begins, Unix milliseconds: 2026-01-01.
const BEGINNING_UNIX_MS: i64 = 1_767_225_600_000;

/// Boot time runs with simulated time; wall time is off by what was set last.
#[derive(Debug)]
pub struct SimClock {
    started: Instant,
    /// The machine was on for this long when the run began.
    up_before: Duration,
    off_ms: AtomicI64,
}

impl SimClock {
    /// A clock that is right, of a machine that is up for `up_before`; call it at the
    /// start of the run.
    pub fn new(up_before: Duration) -> Self {
        Self {
            started: Instant::now(),
            up_before,
            off_ms: AtomicI64::new(0),
        }
    }

    /// Steps wall time so that it is off by this much.
    pub fn set_off_ms(&self, off: i64) {
        self.off_ms.store(off, Ordering::Relaxed);
    }

    /// Simulated time at which boot time was `boottime`.
    pub fn simulated(&self, boottime: Duration) -> Duration {
        boottime.saturating_sub(self.up_before)
    }
}

impl Clock for SimClock {
    fn now_unix_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        BEGINNING_UNIX_MS
            .saturating_add(elapsed)
            .saturating_add(self.off_ms.load(Ordering::Relaxed))
    }

    fn boottime(&self) -> Duration {
        self.up_before + self.started.elapsed()
    }
}
