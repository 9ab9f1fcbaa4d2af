//! Agents: join tokens, attestation, renewal, bans, eviction, pruning.

use super::{Ruling, entry};
use crate::command::{
    ActivateAgents, AgentPath, AttestAgent, CreateJoinToken, ImportBan, Outcome, PruneAgents,
    PruneJoinTokens, Refusal, RenewAgent, SetAgentVersion,
};
use crate::model::{Agent, Entry, JoinToken, PendingSvid};
use crate::store::StoreError;
use crate::view::Txn;

/// Entries below one agent that are looked at for its alias. More than one alias
/// cannot come to be; the bound only keeps a command from growing without end.
const ALIAS_SCAN: usize = 10_000;

pub(super) fn create_join_token(txn: &mut Txn<'_>, command: &CreateJoinToken) -> Ruling {
    let Some(token) = &command.token else {
        return Ok(Err(Refusal::Malformed));
    };
    if command.ttl < 1 || token.sha256.is_empty() {
        return Ok(Err(Refusal::Malformed));
    }
    if txn.join_token(&token.sha256)?.is_some() {
        return Ok(Err(Refusal::AlreadyExists));
    }
    let expires_at = txn.now() + i64::from(command.ttl);
    txn.put_join_token(&JoinToken {
        sha256: token.sha256.clone(),
        expires_at,
    });
    let mut outcome = Outcome {
        expires_at,
        ..Outcome::default()
    };
    if let Some(alias) = &command.alias {
        let result = entry::create_one(txn, alias)?;
        // With an entry only where a similar one is there.
        let serves = command.similar_alias_serves && result.entry.is_some();
        if result.refusal() != Refusal::None && !serves {
            return Ok(Err(result.refusal()));
        }
        outcome.entries.push(result);
    }
    Ok(Ok(outcome))
}

/// Checks, consumes and records in one step: of two nodes that present one join
/// token at the same instant, one wins.
pub(super) fn attest(txn: &mut Txn<'_>, command: &AttestAgent) -> Ruling {
    if command.serial.is_empty() || command.path.is_empty() {
        return Ok(Err(Refusal::Malformed));
    }
    if !command.token_sha256.is_empty() {
        let Some(token) = txn.join_token(&command.token_sha256)? else {
            return Ok(Err(Refusal::TokenUnknown));
        };
        txn.remove_join_token(&token.sha256);
        if token.expires_at < txn.now() {
            return Ok(Err(Refusal::TokenExpired));
        }
    }
    let existing = txn.agent(&command.path)?;
    if existing.as_ref().is_some_and(Agent::is_banned) {
        return Ok(Err(Refusal::AgentBanned));
    }
    let mut selectors = command.selectors.clone();
    selectors.sort();
    selectors.dedup();
    let (sequence, agent_version) = match existing {
        Some(agent) => (agent.sequence, agent.agent_version),
        None => (txn.next_sequence()?, String::new()),
    };
    txn.put_agent(&Agent {
        path: command.path.clone(),
        sequence,
        attestation_type: command.attestation_type.clone(),
        selectors,
        serial: command.serial.clone(),
        expires_at: command.expires_at,
        pending: Vec::new(),
        can_reattest: command.can_reattest,
        agent_version,
    });
    Ok(Ok(Outcome::default()))
}

/// The new serial waits beside the current one until its first use. Renewal and
/// ban meet here, so one of them is first.
pub(super) fn renew(txn: &mut Txn<'_>, command: &RenewAgent) -> Ruling {
    let Some(mut agent) = txn.agent(&command.path)? else {
        return Ok(Err(Refusal::NotFound));
    };
    if agent.is_banned() {
        return Ok(Err(Refusal::AgentBanned));
    }
    if agent.can_reattest {
        return Ok(Err(Refusal::AgentMustReattest));
    }
    agent.pending.push(PendingSvid {
        serial: command.serial.clone(),
        expires_at: command.expires_at,
    });
    let surplus = agent.pending.len().saturating_sub(Agent::PENDING_MAX);
    agent.pending.drain(..surplus);
    txn.put_agent(&agent);
    Ok(Ok(Outcome::default()))
}

/// Makes pending serials current and drops those older than them. What is no
/// longer pending is skipped: another node was first, or the agent is gone.
pub(super) fn activate(txn: &mut Txn<'_>, command: &ActivateAgents) -> Ruling {
    for activation in &command.activations {
        let Some(mut agent) = txn.agent(&activation.path)? else {
            continue;
        };
        let Some(at) = agent
            .pending
            .iter()
            .position(|p| p.serial == activation.serial)
        else {
            continue;
        };
        let mut newer = agent.pending.split_off(at);
        let current = newer.remove(0);
        agent.serial = current.serial;
        agent.expires_at = current.expires_at;
        agent.pending = newer;
        txn.put_agent(&agent);
    }
    Ok(Ok(Outcome::default()))
}

pub(super) fn ban(txn: &mut Txn<'_>, command: &AgentPath) -> Ruling {
    let Some(mut agent) = txn.agent(&command.path)? else {
        return Ok(Err(Refusal::NotFound));
    };
    agent.serial.clear();
    agent.pending.clear();
    txn.put_agent(&agent);
    Ok(Ok(Outcome::default()))
}

/// A ban of another server's. An agent that never came here gets a record without a serial, which
/// keeps it from attesting; one that is known here is banned and keeps what is known of it.
pub(super) fn import_ban(txn: &mut Txn<'_>, command: &ImportBan) -> Ruling {
    if command.path.is_empty() {
        return Ok(Err(Refusal::Malformed));
    }
    let agent = match txn.agent(&command.path)? {
        Some(agent) => Agent {
            serial: String::new(),
            pending: Vec::new(),
            ..agent
        },
        None => {
            let mut selectors = command.selectors.clone();
            selectors.sort();
            selectors.dedup();
            Agent {
                path: command.path.clone(),
                sequence: txn.next_sequence()?,
                attestation_type: command.attestation_type.clone(),
                selectors,
                can_reattest: command.can_reattest,
                expires_at: command.expires_at,
                ..Agent::default()
            }
        }
    };
    txn.put_agent(&agent);
    Ok(Ok(Outcome::default()))
}

pub(super) fn delete(txn: &mut Txn<'_>, command: &AgentPath) -> Ruling {
    let Some(agent) = txn.agent(&command.path)? else {
        return Ok(Err(Refusal::NotFound));
    };
    remove(txn, &agent)?;
    Ok(Ok(Outcome::default()))
}

/// Evicts those of the candidates whose SVID ended long enough ago by the cluster
/// clock. A banned agent stays: its record is the ban.
pub(super) fn prune(txn: &mut Txn<'_>, command: &PruneAgents) -> Ruling {
    if command.expired_for < 0 {
        return Ok(Err(Refusal::Malformed));
    }
    txn.forget_deleted_entries()?;
    let before = txn.now().saturating_sub(command.expired_for);
    let mut outcome = Outcome::default();
    let mut room = entry::Room::new();
    for path in &command.paths {
        let Some(agent) = txn.agent(path)? else {
            continue;
        };
        let may_come_back = agent.can_reattest || command.include_non_reattestable;
        if agent.is_banned() || !may_come_back || agent.expires_at >= before {
            continue;
        }
        outcome.removed += 1;
        for alias in remove(txn, &agent)? {
            // They are there to be told of in a log, and their number has no bound.
            let result = room.fit(entry::gone(alias));
            if result.entry.is_some() {
                outcome.entries.push(result);
            }
        }
    }
    Ok(Ok(outcome))
}

/// Removes the agent, and with a join-token agent the entry that gave it its
/// second name, which it returns.
fn remove(txn: &mut Txn<'_>, agent: &Agent) -> Result<Vec<Entry>, StoreError> {
    txn.remove_agent(agent);
    let mut aliases = Vec::new();
    if agent.attestation_type == Agent::JOIN_TOKEN
        && let Some(cluster) = txn.cluster()?
    {
        for entry in txn.entries_of_parent(&agent.path, ALIAS_SCAN)? {
            if entry.is_join_token_alias(&cluster.trust_domain) {
                txn.remove_entry(&entry);
                aliases.push(entry);
            }
        }
    }
    Ok(aliases)
}

/// Deletes those of the candidates that ended long enough ago by the cluster clock.
pub(super) fn prune_join_tokens(txn: &mut Txn<'_>, command: &PruneJoinTokens) -> Ruling {
    if command.expired_for < 0 {
        return Ok(Err(Refusal::Malformed));
    }
    let before = txn.now().saturating_sub(command.expired_for);
    let mut outcome = Outcome::default();
    for sha256 in &command.sha256 {
        if txn
            .join_token(sha256)?
            .is_some_and(|token| token.expires_at < before)
        {
            txn.remove_join_token(sha256);
            outcome.removed += 1;
        }
    }
    Ok(Ok(outcome))
}

pub(super) fn set_version(txn: &mut Txn<'_>, command: &SetAgentVersion) -> Ruling {
    let Some(mut agent) = txn.agent(&command.path)? else {
        return Ok(Err(Refusal::NotFound));
    };
    if agent.agent_version != command.version {
        agent.agent_version.clone_from(&command.version);
        txn.put_agent(&agent);
    }
    Ok(Ok(Outcome::default()))
}
