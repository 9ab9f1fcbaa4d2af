//! Whose the keys of authorities are, and the way from one scope to the other.
//!
//! Setting the scope changes what is made from now on and nothing of what signs. Authorities of
//! the other scope live on, successors included, until those of the scope have taken over and a
//! leader retires them: no node is without one in between, however long the way is.

use super::Ruling;
use crate::command::{Outcome, Refusal, RetireAuthorities, SetAuthorityScope};
use crate::feed::ChangeKind;
use crate::model::{Authority, AuthorityKind, AuthorityScope, AuthorityStatus, KeyIntent};
use crate::store::StoreError;
use crate::view::Txn;

/// Setting the scope that holds already changes nothing.
pub(super) fn set(txn: &mut Txn<'_>, command: SetAuthorityScope) -> Ruling {
    let scope = command.scope();
    if scope == AuthorityScope::Unspecified {
        return Ok(Err(Refusal::Malformed));
    }
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    if cluster.authority_scope() == scope {
        return Ok(Ok(Outcome::default()));
    }
    cluster.set_authority_scope(scope);
    txn.put_cluster(&cluster);
    txn.changed(ChangeKind::AuthorityScopeSet);
    Ok(Ok(Outcome::default()))
}

/// Whether another authority may come to be, or to sign, in a slot: one outside of the scope
/// only follows another that signs there. A node that was away, and has none, may make its own
/// while others still sign with theirs and none that all share does.
pub(super) fn is_open(txn: &Txn<'_>, slot: &str) -> Result<bool, StoreError> {
    let scope = scope_in_force(txn)?;
    if scope == AuthorityScope::Unspecified || !is_outside(scope, KeyIntent::is_of_one_node(slot)) {
        return Ok(true);
    }
    let kind = |slot: &str| slot.split('/').next().map(str::to_owned);
    let mut signing = Vec::new();
    for of in [AuthorityKind::X509, AuthorityKind::Jwt] {
        signing.extend(txn.authorities(of.into())?);
    }
    signing.retain(|a| a.status() == AuthorityStatus::Active && kind(&a.slot) == kind(slot));
    let own = |a: &Authority| KeyIntent::is_of_one_node(&a.slot);
    let follows = signing.iter().any(|a| a.slot == slot);
    let none_shared = !signing.is_empty() && signing.iter().all(own);
    Ok(follows || (scope == AuthorityScope::Shared && none_shared))
}

/// Authorities outside of the scope sign no more, and one that was to sign next leaves the
/// bundle; keys that were announced for their slots are given up. Refused while no authority of
/// the scope signs: a leader's late step must not undo a change back.
pub(super) fn retire(txn: &mut Txn<'_>, command: &RetireAuthorities) -> Ruling {
    let scope = scope_in_force(txn)?;
    if scope == AuthorityScope::Unspecified {
        return Ok(Err(Refusal::Conflict));
    }
    let outside = |a: &Authority| is_outside(scope, a.node_id != 0);
    let (outer, inner): (Vec<_>, Vec<_>) = txn
        .authorities(command.kind)?
        .into_iter()
        .partition(outside);
    let signs = |a: &Authority| a.status() == AuthorityStatus::Active && !a.tainted;
    if !inner.iter().any(signs) || inner.iter().any(|a| command.ids.contains(&a.id)) {
        return Ok(Err(Refusal::Conflict));
    }
    let mut left_bundle = false;
    for mut authority in outer {
        if !command.ids.contains(&authority.id) {
            continue;
        }
        match authority.status() {
            AuthorityStatus::Active => authority.set_status(AuthorityStatus::Old),
            AuthorityStatus::Prepared => {
                authority.set_status(AuthorityStatus::Revoked);
                left_bundle = true;
            }
            _ => continue,
        }
        if let Some(open) = txn.intent(&authority.slot)?.filter(|i| i.node_id != 0) {
            txn.put_intent(&KeyIntent { node_id: 0, ..open });
        }
        txn.put_authority(&authority);
    }
    if left_bundle {
        txn.bundle_changed()?;
    }
    Ok(Ok(Outcome::default()))
}

fn scope_in_force(txn: &Txn<'_>) -> Result<AuthorityScope, StoreError> {
    Ok(txn
        .cluster()?
        .map_or(AuthorityScope::Unspecified, |c| c.authority_scope()))
}

fn is_outside(scope: AuthorityScope, of_one_node: bool) -> bool {
    of_one_node != (scope == AuthorityScope::PerNode)
}
