//! Documents that left although the log could not hear of their holders: without a quorum
//! workloads get theirs nevertheless.
//!
//! While there are any, a small synced file says of which authorities and until when, so that
//! a node that ends before the log is there again tells it, if not who, then that somebody
//! holds them. It is written once for many documents and removed when the log has all.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chancery_raft_store::command::{AuthorityName, HolderNote, NoteHolders};
use prost::Message as _;
use tokio::sync::Mutex;

use super::tracker::RESERVE;

/// Name of the file in the data directory.
const FILE: &str = "unnoted-holders";

/// What is owed, by authority: the end of the last document, or later.
pub(super) struct Debts {
    path: PathBuf,
    owed: Mutex<BTreeMap<AuthorityName, i64>>,
    any: Arc<AtomicBool>,
}

impl Debts {
    /// Those that an earlier start left in the data directory, and a note for each.
    ///
    /// # Errors
    /// The file cannot be read or is damaged; what to do about it.
    pub(super) fn open(data_dir: &Path) -> Result<(Self, Vec<HolderNote>), String> {
        let path = data_dir.join(FILE);
        let notes = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map_err(|e| {
                format!(
                    "{} is damaged ({e}); remove it, and revoke no authority of today before its documents have ended",
                    path.display()
                )
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
        };
        let owed = owed(&notes);
        let debts = Self {
            path,
            any: Arc::new(AtomicBool::new(!owed.is_empty())),
            owed: Mutex::new(owed),
        };
        Ok((debts, notes))
    }

    /// Whether there are any; goes on to tell.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.any)
    }

    /// Returns when the disk says that documents of the authority may be out which end at
    /// `expires_at` at the latest.
    ///
    /// # Errors
    /// It could not be written: the document must not leave.
    pub(super) async fn owe(&self, authority: AuthorityName, expires_at: i64) -> io::Result<()> {
        let mut owed = self.owed.lock().await;
        if owed
            .get(&authority)
            .is_some_and(|until| *until >= expires_at)
        {
            return Ok(());
        }
        let mut next = owed.clone();
        next.insert(authority, expires_at.saturating_add(RESERVE));
        // Told before it is written, and so before the document leaves.
        self.any.store(true, Ordering::SeqCst);
        let (path, bytes) = (self.path.clone(), encode(&next));
        tokio::task::spawn_blocking(move || replace(&path, &bytes))
            .await
            .map_err(io::Error::other)??;
        *owed = next;
        Ok(())
    }

    /// Forgets all, if the log has heard of everything by now.
    pub(super) async fn pay(&self, paid: impl FnOnce() -> bool) -> io::Result<()> {
        let mut owed = self.owed.lock().await;
        if !self.any.load(Ordering::SeqCst) || !paid() {
            return Ok(());
        }
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => sync_parent(&path),
        })
        .await
        .map_err(io::Error::other)??;
        owed.clear();
        self.any.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// Notes by their authorities.
pub fn owed(notes: &[HolderNote]) -> BTreeMap<AuthorityName, i64> {
    let named = notes.iter();
    named
        .filter_map(|note| Some((note.authority.clone()?, note.until)))
        .collect()
}

/// As a command's notes are encoded, with no other field: every one without a path.
pub fn encode(owed: &BTreeMap<AuthorityName, i64>) -> Vec<u8> {
    let notes = owed.iter().map(|(authority, until)| HolderNote {
        authority: Some(authority.clone()),
        path: String::new(),
        until: *until,
    });
    let notes = NoteHolders {
        notes: notes.collect(),
        ..NoteHolders::default()
    };
    notes.encode_to_vec()
}

/// Reads the file.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Vec<HolderNote>, String> {
    let read = NoteHolders::decode(bytes).map_err(|e| e.to_string())?;
    let whole = |note: &HolderNote| note.authority.is_some() && note.path.is_empty();
    if read.notes.is_empty() || !read.notes.iter().all(whole) {
        return Err("it names no authority".into());
    }
    Ok(read.notes)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_raft_store::model::AuthorityKind;

    use super::*;

    fn authority(id: &str) -> AuthorityName {
        AuthorityName {
            kind: AuthorityKind::X509.into(),
            id: id.into(),
        }
    }

    #[tokio::test]
    async fn what_is_owed_survives_the_process_until_it_is_paid() {
        let dir = tempfile::tempdir().unwrap();
        let (debts, left) = Debts::open(dir.path()).unwrap();
        assert!(left.is_empty() && !debts.flag().load(Ordering::SeqCst));
        debts.owe(authority("a"), 100).await.unwrap();
        debts.owe(authority("b"), 50).await.unwrap();
        assert!(debts.flag().load(Ordering::SeqCst));
        let (again, left) = Debts::open(dir.path()).unwrap();
        let left: Vec<_> = left
            .into_iter()
            .map(|note| (note.authority.unwrap().id, note.until, note.path))
            .collect();
        assert_eq!(
            left,
            [
                ("a".into(), 100 + RESERVE, String::new()),
                ("b".into(), 50 + RESERVE, String::new())
            ]
        );
        assert!(again.flag().load(Ordering::SeqCst));
        again.pay(|| false).await.unwrap();
        assert_eq!(Debts::open(dir.path()).unwrap().1.len(), 2);
        again.pay(|| true).await.unwrap();
        assert!(!again.flag().load(Ordering::SeqCst));
        assert!(Debts::open(dir.path()).unwrap().1.is_empty());
    }

    #[tokio::test]
    async fn many_documents_are_one_write() {
        let dir = tempfile::tempdir().unwrap();
        let (debts, _) = Debts::open(dir.path()).unwrap();
        debts.owe(authority("a"), 100).await.unwrap();
        fs::remove_file(dir.path().join(FILE)).unwrap();
        debts.owe(authority("a"), 100 + RESERVE).await.unwrap();
        assert!(!dir.path().join(FILE).exists());
        debts.owe(authority("a"), 101 + RESERVE).await.unwrap();
        assert!(dir.path().join(FILE).exists());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_not_owed() {
        let dir = tempfile::tempdir().unwrap();
        let (debts, _) = Debts::open(&dir.path().join("gone")).unwrap();
        debts.owe(authority("a"), 100).await.unwrap_err();
        debts.owe(authority("a"), 100).await.unwrap_err();
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [&b""[..], b"\x08\x01", b"\xff\xff\xff", b"\x22\x02\x18\x05"] {
            fs::write(dir.path().join(FILE), bytes).unwrap();
            let error = Debts::open(dir.path()).err().unwrap();
            assert!(
                error.contains("is damaged") && error.contains("remove it"),
                "{error}"
            );
        }
    }
}
