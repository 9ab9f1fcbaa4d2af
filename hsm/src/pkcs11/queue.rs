//! The bounded queue in front of the sessions: one lane a key, served in turn, and one for what goes
//! ahead of them all.
//!
//! Fair, so that proving a new key or signing with the bundle's does not wait behind a storm on
//! another key; and never full for everyone because of one lane: a lane may hold at most
//! [`SHARE`] times what is still free.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::lock;
use crate::signer::KeyId;

/// With one busy lane a fifth of the room stays free for the others, with two a ninth.
const SHARE: usize = 4;

/// What calls wait behind each other for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Work on authorities: served before any other lane.
    First,
    /// One key.
    Key(KeyId),
    /// Listing.
    Listing,
    /// Whether the token is back.
    Probe,
}

/// Why a job was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// So many wait already.
    Full { queued: usize },
    /// Nobody serves any more.
    Closed,
}

#[derive(Debug)]
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug)]
struct State<J> {
    lanes: BTreeMap<Lane, VecDeque<J>>,
    /// Lanes with work, each once, in the order of their turn.
    turns: VecDeque<Lane>,
    queued: usize,
    waiting: usize,
    closed: bool,
}

impl<J> Queue<J> {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State {
            lanes: BTreeMap::new(),
            turns: VecDeque::new(),
            queued: 0,
            waiting: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            capacity,
        }
    }

    /// Takes a job in, or refuses at once.
    pub(super) fn push(&self, lane: Lane, job: J) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Refused::Closed);
        }
        let free = self.capacity - state.queued;
        let held = state.lanes.get(&lane).map_or(0, VecDeque::len);
        if held >= free.saturating_mul(SHARE) {
            return Err(Refused::Full {
                queued: state.queued,
            });
        }
        if held == 0 {
            state.turns.push_back(lane);
        }
        state.lanes.entry(lane).or_default().push_back(job);
        state.queued += 1;
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job; `None` once the queue is closed.
    pub(super) fn pop(&self) -> Option<J> {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.take() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.waiting += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// Refuses new jobs and drops those that wait; their callers hear that it closed.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.turns.clear();
        state.queued = 0;
        let dropped = std::mem::take(&mut state.lanes);
        drop(state);
        drop(dropped);
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Jobs that wait for a thread, and threads that wait for a job.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.queued, state.waiting)
    }
}

impl<J> State<J> {
    fn take(&mut self) -> Option<J> {
        let first = self.lanes.contains_key(&Lane::First);
        let at = match first {
            true => self.turns.iter().position(|lane| *lane == Lane::First)?,
            false => 0,
        };
        let lane = self.turns.remove(at)?;
        let jobs = self.lanes.get_mut(&lane)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        self.queued -= usize::from(job.is_some());
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(n: u8) -> Lane {
        Lane::Key([n; 16].into())
    }

    #[test]
    fn lanes_are_served_in_turn_and_each_in_its_order() {
        let queue = Queue::new(100);
        for job in ["a1", "a2", "a3"] {
            queue.push(lane(1), job).expect("room");
        }
        for job in ["b1", "b2"] {
            queue.push(lane(2), job).expect("room");
        }
        let order: Vec<_> = (0..5).filter_map(|_| queue.pop()).collect();
        assert_eq!(order, ["a1", "b1", "a2", "b2", "a3"]);
    }

    #[test]
    fn work_on_authorities_goes_ahead_of_every_lane() {
        let queue = Queue::new(100);
        for job in ["a1", "a2"] {
            queue.push(lane(1), job).expect("room");
        }
        queue.push(lane(2), "b1").expect("room");
        for job in ["first", "second"] {
            queue.push(Lane::First, job).expect("room");
        }
        let order: Vec<_> = (0..5).filter_map(|_| queue.pop()).collect();
        assert_eq!(order, ["first", "second", "a1", "b1", "a2"]);
    }

    #[test]
    fn a_storm_on_one_key_leaves_room_for_another() {
        let queue = Queue::new(100);
        let storm = (0..1000)
            .take_while(|job| queue.push(lane(1), *job).is_ok())
            .count();
        assert_eq!(storm, 80);
        assert_eq!(queue.push(lane(1), 0), Err(Refused::Full { queued: 80 }));
        assert_eq!(queue.push(lane(2), 0), Ok(()));
    }

    #[test]
    fn the_queue_never_holds_more_than_its_capacity() {
        for capacity in [1, 2, 7] {
            let queue = Queue::new(capacity);
            for n in 0..=255 {
                let _ = queue.push(lane(n), n);
            }
            assert_eq!(queue.load().0, capacity);
        }
    }

    #[test]
    fn closing_drops_what_waits_and_refuses_more() {
        let queue = Queue::new(4);
        let job = std::sync::Arc::new(());
        queue
            .push(lane(1), std::sync::Arc::clone(&job))
            .expect("room");
        queue.close();
        assert_eq!(std::sync::Arc::strong_count(&job), 1);
        assert_eq!(queue.push(lane(1), job), Err(Refused::Closed));
        assert_eq!(queue.pop(), None);
    }
}
