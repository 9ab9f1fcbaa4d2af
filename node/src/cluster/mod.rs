//! Consensus as the rest of the node sees it: propose a command, ask for a
//! barrier, ask how fresh the state is, ask who leads.
//!
//! Everything of openraft stays in this room and in `raft-store`. The Raft core,
//! its log writer and the peer network run on a runtime of their own, so that a
//! storm of signing cannot make leaders flap.

pub mod agreement;
pub mod barrier;
pub mod formation;
pub mod membership;
mod network;
pub mod peers;
pub mod pins;
pub mod propose;
mod report;
pub mod server;
mod standing;
pub mod status;
pub mod successor;
pub mod time;
pub mod token;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chancery_api::chancery::peer::v1::{
    CertifyRequest, CertifyResponse, Checkpoint as WireCheckpoint, HandOverRequest, Pin,
};
use chancery_raft_store::apply::clock::AGREE_WITHIN_MS;
use chancery_raft_store::command::RequestId;
use chancery_raft_store::high_water::{HighWaterError, Owner};
use chancery_raft_store::log::LogStore;
use chancery_raft_store::machine::StateMachine;
use chancery_raft_store::runtime;
use chancery_raft_store::snapshot::Snapshots;
use chancery_raft_store::store::Store;
use chancery_raft_store::types::PeerNode;
use chancery_raft_store::{Registry, Types};
use openraft::async_runtime::WatchReceiver;
use openraft::{ServerState, SnapshotPolicy};
use tonic::Status;

pub use barrier::{BarrierError, Barriers};
pub use network::Network;
pub use propose::{ProposeError, Proposer};

use crate::disk::Disk;
use crate::environment::Clock;
use peers::{PeerError, PeerTransport};
use standing::Standing;
use time::Judgement;

/// Time for another node to take over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// Log entries behind a snapshot that are purged together at most.
const PURGE_BATCH_MAX: u64 = 256;

/// openraft's handle with Chancery's types.
pub type Raft = openraft::Raft<Types, StateMachine>;

/// A node's part in consensus. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    registry: Registry,
    network: Network,
    clock: Arc<dyn Clock>,
    me: u64,
    boot: u64,
    request: AtomicU64,
    snapshots: Snapshots,
    disk: Disk,
    /// Boot time in milliseconds at which a quorum was last heard; 0 is never.
    heard_at: AtomicU64,
    judgement: Judgement,
    /// Voters' clocks less this node's boot time, in milliseconds, as they last told.
    voters_clocks: Mutex<BTreeMap<u64, i64>>,
}

/// What a node is and where its state lives.
pub struct Start {
    /// Cluster id from the identity record.
    pub cluster_id: String,
    /// Node id from the identity record.
    pub node_id: u64,
    /// Which start of this node this is.
    pub boot: u64,
    /// How to reach peers.
    pub peers: Arc<dyn PeerTransport>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is known of the disk of the store.
    pub disk: Disk,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Least and greatest time without a leader before a node stands for election.
    pub election: (Duration, Duration),
    /// Log entries between snapshots.
    pub snapshot_after: u64,
    /// Log entries that are kept behind a snapshot, for members that are a little late.
    pub keep_after_snapshot: u64,
}

/// Opened storage of a node, before Raft runs over it.
pub struct Storage {
    /// Raft's log.
    pub log: LogStore,
    /// Raft's state machine.
    pub machine: StateMachine,
    /// The readers' handle.
    pub registry: Registry,
    /// Where snapshots are.
    pub snapshots: Snapshots,
}

impl Storage {
    /// Opens log and state in a `store` that no high-water mark stands beside: a simulated
    /// one.
    #[cfg(feature = "faults")]
    pub fn open_unmarked(
        store: Arc<dyn Store>,
        snapshots: Snapshots,
    ) -> Result<Self, chancery_raft_store::store::StoreError> {
        let log = LogStore::open(Arc::clone(&store))?;
        let (machine, registry) = StateMachine::open(store, snapshots.clone())?;
        Ok(Self {
            log,
            machine,
            registry,
            snapshots,
        })
    }

    /// Opens log and state in `store`, the one of the node `this` in `data_dir`,
    /// after a check that it is what it was when it was last open.
    pub fn open(
        store: Arc<dyn Store>,
        snapshots: Snapshots,
        data_dir: &Path,
        this: &Owner,
    ) -> Result<Self, HighWaterError> {
        let failed = |source| HighWaterError::Failed {
            path: data_dir.to_path_buf(),
            source,
        };
        let log = LogStore::open_marked(Arc::clone(&store), data_dir, this)?;
        let (machine, registry) = StateMachine::open(store, snapshots.clone()).map_err(failed)?;
        machine.check_covers(log.durable().purged).map_err(failed)?;
        Ok(Self {
            log,
            machine,
            registry,
            snapshots,
        })
    }
}

/// Consensus did not start or has stopped for good.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// A timer that openraft refuses.
    #[error("Raft's settings: {0}")]
    Settings(String),
    /// The Raft core ended; it does not heal.
    #[error("the Raft core stopped: {0}")]
    Fatal(String),
    /// Another part of consensus found that this node must end.
    #[error("{0}")]
    Ended(String),
    /// The first node could not be made a cluster of one.
    #[error("cannot initialise the cluster: {0}")]
    Initialise(String),
}

/// Who leads, and in which term, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Term.
    pub term: u64,
    /// Leader, if one is known.
    pub leader: Option<u64>,
}

impl Consensus {
    /// Starts Raft on the current runtime, which must be the one kept for it.
    pub async fn start(start: Start, storage: Storage) -> Result<Self, ConsensusError> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: start.cluster_id.clone(),
            heartbeat_interval: ms(start.heartbeat),
            election_timeout_min: ms(start.election.0),
            election_timeout_max: ms(start.election.1),
            enable_pre_vote: Some(true),
            // A leader sends log entries before its own disk has them. One that lost such
            // entries in a crash and led on in the same term would write others under the
            // same log ids: it must be elected anew.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(start.snapshot_after),
            max_in_snapshot_log_to_keep: start.keep_after_snapshot,
            purge_batch_size: start.snapshot_after.clamp(1, PURGE_BATCH_MAX),
            max_payload_entries: 512,
            replication_lag_threshold: start.snapshot_after,
            install_snapshot_timeout: 600_000,
            ..openraft::Config::default()
        };
        let config = config
            .validate()
            .map_err(|e| ConsensusError::Settings(e.to_string()))?;
        let Storage {
            log,
            machine,
            registry,
            snapshots,
        } = storage;
        let network = Network {
            cluster_id: start.cluster_id.into(),
            me: start.node_id,
            peers: start.peers,
            standing: Standing::new(log.witness(), registry.clone(), start.node_id, start.boot),
        };
        let raft = Raft::new(
            start.node_id,
            Arc::new(config),
            network.clone(),
            log,
            machine,
        )
        .await
        .map_err(|e| ConsensusError::Fatal(e.to_string()))?;
        let inner = Inner {
            raft,
            registry,
            network,
            clock: start.clock,
            me: start.node_id,
            boot: start.boot,
            request: AtomicU64::new(0),
            snapshots,
            disk: start.disk,
            heard_at: AtomicU64::new(0),
            judgement: Judgement::default(),
            voters_clocks: Mutex::default(),
        };
        let consensus = Self {
            inner: Arc::new(inner),
        };
        runtime::spawn(consensus.clone().watch_leadership());
        Ok(consensus)
    }

    /// Notes when a leader is known, and counts its changes.
    async fn watch_leadership(self) {
        let mut metrics = self.inner.raft.metrics();
        let mut last = None;
        loop {
            let leader = metrics.borrow_watched().current_leader;
            if leader != last {
                if let Some(leader) = leader {
                    // It was elected by a quorum just now.
                    self.heard();
                    crate::telemetry::leader_change();
                    tracing::info!(leader, "leader changed");
                }
                crate::telemetry::leader(leader == Some(self.inner.me));
                last = leader;
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// A quorum was heard: through a barrier, or because leadership moved.
    fn heard(&self) {
        let now = u64::try_from(self.clock().boottime().as_millis()).unwrap_or(u64::MAX);
        self.inner.heard_at.store(now.max(1), Ordering::Relaxed);
    }

    /// Time since a quorum was last heard; `None` before the first time.
    fn unheard(&self) -> Option<Duration> {
        match self.inner.heard_at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(
                self.clock()
                    .boottime()
                    .saturating_sub(Duration::from_millis(at)),
            ),
        }
    }

    /// Whether a leader with a quorum was heard within `limit`. A leader that is only
    /// named may be gone: openraft goes on naming it until there is another.
    fn leader_heard_within(&self, limit: Duration) -> bool {
        self.unheard().is_some_and(|age| age <= limit)
    }

    /// Ends when no quorum was heard for `limit`.
    async fn unheard_for(&self, limit: Duration) {
        while self.leader_heard_within(limit) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes this node a cluster of one. Harmless when it is one already.
    pub async fn initialise(&self, address: String) -> Result<(), ConsensusError> {
        let fatal = |e: &dyn std::fmt::Display| ConsensusError::Initialise(e.to_string());
        if self
            .inner
            .raft
            .is_initialized()
            .await
            .map_err(|e| fatal(&e))?
        {
            return Ok(());
        }
        let members = std::collections::BTreeMap::from([(self.inner.me, PeerNode { address })]);
        self.inner
            .raft
            .initialize(members)
            .await
            .map_err(|e| fatal(&e))
    }

    /// This node's id.
    pub fn me(&self) -> u64 {
        self.inner.me
    }

    /// The replicated state on this node.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Time source.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Cluster this node belongs to.
    pub fn cluster_id(&self) -> &str {
        &self.inner.network.cluster_id
    }

    /// A request id that this node never used before.
    fn next_request(&self) -> RequestId {
        let sequence = self.inner.request.fetch_add(1, Ordering::Relaxed) + 1;
        RequestId {
            node: self.inner.me,
            boot: self.inner.boot,
            sequence,
        }
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        Leadership {
            term: metrics.current_term,
            leader: metrics.current_leader,
        }
    }

    /// Whether this node leads, as it sees it.
    pub fn is_leader(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.state == ServerState::Leader
    }

    /// Voters and learners of the effective membership.
    pub fn voters_and_learners(&self) -> (Vec<u64>, Vec<u64>) {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (
            membership.voter_ids().collect(),
            membership.learner_ids().collect(),
        )
    }

    fn voters_clocks(&self) -> MutexGuard<'_, BTreeMap<u64, i64>> {
        self.inner
            .voters_clocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in members' clocks, each less boot time, in milliseconds.
    fn note_clocks(&self, members: BTreeMap<u64, i64>) {
        let (voters, _) = self.voters_and_learners();
        let clock = self.clock();
        let mut clocks = members;
        let own = clock.now_unix_ms().saturating_sub(time::boot_ms(&**clock));
        clocks.insert(self.me(), own);
        clocks.retain(|id, _| voters.contains(id));
        let median = time::median(clocks.values().copied().collect(), voters.len());
        self.inner.judgement.note(median);
        *self.voters_clocks() = clocks;
    }

    /// Milliseconds that the median of a majority of the voters' clocks is ahead of this
    /// node's; `None` before one was known.
    pub fn clock_offset_ms(&self) -> Option<i64> {
        self.inner.judgement.offset_ms(&**self.clock())
    }

    /// Hands leadership to a voter with a better clock while this node's is off. Not to one
    /// that is to lose its vote: it would hand it back, and no change would come to its end.
    async fn yield_to_a_better_clock(&self) {
        let Some(offset) = self
            .clock_offset_ms()
            .filter(|ms| ms.unsigned_abs() > AGREE_WITHIN_MS)
        else {
            return;
        };
        let now_boot = time::boot_ms(&**self.clock());
        let now = self.clock().now_unix_ms();
        let median_less_boot = now.saturating_add(offset).saturating_sub(now_boot);
        let heirs = {
            let state = self.registry().read();
            let founding = &state.cluster().founding_peers;
            let stay = state.members().filter(|m| m.is_wanted_voter(founding));
            let stay = stay.map(|m| m.node_id).filter(|id| *id != self.me());
            time::agreeing(&self.voters_clocks(), median_less_boot, stay)
        };
        if heirs.is_empty() {
            return;
        }
        tracing::warn!(
            offset_ms = offset,
            "this node's clock is off: it hands leadership over"
        );
        self.hand_over_to_any(&heirs).await;
    }

    /// Members as peers are told of them.
    pub fn pins(&self) -> Vec<Pin> {
        let registry = self.registry().read();
        registry
            .members()
            .map(|m| Pin {
                node_id: m.node_id,
                peer_address: m.peer_address.clone(),
                spki_sha256: m.spki_sha256.clone(),
            })
            .collect()
    }

    /// Digests of the state as peers are told them.
    pub fn checkpoints(&self) -> Vec<WireCheckpoint> {
        let checkpoints = self.registry().checkpoints().into_iter();
        checkpoints
            .map(|c| WireCheckpoint {
                index: c.index,
                digest: c.digest,
            })
            .collect()
    }

    /// Log entries that are known committed and not applied here yet.
    pub fn apply_lag(&self) -> u64 {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.cluster_committed.map_or(0, |id| id.index);
        committed.saturating_sub(metrics.last_applied.map_or(0, |id| id.index))
    }

    /// Waits until leadership is not `seen` any more, at most `limit`.
    pub async fn leadership_changed(&self, seen: Leadership, limit: Duration) {
        let mut metrics = self.inner.raft.metrics();
        let changed = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    if (Leadership {
                        term: now.current_term,
                        leader: now.current_leader,
                    }) != seen
                    {
                        return;
                    }
                }
                if metrics.changed().await.is_err() {
                    // The core is gone; whoever waits has a deadline.
                    std::future::pending::<()>().await;
                }
            }
        };
        // Running out of time is as good an end as a change.
        let _ = tokio::time::timeout(limit, changed).await;
    }

    /// Ends with the reason when the Raft core has stopped. The process must end too.
    pub async fn died(&self) -> ConsensusError {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return ConsensusError::Fatal(fatal.to_string());
            }
            tokio::select! {
                biased;
                why = self.inner.network.standing.ended() => return ConsensusError::Ended(why),
                changed = metrics.changed() => if changed.is_err() {
                    return ConsensusError::Fatal("its metrics ended".into());
                },
            }
        }
    }

    /// This node must end, for the first reason given.
    pub fn end(&self, why: String) {
        self.inner.network.standing.end(why);
    }

    /// Hands leadership to another voter, if this node leads and one is there.
    pub async fn step_down(&self) {
        let (voters, _) = self.voters_and_learners();
        self.hand_over_to_any(&voters.into_iter().collect()).await;
    }

    /// Hands leadership to that one of these voters that has most of the log, if this node
    /// leads.
    pub async fn hand_over_to_any(&self, heirs: &BTreeSet<u64>) {
        if !self.is_leader() {
            return;
        }
        let target = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics
                .replication
                .iter()
                .flatten()
                .filter(|(id, _)| **id != self.inner.me && heirs.contains(id))
                .max_by_key(|(_, matched)| matched.map(|id| id.index))
                .map(|(id, _)| *id)
        };
        if let Some(target) = target {
            self.transfer_to(target).await;
        }
    }

    async fn transfer_to(&self, target: u64) {
        // A core that is gone has no leadership to hand over.
        let _ = self.inner.raft.trigger().transfer_leader(target).await;
        let another_leads = async {
            loop {
                let seen = self.leadership();
                if seen.leader.is_some_and(|id| id != self.me()) {
                    return;
                }
                self.leadership_changed(seen, HAND_OVER_LIMIT).await;
            }
        };
        // Who waits looks for himself who leads.
        let _ = tokio::time::timeout(HAND_OVER_LIMIT, another_leads).await;
    }

    /// Has leadership handed over, wherever it is, and returns who leads then.
    ///
    /// # Errors
    /// Those of the leader; Unavailable where there is none or it does not answer.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, Status> {
        const LIMIT: Duration = Duration::from_secs(5);
        let no_leader = || Status::unavailable("no leader is known");
        let leader = self.leadership().leader.ok_or_else(no_leader)?;
        if leader == self.me() {
            self.hand_over(to).await?;
        } else {
            let request = HandOverRequest {
                target: Some(self.inner.network.target(leader)),
                to: to.unwrap_or(0),
            };
            let peers = &self.inner.network.peers;
            let answer = peers.hand_over(leader, request, LIMIT).await;
            let answer = answer.map_err(|e| match e {
                PeerError::Refused { why, .. } => Status::failed_precondition(why),
                _ => Status::unavailable(e.to_string()),
            })?;
            if answer.leader != 0 {
                return Ok(answer.leader);
            }
        }
        self.leadership().leader.ok_or_else(no_leader)
    }

    /// Asks a member that has the token to certify this node's key; `request` names no target.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn certify(
        &self,
        to: u64,
        request: CertifyRequest,
        timeout: Duration,
    ) -> Result<CertifyResponse, PeerError> {
        let network = &self.inner.network;
        let request = CertifyRequest {
            target: Some(network.target(to)),
            ..request
        };
        let answer = network.peers.certify(to, request, timeout).await;
        answer.map_err(|e| network.standing.noted(e))
    }

    /// Hands leadership to `to`, or to the voter that has most of the log.
    ///
    /// # Errors
    /// FailedPrecondition where this node does not lead or `to` is no other voter,
    /// Unavailable where `to` did not take over.
    async fn hand_over(&self, to: Option<u64>) -> Result<(), Status> {
        if !self.is_leader() {
            return Err(Status::failed_precondition("this node does not lead"));
        }
        let (voters, _) = self.voters_and_learners();
        match to {
            Some(to) if to == self.me() => return Ok(()),
            Some(to) if !voters.contains(&to) => {
                return Err(Status::failed_precondition(format!(
                    "node {to} is no voter: only a voter can lead"
                )));
            }
            Some(to) => self.transfer_to(to).await,
            None if voters.len() < 2 => {
                return Err(Status::failed_precondition("there is no other voter"));
            }
            None => self.step_down().await,
        }
        let leader = self.leadership().leader;
        if leader == Some(self.me()) || to.is_some_and(|to| leader != Some(to)) {
            return Err(Status::unavailable(
                "the other node did not take over in time: look at cluster status",
            ));
        }
        Ok(())
    }

    /// Gives leadership up, to somebody or to nobody: without heartbeats the others
    /// elect one of their own.
    pub async fn give_up_leadership(self) {
        self.step_down().await;
        if self.is_leader() && self.inner.disk.is_stalled() {
            self.inner.raft.runtime_config().heartbeat(false);
        }
    }

    /// Whether this node stands for election when there is no leader, and sends
    /// heartbeats when it leads.
    pub fn set_candidate(&self, stands: bool) {
        let config = self.inner.raft.runtime_config();
        config.elect(stands);
        if stands {
            config.heartbeat(true);
        }
    }

    /// What is known of the disk of the store.
    pub fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// Stops Raft.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "the Raft core did not stop cleanly");
        }
    }
}
