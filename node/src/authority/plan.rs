//! The life of authorities as a pure planner: from what a node sees to what it
//! does next.
//!
//! Creating a key is intent, generate, prove, record (see `raft-store`'s
//! `apply::authority`). Half a life before an authority ends (30 days at most) the next one is
//! made and stands in the bundle; a sixth before the end (7 days at most) it takes over, once every
//! member seen lately has proved that it can use the key and agents had time to learn of it.
//! A day after its end an authority is forgotten. The leader makes the keys that nodes share, and
//! where it does not any other node that can.
//!
//! Nodes share authorities or have their own, as the scope says (`scope`). When it becomes the
//! other one, authorities of the new scope are made, proved and learned of as in a rotation; those
//! of the old one live on until then, and are retired.
//!
//! Promises: any step may be interrupted at any point, repeated, or come late from a leader that
//! is none any more: the next plan continues from the replicated state, and what comes late is
//! refused there. While an authority signs nothing takes its place that a member seen lately
//! cannot use. Where it has ended nothing is lost by going on without such a member.
//! Refuses to know: keys, tokens, the network.

#[cfg(test)]
mod model;
#[cfg(test)]
mod move_tests;
mod moving;
#[cfg(test)]
mod tests;
mod thresholds;

use std::collections::{BTreeMap, BTreeSet};

use chancery_raft_store::command::AuthorityName;
use chancery_raft_store::model::{
    Authority, AuthorityKind, AuthorityScope, AuthorityStatus, BundleAuthority, KeyIntent,
};

#[cfg(test)]
use self::moving::Left;
pub(crate) use self::moving::left;
pub(super) use self::thresholds::{LEARNING, PROVERS_SEEN_WITHIN};
use self::thresholds::{
    PRESENT_WITHIN, activate_at, is_current, learned_at, made_at, patience, prepare_at,
    provers_seen_within, takes_over_at,
};

/// Whoever has just started has not seen everybody that is there: it is given so many seconds.
const SETTLED_AFTER: i64 = 5;
/// Authorities that one command forgets at most.
const PRUNED_MAX: usize = 64;
/// Both kinds, in the order in which they are planned.
pub(super) const KINDS: [AuthorityKind; 2] = [AuthorityKind::X509, AuthorityKind::Jwt];

/// What a node sees.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// This node.
    pub me: u64,
    /// It leads.
    pub leader: bool,
    /// Whose the keys are to be.
    pub scope: AuthorityScope,
    /// This node's keys are in a token, where others may have access to them.
    pub token: bool,
    /// Members whose keys are not: under what nodes share they sign certificates alone, by
    /// intermediates that others certify.
    pub tokenless: BTreeSet<u64>,
    /// There are no JWT-SVIDs, so no authority for them is made or used.
    pub without_jwt: bool,
    /// Every member knows the command that forgets authorities.
    pub prunes: bool,
    /// Cluster clock, Unix seconds.
    pub now: i64,
    /// Seconds since this node started to look for the others.
    pub up_for: i64,
    /// Seconds since this node found the scope to be what it is; not more than `up_for`.
    pub scope_for: i64,
    /// Every authority.
    pub authorities: Vec<Authority>,
    /// Intents of the slots in question, open or closed.
    pub intents: Vec<KeyIntent>,
    /// Members that this node has seen, itself included, and how many seconds ago.
    pub seen: BTreeMap<u64, i64>,
    /// Ids of authorities whose key this node holds and has signed with.
    pub usable: BTreeSet<String>,
    /// Ids of this node's own authorities whose key is gone for good.
    pub lost: BTreeSet<String>,
}

impl Scene {
    /// Whether nodes are to share the keys.
    fn shared(&self) -> bool {
        shares(self.scope, self.token)
    }

    /// Whether nodes sign with authorities of their own, in a scope that was set.
    fn others_sign(&self, kind: AuthorityKind) -> bool {
        let mut own = self.authorities.iter().filter(|a| a.node_id != 0);
        self.scope != AuthorityScope::Unspecified
            && own.any(|a| a.kind() == kind && a.status() == AuthorityStatus::Active)
    }

    fn seen_within(&self, seconds: i64) -> impl Iterator<Item = u64> {
        let seen = self.seen.iter();
        seen.filter(move |(_, ago)| **ago <= seconds)
            .map(|(id, _)| *id)
    }

    fn is_present(&self, node: u64) -> bool {
        self.seen
            .get(&node)
            .is_some_and(|ago| *ago <= PRESENT_WITHIN)
    }
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
    /// Give up an intent of a node that is gone, or cannot make its key.
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
    /// End the signing of authorities outside of the scope.
    Retire {
        /// Kind of all of them.
        kind: AuthorityKind,
        /// Their ids.
        ids: Vec<String>,
    },
    /// Forget authorities that ended long ago.
    Prune {
        /// Which.
        authorities: Vec<AuthorityName>,
    },
}

/// An authority that was to be followed by another one by now, and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Id of the authority.
    pub id: String,
    /// Its end, Unix seconds.
    pub expires_at: i64,
    /// What is missing.
    pub missing: Missing,
}

/// Why no other authority took over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is none: its key was not made.
    Successor,
    /// These members cannot sign with it yet.
    Proofs(BTreeSet<u64>),
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

/// Whether a member signs what nodes share at all.
fn signs_shared(kind: AuthorityKind, id: u64, tokenless: &BTreeSet<u64>) -> bool {
    kind != AuthorityKind::Jwt || !tokenless.contains(&id)
}

/// Whether nodes share keys in a scope, on a node whose keys are in a token or not.
pub fn shares(scope: AuthorityScope, token: bool) -> bool {
    match scope {
        AuthorityScope::Shared => true,
        AuthorityScope::PerNode => false,
        AuthorityScope::Unspecified => token,
    }
}

/// Every step that is due now, in order. No step needs one before it to have succeeded.
pub fn plan(scene: &Scene) -> Vec<Step> {
    let lives = kinds(scene).flat_map(|kind| {
        let inner = Slot::of(scene, kind);
        let mut steps = inner.steps();
        let outer = Slot::outside(scene, kind);
        // One that was away has nothing to sign with until they share one.
        let left_out = inner.shared && inner.last.is_none() && scene.others_sign(kind);
        steps.extend(if outer.last.is_some() || left_out {
            outer.steps()
        } else {
            outer.given_up().into_iter().collect()
        });
        steps.extend(moving::retire(scene, kind));
        steps
    });
    let pruning = KINDS.into_iter().filter_map(|kind| prune(scene, kind));
    lives.chain(pruning).collect()
}

fn kinds(scene: &Scene) -> impl Iterator<Item = AuthorityKind> + use<> {
    let without_jwt = scene.without_jwt;
    KINDS
        .into_iter()
        .filter(move |kind| !(without_jwt && *kind == AuthorityKind::Jwt))
}

/// Whether an authority of a kind, for whose slot this node has to care, is overdue.
pub fn overdue(scene: &Scene, kind: AuthorityKind) -> Option<Overdue> {
    if scene.without_jwt && kind == AuthorityKind::Jwt {
        return None;
    }
    let of_scope = Slot::of(scene, kind);
    if of_scope.active().is_some() {
        return of_scope.overdue();
    }
    // Until the others have taken over it is these that must not end.
    Slot::outside(scene, kind)
        .overdue()
        .or_else(|| of_scope.overdue())
}

/// When the authority of a kind that signs here ends, Unix seconds.
pub fn signs_until(scene: &Scene, kind: AuthorityKind) -> Option<i64> {
    let active = Slot::of(scene, kind).active();
    let active = active.or_else(|| Slot::outside(scene, kind).active())?;
    Some(active.expires_at)
}

/// A slot of a kind that concerns this node.
struct Slot<'a> {
    scene: &'a Scene,
    kind: AuthorityKind,
    /// Nodes share it.
    shared: bool,
    name: String,
    /// Prepared or active, valid and not tainted.
    alive: Vec<&'a Authority>,
    /// Signed last, whether it still does or not.
    last: Option<&'a Authority>,
    /// Signs outside of the scope until one of this slot does.
    before: Option<&'a Authority>,
    intent: Option<&'a KeyIntent>,
}

impl<'a> Slot<'a> {
    /// That of the scope.
    fn of(scene: &'a Scene, kind: AuthorityKind) -> Self {
        Self {
            before: Self::outside(scene, kind).active(),
            ..Self::at(scene, kind, scene.shared())
        }
    }

    /// That of the other scope.
    fn outside(scene: &'a Scene, kind: AuthorityKind) -> Self {
        Self::at(scene, kind, !scene.shared())
    }

    fn at(scene: &'a Scene, kind: AuthorityKind, shared: bool) -> Self {
        let name = slot(kind, (!shared).then_some(scene.me));
        let owner = if shared { 0 } else { scene.me };
        let mine = || {
            let all = scene.authorities.iter();
            all.filter(|a| a.kind() == kind && a.node_id == owner)
        };
        Self {
            scene,
            kind,
            shared,
            before: None,
            alive: mine()
                .filter(|a| is_current(a, scene.now) && !a.tainted)
                .filter(|a| {
                    let status = a.status();
                    matches!(status, AuthorityStatus::Prepared | AuthorityStatus::Active)
                })
                .collect(),
            last: mine()
                .filter(|a| a.status() == AuthorityStatus::Active)
                .max_by_key(|a| a.epoch),
            intent: scene.intents.iter().find(|i| i.slot == name),
            name,
        }
    }

    /// Slots of one node's own keys are that node's business alone.
    fn in_charge(&self) -> bool {
        self.scene.leader || !self.shared
    }

    /// A shared key that cannot be used right now is an outage of the token and no
    /// reason for a new authority, and an own key that was not tried yet is about to be;
    /// an own key that is not where it was made never comes back.
    fn is_serviceable(&self, authority: &Authority) -> bool {
        self.shared || !self.scene.lost.contains(&authority.id)
    }

    fn newest(&self, status: AuthorityStatus) -> Option<&'a Authority> {
        let alive = self.alive.iter().copied();
        alive
            .filter(|a| a.status() == status && self.is_serviceable(a))
            .max_by_key(|a| a.epoch)
    }

    fn active(&self) -> Option<&'a Authority> {
        self.newest(AuthorityStatus::Active)
    }

    fn next(&self) -> Option<&'a Authority> {
        self.newest(AuthorityStatus::Prepared)
    }

    /// Members that have to prove `next` before it may sign, and have not.
    fn unproved(&self, next: &Authority) -> BTreeSet<u64> {
        let scene = self.scene;
        if !self.shared {
            let able = scene.usable.contains(&next.id);
            return (!able).then_some(scene.me).into_iter().collect();
        }
        let proved = |id: &u64| next.proved_by.contains(id);
        // Nothing signs: the one before it has ended, or there has been none, and then everybody
        // had a moment to prove it. Whoever can goes on.
        let had_a_moment = scene.now.saturating_sub(SETTLED_AFTER) >= made_at(next);
        if self.active().is_none()
            && self.before.is_none()
            && (self.last.is_some() || had_a_moment)
            && next.proved_by.iter().any(|id| scene.is_present(*id))
        {
            return BTreeSet::new();
        }
        let needed = scene.seen_within(provers_seen_within(self.last));
        let able = |id: &u64| signs_shared(self.kind, *id, &scene.tokenless);
        needed.filter(able).filter(|id| !proved(id)).collect()
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = self.proofs();
        if self.in_charge() {
            steps.extend(self.activation());
        }
        steps.extend(self.making());
        steps
    }

    fn proofs(&self) -> Vec<Step> {
        let scene = self.scene;
        if self.shared && !scene.token && self.kind == AuthorityKind::Jwt {
            return Vec::new();
        }
        let untried = self
            .alive
            .iter()
            .filter(|a| self.is_serviceable(a))
            .filter(|a| !a.proved_by.contains(&scene.me) || !scene.usable.contains(&a.id));
        let prove = |a: &&Authority| Step::Prove {
            kind: self.kind,
            id: a.id.clone(),
        };
        untried.map(prove).collect()
    }

    fn activation(&self) -> Option<Step> {
        let next = self.next()?;
        let takes_over = match (self.active(), self.before) {
            (Some(active), _) => Some(takes_over_at(active, next)),
            (None, Some(before)) => Some(learned_at(next).min(before.expires_at)),
            (None, None) => None,
        };
        let is_time = takes_over.is_none_or(|at| {
            self.scene.now >= at && (!self.shared || self.scene.up_for >= SETTLED_AFTER)
        });
        (is_time && self.unproved(next).is_empty()).then(|| Step::Activate {
            kind: self.kind,
            id: next.id.clone(),
        })
    }

    fn making(&self) -> Option<Step> {
        let (scene, slot) = (self.scene, self.name.clone());
        let open = self.intent.filter(|i| i.node_id != 0);
        if let Some(open) = open {
            if open.node_id == scene.me {
                return Some(Step::Make {
                    kind: self.kind,
                    intent: open.clone(),
                });
            }
            let waited = scene.now - open.recorded_at;
            let given_up = if scene.is_present(open.node_id) {
                // Its token may be broken while another node's is not.
                waited > provers_seen_within(self.last)
            } else {
                waited > patience(self.last)
            };
            return (self.in_charge() && given_up).then_some(Step::Abandon {
                slot,
                epoch: open.epoch,
            });
        }
        let is_time = self
            .active()
            .is_none_or(|active| scene.now >= prepare_at(active));
        let able = scene.token || !self.shared;
        let mine = self.in_charge() || self.is_left_to_others();
        (mine && able && is_time && self.next().is_none()).then(|| Step::Begin {
            kind: self.kind,
            slot,
            epoch: self.intent.map_or(0, |i| i.epoch) + 1,
        })
    }

    /// A key that was announced for a slot in which nothing signs, nor is to.
    fn given_up(&self) -> Option<Step> {
        let open = self.intent.filter(|i| i.node_id != 0)?;
        self.in_charge().then(|| Step::Abandon {
            slot: self.name.clone(),
            epoch: open.epoch,
        })
    }

    /// It was time long ago and the leader has announced no key: its token may be away while
    /// another node's is not. Those that are there wait in turn, by their ids.
    fn is_left_to_others(&self) -> bool {
        let scene = self.scene;
        let before = scene.seen.range(..scene.me);
        let before = before.filter(|(id, _)| scene.is_present(**id)).count();
        let turn = i64::try_from(before).unwrap_or(i64::MAX);
        let wait = patience(self.last).saturating_add(turn.saturating_mul(PRESENT_WITHIN));
        let due = self.active().map_or(0, prepare_at);
        let closed = self.intent.map_or(0, |intent| intent.recorded_at);
        scene.scope_for >= wait && scene.now.saturating_sub(wait) >= due.max(closed)
    }

    fn overdue(&self) -> Option<Overdue> {
        let last = self
            .last
            .filter(|last| self.in_charge() && self.scene.now >= activate_at(last))?;
        let missing = match self.next() {
            None => Missing::Successor,
            Some(next) => {
                let by = self.unproved(next);
                (!by.is_empty()).then_some(Missing::Proofs(by))?
            }
        };
        Some(Overdue {
            id: last.id.clone(),
            expires_at: last.expires_at,
            missing,
        })
    }
}

/// What ended a day ago or earlier, whosever it was, while the bundle has another one of its
/// kind: the last one stays, and asking for it would only be refused.
fn prune(scene: &Scene, kind: AuthorityKind) -> Option<Step> {
    if !scene.leader || !scene.prunes {
        return None;
    }
    let before = scene.now.saturating_sub(BundleAuthority::KEPT_AFTER_END);
    let (ended, kept): (Vec<&Authority>, Vec<&Authority>) = scene
        .authorities
        .iter()
        .filter(|a| a.kind() == kind)
        .partition(|a| a.expires_at <= before);
    let stays = kept.iter().any(|a| a.status() != AuthorityStatus::Revoked);
    let authorities: Vec<_> = ended
        .into_iter()
        .take(PRUNED_MAX)
        .map(|a| AuthorityName {
            kind: kind.into(),
            id: a.id.clone(),
        })
        .collect();
    (stays && !authorities.is_empty()).then_some(Step::Prune { authorities })
}
