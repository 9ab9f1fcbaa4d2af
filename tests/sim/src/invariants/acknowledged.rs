//! Who was told that a write is done was told what the log says of it, and who was told
//! that nothing was written finds nothing in the log.
//!
//! That the write is in the log of every node in the end follows from
//! [`super::agreement`] and [`super::digests`].

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Acknowledged {
    /// Calls that were not written, by command.
    not_written: BTreeMap<Vec<u8>, u64>,
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "a caller is told what the log says"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        match event {
            Event::Answered {
                call,
                outcome,
                index,
                logged,
            } if outcome != logged => Err(format!(
                "{call} was answered {outcome:?}; log entry {index} made {logged:?}"
            )),
            Event::NotWritten { call } => {
                self.not_written.insert(call.key.clone(), call.number);
                match facts.reference.placed(&call.key) {
                    Some((index, _)) => Err(format!(
                        "{call} was told that nothing was written, and is log entry {index}"
                    )),
                    None => Ok(()),
                }
            }
            Event::Committed { index, committed } => {
                let key = committed.proposed.as_ref().map(|proposed| &proposed.key);
                match key.and_then(|key| self.not_written.get(key)) {
                    Some(call) => Err(format!(
                        "call {call} was told that nothing was written, and became log entry {index}"
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
