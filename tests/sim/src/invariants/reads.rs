//! A read behind a barrier sees every write that anybody was told of before it began,
//! and sees exactly the state of one log entry.

use prost::Message as _;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Reads;

impl Invariant for Reads {
    fn name(&self) -> &'static str {
        "reads behind a barrier are linearizable"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Read {
            node,
            acknowledged,
            applied,
            id,
            found,
        } = event
        else {
            return Ok(());
        };
        if applied < acknowledged {
            return Err(format!(
                "node {node} answered from log entry {applied} while {acknowledged} was acknowledged before"
            ));
        }
        // The applying leader may be ahead of its own disk, and so of the reference.
        if *applied >= facts.reference.next() {
            return Ok(());
        }
        let logged = facts.reference.entry_at(id, *applied);
        if logged != found.as_ref() {
            let shown = |bytes: Option<&Vec<u8>>| {
                let entry = bytes.map(|b| chancery_raft_store::model::Entry::decode(b.as_slice()));
                format!("{entry:?}")
            };
            return Err(format!(
                "node {node} says of entry {id} at log entry {applied} {}; the log says {}",
                shown(found.as_ref()),
                shown(logged)
            ));
        }
        Ok(())
    }
}
