//! A file that keeps room back for the start after the disk ran full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Where a file system reserves nothing ahead, this much is written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// The reserve file of a data directory.
#[derive(Clone, Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// The file below `data_dir`, of `bytes`.
    pub fn new(data_dir: &Path, bytes: u64) -> Self {
        Self {
            path: data_dir.join("reserve"),
            bytes,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there, in its whole size; a reserve of nothing always is.
    pub fn is_held(&self) -> bool {
        self.bytes == 0 || fs::metadata(&self.path).is_ok_and(|m| m.len() == self.bytes)
    }

    /// Makes it, in the place of one of another size.
    ///
    /// # Errors
    /// What the file system says; nothing is left then.
    pub fn make(&self) -> io::Result<()> {
        self.release()?;
        if self.bytes == 0 {
            return Ok(());
        }
        let made = self.fill();
        if made.is_err() {
            // The first error is the one that counts.
            let _ = self.release();
        }
        made
    }

    fn fill(&self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_out(&mut file)?,
            Err(error) => return Err(error.into()),
        }
        file.sync_all()
    }

    fn write_out(&self, file: &mut File) -> io::Result<()> {
        let zeros = vec![0; WRITE_BYTES];
        let mut left = self.bytes;
        while left > 0 {
            let now = zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.write_all(&zeros[..now])?;
            left -= now as u64;
        }
        Ok(())
    }

    /// Removes it; whether it was there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn release(&self) -> io::Result<bool> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Bytes that this process may still write below `path`.
///
/// # Errors
/// What the file system says.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let of = statvfs(path)?;
    Ok(of.f_bavail.saturating_mul(of.f_frsize))
}

/// Before the store is opened, which may need as much room as its write-ahead log:
/// frees the reserve where there is less.
///
/// # Errors
/// What the file system says.
pub fn make_room(data_dir: &Path, reserve_bytes: u64) -> io::Result<()> {
    let reserve = Reserve::new(data_dir, reserve_bytes);
    let free = free_bytes(data_dir)?;
    if free < reserve_bytes && reserve.release()? {
        tracing::error!(
            free_mib = free >> 20,
            reserve = %reserve.path().display(),
            "the disk is full: the reserve file was removed so that the store can be opened; writes are refused until \
             space is freed, then it is made again"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_reserve_takes_its_room_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path(), 3 << 20);
        assert!(!reserve.is_held());
        reserve.make().unwrap();
        assert!(reserve.is_held());
        let blocks = fs::metadata(reserve.path()).unwrap().blocks();
        assert!(blocks * 512 >= 3 << 20, "the room is taken");
        let larger = Reserve::new(dir.path(), 5 << 20);
        assert!(!larger.is_held(), "another size was configured");
        larger.make().unwrap();
        assert!(larger.is_held());
        assert!(larger.release().unwrap());
        assert!(!larger.release().unwrap());
        assert!(Reserve::new(dir.path(), 0).is_held());
    }

    #[test]
    fn room_that_is_there_leaves_the_reserve_alone() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path(), 1 << 20);
        reserve.make().unwrap();
        make_room(dir.path(), 1 << 20).unwrap();
        assert!(reserve.is_held());
        // More than any disk has.
        make_room(dir.path(), u64::MAX).unwrap();
        assert!(!reserve.is_held());
    }
}
