//! The directory of the keys: whose it is, what may be in it, and how a file changes in it.
//!
//! Promises: while it is open no other process uses it; a file is there whole or not at all, and
//! what was written or removed is so after a power loss; what does not belong there is refused by
//! name, never passed over. Refuses to know what is in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::format::FILE_BYTES_MAX;
use super::problem::{KeyDirectoryProblem, KeyFileProblem};
use crate::error::SignerError;
use crate::signer::KeyId;
use crate::software::KEYS_MAX;

const LOCK: &str = "lock";
const KEY_SUFFIX: &str = ".key";
/// What a file is called until it is whole.
const PART_SUFFIX: &str = ".part";

/// A directory of keys, locked.
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    _lock: File,
}

fn refuse(path: &Path, problem: KeyFileProblem) -> SignerError {
    SignerError::KeyFile {
        path: path.to_owned(),
        problem,
    }
}

/// Why a call on a file failed.
fn file_failed<'a>(path: &'a Path, what: &'static str) -> impl Fn(io::Error) -> SignerError + 'a {
    move |error| {
        let kind = error.kind();
        refuse(path, KeyFileProblem::Io { what, kind })
    }
}

fn directory_failed<'a>(
    path: &'a Path,
    what: &'static str,
) -> impl Fn(io::Error) -> SignerError + 'a {
    move |error| {
        let kind = error.kind();
        unusable(path, KeyDirectoryProblem::Io { what, kind })
    }
}

fn unusable(path: &Path, problem: KeyDirectoryProblem) -> SignerError {
    SignerError::KeyDirectory {
        path: path.to_owned(),
        problem,
    }
}

/// What a name in the directory stands for.
enum Name {
    Lock,
    Key(KeyId),
    Part,
    Foreign,
}

impl Name {
    fn of(name: Option<&str>) -> Self {
        let id = |suffix| name.and_then(|n| n.strip_suffix(suffix)).and_then(key_id);
        match name {
            Some(LOCK) => Self::Lock,
            _ if id(PART_SUFFIX).is_some() => Self::Part,
            _ => id(KEY_SUFFIX).map_or(Self::Foreign, Self::Key),
        }
    }
}

/// An id as we write it; one key has one name.
fn key_id(text: &str) -> Option<KeyId> {
    let mut bytes = [0; KeyId::BYTES];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    let id = KeyId::new(bytes);
    (id.to_string() == text).then_some(id)
}

impl Directory {
    /// Makes it if only it is missing, checks whose it is, and keeps other processes out.
    pub(super) fn open(path: &Path) -> Result<Self, SignerError> {
        let failed = |what| directory_failed(path, what);
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                File::open(parent)
                    .and_then(|parent| parent.sync_all())
                    .map_err(failed("made"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("made")(error)),
        }
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(failed("opened"))?;
        // Asked of what is open: what is checked is what is used.
        let metadata = handle.metadata().map_err(failed("opened"))?;
        let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_dir() {
            return Err(unusable(path, KeyDirectoryProblem::NotADirectory));
        } else if owner != user {
            return Err(unusable(path, KeyDirectoryProblem::Owner { owner, user }));
        } else if mode & 0o077 != 0 {
            return Err(unusable(path, KeyDirectoryProblem::Mode(mode)));
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path.join(LOCK))
            .map_err(failed("locked"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(unusable(path, KeyDirectoryProblem::InUse)),
            Err(error) => return Err(failed("locked")(error.into())),
        }
        Ok(Self {
            path: path.to_owned(),
            handle,
            _lock: lock,
        })
    }

    pub(super) fn path_of(&self, id: KeyId) -> PathBuf {
        self.path.join(format!("{id}{KEY_SUFFIX}"))
    }

    fn part_of(&self, id: KeyId) -> PathBuf {
        self.path.join(format!("{id}{PART_SUFFIX}"))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    /// The keys there are, in order. Removes what a crash left unfinished.
    pub(super) fn keys(&self) -> Result<Vec<KeyId>, SignerError> {
        let failed = directory_failed(&self.path, "read");
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(&failed)? {
            found.push(entry.map_err(&failed)?.path());
        }
        found.sort();
        let (mut keys, mut parts) = (Vec::new(), false);
        for path in found {
            let name = path.file_name().and_then(|name| name.to_str());
            match Name::of(name) {
                Name::Lock => {}
                Name::Key(id) => keys.push(id),
                Name::Part => {
                    fs::remove_file(&path).map_err(file_failed(&path, "removed"))?;
                    parts = true;
                }
                Name::Foreign => return Err(refuse(&path, KeyFileProblem::Foreign)),
            }
        }
        if parts {
            self.sync()
                .map_err(directory_failed(&self.path, "synced"))?;
        }
        if keys.len() > KEYS_MAX {
            return Err(SignerError::TooManyKeys { limit: KEYS_MAX });
        }
        Ok(keys)
    }

    /// What is in the file of a key.
    pub(super) fn read(&self, id: KeyId) -> Result<Zeroizing<Vec<u8>>, SignerError> {
        let path = self.path_of(id);
        let refuse = |problem| Err(refuse(&path, problem));
        let failed = file_failed(&path, "read");
        // Not blocking, so that a pipe put in its place cannot hold the thread.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let mut file = match opened {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return refuse(KeyFileProblem::Symlink);
            }
            opened => opened.map_err(&failed)?,
        };
        let metadata = file.metadata().map_err(&failed)?;
        let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_file() {
            return refuse(KeyFileProblem::NotRegular);
        } else if owner != user {
            return refuse(KeyFileProblem::Owner { owner, user });
        } else if mode & 0o077 != 0 {
            return refuse(KeyFileProblem::Mode(mode));
        }
        // One buffer that never grows: growing would leave copies behind.
        let mut bytes = Zeroizing::new(vec![0; FILE_BYTES_MAX + 1]);
        let mut length = 0;
        while length < bytes.len() {
            match file.read(&mut bytes[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Writes the file of a new key. Where that fails no key is left.
    pub(super) fn write_new(&self, id: KeyId, bytes: &[u8]) -> Result<(), SignerError> {
        let path = self.path_of(id);
        // Renaming would replace it, and it may be somebody's only copy.
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_failed(&path, "written")(error)),
            Ok(_) => return Err(refuse(&path, KeyFileProblem::Appeared)),
        }
        self.replace(id, bytes).inspect_err(|_| {
            // Renamed but perhaps not synced: the caller is told that there is no key.
            let _ = fs::remove_file(&path);
        })
    }

    /// Writes the file of a key in place of the one that is there.
    pub(super) fn replace(&self, id: KeyId, bytes: &[u8]) -> Result<(), SignerError> {
        let (path, part) = (self.path_of(id), self.part_of(id));
        let written = self.write_part(&part, bytes).and_then(|()| {
            fs::rename(&part, &path)?;
            self.sync()
        });
        written.map_err(|error| {
            // It may be there or not; the next start removes it as well.
            let _ = fs::remove_file(&part);
            file_failed(&path, "written")(error)
        })
    }

    fn write_part(&self, part: &Path, bytes: &[u8]) -> io::Result<()> {
        match fs::remove_file(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(part)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Removes the file of a key; one that is gone already is as good, so a try that failed can be
    /// made again.
    pub(super) fn remove(&self, id: KeyId) -> Result<(), SignerError> {
        let path = self.path_of(id);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        };
        removed.map_err(file_failed(&path, "removed"))
    }
}
