//! `issuance`: how documents are signed.

use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
use chancery_api::chancery::cluster::v1::{SetIssuanceModeRequest, StatusRequest};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use super::output;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};

/// What can be done with issuance.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Shows which key signs X.509-SVIDs, or sets it for the whole cluster
    ///
    /// direct: every SVID is signed by the authority's own key. intermediate: each node has a CA of
    /// its own, in memory and for a day at most, so that X.509-SVIDs go on while the token is away.
    /// Setting it is recorded in the audit log; every node follows at once.
    Mode(Mode),
}

/// `issuance mode`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery issuance mode\n  \
    chancery issuance mode intermediate")]
pub(super) struct Mode {
    /// direct or intermediate; without it the mode is shown
    #[arg(value_name = "MODE", value_parser = ["direct", "intermediate"])]
    mode: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let Self::Mode(verb) = self;
        Session::run(&verb.common, host, async |session| verb.tell(session).await)
    }
}

impl Mode {
    async fn tell(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let client = ClusterClient::new(session.channel().await?);
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        let Some(mode) = &self.mode else {
            let status = session
                .call(client.status(request(StatusRequest {})))
                .await?;
            let mode = status.issuance_mode;
            if session.is_json() {
                let value = serde_json::json!({ "mode": mode });
                return session.out(&output::value_json(&value)?);
            }
            return session.out(&format!("{mode}\n"));
        };
        let message = SetIssuanceModeRequest { mode: mode.clone() };
        let call = client.set_issuance_mode(request(message));
        let set = session.call(call).await?;
        if session.is_json() {
            let value = serde_json::json!({ "before": set.before, "mode": set.mode });
            return session.out(&output::value_json(&value)?);
        }
        if set.before == set.mode {
            return session.out(&format!("The issuance mode is {} already.\n", set.mode));
        }
        session.out(&format!(
            "The issuance mode was {} and is {}.\n",
            set.before, set.mode
        ))
    }
}
