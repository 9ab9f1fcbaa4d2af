//! What a node tells of itself and knows of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chancery_api::chancery::cluster::v1 as api;
use chancery_api::chancery::cluster::v1::cluster_server::Cluster;
use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::codec;
use chancery_raft_store::model::{AuthorityKind, AuthorityStatus};
use chancery_raft_store::snapshot::SnapshotFile;
use chancery_raft_store::store::StoreError;
use chancery_raft_store::types::{SnapshotMeta, Types};
use tonic::{Request, Response, Status};

use super::{Consensus, Leadership};

/// A member that answered within this time counts as reachable.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// Members are asked this often.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// Clocks further apart than this are worth a warning.
const SKEW_WARN_MS: i64 = 5_000;

/// This node, for its own status and for its peers.
pub trait SelfStatus: Send + Sync + 'static {
    /// What peers are told.
    fn node_status(&self) -> wire::NodeStatusResponse;
    /// Seconds until this node stops issuing if the quorum is lost now.
    fn outage_budget_seconds(&self) -> i64;
    /// Age at which it stops issuing.
    fn stale_limit(&self) -> Duration;
}

/// Last answer of a member.
#[derive(Clone)]
struct Seen {
    at: Duration,
    status: wire::NodeStatusResponse,
    skew_ms: i64,
}

/// Whether a change has reached every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Every member that was seen lately has applied it.
    pub everywhere: bool,
    /// Those that have not.
    pub missing: Vec<u64>,
}

/// Knowledge of the members, asked for all the time. Cheap to clone.
#[derive(Clone)]
pub struct Members {
    consensus: Consensus,
    seen: Arc<Mutex<BTreeMap<u64, Seen>>>,
}

impl Members {
    /// Starts asking on the current runtime.
    pub fn start(consensus: Consensus) -> Self {
        let members = Self {
            consensus,
            seen: Arc::default(),
        };
        tokio::spawn(members.clone().run());
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
            futures::future::join_all(others.iter().map(|id| self.ask(*id))).await;
            let reachable = others
                .iter()
                .filter(|id| self.seen_lately(**id).is_some())
                .count()
                + 1;
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
        let Ok(status) = answer.map_err(|e| network.standing.noted(e)) else {
            return;
        };
        let at = clock.boottime();
        let half_trip = i64::try_from(at.saturating_sub(sent).as_millis() / 2).unwrap_or(i64::MAX);
        let skew_ms = status
            .clock_unix_ms
            .saturating_sub(sent_wall.saturating_add(half_trip));
        let seen = Seen {
            at,
            status,
            skew_ms,
        };
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, seen);
    }

    fn seen_lately(&self, id: u64) -> Option<Seen> {
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

    /// The clock of that other member, of those seen lately, whose is furthest ahead; `None`
    /// where none was seen.
    pub fn latest_other_clock_ms(&self) -> Option<i64> {
        let others = self.others();
        let skews = others.iter().filter_map(|id| self.seen_lately(*id));
        let ahead = skews.map(|seen| seen.skew_ms).max()?;
        Some(self.consensus.clock().now_unix_ms().saturating_add(ahead))
    }

    /// Waits until every member seen lately has applied the log entry at `index`,
    /// at most `limit`. A member not seen lately is reported as missing.
    pub async fn applied_everywhere(&self, index: u64, limit: Duration) -> Holds {
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
        let missing: Vec<u64> = others
            .into_iter()
            .filter(|id| {
                self.seen_lately(*id)
                    .is_none_or(|s| s.status.applied_index < index)
            })
            .collect();
        Holds {
            everywhere: missing.is_empty(),
            missing,
        }
    }
}

/// `chancery cluster status`.
pub struct ClusterService {
    members: Members,
    this: Arc<dyn SelfStatus>,
}

impl ClusterService {
    /// A service over what this node knows.
    pub fn new(members: Members, this: Arc<dyn SelfStatus>) -> Self {
        Self { members, this }
    }

    /// Who leads, if that node is there: openraft goes on naming a leader that is gone
    /// until there is another.
    fn leadership(&self, own: &wire::NodeStatusResponse) -> Leadership {
        let mut leadership = self.members.consensus.leadership();
        let present = |id: u64| {
            if id == self.members.consensus.me() {
                own.freshness_ms
                    .is_some_and(|age| u128::from(age) <= SEEN_WITHIN.as_millis())
            } else {
                self.members.seen_lately(id).is_some()
            }
        };
        leadership.leader = leadership.leader.filter(|id| present(*id));
        leadership
    }

    fn status(&self) -> api::StatusResponse {
        let consensus = &self.members.consensus;
        let own = self.this.node_status();
        // Asked before the guard below is taken: it reads the registry itself, and a
        // second read behind a waiting writer would never come back.
        let outage_budget_seconds = self.this.outage_budget_seconds();
        let leadership = self.leadership(&own);
        let (voters, _) = consensus.voters_and_learners();
        let registry = consensus.registry().read();
        let mut members = Vec::new();
        let mut advice = Vec::new();
        for member in registry.members() {
            let id = member.node_id;
            let me = id == consensus.me();
            let seen = self.members.seen_lately(id);
            let status = if me {
                Some(&own)
            } else {
                seen.as_ref().map(|s| &s.status)
            };
            let role = match () {
                () if leadership.leader == Some(id) => "leader",
                () if voters.contains(&id) => "voter",
                () => "learner",
            };
            let skew = seen.as_ref().map(|s| s.skew_ms);
            if status.is_none() {
                advice.push(format!(
                    "node {id} ({}) does not answer: check that it runs and that its peer port is reachable from here",
                    member.peer_address
                ));
            }
            if let Some(skew) = skew.filter(|s| s.abs() > SKEW_WARN_MS) {
                advice.push(format!(
                    "the clock of node {id} is {skew} ms off this node's: check its time source"
                ));
            }
            if let Some(status) = status.filter(|s| !s.not_ready.is_empty()) {
                advice.push(format!("node {id} cannot issue: {}", status.not_ready));
            }
            if let Some(status) = status.filter(|s| !s.no_room.is_empty()) {
                advice.push(format!("node {id} takes no writes: {}", status.no_room));
            }
            if let Some(status) = status
                && status.applied_index == own.applied_index
                && status.state_digest != own.state_digest
            {
                advice.push(format!(
                    "node {id} holds another state than node {} at log index {}: stop it and rejoin it under a new id",
                    consensus.me(),
                    own.applied_index
                ));
            }
            members.push(api::Member {
                id: id.to_string(),
                role: role.into(),
                api: member.api_address.clone(),
                peer: member.peer_address.clone(),
                reachable: status.is_some(),
                applied_index: status.map_or(0, |s| s.applied_index),
                state_digest: status.map_or_else(String::new, |s| s.state_digest.clone()),
                version: status.map_or_else(|| member.version.clone(), |s| s.version.clone()),
                clock_skew_ms: skew,
                not_ready: status.map_or_else(String::new, |s| s.not_ready.clone()),
            });
        }
        if leadership.leader.is_none() {
            let reachable = members
                .iter()
                .filter(|m| m.reachable && m.role != "learner")
                .count();
            advice.push(if reachable * 2 > voters.len() {
                "no leader is known: writes wait for the election, which takes a second or two"
                    .into()
            } else {
                format!(
                    "the quorum is lost, {reachable} of {} voters answer: nothing can be written, and issuing goes on \
                     for {} s; bring nodes back until a majority of the voters runs",
                    voters.len(),
                    outage_budget_seconds
                )
            });
        }
        let founding = registry.cluster().founding_peers.len();
        if voters.len() < founding {
            advice.push(format!(
                "the cluster is not complete: {} of {founding} listed peers vote, so a write is on fewer disks than \
                 meant; start the missing peers",
                voters.len()
            ));
        }
        let authorities = [AuthorityKind::X509, AuthorityKind::Jwt]
            .into_iter()
            .flat_map(|kind| registry.authorities(kind))
            .map(|a| api::Authority {
                kind: if a.kind() == AuthorityKind::X509 {
                    "x509"
                } else {
                    "jwt"
                }
                .into(),
                authority_id: a.id.clone(),
                status: match a.status() {
                    AuthorityStatus::Revoked => "revoked",
                    _ if a.tainted => "tainted",
                    AuthorityStatus::Prepared => "prepared",
                    AuthorityStatus::Active => "active",
                    AuthorityStatus::Old => "old",
                    AuthorityStatus::Unspecified => "unknown",
                }
                .into(),
                expires_at: a.expires_at,
                backend: a.backend.clone(),
                node_id: if a.node_id == 0 {
                    String::new()
                } else {
                    a.node_id.to_string()
                },
            })
            .collect();
        api::StatusResponse {
            cluster_id: consensus.cluster_id().to_owned(),
            trust_domain: registry.cluster().trust_domain.clone(),
            node_id: consensus.me().to_string(),
            leader: leadership.leader.map(|l| l.to_string()),
            term: leadership.term,
            freshness_ms: own.freshness_ms,
            stale_issuance_limit_ms: u64::try_from(self.this.stale_limit().as_millis())
                .unwrap_or(u64::MAX),
            members,
            authorities,
            advice,
            ready: own.not_ready.is_empty(),
            outage_budget_seconds,
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(
        &self,
        _: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        Ok(Response::new(self.status()))
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
