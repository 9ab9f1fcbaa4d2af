//! A log entry is applied anywhere only when it is on the disks of a majority of the
//! voters, synced (Raft §5.3; DESIGN: acknowledged after it is on the disks of a
//! majority).

use chancery_raft_store::codec;
use chancery_raft_store::log::key;
use chancery_raft_store::store::Column;

use super::{Event, Invariant};
use crate::disk::Columns;
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Commit;

/// Whether a log entry is in a log, or was and is purged.
fn holds(disk: &Columns, index: u64, bytes: &[u8]) -> bool {
    let stored = disk.value(Column::Log, &index.to_be_bytes());
    let purged = disk
        .value(Column::Raft, key::PURGED)
        .and_then(|bytes| codec::decode_log_id(bytes).ok());
    stored.is_some_and(|stored| stored == bytes) || purged.is_some_and(|id| id.index >= index)
}

impl Invariant for Commit {
    fn name(&self) -> &'static str {
        "what is applied is synced on a majority"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Committed { index, committed } = event else {
            return Ok(());
        };
        // Both sets of a joint membership commit the entry that begins it. What follows may
        // be committed by its end, where the new voters alone count.
        let sets = &facts.reference.membership().voters;
        let needed = match committed.membership {
            Some(_) => sets.as_slice(),
            None => sets.last().map(std::slice::from_ref).unwrap_or_default(),
        };
        for voters in needed {
            let holders: Vec<u64> = voters
                .iter()
                .filter(|voter| {
                    let disk = facts.disks.get(voter).map(|disk| disk.content());
                    disk.is_some_and(|disk| holds(&disk.durable, *index, &committed.bytes))
                })
                .copied()
                .collect();
            if holders.len() * 2 <= voters.len() {
                return Err(format!(
                    "log entry {index} was applied while only {holders:?} of {voters:?} had it on the disk"
                ));
            }
        }
        Ok(())
    }
}
