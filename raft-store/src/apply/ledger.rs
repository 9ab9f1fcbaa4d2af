//! Who holds documents of an authority: rows that each start of a node keeps for itself.
//!
//! The rows never say less than what was handed out: a note with a lower number than the row
//! has is late and changes nothing, and where there are too many rows a holder is counted, if
//! not named.

use std::sync::Arc;

use super::Ruling;
use crate::command::{HolderNote, NoteHolders, Outcome, PruneHolders, Refusal, TellRenewals};
use crate::feed::ChangeKind;
use crate::model::{AuthorityStatus, Cluster, Holder};
use crate::store::StoreError;
use crate::view::Txn;

/// Each note is ruled on by itself; see [`Outcome::holders`].
pub(super) fn note(txn: &mut Txn<'_>, command: &NoteHolders) -> Ruling {
    let whole = |note: &HolderNote| {
        note.authority.is_some()
            && note.path.len() <= Holder::PATH_BYTES_MAX
            && !note.path.contains('\0')
    };
    let known = command.node_id != 0 && command.boot != 0 && command.number != 0;
    if !known || command.notes.len() > NoteHolders::NOTES_MAX || !command.notes.iter().all(whole) {
        return Ok(Err(Refusal::Malformed));
    }
    let mut cluster = txn.cluster()?.unwrap_or_default();
    let mut holders = Vec::with_capacity(command.notes.len());
    for note in &command.notes {
        holders.push(one(txn, &mut cluster, command, note)?.into());
    }
    txn.put_cluster(&cluster);
    Ok(Ok(Outcome {
        holders,
        ..Outcome::default()
    }))
}

fn one(
    txn: &mut Txn<'_>,
    cluster: &mut Cluster,
    command: &NoteHolders,
    note: &HolderNote,
) -> Result<Refusal, StoreError> {
    let name = note.authority.clone().unwrap_or_default();
    let mut holder = Holder {
        kind: name.kind,
        authority_id: name.id,
        node_id: command.node_id,
        boot: command.boot,
        path: note.path.clone(),
        until: note.until,
        number: command.number,
        surplus: 0,
    };
    let before = txn.holder(&holder)?;
    if before
        .as_ref()
        .is_some_and(|row| row.number > command.number)
    {
        return Ok(Refusal::None);
    }
    if note.until <= txn.now() {
        if before.is_some() {
            txn.remove_holder(&holder);
            cluster.holder_rows = cluster.holder_rows.saturating_sub(1);
        }
        return Ok(Refusal::None);
    }
    // What an authority that left the bundle signed is worth nothing and must not leave.
    let Some(authority) = txn.authority(holder.kind, &holder.authority_id)? else {
        return Ok(Refusal::NotFound);
    };
    if authority.status() == AuthorityStatus::Revoked {
        return Ok(Refusal::NotFound);
    }
    // Nothing that it signed outlives it.
    holder.until = holder.until.min(authority.expires_at);
    if holder.until <= txn.now() {
        return Ok(Refusal::NotFound);
    }
    if before.is_none() && cluster.holder_rows >= Holder::ROWS_MAX {
        return surplus(txn, cluster, holder).map(|()| Refusal::None);
    }
    if before.is_none() {
        cluster.holder_rows += 1;
    }
    txn.put_holder(&holder);
    Ok(Refusal::None)
}

/// Counts a holder for whom there is no row left. One row for each authority: those there are
/// of are few, so these rows are beside the bound.
fn surplus(txn: &mut Txn<'_>, cluster: &mut Cluster, holder: Holder) -> Result<(), StoreError> {
    let mut row = Holder {
        node_id: 0,
        boot: 0,
        path: String::new(),
        number: 0,
        ..holder
    };
    match txn.holder(&row)? {
        Some(before) => {
            row.until = row.until.max(before.until);
            row.surplus = before.surplus.saturating_add(1);
        }
        None => {
            row.surplus = 1;
            cluster.holder_rows += 1;
        }
    }
    txn.put_holder(&row);
    Ok(())
}

/// Writes nothing: the nodes that handed out what was renewed read it from the feed.
pub(super) fn tell_renewals(txn: &mut Txn<'_>, command: &TellRenewals) -> Ruling {
    if command.renewals.len() > TellRenewals::RENEWALS_MAX {
        return Ok(Err(Refusal::Malformed));
    }
    txn.changed(ChangeKind::DocumentsRenewed(Arc::new(command.clone())));
    Ok(Ok(Outcome::default()))
}

/// Takes rows away that have ended by the cluster clock.
pub(super) fn prune(txn: &mut Txn<'_>, command: &PruneHolders) -> Ruling {
    let mut outcome = Outcome::default();
    for key in &command.keys {
        let Some(row) = txn.holder_by_key(key)? else {
            continue;
        };
        if row.until < txn.now() {
            txn.remove_holder(&row);
            outcome.removed += 1;
        }
    }
    let mut cluster = txn.cluster()?.unwrap_or_default();
    cluster.holder_rows = cluster.holder_rows.saturating_sub(outcome.removed);
    txn.put_cluster(&cluster);
    Ok(Ok(outcome))
}
