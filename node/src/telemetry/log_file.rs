//! The log in a file that is rotated by renaming it: opened anew under its name when told.
//!
//! Lines stay whole and none is lost: what is written while the file is opened anew goes to the old
//! one or to the new one.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Mode of a file that is made; SPIRE's.
const MODE: u32 = 0o640;

/// A file of log lines.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    /// Opens `path` for lines after those it has, or makes it with mode 0640.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(append_to(path)?),
        })
    }

    /// Opens the path again: whoever renamed the file has it for himself from now on.
    ///
    /// # Errors
    /// Those of opening it; then lines still go where they went.
    pub fn reopen(&self) -> io::Result<()> {
        let file = append_to(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A whole line comes as one buffer and is written under one lock.
impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_go_behind_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        (&LogFile::open(&path).unwrap())
            .write_all(b"one\n")
            .unwrap();
        let file = LogFile::open(&path).unwrap();
        (&file).write_all(b"two\n").unwrap();
        assert_eq!(read(&path), "one\ntwo\n");
        assert_eq!(file.path(), path);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn a_renamed_file_keeps_its_lines_and_a_new_one_gets_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("log"), dir.path().join("log.1"));
        let file = LogFile::open(&path).unwrap();
        (&file).write_all(b"one\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        (&file).write_all(b"two\n").unwrap();
        file.reopen().unwrap();
        (&file).write_all(b"three\n").unwrap();
        assert_eq!(
            (read(&rotated).as_str(), read(&path).as_str()),
            ("one\ntwo\n", "three\n")
        );
    }

    #[test]
    fn a_path_that_cannot_be_opened_again_leaves_the_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("log"), dir.path().join("log.1"));
        let file = LogFile::open(&path).unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(file.reopen().is_err());
        (&file).write_all(b"still here\n").unwrap();
        assert_eq!(read(&rotated), "still here\n");
        assert!(LogFile::open(&path).is_err());
    }
}
