//! A node's state is at least as new as it claims: whatever was acknowledged before
//! the moment that it names is in it (DESIGN §5).

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Freshness;

impl Invariant for Freshness {
    fn name(&self) -> &'static str {
        "the age of a state is honest"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Fresh {
            node,
            as_of,
            applied,
            ..
        } = event
        else {
            return Ok(());
        };
        let acknowledged = facts.acknowledged_before(*as_of);
        if *applied < acknowledged {
            return Err(format!(
                "node {node} claims a state as of {} ms and stands at log entry {applied}; \
                 {acknowledged} was acknowledged before",
                as_of.as_millis()
            ));
        }
        Ok(())
    }
}
