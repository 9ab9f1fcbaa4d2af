//! The file that remembers which PINs were tried: beside the PIN file, or in another directory
//! where that one cannot be written.
//!
//! Promises: that a PIN is about to be tried is on the disk before it is, so a crash in the middle
//! counts as a try; what was tried is kept as a salted hash that costs time to guess from, compared
//! in constant time; a file that cannot be read or understood stands for a try, never for none.
//! While an attempt is under way its process holds the file's lock, so what a dead process left is
//! told from what a living one does. A PIN that was taken leaves nothing behind.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::environment;
use crate::error::SignerError;

/// First line of every record that is not empty.
const HEAD: &str = "chancery-tried-pins 1";
/// What is added to the name of the PIN file.
const SUFFIX: &str = ".tried";
/// Tokens that one PIN file was tried on at most.
const TOKENS_MAX: usize = 16;
/// Larger than any record.
const FILE_BYTES_MAX: usize = 8 << 10;
const SERIAL_BYTES_MAX: usize = 64;
const SAID_BYTES_MAX: usize = 64;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// Cost of a guess: 19 MiB gone through twice, the least that OWASP's cheat sheet on storing
/// passwords has for Argon2id. Part of the format.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
/// How long to wait for another process of this machine that tries a PIN of the same file.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Why a record cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinRecordProblem {
    /// The system refused something.
    #[error("cannot be {what}: {kind}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        kind: io::ErrorKind,
    },
    /// It is not what this program writes.
    #[error("is damaged, which counts as a try")]
    Damaged,
    /// It names as many tokens as it may.
    #[error("names {TOKENS_MAX} tokens already; remove it once no PIN is in doubt")]
    Full,
    /// Another process of this machine holds it.
    #[error("is held by another process, which tries a PIN")]
    Held,
}

/// A PIN that was tried on a token and not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Serial number of the token.
    pub serial: String,
    salt: [u8; SALT_BYTES],
    hash: [u8; HASH_BYTES],
    /// What the token answered; nothing where the attempt was cut off.
    pub said: Option<String>,
}

impl Tried {
    fn new(serial: &str, pin: &[u8]) -> Result<Self, SignerError> {
        let salt = environment::random()?;
        Ok(Self {
            serial: serial.to_owned(),
            salt,
            hash: hash(pin, &salt)?,
            said: None,
        })
    }

    /// Whether this very PIN was tried. Costs as much as a guess.
    pub(super) fn is_of(&self, pin: &[u8]) -> Result<bool, SignerError> {
        Ok(verify_slices_are_equal(&hash(pin, &self.salt)?, &self.hash).is_ok())
    }
}

fn hash(pin: &[u8], salt: &[u8]) -> Result<[u8; HASH_BYTES], SignerError> {
    let failed = |_| SignerError::Crypto {
        operation: "hashing the PIN",
    };
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(HASH_BYTES)).map_err(failed)?;
    let mut memory = Zeroizing::new(vec![Block::default(); params.block_count()]);
    let mut hash = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(pin, salt, &mut hash, &mut memory[..])
        .map_err(failed)?;
    Ok(hash)
}

/// Where the record of a PIN file may be, the better place first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pin_file: PathBuf,
    fallback: Option<PathBuf>,
}

impl Places {
    pub(super) fn new(pin_file: &Path, fallback: Option<&Path>) -> Self {
        Self {
            pin_file: pin_file.to_owned(),
            fallback: fallback.map(Path::to_owned),
        }
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let mut name = self.pin_file.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        let beside = self.pin_file.with_file_name(&name);
        let fallback = self.fallback.as_ref().map(|dir| dir.join(name));
        [Some(beside), fallback].into_iter().flatten()
    }

    /// Opens the record, made empty where it can be written if it is not there, and keeps other
    /// processes out of it. Where two were made, as one process could write where another could
    /// not, what either says counts.
    pub(super) fn lock(&self) -> Result<Record, SignerError> {
        let mut found = Vec::new();
        for path in self.paths() {
            match existing(&path) {
                Ok(Some(file)) => found.push(Record::lock(path, file)?),
                Ok(None) => {}
                // One that is there and cannot be opened stands for a try, never for none.
                Err(error) => {
                    let kind = error.kind();
                    let what = "opened";
                    return Err(unusable(&path, PinRecordProblem::Io { what, kind }));
                }
            }
        }
        let mut found = found.into_iter();
        match found.next() {
            Some(first) => Ok(Record {
                others: found.collect(),
                ..first
            }),
            None => self.make(),
        }
    }

    /// Makes an empty record in the first place that gives room.
    fn make(&self) -> Result<Record, SignerError> {
        let mut refused = None;
        for path in self.paths() {
            match self.create(&path) {
                Ok(file) => return Record::lock(path, file),
                Err(error) => {
                    let problem = PinRecordProblem::Io {
                        what: "written",
                        kind: error.kind(),
                    };
                    refused = Some(unusable(&path, problem));
                    // Only a place that gives no room is left for the next one.
                    let elsewhere = matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    );
                    if !elsewhere {
                        break;
                    }
                }
            }
        }
        Err(refused.unwrap_or_else(|| unusable(&self.pin_file, PinRecordProblem::Damaged)))
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        // Never one that somebody else made meanwhile: it would change hands below.
        let file = match options().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return options().open(path);
            }
            made => made?,
        };
        if rustix::process::geteuid().is_root() {
            // Made by an operator's command, it must serve the server that owns the PIN.
            let pin = std::fs::metadata(&self.pin_file)?;
            std::os::unix::fs::fchown(&file, Some(pin.uid()), Some(pin.gid()))?;
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(file)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    options
}

/// A record that is there already.
fn existing(path: &Path) -> io::Result<Option<File>> {
    match options().open(path) {
        Ok(file) => Ok(Some(file)),
        // In a folder that cannot be looked into nothing is known to be there.
        Err(_) if path.symlink_metadata().is_err() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A record, locked.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    file: File,
    /// What it says; nothing where that cannot be understood.
    tried: Option<Vec<Tried>>,
    /// Records of the same PIN in other places.
    others: Vec<Record>,
}

impl Record {
    fn lock(path: PathBuf, file: File) -> Result<Self, SignerError> {
        let failed = |what| {
            let path = path.clone();
            move |error: io::Error| {
                let kind = error.kind();
                unusable(&path, PinRecordProblem::Io { what, kind })
            }
        };
        let waits_until = environment::now() + LOCK_WAIT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if environment::now() < waits_until => {
                    thread::sleep(LOCK_LOOK);
                }
                Err(Errno::WOULDBLOCK) => return Err(unusable(&path, PinRecordProblem::Held)),
                Err(error) => return Err(failed("locked")(error.into())),
            }
        }
        let metadata = file.metadata().map_err(failed("read"))?;
        let whole = metadata.is_file() && metadata.len() <= FILE_BYTES_MAX as u64;
        if whole && metadata.permissions().mode() & 0o077 != 0 {
            file.set_permissions(PermissionsExt::from_mode(0o600))
                .map_err(failed("protected"))?;
        }
        let mut tried = None;
        if whole {
            let bytes = usize::try_from(metadata.len()).unwrap_or(FILE_BYTES_MAX);
            let mut content = vec![0; bytes];
            file.read_exact_at(&mut content, 0)
                .map_err(failed("read"))?;
            tried = parse(&content);
        }
        let others = Vec::new();
        Ok(Self {
            path,
            file,
            tried,
            others,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was tried on a token and not taken.
    ///
    /// # Errors
    /// The record cannot be understood.
    pub(super) fn of(&self, serial: &str) -> Result<Option<&Tried>, SignerError> {
        let Some(tried) = &self.tried else {
            return Err(unusable(&self.path, PinRecordProblem::Damaged));
        };
        if let Some(tried) = tried.iter().find(|tried| tried.serial == serial) {
            return Ok(Some(tried));
        }
        for other in &self.others {
            if let Some(tried) = other.of(serial)? {
                return Ok(Some(tried));
            }
        }
        Ok(None)
    }

    /// Notes that a PIN is about to be tried, in the place of what was known of the token. It is on
    /// the disk when this returns.
    pub(super) fn begin(&mut self, serial: &str, pin: &[u8]) -> Result<(), SignerError> {
        let next = Tried::new(serial, pin)?;
        let tried = self.tried.get_or_insert_default();
        tried.retain(|tried| tried.serial != serial);
        if tried.len() >= TOKENS_MAX {
            return Err(unusable(&self.path, PinRecordProblem::Full));
        }
        tried.push(next);
        self.write()
    }

    /// Puts back what was known of a token before [`Record::begin`].
    pub(super) fn restore(
        &mut self,
        serial: &str,
        before: Option<Tried>,
    ) -> Result<(), SignerError> {
        if before.is_none() {
            for other in &mut self.others {
                other.restore(serial, None)?;
            }
        }
        let tried = self.tried.get_or_insert_default();
        tried.retain(|tried| tried.serial != serial);
        tried.extend(before);
        self.write()
    }

    /// Notes what the token answered.
    pub(super) fn refused(&mut self, serial: &str, said: &str) -> Result<(), SignerError> {
        let tried = self.tried.get_or_insert_default();
        if let Some(tried) = tried.iter_mut().find(|tried| tried.serial == serial) {
            let said = said.chars().filter(|c| matches!(c, ' '..='~'));
            tried.said = Some(said.take(SAID_BYTES_MAX).collect());
        }
        self.write()
    }

    fn write(&self) -> Result<(), SignerError> {
        let content = encode(self.tried.as_deref().unwrap_or_default());
        let written = self
            .file
            .write_all_at(content.as_bytes(), 0)
            .and_then(|()| self.file.set_len(content.len() as u64))
            .and_then(|()| self.file.sync_all());
        written.map_err(|error| {
            let kind = error.kind();
            let what = "written";
            unusable(&self.path, PinRecordProblem::Io { what, kind })
        })
    }
}

fn unusable(path: &Path, problem: PinRecordProblem) -> SignerError {
    SignerError::PinRecord {
        path: path.to_owned(),
        problem,
    }
}

fn encode(tried: &[Tried]) -> String {
    let mut text = String::new();
    if tried.is_empty() {
        return text;
    }
    text.push_str(HEAD);
    text.push('\n');
    for tried in tried {
        let serial = hex::encode(&tried.serial);
        let (salt, hash) = (hex::encode(tried.salt), hex::encode(tried.hash));
        let said = tried.said.as_deref().unwrap_or_default();
        // Writing to a string does not fail.
        let _ = match tried.said {
            Some(_) => writeln!(text, "{serial} {salt} {hash} refused {said}"),
            None => writeln!(text, "{serial} {salt} {hash} begun"),
        };
    }
    text
}

/// What a record says; nothing where it is not one that this program wrote whole.
#[must_use]
pub fn parse(content: &[u8]) -> Option<Vec<Tried>> {
    if content.is_empty() {
        return Some(Vec::new());
    }
    let text = std::str::from_utf8(content).ok()?;
    let lines = text.strip_suffix('\n')?.strip_prefix(HEAD)?;
    let mut tried: Vec<Tried> = Vec::new();
    for line in lines.strip_prefix('\n')?.split('\n') {
        let mut fields = line.splitn(5, ' ');
        let serial = hex::decode(fields.next()?).ok()?;
        let mut one = Tried {
            serial: String::from_utf8(serial).ok()?,
            salt: [0; SALT_BYTES],
            hash: [0; HASH_BYTES],
            said: None,
        };
        hex::decode_to_slice(fields.next()?, &mut one.salt).ok()?;
        hex::decode_to_slice(fields.next()?, &mut one.hash).ok()?;
        one.said = match (fields.next()?, fields.next()) {
            ("begun", None) => None,
            ("refused", Some(said)) => Some(said.to_owned()),
            _ => return None,
        };
        let said = one.said.as_deref().unwrap_or_default();
        let fits = one.serial.len() <= SERIAL_BYTES_MAX && said.len() <= SAID_BYTES_MAX;
        let printable = said.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let twice = tried.iter().any(|tried| tried.serial == one.serial);
        if !fits || !printable || twice || tried.len() >= TOKENS_MAX {
            return None;
        }
        tried.push(one);
    }
    // One text for one record: what reads back is what was written.
    (encode(&tried) == text).then_some(tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &[u8] = b"canary-4711";

    fn places() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().expect("a directory");
        let pin = dir.path().join("pin");
        std::fs::write(&pin, PIN).expect("writes");
        (dir, Places::new(&pin, None))
    }

    fn lock(places: &Places) -> Record {
        places.lock().expect("locks")
    }

    #[test]
    fn what_is_begun_is_known_to_whoever_comes_after() {
        let (dir, places) = places();
        let mut record = lock(&places);
        assert_eq!(record.of("1"), Ok(None));
        record.begin("1", PIN).expect("writes");
        let path = dir.path().join("pin.tried");
        let mode = std::fs::metadata(&path).expect("is there").mode();
        assert_eq!(mode & 0o7777, 0o600);
        let content = std::fs::read(&path).expect("reads");
        assert!(!content.windows(4).any(|part| part == b"4711"));
        // As after a crash: nothing else was written.
        drop(record);
        let mut record = lock(&places);
        let tried = record.of("1").expect("whole").expect("known").clone();
        assert_eq!(tried.said, None);
        assert_eq!(tried.is_of(PIN), Ok(true));
        assert_eq!(tried.is_of(b"canary-4712"), Ok(false));
        assert_eq!(record.of("2"), Ok(None), "another token");

        record.refused("1", "CKR_PIN_INCORRECT").expect("writes");
        drop(record);
        let mut record = lock(&places);
        let tried = record.of("1").expect("whole").expect("known").clone();
        assert_eq!(tried.said.as_deref(), Some("CKR_PIN_INCORRECT"));
        record.restore("1", None).expect("writes");
        assert_eq!(std::fs::read(&path).expect("reads"), b"");
    }

    #[test]
    fn a_try_counts_wherever_it_was_recorded() {
        let (dir, beside) = places();
        let folder = tempfile::tempdir().expect("a directory");
        // As by a server that cannot write beside the PIN.
        let there = folder.path().join("pin");
        std::fs::write(&there, PIN).expect("writes");
        let elsewhere = Places::new(&there, None);
        lock(&elsewhere).begin("1", PIN).expect("writes");
        // As by root, who can.
        drop(lock(&beside));
        let both = Places::new(&dir.path().join("pin"), Some(folder.path()));
        let mut record = lock(&both);
        assert!(record.of("1").expect("whole").is_some());
        assert_eq!(record.of("2"), Ok(None));
        record.restore("1", None).expect("writes");
        drop(record);
        for place in [&beside, &elsewhere, &both] {
            assert_eq!(lock(place).of("1"), Ok(None), "taken, and known nowhere");
        }
    }

    #[test]
    fn a_record_that_cannot_be_opened_stands_for_a_try() {
        let (dir, _) = places();
        let folder = tempfile::tempdir().expect("a directory");
        let both = Places::new(&dir.path().join("pin"), Some(folder.path()));
        let target = dir.path().join("target");
        std::fs::write(&target, b"").expect("writes");
        // A link is not followed, and nothing is made elsewhere in its stead.
        std::os::unix::fs::symlink(&target, dir.path().join("pin.tried")).expect("a link");
        let refused = both.lock().expect_err("not opened");
        assert!(
            matches!(refused, SignerError::PinRecord { .. }),
            "{refused}"
        );
        assert!(!folder.path().join("pin.tried").exists());
    }

    #[test]
    fn one_pin_has_another_hash_each_time() {
        let [one, other] = [(); 2].map(|()| Tried::new("1", PIN).expect("hashes"));
        assert_ne!(one.hash, other.hash);
    }

    #[test]
    fn a_damaged_record_stands_for_a_try() {
        let (dir, places) = places();
        lock(&places).begin("1", PIN).expect("writes");
        let path = dir.path().join("pin.tried");
        let whole = std::fs::read(&path).expect("reads");
        let cut = |bytes: usize| whole[..bytes].to_vec();
        let twice = [&whole[..], &whole[HEAD.len() + 1..]].concat();
        for damaged in [
            cut(1),
            cut(whole.len() - 1),
            twice,
            vec![0; FILE_BYTES_MAX + 1],
        ] {
            std::fs::write(&path, damaged).expect("writes");
            let error = lock(&places).of("1").expect_err("damaged");
            assert!(error.to_string().contains("counts as a try"), "{error}");
        }
    }

    #[test]
    fn it_is_kept_elsewhere_where_the_pin_cannot_have_a_neighbour() {
        let (dir, _) = places();
        let (locked, data) = (dir.path().join("locked"), dir.path().join("data"));
        for directory in [&locked, &data] {
            std::fs::create_dir(directory).expect("makes");
        }
        let pin = locked.join("pin");
        std::fs::write(&pin, PIN).expect("writes");
        // A name that nobody can write, root neither.
        std::fs::create_dir(locked.join("pin.tried")).expect("makes");
        let places = Places::new(&pin, Some(&data));
        let error = places
            .lock()
            .expect_err("a directory is no place that is read-only");
        assert!(error.to_string().contains("pin.tried"), "{error}");
        if rustix::process::geteuid().is_root() {
            return;
        }
        std::fs::remove_dir(locked.join("pin.tried")).expect("removes");
        std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o500)).expect("locks");
        assert_eq!(lock(&places).path(), data.join("pin.tried"));
    }

    #[test]
    fn who_tries_keeps_others_out() {
        let (_dir, places) = places();
        let held = lock(&places);
        let error = places.lock().expect_err("held");
        assert!(
            error.to_string().contains("held by another process"),
            "{error}"
        );
        drop(held);
        drop(lock(&places));
    }
}
