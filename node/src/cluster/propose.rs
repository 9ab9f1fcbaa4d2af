//! The one door by which replicated state changes.
//!
//! A proposal made on any node reaches the leader, and the answer comes when it
//! is applied *here*: who was told "done" reads what they wrote. A proposal that is sent
//! again carries the same request id, so it is applied once.

use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::codec;
use chancery_raft_store::command::{ClockTold, Command, Outcome, Proposal};
use chancery_raft_store::runtime;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::peers::PeerError;
use super::{Consensus, Leadership, time};
use crate::environment::Stopwatch;

/// A write waits this long for an election while a leader was known just before.
const ELECTION_WAIT: Duration = Duration::from_secs(2);
/// How long ago a leader must have been known for a write to wait at all.
const LEADER_KNOWN: Duration = Duration::from_secs(5);
/// Proposals that may wait to be forwarded.
const QUEUE_MAX: usize = 4096;
/// Proposals and bytes of one forwarded batch.
const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Batches on their way at a time.
const BATCHES_MAX: usize = 8;
/// Pause before the same leader is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why a proposal has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// No leader, and none came in time. The proposal did not enter the log.
    #[error("no leader is known; nothing was written")]
    NoLeader,
    /// The deadline passed, or the queue is full, before the proposal was sent.
    #[error("the write could not be started in time; nothing was written")]
    Busy,
    /// The deadline passed after it was sent.
    #[error("the write was not confirmed in time; it may or may not take effect")]
    Unknown,
    /// There is no room for it on the disks of the nodes.
    #[error("nothing was written, for want of disk space: {0}")]
    NoRoom(String),
    /// A member runs a version that does not know the command.
    #[error(
        "this needs feature level {needs}, the cluster is at {committed}: every member must run a version that \
         offers it, for ten minutes without a break"
    )]
    Level {
        /// Level of the command.
        needs: u32,
        /// Level that every member is known to know.
        committed: u32,
    },
    /// The Raft core of this node has stopped.
    #[error("this node's consensus has stopped: {0}")]
    Stopped(String),
}

/// What became of one attempt.
pub(super) enum Attempt {
    Done(Outcome, u64),
    /// Certainly not in the log.
    Refused,
    /// Certainly not in the log, for want of disk space.
    NoRoom(String),
    /// Perhaps in the log.
    Unknown,
}

struct Forward {
    bytes: Vec<u8>,
    answer: oneshot::Sender<Attempt>,
}

/// Proposes commands from this node.
#[derive(Clone)]
pub struct Proposer {
    consensus: Consensus,
    forwards: mpsc::Sender<Forward>,
}

impl Proposer {
    /// Starts the forwarding task on the current runtime.
    pub fn start(consensus: Consensus) -> Self {
        let (forwards, queue) = mpsc::channel(QUEUE_MAX);
        runtime::spawn(forward_loop(consensus.clone(), queue));
        Self {
            consensus,
            forwards,
        }
    }

    /// Proposes `command` and waits until its outcome is applied on this node, at
    /// most `limit`.
    pub async fn propose(
        &self,
        command: Command,
        limit: Duration,
    ) -> Result<Outcome, ProposeError> {
        let deadline = Instant::now() + limit;
        self.measured(command, deadline, |index| async move {
            let applied = self.consensus.registry().wait_applied(index);
            let applied = tokio::time::timeout_at(deadline, applied).await;
            applied.map_err(|_| ProposeError::Unknown)
        })
        .await
    }

    /// Proposes `command` and waits until the cluster has ruled on it, at most `limit`: the
    /// outcome stands, and the state of this node may be older.
    pub async fn ruling(&self, command: Command, limit: Duration) -> Result<Outcome, ProposeError> {
        let deadline = Instant::now() + limit;
        self.measured(command, deadline, |_| std::future::ready(Ok(())))
            .await
    }

    async fn measured<F: Future<Output = Result<(), ProposeError>>>(
        &self,
        command: Command,
        deadline: Instant,
        then: impl FnOnce(u64) -> F,
    ) -> Result<Outcome, ProposeError> {
        let name = command.name();
        let watch = Stopwatch::start();
        let result = match self.run(command, deadline).await {
            Ok((outcome, index)) => then(index).await.map(|()| outcome),
            Err(error) => Err(error),
        };
        let label = match &result {
            Ok(_) => "applied",
            Err(ProposeError::NoLeader) => "no_leader",
            Err(ProposeError::Busy) => "busy",
            Err(ProposeError::Unknown) => "unknown",
            Err(ProposeError::NoRoom(_)) => "no_room",
            Err(ProposeError::Level { .. }) => "level",
            Err(ProposeError::Stopped(_)) => "stopped",
        };
        crate::telemetry::proposal(name, label, watch.elapsed());
        result
    }

    /// The outcome, and the index of its entry.
    async fn run(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(Outcome, u64), ProposeError> {
        let needs = command.feature_level();
        let committed = self.consensus.registry().read().cluster().feature_level;
        if needs > committed {
            return Err(ProposeError::Level { needs, committed });
        }
        let proposal = Proposal::new(Some(self.consensus.next_request()), command);
        let mut sent = false;
        let mut trouble: Option<(Leadership, Instant)> = None;
        let mut no_room = None;
        loop {
            let seen = self.consensus.leadership();
            // Trouble with one leader is over when there is another.
            let since = match trouble {
                Some((leadership, since)) if leadership == seen => since,
                _ => Instant::now(),
            };
            let give_up = if self.consensus.leader_heard_within(LEADER_KNOWN) {
                deadline.min(since + ELECTION_WAIT)
            } else {
                // Without a leader for long there is no point in making callers wait.
                Instant::now()
            };
            let attempt = match seen.leader {
                None => Attempt::Refused,
                Some(_) if trouble.is_none() && give_up <= Instant::now() => Attempt::Refused,
                Some(leader) => {
                    let attempt = async {
                        if leader == self.consensus.me() {
                            self.consensus.write_here(proposal.clone()).await
                        } else {
                            self.forward(&proposal).await
                        }
                    };
                    // A leader alone waits for its quorum without an end; a call to a
                    // leader that is gone need not be waited for when there is another.
                    let alone = async {
                        if leader == self.consensus.me() {
                            self.consensus.unheard_for(ELECTION_WAIT).await;
                        } else {
                            std::future::pending().await
                        }
                    };
                    let limit = deadline - Instant::now();
                    tokio::select! {
                        biased;
                        attempt = attempt => match attempt {
                            Ok(attempt) => attempt,
                            Err(ProposeError::Busy) if sent => Attempt::Refused,
                            Err(error) => return Err(error),
                        },
                        () = alone => Attempt::Unknown,
                        () = self.consensus.leadership_changed(seen, limit) => Attempt::Unknown,
                    }
                }
            };
            match attempt {
                Attempt::Done(outcome, index) => {
                    self.consensus.heard();
                    return Ok((outcome, index));
                }
                Attempt::Refused => no_room = None,
                // Leadership may yet go to where there is room.
                Attempt::NoRoom(why) => no_room = Some(why),
                Attempt::Unknown => sent = true,
            }
            trouble = Some((seen, since));
            let now = Instant::now();
            let moved = self.consensus.leadership() != seen;
            if now >= deadline || (now >= give_up && !moved) {
                return Err(match (sent, no_room, now >= deadline) {
                    (true, ..) => ProposeError::Unknown,
                    (false, Some(why), _) => ProposeError::NoRoom(why),
                    (false, None, true) => ProposeError::Busy,
                    (false, None, false) => ProposeError::NoLeader,
                });
            }
            // Either leadership moves, or the same leader is asked again shortly.
            self.consensus
                .leadership_changed(seen, RETRY_PAUSE.min(deadline - now))
                .await;
        }
    }

    async fn forward(&self, proposal: &Proposal) -> Result<Attempt, ProposeError> {
        let (answer, wait) = oneshot::channel();
        let forward = Forward {
            bytes: codec::encode_proposal(proposal),
            answer,
        };
        self.forwards
            .try_send(forward)
            .map_err(|_| ProposeError::Busy)?;
        Ok(wait.await.unwrap_or(Attempt::Unknown))
    }
}

impl Consensus {
    /// Gives a proposal its time: this clock's while it agrees with the others', else none,
    /// and then the time of the command before stands.
    async fn stamp(&self, proposal: &mut Proposal) {
        proposal.time_ms = 0;
        proposal.clocks.clear();
        if !self.inner.judgement.agrees(&**self.clock()).await {
            return;
        }
        let now = self.clock().now_unix_ms();
        proposal.time_ms = now;
        let (level, before) = {
            let state = self.registry().read();
            (state.cluster().feature_level, state.cluster().clock_ms)
        };
        if level > 0 && before > 0 {
            proposal.clocks = time::witnesses(now.saturating_sub(before), || {
                let boot_ms = time::boot_ms(&**self.clock());
                let told = |(id, less_boot): (&u64, &i64)| ClockTold {
                    node_id: *id,
                    clock_ms: less_boot.saturating_add(boot_ms),
                };
                self.voters_clocks().iter().map(told).collect()
            });
        }
    }

    /// Writes through this node's own Raft, if it leads.
    pub(super) async fn write_here(&self, mut proposal: Proposal) -> Result<Attempt, ProposeError> {
        if self.is_leader() {
            let disk = &self.inner.disk;
            let is_vital = proposal.command.as_ref().is_some_and(Command::is_vital);
            let short = match is_vital {
                true => disk.no_room_at_all(),
                false => disk.no_room(),
            };
            if let Some(why) = short {
                return Ok(Attempt::NoRoom(format!("node {}: {why}", self.me())));
            }
            if self.inner.disk.is_stalled() {
                return Ok(Attempt::Refused);
            }
        }
        self.stamp(&mut proposal).await;
        match self.inner.raft.client_write(proposal).await {
            Ok(done) => Ok(Attempt::Done(done.data, done.log_id.index)),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(fatal.to_string())),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Ok(Attempt::Refused),
            Err(RaftError::APIError(_)) => Ok(Attempt::Unknown),
        }
    }

    /// Answers a batch that another node forwarded. One hop: what this node cannot
    /// write itself is refused and never forwarded on.
    pub(super) async fn write_forwarded(
        &self,
        from: u64,
        proposals: Vec<Vec<u8>>,
    ) -> wire::ForwardResponse {
        use wire::forward_result::Result as Answer;
        let one = |bytes: Vec<u8>| async move {
            let proposal = match codec::decode_proposal(&bytes) {
                // A node speaks for itself only.
                Ok(proposal) if speaks_for_another(&proposal, from) => {
                    return (
                        Answer::Refused("a command in another node's name".into()),
                        0,
                    );
                }
                Ok(proposal) if proposal.request.is_some_and(|r| r.node == from) => proposal,
                Ok(_) => return (Answer::Refused("request id of another node".into()), 0),
                Err(error) => return (Answer::Refused(error.to_string()), 0),
            };
            match self.write_here(proposal).await {
                Ok(Attempt::Done(outcome, index)) => {
                    (Answer::Outcome(codec::encode_outcome(&outcome)), index)
                }
                Ok(Attempt::Refused) => (Answer::Refused("this node does not lead".into()), 0),
                Ok(Attempt::NoRoom(why)) => (Answer::NoRoom(why), 0),
                Ok(Attempt::Unknown) => (Answer::Unknown("leadership changed".into()), 0),
                Err(error) => (Answer::Unknown(error.to_string()), 0),
            }
        };
        let answers = futures::future::join_all(proposals.into_iter().map(one)).await;
        wire::ForwardResponse {
            results: answers
                .into_iter()
                .map(|(result, log_index)| wire::ForwardResult {
                    result: Some(result),
                    log_index,
                })
                .collect(),
            leader_hint: self.leadership().leader,
        }
    }
}

/// Whether a forwarded command acts in the name of another node than the one it
/// came from.
fn speaks_for_another(proposal: &Proposal, from: u64) -> bool {
    let node = match &proposal.command {
        Some(Command::AnnounceMember(c)) => c.node_id,
        Some(Command::RecordServerSvid(c)) => c.node_id,
        Some(Command::ProveAuthority(c)) => c.node_id,
        Some(Command::BeginKey(c)) => c.node_id,
        Some(Command::ClaimLogin(c)) => c.node_id,
        Some(Command::SettleLogin(c)) => c.node_id,
        Some(Command::NoteHolders(c)) => c.node_id,
        Some(Command::TellRenewals(c)) => c.node_id,
        _ => from,
    };
    node != from
}

/// Collects what waits into batches; several may be on their way.
async fn forward_loop(consensus: Consensus, mut queue: mpsc::Receiver<Forward>) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(BATCHES_MAX));
    while let Some(first) = queue.recv().await {
        // Waiting for a slot is what makes batches grow under load.
        let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let mut bytes = first.bytes.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.bytes.len();
            batch.push(next);
        }
        let consensus = consensus.clone();
        runtime::spawn(async move {
            forward_batch(&consensus, batch).await;
            drop(slot);
        });
    }
}

async fn forward_batch(consensus: &Consensus, batch: Vec<Forward>) {
    use wire::forward_result::Result as Answer;
    let network = &consensus.inner.network;
    let Some(leader) = consensus.leadership().leader.filter(|l| *l != network.me) else {
        for forward in batch {
            let _ = forward.answer.send(Attempt::Refused);
        }
        return;
    };
    let (proposals, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|f| (f.bytes, f.answer)).unzip();
    let request = wire::ForwardRequest {
        target: Some(network.target(leader)),
        proposals,
    };
    let response = network.peers.forward(leader, request, ELECTION_WAIT).await;
    let mut results = match response {
        Ok(response) => response.results.into_iter(),
        Err(error) => {
            tracing::debug!(%error, "proposals could not be forwarded");
            if matches!(error, PeerError::NotConnected { .. }) {
                for answer in answers {
                    let _ = answer.send(Attempt::Refused);
                }
                return;
            }
            Vec::new().into_iter()
        }
    };
    for answer in answers {
        // Whoever asked may have given up. No result: the leader may have died
        // with the proposal in its log.
        let attempt = match results.next().map(|r| (r.result, r.log_index)) {
            Some((Some(Answer::Outcome(bytes)), index)) => match codec::decode_outcome(&bytes) {
                Ok(outcome) => Attempt::Done(outcome, index),
                Err(_) => Attempt::Unknown,
            },
            Some((Some(Answer::Refused(_)), _)) => Attempt::Refused,
            Some((Some(Answer::NoRoom(why)), _)) => Attempt::NoRoom(why),
            Some((Some(Answer::Unknown(_)) | None, _)) | None => Attempt::Unknown,
        };
        let _ = answer.send(attempt);
    }
}
