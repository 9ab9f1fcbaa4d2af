//! A write that began after another was acknowledged stands behind it in the log.
//!
//! With [`super::acknowledged`] and [`super::reads`] this makes the history
//! linearizable: the log is the order.

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct RealTime;

impl Invariant for RealTime {
    fn name(&self) -> &'static str {
        "the log keeps the order of real time"
    }

    fn see(&mut self, event: &Event<'_>, _: &Facts) -> Result<(), String> {
        match event {
            Event::Answered { call, index, .. } if *index <= call.acknowledged => Err(format!(
                "{call} took effect at log entry {index}; {} was acknowledged before it began",
                call.acknowledged
            )),
            _ => Ok(()),
        }
    }
}
