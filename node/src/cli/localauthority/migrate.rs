//! `localauthority migrate`: from shared authorities to each node's own, and back.

use std::time::Duration;

use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
use chancery_api::chancery::cluster::v1::{
    SetAuthorityScopeRequest, StatusRequest, StatusResponse,
};
use clap::Args;
use tonic::transport::Channel;

use super::super::error::CliError;
use super::super::output;
use super::super::session::{ANSWER_BYTES_MAX, Common, Session, request};

/// The cluster is asked this often how far it is.
const PAUSE: Duration = Duration::from_secs(1);

/// `localauthority migrate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery localauthority migrate\n  \
    chancery localauthority migrate per-node\n  \
    chancery localauthority migrate shared -wait 0")]
pub(in crate::cli) struct Migrate {
    /// shared or per-node; without it the state is shown
    #[arg(value_name = "SCOPE", value_parser = ["shared", "per-node"])]
    scope: Option<String>,
    /// Seconds to wait until nothing of the other scope signs; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    wait: u64,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Migrate {
    pub(super) async fn run(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let client = ClusterClient::new(session.channel().await?);
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        let Some(scope) = &self.scope else {
            let status = ask(session, &mut client).await?;
            return show(session, &status);
        };
        let message = SetAuthorityScopeRequest {
            scope: scope.clone(),
        };
        let call = client.set_authority_scope(request(message));
        let set = session.call(call).await?;
        if !session.is_json() {
            session.out(&match &*set.before {
                "" => format!("Authorities are to be {scope}.\n"),
                before if before == scope => format!("Authorities are to be {scope} already.\n"),
                before => format!("Authorities were {before} and are to be {scope}.\n"),
            })?;
        }
        if self.wait == 0 {
            let status = ask(session, &mut client).await?;
            return show_left(session, &status);
        }
        let limit = Duration::from_secs(self.wait);
        let done = tokio::time::timeout(limit, watch(session, &mut client, scope)).await;
        done.unwrap_or_else(|_| {
            Err(CliError::Said(format!(
                "authorities of the other scope still sign after {} s; the change goes on by itself: see \
                 `chancery localauthority migrate`",
                self.wait
            )))
        })?;
        if session.is_json() {
            let status = ask(session, &mut client).await?;
            return show(session, &status);
        }
        session.out(&match &**scope {
            "shared" => "Done: every node signs with the shared authorities.\n".to_owned(),
            _ => "Done: every node signs with authorities of its own.\n".to_owned(),
        })?;
        session.out(
            "What signed before stays in the trust bundle until it ends, unless it is tainted and revoked.\n",
        )
    }
}

async fn ask(
    session: &mut Session<'_, '_>,
    client: &mut ClusterClient<Channel>,
) -> Result<StatusResponse, CliError> {
    session.call(client.status(request(StatusRequest {}))).await
}

/// Until nothing is left to do, saying what is.
async fn watch(
    session: &mut Session<'_, '_>,
    client: &mut ClusterClient<Channel>,
    scope: &str,
) -> Result<(), CliError> {
    let mut told: Vec<String> = Vec::new();
    loop {
        let status = ask(session, client).await?;
        if status.authority_scope == scope && status.scope_left.is_empty() {
            return Ok(());
        }
        if status.authority_scope != scope && !told.is_empty() {
            return Err(CliError::Said(format!(
                "somebody else has set the scope to {:?} meanwhile",
                status.authority_scope
            )));
        }
        for line in &status.scope_left {
            // A second less is no news.
            if !told.iter().any(|before| gist(before) == gist(line)) {
                session.err(&format!("{line}\n"))?;
            }
        }
        told = status.scope_left;
        tokio::time::sleep(PAUSE).await;
    }
}

/// A line without the time that it tells.
fn gist(line: &str) -> &str {
    line.split(" for ").next().unwrap_or(line)
}

fn show(session: &mut Session<'_, '_>, status: &StatusResponse) -> Result<(), CliError> {
    if session.is_json() {
        return show_left(session, status);
    }
    session.out(&match &*status.authority_scope {
        "" => "Authorities are shared where keys are in a token, and each node's own elsewhere.\n"
            .to_owned(),
        scope => format!("Authorities are {scope}.\n"),
    })?;
    show_left(session, status)
}

fn show_left(session: &mut Session<'_, '_>, status: &StatusResponse) -> Result<(), CliError> {
    if session.is_json() {
        let value = serde_json::json!({
            "scope": status.authority_scope,
            "left": status.scope_left,
        });
        return session.out(&output::value_json(&value)?);
    }
    status
        .scope_left
        .iter()
        .try_for_each(|line| session.out(&format!("{line}\n")))
}
