//! `agent purge`.

use std::fmt::Write as _;
use std::time::Duration;

use chancery_api::spire::api::server::agent::v1::{DeleteAgentRequest, list_agents_request};
use chancery_api::spire::api::types::AgentMask;
use clap::Args;
use serde::Serialize;

use super::{client, every_page};
use crate::cli::error::CliError;
use crate::cli::flags::duration;
use crate::cli::session::{Common, Session, request};
use crate::cli::text;

/// `agent purge`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Purge {
    /// How long ago the agent's SVID ended, at least
    #[arg(
        long = "expiredFor",
        value_name = "DURATION",
        default_value = "720h",
        value_parser = duration
    )]
    expired_for: Duration,
    /// Only shows which agents would be purged
    #[arg(long = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// What SPIRE prints as JSON, its members in this order.
#[derive(Debug, Serialize)]
struct Outcome {
    expired_agents: Vec<Expired>,
}

#[derive(Debug, Serialize)]
struct Expired {
    agent_id: String,
    deleted: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

impl Purge {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn purge(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let filter = list_agents_request::Filter {
            by_can_reattest: Some(true),
            ..list_agents_request::Filter::default()
        };
        let mask = AgentMask {
            x509svid_expires_at: true,
            ..AgentMask::default()
        };
        let mut client = client(session).await?;
        // All of them before the first is gone: no page shifts under the next.
        let agents = every_page(session, &mut client, &filter, Some(mask))
            .await
            .map_err(CliError::during("failed to list agents"))?;

        let now_unix_s = session.now_unix_s();
        let ended = |ended_unix_s| has_ended_for(self.expired_for, ended_unix_s, now_unix_s);
        let mut expired_agents = Vec::new();
        for agent in agents {
            if !ended(agent.x509svid_expires_at) {
                continue;
            }
            let mut expired = Expired {
                agent_id: text::id(agent.id.as_ref()),
                deleted: false,
                error: String::new(),
            };
            if !self.dry_run {
                let call = client.delete_agent(request(DeleteAgentRequest { id: agent.id }));
                match session.call(call).await {
                    Ok(()) => expired.deleted = true,
                    Err(error) => expired.error = error.with_causes(),
                }
            }
            expired_agents.push(expired);
        }
        let outcome = Outcome { expired_agents };
        session.print_struct(&outcome, || outcome.pretty(self.dry_run))
    }
}

fn has_ended_for(duration: Duration, ended_unix_s: i64, now_unix_s: i64) -> bool {
    u64::try_from(now_unix_s.saturating_sub(ended_unix_s))
        .is_ok_and(|since_s| Duration::from_secs(since_s) > duration)
}

impl Outcome {
    /// The empty lines are SPIRE's.
    fn pretty(&self, dry_run: bool) -> String {
        let agents = &self.expired_agents;
        if agents.is_empty() {
            return "No agents to purge.\n".to_owned();
        }
        let found = text::count(agents.len(), "expired agent", "expired agents");
        let mut out = format!("Found {found}\n\n");
        let mut tell = |heading: &str, agents: &mut dyn Iterator<Item = &Expired>| {
            for (at, agent) in agents.enumerate() {
                if at == 0 {
                    out.push_str(heading);
                }
                let _ = writeln!(out, "SPIFFE ID         : {}", agent.agent_id);
                if !agent.error.is_empty() {
                    let _ = writeln!(out, "Error             : {}", agent.error);
                }
            }
        };
        if dry_run {
            tell("\nAgents that can be purged:\n", &mut agents.iter());
        } else {
            let purged = |agent: &&Expired| agent.deleted;
            tell("Agents purged:\n", &mut agents.iter().filter(purged));
            let left = |agent: &&Expired| !agent.deleted;
            tell("Agents not purged:\n", &mut agents.iter().filter(left));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_svid_has_ended_when_the_time_is_over_and_not_at_its_end() {
        let hour = Duration::from_secs(3_600);
        assert!(!has_ended_for(hour, 1_000, 4_600));
        assert!(has_ended_for(hour, 1_000, 4_601));
        assert!(!has_ended_for(Duration::ZERO, 1_000, 1_000));
        assert!(!has_ended_for(Duration::ZERO, 1_000, 0));
        assert!(has_ended_for(hour, i64::MIN, i64::MAX));
    }
}
