//! openraft's network over [`PeerTransport`].

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::snapshot::SnapshotFile;
use chancery_raft_store::types::{PeerNode, Types, Vote};
use futures::StreamExt;
use openraft::OptionalSend;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::peers::{PeerError, PeerTransport};
use super::standing::Standing;
use super::wire as convert;

/// Bytes of one chunk of a snapshot on its way.
const CHUNK_BYTES: usize = 1 << 20;
/// Least time for log entries to arrive and be synced: a busy disk is not a dead
/// peer. Heartbeats keep openraft's own, shorter time.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// A snapshot that takes longer than this is given up and begun anew.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>;

/// Makes the network of one node.
#[derive(Clone)]
pub struct Network {
    /// Cluster this node belongs to.
    pub cluster_id: Arc<str>,
    /// This node.
    pub me: u64,
    /// How to reach the others.
    pub peers: Arc<dyn PeerTransport>,
    /// What goes with every call.
    pub(super) standing: Standing,
}

impl Network {
    pub(super) fn target(&self, to: u64) -> wire::Target {
        let (standing, seen) = self.standing.told_to(to);
        wire::Target {
            cluster_id: self.cluster_id.to_string(),
            to,
            from: self.me,
            standing: Some(standing),
            seen,
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &PeerNode) -> Link {
        Link {
            network: self.clone(),
            to: target,
        }
    }
}

/// Raft's way to one peer.
pub struct Link {
    network: Network,
    to: u64,
}

fn rpc_error(error: PeerError) -> RPCError<Types> {
    match error {
        PeerError::Unreachable { .. } | PeerError::NotConnected { .. } | PeerError::Unknown(_) => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        PeerError::Refused { .. } | PeerError::RolledBack { .. } | PeerError::Removed { .. } => {
            RPCError::Network(NetworkError::new(&error))
        }
    }
}

fn bad_answer(error: super::wire::WireError) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&error))
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let limit = if rpc.entries.is_empty() {
            option.hard_ttl()
        } else {
            option.hard_ttl().max(APPEND_TIMEOUT)
        };
        let message = convert::append_request(self.network.target(self.to), &rpc);
        let last = rpc.entries.last().map(|entry| entry.log_id.index);
        let answer = self
            .network
            .peers
            .append(self.to, message, limit)
            .await
            .map_err(|e| rpc_error(self.network.standing.noted(e)))?;
        let answer = convert::append_response_from(&answer).map_err(bad_answer)?;
        // Answered after they are durable, and the vote before them.
        if let (AppendEntriesResponse::Success, Some(last)) = (&answer, last) {
            self.network.standing.acknowledged(self.to, rpc.vote, last);
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = convert::vote_request(self.network.target(self.to), &rpc);
        let answer = self
            .network
            .peers
            .vote(self.to, message, option.hard_ttl())
            .await
            .map_err(|e| rpc_error(self.network.standing.noted(e)))?;
        convert::vote_response_from(&answer).map_err(bad_answer)
    }

    /// openraft's default grants without asking; a peer that cannot be reached
    /// must count as a no.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = convert::vote_request(self.network.target(self.to), &rpc);
        let answer = self
            .network
            .peers
            .pre_vote(self.to, message, option.hard_ttl())
            .await
            .map_err(|e| rpc_error(self.network.standing.noted(e)))?;
        convert::vote_response_from(&answer).map_err(bad_answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let chunks = chunks(self.network.target(self.to), &vote, &snapshot.snapshot)
            .map_err(|e| StreamingError::Unreachable(Unreachable::new(&e)))?;
        let send = self
            .network
            .peers
            .install_snapshot(self.to, chunks, SNAPSHOT_TIMEOUT);
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = send => answer.map_err(|e| StreamingError::Unreachable(Unreachable::new(&e)))?,
        };
        let vote = convert::vote_from(answer.vote.as_ref())
            .map_err(|e| StreamingError::Network(NetworkError::new(&e)))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = convert::transfer_request(self.network.target(self.to), &req);
        let answer = self
            .network
            .peers
            .transfer_leader(self.to, message, option.hard_ttl())
            .await
            .map_err(|e| rpc_error(self.network.standing.noted(e)))?;
        if answer.refusal.is_empty() {
            return Ok(Ok(()));
        }
        let why = PeerError::Refused {
            node: self.to,
            why: answer.refusal,
        };
        Err(RPCError::Network(NetworkError::new(&why)))
    }
}

/// The file as messages, the first of which carries who, whose vote and how much.
/// A file that cannot be read on ends the stream early, and the receiver's check
/// of the total refuses what it got.
fn chunks(
    target: wire::Target,
    vote: &Vote,
    snapshot: &SnapshotFile,
) -> std::io::Result<futures::stream::BoxStream<'static, wire::SnapshotChunk>> {
    let mut file = std::fs::File::open(snapshot.path())?;
    let first = wire::SnapshotChunk {
        target: Some(target),
        vote: Some(convert::vote(vote)),
        total_bytes: file.metadata()?.len(),
        chunk: Vec::new(),
    };
    let keep = snapshot.clone();
    let rest = std::iter::from_fn(move || {
        let _held_until_sent = &keep;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        while filled < chunk.len() {
            match file.read(&mut chunk[filled..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => filled += n,
            }
        }
        chunk.truncate(filled);
        (filled > 0).then(|| wire::SnapshotChunk {
            chunk,
            ..wire::SnapshotChunk::default()
        })
    });
    Ok(futures::stream::iter(std::iter::once(first).chain(rest)).boxed())
}
