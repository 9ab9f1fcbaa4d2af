//! Services of SPIRE that this server does not have: each of their methods says so by
//! its own name, which tells a client more than that the path is unknown.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;

use super::status;

/// Answers every call to the service that is named.
macro_rules! unimplemented_service {
    ($(#[$doc:meta])* $name:ident, $service:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name;

        impl NamedService for $name {
            const NAME: &'static str = $service;
        }

        impl tower::Service<Request<Body>> for $name {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                std::future::ready(Ok(answer(request.uri().path())))
            }
        }
    };
}

unimplemented_service!(
    /// Federation relationships.
    TrustDomains,
    "spire.api.server.trustdomain.v1.TrustDomain"
);

fn answer(path: &str) -> Response<Body> {
    status::unimplemented(path).into_http()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tower::Service;

    use super::*;

    #[tokio::test]
    async fn a_method_that_is_not_there_names_itself() {
        let path = "/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle";
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = TrustDomains.call(request).await.unwrap();
        let status = tonic::Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        assert_eq!(
            status.message(),
            format!("{path} is not implemented by this server")
        );
    }

    #[test]
    fn the_services_are_those_of_the_contracts() {
        for name in [TrustDomains::NAME] {
            let prefix = format!("/{name}/");
            assert!(
                chancery_api::METHODS.iter().any(|m| m.starts_with(&prefix)),
                "{name}"
            );
        }
    }
}
