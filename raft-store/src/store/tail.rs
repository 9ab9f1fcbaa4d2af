//! What a power cut may leave behind the synced part of a write-ahead log.
//!
//! A file system may keep a file's new length and lose the bytes: what was written and
//! not synced reads as zeros then, from some sector on. The engine takes a record that
//! the end of the file cuts off for torn, and opens; one that ends in zeros it takes for
//! damaged, and does not. After a power cut in a data centre that would be every node.
//!
//! So where the engine has refused a store, zeros from a sector boundary to the end of
//! the newest log are cut off and it is asked once more. Damage anywhere else is refused
//! as before, and then nothing was changed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What disks write whole.
const SECTOR: u64 = 512;
const READ_BYTES: u64 = 1 << 16;

/// Zeros that were cut off.
pub(super) struct Zeros {
    file: File,
    path: PathBuf,
    /// Length of the log with them.
    length: u64,
    /// Without.
    kept: u64,
}

impl Zeros {
    /// Cuts them off; none where the newest log does not end in zeros.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn cut(store: &Path) -> io::Result<Option<Self>> {
        let Some(path) = newest_log(store)? else {
            return Ok(None);
        };
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        let kept = bytes_before_zeros(&file, length)?.next_multiple_of(SECTOR);
        if kept >= length {
            return Ok(None);
        }
        file.set_len(kept)?;
        Ok(Some(Self {
            file,
            path,
            length,
            kept,
        }))
    }

    /// Puts them back.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn restore(&self) -> io::Result<()> {
        self.file.set_len(self.length)
    }

    /// Says that the log goes on without them.
    pub(super) fn tell(&self) {
        tracing::warn!(
            log = %self.path.display(),
            zeros = self.length - self.kept,
            "the write-ahead log ended in zeros, as a power cut leaves what was never synced: they were cut off"
        );
    }
}

fn newest_log(store: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in store.read_dir()? {
        let path = entry?.path();
        let number = path.extension().filter(|e| *e == "log").and_then(|_| {
            let stem = path.file_stem()?.to_str()?;
            stem.parse::<u64>().ok()
        });
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(known, _)| number > *known)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Length of the file without the zeros at its end.
fn bytes_before_zeros(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut chunk = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(READ_BYTES);
        chunk.resize(usize::try_from(end - start).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut chunk, start)?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::rocks::RocksStore;
    use super::super::{Batch, Column, Durability, Reader as _, Store as _};
    use super::*;

    /// A store whose last batch, of 4 KiB, was not synced; its log, and where that batch
    /// begins in it.
    fn store(dir: &Path) -> (PathBuf, u64) {
        let store = RocksStore::create(dir).unwrap();
        let write = |key: u8, durability| {
            let mut batch = Batch::default();
            batch.put(Column::Log, vec![key], vec![key; 4096]);
            store.write(batch, durability).unwrap();
        };
        write(1, Durability::Synced);
        let log = newest_log(dir).unwrap().unwrap();
        let synced = fs::metadata(&log).unwrap().len();
        write(2, Durability::Buffered);
        (log, synced)
    }

    /// What is there after the log's end was turned into zeros from `from` on.
    fn opened(dir: &Path, log: &Path, from: u64) -> Result<[bool; 2], super::super::StoreError> {
        let file = OpenOptions::new().write(true).open(log).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(from).unwrap();
        file.set_len(length).unwrap();
        let store = RocksStore::open(dir)?;
        Ok([1, 2].map(|key| store.get(Column::Log, &[key]).unwrap().is_some()))
    }

    #[test]
    fn a_log_that_ends_in_zeros_opens_with_all_that_was_synced() {
        for sectors in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let (log, synced) = store(dir.path());
            let from = synced.next_multiple_of(SECTOR) + sectors * SECTOR;
            let found = opened(dir.path(), &log, from).unwrap();
            assert_eq!(found, [true, false], "zeros from {from}, synced {synced}");
        }
    }

    #[test]
    fn damage_before_the_zeros_is_refused_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (log, synced) = store(dir.path());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&log)
            .unwrap();
        file.write_all_at(&[0xA5; 16], synced / 2).unwrap();
        let from = synced.next_multiple_of(SECTOR) + SECTOR;
        let length = fs::metadata(&log).unwrap().len();
        let refused = opened(dir.path(), &log, from).unwrap_err();
        assert!(refused.to_string().contains("Corruption"), "{refused}");
        let after = fs::read(&log).unwrap();
        assert_eq!(after.len() as u64, length);
        assert!(
            after[usize::try_from(from).unwrap()..]
                .iter()
                .all(|b| *b == 0)
        );
    }

    #[test]
    fn a_flipped_bit_at_the_end_is_not_taken_for_a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = store(dir.path());
        let length = fs::metadata(&log).unwrap().len();
        let file = OpenOptions::new().write(true).open(&log).unwrap();
        file.write_all_at(&[0], length - 1).unwrap();
        assert!(RocksStore::open(dir.path()).is_err());
    }
}
