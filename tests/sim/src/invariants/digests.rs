//! At the same log entry every node holds the same state, which is that of the log.

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Digests;

impl Invariant for Digests {
    fn name(&self) -> &'static str {
        "state digests are equal at equal log entries"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Applied {
            node,
            index,
            digest,
            ..
        } = event
        else {
            return Ok(());
        };
        match facts.reference.at(*index) {
            Some(committed) if committed.digest != *digest => Err(format!(
                "node {node} holds another state at log entry {index} than the log makes"
            )),
            _ => Ok(()),
        }
    }
}
