//! Token buckets by source, as arithmetic on moments; the clock is the caller's.
//!
//! A bucket holds a second's worth of tokens and is stored as the moment at which
//! it will be full again: it has all its tokens from then on, and owes some while
//! that moment is more than a second away. A bucket that is full says nothing and
//! is forgotten, so what is kept is what was asked for of late.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Sources with a bucket of their own; those that come when there are so many
/// share one.
const SOURCES_MAX: usize = 65_536;
/// The bucket they share: nobody calls from the address that names none.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// Buckets at which full ones are looked for, at least.
const SWEEP_LENGTH_MIN: usize = 1_024;
/// Full buckets are looked for at least so often, as long as somebody asks.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// What a bucket holds, as the time in which it fills.
const BURST: Duration = Duration::from_secs(1);

/// Why there are no tokens, worded as Go's limiter words it: SPIRE passes it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// A bucket never holds so many.
    #[error("rate ({count}) exceeds burst size ({burst})")]
    ExceedsBurst {
        /// Asked for.
        count: usize,
        /// What a bucket holds.
        burst: u32,
    },
    /// They come too late.
    #[error("rate: Wait(n={count}) would exceed context deadline")]
    TooLate {
        /// Asked for.
        count: usize,
    },
}

/// Tokens that are taken, and when they may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Time until they may be used.
    pub(super) wait: Duration,
    source: IpAddr,
    cost: Duration,
    /// Where the bucket's moment stood with them.
    full_at: Duration,
}

/// The buckets of one limit.
#[derive(Debug)]
pub(super) struct Buckets {
    per_second: u32,
    /// Time that one token takes to come.
    each: Duration,
    sources_max: usize,
    full_at: BTreeMap<IpAddr, Duration>,
    sweep_length: usize,
    swept_at: Duration,
}

impl Buckets {
    /// Buckets that hold `per_second` tokens and get as many a second.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            each: BURST / per_second,
            sources_max: SOURCES_MAX,
            full_at: BTreeMap::new(),
            sweep_length: SWEEP_LENGTH_MIN,
            swept_at: Duration::ZERO,
        }
    }

    /// Takes `count` tokens of `source`, in advance if need be: for a wait of
    /// `patience` at most. `now` never goes back.
    pub(super) fn take(
        &mut self,
        source: IpAddr,
        count: usize,
        now: Duration,
        patience: Duration,
    ) -> Result<Turn, Refused> {
        let burst = self.per_second;
        let tokens = u32::try_from(count)
            .ok()
            .filter(|tokens| *tokens <= burst)
            .ok_or(Refused::ExceedsBurst { count, burst })?;
        self.sweep(now);
        let source = self.place(source);
        let cost = self.each * tokens;
        let full_at = self.full_at.get(&source).copied().unwrap_or(now).max(now) + cost;
        let wait = full_at.saturating_sub(now + BURST);
        if wait > patience {
            return Err(Refused::TooLate { count });
        }
        self.full_at.insert(source, full_at);
        Ok(Turn {
            wait,
            source,
            cost,
            full_at,
        })
    }

    /// Undoes a [`Self::take`] whose wait was not waited out. Tokens that later
    /// callers already built upon stay taken.
    pub(super) fn give_back(&mut self, turn: Turn) {
        if let Some(full_at) = self.full_at.get_mut(&turn.source) {
            let later = full_at.saturating_sub(turn.full_at);
            *full_at = full_at.saturating_sub(turn.cost.saturating_sub(later));
        }
    }

    /// Whose bucket `source` uses.
    fn place(&self, source: IpAddr) -> IpAddr {
        if self.full_at.len() >= self.sources_max && !self.full_at.contains_key(&source) {
            OTHERS
        } else {
            source
        }
    }

    /// Forgets full buckets, in constant time a call on average.
    fn sweep(&mut self, now: Duration) {
        let due = self.full_at.len() >= self.sweep_length || now >= self.swept_at + SWEEP_INTERVAL;
        if !due {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        self.sweep_length = (self.full_at.len() * 2).max(SWEEP_LENGTH_MIN);
        self.swept_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENT: Duration = Duration::from_secs(3_600);

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn wait(buckets: &mut Buckets, source: u32, count: usize, now: Duration) -> Duration {
        buckets.take(ip(source), count, now, PATIENT).unwrap().wait
    }

    #[test]
    fn a_burst_is_free_and_the_next_token_comes_at_the_rate() {
        let mut buckets = Buckets::new(10);
        for _ in 0..10 {
            assert_eq!(wait(&mut buckets, 1, 1, ms(5_000)), ms(0));
        }
        assert_eq!(wait(&mut buckets, 1, 1, ms(5_000)), ms(100));
        assert_eq!(wait(&mut buckets, 1, 3, ms(5_000)), ms(400));
        // A second later ten have come, four of which were taken in advance.
        assert_eq!(wait(&mut buckets, 1, 6, ms(6_000)), ms(0));
        assert_eq!(wait(&mut buckets, 1, 1, ms(6_000)), ms(100));
    }

    #[test]
    fn an_idle_bucket_never_holds_more_than_a_second_s_worth() {
        let mut buckets = Buckets::new(10);
        assert_eq!(wait(&mut buckets, 1, 1, ms(0)), ms(0));
        assert_eq!(wait(&mut buckets, 1, 10, ms(3_600_000)), ms(0));
        assert_eq!(wait(&mut buckets, 1, 1, ms(3_600_000)), ms(100));
    }

    #[test]
    fn sources_do_not_share() {
        let mut buckets = Buckets::new(1);
        assert_eq!(wait(&mut buckets, 1, 1, ms(0)), ms(0));
        assert_eq!(wait(&mut buckets, 1, 1, ms(0)), ms(1_000));
        assert_eq!(wait(&mut buckets, 2, 1, ms(0)), ms(0));
    }

    #[test]
    fn more_than_a_bucket_holds_is_refused_and_takes_nothing() {
        let mut buckets = Buckets::new(500);
        let refused = buckets.take(ip(1), 501, ms(0), PATIENT).unwrap_err();
        assert_eq!(refused.to_string(), "rate (501) exceeds burst size (500)");
        assert_eq!(wait(&mut buckets, 1, 500, ms(0)), ms(0));
        assert!(buckets.take(ip(1), usize::MAX, ms(0), PATIENT).is_err());
    }

    #[test]
    fn a_turn_after_the_deadline_is_refused_at_once_and_takes_nothing() {
        let mut buckets = Buckets::new(1);
        assert_eq!(wait(&mut buckets, 1, 1, ms(0)), ms(0));
        let refused = buckets.take(ip(1), 1, ms(0), ms(999)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "rate: Wait(n=1) would exceed context deadline"
        );
        assert_eq!(
            buckets.take(ip(1), 1, ms(0), ms(1_000)).unwrap().wait,
            ms(1_000)
        );
    }

    #[test]
    fn a_turn_given_back_is_the_next_one_s() {
        let mut buckets = Buckets::new(1);
        assert_eq!(wait(&mut buckets, 1, 1, ms(0)), ms(0));
        let turn = buckets.take(ip(1), 1, ms(0), PATIENT).unwrap();
        buckets.give_back(turn);
        assert_eq!(wait(&mut buckets, 1, 1, ms(0)), ms(1_000));
        // Who came behind has the turn that was told: it is not moved, and the
        // token is nobody's.
        let first = buckets.take(ip(1), 1, ms(0), PATIENT).unwrap();
        let second = buckets.take(ip(1), 1, ms(0), PATIENT).unwrap();
        assert_eq!((first.wait, second.wait), (ms(2_000), ms(3_000)));
        buckets.give_back(first);
        assert_eq!(wait(&mut buckets, 1, 1, ms(0)), ms(4_000));
        // After the bucket is forgotten there is nothing to give back.
        let turn = buckets.take(ip(2), 1, ms(0), PATIENT).unwrap();
        buckets.full_at.clear();
        buckets.give_back(turn);
        assert!(buckets.full_at.is_empty());
    }

    #[test]
    fn full_buckets_are_forgotten_and_others_are_not() {
        let mut buckets = Buckets::new(1);
        for source in 0..2_000 {
            wait(&mut buckets, source, 1, ms(0));
        }
        assert_eq!(buckets.full_at.len(), 2_000, "none is full yet");
        // The bucket of 7 owes a minute and more.
        for _ in 0..100 {
            wait(&mut buckets, 7, 1, ms(500));
        }
        wait(&mut buckets, 5_000, 1, ms(61_000));
        assert_eq!(buckets.full_at.len(), 2);
        assert!(wait(&mut buckets, 7, 1, ms(61_000)) > ms(30_000));
    }

    #[test]
    fn a_flood_of_sources_costs_no_more_memory_than_the_live_ones() {
        let mut buckets = Buckets::new(1);
        for source in 0..100_000_u32 {
            // Four a millisecond: within the second of a bucket there are 4,000.
            wait(&mut buckets, source, 1, ms(u64::from(source) / 4));
            assert!(buckets.full_at.len() <= 8_002, "{}", buckets.full_at.len());
        }
    }

    #[test]
    fn sources_beyond_the_bound_share_one_bucket() {
        let mut buckets = Buckets::new(1);
        buckets.sources_max = 3;
        for source in 1..=3 {
            assert_eq!(wait(&mut buckets, source, 1, ms(0)), ms(0));
        }
        assert_eq!(
            wait(&mut buckets, 4, 1, ms(0)),
            ms(0),
            "the first of the others"
        );
        assert_eq!(
            wait(&mut buckets, 5, 1, ms(0)),
            ms(1_000),
            "shares its bucket"
        );
        assert_eq!(buckets.full_at.len(), 4);
        assert_eq!(wait(&mut buckets, 3, 1, ms(0)), ms(1_000), "keeps its own");
    }
}
