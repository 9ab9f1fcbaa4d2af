//! A vote is on the disk before it is given, and the disk's vote never goes back (Raft
//! §5.2): a node that forgot its vote could give a second one in the same term.

use std::collections::BTreeMap;

use chancery_raft_store::codec;
use chancery_raft_store::log::key;
use chancery_raft_store::store::Column;
use chancery_raft_store::types::Vote;

use super::{Event, Invariant};
use crate::observer::Facts;

/// Term, candidate, and whether a quorum gave it.
type Rank = (u64, u64, bool);

#[derive(Default)]
pub(super) struct Votes {
    stored: BTreeMap<u64, Rank>,
}

fn rank(vote: &Vote) -> Rank {
    (vote.leader_id.term, vote.leader_id.node_id, vote.committed)
}

impl Invariant for Votes {
    fn name(&self) -> &'static str {
        "a vote is stored before it is given, and never goes back"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        match event {
            Event::VoteStored { node, vote } => {
                let now = rank(vote);
                match self.stored.insert(*node, now) {
                    Some(before) if now < before => Err(format!(
                        "node {node} stored vote {now:?} over vote {before:?}"
                    )),
                    _ => Ok(()),
                }
            }
            Event::Voted { node, answer } if answer.granted => {
                let Some(vote) = &answer.vote else {
                    return Err(format!("node {node} gave no vote"));
                };
                let now = (vote.term, vote.node_id, vote.committed);
                let on_disk = facts.disks.get(node).and_then(|disk| {
                    let content = disk.content();
                    let bytes = content.durable.value(Column::Raft, key::VOTE)?;
                    codec::decode_vote(bytes).ok().as_ref().map(rank)
                });
                if on_disk.is_none_or(|stored| stored < now) {
                    return Err(format!(
                        "node {node} gave vote {now:?} while its disk says {on_disk:?}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
