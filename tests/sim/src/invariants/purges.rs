//! A log entry is removed from the front of the log only when the state on the disk has
//! it, synced: a node that starts again could neither apply it nor find out that it is
//! missing. A snapshot covers no more than the state that it was made of, or that it
//! has become.

use chancery_raft_store::codec;
use chancery_raft_store::view::{Table, meta};

use super::{Event, Invariant};
use crate::observer::{Facts, state_column};

#[derive(Default)]
pub(super) struct Purges;

impl Invariant for Purges {
    fn name(&self) -> &'static str {
        "the log is purged only where the state covers it"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Purged { node, index } = event else {
            return Ok(());
        };
        let Some(disk) = facts.disks.get(node) else {
            return Ok(());
        };
        let content = disk.content();
        let column = state_column(&content.durable);
        let applied = content
            .durable
            .value(column, &Table::Meta.key(meta::APPLIED))
            .and_then(|bytes| codec::decode_log_id(bytes).ok());
        if applied.is_some_and(|id| id.index >= *index) {
            return Ok(());
        }
        Err(format!(
            "node {node} purged its log up to entry {index}, and its state on the disk ends at {:?}",
            applied.map(|id| id.index)
        ))
    }
}
