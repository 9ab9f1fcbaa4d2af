//! The peer port: Raft's own traffic and what members ask of each other.
//!
//! A call is answered only when the connection was made with the key that the
//! replicated membership pins for the calling node, and when it names this node
//! of this cluster as its target.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chancery_api::chancery::peer::v1 as wire;
use chancery_api::chancery::peer::v1::control_server::Control;
use chancery_api::chancery::peer::v1::raft_server::Raft as RaftService;
use chancery_raft_store::{Types, runtime};
use futures::StreamExt;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt as _;

use super::peers::REMOVED;
use super::pins::PinBook;
use super::status::SelfStatus;
use super::{Consensus, wire as convert};
use crate::transport::{GrpcService, PeerConnection};

type VoteRequest = openraft::raft::VoteRequest<Types>;

/// Paths of what may be called before a key is pinned.
const FORMATION: &str = "/chancery.peer.v1.Bootstrap/";
/// Bytes of a snapshot that a peer may announce: 64 GiB.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 30;
/// Proposals of one forwarded batch.
const FORWARD_MAX: usize = 1024;

/// Serves the peer port of one node.
#[derive(Clone)]
pub struct PeerServer {
    consensus: Consensus,
    pins: PinBook,
    status: Arc<dyn SelfStatus>,
    received: Arc<AtomicU64>,
}

impl PeerServer {
    /// A server for this node.
    pub fn new(consensus: Consensus, pins: PinBook, status: Arc<dyn SelfStatus>) -> Self {
        Self {
            consensus,
            pins,
            status,
            received: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Returns the calling node if its key is pinned and it means this node.
    ///
    /// # Errors
    /// Unauthenticated, InvalidArgument, FailedPrecondition or PermissionDenied, which say why.
    pub fn check<T>(
        &self,
        request: &Request<T>,
        target: Option<&wire::Target>,
    ) -> Result<u64, Status> {
        let connection = request
            .extensions()
            .get::<PeerConnection>()
            .ok_or_else(|| Status::unauthenticated("not a peer connection"))?;
        self.check_target(connection, target)
    }

    /// What a node that stands for election asks, if it may.
    fn candidate(&self, request: &Request<wire::VoteRequest>) -> Result<VoteRequest, Status> {
        let target = request.get_ref().target.as_ref();
        self.check(request, target)?;
        let standing = &self.consensus.inner.network.standing;
        standing.check_candidate(target)?;
        convert::vote_request_from(request.get_ref()).map_err(bad)
    }

    fn check_target(
        &self,
        connection: &PeerConnection,
        target: Option<&wire::Target>,
    ) -> Result<u64, Status> {
        let target =
            target.ok_or_else(|| Status::invalid_argument("peer message without target"))?;
        if target.cluster_id != self.consensus.cluster_id() {
            return Err(Status::failed_precondition(format!(
                "this node belongs to cluster {}, the call is for cluster {}",
                self.consensus.cluster_id(),
                target.cluster_id
            )));
        }
        if target.to != self.consensus.me() {
            return Err(Status::failed_precondition(format!(
                "this is node {}, the call is for node {}; two peer addresses may be swapped",
                self.consensus.me(),
                target.to
            )));
        }
        match self.pins.find(target.from) {
            Some((_, pin)) if pin == *connection.remote_spki_sha256() => {
                self.consensus.inner.network.standing.check(target)?;
                Ok(target.from)
            }
            _ => Err(Status::permission_denied(format!(
                "the calling key is not pinned for node {}",
                target.from
            ))),
        }
    }
}

/// Lets members call everything and everybody else formation only, before a byte of
/// a message is read: any key completes the handshake.
pub fn pinned_only(routes: Routes, pins: PinBook) -> impl GrpcService {
    tower::service_fn(move |request: http::Request<Body>| {
        let connection = request.extensions().get::<PeerConnection>();
        let refused = (!request.uri().path().starts_with(FORMATION))
            .then(|| refusal(&pins, connection.map(PeerConnection::remote_spki_sha256)))
            .flatten();
        let routes = routes.clone();
        async move {
            match refused {
                None => routes.oneshot(request).await,
                Some(status) => Ok(status.into_http()),
            }
        }
    })
}

/// What is said to a caller that is no member, and to one that no longer is.
pub fn refusal(pins: &PinBook, spki: Option<&[u8; 32]>) -> Option<Status> {
    if spki.is_some_and(|spki| pins.knows(spki)) {
        return None;
    }
    let Some(id) = spki.and_then(|spki| pins.removed(spki)) else {
        return Some(Status::permission_denied("the calling key is no member's"));
    };
    let mut status = Status::permission_denied(format!(
        "node {id} was removed from this cluster; it may join again under a new id"
    ));
    status.metadata_mut().insert(REMOVED, id.into());
    Some(status)
}

fn fatal(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("consensus has stopped: {error}"))
}

/// Runs blocking work beside the runtime.
async fn beside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    runtime::blocking(name, work)
        .map_err(|e| Status::unavailable(format!("no thread for the snapshot: {e}")))?
        .await
        .map_err(|_| Status::internal("a snapshot thread panicked"))
}

fn bad(error: convert::WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl RaftService for PeerServer {
    async fn append(
        &self,
        request: Request<wire::AppendRequest>,
    ) -> Result<Response<wire::AppendResponse>, Status> {
        self.check(&request, request.get_ref().target.as_ref())?;
        let rpc = convert::append_request_from(request.get_ref()).map_err(bad)?;
        let answer = self
            .consensus
            .inner
            .raft
            .append_entries(rpc)
            .await
            .map_err(fatal)?;
        Ok(Response::new(convert::append_response(&answer)))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let rpc = self.candidate(&request)?;
        let answer = self.consensus.inner.raft.vote(rpc).await.map_err(fatal)?;
        Ok(Response::new(convert::vote_response(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let rpc = self.candidate(&request)?;
        let answer = self
            .consensus
            .inner
            .raft
            .pre_vote(rpc)
            .await
            .map_err(fatal)?;
        Ok(Response::new(convert::vote_response(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotResponse>, Status> {
        let connection = request
            .extensions()
            .get::<PeerConnection>()
            .copied()
            .ok_or_else(|| Status::unauthenticated("not a peer connection"))?;
        let mut chunks = request.into_inner();
        let first = chunks
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("empty snapshot stream"))?;
        self.check_target(&connection, first.target.as_ref())?;
        let vote = convert::vote_from(first.vote.as_ref()).map_err(bad)?;
        if first.total_bytes > SNAPSHOT_BYTES_MAX {
            return Err(Status::resource_exhausted(
                "the announced snapshot is larger than 64 GiB",
            ));
        }
        // A disk that fails is never written to again: the node ends.
        let standing = self.consensus.inner.network.standing.clone();
        let storage = move |e: std::io::Error| {
            standing.end(format!("a snapshot from a peer cannot be stored: {e}"));
            Status::unavailable(format!("cannot store the snapshot: {e}"))
        };
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        let (file, mut out) = self
            .consensus
            .inner
            .snapshots
            .begin(&format!("receive-{number}"))
            .map_err(&storage)?;
        let mut received = 0u64;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?.chunk;
            received += chunk.len() as u64;
            if received > first.total_bytes {
                return Err(Status::invalid_argument(
                    "more snapshot bytes than announced",
                ));
            }
            // It is asked for again; a write that failed would end this node.
            if !self.consensus.inner.disk.gate().has_room() {
                return Err(Status::unavailable("no room on the disk for the snapshot"));
            }
            out = beside("snapshot-receive", move || {
                out.write_all(&chunk).map(|()| out)
            })
            .await?
            .map_err(&storage)?;
        }
        if received != first.total_bytes {
            return Err(Status::data_loss("fewer snapshot bytes than announced"));
        }
        let snapshot = beside("snapshot-check", move || {
            out.sync_all().map_err(storage)?;
            super::status::snapshot_of(file).map_err(|e| Status::data_loss(e.to_string()))
        })
        .await??;
        let answer = self
            .consensus
            .inner
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(fatal)?;
        tracing::info!(
            bytes = received,
            log_index = self.consensus.registry().applied_index(),
            "snapshot installed"
        );
        Ok(Response::new(wire::SnapshotResponse {
            vote: Some(convert::vote(&answer.vote)),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        self.check(&request, request.get_ref().target.as_ref())?;
        let rpc =
            convert::transfer_request_from(self.consensus.me(), request.get_ref()).map_err(bad)?;
        let answer = self
            .consensus
            .inner
            .raft
            .handle_transfer_leader(rpc)
            .await
            .map_err(fatal)?;
        let refusal = answer.err().map(|e| e.to_string()).unwrap_or_default();
        Ok(Response::new(wire::TransferLeaderResponse { refusal }))
    }
}

#[tonic::async_trait]
impl Control for PeerServer {
    async fn forward(
        &self,
        request: Request<wire::ForwardRequest>,
    ) -> Result<Response<wire::ForwardResponse>, Status> {
        let from = self.check(&request, request.get_ref().target.as_ref())?;
        let proposals = request.into_inner().proposals;
        if proposals.len() > FORWARD_MAX {
            return Err(Status::resource_exhausted(format!(
                "more than {FORWARD_MAX} proposals in one batch"
            )));
        }
        Ok(Response::new(
            self.consensus.write_forwarded(from, proposals).await,
        ))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexResponse>, Status> {
        self.check(&request, request.get_ref().target.as_ref())?;
        let index = self
            .consensus
            .read_index_here()
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let read_log_id = wire::LogId {
            index,
            ..wire::LogId::default()
        };
        Ok(Response::new(wire::ReadIndexResponse {
            read_log_id: Some(read_log_id),
            time_ms: self.consensus.clock().now_unix_ms(),
        }))
    }

    async fn node_status(
        &self,
        request: Request<wire::NodeStatusRequest>,
    ) -> Result<Response<wire::NodeStatusResponse>, Status> {
        self.check(&request, request.get_ref().target.as_ref())?;
        Ok(Response::new(self.status.node_status()))
    }

    async fn hand_over(
        &self,
        request: Request<wire::HandOverRequest>,
    ) -> Result<Response<wire::HandOverResponse>, Status> {
        self.check(&request, request.get_ref().target.as_ref())?;
        let to = Some(request.get_ref().to).filter(|id| *id != 0);
        self.consensus.hand_over(to).await?;
        let leader = self.consensus.leadership().leader.unwrap_or(0);
        Ok(Response::new(wire::HandOverResponse { leader }))
    }
}
