//! A node id is given out once, and a node that was removed takes no part any more,
//! whether it has heard of it or not.

use std::collections::BTreeMap;
use std::time::Duration;

use chancery_raft_store::Command;
use chancery_raft_store::command::Refusal;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Removed {
    last_id: u64,
    /// Keys of nodes by id.
    keys: BTreeMap<u64, Vec<u8>>,
    /// Log entry and moment of the removal by id.
    removed: BTreeMap<u64, (u64, Duration)>,
}

impl Removed {
    fn committed(
        &mut self,
        index: u64,
        committed: &crate::reference::Committed,
        now: Duration,
    ) -> Result<(), String> {
        if self.removed.contains_key(&committed.leader) {
            return Err(format!(
                "log entry {index} is of node {}, which was removed",
                committed.leader
            ));
        }
        if let Some(membership) = &committed.membership {
            let mut ids = membership.voters.iter().flatten();
            let mut all = membership.learners.iter().chain(&mut ids);
            if let Some(id) = all.find(|id| self.removed.contains_key(id)) {
                return Err(format!(
                    "node {id} was removed and is in the membership again at log entry {index}"
                ));
            }
        }
        let Some(proposed) = &committed.proposed else {
            return Ok(());
        };
        if proposed.outcome.refusal() != Refusal::None || proposed.repeated {
            return Ok(());
        }
        match &proposed.command {
            Some(Command::AdmitMember(admitted)) => {
                let id = proposed.outcome.node_id;
                if id > self.last_id {
                    self.last_id = id;
                    self.keys.insert(id, admitted.spki_sha256.clone());
                    return Ok(());
                }
                if self.keys.get(&id) == Some(&admitted.spki_sha256)
                    && !self.removed.contains_key(&id)
                {
                    return Ok(());
                }
                Err(format!(
                    "node id {id} was given out again at log entry {index}"
                ))
            }
            Some(Command::Found(found)) => {
                self.last_id = proposed.outcome.node_id;
                let founder = found.founder.as_ref();
                self.keys.insert(
                    self.last_id,
                    founder.map(|f| f.spki_sha256.clone()).unwrap_or_default(),
                );
                Ok(())
            }
            Some(Command::RemoveMember(removed)) => {
                self.removed.insert(removed.node_id, (index, now));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Invariant for Removed {
    fn name(&self) -> &'static str {
        "a removed node takes no part, and its id is not used again"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        match event {
            Event::Committed { index, committed } => self.committed(*index, committed, facts.now),
            Event::Answered { call, index, .. } => match self.removed.get(&call.node) {
                Some((at, _)) if at < index => Err(format!(
                    "{call} was written at log entry {index}; the node was removed at {at}"
                )),
                _ => Ok(()),
            },
            Event::Fresh { node, as_of, .. } => match self.removed.get(node) {
                Some((at, when)) if when < as_of => Err(format!(
                    "node {node} calls its state as new as of {} ms; it was removed at {} ms, log entry {at}",
                    as_of.as_millis(),
                    when.as_millis()
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
