//! `upstreamauthority taint` and `upstreamauthority revoke`.

use chancery_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use chancery_api::spire::api::server::localauthority::v1::{
    RevokeX509UpstreamAuthorityRequest, TaintX509UpstreamAuthorityRequest,
};
use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::error::CliError;
use super::host::Host;
use super::session::{ANSWER_BYTES_MAX, Common, Session, request};

/// What can be done with an authority that signs this trust domain's authorities.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Taints an upstream authority: what goes back to it is replaced
    #[command(after_help = "Example:\n  \
        chancery upstreamauthority taint -subjectKeyID 0ba1f6c9")]
    Taint(One),
    /// Revokes a tainted upstream authority: it leaves the bundle
    #[command(after_help = "Example:\n  \
        chancery upstreamauthority revoke -subjectKeyID 0ba1f6c9")]
    Revoke(One),
}

/// One upstream authority.
#[derive(Debug, Args)]
pub(super) struct One {
    /// Subject key identifier of the authority's certificate
    #[arg(
        long = "subjectKeyID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    subject_key_id: String,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let common = match &self {
            Verb::Taint(verb) | Verb::Revoke(verb) => &verb.common,
        };
        Session::run(common, host, async |session| match &self {
            Verb::Taint(verb) => verb.taint(session).await,
            Verb::Revoke(verb) => verb.revoke(session).await,
        })
    }
}

async fn client(session: &Session<'_, '_>) -> Result<LocalAuthorityClient<Channel>, CliError> {
    let channel = session.channel().await?;
    Ok(LocalAuthorityClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

impl One {
    fn id(&self) -> Result<String, CliError> {
        if self.subject_key_id.is_empty() {
            return Err(CliError::Flags(
                "the Subject Key ID of the X.509 upstream authority is required",
            ));
        }
        Ok(self.subject_key_id.clone())
    }

    async fn taint(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let subject_key_id = self.id()?;
        let mut client = client(session).await?;
        let message = TaintX509UpstreamAuthorityRequest { subject_key_id };
        let call = client.taint_x509_upstream_authority(request(message));
        let tainted = session
            .call(call)
            .await
            .map_err(CliError::during("could not taint X.509 upstream authority"))?;
        session.print(
            "spire.api.server.localauthority.v1.TaintX509UpstreamAuthorityResponse",
            &tainted,
            || Ok(said("Tainted", &tainted.upstream_authority_subject_key_id)),
        )
    }

    async fn revoke(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let subject_key_id = self.id()?;
        let mut client = client(session).await?;
        let message = RevokeX509UpstreamAuthorityRequest { subject_key_id };
        let call = client.revoke_x509_upstream_authority(request(message));
        let revoked = session.call(call).await.map_err(CliError::during(
            "could not revoke X.509 upstream authority",
        ))?;
        session.print(
            "spire.api.server.localauthority.v1.RevokeX509UpstreamAuthorityResponse",
            &revoked,
            || Ok(said("Revoked", &revoked.upstream_authority_subject_key_id)),
        )
    }
}

fn said(done: &str, subject_key_id: &str) -> String {
    format!("{done} X.509 upstream authority:\n  Subject Key ID: {subject_key_id}\n")
}
