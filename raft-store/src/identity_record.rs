//! The node's identity record: who this node is, kept outside the store.
//!
//! A store that was lost, swapped or rolled back can so be told from a node that
//! never was: an identity whose store is missing is an error, never a fresh start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::faults;

const MAGIC: &[u8; 8] = b"CHNCID01";
/// More than any record can have; a longer file is not one.
const BYTES_MAX: u64 = 64 << 10;

/// Who a node is. Holds the peer key: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityRecord {
    /// Cluster it belongs to.
    pub cluster_id: String,
    /// Trust domain of that cluster.
    pub trust_domain: String,
    /// Id in that cluster; never used twice.
    pub node_id: u64,
    /// PKCS#8 DER of the key by which peers know it.
    pub peer_key: Vec<u8>,
    /// Times it has started.
    pub boot: u64,
    /// The store was made; from then on its absence is an error.
    pub store_made: bool,
    /// The cluster is founded: the founding command was applied, or this node joined.
    /// Until then the founder founds at each start.
    pub founded: bool,
    /// Members as they were when this node joined: by these it knows its peers
    /// until its own state tells them.
    pub pins: Vec<Pin>,
}

/// How a member is known to its peers.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Pin {
    /// Whose.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// host:port for peers.
    #[prost(string, tag = "2")]
    pub peer_address: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its peer key.
    #[prost(bytes = "vec", tag = "3")]
    pub spki_sha256: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(string, tag = "2")]
    trust_domain: String,
    #[prost(uint64, tag = "3")]
    node_id: u64,
    #[prost(bytes = "vec", tag = "4")]
    peer_key: Vec<u8>,
    #[prost(uint64, tag = "5")]
    boot: u64,
    #[prost(bool, tag = "6")]
    store_made: bool,
    #[prost(message, repeated, tag = "7")]
    pins: Vec<Pin>,
    #[prost(bool, tag = "8")]
    founded: bool,
}

/// The record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not a record, or a damaged one.
    #[error(
        "{path} is not an identity record or is damaged ({why}); restore it from a backup of this node, or \
             remove this data directory and let the node join again under a new id"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl IdentityRecord {
    /// File of the record below a data directory.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("identity")
    }

    /// Reads the record; `None` when this node has none yet.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = Self::path(data_dir);
        let Some(bytes) = read_file(&path).map_err(io_error("cannot read", &path))? else {
            return Ok(None);
        };
        let record = Self::decode(&bytes).map_err(|why| IdentityError::Damaged { path, why })?;
        Ok(Some(record))
    }

    /// Reads the record out of a file's bytes, or says what is wrong with them.
    ///
    /// # Errors
    /// The `why` of [`IdentityError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let r = Record::decode(unseal(MAGIC, bytes)?).map_err(|_| "does not decode")?;
        Ok(Self {
            cluster_id: r.cluster_id,
            trust_domain: r.trust_domain,
            node_id: r.node_id,
            peer_key: r.peer_key,
            boot: r.boot,
            store_made: r.store_made,
            pins: r.pins,
            founded: r.founded,
        })
    }

    /// The bytes of the file, which [`IdentityRecord::decode`] reads back.
    pub fn encode(&self) -> Vec<u8> {
        let body = Record {
            cluster_id: self.cluster_id.clone(),
            trust_domain: self.trust_domain.clone(),
            node_id: self.node_id,
            peer_key: self.peer_key.clone(),
            boot: self.boot,
            store_made: self.store_made,
            pins: self.pins.clone(),
            founded: self.founded,
        }
        .encode_to_vec();
        seal(MAGIC, &body)
    }

    /// Replaces the record: the old one or the new one is there after any crash.
    pub fn save(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = Self::path(data_dir);
        replace_file(&path, &self.encode(), &SAVE).map_err(io_error("cannot write", &path))
    }
}

/// The places in a save at which tests break it: the new file is written, is synced,
/// has its name.
pub(crate) type SavePoints = [&'static str; 3];

const SAVE: SavePoints = ["identity.written", "identity.synced", "identity.renamed"];

/// A small file with what tells it from any other and from a damaged one.
pub(crate) fn seal(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// What [`seal`] was given, or what is wrong with the bytes.
pub(crate) fn unseal<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let rest = bytes.strip_prefix(magic).ok_or("wrong magic number")?;
    let (crc, body) = rest.split_at_checked(4).ok_or("too short")?;
    if crc == crc32fast::hash(body).to_be_bytes() {
        Ok(body)
    } else {
        Err("wrong checksum")
    }
}

/// The bytes of a small file; `None` when there is none.
pub(crate) fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(Some(bytes))
}

/// Writes a file owner-only and durably in the place of another.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], at: &SavePoints) -> io::Result<()> {
    // Both are opened before anything is written: who is short of descriptors may try again.
    let parent = File::open(path.parent().unwrap_or(Path::new(".")))?;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    faults::point(at[0])?;
    file.sync_all()?;
    faults::point(at[1])?;
    fs::rename(&temporary, path)?;
    faults::point(at[2])?;
    parent.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io {
        action,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> IdentityRecord {
        IdentityRecord {
            cluster_id: "c".into(),
            trust_domain: "example.org".into(),
            node_id: 3,
            peer_key: vec![1, 2, 3],
            boot: 9,
            store_made: true,
            founded: true,
            pins: vec![Pin {
                node_id: 1,
                peer_address: "a:1".into(),
                spki_sha256: vec![4; 32],
            }],
        }
    }

    #[test]
    fn a_saved_record_is_read_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(
            IdentityRecord::load(dir.path())
                .expect("absent is no error")
                .is_none()
        );
        record().save(dir.path()).expect("it can be written");
        assert!(IdentityRecord::load(dir.path()).expect("it can be read") == Some(record()));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        record().save(dir.path()).expect("it can be written");
        let path = IdentityRecord::path(dir.path());
        let good = fs::read(&path).expect("it is there");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("it can be overwritten");
            assert!(IdentityRecord::load(dir.path()).is_err(), "byte {at}");
        }
        fs::write(&path, &good[..good.len() - 1]).expect("it can be overwritten");
        assert!(IdentityRecord::load(dir.path()).is_err(), "a byte short");
    }
}
