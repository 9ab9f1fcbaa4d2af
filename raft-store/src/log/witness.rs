//! What this node has seen of its peers, so that one that comes back with less is
//! known for what it is: rolled back.
//!
//! A node whose whole data directory was put back, high-water mark included, cannot
//! tell; whoever it spoke to before can. The memory is written in one batch with each
//! vote that this node gives, and when the log is purged: what a candidate or a
//! leader said of itself is durable with the vote that it was given. What came
//! after that is lost when this node stops, and a majority that is rolled back
//! together has nobody who remembers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;

use super::Position;
use crate::codec;
use crate::store::StoreError;
use crate::types::Vote;

/// What a node says of itself, all of it durable there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Number of its start.
    pub boot: u64,
    /// Its vote.
    pub vote: Option<Vote>,
    /// Index of its last log entry. Goes back when a new leader truncates.
    pub last: Option<u64>,
    /// Up to this index its log does not go back while its vote stays.
    pub firm: Option<u64>,
    /// Up to this index its log never goes back.
    pub committed: Option<u64>,
}

/// The most that was seen of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Number of its start.
    pub boot: u64,
    /// Its vote.
    pub vote: Option<Vote>,
    /// The highest firm index under that vote.
    pub firm: Option<u64>,
    /// The highest committed index.
    pub committed: Option<u64>,
}

impl Sighting {
    /// Takes in what the node says of itself, or what is known of it otherwise: parts
    /// that are absent change nothing.
    pub fn absorb(&mut self, claim: &Claim) {
        self.boot = self.boot.max(claim.boot);
        if claim.vote > self.vote {
            // Another leader may truncate what was firm under the one before.
            let same = leader_of(self.vote) == leader_of(claim.vote);
            self.vote = claim.vote;
            self.firm = if same {
                self.firm.max(claim.firm)
            } else {
                claim.firm
            };
        } else if leader_of(claim.vote) == leader_of(self.vote) {
            self.firm = self.firm.max(claim.firm);
        }
        self.committed = self.committed.max(claim.committed);
    }

    /// How the node that now says `claim` has less than was seen of it; `None` if it
    /// has not.
    pub fn missing_in(&self, claim: &Claim) -> Option<String> {
        let index = |i: Option<u64>| i.map_or("nothing".to_owned(), |i| format!("log entry {i}"));
        if claim.boot < self.boot {
            return Some(format!(
                "it is at its start {}, and was seen at start {}",
                claim.boot, self.boot
            ));
        }
        if claim.vote < self.vote {
            let text = |v: Option<Vote>| {
                v.map_or("no vote".to_owned(), |v| {
                    format!(
                        "the vote for node {} in term {}",
                        v.leader_id.node_id, v.leader_id.term
                    )
                })
            };
            return Some(format!(
                "it has {}, and was seen with {}",
                text(claim.vote),
                text(self.vote)
            ));
        }
        let firm = if leader_of(claim.vote) == leader_of(self.vote) {
            self.firm.max(self.committed)
        } else {
            self.committed
        };
        (claim.last < firm).then(|| {
            format!(
                "its log ends with {}, and was seen to hold {}",
                index(claim.last),
                index(firm)
            )
        })
    }
}

fn leader_of(vote: Option<Vote>) -> Option<(u64, u64)> {
    vote.map(|v| (v.leader_id.term, v.leader_id.node_id))
}

#[derive(Clone, PartialEq, Message)]
struct Rows {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Row>,
}

#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(uint64, tag = "1")]
    node_id: u64,
    #[prost(uint64, tag = "2")]
    boot: u64,
    #[prost(bytes = "vec", optional, tag = "3")]
    vote: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "4")]
    firm: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    committed: Option<u64>,
}

/// The memory of one node, and what it may say of itself. Cheap to clone.
#[derive(Clone)]
pub struct Witness {
    position: Arc<Mutex<Position>>,
    seen: Arc<Mutex<BTreeMap<u64, Sighting>>>,
}

impl Witness {
    pub(super) fn new(
        position: Arc<Mutex<Position>>,
        stored: Option<Vec<u8>>,
    ) -> Result<Self, StoreError> {
        let bad = |_| StoreError::corrupt("what was seen of other nodes does not decode");
        let rows = Rows::decode(stored.unwrap_or_default().as_slice()).map_err(bad)?;
        let mut seen = BTreeMap::new();
        for row in rows.nodes {
            let vote = row.vote.map(|b| codec::decode_vote(&b)).transpose()?;
            let sighting = Sighting {
                boot: row.boot,
                vote,
                firm: row.firm,
                committed: row.committed,
            };
            seen.insert(row.node_id, sighting);
        }
        Ok(Self {
            position,
            seen: Arc::new(Mutex::new(seen)),
        })
    }

    /// For the store; `None` while nobody was seen.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let seen = self.seen();
        if seen.is_empty() {
            return None;
        }
        let nodes = seen.iter().map(|(node_id, s)| Row {
            node_id: *node_id,
            boot: s.boot,
            vote: s.vote.as_ref().map(codec::encode_vote),
            firm: s.firm,
            committed: s.committed,
        });
        let rows = Rows {
            nodes: nodes.collect(),
        };
        Some(rows.encode_to_vec())
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<u64, Sighting>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node may say of itself at its start `boot`, with everything up to
    /// `applied` known to be committed.
    pub fn claim(&self, boot: u64, applied: u64) -> Claim {
        let position = *self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let last = position.last.map(|id| id.index);
        let committed = last.map(|last| last.min(applied));
        // Log entries of the leader voted for stay as long as it leads; older ones may
        // yet be truncated by it.
        let of_leader = position
            .vote
            .zip(position.last)
            .is_some_and(|(vote, last)| vote.committed && vote.leader_id == last.leader_id);
        Claim {
            boot,
            vote: position.vote,
            last,
            firm: if of_leader { last } else { committed },
            committed,
        }
    }

    /// What was seen of a node.
    pub fn seen_of(&self, node: u64) -> Option<Sighting> {
        self.seen().get(&node).copied()
    }

    /// Takes in what is known of a node.
    pub fn absorb(&self, node: u64, claim: &Claim) {
        self.seen().entry(node).or_default().absorb(claim);
    }

    /// Takes in what a node says of itself, unless it is at an older start, or at a
    /// newer one with less than was seen of it.
    ///
    /// Calls overtake each other: less from the start that was seen before may be old
    /// news, and is passed over; see [`Witness::vouch`].
    ///
    /// # Errors
    /// What is missing, and what was seen.
    pub fn meet(&self, node: u64, claim: &Claim) -> Result<(), (String, Sighting)> {
        let mut seen = self.seen();
        let sighting = seen.entry(node).or_default();
        if claim.boot != sighting.boot
            && let Some(missing) = sighting.missing_in(claim)
        {
            return Err((missing, *sighting));
        }
        sighting.absorb(claim);
        Ok(())
    }

    /// Whether a node, by what it says of itself, has all that was seen of it. For the
    /// calls of a candidate, which may be refused for old news without harm.
    ///
    /// # Errors
    /// What is missing, and what was seen.
    pub fn vouch(&self, node: u64, claim: &Claim) -> Result<(), (String, Sighting)> {
        let Some(sighting) = self.seen_of(node) else {
            return Ok(());
        };
        let missing = sighting.missing_in(claim);
        missing.map_or(Ok(()), |missing| Err((missing, sighting)))
    }
}

#[cfg(test)]
mod tests {
    use openraft::impls::leader_id_adv::LeaderId;

    use super::*;

    fn vote(term: u64, node_id: u64, committed: bool) -> Option<Vote> {
        Some(Vote {
            leader_id: LeaderId { term, node_id },
            committed,
        })
    }

    fn claim(boot: u64, term: u64, last: u64, firm: u64, committed: u64) -> Claim {
        Claim {
            boot,
            vote: vote(term, 1, true),
            last: Some(last),
            firm: Some(firm),
            committed: Some(committed),
        }
    }

    #[test]
    fn who_has_less_than_was_seen_is_rolled_back_and_who_truncated_is_not() {
        let mut seen = Sighting::default();
        seen.absorb(&claim(3, 7, 20, 20, 15));
        for (what, now, missing) in [
            ("as it was", claim(3, 7, 20, 20, 15), None),
            ("restarted", claim(4, 7, 20, 15, 0), None),
            ("further", claim(4, 8, 30, 30, 30), None),
            ("truncated by another leader", claim(4, 8, 16, 16, 15), None),
            ("an older start", claim(2, 7, 20, 20, 15), Some("start 2")),
            ("an older vote", claim(4, 6, 20, 20, 15), Some("term 6")),
            (
                "a shorter log",
                claim(4, 7, 19, 15, 15),
                Some("log entry 19, and was seen to hold log entry 20"),
            ),
            (
                "less than committed",
                claim(4, 8, 14, 14, 14),
                Some("log entry 15"),
            ),
            (
                "no log",
                Claim {
                    last: None,
                    ..claim(4, 8, 0, 0, 0)
                },
                Some("nothing"),
            ),
            (
                "a vote that is not elected any more",
                Claim {
                    vote: vote(7, 1, false),
                    ..claim(4, 7, 20, 20, 15)
                },
                Some("term 7"),
            ),
        ] {
            let found = seen.missing_in(&now);
            assert_eq!(found.is_some(), missing.is_some(), "{what}: {found:?}");
            if let (Some(found), Some(part)) = (found, missing) {
                assert!(found.contains(part), "{what}: {found}");
            }
        }
    }

    #[test]
    fn what_was_firm_under_one_leader_is_not_under_the_next() {
        let mut seen = Sighting::default();
        seen.absorb(&claim(3, 7, 20, 20, 15));
        seen.absorb(&claim(3, 8, 18, 15, 15));
        assert_eq!((seen.firm, seen.committed), (Some(15), Some(15)));
        // An acknowledgement says nothing of start and commit.
        let acknowledged = Claim {
            firm: Some(19),
            vote: vote(8, 1, true),
            ..Claim::default()
        };
        seen.absorb(&acknowledged);
        assert_eq!(
            (seen.boot, seen.firm, seen.committed),
            (3, Some(19), Some(15))
        );
        // A late word of an earlier time changes nothing.
        seen.absorb(&claim(2, 7, 20, 20, 12));
        assert_eq!(
            (seen.boot, seen.vote, seen.firm),
            (3, vote(8, 1, true), Some(19))
        );
    }
}
