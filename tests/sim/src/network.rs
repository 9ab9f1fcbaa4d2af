//! The simulated network, and the [`PeerTransport`] of a node on it.
//!
//! A call takes a way there and a way back. Each may be delayed, lost, or cut in one
//! direction; a call may arrive twice; and calls overtake each other. The called
//! node's real peer server answers, among that node's tasks: it goes when the node is
//! killed and waits when the node is paused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use chancery_api::chancery::peer::v1 as wire;
use chancery_api::chancery::peer::v1::control_server::Control as _;
use chancery_api::chancery::peer::v1::raft_server::Raft as _;
use chancery_node::cluster::peers::{PeerError, PeerTransport, understood};
use chancery_node::cluster::pins::PinBook;
use chancery_node::cluster::server::{PeerServer, refusal};
use chancery_node::transport::PeerConnection;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use prost::Message;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::codec::Codec as _;
use tonic::{Request, Response, Status, Streaming};

use crate::coverage::Met;
use crate::executor::{Executor, Group};
use crate::invariants::Event;
use crate::observer::Observer;
use crate::random::Random;

/// How the network behaves where no link is cut.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Longest ordinary delay of one way, milliseconds.
    pub delay_ms: u64,
    /// Messages of a thousand that take up to fifty times as long.
    pub late_permille: u64,
    /// Messages of a thousand that are lost.
    pub lost_permille: u64,
    /// Calls of a thousand that arrive twice.
    pub twice_permille: u64,
    /// Snapshots of a thousand that end too early.
    pub torn_permille: u64,
}

impl Weather {
    /// A quiet local network.
    pub const FAIR: Self = Self {
        delay_ms: 2,
        late_permille: 0,
        lost_permille: 0,
        twice_permille: 0,
        torn_permille: 0,
    };

    /// A network between storms.
    pub const ORDINARY: Self = Self {
        delay_ms: 4,
        late_permille: 5,
        lost_permille: 2,
        twice_permille: 5,
        torn_permille: 100,
    };
}

/// The network of a run. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    executor: Executor,
    /// Messages under way are nobody's: they arrive after their sender is dead.
    wire: Group,
    observer: Observer,
    state: Arc<Mutex<State>>,
}

struct State {
    endpoints: BTreeMap<u64, Endpoint>,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    weather: Weather,
    random: Random,
}

/// Where a node listens.
#[derive(Clone)]
struct Endpoint {
    group: Group,
    server: PeerServer,
    /// Whom it lets in.
    pins: PinBook,
}

/// The key of a simulated node: there is no TLS that would need a real one.
pub fn key_of(node: u64) -> [u8; 32] {
    let [.., low] = node.to_be_bytes();
    [low; 32]
}

type Answer<T> = Arc<Mutex<Option<oneshot::Sender<Result<T, PeerError>>>>>;
/// What the called node does.
type Serve<T> = Arc<dyn Fn(PeerServer) -> Served<T> + Send + Sync>;
type Served<T> = BoxFuture<'static, Result<Response<T>, Status>>;

impl Network {
    /// A quiet network without nodes.
    pub fn new(executor: Executor, observer: Observer, random: Random) -> Self {
        let wire = executor.group();
        Self {
            executor,
            wire,
            observer,
            state: Arc::new(Mutex::new(State {
                endpoints: BTreeMap::new(),
                cut: BTreeSet::new(),
                weather: Weather::FAIR,
                random,
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node listens.
    pub fn listen(&self, node: u64, group: Group, server: PeerServer, pins: PinBook) {
        let endpoint = Endpoint {
            group,
            server,
            pins,
        };
        self.state().endpoints.insert(node, endpoint);
    }

    /// A node listens no more.
    pub fn silence(&self, node: u64) {
        self.state().endpoints.remove(&node);
    }

    /// Cuts one direction.
    pub fn cut(&self, from: u64, to: u64) {
        self.state().cut.insert((from, to));
    }

    /// No link is cut any more.
    pub fn mend(&self) {
        self.state().cut.clear();
    }

    /// Sets how the rest behaves.
    pub fn weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Delay of one way, and whether the message arrives.
    fn way(&self, from: u64, to: u64) -> (Duration, bool) {
        let mut state = self.state();
        let weather = state.weather;
        let mut delay = state.random.below(weather.delay_ms + 1);
        if state.random.chance(weather.late_permille) {
            delay += state.random.below(weather.delay_ms * 50 + 1);
        }
        let lost = state.random.chance(weather.lost_permille);
        let cut = state.cut.contains(&(from, to));
        drop(state);
        if lost {
            self.observer.met(Met::MessageLost);
        }
        (Duration::from_millis(delay), !lost && !cut)
    }

    async fn call<T: Send + 'static>(
        &self,
        (from, to): (u64, u64),
        timeout: Duration,
        serve: Serve<T>,
    ) -> Result<T, PeerError> {
        let (done, wait) = oneshot::channel();
        let answer: Answer<T> = Arc::new(Mutex::new(Some(done)));
        let twice = {
            let mut state = self.state();
            let permille = state.weather.twice_permille;
            state.random.chance(permille)
        };
        if twice {
            self.observer.met(Met::MessageTwice);
            self.send((from, to), timeout, Arc::clone(&serve), Arc::clone(&answer));
        }
        self.send((from, to), timeout, serve, answer);
        let unreachable = |why: &str| PeerError::Unreachable {
            node: to,
            why: why.to_owned(),
        };
        match tokio::time::timeout(timeout, wait).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unreachable("the connection broke")),
            Err(_) => Err(unreachable("no answer in time")),
        }
    }

    fn send<T: Send + 'static>(
        &self,
        (from, to): (u64, u64),
        timeout: Duration,
        serve: Serve<T>,
        answer: Answer<T>,
    ) {
        let network = self.clone();
        let (delay, arrives) = self.way(from, to);
        self.executor.spawn(self.wire, async move {
            sleep(delay).await;
            if !arrives {
                // Silence: nobody tells the caller.
                sleep(timeout).await;
                return;
            }
            let endpoint = network.state().endpoints.get(&to).cloned();
            let Some(Endpoint {
                group,
                server,
                pins,
            }) = endpoint
            else {
                let why = "connection refused".to_owned();
                network.reply(
                    (to, from),
                    timeout,
                    answer,
                    Err(PeerError::NotConnected { node: to, why }),
                );
                return;
            };
            let (on, executor) = (network.clone(), network.executor.clone());
            executor.spawn(group, async move {
                let answered = match refusal(&pins, Some(&key_of(from))) {
                    None => serve(server).await,
                    Some(status) => Err(status),
                };
                let result = understood(to, answered);
                on.reply((to, from), timeout, answer, result);
            });
        });
    }

    fn reply<T: Send + 'static>(
        &self,
        (from, to): (u64, u64),
        timeout: Duration,
        answer: Answer<T>,
        result: Result<T, PeerError>,
    ) {
        let (delay, arrives) = self.way(from, to);
        self.executor.spawn(self.wire, async move {
            sleep(delay).await;
            if !arrives {
                sleep(timeout).await;
                return;
            }
            let waiting = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waiting) = waiting {
                // The caller may have given up.
                let _ = waiting.send(result);
            }
        });
    }
}

/// The way of one node to its peers.
pub struct SimPeers {
    network: Network,
    me: u64,
    pins: PinBook,
}

impl SimPeers {
    /// The transport of node `me`.
    pub fn new(network: Network, me: u64, pins: PinBook) -> Self {
        Self { network, me, pins }
    }

    /// Calls a peer that is known.
    async fn call<T: Send + 'static>(
        &self,
        to: u64,
        timeout: Duration,
        serve: Serve<T>,
    ) -> Result<T, PeerError> {
        if self.pins.find(to).is_none() {
            return Err(PeerError::Unknown(to));
        }
        self.network.call((self.me, to), timeout, serve).await
    }

    /// A request as the peer port would have made it of a connection.
    /// A call of one message that nobody looks at on its way.
    async fn pass<M: Clone + Send + Sync + 'static, A: Send + 'static>(
        &self,
        to: u64,
        message: M,
        timeout: Duration,
        serve: fn(PeerServer, Request<M>) -> Served<A>,
    ) -> Result<A, PeerError> {
        let from = self.me;
        let serve: Serve<A> =
            Arc::new(move |server| serve(server, Self::request(from, to, message.clone())));
        self.call(to, timeout, serve).await
    }

    fn request<M>(from: u64, to: u64, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let connection = PeerConnection::for_tests(key_of(from), key_of(to), [0; 32]);
        request.extensions_mut().insert(connection);
        request
    }
}

/// The messages of a stream as one HTTP/2 body, the last one torn where `torn`.
fn body_of(chunks: &[wire::SnapshotChunk], torn: bool) -> Bytes {
    let mut body = BytesMut::new();
    for chunk in chunks {
        let bytes = chunk.encode_to_vec();
        body.put_u8(0);
        body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        body.put_slice(&bytes);
    }
    if torn {
        body.truncate(body.len() * 2 / 3);
    }
    body.freeze()
}

#[async_trait]
impl PeerTransport for SimPeers {
    async fn append(
        &self,
        to: u64,
        m: wire::AppendRequest,
        timeout: Duration,
    ) -> Result<wire::AppendResponse, PeerError> {
        let (from, observer) = (self.me, self.network.observer.clone());
        observer.see(&Event::Led {
            node: from,
            request: &m,
        });
        let serve: Serve<wire::AppendResponse> = Arc::new(move |server| {
            let (request, observer) = (m.clone(), observer.clone());
            Box::pin(async move {
                let answer = server
                    .append(Self::request(from, to, request.clone()))
                    .await?;
                observer.see(&Event::Appended {
                    node: to,
                    request: &request,
                    answer: answer.get_ref(),
                });
                Ok(answer)
            })
        });
        self.call(to, timeout, serve).await
    }

    async fn vote(
        &self,
        to: u64,
        m: wire::VoteRequest,
        timeout: Duration,
    ) -> Result<wire::VoteResponse, PeerError> {
        let (from, observer) = (self.me, self.network.observer.clone());
        let serve: Serve<wire::VoteResponse> = Arc::new(move |server| {
            let (request, observer) = (m.clone(), observer.clone());
            Box::pin(async move {
                let answer = server.vote(Self::request(from, to, request)).await?;
                observer.see(&Event::Voted {
                    node: to,
                    answer: answer.get_ref(),
                });
                Ok(answer)
            })
        });
        self.call(to, timeout, serve).await
    }

    async fn pre_vote(
        &self,
        to: u64,
        m: wire::VoteRequest,
        timeout: Duration,
    ) -> Result<wire::VoteResponse, PeerError> {
        self.pass(to, m, timeout, |server, request| {
            Box::pin(async move { server.pre_vote(request).await })
        })
        .await
    }

    async fn install_snapshot(
        &self,
        to: u64,
        chunks: BoxStream<'static, wire::SnapshotChunk>,
        timeout: Duration,
    ) -> Result<wire::SnapshotResponse, PeerError> {
        let from = self.me;
        let chunks: Vec<wire::SnapshotChunk> = chunks.collect().await;
        let torn = {
            let mut state = self.network.state();
            let permille = state.weather.torn_permille;
            state.random.chance(permille)
        };
        if torn {
            self.network.observer.met(Met::SnapshotTorn);
        }
        let body = body_of(&chunks, torn);
        let serve: Serve<wire::SnapshotResponse> = Arc::new(move |server| {
            let body = tonic::body::Body::new(http_body_util::Full::new(body.clone()));
            let mut codec =
                tonic_prost::ProstCodec::<wire::SnapshotResponse, wire::SnapshotChunk>::default();
            let stream = Streaming::new_request(codec.decoder(), body, None, None);
            let request = Self::request(from, to, stream);
            Box::pin(async move { server.install_snapshot(request).await })
        });
        // openraft waits ten minutes; no run is that long.
        let timeout = timeout.min(Duration::from_secs(5));
        self.call(to, timeout, serve).await
    }

    async fn transfer_leader(
        &self,
        to: u64,
        m: wire::TransferLeaderRequest,
        timeout: Duration,
    ) -> Result<wire::TransferLeaderResponse, PeerError> {
        self.pass(to, m, timeout, |server, request| {
            Box::pin(async move { server.transfer_leader(request).await })
        })
        .await
    }

    async fn forward(
        &self,
        to: u64,
        m: wire::ForwardRequest,
        timeout: Duration,
    ) -> Result<wire::ForwardResponse, PeerError> {
        self.pass(to, m, timeout, |server, request| {
            Box::pin(async move { server.forward(request).await })
        })
        .await
    }

    async fn read_index(
        &self,
        to: u64,
        m: wire::ReadIndexRequest,
        timeout: Duration,
    ) -> Result<wire::ReadIndexResponse, PeerError> {
        self.pass(to, m, timeout, |server, request| {
            Box::pin(async move { server.read_index(request).await })
        })
        .await
    }

    async fn node_status(
        &self,
        to: u64,
        m: wire::NodeStatusRequest,
        timeout: Duration,
    ) -> Result<wire::NodeStatusResponse, PeerError> {
        self.pass(to, m, timeout, |server, request| {
            Box::pin(async move { server.node_status(request).await })
        })
        .await
    }

    async fn hand_over(
        &self,
        to: u64,
        m: wire::HandOverRequest,
        timeout: Duration,
    ) -> Result<wire::HandOverResponse, PeerError> {
        self.pass(to, m, timeout, |server, request| {
            Box::pin(async move { server.hand_over(request).await })
        })
        .await
    }

    /// No node here has a token.
    async fn certify(
        &self,
        to: u64,
        _: wire::CertifyRequest,
        _: Duration,
    ) -> Result<wire::CertifyResponse, PeerError> {
        Err(PeerError::Refused {
            node: to,
            why: "it has no token".into(),
        })
    }
}
