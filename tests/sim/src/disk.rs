//! A model of a machine's disk.
//!
//! What was written and not synced is a queue of batches. A power cut leaves a prefix
//! of it, in order and in whole batches, as the promises of `raft-store`'s store say;
//! a killed process loses nothing of it. A column's rows can be damaged: whoever reads
//! them is told so, as RocksDB tells by its checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chancery_raft_store::store::{
    Batch, Column, Durability, EngineError, Op, Reader, Row, Store, StoreError,
};

use crate::random::Random;

/// Rows by column.
#[derive(Clone, Debug, Default)]
pub struct Columns(BTreeMap<Column, BTreeMap<Vec<u8>, Vec<u8>>>);

impl Columns {
    fn apply(&mut self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::Put(column, key, value) => {
                    let rows = self.0.entry(*column).or_default();
                    rows.insert(key.clone(), value.clone());
                }
                Op::Delete(column, key) => {
                    self.0.entry(*column).or_default().remove(key);
                }
                Op::DeleteRange(column, from, until) => {
                    let rows = self.0.entry(*column).or_default();
                    if from == until {
                        continue;
                    }
                    let gone: Vec<Vec<u8>> = rows
                        .range(from.clone()..until.clone())
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in gone {
                        rows.remove(&key);
                    }
                }
            }
        }
    }

    /// Value of a key.
    pub fn value(&self, column: Column, key: &[u8]) -> Option<&Vec<u8>> {
        self.0.get(&column)?.get(key)
    }

    /// Rows of a column in key order.
    pub fn rows(&self, column: Column) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.0.get(&column).into_iter().flatten()
    }
}

/// Everything that is on one machine's disk.
#[derive(Debug, Default)]
pub struct Content {
    /// What a reader sees.
    pub visible: Columns,
    /// What is left after a power cut at the worst moment.
    pub durable: Columns,
    /// Written and not synced, oldest first.
    unsynced: Vec<Batch>,
    damaged: BTreeSet<Column>,
    /// Every write fails.
    broken: bool,
    /// Grows with every stop of the process: older mounts are dead.
    mounts: u64,
}

/// The disk of one machine; outlives its processes.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    content: Arc<Mutex<Content>>,
}

/// Told of every batch once it is written.
pub type Watcher = Arc<dyn Fn(&Batch) + Send + Sync>;

impl Disk {
    /// What it holds.
    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the disk to a new process.
    pub fn mount(&self, watcher: Watcher) -> Arc<dyn Store> {
        let mut content = self.content();
        content.mounts += 1;
        Arc::new(Mount {
            number: content.mounts,
            disk: self.clone(),
            watcher,
        })
    }

    /// The process that uses it is gone: nothing more comes from its mount.
    pub fn unmount(&self) {
        self.content().mounts += 1;
    }

    /// A power cut: of what was not synced a prefix stays. Says how many batches are
    /// lost.
    pub fn lose_power(&self, random: &mut Random) -> usize {
        let mut content = self.content();
        let unsynced = std::mem::take(&mut content.unsynced);
        let kept = usize::try_from(random.below(unsynced.len() as u64 + 1)).unwrap_or(0);
        for batch in &unsynced[..kept] {
            content.durable.apply(batch);
        }
        content.visible = content.durable.clone();
        unsynced.len() - kept
    }

    /// Makes every write fail from now on, or no longer.
    pub fn break_writes(&self, broken: bool) {
        self.content().broken = broken;
    }

    /// Whether some of it is damaged.
    pub fn is_damaged(&self) -> bool {
        !self.content().damaged.is_empty()
    }

    /// Damages every row of a column, for good.
    pub fn damage(&self, column: Column) {
        self.content().damaged.insert(column);
    }
}

/// The disk as one process sees it.
struct Mount {
    number: u64,
    disk: Disk,
    watcher: Watcher,
}

fn engine(operation: &'static str, what: &str) -> StoreError {
    StoreError::Engine {
        operation,
        source: EngineError(what.to_owned()),
    }
}

impl Mount {
    fn content(&self, operation: &'static str) -> Result<MutexGuard<'_, Content>, StoreError> {
        let content = self.disk.content();
        if content.mounts != self.number {
            return Err(engine(operation, "this process was killed"));
        }
        Ok(content)
    }

    fn sound(&self, column: Column) -> Result<MutexGuard<'_, Content>, StoreError> {
        let content = self.content("read")?;
        if content.damaged.contains(&column) {
            return Err(StoreError::corrupt(format!(
                "checksum mismatch in column {}",
                column.name()
            )));
        }
        Ok(content)
    }
}

fn scan(
    columns: &Columns,
    column: Column,
    from: &[u8],
    until: Option<&[u8]>,
    limit: usize,
) -> Vec<Row> {
    let Some(rows) = columns.0.get(&column) else {
        return Vec::new();
    };
    rows.range(from.to_vec()..)
        .take_while(|(key, _)| until.is_none_or(|until| key.as_slice() < until))
        .take(limit)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn last(columns: &Columns, column: Column) -> Option<Row> {
    let (key, value) = columns.0.get(&column)?.last_key_value()?;
    Some((key.clone(), value.clone()))
}

impl Reader for Mount {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.sound(column)?.visible.value(column, key).cloned())
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let content = self.sound(column)?;
        Ok(scan(&content.visible, column, from, until, limit))
    }

    fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
        Ok(last(&self.sound(column)?.visible, column))
    }
}

impl Store for Mount {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        {
            let mut content = self.content("write")?;
            if content.broken {
                return Err(engine("write", "simulated input/output error"));
            }
            content.visible.apply(&batch);
            if durability == Durability::Synced {
                for earlier in std::mem::take(&mut content.unsynced) {
                    content.durable.apply(&earlier);
                }
                content.durable.apply(&batch);
            } else {
                content.unsynced.push(batch.clone());
            }
        }
        // Without the lock: whoever watches looks at the disk.
        (self.watcher)(&batch);
        Ok(())
    }

    fn at_this_moment(
        &self,
        ready: &mut dyn FnMut(),
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let columns = self.content("snapshot")?.visible.clone();
        let damaged = self.content("snapshot")?.damaged.clone();
        ready();
        read(&Moment { columns, damaged })
    }
}

/// The disk as it was when a snapshot was begun.
struct Moment {
    columns: Columns,
    damaged: BTreeSet<Column>,
}

impl Moment {
    fn sound(&self, column: Column) -> Result<&Columns, StoreError> {
        if self.damaged.contains(&column) {
            return Err(StoreError::corrupt("checksum mismatch"));
        }
        Ok(&self.columns)
    }
}

impl Reader for Moment {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.sound(column)?.value(column, key).cloned())
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(scan(self.sound(column)?, column, from, until, limit))
    }

    fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
        Ok(last(self.sound(column)?, column))
    }
}
