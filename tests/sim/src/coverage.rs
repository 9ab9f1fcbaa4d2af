//! What runs met. A set of seeds that never met a fault proves nothing about it, and
//! fails.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! met {
    ($($name:ident: $text:literal,)*) => {
        /// Something that a run can meet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Met {
            $(
                #[doc = $text]
                $name,
            )*
        }

        impl Met {
            /// Everything that a set of seeds must meet.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// In words.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

met! {
    WriteAcknowledged: "writes acknowledged",
    WriteUnknown: "writes with an unknown outcome",
    WriteRetried: "requests twice in the log",
    ReadLinearizable: "reads behind a barrier",
    ReadRefused: "reads without a quorum",
    TokenWon: "join tokens redeemed",
    TokenLost: "join tokens refused to a second",
    BanMet: "renewals refused after a ban",
    LeaderChange: "changes of leader",
    LeaderTransfer: "leaderships handed over",
    ProcessKilled: "processes killed",
    PowerCut: "power cuts",
    UnsyncedLost: "power cuts that lost unsynced batches",
    AllDown: "all nodes down at once",
    VoteRecalled: "starts from a stored vote",
    LogTruncated: "conflicting log entries removed",
    SnapshotBuilt: "snapshots built",
    SnapshotInstalled: "snapshots installed",
    SnapshotTorn: "snapshots torn on the way",
    LogPurged: "logs purged",
    Partitioned: "partitions",
    CutOneWay: "one-way partitions",
    MessageLost: "messages lost",
    MessageTwice: "messages delivered twice",
    NodePaused: "nodes paused",
    ClockStepped: "clocks stepped",
    DiskSlow: "disks slow or stalled",
    WriteFailed: "failed writes of a disk",
    StoreDamaged: "damaged stores recognised",
    LearnerAdded: "nodes added",
    VotersChanged: "changes of voters, under faults",
    MemberRemoved: "members removed, under faults",
    MemberReplaced: "members replaced, under faults",
    RemovedUnheard: "members removed before they heard of it",
    RemovedTold: "removed nodes told so",
    ClockDrifted: "machines whose clocks drift",
    HoldsPromised: "changes said to hold everywhere",
    HoldsLater: "changes said to hold everywhere later on",
}

/// How often each was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Met, u64>);

impl Coverage {
    /// It was met once more.
    pub fn met(&mut self, what: Met) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Takes in what another run met.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(*what).or_default() += times;
        }
    }

    /// What was never met.
    pub fn missing(&self) -> Vec<Met> {
        let met = |what: &&Met| !self.0.contains_key(what);
        Met::ALL.iter().filter(met).copied().collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in Met::ALL {
            let times = self.0.get(what).copied().unwrap_or(0);
            writeln!(f, "  {times:>9}  {}", what.text())?;
        }
        Ok(())
    }
}
