//! Authorities and how their keys come to be.
//!
//! Creating a key is intent, generate, prove, record; each step is a
//! compare-and-set on (slot, epoch), so a deposed leader's or a restarted
//! node's late step is refused, and a crash leaves a key that the log names.

use super::{Ruling, bundle, issuance, scope};
use crate::command::{
    AbandonKey, AdoptKeys, AuthorityName, BeginKey, Outcome, ProveAuthority, PruneAuthorities,
    RecordAuthority, Refusal,
};
use crate::feed::ChangeKind;
use crate::model::{
    Authority, AuthorityKind, AuthorityStatus, BundleAuthority, IssuanceMode, KeyIntent,
};
use crate::store::StoreError;
use crate::view::Txn;

pub(super) fn begin_key(txn: &mut Txn<'_>, command: &BeginKey) -> Ruling {
    let seen = txn.intent(&command.slot)?.unwrap_or_default();
    if seen.node_id != 0 || command.epoch != seen.epoch + 1 {
        return Ok(Err(Refusal::Conflict));
    }
    if command.node_id == 0 || command.key_id.len() != 16 {
        return Ok(Err(Refusal::Malformed));
    }
    if !scope::is_open(txn, &command.slot)? {
        return Ok(Err(Refusal::Conflict));
    }
    txn.put_intent(&KeyIntent {
        slot: command.slot.clone(),
        epoch: command.epoch,
        node_id: command.node_id,
        key_id: command.key_id.clone(),
        key_label: command.key_label.clone(),
        recorded_at: txn.now(),
    });
    Ok(Ok(Outcome::default()))
}

/// The epoch stays, so the abandoned key's name is never used again.
pub(super) fn abandon_key(txn: &mut Txn<'_>, command: &AbandonKey) -> Ruling {
    match txn.intent(&command.slot)? {
        Some(intent) if intent.epoch == command.epoch && intent.node_id != 0 => {
            txn.put_intent(&KeyIntent {
                node_id: 0,
                ..intent
            });
            Ok(Ok(Outcome::default()))
        }
        _ => Ok(Err(Refusal::Conflict)),
    }
}

/// Publishes the authority in the bundle and closes the intent. One of the slot that was
/// prepared before and never signed gives way: it leaves the bundle again.
pub(super) fn record(txn: &mut Txn<'_>, command: &RecordAuthority) -> Ruling {
    let Some(draft) = &command.authority else {
        return Ok(Err(Refusal::Malformed));
    };
    let Some(intent) = txn.intent(&draft.slot)? else {
        return Ok(Err(Refusal::Conflict));
    };
    if intent.node_id == 0 || intent.epoch != draft.epoch || intent.key_id != draft.key_id {
        return Ok(Err(Refusal::Conflict));
    }
    if !scope::is_open(txn, &draft.slot)? {
        return Ok(Err(Refusal::Conflict));
    }
    let known_kind = matches!(
        AuthorityKind::try_from(draft.kind),
        Ok(AuthorityKind::X509 | AuthorityKind::Jwt)
    );
    if !known_kind || draft.id.is_empty() || draft.public_key.is_empty() {
        return Ok(Err(Refusal::Malformed));
    }
    if txn.authority(draft.kind, &draft.id)?.is_some() {
        return Ok(Err(Refusal::AlreadyExists));
    }
    for mut earlier in txn.authorities(draft.kind)? {
        if earlier.slot == draft.slot && earlier.status() == AuthorityStatus::Prepared {
            earlier.set_status(AuthorityStatus::Revoked);
            txn.put_authority(&earlier);
        }
    }
    let mut authority = draft.clone();
    authority.sequence = txn.next_sequence()?;
    authority.set_status(AuthorityStatus::Prepared);
    // Whoever made the key has signed with it, and holds no intermediate of it yet.
    authority.proved_by = if needs_intermediates(txn, authority.kind)? {
        Vec::new()
    } else {
        vec![intent.node_id]
    };
    txn.put_authority(&authority);
    txn.put_intent(&KeyIntent {
        node_id: 0,
        ..intent
    });
    txn.bundle_changed()?;
    Ok(Ok(Outcome::default()))
}

/// Whether a proof of an authority of this kind takes an intermediate.
fn needs_intermediates(txn: &Txn<'_>, kind: i32) -> Result<bool, StoreError> {
    let signs_certificates = kind == i32::from(AuthorityKind::X509);
    Ok(signs_certificates && issuance::mode(txn)? == IssuanceMode::Intermediate)
}

/// A proof that was on its way when the mode became another counts for nothing.
pub(super) fn prove(txn: &mut Txn<'_>, command: &ProveAuthority) -> Ruling {
    let Some(name) = &command.authority else {
        return Ok(Err(Refusal::Malformed));
    };
    let Some(mut authority) = txn.authority(name.kind, &name.id)? else {
        return Ok(Err(Refusal::NotFound));
    };
    if needs_intermediates(txn, name.kind)? && !command.with_intermediate {
        return Ok(Err(Refusal::Conflict));
    }
    if let Err(at) = authority.proved_by.binary_search(&command.node_id) {
        authority.proved_by.insert(at, command.node_id);
        txn.put_authority(&authority);
    }
    Ok(Ok(Outcome::default()))
}

/// Starts to sign; the one of the same slot that signed until now turns old and
/// stays in the bundle. A slot never goes back to an earlier epoch: a deposed
/// leader's late step must not undo a rotation.
pub(super) fn activate(txn: &mut Txn<'_>, command: &AuthorityName) -> Ruling {
    let Some(mut authority) = txn.authority(command.kind, &command.id)? else {
        return Ok(Err(Refusal::NotFound));
    };
    if authority.status() != AuthorityStatus::Prepared || !scope::is_open(txn, &authority.slot)? {
        return Ok(Err(Refusal::Conflict));
    }
    // The mode may have become another since its proofs were looked at.
    if needs_intermediates(txn, authority.kind)? && authority.proved_by.is_empty() {
        return Ok(Err(Refusal::Conflict));
    }
    let mut signing = txn.authorities(command.kind)?;
    signing
        .retain(|other| other.slot == authority.slot && other.status() == AuthorityStatus::Active);
    if authority.tainted || signing.iter().any(|other| other.epoch > authority.epoch) {
        return Ok(Err(Refusal::Conflict));
    }
    for mut other in signing {
        other.set_status(AuthorityStatus::Old);
        txn.put_authority(&other);
    }
    authority.set_status(AuthorityStatus::Active);
    txn.put_authority(&authority);
    txn.changed(ChangeKind::BundleChanged);
    Ok(Ok(Outcome::default()))
}

/// The authority stays trusted; whoever holds something of it is told to replace it.
pub(super) fn taint(txn: &mut Txn<'_>, command: &AuthorityName) -> Ruling {
    let Some(mut authority) = txn.authority(command.kind, &command.id)? else {
        return bundle::taint(txn, command);
    };
    match authority.status() {
        AuthorityStatus::Old if authority.tainted => return Ok(Err(Refusal::AlreadyTainted)),
        AuthorityStatus::Old => {}
        AuthorityStatus::Revoked => return bundle::taint(txn, command),
        _ => return Ok(Err(Refusal::AuthorityInUse)),
    }
    authority.tainted = true;
    txn.put_authority(&authority);
    txn.bundle_changed()?;
    Ok(Ok(Outcome::default()))
}

/// Only what was tainted before can be revoked: those who hold something of it must
/// have been told.
pub(super) fn revoke(txn: &mut Txn<'_>, command: &AuthorityName) -> Ruling {
    let Some(mut authority) = txn.authority(command.kind, &command.id)? else {
        return bundle::revoke(txn, command);
    };
    match authority.status() {
        AuthorityStatus::Old if !authority.tainted => return Ok(Err(Refusal::NotTainted)),
        AuthorityStatus::Old => {}
        AuthorityStatus::Revoked => return bundle::revoke(txn, command),
        _ => return Ok(Err(Refusal::AuthorityInUse)),
    }
    authority.set_status(AuthorityStatus::Revoked);
    txn.put_authority(&authority);
    txn.bundle_changed()?;
    Ok(Ok(Outcome::default()))
}

/// Forgets what ended a day ago or earlier by the cluster clock, whatever it was: nothing that
/// it signed is valid any more. Refused as a whole where the own bundle would be left without
/// a root, or without a JWT key where there was one.
pub(super) fn prune(txn: &mut Txn<'_>, command: &PruneAuthorities) -> Ruling {
    let before = txn.now().saturating_sub(BundleAuthority::KEPT_AFTER_END);
    let trusted = |authority: &Authority| authority.status() != AuthorityStatus::Revoked;
    let mut ended = Vec::new();
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt].map(i32::from) {
        let named = |id: &str| {
            let mut names = command.authorities.iter();
            names.any(|name| name.kind == kind && name.id == id)
        };
        let (going, kept): (Vec<_>, Vec<_>) = txn
            .authorities(kind)?
            .into_iter()
            .partition(|authority| authority.expires_at <= before && named(&authority.id));
        let shrinks = going.iter().any(trusted);
        let stays = kept.iter().any(trusted)
            || txn
                .bundle_authorities()?
                .iter()
                .any(|authority| authority.kind == kind);
        if shrinks && !stays {
            return Ok(Err(Refusal::LastAuthority));
        }
        ended.extend(going);
    }
    let mut outcome = Outcome::default();
    for authority in ended {
        txn.remove_authority(&authority);
        outcome.removed += 1;
        if trusted(&authority) {
            outcome.pruned.push(BundleAuthority {
                kind: authority.kind,
                id: authority.id,
                sequence: authority.sequence,
                expires_at: authority.expires_at,
                tainted: authority.tainted,
                ..BundleAuthority::default()
            });
        }
    }
    if !outcome.pruned.is_empty() {
        txn.bundle_changed()?;
    }
    Ok(Ok(outcome))
}

/// Marks the keys of epochs that ended as this cluster's. Said again, it changes nothing.
pub(super) fn adopt_keys(txn: &mut Txn<'_>, command: &AdoptKeys) -> Ruling {
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    for id in &command.cluster_ids {
        match cluster.past_epochs.iter_mut().find(|e| e.cluster_id == *id) {
            Some(epoch) => epoch.keys_adopted = true,
            None => return Ok(Err(Refusal::NotFound)),
        }
    }
    txn.put_cluster(&cluster);
    Ok(Ok(Outcome::default()))
}
