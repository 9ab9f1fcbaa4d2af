//! A server that says what a test tells it to, and a command line run against it in process.
//!
//! It speaks gRPC by hand (one frame a message, status in the trailers), so that it can answer any
//! method of any service and show the very bytes it was sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::{BufMut as _, Bytes, BytesMut};
use chancery_api::chancery::cluster::v1::{Authority, Member, OutagePart, StatusResponse};
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::host::Host;

/// One canned answer, for the call that comes when its turn is there.
pub(super) struct Answer {
    path: &'static str,
    message: Option<Vec<u8>>,
    trailers: HeaderMap,
}

impl Answer {
    /// `message`, with status OK.
    pub(super) fn ok(path: &'static str, message: &impl Message) -> Self {
        Self::new(path, Some(message.encode_to_vec()), 0, "")
    }

    /// A status alone.
    pub(super) fn refusal(path: &'static str, code: i32, text: &'static str) -> Self {
        Self::new(path, None, code, text)
    }

    /// Adds a trailer.
    pub(super) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.trailers.insert(name, HeaderValue::from_static(value));
        self
    }

    fn new(path: &'static str, message: Option<Vec<u8>>, code: i32, text: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code));
        trailers.insert("grpc-message", HeaderValue::from_static(text));
        Answer {
            path,
            message,
            trailers,
        }
    }
}

/// What stands between the server's thread and the test's.
#[derive(Default)]
struct Script {
    answers: VecDeque<Answer>,
    requests: Vec<Bytes>,
}

/// A server on a socket of its own, until it is dropped.
pub(super) struct FakeServer {
    folder: TempDir,
    script: Arc<Mutex<Script>>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl FakeServer {
    /// Answers calls with `answers`, in this order; a call that is not the next one is
    /// unimplemented.
    pub(super) fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = StdUnixListener::bind(folder.path().join("api.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let script = Arc::new(Mutex::new(Script {
            answers: answers.into_iter().collect(),
            requests: Vec::new(),
        }));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn({
            let script = script.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let listener = UnixListener::from_std(listener).unwrap();
                    tokio::select! {
                        () = serve(listener, script) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        FakeServer {
            folder,
            script,
            running: Some((stop, thread)),
        }
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// Runs `chancery` with `line` (words parted by spaces) and this server's socket.
    pub(super) fn run(&self, line: &str) -> Outcome {
        let socket = self.socket().display().to_string();
        let words = line.split(' ').chain(["-socketPath", &socket]);
        run(&words.collect::<Vec<_>>(), "")
    }

    /// [`FakeServer::run`] at a terminal, with further variables of the environment.
    pub(super) fn run_at_terminal(&self, line: &str, variables: &[(&str, &str)]) -> Outcome {
        let socket = self.socket().display().to_string();
        let words: Vec<_> = line.split(' ').chain(["-socketPath", &socket]).collect();
        run_in(&words, "", true, variables)
    }

    /// [`FakeServer::run`] with something on standard input.
    pub(super) fn run_with_input(&self, line: &str, input: &str) -> Outcome {
        let socket = self.socket().display().to_string();
        let words = line.split(' ').chain(["-socketPath", &socket]);
        run(&words.collect::<Vec<_>>(), input)
    }

    /// The requests so far, of whatever calls.
    pub(super) fn raw_requests(&self) -> Vec<Bytes> {
        self.script.lock().unwrap().requests.clone()
    }

    /// Fails where an answer is still waiting for its call.
    pub(super) fn all_answered(&self) {
        let script = self.script.lock().unwrap();
        let waiting: Vec<_> = script.answers.iter().map(|answer| answer.path).collect();
        assert!(waiting.is_empty(), "calls that were not made: {waiting:?}");
    }

    /// The requests so far, which all are an `M`.
    pub(super) fn requests<M: Message + Default>(&self) -> Vec<M> {
        let requests = self.all_requests();
        let decode = |bytes: &Bytes| M::decode(bytes.clone()).unwrap();
        requests.iter().map(decode).collect()
    }

    /// The request at that place, from 0, which is an `M`.
    pub(super) fn request<M: Message + Default>(&self, at: usize) -> M {
        M::decode(self.all_requests()[at].clone()).unwrap()
    }

    fn all_requests(&self) -> Vec<Bytes> {
        let script = self.script.lock().unwrap();
        assert!(
            script.answers.is_empty(),
            "not every expected call was made"
        );
        script.requests.clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

async fn serve(listener: UnixListener, script: Arc<Mutex<Script>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let script = script.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let script = script.clone();
                async move { answer(request, &script).await }
            });
            // How a connection ends is the client's to report.
            let _ = auto::Builder::new(TokioExecutor::new())
                .http2_only()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(
    request: Request<Incoming>,
    script: &Mutex<Script>,
) -> Result<Response<Body>, io::Error> {
    const FRAME_HEADER_BYTES: usize = 5;
    let path = request.uri().path().to_owned();
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(io::Error::other)?;
    let message = body.to_bytes().slice(FRAME_HEADER_BYTES..);

    let mut script = script.lock().unwrap();
    script.requests.push(message);
    let answer = match script.answers.pop_front() {
        Some(answer) if answer.path == path => answer,
        Some(answer) if answer.path == "hang up" => return Err(io::Error::other("hung up")),
        _ => Answer::refusal("", 12, "not what the test expects"),
    };
    let mut frames = Vec::new();
    if let Some(message) = answer.message {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap());
        frame.put_slice(&message);
        frames.push(Ok(Frame::data(frame.freeze())));
    }
    frames.push(Ok(Frame::trailers(answer.trailers)));
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(StreamBody::new(stream::iter(frames)))
        .unwrap())
}

/// What a command line did.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Whether the exit code is 0.
    pub(super) success: bool,
    /// The exit code.
    pub(super) code: u8,
    /// Standard output.
    pub(super) out: String,
    /// Standard error.
    pub(super) err: String,
}

/// Runs `chancery` with `words` in an environment that has a time zone only, UTC.
pub(super) fn run(words: &[&str], input: &str) -> Outcome {
    run_in(words, input, false, &[])
}

fn run_in(
    words: &[&str],
    input: &str,
    stdout_is_terminal: bool,
    variables: &[(&str, &str)],
) -> Outcome {
    let variable = |name: &str| {
        let mut known = [("TZ", "")].iter().chain(variables);
        let found = known.find(|(known, _)| *known == name)?;
        Some(found.1.to_owned())
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut host = Host {
        stdin: &mut input.as_bytes(),
        stdout: &mut out,
        stdout_is_terminal,
        stderr: &mut err,
        variable: &variable,
        now_unix_s: 1_552_410_266,
    };
    let args = ["chancery"].iter().chain(words).map(Into::into);
    let code = super::run(args, &mut host) as u8;
    Outcome {
        success: code == 0,
        code,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// Four members, two of them in trouble, and two authorities.
pub(super) fn cluster_status() -> StatusResponse {
    let member = |id: &str, role: &str, name: &str| Member {
        id: id.into(),
        role: role.into(),
        api: format!("{name}:8081"),
        peer: format!("{name}:8082"),
        reachable: true,
        applied_index: 1_042,
        state_digest: "abcdef0123456789".into(),
        version: "0.1.0".into(),
        clock_skew_ms: Some(0),
        not_ready: String::new(),
        wanted: if role == "leader" { "voter" } else { role }.into(),
        auto_promote: false,
        replaces: String::new(),
        boot: 2,
        shortfall: String::new(),
        key_backend: "pkcs11".into(),
    };
    let authority = |kind: &str, id: &str, status: &str, backend: &str, node: &str| Authority {
        kind: kind.into(),
        authority_id: id.into(),
        status: status.into(),
        expires_at: 1_552_410_266,
        backend: backend.into(),
        node_id: node.into(),
    };
    StatusResponse {
        cluster_id: "c-1".into(),
        trust_domain: "example.org".into(),
        node_id: "2".into(),
        leader: Some("1".into()),
        term: 7,
        freshness_ms: Some(12),
        stale_issuance_limit_ms: 600_000,
        members: vec![
            member("1", "leader", "one"),
            member("2", "voter", "two"),
            Member {
                applied_index: 900,
                clock_skew_ms: None,
                not_ready: "its token is locked".into(),
                ..member("3", "learner", "three")
            },
            Member {
                applied_index: 12,
                reachable: false,
                clock_skew_ms: Some(-40),
                ..member("4", "voter", "four")
            },
        ],
        authorities: vec![
            authority("x509", "0a1b", "active", "pkcs11", ""),
            authority("jwt", "kid-1", "prepared", "memory", "2"),
        ],
        advice: Vec::new(),
        ready: true,
        outage_budget_seconds: 599,
        issuance_mode: "direct".into(),
        authority_scope: "shared".into(),
        scope_left: Vec::new(),
        outage_parts: [("freshness", 599), ("authority", 3_600)]
            .map(|(part, seconds)| OutagePart {
                part: part.into(),
                seconds,
            })
            .to_vec(),
        feature_level: 1,
        cluster_clock_ms: 1_552_406_666_000,
        clock_offset_ms: Some(-3),
    }
}
