//! Who is inside a module, so that it can be finalised and initialised anew while nobody is.
//!
//! A module must not be finalised under the feet of a thread that is inside it. So every thread
//! passes this gate, and a restart closes it, waits until all have left, and opens it again. A
//! thread that hangs in the module keeps a restart from being made, and nobody else from working.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::environment;
use crate::lock;

/// How long a restart waits for the threads inside.
const DRAIN: Duration = Duration::from_millis(500);
/// A restart that was tried this lately is not tried again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    inside: u32,
    closed: bool,
    generation: u64,
    tried: Option<Instant>,
}

/// One thread inside.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    gate: &'a Gate,
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
        lock(&self.gate.state).inside -= 1;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    /// Passes into the module, once no restart is under way. Not to be called by a thread that is
    /// inside.
    pub(super) fn enter(&self) -> Inside<'_> {
        let state = lock(&self.state);
        let mut state = self
            .changed
            .wait_while(state, |state| state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.inside += 1;
        Inside {
            gate: self,
            generation: state.generation,
        }
    }

    /// Runs `restart` with nobody inside; whether the module is a later one than `seen` now, by
    /// this thread or by another. It is not where a restart was tried a moment ago, or a thread
    /// does not leave.
    pub(super) fn alone(&self, seen: u64, restart: impl FnOnce()) -> bool {
        let state = lock(&self.state);
        let mut state = self
            .changed
            .wait_while(state, |state| state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.generation != seen {
            return true;
        }
        let now = environment::now();
        let lately = |at: Instant| now.saturating_duration_since(at) < PAUSE;
        if state.tried.is_some_and(lately) {
            return false;
        }
        state.closed = true;
        let is_inside = |state: &mut State| state.inside > 0;
        let (mut state, waited) = self
            .changed
            .wait_timeout_while(state, DRAIN, is_inside)
            .unwrap_or_else(PoisonError::into_inner);
        let drained = !waited.timed_out();
        if drained {
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
        drained
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use super::*;

    #[test]
    fn a_restart_waits_for_who_is_inside_and_others_wait_for_it() {
        let gate = Gate::default();
        let inside = gate.enter();
        let seen = inside.generation();
        thread::scope(|scope| {
            let (began, begins) = sync_channel(1);
            let gate = &gate;
            let restart = scope.spawn(move || {
                gate.alone(seen, || {
                    assert_eq!(lock(&gate.state).inside, 0);
                    began.send(()).expect("somebody waits");
                })
            });
            assert!(begins.try_recv().is_err());
            drop(inside);
            assert!(restart.join().expect("no panic"));
        });
        assert_eq!(gate.enter().generation(), seen + 1);
    }

    #[test]
    fn a_thread_that_hangs_keeps_a_restart_away_and_nobody_else() {
        let gate = Gate::default();
        let hangs = gate.enter();
        let seen = hangs.generation();
        assert!(!gate.alone(seen, || panic!("somebody is inside")));
        assert_eq!(gate.enter().generation(), seen, "others go on");
    }

    #[test]
    fn one_restart_does_for_all_who_ask_and_is_not_repeated_at_once() {
        let gate = Gate::default();
        let seen = gate.enter().generation();
        assert!(gate.alone(seen, || {}));
        assert!(gate.alone(seen, || panic!("it was restarted")));
        assert!(!gate.alone(seen + 1, || panic!("a moment ago")));
    }
}
