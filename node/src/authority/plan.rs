//! The life of authorities as a pure planner: from what a node sees to what it
//! does next.
//!
//! Creating a key is intent, generate, prove, record (see `raft-store`'s
//! `apply::authority`); an authority signs once every member seen lately has
//! proved that it can use the key. Any step may be interrupted at any point: the
//! next plan continues from the replicated state.

use std::collections::BTreeSet;

use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityStatus, KeyIntent};

/// An intent of a node that was not seen for this long is given up by the leader,
/// in seconds.
pub const INTENT_PATIENCE: i64 = 30;

/// What a node sees.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// This node.
    pub me: u64,
    /// It leads.
    pub leader: bool,
    /// Nodes share the keys; else each has its own.
    pub shared: bool,
    /// There are no JWT-SVIDs, so no authority for them is made or used.
    pub without_jwt: bool,
    /// Cluster clock, Unix seconds.
    pub now: i64,
    /// Every authority.
    pub authorities: Vec<Authority>,
    /// Intents of the slots in question, open or closed.
    pub intents: Vec<KeyIntent>,
    /// Members seen in the last ten minutes.
    pub members: BTreeSet<u64>,
    /// Members seen in the last seconds.
    pub present: BTreeSet<u64>,
    /// Ids of authorities whose key this node holds and has signed with.
    pub usable: BTreeSet<String>,
    /// Ids of this node's own authorities whose key is gone for good.
    pub lost: BTreeSet<String>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Announce a key for a slot.
    Begin {
        /// What it will sign.
        kind: AuthorityKind,
        /// Slot.
        slot: String,
        /// Next epoch of the slot.
        epoch: u64,
    },
    /// Generate, prove and record the key of an open intent of this node.
    Make {
        /// What it will sign.
        kind: AuthorityKind,
        /// The intent.
        intent: KeyIntent,
    },
    /// Give up an intent of a node that is gone.
    Abandon {
        /// Slot.
        slot: String,
        /// Epoch of the intent.
        epoch: u64,
    },
    /// Try the key of an authority and record that it works here.
    Prove {
        /// Kind of the authority.
        kind: AuthorityKind,
        /// Id of the authority.
        id: String,
    },
    /// Let an authority sign.
    Activate {
        /// Kind of the authority.
        kind: AuthorityKind,
        /// Id of the authority.
        id: String,
    },
}

/// Slot in which a kind of authority lives.
pub fn slot(kind: AuthorityKind, own_node: Option<u64>) -> String {
    let kind = match kind {
        AuthorityKind::Jwt => "jwt",
        AuthorityKind::X509 | AuthorityKind::Unspecified => "x509",
    };
    match own_node {
        Some(node) => format!("{kind}/node-{node}"),
        None => kind.to_owned(),
    }
}

/// Whether an authority is one that this node may sign with.
pub fn concerns(authority: &Authority, scene: &Scene) -> bool {
    if scene.shared {
        authority.node_id == 0
    } else {
        authority.node_id == scene.me
    }
}

/// Every step that is due now, in order.
pub fn plan(scene: &Scene) -> Vec<Step> {
    [AuthorityKind::X509, AuthorityKind::Jwt]
        .into_iter()
        .filter(|kind| !(scene.without_jwt && *kind == AuthorityKind::Jwt))
        .flat_map(|kind| plan_kind(scene, kind))
        .collect()
}

fn plan_kind(scene: &Scene, kind: AuthorityKind) -> Vec<Step> {
    let mut steps = Vec::new();
    let slot = slot(kind, (!scene.shared).then_some(scene.me));
    // Slots of one node's own keys are that node's business alone.
    let in_charge = scene.leader || !scene.shared;
    let mine: Vec<&Authority> = scene
        .authorities
        .iter()
        .filter(|a| {
            a.kind() == kind && concerns(a, scene) && a.expires_at > scene.now && !a.tainted
        })
        .filter(|a| {
            matches!(
                a.status(),
                AuthorityStatus::Prepared | AuthorityStatus::Active
            )
        })
        .collect();

    let intent = scene.intents.iter().find(|i| i.slot == slot);
    let open = intent.filter(|i| i.node_id != 0);
    if let Some(open) = open {
        if open.node_id == scene.me {
            steps.push(Step::Make {
                kind,
                intent: open.clone(),
            });
        } else if in_charge
            && !scene.present.contains(&open.node_id)
            && scene.now - open.recorded_at > INTENT_PATIENCE
        {
            steps.push(Step::Abandon {
                slot: slot.clone(),
                epoch: open.epoch,
            });
        }
    }

    // A shared key that cannot be used right now is an outage of the token and no
    // reason for a new authority, and an own key that was not tried yet is about to be;
    // an own key that is not where it was made never comes back.
    let serviceable = |a: &&&Authority| scene.shared || !scene.lost.contains(&a.id);
    for authority in mine.iter().filter(serviceable) {
        if !authority.proved_by.contains(&scene.me) || !scene.usable.contains(&authority.id) {
            steps.push(Step::Prove {
                kind,
                id: authority.id.clone(),
            });
        }
    }

    let has_any = mine.iter().any(|a| serviceable(&a));
    if in_charge && !has_any && open.is_none() {
        let epoch = intent.map_or(0, |i| i.epoch) + 1;
        steps.push(Step::Begin { kind, slot, epoch });
    }

    let signing = mine
        .iter()
        .any(|a| a.status() == AuthorityStatus::Active && serviceable(&a));
    if in_charge && !signing {
        let proved_enough = |a: &&&Authority| {
            if scene.shared {
                scene.members.iter().all(|m| a.proved_by.contains(m))
            } else {
                scene.usable.contains(&a.id)
            }
        };
        let next = mine
            .iter()
            .filter(|a| a.status() == AuthorityStatus::Prepared)
            .find(|a| proved_enough(a));
        steps.extend(next.map(|a| Step::Activate {
            kind,
            id: a.id.clone(),
        }));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(shared: bool) -> Scene {
        Scene {
            me: 1,
            leader: true,
            shared,
            now: 1_000,
            members: [1, 2, 3].into(),
            present: [1, 2, 3].into(),
            ..Scene::default()
        }
    }

    fn authority(id: &str, status: AuthorityStatus, proved_by: &[u64]) -> Authority {
        let mut a = Authority {
            id: id.into(),
            kind: AuthorityKind::X509.into(),
            expires_at: 2_000,
            proved_by: proved_by.to_vec(),
            ..Authority::default()
        };
        a.set_status(status);
        a
    }

    /// Steps for X.509; JWT has nothing yet in these scenes and begins on its own.
    fn x509(scene: &Scene) -> Vec<Step> {
        plan_kind(scene, AuthorityKind::X509)
    }

    fn intent(node: u64, epoch: u64, at: i64) -> KeyIntent {
        KeyIntent {
            slot: "x509".into(),
            epoch,
            node_id: node,
            recorded_at: at,
            ..KeyIntent::default()
        }
    }

    #[test]
    fn only_the_leader_begins_a_shared_key() {
        let mut s = scene(true);
        assert_eq!(
            x509(&s),
            [Step::Begin {
                kind: AuthorityKind::X509,
                slot: "x509".into(),
                epoch: 1
            }]
        );
        s.leader = false;
        assert_eq!(x509(&s), []);
    }

    #[test]
    fn without_jwt_svids_there_is_no_authority_for_them() {
        let mut s = scene(true);
        let kinds = |s: &Scene| {
            plan(s)
                .into_iter()
                .map(|step| match step {
                    Step::Begin { kind, .. } => kind,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(&s), [AuthorityKind::X509, AuthorityKind::Jwt]);
        s.without_jwt = true;
        assert_eq!(kinds(&s), [AuthorityKind::X509]);
    }

    #[test]
    fn a_closed_intent_gives_the_next_epoch() {
        let mut s = scene(true);
        s.intents = vec![intent(0, 4, 0)];
        assert_eq!(
            x509(&s),
            [Step::Begin {
                kind: AuthorityKind::X509,
                slot: "x509".into(),
                epoch: 5
            }]
        );
    }

    #[test]
    fn an_open_intent_is_finished_by_its_node_and_abandoned_only_when_that_is_gone() {
        let mut s = scene(true);
        s.intents = vec![intent(1, 1, 0)];
        assert!(matches!(x509(&s)[..], [Step::Make { .. }]));
        s.intents = vec![intent(2, 1, 0)];
        assert_eq!(x509(&s), [], "node 2 is here");
        s.present = [1, 3].into();
        assert_eq!(
            x509(&s),
            [Step::Abandon {
                slot: "x509".into(),
                epoch: 1
            }]
        );
        s.intents = vec![intent(2, 1, s.now - 5)];
        assert_eq!(x509(&s), [], "it may come back");
        s.leader = false;
        s.intents = vec![intent(2, 1, 0)];
        assert_eq!(x509(&s), [], "not the leader");
    }

    #[test]
    fn a_shared_authority_signs_only_after_every_member_seen_lately_proved_it() {
        let mut s = scene(true);
        s.usable = ["a".to_owned()].into();
        s.authorities = vec![authority("a", AuthorityStatus::Prepared, &[1, 2])];
        assert_eq!(x509(&s), []);
        s.authorities = vec![authority("a", AuthorityStatus::Prepared, &[1, 2, 3])];
        assert_eq!(
            x509(&s),
            [Step::Activate {
                kind: AuthorityKind::X509,
                id: "a".into()
            }]
        );
        s.members = [1, 2].into();
        s.authorities = vec![authority("a", AuthorityStatus::Prepared, &[1, 2])];
        assert_eq!(x509(&s).len(), 1, "a member that is away does not block");
    }

    #[test]
    fn a_member_proves_what_it_has_not_tried_since_it_started() {
        let mut s = scene(true);
        s.authorities = vec![authority("a", AuthorityStatus::Active, &[1, 2, 3])];
        assert_eq!(
            x509(&s),
            [Step::Prove {
                kind: AuthorityKind::X509,
                id: "a".into()
            }]
        );
    }

    #[test]
    fn an_unusable_token_makes_no_new_shared_authority() {
        let mut s = scene(true);
        s.authorities = vec![authority("a", AuthorityStatus::Active, &[1, 2, 3])];
        assert!(
            x509(&s)
                .iter()
                .all(|step| !matches!(step, Step::Begin { .. }))
        );
    }

    #[test]
    fn a_restarted_node_goes_on_with_a_key_of_its_own_that_it_still_has() {
        let mut s = scene(false);
        s.leader = false;
        let mut kept = authority("a", AuthorityStatus::Active, &[1]);
        kept.node_id = 1;
        s.authorities = vec![kept];
        let prove = Step::Prove {
            kind: AuthorityKind::X509,
            id: "a".into(),
        };
        assert_eq!(x509(&s), [prove]);
        s.usable = ["a".to_owned()].into();
        assert_eq!(x509(&s), []);
    }

    #[test]
    fn a_node_whose_own_key_is_gone_makes_another() {
        let mut s = scene(false);
        s.leader = false;
        s.lost = ["a".to_owned()].into();
        let mut lost = authority("a", AuthorityStatus::Active, &[1]);
        lost.node_id = 1;
        s.authorities = vec![lost.clone()];
        let begin = Step::Begin {
            kind: AuthorityKind::X509,
            slot: "x509/node-1".into(),
            epoch: 1,
        };
        assert_eq!(x509(&s), std::slice::from_ref(&begin), "nothing to prove");
        let mut fresh = authority("b", AuthorityStatus::Prepared, &[1]);
        fresh.node_id = 1;
        s.authorities = vec![lost, fresh];
        s.usable = ["b".to_owned()].into();
        assert!(x509(&s).contains(&Step::Activate {
            kind: AuthorityKind::X509,
            id: "b".into()
        }));
        assert!(!x509(&s).contains(&begin));
    }

    #[test]
    fn tainted_and_expired_authorities_do_not_count() {
        let mut s = scene(true);
        let mut tainted = authority("a", AuthorityStatus::Active, &[1, 2, 3]);
        tainted.tainted = true;
        let mut expired = authority("b", AuthorityStatus::Active, &[1, 2, 3]);
        expired.expires_at = s.now;
        s.authorities = vec![tainted, expired];
        assert!(matches!(x509(&s)[..], [Step::Begin { .. }]));
    }
}
