//! A store whose writes and moments a test can hold up, count and break.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use chancery_raft_store::store::{
    Batch, Column, Durability, EngineError, Reader, Row, Store, StoreError,
};

/// Longer than any test takes: one that waits so long hangs.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    /// Writes that may still pass; `None` is any number.
    permits: Option<usize>,
    /// Whether reads of a moment wait behind its making.
    moments_held: bool,
    /// Calls that came to the gate.
    arrived: usize,
    /// Number of changes and durability of every batch that went through.
    passed: Vec<(usize, Durability)>,
}

pub(crate) struct Gate {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
    moved: Condvar,
    broken: AtomicBool,
}

impl Gate {
    pub(crate) fn before(inner: Arc<dyn Store>) -> Arc<Self> {
        let state = Mutex::new(State::default());
        Arc::new(Self {
            inner,
            state,
            moved: Condvar::new(),
            broken: AtomicBool::new(false),
        })
    }

    /// Lets no write through any more but the next `permits` ones.
    pub(crate) fn close(&self, permits: usize) {
        self.state.lock().unwrap().permits = Some(permits);
        self.moved.notify_all();
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().permits = None;
        self.moved.notify_all();
    }

    /// Holds up what reads at a moment, after the moment was made.
    pub(crate) fn hold_moments(&self, held: bool) {
        self.state.lock().unwrap().moments_held = held;
        self.moved.notify_all();
    }

    /// From now on writes fail, or work again.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Blocks until that many calls have come to the gate.
    pub(crate) fn wait_arrived(&self, calls: usize) {
        let state = self.state.lock().unwrap();
        let (state, waited) = self
            .moved
            .wait_timeout_while(state, DEADLINE, |s| s.arrived < calls)
            .unwrap();
        assert!(
            !waited.timed_out(),
            "{} of {calls} calls came",
            state.arrived
        );
    }

    pub(crate) fn arrived(&self) -> usize {
        self.state.lock().unwrap().arrived
    }

    pub(crate) fn passed(&self) -> Vec<(usize, Durability)> {
        self.state.lock().unwrap().passed.clone()
    }

    fn enter(&self, holds: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        state.arrived += 1;
        self.moved.notify_all();
        let (state, waited) = self
            .moved
            .wait_timeout_while(state, DEADLINE, |s| holds(s))
            .unwrap();
        assert!(!waited.timed_out(), "nobody opened the gate");
        state
    }
}

impl Reader for Gate {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.inner.scan(column, from, until, limit)
    }

    fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
        self.inner.last(column)
    }
}

impl Store for Gate {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut state = self.enter(|s| s.permits == Some(0));
        state.permits = state.permits.map(|left| left - 1);
        drop(state);
        if self.broken.load(Ordering::SeqCst) {
            let source = EngineError("the disk is gone".into());
            return Err(StoreError::Engine {
                operation: "write",
                source,
            });
        }
        let changes = batch.ops.len();
        self.inner.write(batch, durability)?;
        self.state
            .lock()
            .unwrap()
            .passed
            .push((changes, durability));
        Ok(())
    }

    fn at_this_moment(
        &self,
        ready: &mut dyn FnMut(),
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.inner.at_this_moment(ready, &mut |moment| {
            drop(self.enter(|s| s.moments_held));
            read(moment)
        })
    }
}
