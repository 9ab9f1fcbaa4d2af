//! What the leader does for the membership: it brings Raft's to what the members' records
//! say that each is to be.
//!
//! [`plan`] is pure: it looks at both and says the next step. The driver runs it on whoever
//! leads; a step that a lost leadership interrupts is planned again by the next leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chancery_raft_store::apply::member::VOTERS_MAX;
use chancery_raft_store::command::{
    ChangeMembers, Command, FEATURE_LEVEL, Proposal, RaiseFeatureLevel, RemoveMember,
};
use chancery_raft_store::model::MemberRole;
use chancery_raft_store::types::PeerNode;
use openraft::async_runtime::WatchReceiver;

use super::Consensus;
use super::status::Members;

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// A learner this close behind has caught up.
const CAUGHT_UP: u64 = 100;
/// A step that takes longer is planned again: what a leader proposed and lost may never be
/// answered, also when it leads again.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// Every member must have offered a feature level for this long without a break before it
/// is committed: until then the binaries of an upgrade can be taken back.
const LEVEL_OFFERED_FOR: Duration = Duration::from_secs(600);

/// What the plan is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// This node, which leads.
    pub me: u64,
    /// Members by their records.
    pub members: BTreeMap<u64, Wanted>,
    /// Addresses of the founding list; empty once members were changed.
    pub founding: BTreeSet<String>,
    /// Raft's voters.
    pub voters: BTreeSet<u64>,
    /// Raft's learners.
    pub learners: BTreeSet<u64>,
    /// The voters that a change under way leads to; empty when none is.
    pub joint_target: BTreeSet<u64>,
    /// Learners and voters that have caught up with the leader.
    pub caught_up: BTreeSet<u64>,
    /// Members that answered lately, this node included.
    pub reachable: BTreeSet<u64>,
}

/// What a member's record says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// host:port for peers.
    pub address: String,
    /// What it is to be.
    pub role: MemberRole,
    /// Becomes a voter without being asked.
    pub auto_promote: bool,
    /// Whose place it takes; 0 is none's.
    pub replaces: u64,
}

/// The next change of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start to replicate to an admitted node.
    AddLearner(u64, String),
    /// Make these the voters, in one joint change.
    Vote(BTreeSet<u64>),
    /// One of these voters must lead: this node is not to be one any more.
    HandOver(BTreeSet<u64>),
    /// Stop to replicate to a node that leaves.
    DropLearner(u64),
    /// Record what members are to be, without having been asked.
    Change(ChangeMembers),
    /// Forget a node that has left.
    Forget(u64),
}

/// The next step, if one is due.
pub fn plan(picture: &Picture) -> Option<Step> {
    // A leader died between the two steps of a change: until it is finished both sets
    // of voters must agree to everything.
    if !picture.joint_target.is_empty() {
        return Some(Step::Vote(picture.joint_target.clone()));
    }
    let in_raft = |id: &u64| picture.voters.contains(id) || picture.learners.contains(id);
    for (id, member) in &picture.members {
        if member.role != MemberRole::Leaving && !in_raft(id) {
            return Some(Step::AddLearner(*id, member.address.clone()));
        }
    }
    if let Some(step) = change_of_voters(picture) {
        return Some(step);
    }
    for (id, member) in &picture.members {
        if member.role != MemberRole::Leaving || picture.voters.contains(id) {
            continue;
        }
        if picture.learners.contains(id) {
            return Some(Step::DropLearner(*id));
        }
        // A leader that Raft's membership is without leads on for a moment, and steps down:
        // its successor forgets it.
        if *id != picture.me {
            return Some(Step::Forget(*id));
        }
    }
    // One change at a time: what is recorded but cannot be done yet goes first. It never can
    // where it waits for a member that is dead, or would leave too few who answer, unless that
    // one is replaced.
    let change = match target(picture).filter(|target| *target != picture.voters) {
        None => auto_promotion(picture),
        Some(target) => replacement(picture, |id| {
            let takes_part = picture.voters.contains(id) && picture.reachable.contains(id);
            target.contains(id) && !takes_part
        }),
    };
    change.map(Step::Change)
}

/// The voters as they are to be.
///
/// The founding list votes when it is complete and has caught up, never a part of it: two
/// voters are less available than one.
fn target(picture: &Picture) -> Option<BTreeSet<u64>> {
    let of_role = |role| {
        let members = picture.members.iter();
        members
            .filter(move |(_, m)| m.role == role)
            .map(|(id, m)| (*id, &m.address))
    };
    let founders: BTreeMap<&String, u64> = of_role(MemberRole::Founding)
        .filter(|(_, address)| picture.founding.contains(*address))
        .map(|(id, address)| (address, id))
        .collect();
    if picture.founding.is_empty() {
        return Some(of_role(MemberRole::Voter).map(|(id, _)| id).collect());
    }
    let list: BTreeSet<u64> = founders.into_values().collect();
    let complete = list.len() == picture.founding.len();
    let founding_phase = picture.voters.len() == 1 && picture.voters.is_subset(&list);
    (complete && founding_phase).then_some(list)
}

fn change_of_voters(picture: &Picture) -> Option<Step> {
    let target = target(picture).filter(|t| !t.is_empty() && *t != picture.voters)?;
    let new = target.difference(&picture.voters);
    let ready = new.into_iter().all(|id| picture.caught_up.contains(id));
    // Without a majority of the new voters the change would stand half done, and nothing
    // else could be written.
    let answer = target.intersection(&picture.reachable).count();
    if !ready || answer * 2 <= target.len() {
        return None;
    }
    if target.contains(&picture.me) {
        return Some(Step::Vote(target));
    }
    let heirs: BTreeSet<u64> = target
        .intersection(&picture.voters)
        .filter(|id| picture.reachable.contains(id) && picture.caught_up.contains(id))
        .copied()
        .collect();
    // Nobody of the new ones votes yet: the change itself makes them, and then this node
    // steps down.
    Some(if heirs.is_empty() {
        Step::Vote(target)
    } else {
        Step::HandOver(heirs)
    })
}

/// Learners that are ready to be more.
fn due(picture: &Picture) -> impl Iterator<Item = (u64, &Wanted)> {
    let learners = picture.members.iter().filter(|(id, m)| {
        m.auto_promote
            && m.role == MemberRole::Learner
            && picture.caught_up.contains(id)
            && picture.reachable.contains(id)
    });
    learners.map(|(id, m)| (*id, m))
}

/// A learner takes the place of the member that it replaces, if that may be.
fn replacement(picture: &Picture, may_be: impl Fn(&u64) -> bool) -> Option<ChangeMembers> {
    let (id, (replaced, record)) = due(picture).find_map(|(id, m)| {
        let replaced = picture.members.get_key_value(&m.replaces)?;
        may_be(replaced.0).then_some((id, replaced))
    })?;
    let votes = picture.voters.contains(replaced) || record.role == MemberRole::Voter;
    Some(ChangeMembers {
        // In the place of a learner it is one.
        promote: if votes { vec![id] } else { Vec::new() },
        demote: if votes { Vec::new() } else { vec![id] },
        remove: vec![*replaced],
        allow_even: true,
    })
}

/// Learners that become voters by themselves: one that replaces another with it, the
/// others as many at a time as keep the number of voters odd.
fn auto_promotion(picture: &Picture) -> Option<ChangeMembers> {
    if let Some(change) = replacement(picture, |_| true) {
        return Some(change);
    }
    let mut promote: Vec<u64> = due(picture).map(|(id, _)| id).collect();
    promote.truncate(VOTERS_MAX.saturating_sub(picture.voters.len()));
    if (picture.voters.len() + promote.len()).is_multiple_of(2) {
        promote.pop();
    }
    (!promote.is_empty()).then(|| ChangeMembers {
        promote,
        ..ChangeMembers::default()
    })
}

impl Consensus {
    /// Drives the membership while this node leads. Has no end.
    pub async fn drive_membership(self, members: Members) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut offered_since = None;
        loop {
            ticks.tick().await;
            if !self.is_leader() {
                offered_since = None;
                continue;
            }
            self.yield_to_a_better_clock().await;
            self.raise_feature_level(&members, &mut offered_since).await;
            let Some(step) = plan(&self.picture(&members)) else {
                continue;
            };
            let carried_out = tokio::time::timeout(STEP_LIMIT, self.carry_out(&step)).await;
            match carried_out.unwrap_or_else(|_| Err("no answer in time".into())) {
                Ok(()) => tracing::info!(?step, "membership changed"),
                Err(error) => tracing::debug!(?step, %error, "membership not changed"),
            }
        }
    }

    async fn carry_out(&self, step: &Step) -> Result<(), String> {
        let raft = &self.inner.raft;
        let changed = match step {
            Step::AddLearner(id, address) => {
                let node = PeerNode {
                    address: address.clone(),
                };
                raft.add_learner(*id, node, false).await
            }
            Step::Vote(voters) => raft.change_membership(voters.clone(), true).await,
            Step::DropLearner(id) => {
                let gone = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([*id]));
                raft.change_membership(gone, true).await
            }
            Step::HandOver(heirs) => {
                self.hand_over_to_any(heirs).await;
                return Ok(());
            }
            Step::Change(change) => {
                return self.record(Command::ChangeMembers(change.clone())).await;
            }
            Step::Forget(node_id) => {
                let remove = RemoveMember { node_id: *node_id };
                return self.record(Command::RemoveMember(remove)).await;
            }
        };
        changed.map(drop).map_err(|e| e.to_string())
    }

    /// Writes what the leader itself decides. It is planned again where it is lost.
    async fn record(&self, command: Command) -> Result<(), String> {
        let proposal = Proposal::new(Some(self.next_request()), command);
        let outcome = self.write_here(proposal).await;
        match outcome.map_err(|e| e.to_string())? {
            super::propose::Attempt::Done(outcome, _) => outcome
                .accepted()
                .map(drop)
                .map_err(|refusal| format!("refused: {refusal:?}")),
            _ => Err("leadership moved".into()),
        }
    }

    /// Commits the next feature level once every member has offered it for long enough.
    async fn raise_feature_level(&self, members: &Members, since: &mut Option<Duration>) {
        let committed = self.registry().read().cluster().feature_level;
        let next = committed + 1;
        if next > FEATURE_LEVEL || !members.all_offer(next) {
            *since = None;
            return;
        }
        let now = self.clock().boottime();
        if now.saturating_sub(*since.get_or_insert(now)) < level_offered_for() {
            return;
        }
        let raise = RaiseFeatureLevel { level: next };
        match self.record(Command::RaiseFeatureLevel(raise)).await {
            Ok(()) => tracing::info!(level = next, "feature level raised"),
            Err(error) => tracing::debug!(level = next, %error, "feature level not raised"),
        }
    }

    fn picture(&self, members: &Members) -> Picture {
        let (wanted, founding) = {
            let registry = self.registry().read();
            let wanted = registry.members().map(|m| {
                let wanted = Wanted {
                    address: m.peer_address.clone(),
                    role: m.wanted(),
                    auto_promote: m.auto_promote,
                    replaces: m.replaces,
                };
                (m.node_id, wanted)
            });
            (
                wanted.collect(),
                registry.cluster().founding_peers.iter().cloned().collect(),
            )
        };
        let reachable = members.seen_within(super::status::SEEN_WITHIN);
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let caught_up = metrics
            .replication
            .iter()
            .flatten()
            .filter(|(_, matched)| matched.is_some_and(|id| id.index + CAUGHT_UP >= last))
            .map(|(id, _)| *id)
            .collect();
        Picture {
            me: self.me(),
            members: wanted,
            founding,
            voters: membership.voter_ids().collect(),
            joint_target: match membership.get_joint_config().as_slice() {
                [_, .., target] => target.clone(),
                _ => BTreeSet::new(),
            },
            learners: membership.learner_ids().collect(),
            caught_up,
            reachable: reachable.into_iter().collect(),
        }
    }
}

#[cfg(not(feature = "faults"))]
fn level_offered_for() -> Duration {
    LEVEL_OFFERED_FOR
}

/// Tests ask for a shorter one by an environment variable.
#[cfg(feature = "faults")]
fn level_offered_for() -> Duration {
    let ms = std::env::var("CHANCERY_FAULT_LEVEL_OFFERED_MS").ok();
    ms.and_then(|v| v.parse().ok())
        .map_or(LEVEL_OFFERED_FOR, Duration::from_millis)
}

#[cfg(test)]
mod tests;
