//! What a node tells of itself and knows of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::runtime;
use chancery_raft_store::snapshot::SnapshotFile;
use chancery_raft_store::store::StoreError;
use chancery_raft_store::types::{SnapshotMeta, Types};
use chancery_raft_store::{Checkpoint, codec};
use tokio::sync::watch;

use super::Consensus;
use super::agreement::{Agreement, judge};
use super::peers::PeerError;
use super::pins::PinBook;
use super::time::SIGNS_WITHIN_MS;
use crate::environment::elsewhere;

/// A member that answered within this time counts as reachable.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// In strict mode the barrier of a request stands for so long; see `Doors`.
const STRICT_LIMIT: Duration = Duration::from_secs(1);
/// How a member tells that its keys are in a token.
const TOKEN: &str = "pkcs11";
/// Members are asked this often.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// This node, for its own status and for its peers.
pub trait SelfStatus: Send + Sync + 'static {
    /// What peers are told.
    fn node_status(&self) -> wire::NodeStatusResponse;
    /// What this node stops issuing by if everything outside of it is lost now, and seconds
    /// until then, the first to come first.
    fn outage_parts(&self) -> Vec<(&'static str, i64)>;
    /// Age at which it stops issuing.
    fn stale_limit(&self) -> Duration;
}

/// Last answer of a member.
#[derive(Clone)]
pub(super) struct Seen {
    at: Duration,
    pub(super) status: wire::NodeStatusResponse,
    pub(super) skew_ms: i64,
    /// Its clock less this node's boot time, in milliseconds.
    clock_less_boot: i64,
}

/// Whether a change has reached every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Every member that was seen lately has applied it.
    pub everywhere: bool,
    /// Those that have not.
    pub missing: Vec<u64>,
}

impl Holds {
    /// How long from now on it may not hold yet: until those that are missing stop to act,
    /// with their clocks, on what they know.
    pub fn after(&self, stale_limit: Duration) -> Duration {
        if self.everywhere {
            return Duration::ZERO;
        }
        // A node that has not applied it asked for its last confirmation before now.
        elsewhere(stale_limit.max(STRICT_LIMIT))
    }
}

/// Knowledge of the members, asked for all the time. Cheap to clone.
#[derive(Clone)]
pub struct Members {
    pub(super) consensus: Consensus,
    pins: PinBook,
    seen: Arc<Mutex<BTreeMap<u64, Seen>>>,
    /// Removed members, and the boot time at which this process found them to be.
    left: Arc<Mutex<BTreeMap<u64, Duration>>>,
    removed: watch::Sender<Option<String>>,
    agreement: watch::Sender<Agreement>,
}

impl Members {
    /// Starts asking on the current runtime. What members tell of others goes into `pins`.
    pub fn start(consensus: Consensus, pins: PinBook) -> Self {
        let members = Self {
            consensus,
            pins,
            seen: Arc::default(),
            left: Arc::default(),
            removed: watch::Sender::new(None),
            agreement: watch::Sender::new(Agreement::None),
        };
        runtime::spawn(members.clone().run());
        members
    }

    fn others(&self) -> Vec<u64> {
        let registry = self.consensus.registry().read();
        registry
            .members()
            .map(|m| m.node_id)
            .filter(|id| *id != self.consensus.me())
            .collect()
    }

    async fn run(self) {
        let mut ticks = tokio::time::interval(ASK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let others = self.others();
            // A node that has just joined has no state, and whoever leads may be a stranger
            // to it by now: those it was told of know that one.
            let mut asked: BTreeSet<u64> = others.iter().copied().collect();
            asked.extend(self.pins.told());
            asked.remove(&self.consensus.me());
            futures::future::join_all(asked.iter().map(|id| self.ask(*id))).await;
            let reachable = others
                .iter()
                .filter(|id| self.seen_lately(**id).is_some())
                .count()
                + 1;
            self.compare();
            // Noted as early as can be: from then on it counts.
            self.left_within(Duration::ZERO);
            self.consensus.note_clocks(self.clocks(&others));
            if let Some(offset) = self.consensus.clock_offset_ms() {
                crate::telemetry::clock_offset(offset);
            }
            crate::telemetry::members(reachable, others.len() + 1);
            crate::telemetry::apply_lag(self.consensus.apply_lag());
        }
    }

    async fn ask(&self, id: u64) {
        let network = &self.consensus.inner.network;
        let clock = self.consensus.clock();
        let request = wire::NodeStatusRequest {
            target: Some(network.target(id)),
        };
        let (sent, sent_wall) = (clock.boottime(), clock.now_unix_ms());
        let answer = network.peers.node_status(id, request, ASK_INTERVAL).await;
        let status = match answer.map_err(|e| network.standing.noted(e)) {
            Ok(status) => status,
            Err(PeerError::Removed { why, .. }) => {
                self.removed.send_replace(Some(why));
                return;
            }
            Err(_) => return,
        };
        self.pins.learn(id, &status.members);
        let at = clock.boottime();
        let half_trip = i64::try_from(at.saturating_sub(sent).as_millis() / 2).unwrap_or(i64::MAX);
        let skew_ms = status
            .clock_unix_ms
            .saturating_sub(sent_wall.saturating_add(half_trip));
        let at_ms = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        let told_at = at_ms.saturating_sub(half_trip);
        let seen = Seen {
            at,
            clock_less_boot: status.clock_unix_ms.saturating_sub(told_at),
            status,
            skew_ms,
        };
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, seen);
    }

    /// Clocks of members that answered lately, less boot time, in milliseconds.
    fn clocks(&self, others: &[u64]) -> BTreeMap<u64, i64> {
        let lately = others.iter();
        lately
            .filter_map(|id| Some((*id, self.seen_lately(*id)?.clock_less_boot)))
            .collect()
    }

    /// Why this node must not sign, whatever its keys and its freshness say.
    pub fn objection(&self) -> Option<String> {
        if let Some(offset) = self.consensus.clock_offset_ms()
            && offset.unsigned_abs() > SIGNS_WITHIN_MS
        {
            let way = if offset > 0 { "behind" } else { "ahead of" };
            return Some(format!(
                "its clock is {} s {way} those of the majority: correct its time source",
                offset.unsigned_abs() / 1000
            ));
        }
        match self.agreement() {
            Agreement::None => None,
            Agreement::Differs { node, index } => Some(format!(
                "its state is another one than node {node}'s at log entry {index}, and no majority says which is \
                 right: bring the other voters back"
            )),
            Agreement::Wrong { index } => Some(format!(
                "its state is another one than that of the majority at log entry {index}: let it join under a new id \
                 (chancery cluster rejoin)"
            )),
        }
    }

    /// Judges this node's state by what members told of theirs.
    fn compare(&self) {
        let own = self.consensus.registry().checkpoints();
        let told = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let told = seen.iter().map(|(id, seen)| {
                let checkpoints = seen.status.checkpoints.iter().map(|c| Checkpoint {
                    index: c.index,
                    digest: c.digest.clone(),
                });
                (*id, checkpoints.collect())
            });
            told.collect()
        };
        let (voters, _) = self.consensus.voters_and_learners();
        let judged = judge(self.consensus.me(), &own, &told, &voters);
        self.agreement.send_if_modified(|held| {
            // What was wrong once stays wrong: the digest holds everything before it.
            let news = *held != judged && !matches!(held, Agreement::Wrong { .. });
            if news {
                if judged != Agreement::None {
                    tracing::error!(?judged, "the states of nodes differ");
                }
                *held = judged;
            }
            news
        });
    }

    /// What is known against this node's state.
    pub fn agreement(&self) -> Agreement {
        self.agreement.borrow().clone()
    }

    /// Ends when this node's state is another one than that of a majority of the voters; the
    /// log index at which that was seen. It must not serve it, nor vote by it, any more.
    pub async fn is_wrong(&self) -> u64 {
        let mut agreement = self.agreement.subscribe();
        let wrong = agreement.wait_for(|a| matches!(a, Agreement::Wrong { .. }));
        let wrong = wrong.await.map(|wrong| wrong.clone());
        match wrong {
            Ok(Agreement::Wrong { index }) => index,
            // The sender lives in `self`.
            _ => std::future::pending().await,
        }
    }

    pub(super) fn seen_lately(&self, id: u64) -> Option<Seen> {
        let now = self.consensus.clock().boottime();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&id)
            .filter(|s| now.saturating_sub(s.at) <= SEEN_WITHIN)
            .cloned()
    }

    /// Members that answered within `limit`, this node included.
    pub fn seen_within(&self, limit: Duration) -> Vec<u64> {
        let now = self.consensus.clock().boottime();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<u64> = seen
            .iter()
            .filter(|(_, s)| now.saturating_sub(s.at) <= limit)
            .map(|(id, _)| *id)
            .collect();
        ids.push(self.consensus.me());
        ids
    }

    /// Members that answered since this process started, and how long ago; this node with
    /// them.
    pub fn seen_ago(&self) -> BTreeMap<u64, Duration> {
        let now = self.consensus.clock().boottime();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let others = seen.iter().map(|(id, s)| (*id, now.saturating_sub(s.at)));
        let me = (self.consensus.me(), Duration::ZERO);
        others.chain([me]).collect()
    }

    /// Members whose keys are not in a token, of those that were seen since this process
    /// started; `own` is this one's backend.
    pub fn without_token(&self, own: &str) -> BTreeSet<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let others = seen.iter().map(|(id, s)| (*id, &*s.status.key_backend));
        others
            .chain([(self.consensus.me(), own)])
            .filter(|(_, backend)| !matches!(*backend, "" | TOKEN))
            .map(|(id, _)| id)
            .collect()
    }

    /// Other members that answer, have a token and can issue.
    pub fn with_token(&self) -> Vec<u64> {
        let others = self.others().into_iter();
        others
            .filter(|id| {
                let seen = self.seen_lately(*id);
                seen.is_some_and(|s| s.status.key_backend == TOKEN && s.status.not_ready.is_empty())
            })
            .collect()
    }

    /// Voters that have room on their disks, those included that were not seen lately;
    /// this one by `own`.
    pub fn voters_with_room(&self, own: bool) -> Vec<u64> {
        let (mut voters, _) = self.consensus.voters_and_learners();
        voters.retain(|id| {
            if *id == self.consensus.me() {
                return own;
            }
            self.seen_lately(*id)
                .is_none_or(|seen| seen.status.no_room.is_empty())
        });
        voters
    }

    /// Ends with what a member said when it told that this node was removed. The key with
    /// which it answered is a member's, and an id is never given out again.
    pub async fn removed(&self) -> String {
        let mut removed = self.removed.subscribe();
        let told = removed.wait_for(Option::is_some).await;
        let told = told.map(|why| why.clone());
        match told {
            Ok(why) => why.unwrap_or_default(),
            // The sender lives in `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Members that this process found to be removed within `limit`. Before it started one
    /// may have been removed at any time.
    fn left_within(&self, limit: Duration) -> Vec<u64> {
        let now = self.consensus.clock().boottime();
        let removed: Vec<u64> = self.consensus.registry().read().removed_members().collect();
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|id, _| removed.contains(id));
        let found = removed.into_iter().map(|id| {
            let at = *left.entry(id).or_insert(now);
            (id, now.saturating_sub(at))
        });
        found
            .filter(|(_, since)| *since <= limit)
            .map(|(id, _)| id)
            .collect()
    }

    /// Whether every member answers and knows the commands of this feature level.
    pub(super) fn all_offer(&self, level: u32) -> bool {
        self.others().iter().all(|id| {
            self.seen_lately(*id)
                .is_some_and(|s| s.status.feature_level >= level)
        })
    }

    /// Other members seen lately that owe the ledger notes.
    pub fn owing(&self) -> Vec<u64> {
        let mut owing = self.others();
        owing.retain(|id| self.seen_lately(*id).is_some_and(|s| s.status.owes_ledger));
        owing
    }

    /// The clock of that other member, of those seen lately, whose is furthest ahead; `None`
    /// where none was seen.
    pub fn latest_other_clock_ms(&self) -> Option<i64> {
        let others = self.others();
        let skews = others.iter().filter_map(|id| self.seen_lately(*id));
        let ahead = skews.map(|seen| seen.skew_ms).max()?;
        Some(self.consensus.clock().now_unix_ms().saturating_add(ahead))
    }

    /// Waits until every member seen lately has applied the log entry at `index`,
    /// at most `limit`. A member not seen lately is reported as missing, and so is one that
    /// was removed and may not know it yet: nobody asks it, and for `stale_limit` it acts on
    /// what it knows.
    pub async fn applied_everywhere(
        &self,
        index: u64,
        limit: Duration,
        stale_limit: Duration,
    ) -> Holds {
        let others = self.others();
        let wait = async {
            loop {
                let behind: Vec<u64> = others
                    .iter()
                    .copied()
                    .filter(|id| {
                        self.seen_lately(*id)
                            .is_some_and(|s| s.status.applied_index < index)
                    })
                    .collect();
                if behind.is_empty() {
                    return;
                }
                futures::future::join_all(behind.iter().map(|id| self.ask(*id))).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Whoever is still behind is named below.
        let _ = tokio::time::timeout(limit, wait).await;
        let mut missing: Vec<u64> = others
            .into_iter()
            .filter(|id| {
                self.seen_lately(*id)
                    .is_none_or(|s| s.status.applied_index < index)
            })
            .collect();
        missing.extend(self.left_within(elsewhere(stale_limit.max(STRICT_LIMIT))));
        Holds {
            everywhere: missing.is_empty(),
            missing,
        }
    }
}

/// Reads a received snapshot file's header, checking the whole file.
pub(super) fn snapshot_of(
    file: SnapshotFile,
) -> Result<openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>, StoreError> {
    let header = file.read(|_, _| Ok(()))?;
    let meta = SnapshotMeta {
        last_log_id: Some(codec::decode_log_id(&header.applied)?),
        last_membership: codec::decode_membership(&header.membership)?,
    };
    Ok(
        openraft::type_config::alias::SnapshotOf::<Types, SnapshotFile> {
            meta,
            snapshot: file,
        },
    )
}
