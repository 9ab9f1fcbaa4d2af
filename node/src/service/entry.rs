//! `spire.api.server.entry.v1.Entry`: registration entries, and what of them an agent
//! is authorized for.

mod batch;
mod convert;
mod filter;
mod sync;

use std::sync::Arc;

use chancery_api::spire::api::server::entry::v1 as api;
use chancery_api::spire::api::server::entry::v1::entry_server::Entry;
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::Directory;
use chancery_raft_store::model::Entry as Record;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use self::filter::Filter;
use super::page::{self, ANSWER_BYTES_MAX, PageRequest};
use super::{Context, holds, permit, status};

/// The service.
pub(super) struct EntryService {
    context: Context,
}

impl EntryService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn trust_domain(&self) -> &TrustDomain {
        self.context.issuer.trust_domain()
    }

    /// Entries after a sequence that may pass the filter, as many as asked for.
    fn records(&self, filter: &Filter) -> impl Fn(u64, usize) -> Vec<Arc<Record>> {
        |after, limit| candidates(&self.context.doors.local(), filter, after, limit)
    }
}

/// Entries after a sequence in their order, as many as asked for; through the index
/// where the filter names a SPIFFE ID.
fn candidates(
    directory: &Directory,
    filter: &Filter,
    after: u64,
    limit: usize,
) -> Vec<Arc<Record>> {
    let Some(path) = filter.spiffe_path() else {
        return directory
            .entries_after(after)
            .take(limit)
            .cloned()
            .collect();
    };
    let mut named: Vec<_> = directory
        .entries_named(path)
        .filter(|entry| entry.sequence > after)
        .cloned()
        .collect();
    named.sort_unstable_by_key(|entry| entry.sequence);
    named.truncate(limit);
    named
}

#[tonic::async_trait]
impl Entry for EntryService {
    type SyncAuthorizedEntriesStream =
        BoxStream<'static, Result<api::SyncAuthorizedEntriesResponse, Status>>;

    async fn count_entries(
        &self,
        request: Request<api::CountEntriesRequest>,
    ) -> Result<Response<api::CountEntriesResponse>, Status> {
        permit(&request)?;
        let filter = match request.into_inner().filter {
            Some(filter) => Filter::parse(self.trust_domain(), filter::of_count(filter))?,
            None => Filter::default(),
        };
        let freshness = self.context.doors.linearizable().await;
        let count = if filter == Filter::default() {
            i32::try_from(self.context.doors.local().entry_count()).unwrap_or(i32::MAX)
        } else {
            page::count(self.records(&filter), |e| e.sequence, |e| filter.matches(e)).await
        };
        Ok(freshness.mark(Response::new(api::CountEntriesResponse { count })))
    }

    async fn list_entries(
        &self,
        request: Request<api::ListEntriesRequest>,
    ) -> Result<Response<api::ListEntriesResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let filter = match request.filter {
            Some(filter) => Filter::parse(self.trust_domain(), filter)?,
            None => Filter::default(),
        };
        let pages = PageRequest::new(
            "failed to list entries",
            request.page_size,
            &request.page_token,
        )?;
        let freshness = self.context.doors.linearizable().await;
        let (trust_domain, mask) = (self.trust_domain(), request.output_mask.as_ref());
        let convert = |e: &Arc<Record>| {
            filter
                .matches(e)
                .then(|| convert::message(trust_domain, e, mask))
        };
        let page = pages
            .collect(self.records(&filter), |e| e.sequence, convert)
            .await?;
        let response = api::ListEntriesResponse {
            entries: page.items,
            next_page_token: page.next,
        };
        Ok(freshness.mark(Response::new(response)))
    }

    async fn get_entry(
        &self,
        request: Request<api::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        let freshness = self.context.doors.linearizable().await;
        let entry = self.context.doors.local().entry(&request.id).cloned();
        let entry = entry.ok_or_else(|| Status::not_found("entry not found"))?;
        let told = convert::message(self.trust_domain(), &entry, request.output_mask.as_ref());
        Ok(freshness.mark(Response::new(told)))
    }

    async fn batch_create_entry(
        &self,
        request: Request<api::BatchCreateEntryRequest>,
    ) -> Result<Response<api::BatchCreateEntryResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        batch::check_size(&request.entries)?;
        let mask = request.output_mask.as_ref();
        let results = batch::create(
            &self.context.doors,
            self.trust_domain(),
            request.entries,
            mask,
        )
        .await?;
        Ok(Response::new(api::BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<api::BatchUpdateEntryRequest>,
    ) -> Result<Response<api::BatchUpdateEntryResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<api::BatchDeleteEntryRequest>,
    ) -> Result<Response<api::BatchDeleteEntryResponse>, Status> {
        permit(&request)?;
        let results = batch::delete(&self.context.doors, request.into_inner().ids).await?;
        let any = batch::any_deleted(&results);
        let response = Response::new(api::BatchDeleteEntryResponse { results });
        Ok(if any {
            holds::mark(&self.context, response).await
        } else {
            response
        })
    }

    async fn get_authorized_entries(
        &self,
        request: Request<api::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<api::GetAuthorizedEntriesResponse>, Status> {
        let caller = super::agent(&request)?.clone();
        let mask = request.into_inner().output_mask;
        self.context.doors.fresh().await?;
        let authorized = self.context.doors.local().authorized_entries(caller.path());
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in authorized.values() {
            let message = convert::message(self.trust_domain(), entry, mask.as_ref());
            bytes += page::field_bytes(&message);
            if bytes > ANSWER_BYTES_MAX {
                return Err(Status::resource_exhausted(format!(
                    "the answer is larger than {ANSWER_BYTES_MAX} bytes: use SyncAuthorizedEntries"
                )));
            }
            entries.push(message);
        }
        Ok(Response::new(api::GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<api::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let caller = super::agent(&request)?.clone();
        let mut requests = request.into_inner();
        let Some(first) = sync::next_request(&mut requests).await? else {
            return Ok(Response::new(Box::pin(futures::stream::empty())));
        };
        let mask = sync::first_mask(first)?;
        self.context.doors.fresh().await?;
        let entries = self.context.doors.local().authorized_entries(caller.path());
        let snapshot = sync::Snapshot {
            trust_domain: self.trust_domain().clone(),
            entries,
            mask,
        };
        Ok(Response::new(Box::pin(sync::responses(snapshot, requests))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_api::spire::api::server::entry::v1::list_entries_request;
    use chancery_raft_store::view::Table;
    use prost::Message;

    use super::*;

    fn directory() -> Directory {
        let mut directory = Directory::default();
        // Ids in another order than sequences.
        for (id, sequence, path) in [
            ("c", 1, "/a"),
            ("b", 2, "/b"),
            ("a", 3, "/a"),
            ("d", 4, "/a"),
        ] {
            let entry = Record {
                id: id.into(),
                sequence,
                spiffe_path: path.into(),
                parent_path: "/p".into(),
                ..Record::default()
            };
            let key = Table::Entries.key(id.as_bytes());
            directory
                .absorb_row(&key, Some(&entry.encode_to_vec()))
                .unwrap();
        }
        directory
    }

    fn ids(filter: &Filter, after: u64, limit: usize) -> Vec<String> {
        candidates(&directory(), filter, after, limit)
            .iter()
            .map(|e| e.id.clone())
            .collect()
    }

    #[test]
    fn candidates_come_in_insertion_order_with_and_without_an_index() {
        let all = Filter::default();
        assert_eq!(ids(&all, 0, 10), ["c", "b", "a", "d"]);
        assert_eq!(ids(&all, 1, 2), ["b", "a"]);
        let by_spiffe_id = types::Spiffeid {
            trust_domain: "example.org".into(),
            path: "/a".into(),
        };
        let message = list_entries_request::Filter {
            by_spiffe_id: Some(by_spiffe_id),
            ..Default::default()
        };
        let named = Filter::parse(&TrustDomain::parse("example.org").unwrap(), message).unwrap();
        assert_eq!(ids(&named, 0, 10), ["c", "a", "d"]);
        assert_eq!(ids(&named, 1, 1), ["a"]);
        assert_eq!(ids(&named, 4, 10), [""; 0]);
    }
}
