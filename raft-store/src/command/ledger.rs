//! Who holds documents of an authority.
//!
//! A node notes a holder before it hands a document out, so the log never knows of fewer
//! holders than there are. What it noted is its own: no other start of it or of another node
//! changes that, which is why notes carry a number and no compare-and-set.

use prost::Message;

use super::AuthorityName;

/// See [`super::Command::NoteHolders`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NoteHolders {
    /// Who notes.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// Which start of it.
    #[prost(uint64, tag = "2")]
    pub boot: u64,
    /// Counts the commands of that start, from 1: one that comes late, behind a later one,
    /// changes nothing that the later one noted.
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// What to note, [`NoteHolders::NOTES_MAX`] at most.
    #[prost(message, repeated, tag = "4")]
    pub notes: Vec<HolderNote>,
}

impl NoteHolders {
    /// Feature level of the commands of this module.
    pub const FEATURE_LEVEL: u32 = 3;
    /// Notes of one command.
    pub const NOTES_MAX: usize = 1024;
}

/// One holder of documents of one authority.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct HolderNote {
    /// Whose documents.
    #[prost(message, optional, tag = "1")]
    pub authority: Option<AuthorityName>,
    /// Path of the holder's SPIFFE ID; empty where the node does not know any more who holds
    /// what it handed out.
    #[prost(string, tag = "2")]
    pub path: String,
    /// Unix second at which the last of the documents ends, or later; what is not after the
    /// cluster clock takes the note away.
    #[prost(int64, tag = "3")]
    pub until: i64,
}

/// See [`super::Command::TellRenewals`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TellRenewals {
    /// Who issued the newer documents.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// What was renewed, [`TellRenewals::RENEWALS_MAX`] at most.
    #[prost(message, repeated, tag = "2")]
    pub renewals: Vec<Renewal>,
}

impl TellRenewals {
    /// Renewals of one command.
    pub const RENEWALS_MAX: usize = 4096;
}

/// A newer document took the place of what a holder had.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Renewal {
    /// The newer document's authority.
    #[prost(message, optional, tag = "1")]
    pub authority: Option<AuthorityName>,
    /// Path of the holder's SPIFFE ID.
    #[prost(string, tag = "2")]
    pub path: String,
    /// What was renewed: the first 8 bytes of a SHA-256 that every node makes alike.
    #[prost(fixed64, tag = "3")]
    pub item: u64,
    /// Unix second, by the issuing node's clock, at which the request for it arrived.
    #[prost(int64, tag = "4")]
    pub asked_at: i64,
}

/// See [`super::Command::PruneHolders`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PruneHolders {
    /// Candidates: keys of rows that seem to have ended.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub keys: Vec<Vec<u8>>,
}
