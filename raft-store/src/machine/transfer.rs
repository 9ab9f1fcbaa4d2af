//! Whole states: loading one into memory, building a snapshot of one, filling a
//! column from one. Everything here is bounded in memory by a group of rows, and
//! the directory itself.

use std::io;
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;
use openraft::type_config::AsyncRuntime;
use tokio::sync::oneshot;

use super::Snapshot;
use crate::codec;
use crate::command::FEATURE_LEVEL;
use crate::directory::Directory;
use crate::faults;
use crate::log::key;
use crate::runtime;
use crate::snapshot::{Header, SnapshotFile, Snapshots};
use crate::store::{Batch, Column, Durability, Reader, Store, StoreError};
use crate::types::{LogId, SnapshotMeta, StoredMembership, Types};
use crate::view::{Table, meta};

/// Rows that are read or written together when a whole state is moved.
const COPY_ROWS: usize = 4096;
/// Bytes of a snapshot that are written between two looks at the room for them.
const LOOK_BYTES: usize = 1 << 20;

/// Calls `each` with every row of a column, in key order.
pub(crate) fn for_each_row(
    reader: &dyn Reader,
    column: Column,
    each: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut from = Vec::new();
    loop {
        let rows = reader.scan(column, &from, None, COPY_ROWS)?;
        let more = rows.len() == COPY_ROWS;
        for (key, value) in rows {
            if more {
                from.clone_from(&key);
            }
            each(key, value)?;
        }
        if !more {
            return Ok(());
        }
        from.push(0);
    }
}

pub(crate) fn cleared(column: Column) -> Batch {
    let mut batch = Batch::default();
    batch.delete_range(column, Vec::new(), vec![u8::MAX]);
    batch
}

/// The column that the state stands in.
pub(crate) fn current_column(reader: &dyn Reader) -> Result<Column, StoreError> {
    match reader.get(Column::Raft, key::STATE_COLUMN)?.as_deref() {
        None => Ok(Column::StateA),
        Some(name) => [Column::StateA, Column::StateB]
            .into_iter()
            .find(|c| c.name().as_bytes() == name)
            .ok_or_else(|| StoreError::corrupt("the state pointer names no column")),
    }
}

pub(crate) fn load(
    reader: &dyn Reader,
    column: Column,
) -> Result<(Directory, Option<LogId>, StoredMembership), StoreError> {
    let mut directory = Directory::default();
    for_each_row(reader, column, &mut |key, value| {
        directory.absorb_row(&key, Some(&value))
    })?;
    let applied = reader.get(column, &Table::Meta.key(meta::APPLIED))?;
    let membership = reader.get(column, &Table::Meta.key(meta::MEMBERSHIP))?;
    Ok((
        directory,
        applied.map(|b| codec::decode_log_id(&b)).transpose()?,
        membership
            .map(|b| codec::decode_membership(&b))
            .transpose()?
            .unwrap_or_default(),
    ))
}

/// Fills `target`, which is not the current column, from a snapshot.
pub(super) fn fill(
    store: &dyn Store,
    target: Column,
    file: &SnapshotFile,
    expected: Option<LogId>,
    cluster_id: &str,
) -> Result<(Directory, Option<LogId>, StoredMembership), StoreError> {
    // Once over the whole file before the first row is believed.
    let header = file.read(|_, _| Ok(()))?;
    if snapshot_meta(&header)?.last_log_id != expected {
        return Err(StoreError::corrupt(
            "the snapshot is not of the log position that was announced",
        ));
    }
    if !cluster_id.is_empty() && header.cluster_id != cluster_id {
        return Err(StoreError::corrupt(format!(
            "the snapshot is of another cluster, {:?}",
            header.cluster_id
        )));
    }
    store.write(cleared(target), Durability::Buffered)?;
    faults::point("install.cleared").map_err(super::broken)?;
    file.read(|_, rows| {
        let mut batch = Batch::default();
        for (key, value) in rows {
            batch.put(target, key, value.unwrap_or_default());
        }
        store.write(batch, Durability::Buffered)
    })?;
    let loaded = load(store, target)?;
    if loaded.1 != expected {
        return Err(StoreError::corrupt(
            "the rows of the snapshot are not of its log position",
        ));
    }
    let level = loaded.0.cluster().feature_level;
    if level > FEATURE_LEVEL {
        return Err(StoreError::corrupt(format!(
            "the snapshot is of feature level {level}, and this version knows {FEATURE_LEVEL} at most; upgrade this node"
        )));
    }
    Ok(loaded)
}

pub(super) fn snapshot_meta(header: &Header) -> Result<SnapshotMeta, StoreError> {
    Ok(SnapshotMeta {
        // Empty: nothing was applied when it was taken.
        last_log_id: (!header.applied.is_empty())
            .then(|| codec::decode_log_id(&header.applied))
            .transpose()?,
        last_membership: codec::decode_membership(&header.membership)?,
    })
}

/// Runs blocking work beside the runtime.
pub(super) async fn off_the_runtime<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, io::Error> {
    runtime::blocking(name, work)?
        .await
        .map_err(|_| io::Error::other("a storage thread panicked"))
}

/// Writes a snapshot of the moment it was made, while `apply` goes on.
pub struct Builder {
    result: Option<oneshot::Receiver<Result<Snapshot, io::Error>>>,
}

impl Builder {
    pub(super) async fn start(
        store: Arc<dyn Store>,
        snapshots: Snapshots,
        column: Column,
        number: u64,
    ) -> Self {
        let (fixed, is_fixed) = oneshot::channel();
        let started = runtime::blocking("snapshot-build", move || {
            let mut fixed = Some(fixed);
            let mut built = Err(io::Error::other("the store gave no moment to read at"));
            let read = store.at_this_moment(
                &mut || {
                    if let Some(fixed) = fixed.take() {
                        let _ = fixed.send(());
                    }
                },
                &mut |moment| {
                    built = build(moment, &snapshots, column, number, &|| {
                        store.wait_for_room()
                    });
                    Ok(())
                },
            );
            // Whoever gets the result may close the store at once.
            drop(store);
            read.map_err(io::Error::from).and(built)
        });
        let Ok(result) = started else {
            return Self { result: None };
        };
        // Until the moment is fixed no further log entry may be applied.
        let _ = is_fixed.await;
        Self {
            result: Some(result),
        }
    }

    /// The snapshot, once it is written.
    pub(super) async fn built(&mut self) -> Result<Snapshot, io::Error> {
        let result = self
            .result
            .take()
            .ok_or_else(|| io::Error::other("the snapshot thread did not start"))?;
        result
            .await
            .map_err(|_| io::Error::other("the snapshot thread panicked"))?
    }
}

/// Header of a snapshot of this moment.
pub(super) fn header(moment: &dyn Reader, column: Column) -> Result<Header, StoreError> {
    let get = |name| moment.get(column, &Table::Meta.key(name));
    let cluster_id = match get(meta::CLUSTER)? {
        Some(bytes) => crate::view::decode::<crate::model::Cluster>(Table::Meta, &bytes)?.id,
        None => String::new(),
    };
    Ok(Header {
        applied: get(meta::APPLIED)?.unwrap_or_default(),
        membership: get(meta::MEMBERSHIP)?.unwrap_or_default(),
        cluster_id,
        origin: None,
    })
}

/// Writes a snapshot of this moment into the directory, as its newest. `wait_for_room` is
/// called every so many bytes.
pub(crate) fn build(
    moment: &dyn Reader,
    snapshots: &Snapshots,
    column: Column,
    number: u64,
    wait_for_room: &dyn Fn() -> Result<(), StoreError>,
) -> Result<Snapshot, io::Error> {
    let header = header(moment, column)?;
    let snapshot_meta = snapshot_meta(&header)?;
    let mut until_look = 0;
    let file = snapshots.write(&format!("build-{number}"), header, &mut |row| {
        for_each_row(moment, column, &mut |key, value| {
            let bytes = key.len() + value.len();
            if until_look < bytes {
                wait_for_room()?;
                until_look = LOOK_BYTES;
            }
            until_look = until_look.saturating_sub(bytes);
            row(key, value)
                .map_err(|e| StoreError::corrupt(format!("cannot write the snapshot: {e}")))
        })
        .map_err(io::Error::from)
    })?;
    let snapshot = match snapshot_meta.last_log_id {
        Some(id) => snapshots.keep(&file, id.leader_id.term, id.index)?,
        // Of nothing: it goes with its last handle.
        None => file,
    };
    Ok(Snapshot {
        meta: snapshot_meta,
        snapshot,
    })
}

impl<Rt: AsyncRuntime> RaftSnapshotBuilder<Types<Rt>> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.built().await
    }
}
