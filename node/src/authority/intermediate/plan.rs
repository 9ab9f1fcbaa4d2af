//! When a node certifies an intermediate, renews it and drops it, as a pure function.
//!
//! One of each authority that signs or is to sign next is held. It is renewed between 40 and 50 %
//! of its life, so that a day's intermediate outlasts the token by half a day at least; the jitter
//! keeps the nodes of a cluster apart. What was tainted, revoked or has ended is dropped at once.

use std::collections::{BTreeMap, BTreeSet};

use chancery_raft_store::model::{Authority, AuthorityStatus, IssuanceMode};

/// While a good one is held a failed renewal is tried again after so many seconds at most.
const PAUSE_MAX: i64 = 60;

/// What is known of an intermediate that is held, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// From here on it is renewed; `None` where another one would not live longer.
    pub(super) renew_at: Option<i64>,
    /// Its last second.
    pub(super) not_after: i64,
}

/// Tries in vain since the last one that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failures {
    /// How many.
    pub(super) count: u32,
    /// Unix second of the last one.
    pub(super) last_at: i64,
}

/// What a node sees.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// Mode of the cluster.
    pub(super) mode: IssuanceMode,
    /// Unix seconds.
    pub(super) now: i64,
    /// The authorities for certificates that this node may sign with.
    pub(super) authorities: Vec<Authority>,
    /// Ids of authorities whose key this node has signed with since it started.
    pub(super) usable: BTreeSet<String>,
    /// Intermediates that are held, by their authority's id.
    pub(super) held: BTreeMap<String, Held>,
    /// Tries in vain, by the authority's id.
    pub(super) failures: BTreeMap<String, Failures>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Forget the intermediate of this authority.
    Drop(String),
    /// Have this authority certify one.
    Certify(String),
}

/// Every step that is due now; what is to be dropped comes first.
pub(super) fn plan(scene: &Scene) -> Vec<Step> {
    let dropped = scene.held.iter().filter(|(id, held)| {
        let authority = scene.authorities.iter().find(|a| a.id == **id);
        scene.mode != IssuanceMode::Intermediate
            || scene.now >= held.not_after
            || !authority.is_some_and(|a| may_sign(a, scene.now))
    });
    let mut steps: Vec<_> = dropped.map(|(id, _)| Step::Drop(id.clone())).collect();
    if scene.mode == IssuanceMode::Intermediate {
        let wanted = scene.authorities.iter().filter(|a| is_wanted(a, scene));
        steps.extend(wanted.map(|a| Step::Certify(a.id.clone())));
    }
    steps
}

/// Whether what an intermediate of this authority signs may be used.
pub(super) fn may_sign(authority: &Authority, now: i64) -> bool {
    let status = authority.status();
    let trusted = !matches!(
        status,
        AuthorityStatus::Revoked | AuthorityStatus::Unspecified
    );
    trusted && !authority.tainted && authority.expires_at > now
}

fn is_wanted(authority: &Authority, scene: &Scene) -> bool {
    let status = authority.status();
    let signs = matches!(status, AuthorityStatus::Active | AuthorityStatus::Prepared);
    if !signs || !may_sign(authority, scene.now) || !scene.usable.contains(&authority.id) {
        return false;
    }
    let held = scene.held.get(&authority.id);
    let held = held.filter(|held| scene.now < held.not_after);
    let due = held.is_none_or(|held| held.renew_at.is_some_and(|at| scene.now >= at));
    let failures = scene.failures.get(&authority.id);
    due && failures.is_none_or(|failed| scene.now >= retry_at(*failed, held, scene.now))
}

/// When a try follows one in vain. Without a good one there is nothing to wait for; with one the
/// pauses double, up to a minute and a tenth of what is left.
fn retry_at(failed: Failures, held: Option<&Held>, now: i64) -> i64 {
    let Some(held) = held else {
        return failed.last_at;
    };
    let left = held.not_after.saturating_sub(now);
    let doubled = 1_i64 << failed.count.min(10);
    let pause = doubled.min(PAUSE_MAX).min((left / 10).max(1));
    failed.last_at.saturating_add(pause)
}

/// When an intermediate made at `made_at` is renewed; `None` for one that lives as long as its
/// authority, which ends at `authority_ends_at`. `jitter` is random.
pub(super) fn renew_at(
    made_at: i64,
    not_after: i64,
    authority_ends_at: i64,
    jitter: u16,
) -> Option<i64> {
    if not_after >= authority_ends_at {
        return None;
    }
    let life = not_after.saturating_sub(made_at).max(0);
    let spread = i128::from(life) * i128::from(jitter) / 10 / (i128::from(u16::MAX) + 1);
    let spread = i64::try_from(spread).unwrap_or(0);
    Some(made_at.saturating_add(life / 5 * 2 + life % 5 * 2 / 5 + spread))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
