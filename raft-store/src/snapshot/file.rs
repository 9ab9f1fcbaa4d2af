//! Snapshot files of a node: one directory, written under a temporary name,
//! synced, renamed; the newest whole one counts.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Encoder, Header, decode};
use crate::faults;
use crate::store::StoreError;
use crate::view::Writes;

/// A complete snapshot file. What was received and never installed, and what a
/// newer snapshot replaced, is removed with its last handle: whoever holds one
/// can open the file.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Nothing will ask for the file any more.
    doomed: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.doomed.get_mut() {
            // It may be gone already: installed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl SnapshotFile {
    fn at(path: PathBuf, doomed: bool) -> Self {
        Self {
            inner: Arc::new(Inner {
                path,
                doomed: AtomicBool::new(doomed),
            }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Reads and checks it; see [`decode`].
    pub fn read(
        &self,
        rows: impl FnMut(&Header, Writes) -> Result<(), StoreError>,
    ) -> Result<Header, StoreError> {
        let file = File::open(self.path())
            .map_err(|e| StoreError::corrupt(format!("snapshot {}: {e}", self.path().display())))?;
        decode(BufReader::with_capacity(1 << 20, file), rows)
    }

    fn doom(&self) {
        self.inner.doomed.store(true, Ordering::Relaxed);
    }
}

/// Takes the rows of a snapshot, one by one.
pub type RowSink<'a> = dyn FnMut(Vec<u8>, Vec<u8>) -> io::Result<()> + 'a;

/// The snapshot directory of a node. Open it once: clones know of each other.
#[derive(Clone, Debug)]
pub struct Snapshots {
    directory: PathBuf,
    current: Arc<Mutex<Option<SnapshotFile>>>,
}

impl Snapshots {
    /// Opens the directory, making it (owner-only) if need be, and removes what a
    /// crash left half written or replaced.
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let mut whole = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("part") => fs::remove_file(path)?,
                Some("snapshot") => whole.push(path),
                _ => {}
            }
        }
        whole.sort();
        let newest = whole.pop();
        for replaced in whole {
            fs::remove_file(replaced)?;
        }
        let current = newest.map(|path| SnapshotFile::at(path, false));
        Ok(Self {
            directory: directory.to_path_buf(),
            current: Arc::new(Mutex::new(current)),
        })
    }

    /// Starts a file under a temporary name. `name` must differ for what is
    /// written at the same time.
    pub fn begin(&self, name: &str) -> io::Result<(SnapshotFile, File)> {
        let path = self.directory.join(format!("{name}.part"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        Ok((SnapshotFile::at(path, true), file))
    }

    /// Writes a snapshot under a temporary name.
    pub fn write(
        &self,
        name: &str,
        header: Header,
        rows: &mut dyn FnMut(&mut RowSink<'_>) -> io::Result<()>,
    ) -> io::Result<SnapshotFile> {
        let (snapshot, file) = self.begin(name)?;
        let mut encoder = Encoder::new(BufWriter::with_capacity(1 << 20, file), header)?;
        rows(&mut |key, value| encoder.row(key, value))?;
        let file = encoder
            .finish()?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        faults::point("snapshot.written")?;
        file.sync_all()?;
        faults::point("snapshot.synced")?;
        Ok(snapshot)
    }

    /// Takes a complete file into the directory as the snapshot of log position
    /// (`term`, `index`). It becomes the current one, and the one before goes with
    /// its last handle; unless the current one is newer: a build that an install
    /// overtook must not take the newer snapshot away.
    pub fn keep(&self, snapshot: &SnapshotFile, term: u64, index: u64) -> io::Result<SnapshotFile> {
        let path = self
            .directory
            .join(format!("{index:020}-{term:020}.snapshot"));
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = current.as_ref().filter(|held| held.path() > path.as_path()) {
            tracing::info!(overtaken_by = %held.path().display(), "a snapshot was overtaken by a newer one");
            return Ok(snapshot.clone());
        }
        // Another node's file, where nodes share a process, stays its own.
        let own = snapshot.path().parent() == Some(self.directory.as_path());
        let source = if own {
            snapshot.clone()
        } else {
            self.copy_of(snapshot)?
        };
        File::open(source.path())?.sync_all()?;
        fs::rename(source.path(), &path)?;
        faults::point("snapshot.renamed")?;
        File::open(&self.directory)?.sync_all()?;
        faults::point("snapshot.kept")?;
        if let Some(held) = current.as_ref().filter(|held| held.path() == path) {
            return Ok(held.clone());
        }
        let kept = SnapshotFile::at(path, false);
        if let Some(replaced) = current.replace(kept.clone()) {
            replaced.doom();
        }
        Ok(kept)
    }

    fn copy_of(&self, foreign: &SnapshotFile) -> io::Result<SnapshotFile> {
        let (copy, mut file) = self.begin("copy")?;
        io::copy(&mut File::open(foreign.path())?, &mut file)?;
        Ok(copy)
    }

    /// The newest snapshot.
    pub fn current(&self) -> io::Result<Option<SnapshotFile>> {
        Ok(self
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }
}
