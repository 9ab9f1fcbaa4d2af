//! Who is inside a module, so that it can be finalised and initialised anew while nobody is.
//!
//! A module must not be finalised under the feet of a thread that is inside it. So every thread
//! passes this gate, and a restart closes it, waits until all have left, and opens it again. A
//! thread that hangs in the module keeps a restart from being made, and nobody else from working,
//! unless the module takes one thread at a time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::environment;
use crate::lock;

/// How long a restart waits for the threads inside.
const DRAIN: Duration = Duration::from_millis(500);
/// A restart that was tried this lately is not tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How many threads a module takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// As many as come.
    Many,
    /// One.
    One,
}

/// What became of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    /// The module was restarted since, by this thread or by another.
    Anew,
    /// One was tried a moment ago.
    Lately,
    /// A thread that has been inside for this time does not leave.
    Held(Duration),
}

#[derive(Debug)]
pub(super) struct Gate {
    width: Width,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// When each of those inside came, by its number.
    inside: BTreeMap<u64, Instant>,
    entered: u64,
    closed: bool,
    generation: u64,
    tried: Option<Instant>,
}

impl State {
    /// How long who has been inside the longest is.
    fn longest(&self) -> Duration {
        let first = self.inside.values().min().copied();
        first.map(since).unwrap_or_default()
    }
}

fn since(at: Instant) -> Duration {
    environment::now().saturating_duration_since(at)
}

/// One thread inside.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    gate: &'a Gate,
    number: u64,
    generation: u64,
}

impl Inside<'_> {
    /// Grows with every restart: what was opened in an earlier one is gone, and its handles may
    /// belong to somebody else by now.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        lock(&self.gate.state).inside.remove(&self.number);
        self.gate.changed.notify_all();
    }
}

impl Gate {
    pub(super) fn new(width: Width) -> Self {
        Self {
            width,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Passes into the module, once no restart is under way and it takes another thread. Not to be
    /// called by a thread that is inside.
    pub(super) fn enter(&self) -> Inside<'_> {
        let is_full = |state: &State| self.width == Width::One && !state.inside.is_empty();
        let state = lock(&self.state);
        let mut state = self
            .changed
            .wait_while(state, |state| state.closed || is_full(state))
            .unwrap_or_else(PoisonError::into_inner);
        let number = state.entered;
        state.entered += 1;
        state.inside.insert(number, environment::now());
        Inside {
            gate: self,
            number,
            generation: state.generation,
        }
    }

    /// Runs `restart` with nobody inside, unless the module is a later one than `seen` already.
    pub(super) fn alone(&self, seen: u64, restart: impl FnOnce()) -> Restart {
        let state = lock(&self.state);
        let mut state = self
            .changed
            .wait_while(state, |state| state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.generation != seen {
            return Restart::Anew;
        }
        let lately = |at: Instant| since(at) < PAUSE;
        if state.tried.is_some_and(lately) {
            return match state.longest() {
                held if held < DRAIN => Restart::Lately,
                held => Restart::Held(held),
            };
        }
        state.closed = true;
        let is_inside = |state: &mut State| !state.inside.is_empty();
        let (mut state, waited) = self
            .changed
            .wait_timeout_while(state, DRAIN, is_inside)
            .unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Restart::Anew;
        if waited.timed_out() {
            outcome = Restart::Held(state.longest());
        } else {
            // The lock is not held: a module that hangs while it starts blocks its own only.
            drop(state);
            restart();
            state = lock(&self.state);
            state.generation += 1;
        }
        state.closed = false;
        state.tried = Some(environment::now());
        drop(state);
        self.changed.notify_all();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use super::*;

    #[test]
    fn a_restart_waits_for_who_is_inside_and_others_wait_for_it() {
        let gate = Gate::new(Width::Many);
        let inside = gate.enter();
        let seen = inside.generation();
        thread::scope(|scope| {
            let (began, begins) = sync_channel(1);
            let gate = &gate;
            let restart = scope.spawn(move || {
                gate.alone(seen, || {
                    assert!(lock(&gate.state).inside.is_empty());
                    began.send(()).expect("somebody waits");
                })
            });
            assert!(begins.try_recv().is_err());
            drop(inside);
            assert_eq!(restart.join().expect("no panic"), Restart::Anew);
        });
        assert_eq!(gate.enter().generation(), seen + 1);
    }

    #[test]
    fn a_thread_that_hangs_keeps_a_restart_away_and_nobody_else() {
        let gate = Gate::new(Width::Many);
        let hangs = gate.enter();
        let seen = hangs.generation();
        let held = gate.alone(seen, || panic!("somebody is inside"));
        assert!(
            matches!(held, Restart::Held(since) if since >= DRAIN),
            "{held:?}"
        );
        assert_eq!(gate.enter().generation(), seen, "others go on");
    }

    #[test]
    fn one_restart_does_for_all_who_ask_and_is_not_repeated_at_once() {
        let gate = Gate::new(Width::Many);
        let seen = gate.enter().generation();
        assert_eq!(gate.alone(seen, || {}), Restart::Anew);
        let restarted = gate.alone(seen, || panic!("it was restarted"));
        assert_eq!(restarted, Restart::Anew);
        let again = gate.alone(seen + 1, || panic!("a moment ago"));
        assert_eq!(again, Restart::Lately);
    }

    #[test]
    fn a_module_that_takes_one_thread_has_one_at_a_time() {
        let gate = Gate::new(Width::One);
        let (met, most) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _inside = gate.enter();
                        let inside = met.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(inside, Ordering::SeqCst);
                        thread::yield_now();
                        met.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
        assert_eq!(gate.alone(0, || {}), Restart::Anew);
    }
}
