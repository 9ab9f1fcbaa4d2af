//! Creating, updating and deleting entries in batches.
//!
//! What is said of each item here is SPIRE's; how a batch is written is `service::batch`'s.

use chancery_api::spire::api::server::entry::v1::batch_create_entry_response::Result as Created;
use chancery_api::spire::api::server::entry::v1::batch_delete_entry_response::Result as Deleted;
use chancery_api::spire::api::server::entry::v1::batch_update_entry_response::Result as Updated;
use chancery_api::spire::api::types;
use chancery_identity::entry::EntryId;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::command::{
    Command, CreateEntries, DeleteEntries, EntryResult, EntryUpdate, Outcome, UpdateEntries,
};
use chancery_raft_store::model::Entry;
use chancery_raft_store::{Directory, Refusal};
use prost::Message;
use tonic::{Code, Status};

use super::convert;
use crate::registry::Doors;
use crate::service::batch::{Batch, readable};
use crate::service::page::{self, ANSWER_BYTES_MAX};
use crate::service::status::{self, Subject};

/// What an item of an answer has beside the entry that was sent: id, creation time,
/// status, and their tags.
const ITEM_OVERHEAD: usize = 128;

/// Refuses a batch whose answer a client could not read, before anything is written.
pub(super) fn check_size(entries: &[types::Entry]) -> Result<(), Status> {
    let bytes: usize = entries
        .iter()
        .map(|e| page::field_bytes(e) + ITEM_OVERHEAD)
        .sum();
    readable(bytes)
}

/// Creates each entry for itself.
pub(super) async fn create(
    doors: &Doors,
    trust_domain: &TrustDomain,
    entries: Vec<types::Entry>,
    mask: Option<&types::EntryMask>,
) -> Result<Vec<Created>, Status> {
    let batch = Batch::sort_out(entries, |entry| convert::draft(trust_domain, entry));
    let make = |entries| Command::CreateEntries(CreateEntries { entries });
    let mut results = write(batch, doors, Entry::encoded_len, make).await?;
    read_left_out(&doors.local(), &mut results);
    let told = results.into_iter();
    let told = told.map(|result| created(trust_domain, result, mask));
    Ok(fit(told.collect()))
}

/// Updates each entry for itself.
pub(super) async fn update(
    doors: &Doors,
    trust_domain: &TrustDomain,
    entries: Vec<types::Entry>,
    input_mask: Option<&types::EntryMask>,
    output_mask: Option<&types::EntryMask>,
) -> Result<Vec<Updated>, Status> {
    let ids: Vec<_> = entries.iter().map(|entry| entry.id.clone()).collect();
    let batch = Batch::sort_out(entries, |e| convert::update(trust_domain, e, input_mask));
    let message = |entry: &Entry| convert::message(trust_domain, entry, output_mask);
    readable(answer_bytes(
        &doors.local(),
        ids.len(),
        batch.fit(),
        message,
    ))?;
    let make = |updates| Command::UpdateEntries(UpdateEntries { updates });
    let mut results = write(batch, doors, EntryUpdate::encoded_len, make).await?;
    read_left_out(&doors.local(), &mut results);
    Ok(ids
        .iter()
        .zip(results)
        .map(|(id, result)| updated(id, result, message))
        .collect())
}

/// Entries that the outcome had no room for, as they are here now: what was written has
/// been applied. One that is gone since then stays left out.
fn read_left_out(directory: &Directory, results: &mut [Result<EntryResult, Status>]) {
    for result in results.iter_mut().flatten() {
        if !result.entry_id.is_empty() {
            result.entry = directory
                .entry(&result.entry_id)
                .map(|entry| (**entry).clone());
        }
    }
}

/// Leaves out of an answer what a client could not read: entries that were there already,
/// which may be larger than what was sent. Their status stays.
fn fit(mut told: Vec<Created>) -> Vec<Created> {
    let (ok, mut bytes) = (status::item_ok(), told.len() * ITEM_OVERHEAD);
    for item in told.iter().filter(|item| item.status == ok) {
        bytes += item.entry.as_ref().map_or(0, page::field_bytes);
    }
    for item in told.iter_mut().filter(|item| item.status != ok) {
        let more = item.entry.as_ref().map_or(0, page::field_bytes);
        if bytes + more > ANSWER_BYTES_MAX {
            item.entry = None;
        } else {
            bytes += more;
        }
    }
    told
}

/// Size of the answer to updates, by the entries as they are here now: a masked update
/// of a few bytes is answered with the whole entry.
fn answer_bytes(
    directory: &Directory,
    items: usize,
    updates: &[(usize, EntryUpdate)],
    message: impl Fn(&Entry) -> types::Entry,
) -> usize {
    let whole = |(_, update): &(usize, EntryUpdate)| {
        let entry = directory.entry(&update.id)?;
        Some(page::field_bytes(&message(&update.onto(entry))))
    };
    items * ITEM_OVERHEAD + updates.iter().filter_map(whole).sum::<usize>()
}

/// Deletes each entry for itself.
pub(super) async fn delete(doors: &Doors, ids: Vec<String>) -> Result<Vec<Deleted>, Status> {
    let batch = Batch::sort_out(ids.clone(), nameable);
    let make = |ids| Command::DeleteEntries(DeleteEntries { ids });
    let results = write(batch, doors, String::len, make).await?;
    Ok(ids
        .into_iter()
        .zip(results)
        .map(|(id, result)| deleted(id, result))
        .collect())
}

/// Writes a batch; what became of each item.
async fn write<T: Clone>(
    batch: Batch<T, EntryResult>,
    doors: &Doors,
    size: impl Fn(&T) -> usize,
    command: impl Fn(Vec<T>) -> Command,
) -> Result<Vec<Result<EntryResult, Status>>, Status> {
    let results = |outcome: Outcome| outcome.entries;
    let written = batch.write(doors, "entry", size, command, results).await?;
    let results = written.into_iter();
    Ok(results
        .map(|result| result.map(|(_, result)| result))
        .collect())
}

fn created(
    trust_domain: &TrustDomain,
    result: Result<EntryResult, Status>,
    mask: Option<&types::EntryMask>,
) -> Created {
    let result = match result {
        Ok(result) => result,
        Err(status) => {
            status::log(&status, Subject::default());
            return Created {
                status: status::item(&status),
                entry: None,
            };
        }
    };
    let is_similar = result.entry.is_some() || !result.entry_id.is_empty();
    let status = match (result.refusal(), is_similar) {
        (Refusal::None, _) => status::item_ok(),
        // Controllers read the entry that was there from this very answer.
        (Refusal::AlreadyExists, true) => {
            status::item(&Status::already_exists("similar entry already exists"))
        }
        (Refusal::AlreadyExists, false) => status::item(&Status::already_exists(
            "failed to create entry: an entry with this ID already exists",
        )),
        (Refusal::NoFederatedBundle, _) => {
            status::item(&convert::unknown_bundle(convert::CREATE, &result))
        }
        (refusal, _) => status::item(&status::refused(refusal, "entry")),
    };
    let entry = result
        .entry
        .map(|entry| convert::message(trust_domain, &entry, mask));
    Created { status, entry }
}

fn updated(
    id: &str,
    result: Result<EntryResult, Status>,
    message: impl Fn(&Entry) -> types::Entry,
) -> Updated {
    let result = result.and_then(|result| match result.refusal() {
        Refusal::None => Ok(result.entry),
        _ => Err(convert::refused_update(&result)),
    });
    match result {
        Ok(entry) => Updated {
            status: status::item_ok(),
            entry: entry.as_ref().map(message),
        },
        Err(status) => Updated {
            status: refused_item(id, &status),
            entry: None,
        },
    }
}

fn deleted(id: String, result: Result<EntryResult, Status>) -> Deleted {
    let result = result.and_then(|result| match result.refusal() {
        Refusal::None => Ok(()),
        refusal => Err(status::refused(refusal, "entry")),
    });
    let status = match result {
        Ok(()) => status::item_ok(),
        Err(status) => refused_item(&id, &status),
    };
    Deleted { status, id }
}

/// Status of an item that was refused, once it is in the log.
fn refused_item(id: &str, status: &Status) -> Option<types::Status> {
    let subject = Subject {
        entry_id: Some(id),
        ..Subject::default()
    };
    status::log(status, subject);
    status::item(status)
}

/// Whether anything was deleted.
pub(super) fn any_deleted(results: &[Deleted]) -> bool {
    let ok = i32::from(Code::Ok);
    results.iter().any(|result| {
        result
            .status
            .as_ref()
            .is_some_and(|status| status.code == ok)
    })
}

/// An id that an entry may have; what may not be one names none.
fn nameable(id: String) -> Result<String, Status> {
    if id.is_empty() {
        return Err(Status::invalid_argument("missing entry ID"));
    }
    EntryId::parse(id.as_str()).map_err(|_| Status::not_found("entry not found"))?;
    Ok(id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::service::batch::not_written;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn result(refusal: Refusal, id: Option<&str>) -> EntryResult {
        let entry = id.map(|id| Entry {
            id: id.into(),
            ..Entry::default()
        });
        EntryResult {
            refusal: refusal.into(),
            entry,
            ..EntryResult::default()
        }
    }

    fn told(result: Result<EntryResult, Status>) -> (i32, String, Option<String>) {
        let created = created(&domain(), result, None);
        let status = created.status.unwrap();
        (status.code, status.message, created.entry.map(|e| e.id))
    }

    #[test]
    fn an_id_that_names_nothing_is_told_where_it_stood() {
        let items = vec!["a", "", "b", "a/b", "c"];
        let batch: Batch<_, EntryResult> = Batch::sort_out(items, |id| nameable(id.into()));
        let fit = batch.fit().iter();
        let places: Vec<_> = fit.map(|(at, id)| (*at, id.as_str())).collect();
        assert_eq!(places, [(0, "a"), (2, "b"), (4, "c")]);
        let refused = |id: &str| nameable(id.into()).unwrap_err().message().to_owned();
        assert_eq!(refused(""), "missing entry ID");
        assert_eq!(refused("a/b"), "entry not found");
        assert_eq!(not_written().code(), Code::Unavailable);
    }

    #[test]
    fn each_outcome_of_a_creation_is_told_in_the_words_of_spire() {
        assert_eq!(
            told(Ok(result(Refusal::None, Some("new")))),
            (0, "OK".into(), Some("new".into()))
        );
        assert_eq!(
            told(Ok(result(Refusal::AlreadyExists, Some("old")))),
            (6, "similar entry already exists".into(), Some("old".into()))
        );
        let (code, text, entry) = told(Ok(result(Refusal::AlreadyExists, None)));
        assert_eq!((code, entry), (6, None));
        assert_ne!(text, "similar entry already exists");
        assert_eq!(told(Err(not_written())).0, 14);
        let unknown = EntryResult {
            unknown_bundle: "other.test".into(),
            ..result(Refusal::NoFederatedBundle, None)
        };
        let text =
            "failed to create entry: unable to find federated bundle \"spiffe://other.test\"";
        assert_eq!(told(Ok(unknown)), (13, text.into(), None));
    }

    #[test]
    fn what_the_outcome_left_out_is_read_from_the_state() {
        let mut directory = Directory::default();
        let stored = Entry {
            id: "a".into(),
            hint: "stored".into(),
            ..Entry::default()
        };
        let key = chancery_raft_store::view::Table::Entries.key(b"a");
        directory
            .absorb_row(&key, Some(&stored.encode_to_vec()))
            .unwrap();
        let left_out = |id: &str, refusal| {
            Ok(EntryResult {
                entry_id: id.into(),
                ..result(refusal, None)
            })
        };
        let mut results = vec![
            left_out("a", Refusal::None),
            left_out("gone", Refusal::AlreadyExists),
            Ok(result(Refusal::AlreadyExists, None)),
        ];
        read_left_out(&directory, &mut results);
        let entries: Vec<_> = results
            .iter()
            .map(|r| r.as_ref().unwrap().entry.clone())
            .collect();
        assert_eq!(entries, [Some(stored), None, None]);
        let similar = told(results.remove(1));
        assert_eq!(similar, (6, "similar entry already exists".into(), None));
    }

    #[test]
    fn an_entry_that_was_there_is_left_out_of_an_answer_that_nobody_could_read() {
        let large = |refusal| {
            let mut result = result(refusal, Some("a"));
            result.entry.as_mut().unwrap().dns_names = vec!["x".repeat(1 << 20)];
            created(&domain(), Ok(result), None)
        };
        let told = [
            Refusal::AlreadyExists,
            Refusal::AlreadyExists,
            Refusal::None,
            Refusal::AlreadyExists,
            Refusal::None,
        ];
        let told = fit(told.into_iter().map(large).collect());
        let kept: Vec<_> = told.iter().map(|item| item.entry.is_some()).collect();
        assert_eq!(kept, [true, false, true, false, true]);
        assert!(told.iter().map(page::field_bytes).sum::<usize>() < ANSWER_BYTES_MAX);
    }

    #[test]
    fn each_outcome_of_an_update_is_told_in_the_words_of_spire() {
        let told = |result| {
            let message = |entry: &Entry| convert::message(&domain(), entry, None);
            let updated = updated("a", result, message);
            let status = updated.status.unwrap();
            (status.code, status.message, updated.entry.map(|e| e.id))
        };
        let table = [
            (Refusal::None, Some("a"), 0, "OK"),
            (Refusal::NotFound, None, 5, "failed to update entry"),
            (
                Refusal::EntryMixedSelectors,
                None,
                3,
                "failed to update entry: datastore-validation: invalid registration entry: \
                 selector types must be the same when store SVID is enabled",
            ),
            (
                Refusal::EntryTooLarge,
                None,
                3,
                "failed to update entry: datastore-validation: invalid registration entry: \
                 larger than 262144 bytes",
            ),
        ];
        for (refusal, entry, code, text) in table {
            assert_eq!(
                told(Ok(result(refusal, entry))),
                (code, text.into(), entry.map(String::from)),
                "{refusal:?}"
            );
        }
        let unknown = EntryResult {
            unknown_bundle: "other.test".into(),
            ..result(Refusal::NoFederatedBundle, None)
        };
        let text =
            "failed to update entry: unable to find federated bundle \"spiffe://other.test\"";
        assert_eq!(told(Ok(unknown)), (13, text.into(), None));
        assert_eq!(told(Err(not_written())).0, 14);
    }

    #[test]
    fn the_answer_to_updates_is_measured_by_what_the_entries_become() {
        let mut directory = Directory::default();
        let stored = Entry {
            id: "a".into(),
            sequence: 1,
            hint: "x".repeat(1000),
            ..Entry::default()
        };
        let key = chancery_raft_store::view::Table::Entries.key(b"a");
        directory
            .absorb_row(&key, Some(&stored.encode_to_vec()))
            .unwrap();
        let update = |id: &str| EntryUpdate {
            id: id.into(),
            ..EntryUpdate::default()
        };
        let message = |entry: &Entry| convert::message(&domain(), entry, None);
        let bytes = |ids: &[&str]| {
            let updates: Vec<_> = ids.iter().map(|id| (0, update(id))).collect();
            answer_bytes(&directory, ids.len(), &updates, message)
        };
        assert!(bytes(&["a"]) > 1000 && bytes(&["a", "a"]) == 2 * bytes(&["a"]));
        assert!(bytes(&["none"]) < 1000);
        let hidden =
            |entry: &Entry| convert::message(&domain(), entry, Some(&types::EntryMask::default()));
        assert!(answer_bytes(&directory, 1, &[(0, update("a"))], hidden) < 1000);
    }

    #[test]
    fn each_outcome_of_a_deletion_is_told_with_its_id() {
        let gone = deleted("a".into(), Ok(result(Refusal::None, Some("a"))));
        assert_eq!(
            (gone.id.as_str(), gone.status.clone()),
            ("a", status::item_ok())
        );
        let absent = deleted("b".into(), Ok(result(Refusal::NotFound, None)));
        let status = absent.status.clone().unwrap();
        assert_eq!((absent.id.as_str(), status.code), ("b", 5));
        assert_eq!(status.message, "entry not found");
        assert!(any_deleted(&[absent.clone(), gone]));
        assert!(!any_deleted(&[absent]));
    }

    #[test]
    fn a_batch_with_an_unreadable_answer_is_refused_first() {
        let entry = types::Entry {
            hint: "x".repeat(1 << 20),
            ..Default::default()
        };
        assert!(check_size(&[entry.clone(), entry.clone(), entry.clone()]).is_ok());
        let status = check_size(&[entry.clone(), entry.clone(), entry.clone(), entry]).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(check_size(&vec![types::Entry::default(); 40_000]).is_err());
    }
}
