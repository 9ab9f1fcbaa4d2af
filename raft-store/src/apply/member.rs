//! The cluster and its members.
//!
//! What a member is to be stands in its record, so that a change of members that a dead
//! leader left half done is finished by whoever leads next.

use std::collections::BTreeSet;

use super::Ruling;
use crate::command::{
    AdmitMember, AnnounceMember, ChangeMembers, CreateNodeToken, Found, NoteHolders, Outcome,
    RaiseFeatureLevel, RecordServerSvid, Refusal, RemoveMember,
};
use crate::model::{Cluster, Member, MemberRole, NodeToken};
use crate::view::Txn;

/// Voters of a cluster: each write waits for a majority of them.
pub const VOTERS_MAX: usize = 7;
/// Node tokens that are looked at for expired ones when another is made.
const TOKEN_SCAN: usize = 1000;

/// Removed members that are remembered, to be told so when they call.
const REMOVED_KEPT: usize = 1000;

/// Once in the life of a log.
pub(super) fn found(txn: &mut Txn<'_>, command: &Found) -> Ruling {
    if txn.cluster()?.is_some_and(|c| !c.id.is_empty()) {
        return Ok(Err(Refusal::AlreadyExists));
    }
    let Some(founder) = command
        .founder
        .as_ref()
        .filter(|_| !command.cluster_id.is_empty())
    else {
        return Ok(Err(Refusal::Malformed));
    };
    txn.put_cluster(&Cluster {
        id: command.cluster_id.clone(),
        trust_domain: command.trust_domain.clone(),
        founding_peers: command.founding_peers.clone(),
        feature_level: command.feature_level,
        issuance_mode: command.issuance_mode,
        authority_scope: command.authority_scope,
        ..Cluster::default()
    });
    admit(txn, founder)
}

/// A node id comes from here and is never used twice. A key that is a member
/// already keeps its id: the answer to its first try was lost.
pub(super) fn admit(txn: &mut Txn<'_>, command: &AdmitMember) -> Ruling {
    if command.spki_sha256.len() != 32 || command.peer_address.is_empty() {
        return Ok(Err(Refusal::Malformed));
    }
    let members = txn.members()?;
    if let Some(known) = members
        .iter()
        .find(|m| m.spki_sha256 == command.spki_sha256)
    {
        return Ok(Ok(Outcome {
            node_id: known.node_id,
            ..Outcome::default()
        }));
    }
    let token = if command.token_sha256.is_empty() {
        None
    } else {
        let Some(token) = txn.node_token(&command.token_sha256)? else {
            return Ok(Err(Refusal::TokenUnknown));
        };
        txn.remove_node_token(&token.sha256);
        if token.expires_at < txn.now() {
            return Ok(Err(Refusal::TokenExpired));
        }
        Some(token)
    };
    // The same address under another key would be a wiped node; replacing it is
    // an act of membership, not of joining.
    let replaces = token.as_ref().map_or(0, |t| t.replaces);
    if members
        .iter()
        .any(|m| m.peer_address == command.peer_address && m.node_id != replaces)
    {
        return Ok(Err(Refusal::AlreadyExists));
    }
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    cluster.last_node_id += 1;
    let founding = cluster.feature_level == 0
        || (token.is_none() && cluster.founding_peers.contains(&command.peer_address));
    let wanted = if founding {
        MemberRole::Founding
    } else {
        MemberRole::Learner
    };
    let promote = token.as_ref().is_none_or(|t| t.auto_promote) && !command.stay_learner;
    txn.put_cluster(&cluster);
    txn.put_member(&Member {
        node_id: cluster.last_node_id,
        peer_address: command.peer_address.clone(),
        api_address: command.api_address.clone(),
        spki_sha256: command.spki_sha256.clone(),
        version: command.version.clone(),
        wanted: wanted.into(),
        auto_promote: !founding && promote,
        replaces,
        ..Member::default()
    });
    Ok(Ok(Outcome {
        node_id: cluster.last_node_id,
        ..Outcome::default()
    }))
}

pub(super) fn announce(txn: &mut Txn<'_>, command: &AnnounceMember) -> Ruling {
    let Some(mut member) = txn.member(command.node_id)? else {
        return Ok(Err(Refusal::NotFound));
    };
    if command.boot < member.boot {
        return Ok(Err(Refusal::Conflict));
    }
    member.boot = command.boot;
    member.api_address.clone_from(&command.api_address);
    member.version.clone_from(&command.version);
    txn.put_member(&member);
    Ok(Ok(Outcome::default()))
}

pub(super) fn record_server_svid(txn: &mut Txn<'_>, command: &RecordServerSvid) -> Ruling {
    let Some(mut member) = txn.member(command.node_id)? else {
        return Ok(Err(Refusal::NotFound));
    };
    member.server_svid_issuer.clone_from(&command.authority_id);
    txn.put_member(&member);
    Ok(Ok(Outcome::default()))
}

pub(super) fn create_token(txn: &mut Txn<'_>, command: &CreateNodeToken) -> Ruling {
    let Some(token) = command.token.as_ref().filter(|t| t.sha256.len() == 32) else {
        return Ok(Err(Refusal::Malformed));
    };
    if command.ttl < 1 {
        return Ok(Err(Refusal::Malformed));
    }
    if token.replaces != 0 && txn.member(token.replaces)?.is_none() {
        return Ok(Err(Refusal::NotFound));
    }
    if txn.node_token(&token.sha256)?.is_some() {
        return Ok(Err(Refusal::AlreadyExists));
    }
    txn.forget_expired_node_tokens(TOKEN_SCAN)?;
    let expires_at = txn.now().saturating_add(command.ttl);
    txn.put_node_token(&NodeToken {
        expires_at,
        ..token.clone()
    });
    Ok(Ok(Outcome {
        expires_at,
        ..Outcome::default()
    }))
}

impl Member {
    /// Whether it is to have a vote, in a cluster that was founded from this list.
    pub fn is_wanted_voter(&self, founding_peers: &[String]) -> bool {
        match self.wanted() {
            MemberRole::Founding => founding_peers.contains(&self.peer_address),
            MemberRole::Voter => true,
            MemberRole::Learner | MemberRole::Leaving => false,
        }
    }
}

/// Whoever changes members takes over from the founding list: from then on each record
/// says what its member is to be.
pub(super) fn change(txn: &mut Txn<'_>, command: &ChangeMembers) -> Ruling {
    let named = [&command.promote, &command.demote, &command.remove];
    let ids: BTreeSet<u64> = named.iter().flat_map(|ids| ids.iter().copied()).collect();
    if ids.is_empty() || ids.len() != named.iter().map(|ids| ids.len()).sum::<usize>() {
        return Ok(Err(Refusal::Malformed));
    }
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    let mut members = txn.members()?;
    if !ids
        .iter()
        .all(|id| members.iter().any(|m| m.node_id == *id))
    {
        return Ok(Err(Refusal::NotFound));
    }
    let founding = std::mem::take(&mut cluster.founding_peers);
    let mut before = 0;
    for member in &mut members {
        let id = member.node_id;
        let was_voter = member.is_wanted_voter(&founding);
        before += usize::from(was_voter);
        let leaving = member.wanted() == MemberRole::Leaving;
        let wanted = if command.remove.contains(&id) {
            MemberRole::Leaving
        } else if leaving {
            if ids.contains(&id) {
                return Ok(Err(Refusal::Conflict));
            }
            MemberRole::Leaving
        } else if command.promote.contains(&id) {
            MemberRole::Voter
        } else if command.demote.contains(&id) || !was_voter {
            MemberRole::Learner
        } else {
            MemberRole::Voter
        };
        if ids.contains(&id) {
            member.auto_promote = false;
            member.replaces = 0;
        }
        member.set_wanted(wanted);
    }
    let after = members
        .iter()
        .filter(|m| m.wanted() == MemberRole::Voter)
        .count();
    if after == 0 || after > VOTERS_MAX {
        return Ok(Err(Refusal::VoterCount));
    }
    // An even number that was there before is not made worse.
    if after % 2 == 0 && after != before && !command.allow_even {
        return Ok(Err(Refusal::EvenVoters));
    }
    txn.put_cluster(&cluster);
    for member in &members {
        if txn.member(member.node_id)?.as_ref() != Some(member) {
            txn.put_member(member);
        }
    }
    Ok(Ok(Outcome::default()))
}

/// Only what [`change`] said is to leave: whoever proposes this has seen that Raft's
/// membership is without it.
pub(super) fn remove(txn: &mut Txn<'_>, command: &RemoveMember) -> Ruling {
    let Some(member) = txn.member(command.node_id)? else {
        return Ok(Err(Refusal::NotFound));
    };
    if member.wanted() != MemberRole::Leaving {
        return Ok(Err(Refusal::Conflict));
    }
    txn.remove_member(&member, REMOVED_KEPT)?;
    Ok(Ok(Outcome::default()))
}

/// Levels only grow.
pub(super) fn raise_feature_level(txn: &mut Txn<'_>, command: &RaiseFeatureLevel) -> Ruling {
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    if command.level <= cluster.feature_level {
        return Ok(Err(Refusal::Conflict));
    }
    let in_force = |level: u32| level >= NoteHolders::FEATURE_LEVEL;
    if in_force(command.level) && !in_force(cluster.feature_level) {
        // What they signed until now was handed out unnoted.
        cluster.ledger_from = cluster.last_sequence;
    }
    cluster.feature_level = command.level;
    txn.put_cluster(&cluster);
    Ok(Ok(Outcome::default()))
}
