//! Authorization in front of the routes: no request passes without a [`Permit`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument as _;
use tracing::field::{Empty, display};

use super::body::Bounds;
use super::deadline::CallDeadline;
use super::measured::Call;
use super::permit::Permit;
use super::table;
use crate::transport::Caller;

/// Label of calls to methods that are not served: what a client writes into a
/// path must not become the name of a time series.
const UNKNOWN_METHOD: &str = "unknown";

/// Asks [`super::authorize`] with the state of this node, makes a no exact before
/// it is said, and sees to the activation of agent SVIDs.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// The permit for one call, or the status that refuses it.
    async fn admit(&self, method: &str, caller: &Caller) -> Result<Permit, Status>;
}

/// Puts a [`GateService`] in front of routes.
#[derive(Clone)]
pub struct GateLayer {
    gate: Arc<dyn Gate>,
}

impl GateLayer {
    /// Authorizes by `gate`.
    pub fn new(gate: Arc<dyn Gate>) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = GateService<S>;

    fn layer(&self, inner: S) -> GateService<S> {
        GateService {
            gate: self.gate.clone(),
            inner,
        }
    }
}

/// Routes behind authorization. Takes the [`Caller`] that the transport put into a
/// request's extensions; adds the permit ([`Permit::of`]) and the [`CallDeadline`],
/// or answers in the routes' stead. What comes of a request is bounded in size and time
/// ([`Bounds`]). Every call is counted, timed, ends by its
/// deadline unless a response has begun, and has a span of its own.
#[derive(Clone)]
pub struct GateService<S> {
    gate: Arc<dyn Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for GateService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
        + Clone
        + Send
        + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The service that was polled ready is the one to call.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        let gate = self.gate.clone();
        let span = span(&request);
        let method = table::find(request.uri().path()).map_or(UNKNOWN_METHOD, |row| row.method);
        let call = Call::begin(method, span.clone());
        let answer = async move {
            let deadline = CallDeadline::of(request.headers());
            let answer = pass(gate.as_ref(), inner, request, deadline);
            let response = match tokio::time::timeout_at(deadline.instant(), answer).await {
                Ok(answered) => answered?,
                Err(_) => {
                    Status::deadline_exceeded("the call took longer than its deadline").into_http()
                }
            };
            Ok(call.answer(response))
        };
        Box::pin(answer.instrument(span))
    }
}

async fn pass<S>(
    gate: &dyn Gate,
    mut inner: S,
    request: Request<Body>,
    deadline: CallDeadline,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let caller = request.extensions().get::<Caller>().cloned();
    let path = request.uri().path();
    let bounds = caller.as_ref().and_then(|c| Bounds::of(path, c));
    let permit = match admit(gate, path, caller).await {
        Ok(permit) => permit,
        Err(status) => return Ok(status.into_http()),
    };
    tracing::Span::current().record("authorized_as", permit.role().as_str());
    let mut request = match bounds {
        Some(bounds) => request.map(|body| bounds.hold(body)),
        None => request,
    };
    let extensions = request.extensions_mut();
    // Extensions are clones by their nature; a permit is not.
    extensions.insert(Arc::new(permit));
    extensions.insert(deadline);
    inner.call(request).await
}

async fn admit(gate: &dyn Gate, path: &str, caller: Option<Caller>) -> Result<Permit, Status> {
    let Some(row) = table::find(path) else {
        return Err(not_served(path));
    };
    let Some(caller) = caller else {
        tracing::error!("a request came without a caller");
        return Err(Status::internal("caller is unknown"));
    };
    // SPIRE does not serve these services over the network.
    if row.callers.are_local_only() && !matches!(caller, Caller::Local(_)) {
        return Err(unknown_service(path));
    }
    gate.admit(row.method, &caller).await
}

/// What grpc-go servers, SPIRE's among them, answer where they have nothing.
fn not_served(path: &str) -> Status {
    match split(path) {
        Some((service, method)) if table::knows_service(&format!("/{service}/")) => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        _ => unknown_service(path),
    }
}

fn unknown_service(path: &str) -> Status {
    Status::unimplemented(match split(path) {
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    })
}

/// Service and method of a path.
fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

fn span<B>(request: &Request<B>) -> tracing::Span {
    let span = tracing::info_span!(
        "rpc",
        method = request.uri().path(),
        caller = Empty,
        caller_id = Empty,
        caller_address = Empty,
        authorized_as = Empty,
        code = Empty
    );
    if let Some(caller) = request.extensions().get::<Caller>() {
        span.record("caller", caller.kind());
        if let Some(id) = caller.id() {
            span.record("caller_id", id.as_str());
        }
        if let Some(address) = caller.address() {
            span.record("caller_address", display(address));
        }
    }
    span
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
