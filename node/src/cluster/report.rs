//! The cluster as one node knows it, for `chancery cluster status`: its members, what is
//! wrong, and what to do about it.

use chancery_api::chancery::cluster::v1 as api;
use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::model::{AuthorityKind, AuthorityStatus, Member, MemberRole};

use super::Leadership;
use super::status::{Members, SEEN_WITHIN, SelfStatus};

/// Clocks further apart than this are worth a warning.
const SKEW_WARN_MS: u64 = 5_000;

impl Members {
    /// Who leads, if that node is there: openraft goes on naming a leader that is gone
    /// until there is another.
    fn leadership(&self, own: &wire::NodeStatusResponse) -> Leadership {
        let mut leadership = self.consensus.leadership();
        let present = |id: u64| {
            if id == self.consensus.me() {
                own.freshness_ms
                    .is_some_and(|age| u128::from(age) <= SEEN_WITHIN.as_millis())
            } else {
                self.seen_lately(id).is_some()
            }
        };
        leadership.leader = leadership.leader.filter(|id| present(*id));
        leadership
    }

    /// The cluster as this node knows it, with or without a quorum.
    pub fn report(&self, this: &dyn SelfStatus) -> api::StatusResponse {
        let consensus = &self.consensus;
        let own = this.node_status();
        // Asked before the guard below is taken: it reads the registry itself, and a
        // second read behind a waiting writer would never come back.
        let outage_parts = this.outage_parts();
        let outage_budget_seconds = outage_parts.first().map_or(0, |(_, seconds)| *seconds);
        let leadership = self.leadership(&own);
        let (voters, _) = consensus.voters_and_learners();
        let registry = consensus.registry().read();
        let mut members = Vec::new();
        let mut advice = Vec::new();
        for member in registry.members() {
            let id = member.node_id;
            let me = id == consensus.me();
            let seen = self.seen_lately(id);
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
            if let Some(skew) = skew.filter(|s| s.unsigned_abs() > SKEW_WARN_MS) {
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
            if let Some(status) = status.filter(|s| !s.shortfall.is_empty()) {
                advice.push(format!("node {id}: {}", status.shortfall));
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
                wanted: wanted(member, &registry.cluster().founding_peers).into(),
                auto_promote: member.auto_promote,
                replaces: if member.replaces == 0 {
                    String::new()
                } else {
                    member.replaces.to_string()
                },
                boot: member.boot,
                shortfall: status.map_or_else(String::new, |s| s.shortfall.clone()),
                key_backend: status.map_or_else(String::new, |s| s.key_backend.clone()),
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
        advice.extend(under_way(&members));
        let ahead_ms = registry.cluster().clock_ms - consensus.clock().now_unix_ms();
        let offset_ms = consensus.clock_offset_ms().unwrap_or(0);
        if ahead_ms.saturating_sub(offset_ms) > SKEW_WARN_MS.cast_signed() {
            advice.push(format!(
                "the cluster's time is {} s ahead of its members' clocks, which were wrong before: nothing expires until \
                 they are there; `chancery cluster clock set` sets it",
                (ahead_ms - offset_ms) / 1000
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
            stale_issuance_limit_ms: u64::try_from(this.stale_limit().as_millis())
                .unwrap_or(u64::MAX),
            members,
            authorities,
            advice,
            ready: own.not_ready.is_empty(),
            outage_budget_seconds,
            outage_parts: outage_parts
                .into_iter()
                .map(|(part, seconds)| api::OutagePart {
                    part: part.to_owned(),
                    seconds,
                })
                .collect(),
            feature_level: registry.cluster().feature_level,
            cluster_clock_ms: registry.cluster().clock_ms,
            clock_offset_ms: consensus.clock_offset_ms(),
            issuance_mode: registry.cluster().issuance_mode().as_str().to_owned(),
            authority_scope: registry.cluster().authority_scope().as_str().to_owned(),
            scope_left: Vec::new(),
        }
    }
}

fn wanted(member: &Member, founding_peers: &[String]) -> &'static str {
    match member.wanted() {
        MemberRole::Leaving => "leaving",
        _ if member.is_wanted_voter(founding_peers) => "voter",
        _ => "learner",
    }
}

/// Changes of members that are written and not carried out yet.
fn under_way(members: &[api::Member]) -> Vec<String> {
    let last = members.iter().map(|m| m.applied_index).max().unwrap_or(0);
    let votes = |role: &str| role == "voter" || role == "leader";
    let late = members
        .iter()
        .filter(|m| votes(&m.wanted) != votes(&m.role) || m.wanted == "leaving");
    late.map(|m| {
        let waits = match () {
            () if !m.reachable => "it does not answer".to_owned(),
            () if m.wanted == "voter" => {
                format!("it has applied log entry {} of {last}", m.applied_index)
            }
            () => "a majority of the voters that stay must answer".to_owned(),
        };
        format!(
            "node {} is a {} and is to be {}: {waits}",
            m.id,
            m.role,
            match &*m.wanted {
                "leaving" => "removed".to_owned(),
                wanted => format!("a {wanted}"),
            }
        )
    })
    .collect()
}
