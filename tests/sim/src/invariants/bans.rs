//! After a ban was acknowledged no renewal of that agent succeeds that began later.

use std::collections::BTreeMap;

use chancery_raft_store::Command;
use chancery_raft_store::command::Refusal;

use super::{Event, Invariant};
use crate::observer::Facts;

#[derive(Default)]
pub(super) struct Bans {
    /// Agents by path, and the log entry of their ban.
    banned: BTreeMap<String, u64>,
}

impl Invariant for Bans {
    fn name(&self) -> &'static str {
        "a banned agent is not renewed"
    }

    fn see(&mut self, event: &Event<'_>, _: &Facts) -> Result<(), String> {
        let Event::Answered {
            call,
            outcome,
            index,
            ..
        } = event
        else {
            return Ok(());
        };
        if outcome.refusal() != Refusal::None {
            return Ok(());
        }
        match &call.command {
            Command::BanAgent(agent) => {
                self.banned.insert(agent.path.clone(), *index);
                Ok(())
            }
            Command::RenewAgent(agent) => match self.banned.get(&agent.path) {
                Some(ban) if *ban <= call.acknowledged => Err(format!(
                    "{call} succeeded; the ban at log entry {ban} was acknowledged before"
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
