//! The seam under log and tables: atomic batches over named columns, synced or
//! not, ordered scans, and consistent views.
//!
//! [`rocks::RocksStore`] is the real one. Whatever implements [`Store`] must keep
//! two promises: a batch is whole or absent after any crash, and a synced write
//! that returned is there after any crash, with everything written before it.

pub mod rocks;
mod tail;

use std::fmt;

/// Named part of a store. All columns share one write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// Vote, committed and purged positions, and which state column is current.
    Raft,
    /// Log entries by big-endian index.
    Log,
    /// Tables, one generation.
    StateA,
    /// Tables, the other generation.
    StateB,
}

impl Column {
    /// Every column, in the order they are created.
    pub const ALL: [Self; 4] = [Self::Raft, Self::Log, Self::StateA, Self::StateB];

    /// Name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Log => "log",
            Self::StateA => "state-a",
            Self::StateB => "state-b",
        }
    }
}

/// Whether a write must be on the disk when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// fsynced, with everything written before it.
    Synced,
    /// Ordered behind earlier writes; lost by a power cut only together with all
    /// later ones.
    Buffered,
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Column, Vec<u8>, Vec<u8>),
    /// Removes a key; no error when absent.
    Delete(Column, Vec<u8>),
    /// Removes every key from the first (inclusive) to the second (exclusive).
    DeleteRange(Column, Vec<u8>, Vec<u8>),
}

/// Changes that happen together or not at all, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In the order they take effect.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, column: Column, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.ops.push(Op::Put(column, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, column: Column, key: impl Into<Vec<u8>>) {
        self.ops.push(Op::Delete(column, key.into()));
    }

    /// Removes the keys from `from` up to and without `until`.
    pub fn delete_range(
        &mut self,
        column: Column,
        from: impl Into<Vec<u8>>,
        until: impl Into<Vec<u8>>,
    ) {
        self.ops
            .push(Op::DeleteRange(column, from.into(), until.into()));
    }
}

/// Key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Reads of a store or of a moment of it.
pub trait Reader {
    /// Value of a key.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows from `from` (inclusive) to `until` (exclusive; `None` is the end) in
    /// key order, at most `limit`.
    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// Last row of a column.
    fn last(&self, column: Column) -> Result<Option<Row>, StoreError>;
}

/// An ordered, transactional, crash-safe map.
pub trait Store: Reader + Send + Sync + 'static {
    /// Applies a batch.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError>;

    /// Runs `read` on the state as it is at the call, whatever is written
    /// meanwhile. `ready` is called once that moment is fixed.
    fn at_this_moment(
        &self,
        ready: &mut dyn FnMut(),
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Returns once there is room on the disk for what is written beside the store.
    ///
    /// # Errors
    /// The wait was ended: the process stops.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether the store is sound as far as it knows without being used.
    ///
    /// # Errors
    /// What it does by itself failed.
    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The store failed, or holds what it cannot hold. Always fatal to the node: an
/// fsync that failed is not tried again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine reported an error.
    #[error("{operation} failed: {source}")]
    Engine {
        /// What was being done.
        operation: &'static str,
        /// The engine's own error.
        #[source]
        source: EngineError,
    },
    /// What was read is not what can have been written.
    #[error("corrupt store: {what}")]
    Corrupt {
        /// What was found, and where.
        what: String,
    },
}

/// An engine's error, as text: its type stays inside the room of the engine.
#[derive(Debug)]
pub struct EngineError(pub String);

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EngineError {}

impl StoreError {
    /// A [`StoreError::Corrupt`].
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
