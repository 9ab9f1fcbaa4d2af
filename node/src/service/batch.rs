//! Batches that are written in commands of bounded size.
//!
//! A batch is not atomic: each item has its own status, in the order of the request
//! (SPIRE's rule). Where the first command cannot be written the call fails, because
//! nothing happened; where a later one cannot, its items and those after it say so.

use chancery_raft_store::command::{Command, Outcome};
use prost::Message;
use tonic::Status;

use super::page::{self, ANSWER_BYTES_MAX, PAGE_BYTES_MAX};
use super::status;
use crate::registry::Doors;

/// Items of one command.
const ITEMS_MAX: usize = 256;
/// Bytes of the items of one command. An item that is larger is a command of its own: it
/// was bounded where it was checked.
const COMMAND_BYTES_MAX: usize = 512 << 10;
/// What an item of an answer has beside what was sent: status and tags.
const ITEM_OVERHEAD: usize = 192;

/// Refuses a batch whose answer a client could not read, before anything is written.
pub(super) fn check_size<M: Message>(items: &[M]) -> Result<(), Status> {
    check_bytes(items.iter().map(page::field_bytes))
}

/// The same for a batch of names.
pub(super) fn check_names(names: &[String]) -> Result<(), Status> {
    check_bytes(names.iter().map(String::len))
}

fn check_bytes(items: impl Iterator<Item = usize>) -> Result<(), Status> {
    readable(items.map(|item| item + ITEM_OVERHEAD).sum())
}

/// Refuses an answer of so many bytes: a client could not read it.
pub(super) fn readable(answer_bytes: usize) -> Result<(), Status> {
    if answer_bytes > ANSWER_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the answer to this batch would be larger than {ANSWER_BYTES_MAX} bytes: send fewer \
             items at a time"
        )));
    }
    Ok(())
}

/// What is left of an answer for what was stored before, which a request of few bytes may
/// ask for much of: what does not fit is left out, its status stays.
pub(super) struct Room(usize);

impl Room {
    /// A whole answer.
    pub(super) fn new() -> Self {
        Self(PAGE_BYTES_MAX)
    }

    /// The message, if it still fits.
    pub(super) fn fit<M: Message>(&mut self, message: M) -> Option<M> {
        let left = self.0.checked_sub(page::field_bytes(&message))?;
        self.0 = left;
        Some(message)
    }
}

/// A batch at work: a place for each item's result, and the items that are fit to be
/// written with theirs. What was written comes back with what became of it.
pub(super) struct Batch<T, R> {
    results: Vec<Result<(T, R), Status>>,
    fit: Vec<(usize, T)>,
}

impl<T: Clone, R> Batch<T, R> {
    /// Sets apart what is not fit.
    pub(super) fn sort_out<Raw>(items: Vec<Raw>, check: impl Fn(Raw) -> Result<T, Status>) -> Self {
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

    /// What is fit to be written, each with its place.
    pub(super) fn fit(&self) -> &[(usize, T)] {
        &self.fit
    }

    /// Writes what is fit; one result an item, in the order of the request. `subject`
    /// is what a refusal of a whole command speaks of.
    pub(super) async fn write(
        mut self,
        doors: &Doors,
        subject: &str,
        size: impl Fn(&T) -> usize,
        command: impl Fn(Vec<T>) -> Command,
        results: impl Fn(Outcome) -> Vec<R>,
    ) -> Result<Vec<Result<(T, R), Status>>, Status> {
        for (number, chunk) in chunks(self.fit, size).into_iter().enumerate() {
            let items = chunk.iter().map(|(_, item)| item.clone()).collect();
            let written = doors.write(command(items)).await.and_then(|outcome| {
                let outcome = outcome.accepted();
                outcome.map_err(|refusal| status::refused(refusal, subject))
            });
            match written {
                Ok(outcome) => settle(&mut self.results, chunk, results(outcome)),
                Err(status) if number == 0 => return Err(status),
                Err(status) => {
                    tracing::warn!(%status, subject, "a batch was written in part");
                    break;
                }
            }
        }
        Ok(self.results)
    }
}

/// Puts the results of a command where its items came from.
fn settle<T, R>(places: &mut [Result<(T, R), Status>], chunk: Vec<(usize, T)>, results: Vec<R>) {
    for ((at, item), result) in chunk.into_iter().zip(results) {
        places[at] = Ok((item, result));
    }
}

/// Items in their order, in groups that one command may carry.
fn chunks<T>(items: Vec<(usize, T)>, size: impl Fn(&T) -> usize) -> Vec<Vec<(usize, T)>> {
    let mut chunks: Vec<Vec<(usize, T)>> = Vec::new();
    let mut bytes = 0usize;
    for (at, item) in items {
        let more = size(&item);
        bytes = bytes.saturating_add(more);
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

pub(super) fn not_written() -> Status {
    Status::unavailable("this item of the batch was not confirmed; look before you send it again")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_is_not_fit_keeps_its_place_and_what_has_no_result_is_not_done() {
        let check = |n: u8| (n != 2).then_some(n).ok_or_else(|| Status::aborted("two"));
        let batch: Batch<u8, ()> = Batch::sort_out(vec![1, 2, 3], check);
        assert_eq!(batch.fit, [(0, 1), (2, 3)]);
        let codes: Vec<_> = batch
            .results
            .iter()
            .map(|result| result.as_ref().unwrap_err().code())
            .collect();
        assert_eq!(codes, [Code::Unavailable, Code::Aborted, Code::Unavailable]);
    }

    #[test]
    fn results_stand_where_their_items_stood() {
        let check = |item: &'static str| match item {
            "" => Err(Status::invalid_argument("missing")),
            item => Ok(item),
        };
        let mut batch = Batch::sort_out(vec!["a", "", "b", "", "c"], check);
        let fit = std::mem::take(&mut batch.fit);
        settle(&mut batch.results, fit, vec![1, 2, 3]);
        let told: Vec<_> = batch
            .results
            .into_iter()
            .map(|result| result.map_err(|status| status.message().to_owned()))
            .collect();
        let missing = || Err("missing".to_owned());
        assert_eq!(
            told,
            [
                Ok(("a", 1)),
                missing(),
                Ok(("b", 2)),
                missing(),
                Ok(("c", 3))
            ]
        );
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
        assert_eq!(sizes(&[COMMAND_BYTES_MAX / 2; 5]), [2, 2, 1]);
        assert_eq!(sizes(&[1, COMMAND_BYTES_MAX + 1, 1, 1]), [1, 1, 2]);
    }

    #[test]
    fn what_does_not_fit_an_answer_is_left_out() {
        let mut room = Room::new();
        let large = "x".repeat(1 << 20);
        let fits = |room: &mut Room, text: &str| room.fit(text.to_owned()).is_some();
        assert!((0..3).all(|_| fits(&mut room, &large)));
        assert!(!fits(&mut room, &large));
        assert!(fits(&mut room, "small"));
    }

    #[test]
    fn a_batch_with_an_unreadable_answer_is_refused_first() {
        assert!(check_names(&vec![String::new(); ANSWER_BYTES_MAX / ITEM_OVERHEAD]).is_ok());
        let status =
            check_names(&vec![String::new(); ANSWER_BYTES_MAX / ITEM_OVERHEAD + 1]).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(check_size(&vec!["x".repeat(1 << 20); 3]).is_ok());
        assert!(check_size(&vec!["x".repeat(1 << 20); 4]).is_err());
    }
}
