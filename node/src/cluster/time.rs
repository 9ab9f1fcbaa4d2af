//! Whether this node's clock can be believed.
//!
//! Time enters the log at the leader. It proposes its own only while that agrees with the
//! median of a majority of the voters; else commands take the time before, and leadership is
//! handed over. A node whose clock is far off does not sign: what it makes would begin in
//! others' future, or have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chancery_raft_store::apply::clock::{AGREE_WITHIN_MS, STEP_MAX_MS};
use chancery_raft_store::command::ClockTold;
use tokio::sync::Notify;

use crate::environment::Clock;

/// A node that is further off than this does not sign: documents begin ten seconds before
/// they are made.
pub const SIGNS_WITHIN_MS: u64 = 10_000;
/// A leader that has just come waits this long for the others' clocks.
const OPINION_LIMIT: Duration = Duration::from_secs(1);
/// No majority has told its clocks since this node started.
const UNKNOWN: i64 = i64::MIN;

/// What time it is by the voters, so far as they told.
///
/// Held against boot time, which does not step: a clock that is set while nobody compares it
/// is off at once.
pub(super) struct Judgement {
    /// Median clock of a majority of the voters less boot time, in milliseconds.
    median_less_boot: AtomicI64,
    judged: Notify,
}

impl Default for Judgement {
    fn default() -> Self {
        Self {
            median_less_boot: AtomicI64::new(UNKNOWN),
            judged: Notify::new(),
        }
    }
}

/// Boot time in milliseconds.
pub(super) fn boot_ms(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.boottime().as_millis()).unwrap_or(i64::MAX)
}

impl Judgement {
    /// Notes what a majority of the voters says, less boot time; without one the last word
    /// stands.
    pub(super) fn note(&self, median_less_boot: Option<i64>) {
        if let Some(median) = median_less_boot {
            self.median_less_boot.store(median, Ordering::Release);
            self.judged.notify_waiters();
        }
    }

    /// Milliseconds that the voters' median is ahead of this clock; `None` before a majority
    /// told its clocks.
    pub(super) fn offset_ms(&self, clock: &dyn Clock) -> Option<i64> {
        match self.median_less_boot.load(Ordering::Acquire) {
            UNKNOWN => None,
            median => {
                let median_now = median.saturating_add(boot_ms(clock));
                Some(median_now.saturating_sub(clock.now_unix_ms()))
            }
        }
    }

    /// Whether time may be proposed by this clock; waits a moment for the first judgement.
    pub(super) async fn agrees(&self, clock: &dyn Clock) -> bool {
        let first = async {
            loop {
                let judged = self.judged.notified();
                if let Some(offset) = self.offset_ms(clock) {
                    return offset.unsigned_abs() <= AGREE_WITHIN_MS;
                }
                judged.await;
            }
        };
        tokio::time::timeout(OPINION_LIMIT, first)
            .await
            .unwrap_or(false)
    }
}

/// The median of the voters' clocks, where a majority of them told theirs. Of two in the
/// middle the slower counts: what it dates ends sooner.
pub(super) fn median(mut clocks: Vec<i64>, voters: usize) -> Option<i64> {
    if clocks.len() * 2 <= voters {
        return None;
    }
    clocks.sort_unstable();
    Some(clocks[(clocks.len() - 1) / 2])
}

/// Those of `candidates` whose clocks are close to the median; all less boot time.
pub(super) fn agreeing(
    clocks: &BTreeMap<u64, i64>,
    median: i64,
    candidates: impl IntoIterator<Item = u64>,
) -> BTreeSet<u64> {
    let close = |id: &u64| {
        let clock = clocks.get(id);
        clock.is_some_and(|clock| clock.abs_diff(median) <= AGREE_WITHIN_MS)
    };
    candidates.into_iter().filter(close).collect()
}

/// What bears a step of time out: nothing for a small one.
pub(super) fn witnesses(step_ms: i64, clocks: impl FnOnce() -> Vec<ClockTold>) -> Vec<ClockTold> {
    // Well before it is needed.
    if step_ms <= STEP_MAX_MS / 2 {
        Vec::new()
    } else {
        clocks()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_a_majority_counts_and_of_two_the_slower() {
        assert_eq!(median(vec![0], 1), Some(0));
        assert_eq!(median(vec![0], 3), None);
        assert_eq!(median(vec![0, 10_000], 3), Some(0), "the other is ahead");
        assert_eq!(median(vec![0, -10_000], 3), Some(-10_000), "this one is");
        assert_eq!(median(vec![0, 9_000, 8_000], 3), Some(8_000));
        assert_eq!(median(vec![0, 1, 2, 90_000, 80_000], 5), Some(2));
    }

    #[test]
    fn heirs_are_candidates_whose_clocks_agree() {
        let clocks = BTreeMap::from([(1, 0), (2, 5_000), (3, 5_001), (4, -4_000), (5, 1)]);
        let agreeing = agreeing(&clocks, 0, [1, 2, 3, 4, 9]);
        assert_eq!(agreeing, BTreeSet::from([1, 2, 4]), "5 is no candidate");
    }

    /// Boot time stands still; the test sets the wall clock.
    #[derive(Debug, Default)]
    struct Wall(AtomicI64);

    impl Clock for Wall {
        fn now_unix_ms(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }

        fn boottime(&self) -> Duration {
            Duration::from_millis(500)
        }
    }

    #[tokio::test]
    async fn a_clock_is_believed_once_compared_and_no_longer_when_it_steps() {
        let (judgement, wall) = (Judgement::default(), Wall::default());
        wall.0.store(100_000, Ordering::Relaxed);
        assert!(!judgement.agrees(&wall).await, "before it was compared");
        judgement.note(None);
        assert_eq!(judgement.offset_ms(&wall), None);
        judgement.note(Some(100_000 - 500 - 5_000));
        assert_eq!(judgement.offset_ms(&wall), Some(-5_000));
        assert!(judgement.agrees(&wall).await);
        judgement.note(None);
        assert_eq!(
            judgement.offset_ms(&wall),
            Some(-5_000),
            "the last word stands"
        );
        wall.0.store(100_001, Ordering::Relaxed);
        assert!(!judgement.agrees(&wall).await, "set a little on meanwhile");
    }
}
