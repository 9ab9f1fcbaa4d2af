//! How a node reaches its peers.
//!
//! [`PeerTransport`] is the seam: Raft's network, forwarding and read-index go
//! through it, and a simulation brings its own. [`GrpcPeers`] is the real one.

use std::collections::BTreeMap;
use std::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use chancery_api::chancery::peer::v1 as wire;
use chancery_api::chancery::peer::v1::control_client::ControlClient;
use chancery_api::chancery::peer::v1::custody_client::CustodyClient;
use chancery_api::chancery::peer::v1::raft_client::RaftClient;
use futures::Stream;
use futures::stream::BoxStream;
use tonic::transport::Channel;

use super::pins::PinBook;
use super::standing::refuses_as_rolled_back;
use crate::transport::{ConnectError, PeerTls};

/// Bytes of one message between peers: log entries come in reads of 1 MiB, and
/// one log entry may hold a whole 4 MiB request.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Metadata of a refusal: the caller was removed from the cluster.
pub(super) const REMOVED: &str = "chancery-removed";

/// A call to a peer did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// Nobody with this id is known.
    #[error("node {0} is not a member")]
    Unknown(u64),
    /// The connection broke, or no answer came in time. Whether the call arrived is unknown.
    #[error("node {node} is unreachable: {why}")]
    Unreachable {
        /// Who was called.
        node: u64,
        /// What went wrong.
        why: String,
    },
    /// There is no connection: the call certainly did not arrive.
    #[error("node {node} cannot be reached: {why}")]
    NotConnected {
        /// Who was called.
        node: u64,
        /// What went wrong.
        why: String,
    },
    /// The peer has seen more of this node than it holds now.
    #[error("node {node} has seen more of this node than it was told")]
    RolledBack {
        /// Who was called.
        node: u64,
        /// What it has seen.
        seen: wire::Standing,
    },
    /// The peer answered that this node was removed from the cluster.
    #[error("node {node} says: {why}")]
    Removed {
        /// Who was called.
        node: u64,
        /// What it said.
        why: String,
    },
    /// The peer answered that it will not.
    #[error("node {node} refused: {why}")]
    Refused {
        /// Who was called.
        node: u64,
        /// What it said.
        why: String,
    },
}

/// Calls to a peer. Every call ends within `timeout`.
#[async_trait]
pub trait PeerTransport: Send + Sync + 'static {
    /// Raft: append log entries, or a heartbeat.
    async fn append(
        &self,
        to: u64,
        m: wire::AppendRequest,
        timeout: Duration,
    ) -> Result<wire::AppendResponse, PeerError>;
    /// Raft: ask for a vote.
    async fn vote(
        &self,
        to: u64,
        m: wire::VoteRequest,
        timeout: Duration,
    ) -> Result<wire::VoteResponse, PeerError>;
    /// Raft: ask whether a vote would be granted.
    async fn pre_vote(
        &self,
        to: u64,
        m: wire::VoteRequest,
        timeout: Duration,
    ) -> Result<wire::VoteResponse, PeerError>;
    /// Raft: hand a snapshot over.
    async fn install_snapshot(
        &self,
        to: u64,
        chunks: BoxStream<'static, wire::SnapshotChunk>,
        timeout: Duration,
    ) -> Result<wire::SnapshotResponse, PeerError>;
    /// Raft: ask the peer to take over.
    async fn transfer_leader(
        &self,
        to: u64,
        m: wire::TransferLeaderRequest,
        timeout: Duration,
    ) -> Result<wire::TransferLeaderResponse, PeerError>;
    /// Hand proposals to the leader.
    async fn forward(
        &self,
        to: u64,
        m: wire::ForwardRequest,
        timeout: Duration,
    ) -> Result<wire::ForwardResponse, PeerError>;
    /// Ask the leader for a read index.
    async fn read_index(
        &self,
        to: u64,
        m: wire::ReadIndexRequest,
        timeout: Duration,
    ) -> Result<wire::ReadIndexResponse, PeerError>;
    /// Ask a member how it is.
    async fn node_status(
        &self,
        to: u64,
        m: wire::NodeStatusRequest,
        timeout: Duration,
    ) -> Result<wire::NodeStatusResponse, PeerError>;
    /// Ask the leader to hand over.
    async fn hand_over(
        &self,
        to: u64,
        m: wire::HandOverRequest,
        timeout: Duration,
    ) -> Result<wire::HandOverResponse, PeerError>;
    /// Ask a member that has the token to certify an intermediate.
    async fn certify(
        &self,
        to: u64,
        m: wire::CertifyRequest,
        timeout: Duration,
    ) -> Result<wire::CertifyResponse, PeerError>;
}

/// What a channel is for: bulk must not wait in front of heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Raft,
    Snapshot,
    Control,
}

/// Peers over gRPC, TLS 1.3 and pinned keys.
pub struct GrpcPeers {
    tls: PeerTls,
    pins: PinBook,
    channels: Mutex<BTreeMap<(u64, Purpose), (String, Channel)>>,
}

impl GrpcPeers {
    /// Peers of the members in `pins`.
    pub fn new(tls: PeerTls, pins: PinBook) -> Self {
        Self {
            tls,
            pins,
            channels: Mutex::new(BTreeMap::new()),
        }
    }

    fn channel(&self, node: u64, purpose: Purpose) -> Result<Channel, PeerError> {
        let (address, pin) = self.pins.find(node).ok_or(PeerError::Unknown(node))?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = channels.get(&(node, purpose))
            && *known == address
        {
            return Ok(channel.clone());
        }
        let channel = self.tls.channel(&address, pin);
        channels.insert((node, purpose), (address, channel.clone()));
        Ok(channel)
    }

    fn raft(&self, node: u64, purpose: Purpose) -> Result<RaftClient<Channel>, PeerError> {
        let client = RaftClient::new(self.channel(node, purpose)?);
        Ok(client
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn control(&self, node: u64) -> Result<ControlClient<Channel>, PeerError> {
        let client = ControlClient::new(self.channel(node, Purpose::Control)?);
        Ok(client
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// The stream under a type of its own: the compiler cannot see for itself that a
/// call with a boxed one is `Send`.
struct Chunks(BoxStream<'static, wire::SnapshotChunk>);

impl Stream for Chunks {
    type Item = wire::SnapshotChunk;

    fn poll_next(mut self: pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// Whether the call failed because no connection could be made for it.
fn never_connected(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

async fn call<T>(
    node: u64,
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, PeerError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(answer) => understood(node, answer),
        Err(_) => Err(PeerError::Unreachable {
            node,
            why: format!("no answer within {timeout:?}"),
        }),
    }
}

/// What the answer of a peer means to its caller.
///
/// # Errors
/// The peer refused the call, or there is no peer.
pub fn understood<T>(
    node: u64,
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<T, PeerError> {
    let status = match answer {
        Ok(response) => return Ok(response.into_inner()),
        Err(status) => status,
    };
    let why = status.message().to_owned();
    Err(if never_connected(&status) {
        PeerError::NotConnected { node, why }
    } else if status.code() == tonic::Code::Unavailable {
        PeerError::Unreachable { node, why }
    } else if status.metadata().contains_key(REMOVED) {
        PeerError::Removed { node, why }
    } else {
        match refuses_as_rolled_back(&status) {
            Some(seen) => PeerError::RolledBack { node, seen },
            None => PeerError::Refused { node, why },
        }
    })
}

#[async_trait]
impl PeerTransport for GrpcPeers {
    async fn append(
        &self,
        to: u64,
        m: wire::AppendRequest,
        timeout: Duration,
    ) -> Result<wire::AppendResponse, PeerError> {
        call(to, timeout, self.raft(to, Purpose::Raft)?.append(m)).await
    }

    async fn vote(
        &self,
        to: u64,
        m: wire::VoteRequest,
        timeout: Duration,
    ) -> Result<wire::VoteResponse, PeerError> {
        call(to, timeout, self.raft(to, Purpose::Raft)?.vote(m)).await
    }

    async fn pre_vote(
        &self,
        to: u64,
        m: wire::VoteRequest,
        timeout: Duration,
    ) -> Result<wire::VoteResponse, PeerError> {
        call(to, timeout, self.raft(to, Purpose::Raft)?.pre_vote(m)).await
    }

    async fn install_snapshot(
        &self,
        to: u64,
        chunks: BoxStream<'static, wire::SnapshotChunk>,
        timeout: Duration,
    ) -> Result<wire::SnapshotResponse, PeerError> {
        let mut client = self.raft(to, Purpose::Snapshot)?;
        call(to, timeout, client.install_snapshot(Chunks(chunks))).await
    }

    async fn transfer_leader(
        &self,
        to: u64,
        m: wire::TransferLeaderRequest,
        timeout: Duration,
    ) -> Result<wire::TransferLeaderResponse, PeerError> {
        call(
            to,
            timeout,
            self.raft(to, Purpose::Raft)?.transfer_leader(m),
        )
        .await
    }

    async fn forward(
        &self,
        to: u64,
        m: wire::ForwardRequest,
        timeout: Duration,
    ) -> Result<wire::ForwardResponse, PeerError> {
        call(to, timeout, self.control(to)?.forward(m)).await
    }

    async fn read_index(
        &self,
        to: u64,
        m: wire::ReadIndexRequest,
        timeout: Duration,
    ) -> Result<wire::ReadIndexResponse, PeerError> {
        call(to, timeout, self.control(to)?.read_index(m)).await
    }

    async fn node_status(
        &self,
        to: u64,
        m: wire::NodeStatusRequest,
        timeout: Duration,
    ) -> Result<wire::NodeStatusResponse, PeerError> {
        call(to, timeout, self.control(to)?.node_status(m)).await
    }

    async fn hand_over(
        &self,
        to: u64,
        m: wire::HandOverRequest,
        timeout: Duration,
    ) -> Result<wire::HandOverResponse, PeerError> {
        call(to, timeout, self.control(to)?.hand_over(m)).await
    }

    async fn certify(
        &self,
        to: u64,
        m: wire::CertifyRequest,
        timeout: Duration,
    ) -> Result<wire::CertifyResponse, PeerError> {
        let mut client = CustodyClient::new(self.channel(to, Purpose::Control)?);
        call(to, timeout, client.certify(m)).await
    }
}
