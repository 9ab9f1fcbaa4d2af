//! Whether a cluster from which a disk is gone for good can have a leader again by itself.
//!
//! Raft lets any server stand for election, also one that is not in the newest membership
//! of its own log (dissertation §4.2.2); openraft lets only voters of that membership stand.
//! So where a leader is lost for good in the middle of a change of voters, and the last of
//! its log reached learners alone, nobody may be left that could win: who may stand lacks
//! log entries that those have whose votes it needs. What helps then is `chancery cluster
//! recover` on the node with the newest log; that loses nothing which was acknowledged,
//! because a leader's log had it all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chancery_raft_store::codec;
use chancery_raft_store::log::key;
use chancery_raft_store::store::{Column, StoreError};
use chancery_raft_store::types::LogId;
use chancery_raft_store::view::{Table, meta};
use openraft::EntryPayload;
use tokio::time::sleep;

use crate::disk::Columns;
use crate::observer::state_column;
use crate::world::{Stuck, World};

/// In this time whatever is on its way arrives, and a cluster that can elects a leader.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// What a node brings into an election.
#[derive(Clone, Debug)]
pub struct Ballot {
    /// Its newest log entry.
    last: Option<LogId>,
    /// Sets of voters by the newest membership in its log, committed or not.
    voters: Vec<BTreeSet<u64>>,
}

impl Ballot {
    /// Reads it from a node's disk.
    ///
    /// # Errors
    /// A row that does not decode.
    pub fn read(disk: &Columns) -> Result<Self, StoreError> {
        let mut voters = None;
        let mut last = None;
        for (_, bytes) in disk.rows(Column::Log) {
            let entry = codec::decode_log_entry(bytes)?;
            last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = &entry.payload {
                voters = Some(membership.get_joint_config().clone());
            }
        }
        let state = |name| disk.value(state_column(disk), &Table::Meta.key(name));
        let applied = state(meta::APPLIED).map(|bytes| codec::decode_log_id(bytes));
        let purged = disk.value(Column::Raft, key::PURGED);
        let purged = purged.map(|bytes| codec::decode_log_id(bytes));
        for id in [applied, purged].into_iter().flatten() {
            last = last.max(Some(id?));
        }
        let stored = state(meta::MEMBERSHIP).map(|bytes| codec::decode_membership(bytes));
        let voters = match (voters, stored) {
            (Some(voters), _) => voters,
            (None, Some(stored)) => stored?.membership().get_joint_config().clone(),
            (None, None) => Vec::new(),
        };
        Ok(Self { last, voters })
    }
}

/// Nodes that could win an election among `ballots`: voters of their own newest membership
/// whose log is no older than that of a majority of each of its sets.
fn electable(ballots: &BTreeMap<u64, Ballot>) -> Vec<u64> {
    let wins = |id: &u64, own: &Ballot| {
        let grants = |voter: &u64| ballots.get(voter).is_some_and(|b| b.last <= own.last);
        own.voters.iter().any(|set| set.contains(id))
            && own.voters.iter().all(|set| {
                let votes = set.iter().filter(|voter| grants(voter)).count();
                votes * 2 > set.len()
            })
    };
    let candidates = ballots.iter().filter(|(id, own)| wins(id, own));
    candidates.map(|(id, _)| *id).collect()
}

fn ballots(world: &World) -> Result<BTreeMap<u64, Ballot>, Stuck> {
    let machines = world.machines();
    let running = machines.values().filter(|m| m.running().is_some());
    running
        .map(|machine| {
            let ballot = Ballot::read(&machine.disk.content().visible);
            let ballot = ballot.map_err(|e| Stuck(format!("disk of {}: {e}", machine.id)))?;
            Ok((machine.id, ballot))
        })
        .collect()
}

/// Waits until a cluster whose faults are over has come to rest; the node with the newest
/// log if nobody can be elected.
///
/// # Errors
/// Nobody can be elected although no disk is lost, or an invariant broke.
pub async fn survivor(world: &World) -> Result<Option<u64>, Stuck> {
    let until = world.executor().now() + SETTLED_WITHIN;
    loop {
        if let Some(violation) = world.observer().violation() {
            return Err(Stuck(violation));
        }
        let ballots = ballots(world)?;
        if !electable(&ballots).is_empty() {
            return Ok(None);
        }
        if world.executor().now() >= until {
            let lost = world.machines().values().any(|m| m.disk.is_damaged());
            if !lost {
                return Err(Stuck(format!("nobody can be elected: {ballots:?}")));
            }
            let newest = ballots.iter().max_by_key(|(_, ballot)| ballot.last);
            return Ok(newest.map(|(id, _)| *id));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use openraft::impls::leader_id_adv::LeaderId;

    use super::*;

    fn ballot(term: u64, leader: u64, index: u64, voters: &[&[u64]]) -> Ballot {
        let leader = LeaderId {
            term,
            node_id: leader,
        };
        Ballot {
            last: Some(LogId::new(leader, index)),
            voters: voters
                .iter()
                .map(|set| set.iter().copied().collect())
                .collect(),
        }
    }

    #[test]
    fn a_majority_with_logs_that_are_no_newer_elects() {
        let voters: &[&[u64]] = &[&[1, 2, 3]];
        let all = BTreeMap::from([
            (1, ballot(4, 1, 9, voters)),
            (2, ballot(4, 1, 8, voters)),
            (3, ballot(3, 2, 12, voters)),
        ]);
        assert_eq!(electable(&all), [1, 2]);
        let one = BTreeMap::from([(1, ballot(4, 1, 9, voters))]);
        assert_eq!(electable(&one), [] as [u64; 0]);
    }

    #[test]
    fn a_leader_lost_when_learners_alone_had_its_last_entries_leaves_nobody() {
        // Node 2 led in term 5 and is lost. Node 3 has the change to 2, 3 and 4 of the
        // term before; node 4 does not know that it is to vote.
        let before: &[&[u64]] = &[&[1, 2, 3]];
        let change: &[&[u64]] = &[&[1, 2, 3], &[2, 3, 4]];
        let mut left = BTreeMap::from([
            (1, ballot(4, 3, 18, before)),
            (3, ballot(4, 3, 20, change)),
            (4, ballot(5, 2, 19, before)),
            (5, ballot(5, 2, 19, before)),
        ]);
        assert_eq!(electable(&left), [] as [u64; 0]);
        // Had the entry not reached node 4, node 3 would win.
        left.insert(4, ballot(4, 3, 18, before));
        assert_eq!(electable(&left), [3]);
    }
}
