//! Authorities of the own bundle that are not this cluster's: what administrators
//! append and downstream servers publish.
//!
//! What downstream servers publish has bounds of its own, so that one that is not honest
//! leaves room for the others and for administrators, and its keys can be tainted and
//! revoked. The bundle's sequence number grows by one with each command that changes
//! something.

use super::Ruling;
use crate::command::{AppendBundle, AuthorityName, Outcome, PruneBundle, Refusal};
use crate::model::{AuthorityKind, AuthorityStatus, BundleAuthority};
use crate::store::StoreError;
use crate::view::Txn;

/// All or none. What is there already stays as it is, tainted or not.
pub(super) fn append(txn: &mut Txn<'_>, command: &AppendBundle) -> Ruling {
    let mut stored = txn.bundle_authorities()?;
    let mut changed = false;
    for draft in &command.authorities {
        let Some(kind) = kind_of(draft) else {
            return Ok(Err(Refusal::Malformed));
        };
        match standing(txn, kind, draft)? {
            Standing::There => continue,
            Standing::NameTaken => return Ok(Err(Refusal::AlreadyExists)),
            Standing::New => {}
        }
        if !draft.publisher.is_empty() {
            make_way(txn, &mut stored, draft);
            if !may_publish(&stored, draft) {
                return Ok(Err(Refusal::PublishedTooMuch));
            }
        }
        let bytes: usize = stored.iter().map(BundleAuthority::bytes).sum();
        let bytes = bytes.saturating_add(draft.bytes());
        if stored.len() == BundleAuthority::COUNT_MAX || bytes > BundleAuthority::BYTES_MAX {
            return Ok(Err(Refusal::BundleFull));
        }
        let authority = BundleAuthority {
            sequence: txn.next_sequence()?,
            tainted: false,
            ..draft.clone()
        };
        txn.put_bundle_authority(&authority);
        stored.push(authority);
        changed = true;
    }
    if changed {
        txn.bundle_changed()?;
    }
    Ok(Ok(Outcome::default()))
}

/// The kind of a draft that makes sense.
fn kind_of(draft: &BundleAuthority) -> Option<AuthorityKind> {
    let kind = match AuthorityKind::try_from(draft.kind) {
        Ok(kind @ (AuthorityKind::X509 | AuthorityKind::Jwt)) => kind,
        Ok(AuthorityKind::Unspecified) | Err(_) => return None,
    };
    let named = !draft.id.is_empty() && draft.id.len() <= BundleAuthority::ID_BYTES_MAX;
    (named && !draft.der.is_empty()).then_some(kind)
}

/// Whether what downstream servers published leaves room for one more.
fn may_publish(stored: &[BundleAuthority], draft: &BundleAuthority) -> bool {
    let published = || stored.iter().filter(|known| !known.publisher.is_empty());
    let by_one = published().filter(|known| known.publisher == draft.publisher);
    let bytes: usize = published().map(BundleAuthority::bytes).sum();
    by_one.count() < BundleAuthority::PUBLISHED_BY_ONE_MAX
        && published().count() < BundleAuthority::PUBLISHED_MAX
        && bytes.saturating_add(draft.bytes()) <= BundleAuthority::PUBLISHED_BYTES_MAX
}

/// Where there is no room for one more, published keys that ended go before their day is
/// over, the publisher's own first: what they signed ended with them.
fn make_way(txn: &mut Txn<'_>, stored: &mut Vec<BundleAuthority>, draft: &BundleAuthority) {
    let now = txn.now();
    while !may_publish(stored, draft) {
        let ended = stored.iter().enumerate().filter(|(_, known)| {
            !known.publisher.is_empty() && known.expires_at != 0 && known.expires_at <= now
        });
        let first = ended.min_by_key(|(_, known)| {
            let others = known.publisher != draft.publisher;
            (others, known.expires_at, known.sequence)
        });
        let Some(at) = first.map(|(at, _)| at) else {
            return;
        };
        txn.remove_bundle_authority(&stored.remove(at));
    }
}

/// A JWT key that is kept elsewhere stays trusted; whoever holds something of it is told.
pub(super) fn taint(txn: &mut Txn<'_>, name: &AuthorityName) -> Ruling {
    let keys = keys_named(txn, name)?;
    if keys.is_empty() {
        return Ok(Err(Refusal::NotFound));
    }
    if keys.iter().all(|key| key.tainted) {
        return Ok(Err(Refusal::AlreadyTainted));
    }
    for mut key in keys {
        key.tainted = true;
        txn.put_bundle_authority(&key);
    }
    txn.bundle_changed()?;
    Ok(Ok(Outcome::default()))
}

/// A tainted JWT key that is kept elsewhere leaves the bundle. Nothing is kept of it: who
/// may publish can publish it again.
pub(super) fn revoke(txn: &mut Txn<'_>, name: &AuthorityName) -> Ruling {
    let keys = keys_named(txn, name)?;
    if keys.is_empty() {
        return Ok(Err(Refusal::NotFound));
    }
    if keys.iter().any(|key| !key.tainted) {
        return Ok(Err(Refusal::NotTainted));
    }
    for key in keys {
        txn.remove_bundle_authority(&key);
    }
    txn.bundle_changed()?;
    Ok(Ok(Outcome::default()))
}

/// Every record of a JWT key; a key with several ends has several. Roots are none of it.
fn keys_named(txn: &Txn<'_>, name: &AuthorityName) -> Result<Vec<BundleAuthority>, StoreError> {
    if name.kind != i32::from(AuthorityKind::Jwt) {
        return Ok(Vec::new());
    }
    txn.bundle_authorities_named(name.kind, &name.id)
}

enum Standing {
    /// The bundle has it.
    There,
    /// Another key has its id, and clients find keys by their id.
    NameTaken,
    New,
}

fn standing(
    txn: &Txn<'_>,
    kind: AuthorityKind,
    draft: &BundleAuthority,
) -> Result<Standing, StoreError> {
    let foreign = txn.bundle_authorities_named(draft.kind, &draft.id)?;
    let own = txn.authority(draft.kind, &draft.id)?;
    if kind == AuthorityKind::X509 {
        // Several certificates may be of one key.
        let there = foreign.iter().any(|known| known.der == draft.der)
            || own.is_some_and(|known| known.certificate == draft.der);
        return Ok(if there {
            Standing::There
        } else {
            Standing::New
        });
    }
    let mut named = foreign
        .iter()
        .map(|known| (&known.der, known.expires_at, known.tainted))
        .chain(
            own.iter()
                .map(|known| (&known.public_key, known.expires_at, known.tainted)),
        )
        .peekable();
    if named.peek().is_none() {
        return Ok(Standing::New);
    }
    let mut there = false;
    for (der, expires_at, tainted) in named {
        if *der != draft.der {
            return Ok(Standing::NameTaken);
        }
        // A key with another end is one more record, but a taint is not to be undone so.
        there |= tainted || expires_at == draft.expires_at;
    }
    Ok(if there {
        Standing::There
    } else {
        Standing::New
    })
}

/// Takes out what ended a day ago or earlier, unless that would leave no root, or no
/// JWT key where there was one.
pub(super) fn prune(txn: &mut Txn<'_>, command: &PruneBundle) -> Ruling {
    let before = command
        .expires_before
        .min(txn.now().saturating_sub(BundleAuthority::KEPT_AFTER_END));
    let (ended, kept): (Vec<_>, Vec<_>) = txn
        .bundle_authorities()?
        .into_iter()
        // Where no end is known there is none.
        .partition(|authority| authority.expires_at != 0 && authority.expires_at <= before);
    if ended.is_empty() {
        return Ok(Ok(Outcome::default()));
    }
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt].map(i32::from) {
        let shrinks = ended.iter().any(|authority| authority.kind == kind);
        let stays = kept.iter().any(|authority| authority.kind == kind)
            || txn
                .authorities(kind)?
                .iter()
                .any(|own| own.status() != AuthorityStatus::Revoked);
        if shrinks && !stays {
            return Ok(Err(Refusal::LastAuthority));
        }
    }
    let mut outcome = Outcome::default();
    for mut authority in ended {
        txn.remove_bundle_authority(&authority);
        authority.der.clear();
        authority.publisher.clear();
        // Older than the bound of ids.
        shorten(&mut authority.id, BundleAuthority::ID_BYTES_MAX);
        outcome.pruned.push(authority);
    }
    txn.bundle_changed()?;
    Ok(Ok(outcome))
}

fn shorten(text: &mut String, bytes_max: usize) {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
