//! What one node has applied stands in the log of every other that has applied it
//! (Raft, State Machine Safety).

use std::collections::BTreeMap;

use chancery_raft_store::store::Column;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Agreement {
    /// Up to which log entry each node was looked at.
    seen: BTreeMap<u64, u64>,
}

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "nodes agree on what is committed"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Applied {
            node,
            index,
            installed,
            ..
        } = event
        else {
            return Ok(());
        };
        let seen = self.seen.insert(*node, *index).unwrap_or(0);
        // What a snapshot covers the log may contradict, until it is purged.
        let from = seen.min(*index).max(installed.map_or(0, |at| at + 1));
        let Some(disk) = facts.disks.get(node) else {
            return Ok(());
        };
        let content = disk.content();
        for at in from..=*index {
            let stored = content.visible.value(Column::Log, &at.to_be_bytes());
            let committed = facts.reference.at(at);
            // Purged, or applied by a leader before its own disk has it.
            let (Some(stored), Some(committed)) = (stored, committed) else {
                continue;
            };
            if *stored != committed.bytes {
                return Err(format!(
                    "node {node} has applied another log entry {at} than was committed"
                ));
            }
        }
        Ok(())
    }
}
