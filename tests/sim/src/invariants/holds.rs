//! From the moment on that a node names, a change holds on every node: whoever has not
//! applied it calls its state too old to act upon (DESIGN §5).
//!
//! This rests on the rates of clocks, and is looked at where they are within the bound.

use super::{Event, Invariant};
use crate::clock::Drift;
use crate::observer::Facts;
use crate::world::STALE_LIMIT;

#[derive(Default)]
pub(super) struct Holds {
    /// What was promised: from when on, log entry, by whom.
    promised: Vec<(std::time::Duration, u64, u64)>,
}

impl Invariant for Holds {
    fn name(&self) -> &'static str {
        "what is said to hold everywhere does"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        if facts.drift == Drift::Far {
            return Ok(());
        }
        match event {
            Event::Holds { node, index, by } => {
                self.promised.push((*by, *index, *node));
                Ok(())
            }
            Event::Fresh {
                node, age, applied, ..
            } if *age <= STALE_LIMIT => {
                let mut due = self.promised.iter();
                match due.find(|(by, index, _)| *by <= facts.now && *index > *applied) {
                    None => Ok(()),
                    Some((by, index, promiser)) => Err(format!(
                        "node {promiser} said that log entry {index} holds everywhere from {} ms on; \
                         node {node} stands at {applied}, and acts on a state of {} ms",
                        by.as_millis(),
                        age.as_millis()
                    )),
                }
            }
            _ => Ok(()),
        }
    }
}
