//! Sees everything that happens in a run and asks the invariants about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chancery_raft_store::codec;
use chancery_raft_store::command::Outcome;
use chancery_raft_store::log::key;
use chancery_raft_store::store::{Batch, Column, Op};
use chancery_raft_store::view::{Table, meta};

use crate::changes::Changes;
use crate::clock::Drift;
use crate::coverage::{Coverage, Met};
use crate::disk::{Columns, Disk};
use crate::executor::Executor;
use crate::invariants::{Event, Invariant, all};
use crate::reference::Reference;
use crate::workload::Call;

/// What the invariants may look at.
pub struct Facts {
    /// The disks of the machines by node id.
    pub disks: BTreeMap<u64, Disk>,
    /// The committed log.
    pub reference: Reference,
    /// Simulated time.
    pub now: Duration,
    /// How the clocks of the run drift.
    pub drift: Drift,
    /// Commands of the workload by [`crate::reference::key_of`].
    pub calls: BTreeSet<Vec<u8>>,
    /// When which log index had been acknowledged to somebody; both grow.
    pub acknowledged: Vec<(Duration, u64)>,
}

impl Facts {
    /// Highest log index of which anybody was told that it is done.
    pub fn acknowledged_index(&self) -> u64 {
        self.acknowledged.last().map_or(0, |(_, index)| *index)
    }

    /// The same as it was before a moment of simulated time.
    pub fn acknowledged_before(&self, moment: Duration) -> u64 {
        let count = self.acknowledged.partition_point(|(at, _)| *at < moment);
        count
            .checked_sub(1)
            .map_or(0, |last| self.acknowledged[last].1)
    }
}

struct Inner {
    executor: Executor,
    facts: Facts,
    invariants: Vec<Box<dyn Invariant>>,
    coverage: Coverage,
    violation: Option<String>,
    /// What each node has applied.
    applied: BTreeMap<u64, u64>,
    /// Up to where each node's state came by a snapshot: its log may hold what was never
    /// committed up to there, until it is purged.
    installed: BTreeMap<u64, u64>,
    /// State digests that the reference has not reached yet.
    unchecked: Vec<(u64, u64, Vec<u8>)>,
    /// Calls that are acknowledged and that the reference has not reached yet.
    unplaced: Vec<(Call, Outcome)>,
    leader: Option<(u64, u64)>,
    changes: Changes,
    faults: bool,
}

/// Shared handle of the observer. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    inner: Arc<Mutex<Inner>>,
}

/// The column in which the current state of a disk is.
pub fn state_column(columns: &Columns) -> Column {
    match columns.value(Column::Raft, key::STATE_COLUMN) {
        Some(name) if name == Column::StateB.name().as_bytes() => Column::StateB,
        _ => Column::StateA,
    }
}

impl Observer {
    /// Sees nothing yet.
    pub fn new(executor: Executor, drift: Drift) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                executor,
                facts: Facts {
                    disks: BTreeMap::new(),
                    reference: Reference::default(),
                    now: Duration::ZERO,
                    drift,
                    calls: BTreeSet::new(),
                    acknowledged: Vec::new(),
                },
                invariants: all(),
                coverage: Coverage::default(),
                violation: None,
                applied: BTreeMap::new(),
                installed: BTreeMap::new(),
                unchecked: Vec::new(),
                unplaced: Vec::new(),
                leader: None,
                changes: Changes::default(),
                faults: false,
            })),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine is there.
    pub fn machine(&self, node: u64, disk: Disk) {
        self.inner().facts.disks.insert(node, disk);
    }

    /// Faults begin, or are over. Changes of members count only under faults.
    pub fn faults(&self, on: bool) {
        self.inner().faults = on;
    }

    /// Something was met.
    pub fn met(&self, what: Met) {
        let mut inner = self.inner();
        inner.executor.note(what as u64);
        inner.coverage.met(what);
    }

    /// What was met so far.
    pub fn coverage(&self) -> Coverage {
        self.inner().coverage.clone()
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        self.inner().violation.clone()
    }

    /// Something that must not be was seen outside of the invariants.
    pub fn violated(&self, what: &str) {
        self.inner().violated(what);
    }

    /// Looks at the facts.
    pub fn facts<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.inner().facts)
    }

    /// A caller calls.
    pub fn invoked(&self, call: &Call) {
        let mut inner = self.inner();
        inner.facts.calls.insert(call.key.clone());
        inner.executor.note(call.number);
    }

    /// A caller was told that its write is done.
    pub fn answered(&self, call: Call, outcome: Outcome) {
        let mut inner = self.inner();
        inner.executor.note(call.number ^ 0xacac);
        inner.coverage.met(Met::WriteAcknowledged);
        if let Some((index, _)) = inner.facts.reference.placed(&call.key) {
            inner.acknowledged(index);
        }
        inner.unplaced.push((call, outcome));
        inner.place();
    }

    /// Hands an event to the invariants.
    pub fn see(&self, event: &Event<'_>) {
        self.inner().see(event);
    }

    /// A node has written to its disk.
    pub fn wrote(&self, node: u64, batch: &Batch) {
        let mut inner = self.inner();
        let Some(disk) = inner.facts.disks.get(&node).cloned() else {
            return;
        };
        inner.executor.note(node << 32 | batch.ops.len() as u64);
        let mut state_moved = false;
        let mut by_snapshot = false;
        let current = state_column(&disk.content().visible);
        for op in &batch.ops {
            match op {
                Op::Put(Column::Raft, name, value) if name == key::VOTE => {
                    match codec::decode_vote(value) {
                        Ok(vote) => inner.see(&Event::VoteStored { node, vote }),
                        Err(error) => {
                            inner.violated(&format!("node {node} stored a vote: {error}"))
                        }
                    }
                }
                Op::Put(Column::Raft, name, value) if name == key::PURGED => {
                    inner.coverage.met(Met::LogPurged);
                    match codec::decode_log_id(value) {
                        Ok(id) => inner.see(&Event::Purged {
                            node,
                            index: id.index,
                        }),
                        Err(error) => inner.violated(&format!("node {node} purged: {error}")),
                    }
                }
                Op::Put(Column::Raft, name, _) if name == key::STATE_COLUMN => {
                    inner.coverage.met(Met::SnapshotInstalled);
                    state_moved = true;
                    by_snapshot = true;
                }
                Op::DeleteRange(Column::Log, _, until) if until == &u64::MAX.to_be_bytes() => {
                    inner.coverage.met(Met::LogTruncated);
                }
                Op::Put(column, name, _)
                    if *column == current && *name == Table::Meta.key(meta::APPLIED) =>
                {
                    state_moved = true;
                }
                _ => {}
            }
        }
        if state_moved {
            inner.applied(node, &disk, current, by_snapshot);
        }
    }

    /// The committed log goes on as `node` has it, to the end of what is on its disk: so
    /// `chancery cluster recover` makes it of a survivor. What was committed before must be
    /// there.
    pub fn recovered_from(&self, node: u64) {
        let mut inner = self.inner();
        let Some(disk) = inner.facts.disks.get(&node).cloned() else {
            return;
        };
        let content = disk.content();
        let purged = content.visible.value(Column::Raft, key::PURGED);
        let purged = purged.and_then(|bytes| codec::decode_log_id(bytes).ok());
        let first = purged.map_or(0, |id| id.index + 1);
        let reference = &mut inner.facts.reference;
        for index in first..reference.next() {
            let kept = content.visible.value(Column::Log, &index.to_be_bytes());
            if kept != reference.at(index).map(|committed| &committed.bytes) {
                return inner.violated(&format!(
                    "survivor {node} has not got log entry {index}, which was committed"
                ));
            }
        }
        let beyond = reference.next().to_be_bytes();
        let rest = content.visible.rows(Column::Log);
        for (_, bytes) in rest.filter(|(key, _)| key.as_slice() >= beyond.as_slice()) {
            let entry = codec::decode_log_entry(bytes).map_err(|e| e.to_string());
            let committed = entry.and_then(|entry| {
                let reference = &mut inner.facts.reference;
                reference.commit(&entry, bytes.clone()).map(drop)
            });
            if let Err(what) = committed {
                return inner.violated(&format!("the log of survivor {node}: {what}"));
            }
        }
        drop(content);
        inner.place();
    }

    /// The run is over: nothing may be open any more.
    pub fn end(&self) {
        let mut inner = self.inner();
        if let Some((call, _)) = inner.unplaced.first() {
            let what = format!("{call} was acknowledged and is not in the committed log");
            inner.violated(&what);
        }
        if let Some((node, index, _)) = inner.unchecked.first() {
            let what = format!("node {node} applied log entry {index}, which no log holds");
            inner.violated(&what);
        }
    }
}

impl Inner {
    fn violated(&mut self, what: &str) {
        if self.violation.is_none() {
            let now = self.executor.now_ms();
            self.violation = Some(format!("at {now} ms: {what}"));
        }
    }

    fn see(&mut self, event: &Event<'_>) {
        if let Event::Led { node, request } = event {
            let term = request.vote.as_ref().map_or(0, |vote| vote.term);
            if self.leader.is_none_or(|(known, _)| known < term) {
                if self.leader.is_some_and(|(_, leader)| leader != *node) {
                    self.coverage.met(Met::LeaderChange);
                }
                self.leader = Some((term, *node));
            }
        }
        self.facts.now = self.executor.now();
        let mut found = None;
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.see(event, &self.facts) {
                found = Some(format!("{}: {what}", invariant.name()));
                break;
            }
        }
        if let Some(what) = found {
            self.violated(&what);
        }
    }

    fn acknowledged(&mut self, index: u64) {
        let index = index.max(self.facts.acknowledged_index());
        let now = self.executor.now();
        self.facts.acknowledged.push((now, index));
    }

    /// A node stands at another log entry now.
    fn applied(&mut self, node: u64, disk: &Disk, column: Column, by_snapshot: bool) {
        let (applied, digest) = {
            let content = disk.content();
            let row = |name| content.visible.value(column, &Table::Meta.key(name));
            let applied = row(meta::APPLIED).map(|bytes| codec::decode_log_id(bytes));
            (applied, row(meta::DIGEST).cloned().unwrap_or_default())
        };
        let index = match applied {
            Some(Ok(id)) => id.index,
            Some(Err(error)) => return self.violated(&format!("node {node}: {error}")),
            None => return,
        };
        self.applied.insert(node, index);
        if by_snapshot {
            self.installed.insert(node, index);
        }
        self.unchecked.push((node, index, digest));
        self.follow();
        let (ready, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unchecked)
            .into_iter()
            .partition(|(_, index, _)| *index < self.facts.reference.next());
        self.unchecked = later;
        for (node, index, digest) in ready {
            self.see(&Event::Applied {
                node,
                index,
                installed: self.installed.get(&node).copied(),
                digest: &digest,
            });
        }
        self.place();
    }

    /// Takes the committed log further, as far as a disk holds what a node has applied.
    fn follow(&mut self) {
        loop {
            let next = self.facts.reference.next();
            let holders: Vec<u64> = self
                .applied
                .iter()
                .map(|(node, applied)| (*node, *applied))
                .filter(|(node, applied)| {
                    let installed = self.installed.get(node);
                    *applied >= next && installed.is_none_or(|installed| *installed < next)
                })
                .map(|(node, _)| node)
                .collect();
            let bytes = holders.iter().find_map(|node| {
                let content = self.facts.disks.get(node)?.content();
                content
                    .visible
                    .value(Column::Log, &next.to_be_bytes())
                    .cloned()
            });
            // The applying leader may not have it on its own disk yet.
            let Some(bytes) = bytes else { return };
            let entry = match codec::decode_log_entry(&bytes) {
                Ok(entry) => entry,
                Err(error) => return self.violated(&format!("log entry {next}: {error}")),
            };
            let committed = match self.facts.reference.commit(&entry, bytes) {
                Ok(committed) => committed.clone(),
                Err(what) => return self.violated(&what),
            };
            if committed.proposed.as_ref().is_some_and(|p| p.repeated) {
                self.coverage.met(Met::WriteRetried);
            }
            let changes = self.changes.see(next, &committed, &self.applied);
            if self.faults {
                changes.into_iter().for_each(|met| self.coverage.met(met));
            }
            self.see(&Event::Committed {
                index: next,
                committed: &committed,
            });
        }
    }

    /// Looks for acknowledged calls in the committed log.
    fn place(&mut self) {
        let mut later = Vec::new();
        for (call, outcome) in std::mem::take(&mut self.unplaced) {
            let placed = self.facts.reference.placed(&call.key);
            let Some((index, logged)) = placed.map(|(index, logged)| (index, logged.clone()))
            else {
                later.push((call, outcome));
                continue;
            };
            self.acknowledged(index);
            self.see(&Event::Answered {
                call: &call,
                outcome: &outcome,
                index,
                logged: &logged,
            });
        }
        self.unplaced = later;
    }
}
