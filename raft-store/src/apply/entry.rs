//! Registration entries: create, update, delete, prune.

use prost::Message;

use super::{Ruling, federation};
use crate::command::{
    CreateEntries, DeleteEntries, EntryResult, EntryUpdate, Outcome, PruneEntries, Refusal,
    UpdateEntries,
};
use crate::model::Entry;
use crate::store::StoreError;
use crate::view::Txn;

/// Each entry succeeds or fails on its own, in order; a similar entry of the same
/// batch counts.
pub(super) fn create(txn: &mut Txn<'_>, command: &CreateEntries) -> Ruling {
    txn.forget_deleted_entries()?;
    let mut outcome = Outcome::default();
    let mut room = Room::new();
    for draft in &command.entries {
        outcome.entries.push(room.fit(create_one(txn, draft)?));
    }
    Ok(Ok(outcome))
}

pub(super) fn create_one(txn: &mut Txn<'_>, draft: &Entry) -> Result<EntryResult, StoreError> {
    if draft.id.is_empty() || draft.selectors.is_empty() {
        return Ok(refused(Refusal::Malformed));
    }
    // Similar first: it is how controllers find out that they need not create.
    if let Some(existing) = txn.similar_entry(draft)? {
        return Ok(EntryResult {
            refusal: Refusal::AlreadyExists.into(),
            entry: Some(existing),
            ..EntryResult::default()
        });
    }
    if txn.entry(&draft.id)?.is_some() {
        return Ok(refused(Refusal::AlreadyExists));
    }
    if let Some(refused) = federation::unknown_bundle(txn, &draft.federates_with)? {
        return Ok(refused);
    }
    let entry = Entry {
        sequence: txn.next_sequence()?,
        revision_number: 0,
        created_at: txn.creation_second(&draft.id)?,
        ..draft.clone()
    };
    txn.insert_entry(&entry);
    Ok(done(entry))
}

/// Each entry succeeds or fails on its own, in order. An update may make two entries
/// similar: only a creation looks for that.
pub(super) fn update(txn: &mut Txn<'_>, command: &UpdateEntries) -> Ruling {
    let mut outcome = Outcome::default();
    let mut room = Room::new();
    for update in &command.updates {
        outcome.entries.push(room.fit(update_one(txn, update)?));
    }
    Ok(Ok(outcome))
}

fn update_one(txn: &mut Txn<'_>, update: &EntryUpdate) -> Result<EntryResult, StoreError> {
    let Some(before) = txn.entry(&update.id)? else {
        return Ok(refused(Refusal::NotFound));
    };
    let floor = txn.cluster()?.unwrap_or_default().revision_floor;
    let entry = Entry {
        // Also where nothing changes: it says how often the entry was updated.
        revision_number: before.revision_number.saturating_add(1).max(floor),
        ..update.onto(&before)
    };
    if entry.selectors.is_empty() {
        return Ok(refused(Refusal::Malformed));
    }
    // Either may be the new value and the other the old one.
    let kind = &entry.selectors[0].kind;
    if entry.store_svid && entry.selectors.iter().any(|s| s.kind != *kind) {
        return Ok(refused(Refusal::EntryMixedSelectors));
    }
    if entry.encoded_len() > Entry::BYTES_MAX {
        return Ok(refused(Refusal::EntryTooLarge));
    }
    let federates_anew = update.fields.is_some_and(|fields| fields.federates_with);
    if federates_anew && let Some(refused) = federation::unknown_bundle(txn, &entry.federates_with)?
    {
        return Ok(refused);
    }
    txn.replace_entry(&before, &entry);
    Ok(done(entry))
}

pub(super) fn delete(txn: &mut Txn<'_>, command: &DeleteEntries) -> Ruling {
    txn.forget_deleted_entries()?;
    let mut outcome = Outcome::default();
    let mut room = Room::new();
    for id in &command.ids {
        let result = match txn.entry(id)? {
            Some(entry) => {
                txn.remove_entry(&entry);
                room.fit(gone(entry))
            }
            None => refused(Refusal::NotFound),
        };
        outcome.entries.push(result);
    }
    Ok(Ok(outcome))
}

/// Deletes those of the candidates that have expired by the cluster clock; what was
/// given more time since it was named stays.
pub(super) fn prune(txn: &mut Txn<'_>, command: &PruneEntries) -> Ruling {
    txn.forget_deleted_entries()?;
    let mut outcome = Outcome::default();
    let mut room = Room::new();
    for id in &command.ids {
        let result = match txn.entry(id)? {
            Some(entry) if entry.expires_at != 0 && entry.expires_at < txn.now() => {
                txn.remove_entry(&entry);
                outcome.removed += 1;
                room.fit(gone(entry))
            }
            Some(_) => refused(Refusal::Conflict),
            None => refused(Refusal::NotFound),
        };
        outcome.entries.push(result);
    }
    Ok(Ok(outcome))
}

/// What is left of [`Outcome::ENTRIES_BYTES_MAX`].
pub(super) struct Room(usize);

impl Room {
    pub(super) fn new() -> Self {
        Self(Outcome::ENTRIES_BYTES_MAX)
    }

    /// The result; with the entry's id alone where the entry does not fit any more.
    pub(super) fn fit(&mut self, mut result: EntryResult) -> EntryResult {
        let Some(entry) = &result.entry else {
            return result;
        };
        match self.0.checked_sub(entry.encoded_len()) {
            Some(left) => self.0 = left,
            None => {
                result.entry_id.clone_from(&entry.id);
                result.entry = None;
            }
        }
        result
    }
}

/// An entry that is no more: which one it was.
pub(super) fn gone(entry: Entry) -> EntryResult {
    done(Entry {
        id: entry.id,
        spiffe_path: entry.spiffe_path,
        parent_path: entry.parent_path,
        ..Entry::default()
    })
}

fn done(entry: Entry) -> EntryResult {
    EntryResult {
        refusal: Refusal::None.into(),
        entry: Some(entry),
        ..EntryResult::default()
    }
}

fn refused(refusal: Refusal) -> EntryResult {
    EntryResult {
        refusal: refusal.into(),
        ..EntryResult::default()
    }
}
