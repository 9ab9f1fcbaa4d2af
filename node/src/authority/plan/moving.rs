//! The way from shared authorities to each node's own, and back.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityScope, AuthorityStatus};

use super::super::nodes;
use super::thresholds::{is_current, learned_at, provers_seen_within};
use super::{Scene, Step, signs_shared};

/// What a change of scope still waits for, of one kind of authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The key that nodes will share was not made.
    Key,
    /// These members have not signed with the key that nodes will share.
    Proofs(BTreeSet<u64>),
    /// These members have no authority of their own that signs.
    Own(BTreeSet<u64>),
    /// Agents learn of the new authority until this Unix second.
    Learning(i64),
    /// So many authorities of the other scope have not stopped to sign.
    Retiring(usize),
}

/// What is left to do until only authorities of the scope sign; `None` when nothing is. `seen`
/// holds members and how many seconds ago they were seen, `tokenless` those whose keys are not in
/// a token.
pub(crate) fn left(
    authorities: &[impl Borrow<Authority>],
    kind: AuthorityKind,
    scope: AuthorityScope,
    seen: &BTreeMap<u64, i64>,
    tokenless: &BTreeSet<u64>,
    now: i64,
) -> Option<Left> {
    if scope == AuthorityScope::Unspecified {
        return None;
    }
    let of_kind: Vec<&Authority> = authorities
        .iter()
        .map(Borrow::borrow)
        .filter(|a| a.kind() == kind)
        .collect();
    let others = outside(&of_kind, scope).count();
    if others == 0 {
        return None;
    }
    let signs =
        |a: &&&Authority| a.status() == AuthorityStatus::Active && !a.tainted && is_current(a, now);
    if scope == AuthorityScope::PerNode {
        let lately = seen
            .iter()
            .filter(|(_, ago)| **ago <= provers_seen_within(None));
        let without: BTreeSet<u64> = lately
            .map(|(id, _)| *id)
            .filter(|id| !of_kind.iter().any(|a| a.node_id == *id && signs(&a)))
            .collect();
        if !without.is_empty() {
            let preparing = |id: &u64| {
                let mut own = of_kind.iter().filter(|a| a.node_id == *id);
                own.find(|a| a.status() == AuthorityStatus::Prepared && is_current(a, now))
                    .map(|a| learned_at(a))
            };
            let known_at: Option<Vec<i64>> = without.iter().map(preparing).collect();
            return Some(match known_at.and_then(|at| at.into_iter().max()) {
                Some(at) if at > now => Left::Learning(at),
                _ => Left::Own(without),
            });
        }
        // Nobody was seen: a node that has just started.
        return Some(Left::Retiring(others));
    }
    let mut shared = of_kind.iter().filter(|a| a.node_id == 0);
    if shared.clone().any(|a| signs(&a)) {
        return Some(Left::Retiring(others));
    }
    let next = shared
        .find(|a| a.status() == AuthorityStatus::Prepared && !a.tainted && is_current(a, now));
    let Some(next) = next else {
        return Some(Left::Key);
    };
    let unproved: BTreeSet<u64> = seen
        .iter()
        .filter(|(_, ago)| **ago <= provers_seen_within(None))
        .map(|(id, _)| *id)
        .filter(|id| signs_shared(kind, *id, tokenless))
        .filter(|id| !next.proved_by.contains(id))
        .collect();
    if unproved.is_empty() {
        Some(Left::Learning(learned_at(next)))
    } else {
        Some(Left::Proofs(unproved))
    }
}

impl Left {
    /// In words, of a kind of authority.
    pub(crate) fn sentence(&self, kind: AuthorityKind, now: i64) -> String {
        let kind = match kind {
            AuthorityKind::Jwt => "JWT",
            AuthorityKind::X509 | AuthorityKind::Unspecified => "X.509",
        };
        let what = match self {
            Self::Key => {
                "the key that nodes will share is not made yet: the leader makes it in its token"
                    .to_owned()
            }
            Self::Proofs(ids) => {
                let rest = "not signed with the key that nodes will share";
                nodes(ids, &format!("has {rest}"), &format!("have {rest}"))
            }
            Self::Own(ids) => nodes(
                ids,
                "has no authority of its own that signs",
                "have no authorities of their own that sign",
            ),
            Self::Learning(at) => {
                let left = at.saturating_sub(now).max(0);
                format!("agents learn of the new authority for {left} s more")
            }
            Self::Retiring(1) => {
                "one authority of the other scope is about to sign no more".to_owned()
            }
            Self::Retiring(count) => {
                format!("{count} authorities of the other scope are about to sign no more")
            }
        };
        format!("{kind}: {what}")
    }
}

/// Those that stand outside of the scope and sign, or are to.
fn outside<'a>(
    authorities: &'a [&'a Authority],
    scope: AuthorityScope,
) -> impl Iterator<Item = &'a &'a Authority> {
    authorities.iter().filter(move |a| {
        let outside = (a.node_id != 0) != (scope == AuthorityScope::PerNode);
        let status = a.status();
        outside && matches!(status, AuthorityStatus::Active | AuthorityStatus::Prepared)
    })
}

/// The end of a change of scope: nobody seen lately needs the others any more.
pub(super) fn retire(scene: &Scene, kind: AuthorityKind) -> Option<Step> {
    if !scene.leader || scene.up_for < super::SETTLED_AFTER {
        return None;
    }
    let authorities: Vec<&Authority> = scene.authorities.iter().collect();
    match left(
        &authorities,
        kind,
        scene.scope,
        &scene.seen,
        &scene.tokenless,
        scene.now,
    )? {
        Left::Retiring(_) => {}
        _ => return None,
    }
    let of_kind: Vec<&Authority> = authorities
        .into_iter()
        .filter(|a| a.kind() == kind)
        .collect();
    let ids = outside(&of_kind, scene.scope)
        .map(|a| a.id.clone())
        .collect();
    Some(Step::Retire { kind, ids })
}
