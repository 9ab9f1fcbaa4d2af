//! SyncAuthorizedEntries: what an agent is authorized for, at the cost of what changed.
//!
//! Few entries are sent at once, and the stream ends. Of many, only their revisions
//! are sent, and the agent asks for those that it does not have. Both sides of the
//! conversation are pages; the agent takes the first page's length as its own.
//!
//! The whole conversation is about one moment: entries that change meanwhile are seen
//! by the agent's next sync. An agent that is banned or evicted meanwhile is told so
//! instead of the next entries that it asks for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use chancery_api::spire::api::server::entry::v1 as api;
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::model::Entry;
use futures::Stream;
use tonic::{Code, Status, Streaming};

use super::convert;
use crate::service::gate::Standing;
use crate::service::page::{self, PAGE_BYTES_MAX};

/// Entries or revisions of one response.
pub(super) const PAGE_SIZE: usize = 500;
/// An agent gives its whole sync 30 seconds; a silent one is not waited for longer.
const MESSAGE_LIMIT: Duration = Duration::from_secs(30);

/// Entries that an agent is authorized for, by id, at one moment.
pub(super) struct Snapshot {
    pub(super) trust_domain: TrustDomain,
    pub(super) entries: BTreeMap<String, Arc<Entry>>,
    pub(super) mask: Option<types::EntryMask>,
}

/// Where in the conversation a stream is.
enum Step {
    /// The only response is ready.
    Whole(api::SyncAuthorizedEntriesResponse),
    /// Revisions after this id follow.
    Revisions(Option<String>),
    /// The agent may ask for entries.
    Asked,
    /// Entries that were asked for follow.
    Full(VecDeque<Arc<Entry>>),
    /// Nothing follows.
    Done,
}

struct Conversation {
    snapshot: Snapshot,
    standing: Standing,
    requests: Streaming<api::SyncAuthorizedEntriesRequest>,
    step: Step,
}

/// The next request; nothing once the agent has closed its side or is gone.
pub(super) async fn next_request(
    requests: &mut Streaming<api::SyncAuthorizedEntriesRequest>,
) -> Result<Option<api::SyncAuthorizedEntriesRequest>, Status> {
    match tokio::time::timeout(MESSAGE_LIMIT, requests.message()).await {
        Ok(Ok(request)) => Ok(request),
        Ok(Err(status)) if status.code() == Code::Cancelled => Ok(None),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no request came within {MESSAGE_LIMIT:?}"
        ))),
    }
}

/// What the first request asks to be shown.
pub(super) fn first_mask(
    request: api::SyncAuthorizedEntriesRequest,
) -> Result<Option<types::EntryMask>, Status> {
    if !request.ids.is_empty() {
        return Err(Status::invalid_argument(
            "specifying IDs on initial request is not supported",
        ));
    }
    // Without it the agent could not tell what it has to ask for.
    if request
        .output_mask
        .is_some_and(|mask| !mask.revision_number)
    {
        return Err(Status::invalid_argument("revision number cannot be masked"));
    }
    Ok(request.output_mask)
}

/// The responses to a sync whose first request has been read.
pub(super) fn responses(
    snapshot: Snapshot,
    standing: Standing,
    requests: Streaming<api::SyncAuthorizedEntriesRequest>,
) -> impl Stream<Item = Result<api::SyncAuthorizedEntriesResponse, Status>> + Send + 'static {
    let step = snapshot.whole().map_or(Step::Revisions(None), Step::Whole);
    let conversation = Conversation {
        snapshot,
        standing,
        requests,
        step,
    };
    futures::stream::try_unfold(conversation, |mut conversation| async {
        let response = conversation.next().await?;
        Ok(response.map(|response| (response, conversation)))
    })
}

impl Conversation {
    async fn next(&mut self) -> Result<Option<api::SyncAuthorizedEntriesResponse>, Status> {
        loop {
            match std::mem::replace(&mut self.step, Step::Done) {
                Step::Whole(response) => return Ok(Some(response)),
                Step::Revisions(after) => {
                    let page = self.snapshot.revisions(after.as_deref());
                    let last = page.entry_revisions.last().map(|r| r.id.clone());
                    self.step = if page.more {
                        Step::Revisions(last)
                    } else {
                        Step::Asked
                    };
                    return Ok(Some(page));
                }
                Step::Asked => match next_request(&mut self.requests).await? {
                    Some(request) => {
                        self.standing.read(|_| ()).await?;
                        self.step = Step::Full(self.snapshot.asked_for(request.ids));
                    }
                    None => return Ok(None),
                },
                Step::Full(mut entries) => {
                    let page = self.snapshot.full(&mut entries);
                    self.step = if page.more {
                        Step::Full(entries)
                    } else {
                        Step::Asked
                    };
                    return Ok(Some(page));
                }
                Step::Done => return Ok(None),
            }
        }
    }
}

impl Snapshot {
    /// Everything in one response, if it is little enough.
    fn whole(&self) -> Option<api::SyncAuthorizedEntriesResponse> {
        if self.entries.len() > PAGE_SIZE {
            return None;
        }
        let mut entries = self.entries.values().cloned().collect();
        let page = self.full(&mut entries);
        (!page.more).then_some(page)
    }

    /// A page of revisions, of the entries after an id.
    fn revisions(&self, after: Option<&str>) -> api::SyncAuthorizedEntriesResponse {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.entries.range::<str, _>((from, Bound::Unbounded));
        let one = |(_, entry): (&String, &Arc<Entry>)| api::EntryRevision {
            id: entry.id.clone(),
            revision_number: entry.revision_number,
            created_at: entry.created_at,
        };
        let entry_revisions = rest.by_ref().take(PAGE_SIZE).map(one).collect();
        api::SyncAuthorizedEntriesResponse {
            entry_revisions,
            entries: Vec::new(),
            more: rest.next().is_some(),
        }
    }

    /// The entries that these ids name, each once, in order; others are skipped.
    fn asked_for(&self, ids: Vec<String>) -> VecDeque<Arc<Entry>> {
        let ids = BTreeSet::from_iter(ids);
        ids.iter()
            .filter_map(|id| self.entries.get(id))
            .cloned()
            .collect()
    }

    /// Takes a page of entries off the front; possibly none.
    fn full(&self, entries: &mut VecDeque<Arc<Entry>>) -> api::SyncAuthorizedEntriesResponse {
        let mut page = api::SyncAuthorizedEntriesResponse::default();
        let mut bytes = 0;
        while page.entries.len() < PAGE_SIZE
            && let Some(entry) = entries.front()
        {
            let message = convert::message(&self.trust_domain, entry, self.mask.as_ref());
            bytes += page::field_bytes(&message);
            if bytes > PAGE_BYTES_MAX && !page.entries.is_empty() {
                break;
            }
            page.entries.push(message);
            entries.pop_front();
        }
        page.more = !entries.is_empty();
        page
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn snapshot(count: usize, hint_bytes: usize) -> Snapshot {
        let entry = |n: usize| {
            let id = format!("e{n:05}");
            let entry = Entry {
                id: id.clone(),
                spiffe_path: "/w".into(),
                parent_path: "/p".into(),
                revision_number: i64::try_from(n).unwrap(),
                created_at: 5,
                hint: "x".repeat(hint_bytes),
                ..Entry::default()
            };
            (id, Arc::new(entry))
        };
        Snapshot {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            entries: (0..count).map(entry).collect(),
            mask: None,
        }
    }

    fn request(mask: Option<types::EntryMask>, ids: &[&str]) -> api::SyncAuthorizedEntriesRequest {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        api::SyncAuthorizedEntriesRequest {
            output_mask: mask,
            ids,
        }
    }

    #[test]
    fn the_first_request_is_refused_in_the_words_of_spire() {
        let text = |r| first_mask(r).unwrap_err().message().to_owned();
        assert_eq!(
            text(request(None, &["e"])),
            "specifying IDs on initial request is not supported"
        );
        let without = types::EntryMask {
            spiffe_id: true,
            ..Default::default()
        };
        assert_eq!(
            text(request(Some(without), &[])),
            "revision number cannot be masked"
        );
        let with = types::EntryMask {
            revision_number: true,
            ..without
        };
        assert_eq!(first_mask(request(Some(with), &[])).unwrap(), Some(with));
        assert_eq!(first_mask(request(None, &[])).unwrap(), None);
    }

    #[test]
    fn few_entries_are_sent_at_once() {
        for count in [0, 1, PAGE_SIZE] {
            let whole = snapshot(count, 1).whole().unwrap();
            assert_eq!((whole.entries.len(), whole.more), (count, false));
            assert!(whole.entry_revisions.is_empty());
        }
        assert!(snapshot(PAGE_SIZE + 1, 1).whole().is_none());
    }

    #[test]
    fn few_entries_that_are_too_large_together_are_asked_for() {
        assert!(snapshot(4, 1 << 20).whole().is_none());
        assert!(snapshot(3, 1 << 20).whole().is_some());
    }

    #[test]
    fn revisions_come_in_full_pages_each_entry_once() {
        for (count, pages) in [(501, 2), (1000, 2), (1001, 3)] {
            let snapshot = snapshot(count, 1);
            let mut after: Option<String> = None;
            let mut seen = Vec::new();
            let mut number = 0;
            loop {
                let page = snapshot.revisions(after.as_deref());
                assert!(page.entries.is_empty());
                number += 1;
                assert_eq!(
                    page.more,
                    page.entry_revisions.len() == PAGE_SIZE && number < pages
                );
                seen.extend(page.entry_revisions.iter().map(|r| r.id.clone()));
                after = seen.last().cloned();
                if !page.more {
                    break;
                }
            }
            assert_eq!((number, seen.len()), (pages, count));
            assert!(seen.iter().eq(snapshot.entries.keys()));
        }
    }

    #[test]
    fn a_revision_says_what_the_agent_compares() {
        let page = snapshot(3, 1).revisions(Some("e00001"));
        let expected = api::EntryRevision {
            id: "e00002".into(),
            revision_number: 2,
            created_at: 5,
        };
        assert_eq!(page.entry_revisions, [expected]);
    }

    #[test]
    fn unknown_and_repeated_ids_are_skipped() {
        let snapshot = snapshot(3, 1);
        let ids = ["e00002", "nobody", "e00000", "e00002"]
            .map(String::from)
            .to_vec();
        let mut asked = snapshot.asked_for(ids);
        let page = snapshot.full(&mut asked);
        let ids: Vec<_> = page.entries.iter().map(|e| e.id.as_str()).collect();
        assert_eq!((ids, page.more), (vec!["e00000", "e00002"], false));
    }

    #[test]
    fn a_request_for_nothing_known_has_an_empty_answer() {
        let snapshot = snapshot(3, 1);
        let page = snapshot.full(&mut snapshot.asked_for(vec!["nobody".into()]));
        assert_eq!(page, api::SyncAuthorizedEntriesResponse::default());
    }

    #[test]
    fn full_entries_come_in_pages_too() {
        let snapshot = snapshot(1001, 1);
        let mut asked = snapshot.asked_for(snapshot.entries.keys().cloned().collect());
        let sizes = [(); 3].map(|()| {
            let page = snapshot.full(&mut asked);
            (page.entries.len(), page.more)
        });
        assert_eq!(sizes, [(500, true), (500, true), (1, false)]);
    }

    #[test]
    fn the_mask_of_the_first_request_holds_throughout() {
        let mut snapshot = snapshot(1, 1);
        snapshot.mask = Some(types::EntryMask {
            revision_number: true,
            ..Default::default()
        });
        let whole = snapshot.whole().unwrap();
        assert_eq!(whole.entries[0].hint, "");
        assert_eq!(whole.entries[0].spiffe_id, None);
        assert_eq!(whole.entries[0].id, "e00000");
    }
}
