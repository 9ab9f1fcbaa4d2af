//! The clocks of one simulated machine.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chancery_node::environment::Clock;
use tokio::time::Instant;

use crate::random::Random;

/// Wall time at which every run begins, Unix milliseconds: 2026-01-01.
const BEGINNING_UNIX_MS: i64 = 1_767_225_600_000;

/// How fast a clock runs, in thousandths of simulated time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// Neither fast nor slow.
    pub const TRUE: Self = Self(1000);

    /// The span that it shows for a span of simulated time.
    pub fn shown(self, span: Duration) -> Duration {
        nanos(span.as_nanos() * u128::from(self.0) / 1000)
    }

    /// The span of simulated time for which it shows this, rounded down.
    pub fn simulated(self, shown: Duration) -> Duration {
        nanos(shown.as_nanos() * 1000 / u128::from(self.0))
    }

    /// The span of simulated time after which it surely shows this.
    fn until(self, shown: Duration) -> Duration {
        nanos((shown.as_nanos() * 1000).div_ceil(u128::from(self.0)))
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How far apart the rates of the machines of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// All clocks run alike.
    None,
    /// Within what the server states for its promises: 10 %.
    Bounded,
    /// Far outside of it. Nothing that consensus promises rests on the bound.
    Far,
}

impl Drift {
    /// The drift of a run.
    pub fn draw(random: &mut Random) -> Self {
        match random.below(100) {
            0..30 => Self::None,
            30..70 => Self::Bounded,
            _ => Self::Far,
        }
    }

    /// Slowest and fastest rate.
    pub fn bounds(self) -> (Rate, Rate) {
        match self {
            Self::None => (Rate::TRUE, Rate::TRUE),
            Self::Bounded => (Rate(900), Rate(1100)),
            Self::Far => (Rate(500), Rate(2000)),
        }
    }

    fn rate(self, random: &mut Random) -> Rate {
        let (Rate(slowest), Rate(fastest)) = self.bounds();
        // The ends more often than the middle, and a slow one among fast ones: there a bound
        // shows.
        match random.below(10) {
            0..3 => Rate(slowest),
            3..8 => Rate(fastest),
            _ => Rate(random.between(slowest, fastest)),
        }
    }
}

/// Boot time and wall time, each at a rate of its own; wall time is off by what was set
/// last besides.
#[derive(Debug)]
pub struct SimClock {
    /// When the machine came, on tokio's clock and since the start of the run.
    came: (Instant, Duration),
    /// The machine was on for this long when it came.
    up_before: Duration,
    boot: Rate,
    wall: Rate,
    off_ms: AtomicI64,
}

impl SimClock {
    /// The clocks of a machine that comes now, `since` the start of the run.
    pub fn new(since: Duration, drift: Drift, random: &mut Random) -> Self {
        Self {
            came: (Instant::now(), since),
            up_before: Duration::from_millis(random.between(1_000, 1_000_000)),
            boot: drift.rate(random),
            wall: drift.rate(random),
            off_ms: AtomicI64::new(0),
        }
    }

    /// Steps wall time so that it is off by this much.
    pub fn set_off_ms(&self, off: i64) {
        self.off_ms.store(off, Ordering::Relaxed);
    }

    /// Simulated time at which boot time was `boottime`.
    pub fn simulated(&self, boottime: Duration) -> Duration {
        self.came.1 + self.boot.simulated(boottime.saturating_sub(self.up_before))
    }

    /// What a monotonic clock of this machine that tokio's reads shows at a moment.
    pub fn shown(&self, moment: Instant) -> Instant {
        self.came.0
            + self
                .boot
                .shown(moment.saturating_duration_since(self.came.0))
    }

    /// When it shows this.
    pub fn moment(&self, shown: Instant) -> Instant {
        let span = shown.saturating_duration_since(self.came.0);
        self.came.0 + self.boot.until(span)
    }
}

impl Clock for SimClock {
    fn now_unix_ms(&self) -> i64 {
        let shown = self.came.1 + self.wall.shown(self.came.0.elapsed());
        let shown = i64::try_from(shown.as_millis()).unwrap_or(i64::MAX);
        BEGINNING_UNIX_MS
            .saturating_add(shown)
            .saturating_add(self.off_ms.load(Ordering::Relaxed))
    }

    fn boottime(&self) -> Duration {
        self.up_before + self.boot.shown(self.came.0.elapsed())
    }
}
