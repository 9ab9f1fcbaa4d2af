//! What of the log and the vote is durable, and the high-water mark that says so
//! outside the store.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::type_config::AsyncRuntime;
use prost::Message;

use super::{Request, Shared, Witness, key, state_of};
use crate::codec;
use crate::faults;
use crate::high_water::{Found, HighWater, HighWaterError, Owner, shortfall};
use crate::store::{Batch, Column, Durability, EngineError, Store, StoreError};
use crate::types::{LogId, Vote};

/// Least time between two saves of the mark for log entries alone.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// Between two tries to open the file of the mark.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
/// So many of them: about ten seconds.
const DESCRIPTOR_TRIES: u32 = 100;

/// Vote and ends of the log, as far as they are synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Last vote.
    pub vote: Option<Vote>,
    /// Last log entry; the purged one when there is none.
    pub last: Option<LogId>,
    /// Up to here the log is purged.
    pub purged: Option<LogId>,
}

/// The group commit that is under way, by its number. Cheap to clone.
#[derive(Clone, Default)]
pub struct InFlight {
    counts: Arc<(AtomicU64, AtomicU64)>,
}

impl InFlight {
    /// Number of the group that is being written; `None` when none is.
    pub fn current(&self) -> Option<u64> {
        let (begun, done) = &*self.counts;
        let begun = begun.load(Ordering::Acquire);
        (begun != done.load(Ordering::Acquire)).then_some(begun)
    }
}

/// What one group commit does to the [`Position`], in order.
#[derive(Default)]
pub(super) struct Step {
    vote: Option<Vote>,
    last: Option<Option<LogId>>,
    purged: Option<LogId>,
    truncated: Option<Option<LogId>>,
}

impl Step {
    pub(super) fn note<Rt: AsyncRuntime>(&mut self, request: &Request<Rt>) {
        match request {
            Request::Append(entries, _) => {
                if let Some(entry) = entries.last() {
                    self.last = Some(Some(entry.log_id));
                }
            }
            Request::Vote(vote, _) => self.vote = Some(*vote),
            Request::Committed(_) => {}
            Request::TruncateAfter(end, _) => {
                self.last = Some(*end);
                // The lowest of several: everything behind it may be gone.
                if self.truncated.is_none_or(|lowest| *end < lowest) {
                    self.truncated = Some(*end);
                }
            }
            Request::Purge(id, _) => self.purged = Some(*id),
        }
    }

    /// The names of its kinds of change, for tests.
    fn points(&self) -> impl Iterator<Item = [&'static str; 2]> {
        let appended = self.last.is_some() && self.last != self.truncated;
        [
            self.vote.is_some().then_some(["vote.before", "vote.after"]),
            appended.then_some(["append.before", "append.after"]),
            self.truncated
                .is_some()
                .then_some(["truncate.before", "truncate.after"]),
            self.purged
                .is_some()
                .then_some(["purge.before", "purge.after"]),
        ]
        .into_iter()
        .flatten()
    }
}

/// The durable position of a log, and who keeps its mark.
pub(super) struct Durable {
    position: Arc<Mutex<Position>>,
    keeper: Option<Keeper>,
    witness: Witness,
    in_flight: InFlight,
}

impl Durable {
    /// `seen` is what the store holds of the witness.
    pub(super) fn new(
        position: Position,
        keeper: Option<Keeper>,
        seen: Option<Vec<u8>>,
    ) -> Result<Self, StoreError> {
        let position = keeper
            .as_ref()
            .map_or_else(|| Arc::new(Mutex::new(position)), Keeper::position);
        let witness = Witness::new(Arc::clone(&position), seen)?;
        Ok(Self {
            position,
            keeper,
            witness,
            in_flight: InFlight::default(),
        })
    }

    pub(super) fn witness(&self) -> &Witness {
        &self.witness
    }

    pub(super) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    pub(super) fn position(&self) -> Position {
        *lock(&self.position)
    }

    /// The log ends: the mark shall say all.
    pub(super) fn finish(&self) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.save()
        {
            tracing::error!(%error, "the high-water mark could not be saved at the end");
        }
    }
}

impl Shared {
    /// Writes a group and moves the durable position along. The mark is lowered
    /// before log entries go, and says of a vote before anybody else is told.
    pub(super) fn commit(
        &self,
        batch: Batch,
        durability: Durability,
        step: &Step,
    ) -> Result<(), StoreError> {
        let (begun, done) = &*self.durable.in_flight.counts;
        begun.fetch_add(1, Ordering::AcqRel);
        let written = self.write_step(batch, durability, step);
        done.fetch_add(1, Ordering::AcqRel);
        written
    }

    fn write_step(
        &self,
        mut batch: Batch,
        durability: Durability,
        step: &Step,
    ) -> Result<(), StoreError> {
        let durable = &self.durable;
        for [before, _] in step.points() {
            faults::point(before).map_err(injected)?;
        }
        if (step.vote.is_some() || step.purged.is_some())
            && let Some(seen) = durable.witness.encode()
        {
            batch.put(Column::Raft, key::SEEN, seen);
        }
        if let Some(keeper) = &durable.keeper {
            keeper.check()?;
            if durability == Durability::Synced {
                // So that a write-ahead log put in the place of this one shows whose it is.
                batch.put(Column::Raft, key::OWNER, keeper.owner().encode_to_vec());
            }
            if let Some(end) = step.truncated {
                let mut position = lock(&durable.position);
                let lower = position.last > end;
                if lower {
                    position.last = end;
                }
                drop(position);
                if lower {
                    keeper.save()?;
                }
            }
        }
        self.store.write(batch, durability)?;
        {
            let mut position = lock(&durable.position);
            if let Some(vote) = step.vote {
                position.vote = Some(vote);
            }
            if let Some(last) = step.last {
                position.last = last;
            }
            position.purged = step.purged.or(position.purged);
            position.last = position.last.max(position.purged);
        }
        if let Some(keeper) = &durable.keeper {
            if step.vote.is_some() {
                keeper.save()?;
            } else if durability == Durability::Synced {
                keeper.wake();
            }
        }
        for [_, after] in step.points() {
            faults::point(after).map_err(injected)?;
        }
        Ok(())
    }
}

fn injected(source: std::io::Error) -> StoreError {
    StoreError::Engine {
        operation: "write",
        source: EngineError(source.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the mark of one log. Saves for log entries on a thread of its own, so
/// that appends never wait for it.
pub(super) struct Keeper {
    inner: Arc<Inner>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Inner {
    store: Arc<dyn Store>,
    data_dir: PathBuf,
    owner: Owner,
    position: Arc<Mutex<Position>>,
    /// What the file says. Held while it is written: the newest one stays.
    saved: Mutex<Position>,
    orders: Mutex<Orders>,
    moved: Condvar,
}

#[derive(Default)]
struct Orders {
    woken: bool,
    stop: bool,
    failed: Option<String>,
}

impl Keeper {
    /// Checks `store` against the mark below `data_dir`, and takes over the mark
    /// for the start `this`.
    pub(super) fn open(
        store: &Arc<dyn Store>,
        data_dir: &Path,
        this: &Owner,
    ) -> Result<Self, HighWaterError> {
        let failed = |source| HighWaterError::Failed {
            path: data_dir.to_path_buf(),
            source,
        };
        let mark = HighWater::load(data_dir)?;
        let at = mark.as_ref().and_then(|m| m.position.last);
        let found = found(&**store, at).map_err(failed)?;
        match &mark {
            None if found.owner.is_some() => {
                return Err(HighWaterError::Missing {
                    path: HighWater::path(data_dir),
                });
            }
            // Made by a version that kept none, or just now.
            None => {}
            Some(mark) => {
                if let Some(what) = shortfall(mark, &found, this) {
                    return Err(HighWaterError::Store {
                        path: data_dir.to_path_buf(),
                        what,
                    });
                }
            }
        }
        let mut mark = HighWater {
            owner: this.clone(),
            position: found.position,
            store_owned: false,
        };
        if found.owner.is_none() {
            mark.save(data_dir)?;
        }
        let mut batch = Batch::default();
        batch.put(Column::Raft, key::OWNER, this.encode_to_vec());
        store.write(batch, Durability::Synced).map_err(failed)?;
        mark.store_owned = true;
        mark.save(data_dir)?;

        let inner = Arc::new(Inner {
            store: Arc::clone(store),
            data_dir: data_dir.to_path_buf(),
            owner: this.clone(),
            position: Arc::new(Mutex::new(found.position)),
            saved: Mutex::new(found.position),
            orders: Mutex::default(),
            moved: Condvar::new(),
        });
        let for_thread = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("high-water".into())
            .spawn(move || for_thread.run())
            .map_err(|source| HighWaterError::Io {
                action: "cannot start the keeper of",
                path: HighWater::path(data_dir),
                source,
            })?;
        Ok(Self {
            inner,
            thread: Some(thread),
        })
    }

    fn position(&self) -> Arc<Mutex<Position>> {
        Arc::clone(&self.inner.position)
    }

    fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    /// There is something new to save, within [`SAVE_PAUSE`].
    fn wake(&self) {
        lock(&self.inner.orders).woken = true;
        self.inner.moved.notify_one();
    }

    /// Saves now.
    fn save(&self) -> Result<(), StoreError> {
        self.inner.save()
    }

    /// What went wrong on the thread is an error of the next write.
    fn check(&self) -> Result<(), StoreError> {
        lock(&self.inner.orders)
            .failed
            .clone()
            .map_or(Ok(()), |why| Err(unsaved(why)))
    }
}

fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    /// Of this process, and of the whole machine: the same on every Linux.
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

fn unsaved(why: impl ToString) -> StoreError {
    StoreError::Engine {
        operation: "saving the high-water mark",
        source: EngineError(why.to_string()),
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        lock(&self.inner.orders).stop = true;
        self.inner.moved.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the hook.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn save(&self) -> Result<(), StoreError> {
        let mut saved = lock(&self.saved);
        self.store.wait_for_room()?;
        // Read under the lock: of two saves at once the later one has the newer position.
        let position = *lock(&self.position);
        if *saved == position {
            return Ok(());
        }
        let mark = HighWater {
            owner: self.owner.clone(),
            position,
            store_owned: true,
        };
        self.replace(&mark)?;
        *saved = position;
        Ok(())
    }

    /// A file that could not be opened for want of descriptors was not written: that is
    /// tried again. Everything else is fatal.
    fn replace(&self, mark: &HighWater) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            match mark.save(&self.data_dir) {
                Ok(()) => return Ok(()),
                Err(HighWaterError::Io { action, source, .. })
                    if is_out_of_descriptors(&source) && tries < DESCRIPTOR_TRIES =>
                {
                    tracing::warn!(error = %source, "{action} the high-water mark yet");
                    tries += 1;
                    std::thread::sleep(DESCRIPTOR_PAUSE);
                }
                Err(error) => return Err(unsaved(error)),
            }
        }
    }

    fn run(&self) {
        loop {
            let mut orders = lock(&self.orders);
            while !orders.woken && !orders.stop {
                orders = self
                    .moved
                    .wait(orders)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if orders.stop {
                return;
            }
            orders.woken = false;
            drop(orders);
            if let Err(error) = self.save() {
                tracing::error!(%error, "the high-water mark cannot be saved; this node must stop");
                lock(&self.orders).failed = Some(error.to_string());
                return;
            }
            let orders = lock(&self.orders);
            let pause = self
                .moved
                .wait_timeout_while(orders, SAVE_PAUSE, |o| !o.stop);
            drop(pause);
        }
    }
}

/// What `store` says of itself; `at` is the log entry that the mark asks for.
///
/// # Errors
/// It cannot be read.
pub fn found(store: &dyn Store, at: Option<LogId>) -> Result<Found, StoreError> {
    let owner = store
        .get(Column::Raft, key::OWNER)?
        .map(|bytes| Owner::decode(bytes.as_slice()))
        .transpose()
        .map_err(|_| StoreError::corrupt("the owner of the store does not decode"))?;
    let at_mark = match at {
        None => None,
        Some(id) => store
            .get(Column::Log, &id.index.to_be_bytes())?
            .map(|bytes| codec::decode_log_entry(&bytes))
            .transpose()?
            .map(|entry| entry.log_id),
    };
    Ok(Found {
        owner,
        position: state_of(store)?,
        at_mark,
    })
}
