//! The cluster and its members.

use super::Ruling;
use crate::command::{AdmitMember, AnnounceMember, Found, Outcome, RecordServerSvid, Refusal};
use crate::model::{Cluster, Member};
use crate::view::Txn;

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
    // The same address under another key would be a wiped node; replacing it is
    // an act of membership, not of joining.
    if members
        .iter()
        .any(|m| m.peer_address == command.peer_address)
    {
        return Ok(Err(Refusal::AlreadyExists));
    }
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    cluster.last_node_id += 1;
    txn.put_cluster(&cluster);
    txn.put_member(&Member {
        node_id: cluster.last_node_id,
        peer_address: command.peer_address.clone(),
        api_address: command.api_address.clone(),
        spki_sha256: command.spki_sha256.clone(),
        version: command.version.clone(),
        boot: 0,
        server_svid_issuer: String::new(),
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
