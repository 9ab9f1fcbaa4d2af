//! Places at which tests stop, break or hold up a persisted step.
//!
//! Without the feature `faults` a place costs nothing. With it, once [`arm`] named a
//! directory and while that exists, a file of a place's name in it says what happens there:
//! `error` (the step fails as a disk does), `crash N` (the process ends at once when
//! it comes to the place for the Nth time), or `hold` (the step waits until the file
//! is gone). How often each place was passed stands in the file `hit.NAME` there.

/// Every place.
pub const POINTS: &[&str] = &[
    "append.before",
    "append.after",
    "vote.before",
    "vote.after",
    "truncate.before",
    "truncate.after",
    "purge.before",
    "purge.after",
    "apply.before",
    "apply.after",
    "snapshot.written",
    "snapshot.synced",
    "snapshot.renamed",
    "snapshot.kept",
    "install.cleared",
    "install.filled",
    "install.kept",
    "install.flipped",
    "install.done",
    "identity.written",
    "identity.synced",
    "identity.renamed",
    "high-water.written",
    "high-water.synced",
    "high-water.renamed",
];

#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn point(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "faults")]
pub use armed::arm;
#[cfg(feature = "faults")]
pub(crate) use armed::point;

#[cfg(feature = "faults")]
mod armed {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    static PASSED: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

    /// Takes orders from `directory` from now on, for the life of the process.
    pub fn arm(directory: &Path) {
        // The first one counts.
        let _ = DIRECTORY.set(directory.to_path_buf());
    }

    pub(crate) fn point(name: &'static str) -> io::Result<()> {
        let Some(directory) = DIRECTORY.get().filter(|d| d.is_dir()) else {
            return Ok(());
        };
        assert!(super::POINTS.contains(&name), "{name} is not listed");
        let times = {
            let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
            let times = passed.entry(name).or_default();
            *times += 1;
            *times
        };
        fs::write(directory.join(format!("hit.{name}")), times.to_string())?;
        let order = directory.join(name);
        loop {
            let said = fs::read_to_string(&order).unwrap_or_default();
            let (what, number) = said.trim().split_once(' ').unwrap_or((said.trim(), ""));
            match what {
                "crash" if number != times.to_string() => return Ok(()),
                "" => return Ok(()),
                "error" => {
                    // EIO
                    return Err(io::Error::from_raw_os_error(5));
                }
                "crash" => std::process::abort(),
                "hold" => std::thread::sleep(Duration::from_millis(5)),
                other => return Err(io::Error::other(format!("unknown order {other:?}"))),
            }
        }
    }
}
