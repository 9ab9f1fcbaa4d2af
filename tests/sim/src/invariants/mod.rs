//! What must hold in every run, one property a file.

mod acknowledged;
mod agreement;
mod bans;
mod commit;
mod digests;
mod durable_append;
mod freshness;
mod holds;
mod leaders;
mod purges;
mod reads;
mod real_time;
mod removed;
mod requests;
mod time;
mod tokens;
mod votes;

use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::command::Outcome;
use chancery_raft_store::types::Vote;

use crate::observer::Facts;
use crate::reference::Committed;
use crate::workload::Call;

/// Something that happened.
pub enum Event<'a> {
    /// A node sends log entries, or a heartbeat, as a leader.
    Led {
        /// Who.
        node: u64,
        /// What it sends.
        request: &'a wire::AppendRequest,
    },
    /// A node answers such a request.
    Appended {
        /// Who answers.
        node: u64,
        /// What it was asked.
        request: &'a wire::AppendRequest,
        /// What it says.
        answer: &'a wire::AppendResponse,
    },
    /// A node answers a candidate.
    Voted {
        /// Who answers.
        node: u64,
        /// What it says.
        answer: &'a wire::VoteResponse,
    },
    /// A vote is on a node's disk.
    VoteStored {
        /// Whose.
        node: u64,
        /// Which.
        vote: Vote,
    },
    /// A node has removed the front of its log.
    Purged {
        /// Whose.
        node: u64,
        /// Last log entry that is gone.
        index: u64,
    },
    /// The first node has applied a log entry.
    Committed {
        /// Where it stands.
        index: u64,
        /// What it is.
        committed: &'a Committed,
    },
    /// A node stands at a log entry; the reference has reached it.
    Applied {
        /// Which node.
        node: u64,
        /// Last log entry that it has applied.
        index: u64,
        /// Up to where its state came by a snapshot, if by one.
        installed: Option<u64>,
        /// State digest that it stored.
        digest: &'a [u8],
    },
    /// A caller was told that its write is done.
    Answered {
        /// What was asked.
        call: &'a Call,
        /// What the caller was told.
        outcome: &'a Outcome,
        /// Where the command took effect.
        index: u64,
        /// What it did there.
        logged: &'a Outcome,
    },
    /// A caller was told that its write certainly did not happen.
    NotWritten {
        /// What was asked.
        call: &'a Call,
    },
    /// A caller has read behind a barrier.
    Read {
        /// From which node.
        node: u64,
        /// Log index that was acknowledged to somebody when the read began.
        acknowledged: u64,
        /// Log entry at which the node's state stood.
        applied: u64,
        /// Entry id that was looked up.
        id: &'a str,
        /// The entry, encoded.
        found: Option<Vec<u8>>,
    },
    /// A node says how old its state may be at most.
    Fresh {
        /// Which node.
        node: u64,
        /// How old it says that its state may be.
        age: Duration,
        /// Simulated time at which its state was right, as it claims.
        as_of: Duration,
        /// Log entry at which its state stands.
        applied: u64,
    },
    /// A node says from when on a change holds on every node.
    Holds {
        /// Which node.
        node: u64,
        /// Log entry of the change.
        index: u64,
        /// From when on, simulated time.
        by: Duration,
    },
    /// The state time that a node shows.
    Showed {
        /// Which node.
        node: u64,
        /// Log entry at which its state stands.
        applied: u64,
        /// Its cluster clock, Unix milliseconds.
        clock_ms: i64,
    },
}

/// A property of every run.
pub trait Invariant: Send {
    /// The property, as a short sentence.
    fn name(&self) -> &'static str;

    /// Looks at an event.
    ///
    /// # Errors
    /// The property does not hold, and why.
    fn see(&mut self, event: &Event<'_>, facts: &Facts) -> Result<(), String>;
}

/// All of them, for a run.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<acknowledged::Acknowledged>::default(),
        Box::<agreement::Agreement>::default(),
        Box::<bans::Bans>::default(),
        Box::<commit::Commit>::default(),
        Box::<digests::Digests>::default(),
        Box::<durable_append::DurableAppend>::default(),
        Box::<freshness::Freshness>::default(),
        Box::<holds::Holds>::default(),
        Box::<leaders::Leaders>::default(),
        Box::<purges::Purges>::default(),
        Box::<reads::Reads>::default(),
        Box::<real_time::RealTime>::default(),
        Box::<removed::Removed>::default(),
        Box::<requests::Requests>::default(),
        Box::<time::Time>::default(),
        Box::<tokens::Tokens>::default(),
        Box::<votes::Votes>::default(),
    ]
}
