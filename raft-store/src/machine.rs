//! The state machine: applies the log to the tables, and serves what they say.
//!
//! [`StateMachine`] is openraft's side; [`Registry`] is the handle by which the
//! rest of a node reads. Data, applied position, membership and digest change in
//! one batch, so recovery after a crash has no cases: the state stands exactly at
//! some log entry, and Raft applies what follows again.
//!
//! The tables live in one of two columns. Installing a snapshot fills the other
//! one and flips a pointer: the old state or the new, never a mixture.

mod backup;
pub(crate) mod transfer;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

pub use backup::BackupMaker;
use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::type_config::AsyncRuntime;
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::{broadcast, watch};
pub use transfer::Builder;

use self::transfer::{cleared, current_column, fill, load, off_the_runtime, snapshot_meta};
use crate::apply::{ApplyError, apply, fold_digest};
use crate::codec;
use crate::command::Outcome;
use crate::directory::Directory;
use crate::faults;
use crate::feed::{Change, ChangeKind, FeedIndex};
use crate::log::key;
use crate::snapshot::{SnapshotFile, Snapshots};
use crate::store::{Batch, Column, Durability, EngineError, Reader, Row, Store, StoreError};
use crate::types::{LogEntry, LogId, SnapshotMeta, StoredMembership, Types};
use crate::view::{Table, View, Writes, meta, prefix_end};

/// Changes that a slow reader of the feed may be behind before it must read anew.
const FEED_MAX: usize = 8192;
/// Log entries that are applied and stored together at most.
const APPLY_GROUP: usize = 512;
/// Digests are kept at log indexes that this divides, so that nodes which are not equally
/// far can be compared.
const CHECKPOINT_EVERY: u64 = 64;
/// And this many of them.
const CHECKPOINTS_KEPT: usize = 16;
/// A snapshot as openraft hands it around.
type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>;

/// What a node knows of the replicated state. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    column: Mutex<Column>,
    directory: RwLock<Directory>,
    applied: watch::Sender<Option<LogId>>,
    feed: broadcast::Sender<Change>,
    checkpoints: Mutex<VecDeque<Checkpoint>>,
}

/// Digest of the state at a log index: the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Log index.
    pub index: u64,
    /// Rolling digest of the state once it is applied.
    pub digest: Vec<u8>,
}

impl Registry {
    /// The state as of now. Hold the guard for the length of one lookup and never
    /// across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.shared
            .directory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Index of the last applied log entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.shared.applied.borrow().map_or(0, |id| id.index)
    }

    /// Waits until the log entry at `index` is applied here. Ends only with it:
    /// put a deadline around the call.
    pub async fn wait_applied(&self, index: u64) {
        let mut applied = self.shared.applied.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = applied
            .wait_for(|id| id.is_some_and(|id| id.index >= index))
            .await;
    }

    /// Changes from now on. A reader that falls more than 8192 changes behind is
    /// told so and must read the state anew.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.shared.feed.subscribe()
    }

    /// Applied index and the digest of the state at it, from one moment.
    pub fn digest(&self) -> (u64, String) {
        let directory = self.read();
        (self.applied_index(), directory.digest_hex())
    }

    /// Digests at some of the last log indexes, and at the last one applied.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        let last = {
            let directory = self.read();
            Checkpoint {
                index: self.applied_index(),
                digest: directory.digest().to_vec(),
            }
        };
        let kept = self.shared.checkpoints();
        let mut all: Vec<Checkpoint> = kept
            .iter()
            .filter(|c| c.index < last.index)
            .cloned()
            .collect();
        // Nothing stands at index 0 that could be told from nothing at all.
        all.extend(Some(last).filter(|c| c.index > 0));
        all
    }
}

impl Shared {
    fn checkpoints(&self) -> MutexGuard<'_, VecDeque<Checkpoint>> {
        self.checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// openraft's side of the state.
pub struct StateMachine<Rt: AsyncRuntime = crate::runtime::Runtime> {
    shared: Arc<Shared>,
    snapshots: Snapshots,
    applied: Option<LogId>,
    membership: StoredMembership,
    builds: u64,
    #[cfg(feature = "faults")]
    hold_back: std::time::Duration,
    #[cfg(feature = "faults")]
    diverge_at: Option<u64>,
    runtime: std::marker::PhantomData<fn() -> Rt>,
}

/// Reads the tables of one column.
struct Tables<'a> {
    reader: &'a dyn Reader,
    column: Column,
}

impl View for Tables<'_> {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reader.get(self.column, key)
    }

    fn rows(&self, prefix: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.reader
            .scan(self.column, prefix, prefix_end(prefix).as_deref(), limit)
    }
}

impl<Rt: AsyncRuntime> StateMachine<Rt> {
    /// Opens the state in `store` and loads it into memory.
    pub fn open(
        store: Arc<dyn Store>,
        snapshots: Snapshots,
    ) -> Result<(Self, Registry), StoreError> {
        let column = current_column(&*store)?;
        // An install that a crash interrupted left rows in the other column.
        store.write(cleared(other(column)), Durability::Buffered)?;
        let (directory, applied, membership) = load(&*store, column)?;
        let shared = Arc::new(Shared {
            store,
            column: Mutex::new(column),
            directory: RwLock::new(directory),
            applied: watch::Sender::new(applied),
            feed: broadcast::Sender::new(FEED_MAX),
            checkpoints: Mutex::default(),
        });
        let registry = Registry {
            shared: Arc::clone(&shared),
        };
        let machine = Self {
            shared,
            snapshots,
            applied,
            membership,
            builds: 0,
            #[cfg(feature = "faults")]
            hold_back: std::time::Duration::ZERO,
            #[cfg(feature = "faults")]
            diverge_at: None,
            runtime: std::marker::PhantomData,
        };
        Ok((machine, registry))
    }

    /// Holds every group of log entries back for a while before it is applied.
    #[cfg(feature = "faults")]
    pub fn hold_back(&mut self, time: std::time::Duration) {
        self.hold_back = time;
    }

    /// Checks that the state, or a snapshot, reaches to where the log, purged up to
    /// `purged`, begins, and that the snapshot is whole.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the file and what to do about it.
    pub fn check_covers(&self, purged: Option<LogId>) -> Result<(), StoreError> {
        let whole = self.applied >= purged;
        let mut covered = whole;
        let current = self
            .snapshots
            .current()
            .map_err(|e| StoreError::corrupt(format!("the snapshots cannot be listed: {e}")))?;
        if let Some(file) = current {
            let header = file.read(|_, _| Ok(())).map_err(|e| {
                let remedy = if whole {
                    "remove this file and start again: the state of this node is whole, and a new one is made of it"
                } else {
                    "set the data directory aside with `chancery cluster rejoin` and let the node join again under a new id"
                };
                StoreError::corrupt(format!("{}: {e}; {remedy}", file.path().display()))
            })?;
            covered = covered || snapshot_meta(&header)?.last_log_id >= purged;
        }
        if covered {
            return Ok(());
        }
        Err(StoreError::corrupt(format!(
            "the state ends at log entry {}, the log begins behind entry {}, and no snapshot covers what is between",
            self.applied.map_or(0, |id| id.index),
            purged.map_or(0, |id| id.index)
        )))
    }

    /// Has the state come out otherwise than on other nodes from this log index on.
    #[cfg(feature = "faults")]
    pub fn diverge_at(&mut self, index: u64) {
        self.diverge_at = Some(index);
    }

    /// The snapshot directory.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    fn column(&self) -> Column {
        *self
            .shared
            .column
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a test did to a step, as an error of the store.
fn broken(source: io::Error) -> StoreError {
    StoreError::Engine {
        operation: "apply",
        source: EngineError(source.to_string()),
    }
}

fn other(column: Column) -> Column {
    if column == Column::StateA {
        Column::StateB
    } else {
        Column::StateA
    }
}

/// Log entries applied and not yet stored.
struct Group<Rt: AsyncRuntime> {
    writes: Writes,
    changes: Vec<Change>,
    answers: Vec<(ApplyResponder<Types<Rt>>, Outcome)>,
    digest: Vec<u8>,
    checkpoints: Vec<Checkpoint>,
    entries: usize,
}

impl<Rt: AsyncRuntime> StateMachine<Rt> {
    fn new_group(&self) -> Group<Rt> {
        let directory = self
            .shared
            .directory
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Group {
            writes: Writes::new(),
            changes: Vec::new(),
            answers: Vec::new(),
            digest: directory.digest().to_vec(),
            checkpoints: Vec::new(),
            entries: 0,
        }
    }

    fn stage(
        &mut self,
        group: &mut Group<Rt>,
        entry: &LogEntry,
        responder: Option<ApplyResponder<Types<Rt>>>,
    ) -> Result<(), ApplyError> {
        let index = entry.log_id.index;
        let mut outcome = Outcome::default();
        match &entry.payload {
            EntryPayload::Blank => group.digest = fold_digest(&group.digest, index, &Writes::new()),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                group.digest = fold_digest(&group.digest, index, &Writes::new());
            }
            EntryPayload::Normal(proposal) => {
                let tables = Tables {
                    reader: &*self.shared.store,
                    column: self.column(),
                };
                let applied = apply(&tables, &group.writes, index, proposal)?;
                group.digest = fold_digest(&group.digest, index, &applied.writes);
                group.writes.extend(applied.writes);
                group.changes.extend(applied.changes);
                outcome = applied.outcome;
            }
        }
        #[cfg(feature = "faults")]
        if self.diverge_at == Some(index) {
            group.digest.reverse();
        }
        if index.is_multiple_of(CHECKPOINT_EVERY) {
            group.checkpoints.push(Checkpoint {
                index,
                digest: group.digest.clone(),
            });
        }
        self.applied = Some(entry.log_id);
        group.entries += 1;
        if let Some(responder) = responder {
            group.answers.push((responder, outcome));
        }
        Ok(())
    }

    /// Stores the group, then shows it, then answers: nobody is told of what a
    /// crash could take back from this node's readers.
    fn commit(&self, mut group: Group<Rt>) -> Result<(), StoreError> {
        let Some(applied) = self.applied else {
            return Ok(());
        };
        let column = self.column();
        group
            .writes
            .insert(Table::Meta.key(meta::DIGEST), Some(group.digest));
        let mut batch = Batch::default();
        for (key, value) in &group.writes {
            match value {
                Some(value) => batch.put(column, key.clone(), value.clone()),
                None => batch.delete(column, key.clone()),
            }
        }
        batch.put(
            column,
            Table::Meta.key(meta::APPLIED),
            codec::encode_log_id(&applied),
        );
        batch.put(
            column,
            Table::Meta.key(meta::MEMBERSHIP),
            codec::encode_membership(&self.membership),
        );
        // Not synced: the log is, and is kept until a durable snapshot covers it.
        faults::point("apply.before").map_err(broken)?;
        self.shared.store.write(batch, Durability::Buffered)?;
        faults::point("apply.after").map_err(broken)?;
        {
            let mut directory = self
                .shared
                .directory
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            directory.absorb(&group.writes)?;
            self.shared.applied.send_replace(Some(applied));
        }
        {
            let mut kept = self.shared.checkpoints();
            kept.extend(group.checkpoints);
            let surplus = kept.len().saturating_sub(CHECKPOINTS_KEPT);
            kept.drain(..surplus);
        }
        for change in group.changes {
            // Nobody listening is no error.
            let _ = self.shared.feed.send(change);
        }
        for (responder, outcome) in group.answers {
            responder.send(outcome);
        }
        Ok(())
    }
}

impl<Rt: AsyncRuntime> RaftStateMachine<Types<Rt>> for StateMachine<Rt> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<Rt>>, io::Error>> + Unpin + OptionalSend,
    {
        #[cfg(feature = "faults")]
        if !self.hold_back.is_zero() {
            Rt::sleep(self.hold_back).await;
        }
        let mut group = self.new_group();
        while let Some((entry, responder)) = entries.try_next().await? {
            self.stage(&mut group, &entry, responder)
                .map_err(io::Error::other)?;
            if group.entries >= APPLY_GROUP {
                self.commit(group)?;
                group = self.new_group();
            }
        }
        if group.entries > 0 {
            self.commit(group)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builds += 1;
        Builder::start(
            Arc::clone(&self.shared.store),
            self.snapshots.clone(),
            self.column(),
            self.builds,
        )
        .await
    }

    async fn install_snapshot(
        &mut self,
        snapshot_meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let target = other(self.column());
        let store = Arc::clone(&self.shared.store);
        let snapshots = self.snapshots.clone();
        let expected = snapshot_meta.last_log_id;
        let cluster_id = self
            .shared
            .directory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .cluster()
            .id
            .clone();
        let (directory, applied, membership) = off_the_runtime("snapshot-install", move || {
            let loaded = fill(&*store, target, &snapshot, expected, &cluster_id)?;
            faults::point("install.filled")?;
            // Before the flip: after a crash in between, Raft finds a snapshot that is
            // ahead of the state and installs it again. The other way round it would
            // find a purged log that no snapshot covers.
            if let Some(id) = loaded.1 {
                snapshots.keep(&snapshot, id.leader_id.term, id.index)?;
            }
            faults::point("install.kept")?;
            let mut flip = Batch::default();
            flip.put(Column::Raft, key::STATE_COLUMN, target.name());
            store.write(flip, Durability::Synced)?;
            faults::point("install.flipped")?;
            Ok::<_, io::Error>(loaded)
        })
        .await??;
        {
            let mut current = self
                .shared
                .directory
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *self
                .shared
                .column
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = target;
            *current = directory;
            self.shared.applied.send_replace(applied);
        }
        self.shared.checkpoints().clear();
        self.applied = applied;
        self.membership = membership;
        let at = FeedIndex {
            log_index: applied.map_or(0, |id| id.index),
            item: u32::MAX,
        };
        // Nobody listening is no error.
        let _ = self.shared.feed.send(Change {
            at,
            kind: ChangeKind::StateReplaced,
        });
        self.shared
            .store
            .write(cleared(other(target)), Durability::Buffered)?;
        faults::point("install.done")
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        let current = off_the_runtime("snapshot-read", move || {
            let Some(file) = snapshots.current()? else {
                return Ok(None);
            };
            // The whole file is checked: Raft must not offer what cannot be installed.
            let header = file.read(|_, _| Ok(()))?;
            Ok::<_, io::Error>(Some(Snapshot {
                meta: snapshot_meta(&header)?,
                snapshot: file,
            }))
        })
        .await??;
        let purged = self.shared.store.get(Column::Raft, key::PURGED)?;
        let purged = purged.map(|b| codec::decode_log_id(&b)).transpose()?;
        match current {
            // Log entries may be applied before they are on the own disk. Where a crash
            // took them from the log and not from the state, Raft purges up to the state:
            // what lies between an older snapshot and there would be nowhere.
            Some(current) if current.meta.last_log_id < purged => {
                tracing::info!("the snapshot is older than the log; a new one is made");
                self.get_snapshot_builder().await.built().await.map(Some)
            }
            current => Ok(current),
        }
    }
}
