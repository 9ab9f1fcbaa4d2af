//! A command that was proposed once takes effect once, however often it was sent.

use std::collections::BTreeMap;

use chancery_raft_store::command::RequestId;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Requests {
    by_command: BTreeMap<Vec<u8>, RequestId>,
    by_request: BTreeMap<RequestId, Vec<u8>>,
}

impl Invariant for Requests {
    fn name(&self) -> &'static str {
        "a request is applied once"
    }

    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String> {
        let Event::Committed { index, committed } = event else {
            return Ok(());
        };
        let Some(proposed) = &committed.proposed else {
            return Ok(());
        };
        // What the world itself proposes may be proposed again.
        if !facts.calls.contains(&proposed.key) {
            return Ok(());
        }
        let Some(request) = proposed.request else {
            return Err(format!("log entry {index} has no request id"));
        };
        if proposed.repeated && proposed.rows > 0 {
            return Err(format!(
                "request {request:?} took effect again at log entry {index}"
            ));
        }
        let before = self.by_command.insert(proposed.key.clone(), request);
        if before.is_some_and(|before| before != request) {
            return Err(format!(
                "one call is in the log as {before:?} and, at {index}, as {request:?}"
            ));
        }
        let before = self.by_request.insert(request, proposed.key.clone());
        if before.is_some_and(|before| before != proposed.key) {
            return Err(format!("request id {request:?} is used for two calls"));
        }
        Ok(())
    }
}
