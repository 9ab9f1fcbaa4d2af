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
use chancery_raft_store::model::Entry as Record;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use self::filter::Filter;
use super::gate::Standing;
use super::page::{self, ANSWER_BYTES_MAX, PageRequest};
use super::status::{self, Subject};
use super::{Context, holds, permit};

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
        |after, limit| filter.candidates(&self.context.doors.local(), after, limit)
    }
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
            Some(filter) => Filter::parse(self.trust_domain(), filter::of_count(filter))
                .map_err(status::logged)?,
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
            Some(filter) => Filter::parse(self.trust_domain(), filter).map_err(status::logged)?,
            None => Filter::default(),
        };
        let pages = PageRequest::new(
            "failed to list entries",
            request.page_size,
            &request.page_token,
        )
        .map_err(status::logged)?;
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
            return Err(status::logged(Status::invalid_argument("missing ID")));
        }
        let freshness = self.context.doors.linearizable().await;
        let entry = self.context.doors.local().entry(&request.id).cloned();
        let entry = entry.ok_or_else(|| {
            let status = Status::not_found("entry not found");
            let subject = Subject {
                entry_id: Some(&request.id),
                ..Subject::default()
            };
            status::log(&status, subject);
            freshness.mark_no(status)
        })?;
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
        permit(&request)?;
        let request = request.into_inner();
        let results = batch::update(
            &self.context.doors,
            self.trust_domain(),
            request.entries,
            request.input_mask.as_ref(),
            request.output_mask.as_ref(),
        )
        .await?;
        Ok(Response::new(api::BatchUpdateEntryResponse { results }))
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
        let standing = Standing::of(&self.context, &request)?;
        let mask = request.into_inner().output_mask;
        self.context.doors.fresh().await?;
        let authorized = standing
            .read(|directory| directory.authorized_entries(caller.path()))
            .await?;
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
        let standing = Standing::of(&self.context, &request)?;
        let mut requests = request.into_inner();
        let Some(first) = sync::next_request(&mut requests).await? else {
            return Ok(Response::new(Box::pin(futures::stream::empty())));
        };
        let mask = sync::first_mask(first)?;
        self.context.doors.fresh().await?;
        let entries = standing
            .read(|directory| directory.authorized_entries(caller.path()))
            .await?;
        let snapshot = sync::Snapshot {
            trust_domain: self.trust_domain().clone(),
            entries,
            mask,
        };
        let responses = sync::responses(snapshot, standing, requests);
        Ok(Response::new(Box::pin(responses)))
    }
}
