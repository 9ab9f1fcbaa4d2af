//! A follower says that it has log entries only when they are synced (Raft §5.3).

use chancery_api::chancery::peer::v1 as wire;
use chancery_api::chancery::peer::v1::append_response::Kind;
use chancery_raft_store::codec;
use chancery_raft_store::log::key;
use chancery_raft_store::store::Column;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct DurableAppend;

impl Invariant for DurableAppend {
    fn name(&self) -> &'static str {
        "an acknowledged append is synced"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Appended {
            node,
            request,
            answer,
        } = event
        else {
            return Ok(());
        };
        let until = match answer.kind() {
            Kind::Success => u64::MAX,
            Kind::Partial => answer.matched.as_ref().map_or(0, |id| id.index),
            Kind::Unspecified | Kind::Conflict | Kind::HigherVote => return Ok(()),
        };
        let Some(disk) = facts.disks.get(node) else {
            return Ok(());
        };
        let content = disk.content();
        let raft = |name| content.durable.value(Column::Raft, name);
        let newer_leader = raft(key::VOTE)
            .and_then(|bytes| codec::decode_vote(bytes).ok())
            .zip(request.vote.as_ref())
            .is_some_and(|(stored, asked)| is_newer(&stored, asked));
        let purged = raft(key::PURGED).and_then(|bytes| codec::decode_log_id(bytes).ok());
        for bytes in &request.entries {
            let entry = codec::decode_log_entry(bytes).map_err(|e| e.to_string())?;
            let index = entry.log_id.index;
            if index > until || purged.is_some_and(|id| id.index >= index) {
                continue;
            }
            let stored = content.durable.value(Column::Log, &index.to_be_bytes());
            // A newer leader may have replaced it before the answer left.
            if stored != Some(bytes) && !newer_leader {
                return Err(format!(
                    "node {node} acknowledged log entry {index}, which is not on its disk"
                ));
            }
        }
        Ok(())
    }
}

fn is_newer(stored: &chancery_raft_store::types::Vote, asked: &wire::Vote) -> bool {
    (stored.leader_id.term, stored.leader_id.node_id) > (asked.term, asked.node_id)
}
