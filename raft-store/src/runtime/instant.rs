//! Raft's monotonic clock: tokio's, or what the current host's machine shows, which may
//! run faster or slower than that of others.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use super::host;

/// An instant of the node's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(tokio::time::Instant);

impl Instant {
    /// When tokio's clock must be waited for.
    pub(super) fn moment(self) -> tokio::time::Instant {
        match host() {
            None => self.0,
            Some(host) => host.moment(self.0),
        }
    }
}

/// How long a span of the node's own clock takes by tokio's.
pub(super) fn true_span(span: Duration) -> Duration {
    let Some(host) = host() else { return span };
    let now = tokio::time::Instant::now();
    host.moment(host.shown(now) + span)
        .saturating_duration_since(now)
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        let now = tokio::time::Instant::now();
        Self(match host() {
            None => now,
            Some(host) => host.shown(now),
        })
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        self.0 += span;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0 - span)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, span: Duration) {
        self.0 -= span;
    }
}
