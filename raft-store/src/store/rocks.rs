//! The only room that knows RocksDB.

use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::tail::Zeros;
use super::{Batch, Column, Durability, EngineError, Op, Reader, Row, Store, StoreError};

/// A [`Store`] in a RocksDB directory.
pub struct RocksStore {
    db: DB,
}

impl RocksStore {
    /// Makes a new store; fails when there is one at `path` already, or what is
    /// left of one.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        if path.read_dir().is_ok_and(|mut rest| rest.next().is_some()) {
            return Err(StoreError::corrupt(format!(
                "{} is not empty: no new store is made there",
                path.display()
            )));
        }
        make_private(path)?;
        let mut options = Self::options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_error_if_exists(true);
        Self::open_with(path, &options)
    }

    /// Opens an existing store; never makes one.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // The engine would make the directory before it finds that it is empty.
        if !path.join("CURRENT").is_file() {
            return Err(StoreError::corrupt(format!(
                "there is no store at {}",
                path.display()
            )));
        }
        make_private(path)?;
        let refused = match Self::open_with(path, &Self::options()) {
            Err(error) if error.to_string().contains("Corruption") => error,
            opened => return opened.map_err(|error| naming_files(error, path)),
        };
        if let Ok(Some(zeros)) = Zeros::cut(path) {
            if let Ok(store) = Self::open_with(path, &Self::options()) {
                zeros.tell();
                return Ok(store);
            }
            zeros.restore().map_err(|source| StoreError::Engine {
                operation: "open",
                source: EngineError(format!("a write-ahead log cannot be restored: {source}")),
            })?;
        }
        Err(naming_files(refused, path))
    }

    fn options() -> Options {
        let mut options = Options::default();
        options.set_paranoid_checks(true);
        // The default mode opens without complaint after a flipped bit in mid-WAL
        // and drops all behind it; this one tolerates a torn tail only.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        // A write-ahead log that is gone altogether is noticed, unless it is the newest.
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_compression_type(DBCompressionType::Lz4);
        // A start needs about as much free space: see the reserve of a node's disk.
        options.set_max_total_wal_size(128 << 20);
        options.set_max_open_files(512);
        options.set_keep_log_file_num(4);
        options
    }

    fn open_with(path: &Path, options: &Options) -> Result<Self, StoreError> {
        let columns = Column::ALL.map(|c| {
            let mut column = Options::default();
            column.set_compression_type(DBCompressionType::Lz4);
            column.set_write_buffer_size(32 << 20);
            ColumnFamilyDescriptor::new(c.name(), column)
        });
        let db = DB::open_cf_descriptors(options, path, columns).map_err(engine("open"))?;
        Ok(Self { db })
    }

    fn handle(&self, column: Column) -> Result<&ColumnFamily, StoreError> {
        self.db
            .cf_handle(column.name())
            .ok_or_else(|| StoreError::corrupt(format!("no column {}", column.name())))
    }

    fn read(
        &self,
        mut options: ReadOptions,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        if let Some(until) = until {
            // Or the engine would step over all removed rows behind it.
            options.set_iterate_upper_bound(until);
        }
        let mode = IteratorMode::From(from, Direction::Forward);
        // The iterator yields its status as a last item: a scan cut short by an
        // unreadable block is an error, never a short answer.
        for row in self.db.iterator_cf_opt(self.handle(column)?, options, mode) {
            if rows.len() >= limit {
                break;
            }
            let (key, value) = row.map_err(engine("scan"))?;
            rows.push((key.into_vec(), value.into_vec()));
        }
        Ok(rows)
    }
}

impl Reader for RocksStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db
            .get_cf(self.handle(column)?, key)
            .map_err(engine("get"))
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.read(ReadOptions::default(), column, from, until, limit)
    }

    fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
        let row = self
            .db
            .iterator_cf(self.handle(column)?, IteratorMode::End)
            .next();
        let row = row.transpose().map_err(engine("scan"))?;
        Ok(row.map(|(key, value)| (key.into_vec(), value.into_vec())))
    }
}

/// Reads at one moment of the store.
struct Moment<'a> {
    store: &'a RocksStore,
    snapshot: rocksdb::Snapshot<'a>,
}

impl Reader for Moment<'_> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.snapshot
            .get_cf(self.store.handle(column)?, key)
            .map_err(engine("get"))
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        self.store.read(options, column, from, until, limit)
    }

    fn last(&self, column: Column) -> Result<Option<Row>, StoreError> {
        let row = self
            .snapshot
            .iterator_cf(self.store.handle(column)?, IteratorMode::End)
            .next();
        let row = row.transpose().map_err(engine("scan"))?;
        Ok(row.map(|(key, value)| (key.into_vec(), value.into_vec())))
    }
}

impl Store for RocksStore {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut writes = WriteBatch::default();
        for op in &batch.ops {
            match op {
                Op::Put(column, key, value) => writes.put_cf(self.handle(*column)?, key, value),
                Op::Delete(column, key) => writes.delete_cf(self.handle(*column)?, key),
                Op::DeleteRange(column, from, until) => {
                    writes.delete_range_cf(self.handle(*column)?, from, until)
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(writes, &options).map_err(engine("write"))
    }

    fn at_this_moment(
        &self,
        ready: &mut dyn FnMut(),
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let moment = Moment {
            store: self,
            snapshot: self.db.snapshot(),
        };
        ready();
        read(&moment)
    }

    /// Flushes and compactions fail unseen until the next write.
    fn check(&self) -> Result<(), StoreError> {
        let failed = self
            .db
            .property_int_value(rocksdb::properties::BACKGROUND_ERRORS)
            .map_err(engine("check"))?;
        match failed {
            None | Some(0) => Ok(()),
            Some(_) => Err(StoreError::Engine {
                operation: "a flush or a compaction",
                source: EngineError("the file LOG of the store says why".into()),
            }),
        }
    }
}

/// The engine makes files that everybody may read: nobody else must come into the
/// directory, whatever the mode of the one above it.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)));
    made.map_err(|source| StoreError::Engine {
        operation: "open",
        source: EngineError(format!("{}: {source}", path.display())),
    })
}

/// Of a damaged write-ahead log the engine does not say which file it is: names those
/// that there are.
fn naming_files(error: StoreError, path: &Path) -> StoreError {
    let StoreError::Engine { operation, source } = error else {
        return error;
    };
    let EngineError(mut text) = source;
    if text.contains("Corruption") && !text.contains(&*path.to_string_lossy()) {
        let files = path.read_dir().into_iter().flatten().flatten();
        let mut logs: Vec<String> = files
            .map(|file| file.path())
            .filter(|file| file.extension().is_some_and(|e| e == "log"))
            .map(|file| file.display().to_string())
            .collect();
        logs.sort();
        text.push_str(&format!(" (in a write-ahead log: {})", logs.join(", ")));
    }
    StoreError::Engine {
        operation,
        source: EngineError(text),
    }
}

fn engine(operation: &'static str) -> impl Fn(rocksdb::Error) -> StoreError {
    move |error| StoreError::Engine {
        operation,
        source: EngineError(error.into_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn nobody_else_comes_into_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        drop(RocksStore::create(&path).unwrap());
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        drop(RocksStore::open(&path).unwrap());
        assert_eq!(mode(), 0o700);
    }
}
