//! What an agent keeps through a restart: its SVID with key, and the bundle that it trusted last.
//!
//! One file of mode 0600 in a directory of mode 0700, replaced as a whole and synced, so that a
//! crash leaves the one before or the one after.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::credentials::Svid;

const NAME: &str = "agent.json";
/// A state of many roots is far smaller.
const BYTES_MAX: u64 = 16 << 20;

/// What is kept.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) svid: Svid,
    /// DER of the roots.
    pub(crate) roots: Vec<Vec<u8>>,
    /// Whether the attestation said that it may be made again.
    pub(crate) reattestable: bool,
}

/// Why it is not there.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub(crate) struct StateError {
    path: PathBuf,
    why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: String,
    chain: Vec<String>,
    key: String,
    issued_at: i64,
    expires_at: i64,
    roots: Vec<String>,
    reattestable: bool,
}

impl Drop for File {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The folder of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
}

impl Store {
    /// Opens a folder, made with mode 0700 where it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(NAME);
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(|why| StateError {
            path: dir.to_owned(),
            why: why.to_string(),
        })?;
        Ok(Self { path })
    }

    fn failed(&self, why: impl ToString) -> StateError {
        StateError {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    /// What was kept; `None` where nothing was.
    pub(crate) fn load(&self) -> Result<Option<State>, StateError> {
        let length = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        if length > BYTES_MAX {
            return Err(self.failed(format!("has more than {BYTES_MAX} bytes")));
        }
        let bytes = Zeroizing::new(std::fs::read(&self.path).map_err(|e| self.failed(e))?);
        parse(&bytes).map(Some).map_err(|why| {
            self.failed(format!(
                "{why}; remove the file to attest anew, which takes a new join token"
            ))
        })
    }

    /// Keeps a state in the place of the one before.
    pub(crate) fn save(&self, state: &State) -> Result<(), StateError> {
        let text = |der: &Vec<u8>| STANDARD.encode(der);
        let file = File {
            id: state.svid.id.clone(),
            chain: state.svid.chain.iter().map(text).collect(),
            key: STANDARD.encode(&*state.svid.key),
            issued_at: state.svid.issued_at,
            expires_at: state.svid.expires_at,
            roots: state.roots.iter().map(text).collect(),
            reattestable: state.reattestable,
        };
        let json = Zeroizing::new(serde_json::to_vec_pretty(&file).map_err(|e| self.failed(e))?);
        self.replace(&json).map_err(|e| self.failed(e))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("json.part");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(dir)?.sync_all()
    }

    /// Forgets everything: the SVID is worth nothing any more.
    pub(crate) fn forget(&self) -> Result<(), StateError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<State, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let der = |text: &String| STANDARD.decode(text).map_err(|e| e.to_string());
    if file.chain.is_empty() || file.roots.is_empty() {
        return Err("has no certificate".into());
    }
    Ok(State {
        svid: Svid {
            id: file.id.clone(),
            chain: file.chain.iter().map(der).collect::<Result<_, _>>()?,
            key: Zeroizing::new(der(&file.key)?),
            issued_at: file.issued_at,
            expires_at: file.expires_at,
        },
        roots: file.roots.iter().map(der).collect::<Result<_, _>>()?,
        reattestable: file.reattestable,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn state() -> State {
        State {
            svid: Svid {
                id: "spiffe://example.org/spire/agent/a".into(),
                chain: vec![vec![1, 2], vec![3]],
                key: Zeroizing::new(vec![4; 32]),
                issued_at: 5,
                expires_at: 6,
            },
            roots: vec![vec![7]],
            reattestable: true,
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("made")).expect("opens");
        assert!(store.load().expect("nothing yet").is_none());
        store.save(&state()).expect("saves");
        store.save(&state()).expect("saves again");
        let kept = store.load().expect("loads").expect("is there");
        assert_eq!(kept.svid.chain, state().svid.chain);
        assert_eq!(kept.svid.key, state().svid.key);
        assert_eq!(kept.roots, state().roots);
        for (path, mode) in [
            (store.path.as_path(), 0o600),
            (&dir.path().join("made"), 0o700),
        ] {
            let found = std::fs::metadata(path).expect("is there").permissions();
            assert_eq!(found.mode() & 0o777, mode);
        }
        store.forget().expect("forgets");
        assert!(store.load().expect("nothing any more").is_none());
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opens");
        store.save(&state()).expect("saves");
        let whole = std::fs::read(&store.path).expect("reads");
        for length in 0..whole.len() - 1 {
            std::fs::write(&store.path, &whole[..length]).expect("writes");
            let error = store.load().expect_err("is refused").to_string();
            assert!(error.contains("remove the file to attest anew"), "{error}");
        }
    }
}
