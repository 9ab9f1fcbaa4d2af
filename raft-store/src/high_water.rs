//! The high-water mark: how far the store of a node has certainly come, kept in a
//! small synced file beside the identity record, outside the store.
//!
//! A store cannot tell by itself that its newest part is gone: a write-ahead log
//! without its tail, or none at all, opens as a store that is a little shorter. The
//! mark can: a store that holds less than it did, is of another node, or is an
//! older image, is recognised at start, and the node does not vote.
//!
//! The mark is never ahead of what the store has synced. It is saved with every
//! vote before the vote is answered, before log entries are truncated, when the
//! log ends cleanly, and a second after log entries came at the latest. What it
//! cannot show is the loss of log entries synced after its last save.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::codec;
use crate::identity_record::{SavePoints, read_file, replace_file, seal, unseal};
use crate::log::Position;
use crate::store::StoreError;
use crate::types::LogId;

const MAGIC: &[u8; 8] = b"CHNCHW01";
const SAVE: SavePoints = [
    "high-water.written",
    "high-water.synced",
    "high-water.renamed",
];
/// What to do about a store or data directory that cannot be trusted.
const REMEDY: &str = "this node must not vote with it: set it aside with `chancery cluster rejoin` and let the node join \
                      again under a new id (docs/runbooks/a-node-with-a-damaged-or-full-disk.md)";

/// Whose a store is, and by which start of that node it was last opened.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Owner {
    /// Cluster of the node.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// Id of the node.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// Number of the start.
    #[prost(uint64, tag = "3")]
    pub boot: u64,
}

/// The mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HighWater {
    /// Whose, and by which start it was last saved.
    pub owner: Owner,
    /// What the store has synced at least.
    pub position: Position,
    /// The store names its owner; from then on one that does not is another.
    pub store_owned: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(message, optional, tag = "1")]
    owner: Option<Owner>,
    #[prost(bytes = "vec", optional, tag = "2")]
    vote: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    last: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    purged: Option<Vec<u8>>,
    #[prost(bool, tag = "5")]
    store_owned: bool,
}

/// What a store says of itself when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose it says it is.
    pub owner: Option<Owner>,
    /// What it holds.
    pub position: Position,
    /// Its log entry at the index of the mark's last one, if it holds one there.
    pub at_mark: Option<LogId>,
}

/// The mark cannot be used, or the store is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum HighWaterError {
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
    /// Not a mark, or a damaged one.
    #[error(
        "{path} is not a high-water mark or is damaged ({why}), so the store beside it cannot be trusted; {REMEDY}"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The store says that there must be one.
    #[error("{path} is missing, so the store beside it cannot be trusted; {REMEDY}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The identity record is of another node, or older than the mark.
    #[error(
        "{path} does not fit the identity record beside it: {what}; put the right one back, or: {REMEDY}"
    )]
    Identity {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        what: String,
    },
    /// The store is another one, or has lost something.
    #[error("the store in {path} is not what it was: {what}; {REMEDY}")]
    Store {
        /// The directory of store and mark.
        path: PathBuf,
        /// What was found and expected.
        what: String,
    },
    /// The store cannot be read or written.
    #[error("the store in {path} failed: {source}; {REMEDY}")]
    Failed {
        /// The directory of store and mark.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl HighWater {
    /// File of the mark below a data directory.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("high-water")
    }

    /// Reads the mark; `None` when there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is no mark.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, HighWaterError> {
        let path = Self::path(data_dir);
        let bytes = read_file(&path).map_err(|source| HighWaterError::Io {
            action: "cannot read",
            path: path.clone(),
            source,
        })?;
        bytes
            .map(|bytes| Self::decode(&bytes))
            .transpose()
            .map_err(|why| HighWaterError::Damaged { path, why })
    }

    /// Reads the mark out of a file's bytes, or says what is wrong with them.
    ///
    /// # Errors
    /// The `why` of [`HighWaterError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        const BAD: &str = "does not decode";
        let r = Record::decode(unseal(MAGIC, bytes)?).map_err(|_| BAD)?;
        let log_id = |bytes: Option<Vec<u8>>| {
            bytes
                .map(|b| codec::decode_log_id(&b))
                .transpose()
                .map_err(|_| BAD)
        };
        let vote = r.vote.map(|b| codec::decode_vote(&b)).transpose();
        Ok(Self {
            owner: r.owner.ok_or(BAD)?,
            position: Position {
                vote: vote.map_err(|_| BAD)?,
                last: log_id(r.last)?,
                purged: log_id(r.purged)?,
            },
            store_owned: r.store_owned,
        })
    }

    /// The bytes of the file, which [`HighWater::decode`] reads back.
    pub fn encode(&self) -> Vec<u8> {
        let body = Record {
            owner: Some(self.owner.clone()),
            vote: self.position.vote.as_ref().map(codec::encode_vote),
            last: self.position.last.as_ref().map(codec::encode_log_id),
            purged: self.position.purged.as_ref().map(codec::encode_log_id),
            store_owned: self.store_owned,
        };
        seal(MAGIC, &body.encode_to_vec())
    }

    /// Replaces the mark: the old one or the new one is there after any crash.
    ///
    /// # Errors
    /// What the file system says. The node must stop.
    pub fn save(&self, data_dir: &Path) -> Result<(), HighWaterError> {
        let path = Self::path(data_dir);
        replace_file(&path, &self.encode(), &SAVE).map_err(|source| HighWaterError::Io {
            action: "cannot write",
            path,
            source,
        })
    }

    /// Checks that the identity record of `node`, before this start is counted, is
    /// not older than the mark, and of the same node.
    ///
    /// # Errors
    /// [`HighWaterError::Identity`].
    pub fn check_identity(&self, node: &Owner, data_dir: &Path) -> Result<(), HighWaterError> {
        let mark = &self.owner;
        let wrong = |what| {
            Err(HighWaterError::Identity {
                path: Self::path(data_dir),
                what,
            })
        };
        if (&mark.cluster_id, mark.node_id) != (&node.cluster_id, node.node_id) {
            return wrong(format!(
                "it is of node {} of cluster {}, the record of node {} of cluster {}",
                mark.node_id, mark.cluster_id, node.node_id, node.cluster_id
            ));
        }
        if mark.boot > node.boot {
            return wrong(format!(
                "it was saved by start {} of the node, the record knows of {} starts",
                mark.boot, node.boot
            ));
        }
        Ok(())
    }
}

/// What is wrong with a store: `None` when it holds all that the mark says.
/// `this` is the start that opens it.
pub fn shortfall(mark: &HighWater, found: &Found, this: &Owner) -> Option<String> {
    let Some(owner) = &found.owner else {
        return mark.store_owned.then(|| {
            "it names no owner: it is an older image of itself, or another store".to_owned()
        });
    };
    if (&owner.cluster_id, owner.node_id) != (&this.cluster_id, this.node_id) {
        return Some(format!(
            "it is of node {} of cluster {}, not of node {} of cluster {}: put back its own, if it is whole",
            owner.node_id, owner.cluster_id, this.node_id, this.cluster_id
        ));
    }
    if owner.boot < mark.owner.boot {
        return Some(format!(
            "it was last opened by start {} of the node, and start {} had it open since",
            owner.boot, mark.owner.boot
        ));
    }
    if owner.boot >= this.boot {
        return Some(format!(
            "it was opened by start {} of the node, and this is start {} by the identity record: the record is an \
             older copy",
            owner.boot, this.boot
        ));
    }
    let (had, has) = (&mark.position, &found.position);
    if has.vote < had.vote {
        return Some(format!(
            "it knows of {}, and had {}",
            vote_text(has),
            vote_text(had)
        ));
    }
    let index = |id: Option<LogId>| id.map(|id| id.index);
    if index(has.last) < index(had.last) {
        return Some(format!(
            "its log ends {}, and had come to {}",
            end_text(has.last),
            end_text(had.last)
        ));
    }
    if let (Some(had), Some(has)) = (had.last, found.at_mark)
        && had != has
    {
        return Some(format!(
            "its log entry {} is of term {}, and was of term {}",
            had.index, has.leader_id.term, had.leader_id.term
        ));
    }
    if index(has.purged) < index(had.purged) {
        return Some(format!(
            "its log is purged {}, and was {}",
            end_text(has.purged),
            end_text(had.purged)
        ));
    }
    None
}

fn vote_text(position: &Position) -> String {
    match &position.vote {
        None => "no vote".into(),
        Some(v) => format!(
            "the vote for node {} in term {}{}",
            v.leader_id.node_id,
            v.leader_id.term,
            if v.committed { ", elected" } else { "" }
        ),
    }
}

fn end_text(id: Option<LogId>) -> String {
    id.map_or_else(
        || "before its first entry".into(),
        |id| format!("at entry {} of term {}", id.index, id.leader_id.term),
    )
}
