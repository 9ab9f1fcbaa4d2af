//! `token generate`.

use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use clap::{Args, Subcommand};

use super::error::CliError;
use super::filter;
use super::host::Host;
use super::session::{Common, Session, request};

/// What can be done with join tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Generates a join token
    Generate(Generate),
}

/// `token generate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  chancery token generate -spiffeID spiffe://example.org/node -ttl 600"
)]
pub(super) struct Generate {
    /// Token TTL in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    ttl: i64,
    /// Additional SPIFFE ID to assign to the token's owner
    #[arg(
        long = "spiffeID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    spiffe_id: String,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let Verb::Generate(verb) = self;
        Session::run(&verb.common, host, async |session| {
            verb.generate(session).await
        })
    }
}

impl Generate {
    async fn generate(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let message = CreateJoinTokenRequest {
            ttl: i32::try_from(self.ttl).map_err(|_| CliError::Range {
                what: "TTL",
                value: self.ttl,
            })?,
            token: String::new(),
            agent_id: match &*self.spiffe_id {
                "" => None,
                id => Some(filter::only_id(id)?),
            },
        };
        let mut client = AgentClient::new(session.channel().await?);
        let call = client.create_join_token(request(message));
        let token = session.call(call).await?;
        session.print("spire.api.types.JoinToken", &token, || {
            let mut text = format!("Token: {}\n", token.value);
            if self.spiffe_id.is_empty() {
                text.push_str("Warning: Missing SPIFFE ID.\n");
            }
            Ok(text)
        })
    }
}
