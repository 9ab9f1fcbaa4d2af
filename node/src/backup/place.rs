//! A data directory that changes from one state to another, whole or not at all.
//!
//! The new state is made in [`STAGED`], which means nothing to anybody. One rename makes
//! it [`LEAVING`]: from then on the new state is the one, and whoever finds the
//! directory next carries on where the process ended. What was there goes into a
//! directory of its own; then [`LEAVING`] becomes [`ENTERING`], and what is in it moves
//! in, the identity record last.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use chancery_raft_store::identity_record::IdentityRecord;
use chancery_raft_store::model::PastEpoch;

use super::BackupError;

/// The store below a data directory.
pub(super) const STORE: &str = "store";
/// The snapshots.
pub(super) const SNAPSHOTS: &str = "snapshots";
/// Held by whoever uses the directory.
const LOCK: &str = "lock";
/// A state that is being made.
const STAGED: &str = "epoch.part";
/// The new state while what was there before moves out.
const LEAVING: &str = "epoch.new";
/// The new state while it moves in.
const ENTERING: &str = "epoch.in";
/// How the names begin of what `cluster rejoin` put aside.
const SET_ASIDE: &str = "set-aside";
/// How the names begin under which earlier states are kept; in a new state, the file
/// that says under which name the one before it is.
const ASIDE: &str = "before-";

/// A data directory that no other process uses.
pub(super) struct Place {
    dir: PathBuf,
    _lock: File,
}

/// A state in the making; removed with its handle unless it was exchanged.
pub(super) struct Staged {
    path: PathBuf,
}

impl Staged {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the exchange it is gone under this name; what cannot be removed now is
        // removed by the next one who stages.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Marks a point at which tests end the process: before each change and after the last.
#[cfg(feature = "faults")]
pub(super) fn step() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static STEPS: AtomicU32 = AtomicU32::new(0);
    let wanted = std::env::var("CHANCERY_FAULT_ABORT_AT_STEP").ok();
    let wanted: Option<u32> = wanted.and_then(|v| v.parse().ok());
    if wanted == Some(STEPS.fetch_add(1, Ordering::Relaxed) + 1) {
        std::process::abort();
    }
}

#[cfg(not(feature = "faults"))]
pub(super) fn step() {}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Step {
        action,
        path,
        source,
    }
}

fn sync(dir: &Path) -> Result<(), BackupError> {
    step();
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("cannot sync", dir))
}

fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    step();
    fs::rename(from, to).map_err(failed("cannot rename", from))
}

fn make(dir: &Path) -> Result<(), BackupError> {
    step();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("cannot make", dir))
}

/// Names of the items of a directory, sorted.
fn names(dir: &Path) -> Result<Vec<String>, BackupError> {
    let listed = fs::read_dir(dir).and_then(|items| {
        items
            .map(|item| Ok(item?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut names = listed.map_err(failed("cannot list", dir))?;
    names.sort();
    Ok(names)
}

/// What is neither the lock, nor ours, nor put aside.
fn items(dir: &Path) -> Result<Vec<String>, BackupError> {
    let mut names = names(dir)?;
    names.retain(|name| {
        ![LOCK, STAGED, LEAVING, ENTERING].contains(&name.as_str())
            && !name.starts_with(ASIDE)
            && !name.starts_with(SET_ASIDE)
    });
    Ok(names)
}

impl Place {
    /// Takes a data directory, making it if need be.
    pub(super) fn own(dir: &Path) -> Result<Self, BackupError> {
        let lock = crate::app::own_data_dir(dir).map_err(BackupError::Place)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// Names of what a node keeps here.
    pub(super) fn items(&self) -> Result<Vec<String>, BackupError> {
        items(&self.dir)
    }

    /// An empty directory for a new state.
    pub(super) fn stage(&self) -> Result<Staged, BackupError> {
        let path = self.dir.join(STAGED);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(failed("cannot remove", &path))?;
        }
        make(&path)?;
        Ok(Staged { path })
    }

    /// Puts a complete new state in the place of the present one; where that is now.
    pub(super) fn exchange(
        &self,
        staged: Staged,
        past: &PastEpoch,
    ) -> Result<Option<PathBuf>, BackupError> {
        let name = format!("{ASIDE}{}-{}", past.ended_at_ms, past.cluster_id);
        let aside = self.dir.join(&name);
        fs::write(staged.path.join(ASIDE), name).map_err(failed("cannot write", &staged.path))?;
        for name in names(&staged.path)? {
            let item = staged.path.join(name);
            step();
            File::open(&item)
                .and_then(|item| item.sync_all())
                .map_err(failed("cannot sync", &item))?;
        }
        sync(&staged.path)?;
        rename(&staged.path, &self.dir.join(LEAVING))?;
        sync(&self.dir)?;
        settle(&self.dir)?;
        Ok(aside.exists().then_some(aside))
    }
}

/// Finishes an exchange that a process began and did not end. Whoever calls holds the
/// directory's lock.
///
/// # Errors
/// [`BackupError::Step`]; the next call carries on.
pub fn settle(dir: &Path) -> Result<(), BackupError> {
    let (leaving, entering) = (dir.join(LEAVING), dir.join(ENTERING));
    if leaving.exists() {
        let old = items(dir)?;
        if !old.is_empty() {
            let note = leaving.join(ASIDE);
            let name = fs::read_to_string(&note).map_err(failed("cannot read", &note))?;
            let aside = dir.join(name);
            make(&aside)?;
            for name in old {
                rename(&dir.join(&name), &aside.join(&name))?;
            }
            sync(&aside)?;
        }
        rename(&leaving, &entering)?;
        sync(dir)?;
    }
    if !entering.exists() {
        return Ok(());
    }
    let identity = IdentityRecord::path(&entering);
    for name in names(&entering)? {
        let item = entering.join(&name);
        if name != ASIDE && item != identity {
            rename(&item, &dir.join(&name))?;
        }
    }
    sync(dir)?;
    if identity.exists() {
        rename(&identity, &IdentityRecord::path(dir))?;
        sync(dir)?;
    }
    step();
    fs::remove_dir_all(&entering).map_err(failed("cannot remove", &entering))?;
    sync(dir)
}
