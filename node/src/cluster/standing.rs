//! Who has seen how much of whom, on every call between peers: a node that comes
//! back with less than a peer saw of it was rolled back, and stops.
//!
//! A call says how far its sender has durably come, and the most that the sender has
//! seen of the node it calls. So a node that was rolled back is refused by whom it
//! calls, and learns of it from whoever calls it, before it votes or takes a log
//! entry. Calls of a version that says neither are not checked.

use std::sync::Arc;

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::Registry;
use chancery_raft_store::log::{Claim, Sighting, Witness};
use chancery_raft_store::types::Vote;
use prost::Message as _;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataValue;

use super::peers::PeerError;
use super::wire as convert;

/// On a refusal of a node that was rolled back: what was seen of it.
const ROLLED_BACK: &str = "chancery-rolled-back-bin";

/// What this node has seen and says, and the reason to end where one was found. Cheap
/// to clone.
#[derive(Clone)]
pub(super) struct Standing {
    inner: Arc<Inner>,
}

struct Inner {
    witness: Witness,
    registry: Registry,
    me: u64,
    boot: u64,
    ended: watch::Sender<Option<String>>,
}

impl Standing {
    pub(super) fn new(witness: Witness, registry: Registry, me: u64, boot: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                witness,
                registry,
                me,
                boot,
                ended: watch::Sender::new(None),
            }),
        }
    }

    fn own(&self) -> Claim {
        let inner = &*self.inner;
        inner
            .witness
            .claim(inner.boot, inner.registry.applied_index())
    }

    /// What goes with every call to `to`.
    pub(super) fn told_to(&self, to: u64) -> (wire::Standing, Option<wire::Standing>) {
        let seen = self.inner.witness.seen_of(to).as_ref().map(seen_message);
        let own = self.own();
        let own = wire::Standing {
            boot: own.boot,
            vote: own.vote.as_ref().map(convert::vote),
            last: own.last,
            firm: own.firm,
            committed: own.committed,
        };
        (own, seen)
    }

    /// Checks both nodes of a call that came from the node in `target`.
    pub(super) fn check(&self, target: &wire::Target) -> Result<(), Status> {
        if let Some(seen) = &target.seen
            && let Some(missing) = sighting(seen)?.missing_in(&self.own())
        {
            self.rolled_back(target.from, &missing);
            return Err(Status::failed_precondition(format!(
                "node {} was rolled back: {missing}",
                self.inner.me
            )));
        }
        match &target.standing {
            Some(said) => self
                .inner
                .witness
                .meet(target.from, &claim(said)?)
                .map_err(|found| refusal(target.from, found)),
            None => Ok(()),
        }
    }

    /// Checks the node that stands for election in `target`.
    pub(super) fn check_candidate(&self, target: Option<&wire::Target>) -> Result<(), Status> {
        match target.and_then(|t| t.standing.as_ref().map(|said| (t.from, said))) {
            Some((from, said)) => self
                .inner
                .witness
                .vouch(from, &claim(said)?)
                .map_err(|found| refusal(from, found)),
            None => Ok(()),
        }
    }

    /// A follower has log entries up to `index` of the leader with `vote` on its disk.
    pub(super) fn acknowledged(&self, by: u64, vote: Vote, index: u64) {
        let claim = Claim {
            vote: Some(vote),
            firm: Some(index),
            ..Claim::default()
        };
        self.inner.witness.absorb(by, &claim);
    }

    /// Looks into it when a peer refused this node as rolled back: what the call said
    /// may have been old news.
    pub(super) fn noted(&self, error: PeerError) -> PeerError {
        if let PeerError::RolledBack { node, seen } = &error
            && let Ok(seen) = sighting(seen)
            && let Some(missing) = seen.missing_in(&self.own())
        {
            self.rolled_back(*node, &missing);
        }
        error
    }

    fn rolled_back(&self, by: u64, missing: &str) {
        self.end(format!(
            "node {by} remembers more of this node than it holds ({missing}): its data directory is an older copy, and \
             with it this node must not vote; set it aside with `chancery cluster rejoin` and let the node join again under a new id \
             (docs/runbooks/a-node-with-a-damaged-or-full-disk.md)"
        ));
    }

    /// This node must end, for the first reason given.
    pub(super) fn end(&self, why: String) {
        self.inner.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why);
            }
            first
        });
    }

    /// Ends with the reason when this node must end.
    pub(super) async fn ended(&self) -> String {
        let mut ended = self.inner.ended.subscribe();
        let told = ended.wait_for(Option::is_some).await;
        let why = told.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            // The sender lives in `self`.
            None => std::future::pending().await,
        }
    }
}

/// What was seen of the caller, if an answer refuses it as rolled back.
pub(super) fn refuses_as_rolled_back(status: &Status) -> Option<wire::Standing> {
    let seen = status.metadata().get_bin(ROLLED_BACK)?;
    wire::Standing::decode(seen.to_bytes().ok()?).ok()
}

fn refusal(node: u64, (missing, seen): (String, Sighting)) -> Status {
    tracing::warn!(
        node,
        missing,
        "a node that says it has less than was seen of it is refused"
    );
    let mut status = Status::failed_precondition(missing);
    let seen = seen_message(&seen).encode_to_vec();
    status
        .metadata_mut()
        .insert_bin(ROLLED_BACK, MetadataValue::from_bytes(&seen));
    status
}

fn seen_message(seen: &Sighting) -> wire::Standing {
    wire::Standing {
        boot: seen.boot,
        vote: seen.vote.as_ref().map(convert::vote),
        last: None,
        firm: seen.firm,
        committed: seen.committed,
    }
}

fn sighting(seen: &wire::Standing) -> Result<Sighting, Status> {
    Ok(Sighting {
        boot: seen.boot,
        vote: vote_of(seen)?,
        firm: seen.firm,
        committed: seen.committed,
    })
}

fn claim(said: &wire::Standing) -> Result<Claim, Status> {
    Ok(Claim {
        boot: said.boot,
        vote: vote_of(said)?,
        last: said.last,
        firm: said.firm,
        committed: said.committed,
    })
}

fn vote_of(standing: &wire::Standing) -> Result<Option<Vote>, Status> {
    let vote = standing.vote.as_ref();
    vote.map(|v| convert::vote_from(Some(v)))
        .transpose()
        .map_err(|e| Status::invalid_argument(e.to_string()))
}
