//! `healthcheck`.

use chancery_api::grpc::health::v1::HealthCheckRequest;
use chancery_api::grpc::health::v1::health_check_response::ServingStatus;
use chancery_api::grpc::health::v1::health_client::HealthClient;
use clap::Args;

use super::error::CliError;
use super::host::Host;
use super::session::{Common, Session, request};

/// `healthcheck`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery healthcheck -verbose")]
pub(super) struct Healthcheck {
    /// Perform a less stringent health check (taken for SPIRE's sake; the check is the same)
    #[arg(long)]
    shallow: bool,
    /// Print verbose information
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    common: Common,
}

impl Healthcheck {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        Session::run(&self.common, host, async |session| {
            self.check(session).await
        })
    }

    async fn check(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let verbose = self.verbose && !session.is_json();
        if verbose {
            session.out("Checking server health...\n")?;
        }
        let response = match Self::ask(session).await {
            Ok(response) => response,
            Err(error) => {
                if self.verbose {
                    let cause = error.with_causes();
                    session.err(&format!("Failed to check health: {cause}\n"))?;
                }
                return Err(CliError::Unhealthy("unable to determine health".to_owned()));
            }
        };
        if response.status() != ServingStatus::Serving {
            let status = response.status().as_str_name();
            return Err(CliError::Unhealthy(format!(
                "server returned status {status:?}"
            )));
        }
        session.print("grpc.health.v1.HealthCheckResponse", &response, || {
            Ok("Server is healthy.\n".to_owned())
        })
    }

    async fn ask(
        session: &mut Session<'_, '_>,
    ) -> Result<chancery_api::grpc::health::v1::HealthCheckResponse, CliError> {
        let mut client = HealthClient::new(session.channel().await?);
        let call = client.check(request(HealthCheckRequest::default()));
        session.call(call).await
    }
}
