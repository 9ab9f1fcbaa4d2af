//! The two doors to replicated state: propose a change, and read with a named
//! freshness.
//!
//! Reads never default to "whatever is here": a caller says whether local state
//! within the staleness limit will do ([`Doors::fresh`]), whether it must see
//! everything that any node acknowledged ([`Doors::linearizable`]), or whether it is
//! about to say a no that makes an agent drop its identity ([`Doors::exact`]).

use std::sync::RwLockReadGuard;
use std::time::Duration;

use chancery_raft_store::command::{Command, Outcome};
use chancery_raft_store::{Directory, Registry};
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::cluster::status::Members;
use crate::cluster::{Barriers, Consensus, ProposeError, Proposer};

/// A write is given up after this time.
pub const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// A barrier is given up after this time. Without a quorum it fails much sooner; this
/// is for a node that is slow to apply.
const BARRIER_LIMIT: Duration = Duration::from_secs(5);
/// Trailer on reads that were answered without a quorum: age of the state in ms.
const STALE: &str = "chancery-stale";

/// How a linearizable read was answered after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It sees everything that was acknowledged before it began.
    Linearizable,
    /// No quorum: it sees the local state, at most this old (`None`: unknown).
    Stale(Option<Duration>),
}

impl Freshness {
    /// Puts the trailer on a response that was answered from stale state.
    pub fn mark<T>(self, mut response: tonic::Response<T>) -> tonic::Response<T> {
        self.mark_metadata(response.metadata_mut());
        response
    }

    /// The same on a no: "not found" may be as stale as anything else.
    pub fn mark_no(self, mut status: Status) -> Status {
        self.mark_metadata(status.metadata_mut());
        status
    }

    fn mark_metadata(self, metadata: &mut MetadataMap) {
        if let Self::Stale(age) = self {
            let ms = age.map_or(-1, |a| i64::try_from(a.as_millis()).unwrap_or(i64::MAX));
            metadata.insert(STALE, MetadataValue::from(ms));
        }
    }
}

/// Doors to the replicated state of this node. Cheap to clone.
#[derive(Clone)]
pub struct Doors {
    consensus: Consensus,
    proposer: Proposer,
    barriers: Barriers,
    stale_limit: Duration,
    members: Members,
}

impl Doors {
    /// Doors of a running node; `stale_limit` zero is strict.
    pub fn new(
        consensus: Consensus,
        proposer: Proposer,
        barriers: Barriers,
        stale_limit: Duration,
        members: Members,
    ) -> Self {
        Self {
            consensus,
            proposer,
            barriers,
            stale_limit,
            members,
        }
    }

    /// Consensus of this node.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// The local state, as it is. For what is harmless when late; see [`Doors::fresh`].
    pub fn local(&self) -> RwLockReadGuard<'_, Directory> {
        self.consensus.registry().read()
    }

    /// The registry behind the doors.
    pub fn registry(&self) -> &Registry {
        self.consensus.registry()
    }

    /// Age of the local state.
    pub fn age(&self) -> Option<Duration> {
        self.barriers.age()
    }

    /// The earlier of this node's clock and the leader's, Unix seconds. What is over by
    /// it is over by both: one clock that is ahead ends nobody's identity.
    pub fn earlier_clock(&self) -> i64 {
        let own = self.consensus.clock().now_unix_ms();
        let leader = self.barriers.leader_clock_ms();
        leader
            .map_or(own, |leader| leader.min(own))
            .div_euclid(1000)
    }

    /// Limit of that age for issuing.
    pub fn stale_limit(&self) -> Duration {
        self.stale_limit
    }

    /// Passes a barrier, or says why not.
    pub async fn barrier(&self, limit: Duration) -> Result<(), crate::cluster::BarrierError> {
        self.barriers.pass(limit).await
    }

    /// Ok while local state may be acted on; else UNAVAILABLE, so that agents move
    /// on. Call it before signing and again after. In strict mode it passes a
    /// barrier each time.
    pub async fn fresh(&self) -> Result<(), Status> {
        self.sound()?;
        if self.stale_limit.is_zero() {
            return self.barriers.pass(BARRIER_LIMIT).await.map_err(|e| {
                Status::unavailable(format!(
                    "this node issues only with a quorum: {e}; try another node"
                ))
            });
        }
        match self.barriers.age() {
            Some(age) if age < self.stale_limit => Ok(()),
            // Just started: one barrier decides.
            _ => self.barriers.pass(BARRIER_LIMIT).await.map_err(|e| {
                Status::unavailable(format!(
                    "the state of this node was not confirmed within {:?}: {e}; try another node",
                    self.stale_limit
                ))
            }),
        }
    }

    /// Ok unless this node's clock or state is known to be wrong.
    fn sound(&self) -> Result<(), Status> {
        match self.members.objection() {
            None => Ok(()),
            Some(why) => Err(Status::unavailable(format!(
                "this node does not issue: {why}; try another node"
            ))),
        }
    }

    /// The same question after the signature, without waiting: a process that was
    /// suspended in between must not let the document out.
    pub fn still_fresh(&self) -> Result<(), Status> {
        self.sound()?;
        // In strict mode the barrier of this very request stands for a second.
        let limit = self.stale_limit.max(Duration::from_secs(1));
        match self.barriers.age() {
            Some(age) if age < limit => Ok(()),
            _ => Err(Status::unavailable(
                "the state of this node grew too old while it was signing; try another node",
            )),
        }
    }

    /// Makes sure that what any node acknowledged is seen; without a quorum says how
    /// stale the answer will be.
    pub async fn linearizable(&self) -> Freshness {
        match self.barriers.pass(BARRIER_LIMIT).await {
            Ok(()) => Freshness::Linearizable,
            Err(_) => Freshness::Stale(self.barriers.age()),
        }
    }

    /// Before a no that an agent acts upon: look again after this returns. Where
    /// it fails the answer is UNAVAILABLE without detail.
    pub async fn exact(&self) -> Result<(), Status> {
        self.barriers.pass(BARRIER_LIMIT).await.map_err(|e| {
            Status::unavailable(format!(
                "this cannot be decided without a quorum: {e}; try again"
            ))
        })
    }

    /// Proposes a change; a refusal is in the outcome.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.proposer.propose(command, WRITE_LIMIT).await
    }

    /// Proposes a change whose outcome is all that counts: this node may yet have to apply it.
    pub async fn ruling(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.proposer.ruling(command, WRITE_LIMIT).await
    }

    /// Proposes a change on behalf of a caller, with errors as it should see them.
    pub async fn write(&self, command: Command) -> Result<Outcome, Status> {
        self.propose(command).await.map_err(|e| write_failed(&e))
    }
}

/// A write without an outcome, as its caller should see it.
pub fn write_failed(error: &ProposeError) -> Status {
    match error {
        ProposeError::NoRoom(_) => Status::resource_exhausted(error.to_string()),
        ProposeError::Level { .. } => Status::failed_precondition(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}
