//! Registration entries: create, delete.

use super::{Ruling, federation};
use crate::command::{CreateEntries, DeleteEntries, EntryResult, Outcome, Refusal};
use crate::model::Entry;
use crate::store::StoreError;
use crate::view::Txn;

/// Each entry succeeds or fails on its own, in order; a similar entry of the same
/// batch counts.
pub(super) fn create(txn: &mut Txn<'_>, command: &CreateEntries) -> Ruling {
    txn.forget_deleted_entries()?;
    let mut outcome = Outcome::default();
    for draft in &command.entries {
        outcome.entries.push(create_one(txn, draft)?);
    }
    Ok(Ok(outcome))
}

pub(super) fn create_one(txn: &mut Txn<'_>, draft: &Entry) -> Result<EntryResult, StoreError> {
    if draft.id.is_empty() || draft.selectors.is_empty() {
        return Ok(EntryResult {
            refusal: Refusal::Malformed.into(),
            ..EntryResult::default()
        });
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
        return Ok(EntryResult {
            refusal: Refusal::AlreadyExists.into(),
            ..EntryResult::default()
        });
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
    Ok(EntryResult {
        refusal: Refusal::None.into(),
        entry: Some(entry),
        ..EntryResult::default()
    })
}

pub(super) fn delete(txn: &mut Txn<'_>, command: &DeleteEntries) -> Ruling {
    txn.forget_deleted_entries()?;
    let mut outcome = Outcome::default();
    for id in &command.ids {
        let result = match txn.entry(id)? {
            Some(entry) => {
                txn.remove_entry(&entry);
                EntryResult {
                    refusal: Refusal::None.into(),
                    entry: Some(entry),
                    ..EntryResult::default()
                }
            }
            None => EntryResult {
                refusal: Refusal::NotFound.into(),
                ..EntryResult::default()
            },
        };
        outcome.entries.push(result);
    }
    Ok(Ok(outcome))
}
