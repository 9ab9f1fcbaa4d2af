//! Encoding of what Raft itself keeps: log ids, votes, log entries, memberships.
//!
//! Versioned protobuf of our own; openraft's types have no serialized form here,
//! so that a new openraft does not change what is on disk or on the wire.

use std::collections::{BTreeMap, BTreeSet};

use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EntryPayload, Membership};
use prost::{Message, Oneof};

use crate::command::{Outcome, Proposal};
use crate::store::StoreError;
use crate::types::{LogEntry, LogId, PeerNode, StoredMembership, Vote};

#[derive(Clone, PartialEq, Message)]
struct LogIdRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node_id: u64,
    /// Always there, so that no log id, not even the first, encodes to nothing.
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct VoteRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node_id: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct NodeRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct Voters {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MembershipRecord {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdRecord>,
    /// More than one during a joint change.
    #[prost(message, repeated, tag = "2")]
    configs: Vec<Voters>,
    #[prost(message, repeated, tag = "3")]
    nodes: Vec<NodeRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct LogEntryRecord {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdRecord>,
    #[prost(oneof = "Payload", tags = "2, 3, 4")]
    payload: Option<Payload>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Payload {
    #[prost(bool, tag = "2")]
    Blank(bool),
    #[prost(message, tag = "3")]
    Proposal(Box<Proposal>),
    #[prost(message, tag = "4")]
    Membership(MembershipRecord),
}

fn log_id_record(id: &LogId) -> LogIdRecord {
    LogIdRecord {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
        index: Some(id.index),
    }
}

fn log_id_of(r: &LogIdRecord) -> Result<LogId, StoreError> {
    let index = r
        .index
        .ok_or_else(|| StoreError::corrupt("log id without an index"))?;
    Ok(LogId::new(
        LeaderId {
            term: r.term,
            node_id: r.node_id,
        },
        index,
    ))
}

fn membership_record(
    log_id: Option<&LogId>,
    membership: &Membership<u64, PeerNode>,
) -> MembershipRecord {
    MembershipRecord {
        log_id: log_id.map(log_id_record),
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| Voters {
                ids: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| NodeRecord {
                id: *id,
                address: node.address.clone(),
            })
            .collect(),
    }
}

fn membership_of(
    r: MembershipRecord,
) -> Result<(Option<LogId>, Membership<u64, PeerNode>), StoreError> {
    let log_id = r.log_id.as_ref().map(log_id_of).transpose()?;
    let configs: Vec<BTreeSet<u64>> = r
        .configs
        .into_iter()
        .map(|v| v.ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, PeerNode> = r
        .nodes
        .into_iter()
        .map(|n| (n.id, PeerNode { address: n.address }))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok((log_id, Membership::default()));
    }
    let membership = Membership::new(configs, nodes)
        .map_err(|e| StoreError::corrupt(format!("stored membership: {e}")))?;
    Ok((log_id, membership))
}

fn read<M: Message + Default>(what: &str, bytes: &[u8]) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|e| StoreError::corrupt(format!("{what} does not decode: {e}")))
}

/// Encodes a log id.
pub fn encode_log_id(id: &LogId) -> Vec<u8> {
    log_id_record(id).encode_to_vec()
}

/// Decodes a log id.
pub fn decode_log_id(bytes: &[u8]) -> Result<LogId, StoreError> {
    log_id_of(&read("log id", bytes)?)
}

/// Encodes a vote.
pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    VoteRecord {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
    .encode_to_vec()
}

/// Decodes a vote.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote, StoreError> {
    let r: VoteRecord = read("vote", bytes)?;
    Ok(Vote {
        leader_id: LeaderId {
            term: r.term,
            node_id: r.node_id,
        },
        committed: r.committed,
    })
}

/// Encodes a membership with the log id it was proposed at.
pub fn encode_membership(membership: &StoredMembership) -> Vec<u8> {
    membership_record(membership.log_id().as_ref(), membership.membership()).encode_to_vec()
}

/// Decodes what [`encode_membership`] made.
pub fn decode_membership(bytes: &[u8]) -> Result<StoredMembership, StoreError> {
    let (log_id, membership) = membership_of(read("membership", bytes)?)?;
    Ok(StoredMembership::new(log_id, membership))
}

/// Encodes a log entry, for the log and for the wire.
pub fn encode_log_entry(entry: &LogEntry) -> Vec<u8> {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(true),
        EntryPayload::Normal(proposal) => Payload::Proposal(Box::new(proposal.clone())),
        EntryPayload::Membership(membership) => {
            Payload::Membership(membership_record(None, membership))
        }
    };
    LogEntryRecord {
        log_id: Some(log_id_record(&entry.log_id)),
        payload: Some(payload),
    }
    .encode_to_vec()
}

/// Decodes a log entry. Outside bytes: bounded by the caller's message limit.
pub fn decode_log_entry(bytes: &[u8]) -> Result<LogEntry, StoreError> {
    let r: LogEntryRecord = read("log entry", bytes)?;
    let log_id = r
        .log_id
        .as_ref()
        .ok_or_else(|| StoreError::corrupt("log entry without id"))?;
    let log_id = log_id_of(log_id)?;
    let payload = match r.payload {
        Some(Payload::Blank(_)) => EntryPayload::Blank,
        Some(Payload::Proposal(proposal)) => EntryPayload::Normal(known(*proposal)?),
        Some(Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_of(membership)?.1)
        }
        None => {
            return Err(StoreError::corrupt(format!(
                "log entry {} is of a kind that this version does not know",
                log_id.index
            )));
        }
    };
    Ok(LogEntry { log_id, payload })
}

/// Encodes a proposal, for forwarding.
pub fn encode_proposal(proposal: &Proposal) -> Vec<u8> {
    proposal.encode_to_vec()
}

/// Decodes a forwarded proposal.
pub fn decode_proposal(bytes: &[u8]) -> Result<Proposal, StoreError> {
    known(read("proposal", bytes)?)
}

/// Refuses a command of a newer version: decoding drops what it does not know, so
/// stored or proposed again the command would be lost.
fn known(proposal: Proposal) -> Result<Proposal, StoreError> {
    match &proposal.command {
        Some(_) => Ok(proposal),
        None => Err(StoreError::corrupt(
            "a proposal holds a command that this version does not know",
        )),
    }
}

/// About how many bytes a log entry has encoded.
pub(crate) fn log_entry_bytes(entry: &LogEntry) -> usize {
    const HEAD: usize = 64;
    HEAD + match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(proposal) => proposal.encoded_len(),
        EntryPayload::Membership(membership) => membership
            .nodes()
            .map(|(_, n)| HEAD + n.address.len())
            .sum(),
    }
}

/// Encodes an outcome, for the answer to a forwarded proposal.
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    outcome.encode_to_vec()
}

/// Decodes an outcome.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, StoreError> {
    read("outcome", bytes)
}
