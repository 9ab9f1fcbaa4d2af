//! Times the synced writes of any store.

use chancery_raft_store::store::{Batch, Column, Durability, Reader, Row, Store, StoreError};

use crate::environment::Stopwatch;

/// A store whose synced writes are timed; failed ones too.
#[derive(Debug)]
pub struct MeteredStore<S> {
    inner: S,
}

impl<S: Store> MeteredStore<S> {
    /// Times the writes of `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Store> Reader for MeteredStore<S> {
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

impl<S: Store> Store for MeteredStore<S> {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        match durability {
            Durability::Buffered => self.inner.write(batch, durability),
            Durability::Synced => {
                let watch = Stopwatch::start();
                let outcome = self.inner.write(batch, durability);
                super::fsync(watch.elapsed());
                outcome
            }
        }
    }

    fn at_this_moment(
        &self,
        ready: &mut dyn FnMut(),
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.inner.at_this_moment(ready, read)
    }

    fn wait_for_room(&self) -> Result<(), StoreError> {
        self.inner.wait_for_room()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.inner.check()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::telemetry::recorder;

    /// Remembers what reached it.
    #[derive(Default)]
    struct Tape(Mutex<Vec<String>>);

    impl Tape {
        fn note(&self, line: String) {
            self.0.lock().unwrap().push(line);
        }
    }

    impl Reader for Tape {
        fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.note(format!("get {} {key:?}", column.name()));
            Ok(Some(vec![7]))
        }
        fn scan(
            &self,
            column: Column,
            from: &[u8],
            until: Option<&[u8]>,
            limit: usize,
        ) -> Result<Vec<Row>, StoreError> {
            self.note(format!("scan {} {from:?} {until:?} {limit}", column.name()));
            Ok(vec![(vec![1], vec![2])])
        }
        fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
            self.note(format!("last {}", column.name()));
            Ok(None)
        }
    }

    impl Store for Tape {
        fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
            self.note(format!("write {} {durability:?}", batch.ops.len()));
            if batch.ops.is_empty() {
                Err(StoreError::corrupt("empty batch"))
            } else {
                Ok(())
            }
        }
        fn at_this_moment(
            &self,
            ready: &mut dyn FnMut(),
            read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
        ) -> Result<(), StoreError> {
            ready();
            read(self)
        }
    }

    #[test]
    fn synced_writes_alone_are_timed_and_everything_passes_through() {
        let recorder = recorder::builder().unwrap().build_recorder();
        let store = MeteredStore::new(Tape::default());
        let mut batch = Batch::default();
        batch.put(Column::Raft, "vote", "1");
        metrics::with_local_recorder(&recorder, || {
            store.write(batch.clone(), Durability::Buffered).unwrap();
            assert!(
                !recorder
                    .handle()
                    .render()
                    .contains("chancery_fsync_seconds")
            );
            store.write(batch, Durability::Synced).unwrap();
            store
                .write(Batch::default(), Durability::Synced)
                .unwrap_err();
        });
        assert!(
            recorder
                .handle()
                .render()
                .contains("chancery_fsync_seconds_count 2")
        );
        assert_eq!(store.get(Column::Log, &[3]).unwrap(), Some(vec![7]));
        assert_eq!(
            store.scan(Column::Log, &[1], Some(&[2]), 5).unwrap().len(),
            1
        );
        let mut fixed = false;
        store
            .at_this_moment(&mut || fixed = true, &mut |reader| {
                assert!(reader.last(Column::StateA)?.is_none());
                Ok(())
            })
            .unwrap();
        assert!(fixed);
        assert_eq!(
            *store.inner.0.lock().unwrap(),
            [
                "write 1 Buffered",
                "write 1 Synced",
                "write 0 Synced",
                "get log [3]",
                "scan log [1] Some([2]) 5",
                "last state-a"
            ]
        );
    }
}
