//! `cluster clock`: the time by which the cluster's records begin and end.

use chancery_api::chancery::cluster::v1::SetClockRequest;
use clap::{Args, Subcommand};

use super::{ask_status, client};
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::output;
use crate::cli::session::{Common, Session, request};
use crate::cli::text;

/// What can be done with the cluster's time.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Shows it, and how far the asked node's clock is from the others'
    Show(Show),
    /// Sets it, back as well as forward; recorded in the audit log
    Set(Set),
}

/// `cluster clock show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery cluster clock show")]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    common: Common,
}

/// `cluster clock set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery cluster clock set -yes\n  \
    chancery cluster clock set -unix 1800000000 -yes\n\n\
    For a cluster whose members' clocks were wrong and are right now: its time never goes back by itself. What was \
    to end by the old time ends by the new one.")]
pub(in crate::cli) struct Set {
    /// Seconds since 1970; without it the clock of the asked node
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        hide_default_value = true
    )]
    unix: i64,
    /// Do it: without this the command only says what it would do
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        match self {
            Self::Show(verb) => {
                Session::run(&verb.common, host, async |session| verb.show(session).await)
            }
            Self::Set(verb) => {
                Session::run(&verb.common, host, async |session| verb.set(session).await)
            }
        }
    }
}

impl Show {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut client = client(session).await?;
        let status = ask_status(session, &mut client).await?;
        if session.is_json() {
            let value = serde_json::json!({
                "cluster_clock_ms": status.cluster_clock_ms,
                "clock_offset_ms": status.clock_offset_ms,
            });
            return session.out(&output::value_json(&value)?);
        }
        let last = text::date(status.cluster_clock_ms.div_euclid(1_000));
        let offset = match status.clock_offset_ms {
            None => "not known: no majority has told its clocks".to_owned(),
            Some(ms) => format!("the voters' median is {ms:+} ms from it"),
        };
        session.out(&format!(
            "Cluster clock : {last}, at the last write\nAsked node    : {offset}\n"
        ))
    }
}

impl Set {
    async fn set(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let unix_ms = self.unix.checked_mul(1_000).ok_or(CliError::Range {
            what: "unix",
            value: self.unix,
        })?;
        if !self.yes {
            let to = match self.unix {
                0 => "the clock of the asked node".to_owned(),
                seconds => text::date(seconds),
            };
            return session.out(&format!(
                "Would set the cluster's time to {to}: look at `chancery cluster clock show`, then repeat with -yes.\n"
            ));
        }
        let mut client = client(session).await?;
        let call = client.set_clock(request(SetClockRequest { unix_ms }));
        let set = session.call(call).await?;
        if session.is_json() {
            let value = serde_json::json!({
                "before_unix_ms": set.before_unix_ms,
                "unix_ms": set.unix_ms,
            });
            return session.out(&output::value_json(&value)?);
        }
        let at = |ms: i64| text::date(ms.div_euclid(1_000));
        session.out(&format!(
            "The cluster's time was {} and is {}.\n",
            at(set.before_unix_ms),
            at(set.unix_ms)
        ))
    }
}
