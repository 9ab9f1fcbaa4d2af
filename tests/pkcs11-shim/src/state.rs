//! What all processes in front of one token share: when the token is free again, wrong PINs, and
//! how often which function was called. A small file, changed under its lock.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

use crate::calls::Call;

/// Calls so far, by function.
pub type Counts = BTreeMap<Call, u64>;

const WORD: usize = 8;
/// Moment on the monotonic clock at which the token has done what it was asked for, nanoseconds.
const FREE_AT: usize = 0;
const WRONG_PINS: usize = 1;
/// The first of the counts.
const COUNTS: usize = 2;

#[derive(Debug)]
pub(crate) struct State {
    /// The lock of a file is the process's; this one is its threads'.
    file: Mutex<File>,
}

impl State {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self {
            file: Mutex::new(file),
        })
    }

    fn locked<T>(&self, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        flock(&*file, FlockOperation::LockExclusive)?;
        let outcome = work(&file);
        flock(&*file, FlockOperation::Unlock)?;
        outcome
    }

    pub(crate) fn counts(&self) -> io::Result<Counts> {
        self.locked(|file| {
            let all = Call::ALL.iter().enumerate();
            all.map(|(n, call)| Ok((*call, read(file, COUNTS + n)?)))
                .collect()
        })
    }

    pub(crate) fn count(&self, call: Call) -> io::Result<()> {
        self.locked(|file| add_one(file, call))
    }

    /// Counts a signature, and says how long the token, which makes `rate` of them a second,
    /// is busy until it is made.
    pub(crate) fn sign(&self, rate: u32) -> io::Result<Duration> {
        self.locked(|file| {
            add_one(file, Call::Sign)?;
            if rate == 0 {
                return Ok(Duration::ZERO);
            }
            let now = monotonic_ns();
            let free_at = read(file, FREE_AT)?.max(now) + 1_000_000_000 / u64::from(rate);
            write(file, FREE_AT, free_at)?;
            Ok(Duration::from_nanos(free_at - now))
        })
    }

    pub(crate) fn wrong_pins(&self) -> io::Result<u64> {
        self.locked(|file| read(file, WRONG_PINS))
    }

    pub(crate) fn pin_was(&self, right: bool) -> io::Result<()> {
        self.locked(|file| {
            let before = read(file, WRONG_PINS)?;
            write(file, WRONG_PINS, if right { 0 } else { before + 1 })
        })
    }
}

fn add_one(file: &File, call: Call) -> io::Result<()> {
    let at = COUNTS + call as usize;
    write(file, at, read(file, at)? + 1)
}

/// A word that was never written is zero.
fn read(file: &File, word: usize) -> io::Result<u64> {
    let mut bytes = [0; WORD];
    match file.read_exact_at(&mut bytes, (word * WORD) as u64) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read.map(|()| u64::from_le_bytes(bytes)),
    }
}

fn write(file: &File, word: usize, value: u64) -> io::Result<()> {
    file.write_all_at(&value.to_le_bytes(), (word * WORD) as u64)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let ns = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    u64::try_from(ns).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (tempfile::TempDir, State, State) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let open = || State::open(&path).expect("opens");
        let (one, other) = (open(), open());
        (directory, one, other)
    }

    #[test]
    fn all_who_sign_share_one_rate() {
        let (_directory, one, other) = two();
        let mut busy = Duration::ZERO;
        for _ in 0..50 {
            one.sign(100).expect("signs");
            busy = other.sign(100).expect("signs");
        }
        // 100 signatures at 100 a second, less what passed meanwhile.
        assert!(busy > Duration::from_millis(500), "{busy:?}");
        assert!(busy <= Duration::from_secs(1), "{busy:?}");
        assert_eq!(one.counts().expect("counts")[&Call::Sign], 100);
    }

    #[test]
    fn wrong_pins_are_the_tokens() {
        let (_directory, one, other) = two();
        one.pin_was(false).expect("notes");
        other.pin_was(false).expect("notes");
        assert_eq!(one.wrong_pins().expect("reads"), 2);
        other.pin_was(true).expect("notes");
        assert_eq!(one.wrong_pins().expect("reads"), 0);
    }
}
