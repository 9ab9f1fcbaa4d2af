//! There is one leader of a term and candidate, and its log never forks (Raft §5.2,
//! §5.4).
//!
//! openraft orders leaders by term and node id, so that two nodes may lead one after
//! the other in terms of the same number; what must be unique is the pair. A node
//! that forgot that it led would lead again under the same pair with another log.

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::observer::Facts;

/// Term and node id.
type Leader = (u64, u64);

#[derive(Default)]
pub(super) struct Leaders {
    /// Log entries by who made them, and where they stand.
    made: BTreeMap<(Leader, u64), Vec<u8>>,
}

impl Invariant for Leaders {
    fn name(&self) -> &'static str {
        "one leader of a term, whose log does not fork"
    }

    fn see(&mut self, event: &Event<'_>, _: &Facts) -> Result<(), String> {
        let Event::Led { node, request } = event else {
            return Ok(());
        };
        let Some(vote) = &request.vote else {
            return Err(format!("node {node} leads without a vote"));
        };
        if vote.node_id != *node || !vote.committed {
            return Err(format!("node {node} leads by vote {vote:?}"));
        }
        for bytes in &request.entries {
            let entry = chancery_raft_store::codec::decode_log_entry(bytes)
                .map_err(|e| format!("node {node} sends {e}"))?;
            let leader = entry.log_id.leader_id;
            let place = ((leader.term, leader.node_id), entry.log_id.index);
            match self.made.get(&place) {
                None => {
                    self.made.insert(place, bytes.clone());
                }
                Some(known) if known == bytes => {}
                Some(_) => {
                    return Err(format!(
                        "node {node} sends another log entry {} of leader {:?} than was sent before",
                        place.1, place.0
                    ));
                }
            }
        }
        Ok(())
    }
}
