//! A store in memory that keeps a journal of its batches, so that a test can look
//! at what is left after a power cut at any moment.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use chancery_raft_store::store::{Batch, Column, Durability, Op, Reader, Row, Store, StoreError};

#[derive(Clone, Default)]
struct Columns(BTreeMap<Column, BTreeMap<Vec<u8>, Vec<u8>>>);

#[derive(Default)]
struct Inner {
    columns: Columns,
    journal: Vec<(Batch, Durability)>,
}

#[derive(Default)]
pub(crate) struct ModelStore {
    inner: Mutex<Inner>,
}

impl ModelStore {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Batches written so far.
    pub(crate) fn journal_len(&self) -> usize {
        self.inner().journal.len()
    }

    /// Batches that a power cut cannot take back.
    pub(crate) fn durable_len(&self) -> usize {
        self.inner()
            .journal
            .iter()
            .rposition(|(_, d)| *d == Durability::Synced)
            .map_or(0, |at| at + 1)
    }

    /// What the disk holds if only the first `batches` reached it.
    pub(crate) fn after_crash(&self, batches: usize) -> Self {
        let after = Self::default();
        for (batch, durability) in &self.inner().journal[..batches] {
            after.write(batch.clone(), *durability).unwrap();
        }
        after
    }
}

impl Columns {
    fn of(&mut self, column: Column) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        self.0.entry(column).or_default()
    }
}

impl Reader for Columns {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(&column).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(rows) = self.0.get(&column) else {
            return Ok(Vec::new());
        };
        let found = rows
            .range(from.to_vec()..)
            .take_while(|(k, _)| until.is_none_or(|u| k.as_slice() < u));
        Ok(found
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }

    fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
        Ok(self
            .0
            .get(&column)
            .and_then(BTreeMap::last_key_value)
            .map(|(k, v)| (k.clone(), v.clone())))
    }
}

impl Reader for ModelStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner().columns.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.inner().columns.scan(column, from, until, limit)
    }

    fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
        self.inner().columns.last(column)
    }
}

impl Store for ModelStore {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut inner = self.inner();
        for op in batch.ops.clone() {
            match op {
                Op::Put(column, key, value) => {
                    inner.columns.of(column).insert(key, value);
                }
                Op::Delete(column, key) => {
                    inner.columns.of(column).remove(&key);
                }
                Op::DeleteRange(column, from, until) => {
                    inner
                        .columns
                        .of(column)
                        .retain(|key, _| *key < from || *key >= until);
                }
            }
        }
        inner.journal.push((batch, durability));
        Ok(())
    }

    fn at_this_moment(
        &self,
        ready: &mut dyn FnMut(),
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let moment = self.inner().columns.clone();
        ready();
        read(&moment)
    }
}
