//! One HTTP/2 connection: limits, age, and an end without lost calls.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::limits::Limits;
use super::preface::Preface;

/// Request metadata at most, in bytes. SPIRE's clients send a few hundred.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// The smallest value HTTP/2 allows, and what clients use.
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// Unsent response bytes kept for one stream.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Streams that a client reset and the server has not forgotten yet; more end
/// the connection ("rapid reset").
const PENDING_RESETS_MAX: usize = 32;

/// What a connection hands its requests to: tonic's routes, wrapped or bare.
pub trait GrpcService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<T> GrpcService for T where
    T: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was served.
    Served,
    /// The client never said what HTTP/2 begins with.
    Silent,
}

/// Serves `io` until the client leaves, its age is reached or `closing` is
/// cancelled; in the last two cases calls under way may finish first. A client that
/// is silent from the start has the time of a handshake. Each request carries
/// `extension`.
pub(super) async fn serve<I, S, E>(
    io: I,
    service: S,
    extension: E,
    limits: &Limits,
    age_max: Option<Duration>,
    closing: &CancellationToken,
) -> End
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: GrpcService,
    E: Clone + Send + Sync + 'static,
{
    let handler = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(extension.clone());
        service.oneshot(request)
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout);
    let (io, preface) = Preface::new(io);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), handler));
    let silent = async {
        if tokio::time::timeout(limits.handshake_timeout, preface)
            .await
            .is_ok()
        {
            std::future::pending().await
        }
    };
    let aged = async {
        match age_max {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    let drain = tokio::select! {
        ended = connection.as_mut() => {
            report(ended);
            return End::Served;
        }
        () = silent => return End::Silent,
        () = aged => limits.drain,
        () = closing.cancelled() => limits.drain.min(Limits::SHUTDOWN_DRAIN),
    };
    // GOAWAY: clients that honour it open their next call elsewhere, and calls
    // under way go on.
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(drain, connection).await {
        Ok(ended) => report(ended),
        Err(_) => tracing::debug!(?drain, "connection closed with calls under way"),
    }
    End::Served
}

fn report(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        // A client that vanishes is no event for an operator.
        tracing::debug!(%error, "connection ended");
    }
}
