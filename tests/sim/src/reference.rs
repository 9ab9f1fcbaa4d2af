//! The log as it was committed, and the state that it makes.
//!
//! Log entries enter in the order of the log, each when the first node has applied
//! it. The state is a plain map, changed by the real `apply`: what a node should hold
//! after any log entry, and what a caller should have been told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chancery_raft_store::apply::{apply, fold_digest};
use chancery_raft_store::codec;
use chancery_raft_store::command::{Command, Outcome, Proposal, RequestId};
use chancery_raft_store::model::{Cluster, Member, MemberRole};
use chancery_raft_store::store::{Row, StoreError};
use chancery_raft_store::types::LogEntry;
use chancery_raft_store::view::{Table, View, Writes, meta};
use openraft::EntryPayload;
use prost::Message;

/// A committed log entry.
#[derive(Clone, Debug)]
pub struct Committed {
    /// As it is stored.
    pub bytes: Vec<u8>,
    /// State digest behind it.
    pub digest: Vec<u8>,
    /// Cluster clock behind it, Unix milliseconds.
    pub clock_ms: i64,
    /// Who led when it was made.
    pub leader: u64,
    /// What it proposed, if it is no entry of Raft's own.
    pub proposed: Option<Proposed>,
    /// Raft's membership from here on, if this entry changed it.
    pub membership: Option<Arc<Membership>>,
}

/// Raft's membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Sets of voters, a majority of each of which must agree: two while a change is under
    /// way.
    pub voters: Vec<BTreeSet<u64>>,
    /// Who follows without a vote.
    pub learners: BTreeSet<u64>,
}

/// A committed proposal.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// [`key_of`] its command.
    pub key: Vec<u8>,
    /// The command.
    pub command: Option<Command>,
    /// Who asked.
    pub request: Option<RequestId>,
    /// What the caller is to be told.
    pub outcome: Outcome,
    /// The request was in the log before.
    pub repeated: bool,
    /// Rows that it wrote.
    pub rows: usize,
}

/// Names a command by its content, whoever proposes it when.
pub fn key_of(proposal: &Proposal) -> Vec<u8> {
    let bare = Proposal {
        request: None,
        time_ms: 0,
        clocks: Vec::new(),
        ..proposal.clone()
    };
    codec::encode_proposal(&bare)
}

/// Values of a row, by log index.
type History = Vec<(u64, Option<Vec<u8>>)>;

/// The committed log and its state.
#[derive(Default)]
pub struct Reference {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    log: Vec<Committed>,
    /// Where a command took effect first.
    placed: BTreeMap<Vec<u8>, u64>,
    requests: BTreeMap<RequestId, u64>,
    /// Values that a row of an entry has had, by log index.
    entries: BTreeMap<Vec<u8>, History>,
    membership: Arc<Membership>,
}

struct Map<'a>(&'a BTreeMap<Vec<u8>, Vec<u8>>);

impl View for Map<'_> {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn rows(&self, prefix: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.0.range(prefix.to_vec()..);
        Ok(rows
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

impl Reference {
    /// Index of the next log entry.
    pub fn next(&self) -> u64 {
        self.log.len() as u64
    }

    /// The committed log entry at an index.
    pub fn at(&self, index: u64) -> Option<&Committed> {
        self.log.get(usize::try_from(index).ok()?)
    }

    /// Index at which a command took effect, and what its caller is to be told.
    pub fn placed(&self, key: &[u8]) -> Option<(u64, &Outcome)> {
        let index = *self.placed.get(key)?;
        let outcome = &self.at(index)?.proposed.as_ref()?.outcome;
        Some((index, outcome))
    }

    /// The entry `id`, encoded, as it was behind the log entry at `index`.
    pub fn entry_at(&self, id: &str, index: u64) -> Option<&Vec<u8>> {
        let history = self.entries.get(&Table::Entries.key(id.as_bytes()))?;
        let before = history.iter().take_while(|(at, _)| *at <= index);
        before.last()?.1.as_ref()
    }

    /// Every row but those that tell of Raft.
    pub fn rows(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.rows
    }

    /// Raft's membership at the end of the committed log.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// The records of the members.
    pub fn members(&self) -> Vec<Member> {
        let prefix = Table::Members.key(&[]);
        let rows = self.rows.range(prefix.clone()..);
        rows.take_while(|(key, _)| key.starts_with(&prefix))
            .filter_map(|(_, value)| Member::decode(value.as_slice()).ok())
            .collect()
    }

    /// The members that are to vote and those that are to follow, by their records; `None`
    /// while one is to leave.
    pub fn declared(&self) -> Option<Membership> {
        let founding = self.cluster().founding_peers;
        let (mut voters, mut learners) = (BTreeSet::new(), BTreeSet::new());
        for member in self.members() {
            if member.wanted() == MemberRole::Leaving {
                return None;
            }
            if member.is_wanted_voter(&founding) {
                voters.insert(member.node_id);
            } else {
                learners.insert(member.node_id);
            }
        }
        Some(Membership {
            voters: vec![voters],
            learners,
        })
    }

    fn cluster(&self) -> Cluster {
        let row = self.rows.get(&Table::Meta.key(meta::CLUSTER));
        row.and_then(|bytes| Cluster::decode(bytes.as_slice()).ok())
            .unwrap_or_default()
    }

    /// Takes in the next log entry of the committed log.
    pub fn commit(&mut self, entry: &LogEntry, bytes: Vec<u8>) -> Result<&Committed, String> {
        let index = self.next();
        if entry.log_id.index != index {
            return Err(format!(
                "log entry {} stands at {index}",
                entry.log_id.index
            ));
        }
        let before: &[u8] = self.log.last().map_or(&[], |last| &last.digest);
        let (writes, proposed) = match &entry.payload {
            EntryPayload::Blank | EntryPayload::Membership(_) => (Writes::new(), None),
            EntryPayload::Normal(proposal) => {
                let applied = apply(&Map(&self.rows), &Writes::new(), index, proposal)
                    .map_err(|e| format!("log entry {index} cannot be applied: {e}"))?;
                let repeated = proposal
                    .request
                    .is_some_and(|request| self.requests.insert(request, index).is_some());
                let proposed = Proposed {
                    key: key_of(proposal),
                    command: proposal.command.clone(),
                    request: proposal.request,
                    outcome: applied.outcome,
                    repeated,
                    rows: applied.writes.len(),
                };
                (applied.writes, Some(proposed))
            }
        };
        let digest = fold_digest(before, index, &writes);
        for (key, value) in writes {
            if Table::of(&key).is_some_and(|(table, _)| table == Table::Entries) {
                let history = self.entries.entry(key.clone()).or_default();
                history.push((index, value.clone()));
            }
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        if let Some(proposed) = &proposed {
            self.placed.entry(proposed.key.clone()).or_insert(index);
        }
        let membership = match &entry.payload {
            EntryPayload::Membership(membership) => Some(Arc::new(Membership {
                voters: membership.get_joint_config().clone(),
                learners: membership.learner_ids().collect(),
            })),
            EntryPayload::Blank | EntryPayload::Normal(_) => None,
        };
        if let Some(membership) = &membership {
            self.membership = Arc::clone(membership);
        }
        self.log.push(Committed {
            bytes,
            digest,
            clock_ms: self.cluster().clock_ms,
            leader: entry.log_id.leader_id.node_id,
            proposed,
            membership,
        });
        self.log
            .last()
            .ok_or_else(|| "unreachable: just pushed".to_owned())
    }
}
