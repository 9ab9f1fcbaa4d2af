//! Health and metrics over plain HTTP, for orchestrators and Prometheus.
//!
//! Why it exists: who restarts, routes to or watches a server speaks HTTP and has
//! no SVID.
//!
//! Promises: answers from what the source knows at once, never by doing work for
//! the asker; at most [`CONNECTIONS_MAX`] connections, each for one request and a
//! bounded time. Says nothing that needs protecting: names and reasons, no
//! identities. Refuses to know: what readiness consists of ([`StatusSource`]).
//!
//! The pages about health are SPIRE's in form: 200 or 500, and an object with one
//! object for each subsystem, empty while nothing is wrong with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::HealthPaths;
use crate::telemetry::PrometheusHandle;
use crate::transport::{Descriptors, Rank};

/// Connections at once; one more is closed at once.
pub const CONNECTIONS_MAX: usize = 64;

/// Bytes of a request's head at most; the least that hyper takes.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Wait after an accept that failed for lack of descriptors or memory, so that
/// the loop does not spin on it.
const ACCEPT_ERROR_WAIT: Duration = Duration::from_millis(100);

const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is wrong with each subsystem, for people, by the names of subsystem and detail.
/// A subsystem without details is well.
pub type Findings = BTreeMap<&'static str, BTreeMap<&'static str, String>>;

/// What the server says of itself. Each answer names every subsystem.
pub trait StatusSource: Send + Sync + 'static {
    /// What restarting the process would help against.
    fn live(&self) -> Findings;

    /// What keeps the server from issuing; with `for_write` also from taking writes.
    fn ready(&self, for_write: bool) -> Findings;
}

/// What a listener answers; the rest is 404.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// `/metrics`.
    pub metrics: bool,
    /// The pages about health, if they are served here.
    pub health: Option<HealthPaths>,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// For the head of its request.
    head: Duration,
    /// For everything.
    connection: Duration,
}

const LIMITS: Limits = Limits {
    head: Duration::from_secs(5),
    connection: Duration::from_secs(15),
};

/// Serves until `shutdown`; connections that are open then are closed.
pub async fn serve(
    listener: TcpListener,
    endpoints: Endpoints,
    source: Arc<dyn StatusSource>,
    metrics: PrometheusHandle,
    descriptors: Descriptors,
    shutdown: CancellationToken,
) {
    run(
        listener,
        Arc::new(Pages {
            endpoints,
            source,
            metrics,
        }),
        LIMITS,
        descriptors,
        shutdown,
    )
    .await;
}

async fn run(
    listener: TcpListener,
    pages: Arc<Pages>,
    limits: Limits,
    descriptors: Descriptors,
    shutdown: CancellationToken,
) {
    // Dropped with this function, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) if !descriptors.admit(&stream, Rank::Own) => {
                    tracing::debug!(%from, "too few descriptors for health and metrics");
                }
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(converse(stream, pages.clone(), limits));
                }
                Ok((_, from)) => tracing::debug!(%from, "too many connections for health and metrics"),
                Err(error) => {
                    descriptors.failed(&error);
                    tracing::warn!(%error, "cannot accept connections for health and metrics");
                    tokio::time::sleep(ACCEPT_ERROR_WAIT).await;
                }
            },
        }
    }
}

async fn converse(stream: TcpStream, pages: Arc<Pages>, limits: Limits) {
    let answer = service_fn(move |request| {
        let response = pages.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES_MAX)
        // One request a connection: an idle client holds no place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection for health or metrics ended"),
        Err(_) => tracing::debug!("connection for health or metrics took too long"),
    }
}

struct Pages {
    endpoints: Endpoints,
    source: Arc<dyn StatusSource>,
    metrics: PrometheusHandle,
}

#[derive(Clone, Copy)]
enum Page {
    Metrics,
    Live,
    Ready,
}

impl Pages {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let health = self.endpoints.health.as_ref();
        let page = if path == "/metrics" && self.endpoints.metrics {
            Page::Metrics
        } else if health.is_some_and(|paths| paths.live == path) {
            Page::Live
        } else if health.is_some_and(|paths| paths.ready == path) {
            Page::Ready
        } else {
            return refuse(StatusCode::NOT_FOUND, "no such page");
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            refused
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match page {
            Page::Metrics => respond(StatusCode::OK, METRICS, self.metrics.render().into()),
            Page::Live => report(&self.source.live()),
            Page::Ready => self.ready(request.uri().query()),
        }
    }

    fn ready(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let for_write = match query {
            None | Some("") => false,
            Some("for=write") => true,
            // A probe that misspells what it asks must not hear a yes to something else.
            Some(_) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "ask without a query or with for=write",
                );
            }
        };
        report(&self.source.ready(for_write))
    }
}

fn report(findings: &Findings) -> Response<Full<Bytes>> {
    let status = if findings.values().all(BTreeMap::is_empty) {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let body = serde_json::to_vec(findings).expect("maps of strings are always JSON");
    respond(status, JSON, body.into())
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "error": why }).to_string();
    respond(status, JSON, body.into())
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    use super::*;

    /// Issues, and cannot write.
    struct Follower;

    impl StatusSource for Follower {
        fn live(&self) -> Findings {
            let disk = BTreeMap::from([("disk_err", "the disk failed".to_owned())]);
            Findings::from([("server", disk), ("server.ca", BTreeMap::new())])
        }
        fn ready(&self, for_write: bool) -> Findings {
            let mut found = Findings::from([("server", BTreeMap::new())]);
            if for_write {
                let server = found.entry("server").or_default();
                server.insert("write_err", "no \"quorum\"".into());
                server.insert("leader_err", "no leader".into());
            }
            found
        }
    }

    fn both() -> Endpoints {
        Endpoints {
            metrics: true,
            health: health_at("/live", "/ready"),
        }
    }

    fn health_at(live: &str, ready: &str) -> Option<HealthPaths> {
        Some(HealthPaths {
            live: live.into(),
            ready: ready.into(),
        })
    }

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    async fn start(endpoints: Endpoints, limits: Limits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || crate::telemetry::ready(true));
        let pages = Pages {
            endpoints,
            source: Arc::new(Follower),
            metrics: recorder.handle(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(
            listener,
            Arc::new(pages),
            limits,
            Descriptors::default(),
            stop.clone(),
        ));
        Server {
            address,
            stop,
            task,
        }
    }

    /// Status code, head and body.
    async fn ask(server: &Server, method: &str, target: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(format!("{method} {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_lowercase(), body.to_owned())
    }

    #[tokio::test]
    async fn readiness_to_issue_and_to_write_are_two_questions() {
        let server = start(both(), LIMITS).await;
        let (code, head, body) = ask(&server, "GET", "/ready").await;
        assert_eq!((code, body.as_str()), (200, r#"{"server":{}}"#));
        assert!(
            head.contains("content-type: application/json")
                && head.contains("cache-control: no-store"),
            "{head}"
        );
        let (code, _, body) = ask(&server, "GET", "/ready?for=write").await;
        assert_eq!(
            (code, body.as_str()),
            (
                500,
                r#"{"server":{"leader_err":"no leader","write_err":"no \"quorum\""}}"#
            )
        );
        assert_eq!(ask(&server, "GET", "/ready?for=wirte").await.0, 400);
        let (code, _, body) = ask(&server, "GET", "/live").await;
        assert_eq!(
            (code, body.as_str()),
            (
                500,
                r#"{"server":{"disk_err":"the disk failed"},"server.ca":{}}"#
            )
        );
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let server = start(both(), LIMITS).await;
        let (code, head, body) = ask(&server, "GET", "/metrics").await;
        assert_eq!(code, 200);
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert!(body.lines().any(|l| l == "chancery_ready 1"), "{body}");
    }

    #[tokio::test]
    async fn head_has_the_code_and_no_body() {
        let server = start(both(), LIMITS).await;
        let (code, head, body) = ask(&server, "HEAD", "/ready?for=write").await;
        assert_eq!((code, body.as_str()), (500, ""));
        assert!(head.contains("content-length: "), "{head}");
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        let server = start(both(), LIMITS).await;
        assert_eq!(ask(&server, "GET", "/").await.0, 404);
        assert_eq!(ask(&server, "GET", "/metrics/").await.0, 404);
        let (code, head, _) = ask(&server, "POST", "/live").await;
        assert_eq!(code, 405);
        assert!(head.contains("allow: get, head"), "{head}");
        let health = start(
            Endpoints {
                metrics: false,
                health: health_at("/healthz", "/readyz"),
            },
            LIMITS,
        )
        .await;
        assert_eq!(ask(&health, "GET", "/metrics").await.0, 404);
        // Where the paths are others, these are none.
        assert_eq!(ask(&health, "GET", "/ready").await.0, 404);
        assert_eq!(ask(&health, "GET", "/readyz").await.0, 200);
        assert_eq!(ask(&health, "GET", "/healthz").await.0, 500);
        let metrics = start(
            Endpoints {
                metrics: true,
                health: None,
            },
            LIMITS,
        )
        .await;
        assert_eq!(ask(&metrics, "GET", "/ready").await.0, 404);
        assert_eq!(ask(&metrics, "GET", "/metrics").await.0, 200);
    }

    #[tokio::test]
    async fn silent_client_loses_its_place() {
        let server = start(
            both(),
            Limits {
                head: Duration::from_millis(50),
                ..LIMITS
            },
        )
        .await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        silent.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
        let mut rest = Vec::new();
        // It ends, by an answer or without one, long before the limit of the whole.
        let closed = tokio::time::timeout(LIMITS.head, silent.read_to_end(&mut rest));
        closed.await.expect("closed by the limit for the head").ok();
        assert!(!rest.starts_with(b"HTTP/1.1 2"));
    }

    #[tokio::test]
    async fn connection_over_the_limit_is_closed_and_the_others_are_served() {
        let server = start(both(), LIMITS).await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            held.push(TcpStream::connect(server.address).await.unwrap());
        }
        // Accepted in order, so that all before it hold their places.
        let mut over = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(over.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let mut answer = String::new();
        held[0]
            .write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        held[0].read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Its place is free again once the server noticed; until then others are closed.
        let served = async {
            loop {
                let mut next = TcpStream::connect(server.address).await.unwrap();
                let mut answer = String::new();
                if next
                    .write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
                    .await
                    .is_ok()
                    && next.read_to_string(&mut answer).await.is_ok()
                    && answer.starts_with("HTTP/1.1 200")
                {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMITS.head, served)
            .await
            .expect("a place was freed");
    }

    #[tokio::test]
    async fn shutdown_ends_the_listener_and_its_connections() {
        let server = start(both(), LIMITS).await;
        let mut open = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(ask(&server, "GET", "/ready").await.0, 200);
        server.stop.cancel();
        server.task.await.unwrap();
        assert_eq!(open.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
