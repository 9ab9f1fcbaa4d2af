//! Read barriers and freshness.
//!
//! A barrier is a ReadIndex: the leader answers only after a quorum acknowledged
//! it after the request arrived (never by a lease), and this node has applied up
//! to that index. Requests that come while one is under way share the next.
//!
//! Freshness is the local `CLOCK_BOOTTIME` instant at which the last barrier that
//! succeeded was *sent*: the state cannot be older than that. Nothing else
//! refreshes it; a deposed leader goes on sending heartbeats.
//!
//! Each answer also tells the leader's clock, a second opinion on what time it is.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::runtime;
use openraft::raft::ReadPolicy;
use tokio::sync::{mpsc, oneshot};

use super::Consensus;
use crate::environment::Stopwatch;

/// A node asks this often of itself.
const INTERVAL: Duration = Duration::from_millis(250);
/// The way to the leader and back: longer is no quorum.
const LEADER_TIMEOUT: Duration = Duration::from_millis(1000);
/// Callers wait for an election while a quorum was heard within this time.
const LEADER_KNOWN: Duration = Duration::from_secs(5);
/// Time for this node to apply what the leader named.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// No leader has told its clock yet.
const NEVER_TOLD: i64 = i64::MIN;
/// Callers that may wait for a barrier at a time.
const WAITING_MAX: usize = 16_384;

/// No barrier could be had in time: without it a node cannot know what others
/// were told.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no quorum confirmed this node's state in time: {0}")]
pub struct BarrierError(pub String);

/// Barriers and freshness of this node. Cheap to clone.
#[derive(Clone)]
pub struct Barriers {
    consensus: Consensus,
    waiting: mpsc::Sender<oneshot::Sender<Result<(), BarrierError>>>,
    /// Milliseconds of boot time; 0 is never.
    fresh_as_of: Arc<AtomicU64>,
    /// What is added to boot time, in milliseconds, to have the leader's clock.
    leader_offset: Arc<AtomicI64>,
    last_error: Arc<Mutex<String>>,
}

impl Barriers {
    /// Starts asking on the current runtime.
    pub fn start(consensus: Consensus) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let barriers = Self {
            consensus,
            waiting,
            fresh_as_of: Arc::new(AtomicU64::new(0)),
            leader_offset: Arc::new(AtomicI64::new(NEVER_TOLD)),
            last_error: Arc::new(Mutex::new("none was asked for yet".into())),
        };
        runtime::spawn(barriers.clone().run(queue));
        barriers
    }

    /// Returns once this node has applied everything that any node acknowledged
    /// before the call.
    pub async fn pass(&self, limit: Duration) -> Result<(), BarrierError> {
        let (done, wait) = oneshot::channel();
        self.waiting
            .try_send(done)
            .map_err(|_| BarrierError("too many callers wait for one".into()))?;
        match tokio::time::timeout(limit, wait).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(BarrierError("this node is stopping".into())),
            Err(_) => Err(BarrierError(
                self.last_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            )),
        }
    }

    /// How old the state may be at most; `None` before the first barrier since
    /// this process started.
    pub fn age(&self) -> Option<Duration> {
        match self.fresh_as_of.load(Ordering::Acquire) {
            0 => None,
            at => Some(
                self.consensus
                    .clock()
                    .boottime()
                    .saturating_sub(Duration::from_millis(at)),
            ),
        }
    }

    /// What the clock of the last leader that answered shows now, Unix milliseconds:
    /// behind by a round trip at most. `None` before the first answer.
    pub fn leader_clock_ms(&self) -> Option<i64> {
        match self.leader_offset.load(Ordering::Acquire) {
            NEVER_TOLD => None,
            offset => Some(offset.saturating_add(self.boot_ms())),
        }
    }

    fn boot_ms(&self) -> i64 {
        let boot = self.consensus.clock().boottime();
        i64::try_from(boot.as_millis()).unwrap_or(i64::MAX)
    }

    async fn run(self, mut queue: mpsc::Receiver<oneshot::Sender<Result<(), BarrierError>>>) {
        // Callers whose round failed while a leader may be about to come.
        let mut callers = Vec::new();
        loop {
            // Those that are here now share this round; later ones get the next,
            // for their barrier must begin after they asked.
            if callers.is_empty() {
                match tokio::time::timeout(INTERVAL, queue.recv()).await {
                    Ok(Some(caller)) => callers.push(caller),
                    Ok(None) => return,
                    Err(_) => {}
                }
            }
            while let Ok(caller) = queue.try_recv() {
                callers.push(caller);
            }
            callers.retain(|caller| !caller.is_closed());
            let sent_at = self.consensus.clock().boottime();
            let watch = Stopwatch::start();
            let index = match tokio::time::timeout(LEADER_TIMEOUT, self.read_index()).await {
                Ok(index) => index,
                Err(_) => Err(BarrierError("the leader or a quorum did not answer".into())),
            };
            match index {
                Ok((index, told_ms)) => {
                    if told_ms > 0 {
                        let offset = told_ms.saturating_sub(self.boot_ms());
                        self.leader_offset.store(offset, Ordering::Release);
                    }
                    // That a quorum is there is known now, however long applying takes.
                    self.consensus.heard();
                    crate::telemetry::quorum_round_trip(watch.elapsed());
                    let waiting = std::mem::take(&mut callers);
                    runtime::spawn(self.clone().applied(index, sent_at, waiting));
                }
                Err(error) => {
                    error.0.clone_into(
                        &mut self
                            .last_error
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner),
                    );
                    if !self.consensus.leader_heard_within(LEADER_KNOWN) {
                        for caller in callers.drain(..) {
                            // Whoever asked may have given up.
                            let _ = caller.send(Err(error.clone()));
                        }
                    }
                    // An election is under way, or there is no quorum: not a busy loop.
                    let seen = self.consensus.leadership();
                    self.consensus
                        .leadership_changed(seen, Duration::from_millis(50))
                        .await;
                }
            }
        }
    }

    /// Ends a round once this node has applied what the leader named.
    async fn applied(
        self,
        index: u64,
        sent_at: Duration,
        callers: Vec<oneshot::Sender<Result<(), BarrierError>>>,
    ) {
        let wait = self.consensus.registry().wait_applied(index);
        let result = match tokio::time::timeout(APPLY_TIMEOUT, wait).await {
            Ok(()) => {
                let ms = u64::try_from(sent_at.as_millis())
                    .unwrap_or(u64::MAX)
                    .max(1);
                self.fresh_as_of.fetch_max(ms, Ordering::AcqRel);
                Ok(())
            }
            Err(_) => Err(BarrierError(format!(
                "this node has not applied log entry {index} in time"
            ))),
        };
        for caller in callers {
            // Whoever asked may have given up.
            let _ = caller.send(result.clone());
        }
    }

    /// The leader's index and its clock, zero where it does not tell.
    async fn read_index(&self) -> Result<(u64, i64), BarrierError> {
        let consensus = &self.consensus;
        let leader = consensus
            .leadership()
            .leader
            .ok_or_else(|| BarrierError("no leader is known".into()))?;
        if leader == consensus.me() {
            let index = consensus.read_index_here().await?;
            return Ok((index, consensus.clock().now_unix_ms()));
        }
        let network = &consensus.inner.network;
        let request = wire::ReadIndexRequest {
            target: Some(network.target(leader)),
        };
        let answer = network
            .peers
            .read_index(leader, request, LEADER_TIMEOUT)
            .await;
        let answer = answer.map_err(|e| BarrierError(network.standing.noted(e).to_string()))?;
        let read_log_id = answer.read_log_id;
        let read_log_id =
            read_log_id.ok_or_else(|| BarrierError("the leader sent no index".into()))?;
        Ok((read_log_id.index, answer.time_ms))
    }
}

impl Consensus {
    /// The read index, if this node leads and a quorum says so now.
    pub(super) async fn read_index_here(&self) -> Result<u64, BarrierError> {
        let confirmed = self
            .inner
            .raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await;
        Ok(confirmed
            .map_err(|e| BarrierError(e.to_string()))?
            .read_log_id()
            .index())
    }
}
