//! `grpc.health.v1.Health` on the admin socket: whether this server has a trust bundle
//! to show, as SPIRE's does. Whether it can *issue* is told by `cluster status` and by
//! the readiness page.

use chancery_api::grpc::health::v1 as api;
use chancery_api::grpc::health::v1::health_check_response::ServingStatus;
use chancery_api::grpc::health::v1::health_server::Health;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::{Context, permit};

/// The service.
pub(super) struct HealthService {
    context: Context,
}

impl HealthService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

/// Only the server as a whole has a health.
fn check_service(service: &str) -> Result<(), Status> {
    if service.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid_argument(
            "per-service health is not supported",
        ))
    }
}

/// What SPIRE answers to the methods that it does not have, in its gRPC library's words.
fn not_implemented(method: &str) -> Status {
    Status::unimplemented(format!("method {method} not implemented"))
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = BoxStream<'static, Result<api::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<api::HealthCheckRequest>,
    ) -> Result<Response<api::HealthCheckResponse>, Status> {
        permit(&request)?;
        check_service(&request.get_ref().service)?;
        let readable = !self.context.issuer.bundle().x509_authorities.is_empty();
        let status = if readable {
            ServingStatus::Serving
        } else {
            tracing::warn!(reason = "bundle is missing", "Health check failed");
            ServingStatus::NotServing
        };
        Ok(Response::new(api::HealthCheckResponse {
            status: status.into(),
        }))
    }

    async fn watch(
        &self,
        request: Request<api::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        permit(&request)?;
        Err(not_implemented("Watch"))
    }

    async fn list(
        &self,
        request: Request<api::HealthListRequest>,
    ) -> Result<Response<api::HealthListResponse>, Status> {
        permit(&request)?;
        Err(not_implemented("List"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_spire_lacks_are_refused_in_its_words() {
        let status = not_implemented("List");
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        assert_eq!(status.message(), "method List not implemented");
    }

    #[test]
    fn only_the_server_as_a_whole_has_a_health() {
        assert!(check_service("").is_ok());
        let status = check_service("spire.api.server.svid.v1.SVID").unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), "per-service health is not supported");
    }
}
