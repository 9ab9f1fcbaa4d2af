//! A join token is won by one agent at most.

use std::collections::BTreeMap;

use chancery_raft_store::Command;
use chancery_raft_store::command::Refusal;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Tokens {
    won: BTreeMap<Vec<u8>, u64>,
}

impl Invariant for Tokens {
    fn name(&self) -> &'static str {
        "a join token is won once"
    }

    fn see(&mut self, event: &Event<'_>, _: &Facts) -> Result<(), String> {
        let Event::Answered { call, outcome, .. } = event else {
            return Ok(());
        };
        let Command::AttestAgent(attest) = &call.command else {
            return Ok(());
        };
        if attest.token_sha256.is_empty() || outcome.refusal() != Refusal::None {
            return Ok(());
        }
        match self.won.insert(attest.token_sha256.clone(), call.number) {
            Some(other) => Err(format!("{call} won the token that call {other} had won")),
            None => Ok(()),
        }
    }
}
