//! Descriptors: connections never take those that the store, the token and the calls to
//! peers need.
//!
//! The kernel gives the lowest number that is free, so a connection whose number is close
//! to the limit of open files says that there are few left: it is closed at once. Because
//! the limit may be lowered under a running process, some spare descriptors are held
//! besides, and let go as soon as the limit is near. Until they can be held again, nobody
//! but peers, administrators and probes gets in, and these only while enough are left.
//!
//! It refuses to know what a connection is for.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// Numbers below the limit that no agent's connection gets, where the limit is no
/// smaller than four times as much.
const RESERVE_MAX: u64 = 64;
/// Descriptors that are held back.
const SPARE_MAX: u64 = 16;
/// Of those that are free while they are short, connections of peers, administrators and
/// probes leave so many.
const OWN_LEFT: u64 = 12;
/// How often the limit is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// An agent's, or whose ever.
    Anybody,
    /// A peer's, an administrator's or a probe's.
    Own,
}

/// The descriptors of this process. Cheap to clone; the default holds none back.
#[derive(Clone, Debug, Default)]
pub struct Descriptors {
    state: Arc<Mutex<State>>,
    /// Instead of the limit of the process, unless it is 0.
    #[cfg(test)]
    limit: Arc<std::sync::atomic::AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    spare: Vec<OwnedFd>,
    /// How many there are when all are held.
    spare_full: usize,
    /// Set while they are short: how many are free.
    short: Option<u64>,
}

/// Numbers below a limit that are reserved.
fn reserve(limit: u64) -> u64 {
    (limit / 4).min(RESERVE_MAX)
}

/// Whether a number is close to the limit.
fn is_near(number: u64, limit: u64) -> bool {
    limit.saturating_sub(number) <= reserve(limit)
}

impl Descriptors {
    /// Holds spare ones back.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn hold() -> std::io::Result<Self> {
        let held = Self::default();
        let count = SPARE_MAX.min(held.limit() / 16);
        {
            let mut state = held.state();
            state.spare_full = usize::try_from(count).unwrap_or(0);
            state.take_spare()?;
        }
        Ok(held)
    }

    /// Looks at the limit until the process ends.
    pub async fn watch(self) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    /// Whether a connection that was just accepted may stay; else it is to be closed.
    pub(crate) fn admit(&self, connection: &impl AsRawFd, rank: Rank) -> bool {
        let number = u64::try_from(connection.as_raw_fd()).unwrap_or(u64::MAX);
        let limit = self.limit();
        if is_near(number, limit) {
            self.run_short(limit);
        }
        let mut state = self.state();
        match (&mut state.short, rank) {
            (None, _) => true,
            (Some(_), Rank::Anybody) => false,
            (Some(free), Rank::Own) => {
                let admitted = *free > OWN_LEFT;
                *free = free.saturating_sub(u64::from(admitted));
                admitted
            }
        }
    }

    /// Accepting failed: if for want of a descriptor, there are some then.
    pub(crate) fn failed(&self, error: &std::io::Error) {
        let wanting = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
        if wanting
            .iter()
            .any(|e| error.raw_os_error() == Some(e.raw_os_error()))
        {
            self.run_short(self.limit());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit now: it may be changed from outside at any time.
    fn limit(&self) -> u64 {
        #[cfg(test)]
        if let limit @ 1.. = self.limit.load(std::sync::atomic::Ordering::SeqCst) {
            return limit;
        }
        getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
    }

    fn run_short(&self, limit: u64) {
        let mut state = self.state();
        if state.short.is_some() {
            return;
        }
        state.spare.clear();
        state.short = Some(free(limit));
        tracing::error!(
            limit,
            "the limit of open files is near: agents are turned away until there are more; raise the limit"
        );
    }

    pub(super) fn look(&self) {
        let limit = self.limit();
        let is_short = self.state().short.is_some();
        if !is_short {
            // The number that the next one would get.
            let next = File::open("/dev/null").map(|f| u64::try_from(f.as_raw_fd()));
            if !matches!(next, Ok(Ok(number)) if !is_near(number, limit)) {
                self.run_short(limit);
            }
            return;
        }
        let free = free(limit);
        let mut state = self.state();
        // Some on top, so that it does not change with every connection.
        let wanted = 2 * reserve(limit) + state.spare_full as u64;
        if free > wanted && state.take_spare().is_ok() {
            state.short = None;
            tracing::info!(limit, "there are descriptors again: agents are let in");
        } else {
            state.short = Some(free);
        }
    }
}

impl State {
    fn take_spare(&mut self) -> std::io::Result<()> {
        while self.spare.len() < self.spare_full {
            match File::open("/dev/null") {
                Ok(file) => self.spare.push(file.into()),
                Err(error) => {
                    self.spare.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Descriptors that this process may still open.
fn free(limit: u64) -> u64 {
    // Where it cannot be counted, there is none to read the folder with.
    let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
    open.map_or(0, |open| limit.saturating_sub(open as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Descriptors {
        pub(crate) fn limited(limit: u64) -> Self {
            let descriptors = Self::default();
            descriptors.limit_to(limit);
            descriptors
        }

        pub(crate) fn limit_to(&self, limit: u64) {
            self.limit.store(limit, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn numbers_near_the_limit_are_a_quarter_of_it_and_at_most_64() {
        for (number, limit, near) in [
            (39, 54, false),
            (41, 54, true),
            (959, 1024, false),
            (960, 1024, true),
            (1_048_511, 1_048_576, false),
            (1_048_512, 1_048_576, true),
            // The limit was lowered below it.
            (90, 54, true),
        ] {
            assert_eq!(is_near(number, limit), near, "{number} of {limit}");
        }
    }

    #[test]
    fn near_the_limit_agents_are_turned_away_and_others_while_enough_are_left() {
        let file = File::open("/dev/null").unwrap();
        let roomy = Descriptors::limited(1 << 20);
        assert!(roomy.admit(&file, Rank::Anybody) && roomy.admit(&file, Rank::Own));

        let number = u64::try_from(file.as_raw_fd()).unwrap();
        let near = Descriptors::limited(number + 1);
        assert!(!near.admit(&file, Rank::Anybody));
        near.state().short = Some(OWN_LEFT + 2);
        let own = [(); 4].map(|()| near.admit(&file, Rank::Own));
        assert_eq!(own, [true, true, false, false]);
    }

    #[test]
    fn spare_ones_are_let_go_near_the_limit_and_held_again_when_there_are_more() {
        let held = Descriptors::hold().unwrap();
        let spare = || {
            let state = held.state();
            (state.spare.len(), state.short.is_some())
        };
        let full = held.state().spare_full;
        assert!(full > 0, "the limit of this test is tiny");
        assert_eq!(spare(), (full, false));
        held.failed(&std::io::Error::from_raw_os_error(11));
        assert_eq!(spare(), (full, false), "it failed of something else");
        held.failed(&rustix::io::Errno::MFILE.into());
        assert_eq!(spare(), (0, true));
        // As few as there can be.
        held.limit_to(1);
        held.look();
        assert_eq!(spare(), (0, true));
        held.limit_to(1 << 20);
        held.look();
        assert_eq!(spare(), (full, false));
        // And seen without a connection.
        held.limit_to(1);
        held.look();
        assert_eq!(spare(), (0, true));
    }
}
