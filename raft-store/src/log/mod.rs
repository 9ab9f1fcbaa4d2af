//! The Raft log on a [`Store`], with synced group commit.
//!
//! One writer thread owns every write to log and vote, so they reach the disk in
//! the order Raft gave them: a log entry of a term is never durable before the
//! vote of that term, and no hole can come to be. It takes what has queued up
//! since its last fsync, writes it as one synced batch, and only then reports.
//! After a failed write it reports every later one as failed too: an fsync is
//! never tried again, and the node must exit.

mod durable;
mod witness;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::AsyncRuntime;
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

use self::durable::{Durable, Keeper, Step};
pub use self::durable::{InFlight, Position, found};
pub use self::witness::{Claim, Sighting, Witness};
use crate::codec;
use crate::high_water::{HighWaterError, Owner};
use crate::runtime::{self, Runtime, Worker};
use crate::store::{Batch, Column, Durability, Store, StoreError};
use crate::types::{LogEntry, LogId, Types, Vote};

/// Rows of [`Column::Raft`].
pub mod key {
    /// Vote that was given last.
    pub const VOTE: &[u8] = b"vote";
    /// Log id up to which is known committed; a hint.
    pub const COMMITTED: &[u8] = b"committed";
    /// Log id up to which the log is purged.
    pub const PURGED: &[u8] = b"purged";
    /// Name of the column in which the current state is.
    pub const STATE_COLUMN: &[u8] = b"state-column";
    /// Whose store this is.
    pub(crate) const OWNER: &[u8] = b"owner";
    /// What was seen of other nodes.
    pub(crate) const SEEN: &[u8] = b"seen";
}

/// Bytes of log entries that one read returns at most (unless a single one is
/// larger): well below the 4 MiB of a message.
const READ_BYTES_MAX: usize = 1 << 20;
/// Log entries that one read returns at most.
const READ_ENTRIES_MAX: usize = 4096;
/// Requests that may wait for the writer thread.
const QUEUE_MAX: usize = 4096;
/// Changes of one group commit after which nothing more is taken into it.
const GROUP_MAX: usize = 8192;
/// Log entries that are read from the store at a time.
const SCAN_ENTRIES: usize = 256;

/// The log of one node. Clones are readers of the same log.
pub struct LogStore<Rt: AsyncRuntime = Runtime> {
    shared: Arc<Shared>,
    writer: Arc<Writer<Rt>>,
}

impl<Rt: AsyncRuntime> Clone for LogStore<Rt> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            writer: Arc::clone(&self.writer),
        }
    }
}

/// The writer thread. Dropping it waits until what was queued is written, so
/// that whoever held the last handle may close the store and open it again.
struct Writer<Rt: AsyncRuntime> {
    // First: the worker ends when its queue is closed.
    queue: mpsc::Sender<Request<Rt>>,
    _worker: Worker,
}

struct Shared {
    store: Arc<dyn Store>,
    memory: Mutex<Memory>,
    durable: Durable,
}

/// What must be readable before it is durable, and what is asked for often.
struct Memory {
    /// Appended and not yet reported as flushed.
    unflushed: BTreeMap<u64, Arc<LogEntry>>,
    /// Last log entry, durable or not; the purged one when there is none.
    last: Option<LogId>,
    /// Everything up to here is purged, or about to be.
    purged: Option<LogId>,
    /// Last vote that is durable.
    vote: Option<Vote>,
    /// Stored log entries from this index on are being truncated.
    truncated_from: Option<u64>,
    /// Grows whenever log entries are taken away: a read that spans it starts anew.
    removals: u64,
}

enum Request<Rt: AsyncRuntime> {
    Append(Vec<Arc<LogEntry>>, IOFlushed<Types<Rt>>),
    Vote(Vote, oneshot::Sender<io::Result<()>>),
    Committed(Option<LogId>),
    /// After the log entry, or all.
    TruncateAfter(Option<LogId>, oneshot::Sender<io::Result<()>>),
    Purge(LogId, oneshot::Sender<io::Result<()>>),
}

impl<Rt: AsyncRuntime> LogStore<Rt> {
    /// Opens the log in `store` and starts its writer thread. Dropping the last
    /// handle waits for that thread, at most as long as the disk takes.
    ///
    /// # Errors
    /// A store that cannot be read, or a log with a hole or a damaged log entry.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        Self::open_with(store, None)
    }

    /// The same for the store of the node `this` (at this very start of it), which
    /// keeps a high-water mark in `data_dir`. The store is checked against the mark
    /// first, and nothing is written before.
    ///
    /// # Errors
    /// A store that is not what it was, or cannot be read.
    pub fn open_marked(
        store: Arc<dyn Store>,
        data_dir: &Path,
        this: &Owner,
    ) -> Result<Self, HighWaterError> {
        let keeper = Keeper::open(&store, data_dir, this)?;
        Self::open_with(store, Some(keeper)).map_err(|source| HighWaterError::Failed {
            path: data_dir.to_path_buf(),
            source,
        })
    }

    fn open_with(store: Arc<dyn Store>, keeper: Option<Keeper>) -> Result<Self, StoreError> {
        let position = state_of(&*store)?;
        let Position { vote, last, purged } = position;
        check_whole(&*store, purged)?;
        let seen = store.get(Column::Raft, key::SEEN)?;
        let memory = Memory {
            unflushed: BTreeMap::new(),
            last,
            purged,
            vote,
            truncated_from: None,
            removals: 0,
        };
        let shared = Arc::new(Shared {
            store,
            memory: Mutex::new(memory),
            durable: Durable::new(position, keeper, seen)?,
        });
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let worker = Worker::start("raft-log", write_loop::<Rt>(Arc::clone(&shared), queue))
            .map_err(|e| StoreError::corrupt(format!("cannot start the log writer: {e}")))?;
        Ok(Self {
            shared,
            writer: Arc::new(Writer {
                queue: sender,
                _worker: worker,
            }),
        })
    }

    /// What of the log and the vote is synced.
    pub fn durable(&self) -> Position {
        self.shared.durable.position()
    }

    /// What this node has seen of others, and may say of itself.
    pub fn witness(&self) -> Witness {
        self.shared.durable.witness().clone()
    }

    /// The write that is under way.
    pub fn in_flight(&self) -> InFlight {
        self.shared.durable.in_flight().clone()
    }

    async fn send(&self, request: Request<Rt>) -> io::Result<()> {
        // Waits only when 4096 requests wait for a stalled disk: then the core
        // must stall too instead of growing.
        self.writer
            .queue
            .send(request)
            .await
            .map_err(|_| io::Error::other("the log writer has stopped"))
    }

    async fn written(
        &self,
        make: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Request<Rt>,
    ) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.send(make(done)).await?;
        wait.await
            .map_err(|_| io::Error::other("the log writer has stopped"))?
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Log entries from `from` up to and without `until`, as they are at one moment
    /// of the call. `limited` stops after about a mebibyte, never before the first.
    fn read(&self, from: u64, until: u64, limited: bool) -> Result<Vec<LogEntry>, StoreError> {
        loop {
            let (window, removals) = {
                let memory = self.memory();
                (Window::of(&memory, from, until), memory.removals)
            };
            let read = self.read_window(&window, limited);
            // What was taken away meanwhile may be missing, or replaced by others.
            if self.memory().removals == removals {
                return read;
            }
        }
    }

    fn read_window(&self, window: &Window, limited: bool) -> Result<Vec<LogEntry>, StoreError> {
        let mut found = Found {
            entries: Vec::new(),
            bytes: 0,
            limited,
        };
        let mut next = window.from;
        while next < window.stored_until && !found.is_full() {
            let limit = usize::try_from(window.stored_until - next)
                .unwrap_or(usize::MAX)
                .min(SCAN_ENTRIES);
            let until = window.stored_until.to_be_bytes();
            let rows = self
                .store
                .scan(Column::Log, &next.to_be_bytes(), Some(&until), limit)?;
            let is_last = rows.len() < limit;
            for (index, bytes) in rows {
                if !found.is_full() {
                    next = found.push(checked_entry(&index, &bytes)?, bytes.len())?;
                }
            }
            if is_last {
                break;
            }
        }
        for entry in &window.unflushed {
            if !found.is_full() {
                found.push((**entry).clone(), codec::log_entry_bytes(entry))?;
            }
        }
        Ok(found.entries)
    }
}

/// Where the log entries of a range are: first in the store, then in memory.
///
/// The writer moves log entries from memory to the store and never back, so what
/// is not in memory when the window is made can be read from the store.
struct Window {
    from: u64,
    stored_until: u64,
    unflushed: Vec<Arc<LogEntry>>,
}

impl Window {
    fn of(memory: &Memory, from: u64, until: u64) -> Self {
        let from = from.max(memory.purged.map_or(0, |id| id.index + 1));
        // `BTreeMap::range` refuses a range that ends before it begins.
        let unflushed = memory
            .unflushed
            .range(from..until.max(from))
            .map(|(_, e)| Arc::clone(e))
            .collect();
        let in_memory_from = memory.unflushed.keys().next().copied().unwrap_or(u64::MAX);
        let stored_until = until
            .min(in_memory_from)
            .min(memory.truncated_from.unwrap_or(u64::MAX));
        Self {
            from,
            stored_until,
            unflushed,
        }
    }
}

struct Found {
    entries: Vec<LogEntry>,
    bytes: usize,
    limited: bool,
}

impl Found {
    fn is_full(&self) -> bool {
        self.limited
            && !self.entries.is_empty()
            && (self.entries.len() >= READ_ENTRIES_MAX || self.bytes >= READ_BYTES_MAX)
    }

    /// Takes a log entry in and says which index must follow.
    fn push(&mut self, entry: LogEntry, bytes: usize) -> Result<u64, StoreError> {
        let index = entry.log_id.index;
        if self
            .entries
            .last()
            .is_some_and(|last| last.log_id.index + 1 != index)
        {
            return Err(StoreError::corrupt(format!(
                "the log has a hole in front of entry {index}"
            )));
        }
        self.bytes += bytes;
        self.entries.push(entry);
        Ok(index + 1)
    }
}

/// Vote and ends of the log in `store`.
fn state_of(store: &dyn Store) -> Result<Position, StoreError> {
    let vote = store
        .get(Column::Raft, key::VOTE)?
        .map(|b| codec::decode_vote(&b))
        .transpose()?;
    let purged = store
        .get(Column::Raft, key::PURGED)?
        .map(|b| codec::decode_log_id(&b))
        .transpose()?;
    let last = match store.last(Column::Log)? {
        Some((index, bytes)) => Some(checked_entry(&index, &bytes)?.log_id),
        None => purged,
    };
    Ok(Position { vote, last, purged })
}

/// Reads the whole log once: what is damaged or missing in it is found before this
/// node votes with it, not when a peer asks for it.
fn check_whole(store: &dyn Store, purged: Option<LogId>) -> Result<(), StoreError> {
    let mut next = purged.map_or(0, |id| id.index + 1);
    loop {
        let rows = store.scan(Column::Log, &next.to_be_bytes(), None, SCAN_ENTRIES)?;
        let is_last = rows.len() < SCAN_ENTRIES;
        for (index, bytes) in rows {
            let entry = checked_entry(&index, &bytes)?;
            if entry.log_id.index != next {
                return Err(StoreError::corrupt(format!(
                    "the log has a hole in front of entry {}",
                    entry.log_id.index
                )));
            }
            next += 1;
        }
        if is_last {
            return Ok(());
        }
    }
}

fn range_of(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let until = match range.end_bound() {
        Bound::Included(i) => i.saturating_add(1),
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    (from, until)
}

fn checked_entry(index: &[u8], bytes: &[u8]) -> Result<LogEntry, StoreError> {
    let entry = codec::decode_log_entry(bytes)?;
    if index != entry.log_id.index.to_be_bytes() {
        return Err(StoreError::corrupt(format!(
            "log entry {} stands under another index",
            entry.log_id.index
        )));
    }
    Ok(entry)
}

impl<Rt: AsyncRuntime> RaftLogReader<Types<Rt>> for LogStore<Rt> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (from, until) = range_of(&range);
        Ok(self.shared.read(from, until, false)?)
    }

    /// In bounded steps: what is to be applied may be more than fits into memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, until) = range_of(&range);
        let shared = Arc::clone(&self.shared);
        stream::try_unfold(from, move |next| {
            let read = if next < until {
                shared.read(next, until, true)
            } else {
                Ok(Vec::new())
            };
            async move {
                let entries = read?;
                let Some(last) = entries.last() else {
                    return Ok(None);
                };
                let next = last.log_id.index + 1;
                Ok::<_, io::Error>(Some((stream::iter(entries).map(Ok), next)))
            }
        })
        .try_flatten()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        Ok(self.shared.read(start, end, true)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.memory().vote)
    }
}

impl<Rt: AsyncRuntime> RaftLogStorage<Types<Rt>> for LogStore<Rt> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<Rt>>, io::Error> {
        let memory = self.shared.memory();
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: memory.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.written(|done| Request::Vote(*vote, done)).await?;
        self.shared.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Not synced and not waited for: it only spares work after a restart.
        self.send(Request::Committed(committed)).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let bytes = self.shared.store.get(Column::Raft, key::COMMITTED)?;
        Ok(bytes.map(|b| codec::decode_log_id(&b)).transpose()?)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<Rt>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Arc<LogEntry>> = entries.into_iter().map(Arc::new).collect();
        {
            let mut memory = self.shared.memory();
            for entry in &entries {
                memory
                    .unflushed
                    .insert(entry.log_id.index, Arc::clone(entry));
                memory.last = Some(entry.log_id);
            }
        }
        self.send(Request::Append(entries, callback)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        {
            let mut memory = self.shared.memory();
            if memory.last.is_none_or(|last| last.index < from) {
                return Ok(());
            }
            memory.unflushed.split_off(&from);
            memory.truncated_from = Some(from);
            memory.removals += 1;
            memory.last = last_log_id.or(memory.purged);
        }
        self.written(|done| Request::TruncateAfter(last_log_id, done))
            .await?;
        self.shared.memory().truncated_from = None;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut memory = self.shared.memory();
            memory.purged = Some(log_id);
            memory.removals += 1;
            if memory.last < Some(log_id) {
                memory.last = Some(log_id);
            }
            memory.unflushed = memory.unflushed.split_off(&(log_id.index + 1));
        }
        self.written(|done| Request::Purge(log_id, done)).await
    }
}

/// Who waits for a group commit.
enum Waiting<Rt: AsyncRuntime> {
    Append(Vec<Arc<LogEntry>>, IOFlushed<Types<Rt>>),
    Caller(oneshot::Sender<io::Result<()>>),
}

async fn write_loop<Rt: AsyncRuntime>(shared: Arc<Shared>, mut queue: mpsc::Receiver<Request<Rt>>) {
    let mut broken: Option<String> = None;
    while let Some(first) = queue.recv().await {
        let mut batch = Batch::default();
        let mut waiting = Vec::new();
        let mut durability = Durability::Buffered;
        let mut step = Step::default();
        let mut next = Some(first);
        while let Some(request) = next {
            if !matches!(request, Request::Committed(_)) {
                durability = Durability::Synced;
            }
            step.note(&request);
            stage(request, &mut batch, &mut waiting);
            next = if batch.ops.len() < GROUP_MAX {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        if broken.is_none()
            && let Err(error) = written(&shared, batch, durability, step).await
        {
            tracing::error!(%error, "the Raft log cannot be written; this node must stop");
            broken = Some(error.to_string());
        }
        for waiter in waiting {
            let result = broken
                .as_ref()
                .map_or(Ok(()), |e| Err(io::Error::other(e.clone())));
            match waiter {
                Waiting::Append(entries, callback) => {
                    if result.is_ok() {
                        forget_flushed(&shared, &entries);
                    }
                    callback.io_completed(result);
                }
                Waiting::Caller(done) => {
                    // A caller that gave up needs no answer.
                    let _ = done.send(result);
                }
            }
        }
    }
    if broken.is_none() {
        shared.durable.finish();
    }
}

async fn written(
    shared: &Arc<Shared>,
    batch: Batch,
    durability: Durability,
    step: Step,
) -> io::Result<()> {
    let writer = Arc::clone(shared);
    match runtime::storage("raft-log", move || writer.commit(batch, durability, &step)).await {
        Some(result) => Ok(result?),
        None => Err(io::Error::other("the log writer was killed")),
    }
}

fn stage<Rt: AsyncRuntime>(
    request: Request<Rt>,
    batch: &mut Batch,
    waiting: &mut Vec<Waiting<Rt>>,
) {
    match request {
        Request::Append(entries, callback) => {
            for entry in &entries {
                batch.put(
                    Column::Log,
                    entry.log_id.index.to_be_bytes(),
                    codec::encode_log_entry(entry),
                );
            }
            waiting.push(Waiting::Append(entries, callback));
        }
        Request::Vote(vote, done) => {
            batch.put(Column::Raft, key::VOTE, codec::encode_vote(&vote));
            waiting.push(Waiting::Caller(done));
        }
        Request::Committed(Some(id)) => {
            batch.put(Column::Raft, key::COMMITTED, codec::encode_log_id(&id))
        }
        Request::Committed(None) => batch.delete(Column::Raft, key::COMMITTED),
        Request::TruncateAfter(end, done) => {
            let index = end.map_or(0, |id| id.index + 1);
            batch.delete_range(Column::Log, index.to_be_bytes(), u64::MAX.to_be_bytes());
            waiting.push(Waiting::Caller(done));
        }
        Request::Purge(id, done) => {
            // Marker and removal are one batch: no crash can leave a hole.
            batch.put(Column::Raft, key::PURGED, codec::encode_log_id(&id));
            batch.delete_range(
                Column::Log,
                0u64.to_be_bytes(),
                (id.index + 1).to_be_bytes(),
            );
            waiting.push(Waiting::Caller(done));
        }
    }
}

/// Drops from memory what is in the store now, unless it was replaced since.
fn forget_flushed(shared: &Shared, entries: &[Arc<LogEntry>]) {
    let mut memory = shared.memory();
    for entry in entries {
        let same = memory
            .unflushed
            .get(&entry.log_id.index)
            .is_some_and(|held| Arc::ptr_eq(held, entry));
        if same {
            memory.unflushed.remove(&entry.log_id.index);
        }
    }
}
