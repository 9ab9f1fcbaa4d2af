//! Creating, updating and deleting entries in batches.
//!
//! A batch is not atomic: each item has its own status, in the order of the request
//! (SPIRE's rule). It goes into the log in commands of bounded size, one after the
//! other. Where the first cannot be written the call fails, because nothing happened;
//! where a later one cannot, its items and those after it say so.

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
use crate::service::page::{self, ANSWER_BYTES_MAX};
use crate::service::status::{self, Subject};

/// Items of one command.
const ITEMS_MAX: usize = 256;
/// Bytes of the items of one command.
const COMMAND_BYTES_MAX: usize = 2 * Entry::BYTES_MAX;
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

fn readable(answer_bytes: usize) -> Result<(), Status> {
    if answer_bytes > ANSWER_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the answer to this batch would be larger than {ANSWER_BYTES_MAX} bytes: send fewer \
             entries at a time"
        )));
    }
    Ok(())
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
    let mut results = batch.write(doors, Entry::encoded_len, make).await?;
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
    readable(answer_bytes(&doors.local(), ids.len(), &batch.fit, message))?;
    let make = |updates| Command::UpdateEntries(UpdateEntries { updates });
    let mut results = batch.write(doors, EntryUpdate::encoded_len, make).await?;
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
    let results = batch.write(doors, String::len, make).await?;
    Ok(ids
        .into_iter()
        .zip(results)
        .map(|(id, result)| deleted(id, result))
        .collect())
}

/// A batch at work: a place for each item's result, and the items that are fit to be
/// written with theirs.
struct Batch<T> {
    results: Vec<Result<EntryResult, Status>>,
    fit: Vec<(usize, T)>,
}

impl<T> Batch<T> {
    fn sort_out<Raw>(items: Vec<Raw>, check: impl Fn(Raw) -> Result<T, Status>) -> Self {
        let mut batch = Self {
            results: Vec::with_capacity(items.len()),
            fit: Vec::new(),
        };
        for item in items {
            let result = check(item).map(|item| batch.fit.push((batch.results.len(), item)));
            // What is fit has its result once its command is applied.
            batch
                .results
                .push(Err(result.err().unwrap_or_else(not_written)));
        }
        batch
    }

    async fn write(
        mut self,
        doors: &Doors,
        size: impl Fn(&T) -> usize,
        command: impl Fn(Vec<T>) -> Command,
    ) -> Result<Vec<Result<EntryResult, Status>>, Status> {
        for (number, chunk) in chunks(self.fit, size).into_iter().enumerate() {
            let (places, items): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
            match doors.write(command(items)).await.and_then(accepted) {
                Ok(outcome) => settle(&mut self.results, &places, outcome),
                Err(status) if number == 0 => return Err(status),
                Err(status) => {
                    tracing::warn!(%status, "a batch of entries was written in part");
                    break;
                }
            }
        }
        Ok(self.results)
    }
}

/// Items in their order, in groups that one command may carry. An item that is too
/// large alone is a group of its own: it was bounded where it was checked.
fn chunks<T>(items: Vec<(usize, T)>, size: impl Fn(&T) -> usize) -> Vec<Vec<(usize, T)>> {
    let mut chunks: Vec<Vec<(usize, T)>> = Vec::new();
    let mut bytes = 0;
    for (at, item) in items {
        let more = size(&item);
        bytes += more;
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < ITEMS_MAX && bytes <= COMMAND_BYTES_MAX => {
                chunk.push((at, item));
            }
            _ => {
                chunks.push(vec![(at, item)]);
                bytes = more;
            }
        }
    }
    chunks
}

fn accepted(outcome: Outcome) -> Result<Outcome, Status> {
    outcome
        .accepted()
        .map_err(|refusal| status::refused(refusal, "entry"))
}

/// Puts the results of a command where its items came from.
fn settle(results: &mut [Result<EntryResult, Status>], places: &[usize], outcome: Outcome) {
    for (at, result) in places.iter().zip(outcome.entries) {
        results[*at] = Ok(result);
    }
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
        spiffe_id: None,
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

fn not_written() -> Status {
    Status::unavailable("this item of the batch was not confirmed; look before you send it again")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn outcome(results: Vec<EntryResult>) -> Outcome {
        Outcome {
            entries: results,
            ..Outcome::default()
        }
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
    fn results_stand_where_their_items_stood() {
        let mut batch = Batch::sort_out(vec!["a", "", "b", "a/b", "c"], |id| nameable(id.into()));
        let places: Vec<_> = batch
            .fit
            .iter()
            .map(|(at, id)| (*at, id.as_str()))
            .collect();
        assert_eq!(places, [(0, "a"), (2, "b"), (4, "c")]);
        let answers = ["a", "b", "c"].map(|id| result(Refusal::None, Some(id)));
        settle(&mut batch.results, &[0, 2, 4], outcome(answers.into()));
        let told: Vec<_> = batch
            .results
            .into_iter()
            .map(|r| {
                r.map(|r| r.entry.unwrap().id)
                    .map_err(|s| s.message().to_owned())
            })
            .collect();
        assert_eq!(
            told,
            [
                Ok("a".into()),
                Err("missing entry ID".into()),
                Ok("b".into()),
                Err("entry not found".into()),
                Ok("c".into())
            ]
        );
    }

    #[test]
    fn an_item_without_a_result_is_never_told_as_done() {
        let batch = Batch::sort_out(vec!["a".to_owned()], nameable);
        let [result] = <[_; 1]>::try_from(batch.results).unwrap();
        assert_eq!(result.unwrap_err().code(), Code::Unavailable);
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
    fn commands_have_bounds_and_keep_the_order() {
        let sizes = |items: &[usize]| {
            let items = items.iter().copied().enumerate().collect();
            let chunks = chunks(items, |size| *size);
            let flat: Vec<_> = chunks.iter().flatten().map(|(at, _)| *at).collect();
            assert!(flat.into_iter().eq(0..chunks.iter().map(Vec::len).sum()));
            chunks.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0usize; 0]);
        assert_eq!(sizes(&[1; ITEMS_MAX]), [ITEMS_MAX]);
        assert_eq!(sizes(&[1; ITEMS_MAX + 1]), [ITEMS_MAX, 1]);
        assert_eq!(sizes(&[Entry::BYTES_MAX; 5]), [2, 2, 1]);
        assert_eq!(sizes(&[1, COMMAND_BYTES_MAX + 1, 1, 1]), [1, 1, 2]);
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
