//! Counts changes of members as they are committed.

use std::collections::{BTreeMap, BTreeSet};

use chancery_raft_store::Command;
use chancery_raft_store::command::Refusal;

use crate::coverage::Met;
use crate::reference::Committed;

/// What is known of changes under way.
#[derive(Debug, Default)]
pub struct Changes {
    voters: BTreeSet<u64>,
    /// Token digests for a replacement, and whom it replaces.
    tokens: BTreeMap<Vec<u8>, u64>,
    /// Who was admitted in whose place, by whom it replaces.
    replaced_by: BTreeMap<u64, u64>,
    /// Log entries that said who is to leave.
    leaving: BTreeMap<u64, u64>,
}

impl Changes {
    /// What came to its end with a log entry. `applied` is what each node stands at.
    pub fn see(
        &mut self,
        index: u64,
        committed: &Committed,
        applied: &BTreeMap<u64, u64>,
    ) -> Vec<Met> {
        if let Some(membership) = &committed.membership
            && let [voters] = membership.voters.as_slice()
            && *voters != self.voters
        {
            self.voters.clone_from(voters);
            return vec![Met::VotersChanged];
        }
        let Some(proposed) = &committed.proposed else {
            return Vec::new();
        };
        if proposed.outcome.refusal() != Refusal::None || proposed.repeated {
            return Vec::new();
        }
        match &proposed.command {
            Some(Command::CreateNodeToken(create)) => {
                if let Some(token) = create.token.as_ref().filter(|token| token.replaces != 0) {
                    self.tokens.insert(token.sha256.clone(), token.replaces);
                }
            }
            Some(Command::AdmitMember(admit)) => {
                if let Some(replaced) = self.tokens.remove(&admit.token_sha256) {
                    self.replaced_by.insert(replaced, proposed.outcome.node_id);
                }
            }
            Some(Command::ChangeMembers(change)) => {
                for id in &change.remove {
                    self.leaving.entry(*id).or_insert(index);
                }
            }
            Some(Command::RemoveMember(remove)) => {
                let id = remove.node_id;
                let mut met = vec![Met::MemberRemoved];
                let heard = applied.get(&id).copied().unwrap_or(0);
                if self.leaving.get(&id).is_some_and(|said| heard < *said) {
                    met.push(Met::RemovedUnheard);
                }
                if self.replaced_by.remove(&id).is_some() {
                    met.push(Met::MemberReplaced);
                }
                return met;
            }
            _ => {}
        }
        Vec::new()
    }
}
