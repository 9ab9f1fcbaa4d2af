//! Raft's messages on the wire and in openraft's types.
//!
//! What arrives is outside bytes: a missing field is an error that names it.

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::codec;
use chancery_raft_store::types::{LogId, Types, Vote};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};

/// A message that is not what its type promises.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// A field that every sender sets is absent.
    #[error("peer message without {0}")]
    Missing(&'static str),
    /// A log entry does not decode.
    #[error("peer message with a bad log entry: {0}")]
    BadEntry(String),
}

pub(super) fn log_id(id: &LogId) -> wire::LogId {
    wire::LogId {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
        index: id.index,
    }
}

pub(super) fn log_id_from(id: &wire::LogId) -> LogId {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.node_id,
        },
        id.index,
    )
}

pub(super) fn vote(v: &Vote) -> wire::Vote {
    wire::Vote {
        term: v.leader_id.term,
        node_id: v.leader_id.node_id,
        committed: v.committed,
    }
}

pub(super) fn vote_from(v: Option<&wire::Vote>) -> Result<Vote, WireError> {
    let v = v.ok_or(WireError::Missing("vote"))?;
    Ok(Vote {
        leader_id: LeaderId {
            term: v.term,
            node_id: v.node_id,
        },
        committed: v.committed,
    })
}

pub(super) fn append_request(
    target: wire::Target,
    rpc: &AppendEntriesRequest<Types>,
) -> wire::AppendRequest {
    wire::AppendRequest {
        target: Some(target),
        vote: Some(vote(&rpc.vote)),
        prev_log_id: rpc.prev_log_id.as_ref().map(log_id),
        entries: rpc.entries.iter().map(codec::encode_log_entry).collect(),
        leader_commit: rpc.leader_commit.as_ref().map(log_id),
    }
}

pub(super) fn append_request_from(
    m: &wire::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, WireError> {
    let entries = m
        .entries
        .iter()
        .map(|bytes| codec::decode_log_entry(bytes).map_err(|e| WireError::BadEntry(e.to_string())))
        .collect::<Result<_, _>>()?;
    Ok(AppendEntriesRequest {
        vote: vote_from(m.vote.as_ref())?,
        prev_log_id: m.prev_log_id.as_ref().map(log_id_from),
        entries,
        leader_commit: m.leader_commit.as_ref().map(log_id_from),
    })
}

pub(super) fn append_response(r: &AppendEntriesResponse<Types>) -> wire::AppendResponse {
    use wire::append_response::Kind;
    let (kind, matched, higher) = match r {
        AppendEntriesResponse::Success => (Kind::Success, None, None),
        AppendEntriesResponse::PartialSuccess(id) => (Kind::Partial, id.as_ref().map(log_id), None),
        AppendEntriesResponse::Conflict => (Kind::Conflict, None, None),
        AppendEntriesResponse::HigherVote(v) => (Kind::HigherVote, None, Some(vote(v))),
    };
    wire::AppendResponse {
        kind: kind.into(),
        matched,
        higher,
    }
}

pub(super) fn append_response_from(
    m: &wire::AppendResponse,
) -> Result<AppendEntriesResponse<Types>, WireError> {
    use wire::append_response::Kind;
    Ok(match m.kind() {
        Kind::Unspecified => return Err(WireError::Missing("append result")),
        Kind::Success => AppendEntriesResponse::Success,
        Kind::Partial => AppendEntriesResponse::PartialSuccess(m.matched.as_ref().map(log_id_from)),
        Kind::Conflict => AppendEntriesResponse::Conflict,
        Kind::HigherVote => AppendEntriesResponse::HigherVote(vote_from(m.higher.as_ref())?),
    })
}

pub(super) fn vote_request(target: wire::Target, rpc: &VoteRequest<Types>) -> wire::VoteRequest {
    wire::VoteRequest {
        target: Some(target),
        vote: Some(vote(&rpc.vote)),
        last_log_id: rpc.last_log_id.as_ref().map(log_id),
        leadership_transfer: rpc.leadership_transfer,
    }
}

pub(super) fn vote_request_from(m: &wire::VoteRequest) -> Result<VoteRequest<Types>, WireError> {
    let mut request = VoteRequest::new(
        vote_from(m.vote.as_ref())?,
        m.last_log_id.as_ref().map(log_id_from),
    );
    request.leadership_transfer = m.leadership_transfer;
    Ok(request)
}

pub(super) fn vote_response(r: &VoteResponse<Types>) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(vote(&r.vote)),
        granted: r.vote_granted,
        last_log_id: r.last_log_id.as_ref().map(log_id),
    }
}

pub(super) fn vote_response_from(m: &wire::VoteResponse) -> Result<VoteResponse<Types>, WireError> {
    Ok(VoteResponse::new(
        vote_from(m.vote.as_ref())?,
        m.last_log_id.as_ref().map(log_id_from),
        m.granted,
    ))
}

pub(super) fn transfer_request(
    target: wire::Target,
    rpc: &TransferLeaderRequest<Types>,
) -> wire::TransferLeaderRequest {
    wire::TransferLeaderRequest {
        target: Some(target),
        from_leader: Some(vote(rpc.from_leader())),
        last_log_id: rpc.last_log_id().map(log_id),
    }
}

pub(super) fn transfer_request_from(
    to: u64,
    m: &wire::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Types>, WireError> {
    Ok(TransferLeaderRequest::new(
        vote_from(m.from_leader.as_ref())?,
        to,
        m.last_log_id.as_ref().map(log_id_from),
    ))
}
