//! `cluster status`.

mod pretty;
mod report;

use chancery_api::chancery::cluster::v1::StatusRequest;
use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use super::output;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};

/// What can be done with the cluster.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Shows the cluster as this node knows it, with or without a quorum
    Status(Status),
}

/// `cluster status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery cluster status\n  \
    chancery cluster status -output json")]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let Verb::Status(verb) = self;
        Session::run(&verb.common, host, async |session| verb.show(session).await)
    }
}

impl Status {
    async fn show(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut client = ClusterClient::new(session.channel().await?)
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let status = session
            .call(client.status(request(StatusRequest {})))
            .await?;
        let text = if session.is_json() {
            output::value_json(&report::Report::from(&status))?
        } else {
            pretty::status(&status, session.now_unix_s(), session.paint())
        };
        session.out(&text)
    }
}
