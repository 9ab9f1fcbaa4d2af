//! The gate in front of the writes of the store: where the disk has no room, a write
//! waits instead of being tried.
//!
//! Who fills a disk may be faster than who watches it, and a write that failed ends the
//! process. One that waits is a stall, which costs leadership and nothing else
//! ([`super::watch`]). The reserve file stays where it is: a start needs it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chancery_raft_store::store::{
    Batch, Column, Durability, EngineError, Reader, Row, Store, StoreError,
};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::reserve::free_bytes;

/// How often a write that waits looks for room.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Whether there is room for a write. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    data_dir: PathBuf,
    floor: u64,
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Default)]
struct State {
    /// Nothing waits before: who starts on a full disk shall say so and end.
    armed: bool,
    /// Nothing waits any more: the process stops.
    closed: bool,
    waiting: usize,
}

impl Gate {
    /// In front of writes below `data_dir`, which need `floor` free bytes.
    pub(super) fn new(data_dir: &Path, floor: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                data_dir: data_dir.to_path_buf(),
                floor,
                state: Mutex::default(),
                closed: Condvar::new(),
            }),
        }
    }

    /// From now on writes wait. Whoever calls it must be ready to [`close`](Self::close) it.
    pub fn arm(&self) {
        self.state().armed = true;
    }

    /// Ends every wait, with an error: the process stops.
    pub fn close(&self) {
        self.state().closed = true;
        self.inner.closed.notify_all();
    }

    /// Whether a write may be tried.
    pub fn has_room(&self) -> bool {
        // Where it cannot be measured, the write itself says what is wrong.
        free_bytes(&self.inner.data_dir).map_or(true, |free| free >= self.inner.floor)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = &self.inner.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room. Blocks.
    fn pass(&self) -> Result<(), StoreError> {
        if self.has_room() || !self.state().armed {
            return Ok(());
        }
        match Handle::try_current().map(|on| on.runtime_flavor()) {
            // What else this thread of the runtime had to do goes to another one.
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| self.wait()),
            _ => self.wait(),
        }
    }

    fn wait(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        state.waiting += 1;
        if state.waiting == 1 {
            tracing::error!(
                data_dir = %self.inner.data_dir.display(),
                needed_mib = self.inner.floor >> 20,
                "the disk is full: what is to be written waits until space is freed"
            );
        }
        let passed = loop {
            if state.closed {
                break Err(StoreError::Engine {
                    operation: "waiting for disk space",
                    source: EngineError("the process stops".into()),
                });
            }
            if self.has_room() {
                break Ok(());
            }
            let waited = self.inner.closed.wait_timeout(state, LOOK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting -= 1;
        if state.waiting == 0 && passed.is_ok() {
            tracing::info!("there is room on the disk again: what waited is written");
        }
        passed
    }
}

/// A store whose writes go through a gate.
pub struct GatedStore<S> {
    inner: S,
    gate: Gate,
}

impl<S: Store> GatedStore<S> {
    /// Puts `gate` in front of the writes of `inner`.
    pub fn new(inner: S, gate: Gate) -> Self {
        Self { inner, gate }
    }
}

impl<S: Store> Reader for GatedStore<S> {
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

impl<S: Store> Store for GatedStore<S> {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        self.gate.pass()?;
        self.inner.write(batch, durability)
    }

    fn at_this_moment(
        &self,
        ready: &mut dyn FnMut(),
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.inner.at_this_moment(ready, read)
    }

    fn wait_for_room(&self) -> Result<(), StoreError> {
        self.gate.pass()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.inner.check()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use chancery_raft_store::store::rocks::RocksStore;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn store(dir: &tempfile::TempDir, gate: &Gate) -> Arc<GatedStore<RocksStore>> {
        let rocks = RocksStore::create(&dir.path().join("store")).unwrap();
        Arc::new(GatedStore::new(rocks, gate.clone()))
    }

    fn write(store: &Arc<GatedStore<RocksStore>>) -> Receiver<Result<(), StoreError>> {
        let store = Arc::clone(store);
        let (done, wait) = sync_channel(1);
        std::thread::spawn(move || {
            let mut batch = Batch::default();
            batch.put(Column::Raft, "vote", "1");
            let _ = done.send(store.write(batch, Durability::Synced));
        });
        wait
    }

    fn waits(gate: &Gate) {
        let watch = crate::environment::Stopwatch::start();
        while gate.state().waiting == 0 {
            assert!(watch.elapsed() < LIMIT, "nothing waits");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_has_no_room_waits_unwritten_and_a_stop_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        // More than any disk has.
        let gate = Gate::new(dir.path(), u64::MAX);
        let store = store(&dir, &gate);
        write(&store).recv_timeout(LIMIT).unwrap().unwrap();
        let mut batch = Batch::default();
        batch.delete(Column::Raft, "vote");
        store.write(batch, Durability::Synced).unwrap();

        gate.arm();
        let written = write(&store);
        waits(&gate);
        assert!(written.try_recv().is_err());
        // Reads go on.
        assert_eq!(store.get(Column::Raft, b"vote").unwrap(), None);
        gate.close();
        let error = written.recv_timeout(LIMIT).unwrap().unwrap_err();
        assert!(error.to_string().contains("disk space"), "{error}");
        assert_eq!(store.get(Column::Raft, b"vote").unwrap(), None);
    }

    #[test]
    fn room_lets_through_at_once_and_after_a_stop_too() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::new(dir.path(), 1);
        let store = store(&dir, &gate);
        gate.arm();
        write(&store).recv_timeout(LIMIT).unwrap().unwrap();
        gate.close();
        write(&store).recv_timeout(LIMIT).unwrap().unwrap();
        store.wait_for_room().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_wait_does_not_hold_the_runtime_up() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::new(dir.path(), u64::MAX);
        gate.arm();
        let waiting = gate.clone();
        let waiting = tokio::spawn(async move { waiting.pass() });
        waits(&gate);
        // The one thread of the runtime is inside the wait; this runs all the same.
        let closing = gate.clone();
        tokio::spawn(async move { closing.close() }).await.unwrap();
        waiting.await.unwrap().unwrap_err();
    }
}
