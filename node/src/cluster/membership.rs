//! What the leader does for the membership: admitted nodes become learners, and
//! the learners of the founding list become voters, together.
//!
//! [`plan`] is pure: it looks at the two lists and says the next step. The driver
//! runs it on whoever leads; a step that a lost leadership interrupts is planned
//! again by the next leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chancery_raft_store::types::PeerNode;
use openraft::async_runtime::WatchReceiver;

use super::Consensus;

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// A learner this close behind has caught up.
const CAUGHT_UP: u64 = 100;

/// What the plan is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Admitted nodes and their peer addresses.
    pub admitted: BTreeMap<u64, String>,
    /// Addresses of the founding list.
    pub founding: BTreeSet<String>,
    /// Raft's voters.
    pub voters: BTreeSet<u64>,
    /// Raft's learners.
    pub learners: BTreeSet<u64>,
    /// The voters that a change under way leads to; empty when none is.
    pub joint_target: BTreeSet<u64>,
    /// Learners that have caught up with the leader.
    pub caught_up: BTreeSet<u64>,
}

/// The next change of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start to replicate to an admitted node.
    AddLearner(u64, String),
    /// Make these the voters.
    Promote(BTreeSet<u64>),
}

/// The next step, if one is due.
///
/// The founding list is promoted when it is complete and has caught up, never a
/// part of it: two voters are less available than one.
pub fn plan(picture: &Picture) -> Option<Step> {
    // A leader died between the two steps of a change: until it is finished both sets
    // of voters must agree to everything.
    if !picture.joint_target.is_empty() {
        return Some(Step::Promote(picture.joint_target.clone()));
    }
    for (id, address) in &picture.admitted {
        if !picture.voters.contains(id) && !picture.learners.contains(id) {
            return Some(Step::AddLearner(*id, address.clone()));
        }
    }
    let founders: BTreeMap<&String, u64> = picture
        .admitted
        .iter()
        .filter(|(_, a)| picture.founding.contains(*a))
        .map(|(id, a)| (a, *id))
        .collect();
    let target: BTreeSet<u64> = founders.values().copied().collect();
    let complete = founders.len() == picture.founding.len() && target.len() > 1;
    let founding_phase = picture.voters.len() == 1 && picture.voters.is_subset(&target);
    let ready = target
        .iter()
        .all(|id| picture.voters.contains(id) || picture.caught_up.contains(id));
    (complete && founding_phase && ready).then_some(Step::Promote(target))
}

impl Consensus {
    /// Drives the membership while this node leads. Has no end.
    pub async fn drive_membership(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.is_leader() {
                continue;
            }
            let Some(step) = plan(&self.picture()) else {
                continue;
            };
            let result = match &step {
                Step::AddLearner(id, address) => {
                    self.inner
                        .raft
                        .add_learner(
                            *id,
                            PeerNode {
                                address: address.clone(),
                            },
                            false,
                        )
                        .await
                }
                Step::Promote(voters) => {
                    self.inner
                        .raft
                        .change_membership(voters.clone(), true)
                        .await
                }
            };
            match result {
                Ok(_) => tracing::info!(?step, "membership changed"),
                Err(error) => tracing::debug!(?step, %error, "membership not changed"),
            }
        }
    }

    fn picture(&self) -> Picture {
        let (admitted, founding) = {
            let registry = self.registry().read();
            let admitted = registry
                .members()
                .map(|m| (m.node_id, m.peer_address.clone()))
                .collect();
            (
                admitted,
                registry.cluster().founding_peers.iter().cloned().collect(),
            )
        };
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
            admitted,
            founding,
            voters: membership.voter_ids().collect(),
            joint_target: match membership.get_joint_config().as_slice() {
                [_, .., target] => target.clone(),
                _ => BTreeSet::new(),
            },
            learners: membership.learner_ids().collect(),
            caught_up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(admitted: &[u64], voters: &[u64], learners: &[u64], caught_up: &[u64]) -> Picture {
        Picture {
            admitted: admitted
                .iter()
                .map(|id| (*id, format!("n{id}:1")))
                .collect(),
            founding: (1..=3).map(|id| format!("n{id}:1")).collect(),
            voters: voters.iter().copied().collect(),
            joint_target: BTreeSet::new(),
            learners: learners.iter().copied().collect(),
            caught_up: caught_up.iter().copied().collect(),
        }
    }

    #[test]
    fn an_admitted_node_becomes_a_learner_first() {
        let step = plan(&picture(&[1, 2], &[1], &[], &[]));
        assert_eq!(step, Some(Step::AddLearner(2, "n2:1".into())));
    }

    #[test]
    fn the_founding_list_is_promoted_whole_or_not_at_all() {
        assert_eq!(
            plan(&picture(&[1, 2], &[1], &[2], &[2])),
            None,
            "one is missing"
        );
        assert_eq!(
            plan(&picture(&[1, 2, 3], &[1], &[2, 3], &[2])),
            None,
            "one is behind"
        );
        let step = plan(&picture(&[1, 2, 3], &[1], &[2, 3], &[2, 3]));
        assert_eq!(step, Some(Step::Promote([1, 2, 3].into())));
        assert_eq!(
            plan(&picture(&[1, 2, 3], &[1, 2, 3], &[], &[])),
            None,
            "done"
        );
    }

    #[test]
    fn a_change_that_a_dead_leader_left_half_done_is_finished() {
        let mut left = picture(&[1, 2, 3], &[1, 2, 3], &[], &[]);
        left.joint_target = [1, 2, 3].into();
        assert_eq!(plan(&left), Some(Step::Promote([1, 2, 3].into())));
    }

    #[test]
    fn a_later_learner_is_not_promoted_by_itself() {
        assert_eq!(plan(&picture(&[1, 2, 3, 4], &[1, 2, 3], &[4], &[4])), None);
    }
}
