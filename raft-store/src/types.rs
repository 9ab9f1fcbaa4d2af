//! The types openraft is instantiated with.
//!
//! [`Types`] is generic over the runtime (clock, randomness, tasks and channels
//! of the Raft core); see [`crate::runtime`].

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use openraft::impls::{BoxedErrorSource, InlineBatch, ProgressResponder, leader_id_adv};
use openraft::type_config::AsyncRuntime;
use openraft::type_config::alias::{LogIdOf, StoredMembershipOf, VoteOf};

use crate::command::{Outcome, Proposal};
use crate::runtime::Runtime;

/// openraft's type configuration of Chancery over the runtime `Rt`.
pub struct Types<Rt = Runtime>(PhantomData<fn() -> Rt>);

/// What Raft keeps of a member: the address by which peers reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// host:port
    pub address: String,
}

impl<Rt: AsyncRuntime> openraft::RaftTypeConfig for Types<Rt> {
    type D = Proposal;
    type R = Outcome;
    type NodeId = u64;
    type Node = PeerNode;
    type Term = u64;
    type LeaderId = leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Proposal, u64, PeerNode>;
    type Entry = openraft::Entry<leader_id_adv::LeaderId<u64, u64>, Self::Payload>;
    type AsyncRuntime = Rt;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// Log id: term, leader and index.
pub type LogId = LogIdOf<Types>;
/// Vote of a term.
pub type Vote = VoteOf<Types>;
/// Log entry.
pub type LogEntry = openraft::Entry<
    leader_id_adv::LeaderId<u64, u64>,
    openraft::EntryPayload<Proposal, u64, PeerNode>,
>;
/// Membership with the log id it was proposed at.
pub type StoredMembership = StoredMembershipOf<Types>;
/// Metadata of a snapshot.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

// Derives would ask for bounds on `Rt` that a marker does not need.
impl<Rt> Clone for Types<Rt> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Rt> Copy for Types<Rt> {}
impl<Rt> Default for Types<Rt> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<Rt> fmt::Debug for Types<Rt> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<Rt> PartialEq for Types<Rt> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<Rt> Eq for Types<Rt> {}
impl<Rt> PartialOrd for Types<Rt> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<Rt> Ord for Types<Rt> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
