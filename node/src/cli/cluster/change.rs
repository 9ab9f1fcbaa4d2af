//! Changes of members: asked for, then watched until they are carried out.

use std::time::Duration;

use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
use chancery_api::chancery::cluster::v1::{ChangeMembersRequest, Member, StatusResponse};
use clap::Args;
use tonic::transport::Channel;

use super::{ask_status, client};
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::output;
use crate::cli::session::{Common, Session, request};

/// How often the cluster is asked how far a change is.
const PAUSE: Duration = Duration::from_millis(300);

/// What every change has.
#[derive(Debug, Args)]
struct Change {
    /// Seconds to wait until it is carried out; 0 returns when it is written
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    #[command(flatten)]
    common: Common,
}

/// `cluster promote`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery cluster promote 4 5")]
pub(in crate::cli) struct Promote {
    /// Ids of learners
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Takes an even number of voters, which bears no more failures than one voter less
    #[arg(long = "allowEven", visible_alias = "allow-even")]
    allow_even: bool,
    #[command(flatten)]
    change: Change,
}

/// `cluster demote`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery cluster demote 4 5")]
pub(in crate::cli) struct Demote {
    /// Ids of voters
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Takes an even number of voters
    #[arg(long = "allowEven", visible_alias = "allow-even")]
    allow_even: bool,
    #[command(flatten)]
    change: Change,
}

/// `cluster remove`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery cluster remove 4 5\n  \
    chancery cluster remove -allowEven 3\n\n\
    A removed node that runs is told and ends. Its id is never used again.")]
pub(in crate::cli) struct Remove {
    /// Ids of members
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Takes an even number of voters
    #[arg(long = "allowEven", visible_alias = "allow-even")]
    allow_even: bool,
    #[command(flatten)]
    change: Change,
}

/// `cluster replace`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    chancery cluster replace 3 6\n\n\
    A node that is not there yet is better started with a token of `chancery cluster token -replaces 3`.")]
pub(in crate::cli) struct Replace {
    /// Member that goes
    #[arg(value_name = "OLD")]
    old: String,
    /// Learner that becomes what the other was
    #[arg(value_name = "NEW")]
    new: String,
    #[command(flatten)]
    change: Change,
}

impl Promote {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let asked = ChangeMembersRequest {
            promote: self.nodes,
            allow_even: self.allow_even,
            ..ChangeMembersRequest::default()
        };
        self.change.run(asked, host)
    }
}

impl Demote {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let asked = ChangeMembersRequest {
            demote: self.nodes,
            allow_even: self.allow_even,
            ..ChangeMembersRequest::default()
        };
        self.change.run(asked, host)
    }
}

impl Remove {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let asked = ChangeMembersRequest {
            remove: self.nodes,
            allow_even: self.allow_even,
            ..ChangeMembersRequest::default()
        };
        self.change.run(asked, host)
    }
}

impl Replace {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let (old, new) = (self.old, self.new);
        Session::run(&self.change.common, host, async |session| {
            let mut client = client(session).await?;
            let status = ask_status(session, &mut client).await?;
            let place = status.members.iter().find(|m| m.id == old);
            let votes = place.is_some_and(|m| m.wanted == "voter");
            let new = vec![new.clone()];
            let (promote, demote) = if votes {
                (new, Vec::new())
            } else {
                (Vec::new(), new)
            };
            let asked = ChangeMembersRequest {
                promote,
                demote,
                remove: vec![old.clone()],
                // As many as before.
                allow_even: true,
            };
            carry_out(session, &mut client, asked, self.change.wait).await
        })
    }
}

impl Change {
    fn run(self, asked: ChangeMembersRequest, host: &mut Host<'_>) -> Result<(), CliError> {
        let wait = self.wait;
        Session::run(&self.common, host, async |session| {
            let mut client = client(session).await?;
            carry_out(session, &mut client, asked.clone(), wait).await
        })
    }
}

/// Has the change written, then watches it.
async fn carry_out(
    session: &mut Session<'_, '_>,
    client: &mut ClusterClient<Channel>,
    asked: ChangeMembersRequest,
    wait_s: u64,
) -> Result<(), CliError> {
    let this = ask_status(session, client).await?.node_id;
    let call = client.change_members(request(asked.clone()));
    session.call(call).await?;
    let done = tokio::time::timeout(Duration::from_secs(wait_s), async {
        let mut told = Vec::new();
        loop {
            let status = match ask_status(session, client).await {
                Ok(status) => status,
                // The asked node itself has gone, as it was told to.
                Err(CliError::Lost { .. }) if asked.remove.contains(&this) => return Ok(()),
                Err(error) => return Err(error),
            };
            let waits = waiting(&status, &asked);
            if waits.is_empty() {
                return Ok(());
            }
            if waits != told {
                for line in &waits {
                    session.err(&format!("{line}\n"))?;
                }
                told = waits;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    match done {
        Ok(result) => result?,
        Err(_) if wait_s == 0 => {
            return say(
                session,
                "The change is written; the leader carries it out.",
                false,
            );
        }
        Err(_) => {
            return Err(CliError::Said(format!(
                "the change is written, but not carried out after {wait_s} s; it goes on by itself: see \
                 `chancery cluster members`"
            )));
        }
    }
    say(session, &finished(&asked), true)
}

fn say(session: &mut Session<'_, '_>, text: &str, done: bool) -> Result<(), CliError> {
    if session.is_json() {
        return session.out(&output::value_json(&serde_json::json!({ "done": done }))?);
    }
    session.out(&format!("{text}\n"))
}

fn finished(asked: &ChangeMembersRequest) -> String {
    let mut parts = Vec::new();
    for (ids, what) in [
        (&asked.promote, "votes"),
        (&asked.demote, "is a learner"),
        (&asked.remove, "is no member any more"),
    ] {
        parts.extend(ids.iter().map(|id| format!("Node {id} {what}.")));
    }
    parts.join(" ")
}

/// What is still to happen, a line each.
fn waiting(status: &StatusResponse, asked: &ChangeMembersRequest) -> Vec<String> {
    let find = |id: &String| status.members.iter().find(|m| m.id == *id);
    let mut lines = Vec::new();
    for member in asked.promote.iter().filter_map(find) {
        if !votes(member) {
            lines.push(format!(
                "Node {} does not vote yet ({}).",
                member.id,
                state(member)
            ));
        }
    }
    for member in asked.demote.iter().filter_map(find) {
        if votes(member) {
            lines.push(format!("Node {} votes still.", member.id));
        }
    }
    for member in asked.remove.iter().filter_map(find) {
        let what = if votes(member) {
            "votes still"
        } else {
            "is still known"
        };
        lines.push(format!("Node {} {what}.", member.id));
    }
    lines
}

fn votes(member: &Member) -> bool {
    member.role != "learner"
}

fn state(member: &Member) -> &'static str {
    if member.reachable {
        "catching up"
    } else {
        "it does not answer"
    }
}
