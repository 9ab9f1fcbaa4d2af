//! Authorities of the own bundle that are not this cluster's: what administrators
//! append and downstream servers publish.
//!
//! The bundle only grows here, and shrinks by pruning alone; to taint and to revoke is
//! the business of whoever knows the authorities' life. Its sequence number grows by one
//! with each command that changes something.

use super::Ruling;
use crate::command::{AppendBundle, Outcome, PruneBundle, Refusal};
use crate::model::{AuthorityKind, AuthorityStatus, BundleAuthority};
use crate::store::StoreError;
use crate::view::Txn;

/// An authority stays in the bundle for this long after its end at least, in seconds.
const KEPT_AFTER_END: i64 = 24 * 60 * 60;

/// All or none. What is there already stays as it is, tainted or not.
pub(super) fn append(txn: &mut Txn<'_>, command: &AppendBundle) -> Ruling {
    let stored = txn.bundle_authorities()?;
    let mut count = stored.len();
    let mut bytes: usize = stored.iter().map(|authority| authority.der.len()).sum();
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
        count += 1;
        bytes = bytes.saturating_add(draft.der.len());
        if count > BundleAuthority::COUNT_MAX || bytes > BundleAuthority::BYTES_MAX {
            return Ok(Err(Refusal::BundleFull));
        }
        let sequence = txn.next_sequence()?;
        txn.put_bundle_authority(&BundleAuthority {
            sequence,
            tainted: false,
            ..draft.clone()
        });
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
    (!draft.id.is_empty() && !draft.der.is_empty()).then_some(kind)
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
        .min(txn.now().saturating_sub(KEPT_AFTER_END));
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
        outcome.pruned.push(authority);
    }
    txn.bundle_changed()?;
    Ok(Ok(outcome))
}
