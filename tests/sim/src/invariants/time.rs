//! State time never goes back, whatever the clocks of the leaders do.

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Time {
    committed_ms: i64,
    /// By node: log entry and state time that it showed last.
    shown: BTreeMap<u64, (u64, i64)>,
}

impl Invariant for Time {
    fn name(&self) -> &'static str {
        "state time never goes back"
    }

    fn see(&mut self, event: &Event<'_>, _: &Facts) -> Result<(), String> {
        match event {
            Event::Committed { index, committed } => {
                let before = std::mem::replace(&mut self.committed_ms, committed.clock_ms);
                if committed.clock_ms < before {
                    return Err(format!(
                        "log entry {index} takes state time from {before} back to {}",
                        committed.clock_ms
                    ));
                }
                Ok(())
            }
            Event::Showed {
                node,
                applied,
                clock_ms,
            } => match self.shown.insert(*node, (*applied, *clock_ms)) {
                // A node that lost power stands at an earlier log entry for a while.
                Some((at, before)) if *applied >= at && *clock_ms < before => Err(format!(
                    "node {node} shows {clock_ms} at log entry {applied} after {before} at {at}"
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
