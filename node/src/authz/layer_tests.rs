//! The layer, call by call.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use metrics_exporter_prometheus::PrometheusBuilder;
use tonic::Code;

use super::*;
use crate::authz::Role;
use crate::transport::{GrpcService, caller_testing};

const METHOD: &str = "/spire.api.server.entry.v1.Entry/ListEntries";

/// Admits or refuses everybody, and remembers who asked.
struct FixedGate(Result<(), Code>, Mutex<Vec<String>>);

impl FixedGate {
    fn new(answer: Result<(), Code>) -> Arc<Self> {
        Arc::new(Self(answer, Mutex::default()))
    }

    fn asked(&self) -> Vec<String> {
        self.1.lock().unwrap().clone()
    }
}

#[async_trait]
impl Gate for FixedGate {
    async fn admit(&self, method: &str, caller: &Caller) -> Result<Permit, Status> {
        self.1
            .lock()
            .unwrap()
            .push(format!("{} {method}", caller.kind()));
        self.0.map_err(|code| Status::new(code, "no"))?;
        Ok(Permit::for_tests(METHOD, Role::Local, None))
    }
}

/// Routes that need a permit.
#[derive(Clone)]
enum Routes {
    /// Answer one message and, if any, trailers with this code.
    Answer(Option<&'static str>),
    /// Never answer.
    Silent,
}

impl Service<Request<Body>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Err(status) = Permit::of(request.extensions()) {
            return Box::pin(futures::future::ok(status.into_http()));
        }
        let Self::Answer(code) = *self else {
            return Box::pin(futures::future::pending());
        };
        let trailers = code.map(|code| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            Frame::trailers(trailers)
        });
        let message = Frame::data(Bytes::from_static(b"message"));
        let frames: Vec<_> = [message]
            .into_iter()
            .chain(trailers)
            .map(Ok::<_, Status>)
            .collect();
        let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
        Box::pin(futures::future::ok(Response::new(body)))
    }
}

fn request(path: &str, caller: Option<Caller>) -> Request<Body> {
    let mut request = Request::post(path).body(Body::empty()).unwrap();
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    request
}

fn local(path: &str) -> Request<Body> {
    request(path, Some(caller_testing::local()))
}

fn behind<S: GrpcService>(gate: &Arc<FixedGate>, routes: S) -> impl GrpcService {
    GateLayer::new(gate.clone()).layer(routes)
}

/// Runs `calls` and says what was counted.
fn counted(calls: impl Future<Output = ()>) -> Vec<String> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(calls));
    let text = recorder.handle().render();
    text.lines()
        .filter(|l| l.starts_with("chancery_rpc_total"))
        .map(str::to_owned)
        .collect()
}

fn line(method: &str, code: &str, count: u32) -> String {
    format!("chancery_rpc_total{{method=\"{method}\",code=\"{code}\"}} {count}")
}

#[test]
fn admitted_request_reaches_the_routes_with_its_permit() {
    let gate = FixedGate::new(Ok(()));
    let lines = counted(async {
        let mut service = behind(&gate, Routes::Answer(Some("0")));
        let body = service
            .call(local(METHOD))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "message");
    });
    assert_eq!(gate.asked(), [format!("local {METHOD}")]);
    assert_eq!(lines, [line(METHOD, "OK", 1)]);
}

#[test]
fn refused_request_never_reaches_the_routes() {
    let gate = FixedGate::new(Err(Code::PermissionDenied));
    let lines = counted(async {
        let mut service = behind(&gate, Routes::Answer(Some("0")));
        let response = service
            .call(request(METHOD, Some(caller_testing::anonymous())))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(
            response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
    });
    assert_eq!(lines, [line(METHOD, "PermissionDenied", 1)]);
}

#[test]
fn routes_without_the_layer_have_no_permit() {
    let lines = counted(async {
        let response = Routes::Answer(Some("0")).call(local(METHOD)).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "13");
    });
    assert!(lines.is_empty());
}

#[test]
fn request_without_a_caller_is_refused_unasked() {
    let gate = FixedGate::new(Ok(()));
    let lines = counted(async {
        let response = behind(&gate, Routes::Answer(Some("0")))
            .call(request(METHOD, None))
            .await
            .unwrap();
        assert_eq!(response.headers()["grpc-status"], "13");
    });
    assert!(gate.asked().is_empty());
    assert_eq!(lines, [line(METHOD, "Internal", 1)]);
}

#[test]
fn what_is_not_served_is_unimplemented_and_no_time_series() {
    const CASES: [(&str, &str); 4] = [
        (
            "/spire.api.server.entry.v1.Entry/Nope",
            "unknown method Nope for service spire.api.server.entry.v1.Entry",
        ),
        (
            "/chancery.peer.v1.Raft/Vote",
            "unknown service chancery.peer.v1.Raft",
        ),
        ("/x.Y/Z", "unknown service x.Y"),
        ("/x", "malformed method name: \"/x\""),
    ];
    let gate = FixedGate::new(Ok(()));
    let lines = counted(async {
        let mut service = behind(&gate, Routes::Answer(Some("0")));
        for (path, message) in CASES {
            let response = service.call(local(path)).await.unwrap();
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(
                (status.code(), status.message()),
                (Code::Unimplemented, message)
            );
        }
    });
    assert!(gate.asked().is_empty());
    assert_eq!(lines, [line("unknown", "Unimplemented", 4)]);
}

#[test]
fn local_services_do_not_exist_over_the_network() {
    const GET_LOGGER: &str = "/spire.api.server.logger.v1.Logger/GetLogger";
    let gate = FixedGate::new(Ok(()));
    counted(async {
        let mut service = behind(&gate, Routes::Answer(Some("0")));
        let admin = caller_testing::certificate("spiffe://here.test/boss", "1", i64::MAX);
        for caller in [caller_testing::anonymous(), admin] {
            let response = service
                .call(request(GET_LOGGER, Some(caller)))
                .await
                .unwrap();
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(status.code(), Code::Unimplemented);
            assert_eq!(
                status.message(),
                "unknown service spire.api.server.logger.v1.Logger"
            );
        }
        assert!(gate.asked().is_empty());
        service.call(local(GET_LOGGER)).await.unwrap();
    });
    assert_eq!(gate.asked(), [format!("local {GET_LOGGER}")]);
}

#[test]
fn call_ends_by_its_deadline() {
    let gate = FixedGate::new(Ok(()));
    let lines = counted(async {
        let mut request = local(METHOD);
        request
            .headers_mut()
            .insert("grpc-timeout", "5m".parse().unwrap());
        let answer = behind(&gate, Routes::Silent).call(request);
        let response = tokio::time::timeout(Duration::from_secs(30), answer)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(response.headers()["grpc-status"], "4");
    });
    assert_eq!(lines, [line(METHOD, "DeadlineExceeded", 1)]);
}

#[test]
fn code_of_a_stream_is_that_of_its_trailers() {
    let gate = FixedGate::new(Ok(()));
    let lines = counted(async {
        let mut service = behind(&gate, Routes::Answer(Some("14")));
        service
            .call(local(METHOD))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
    });
    assert_eq!(lines, [line(METHOD, "Unavailable", 1)]);
}

#[test]
fn call_that_nobody_waits_for_counts_as_cancelled() {
    let gate = FixedGate::new(Ok(()));
    let lines = counted(async {
        let mut service = behind(&gate, Routes::Answer(Some("0")));
        let response = service.call(local(METHOD)).await.unwrap();
        response.into_body().frame().await.unwrap().unwrap();
        // Before the response began, too.
        drop(behind(&gate, Routes::Silent).call(local(METHOD)));
    });
    assert_eq!(lines, [line(METHOD, "Canceled", 2)]);
}

#[test]
fn response_without_a_status_counts_as_unknown() {
    let gate = FixedGate::new(Ok(()));
    let lines = counted(async {
        let mut service = behind(&gate, Routes::Answer(None));
        service
            .call(local(METHOD))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
    });
    assert_eq!(lines, [line(METHOD, "Unknown", 1)]);
}
