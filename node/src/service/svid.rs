//! `spire.api.server.svid.v1.SVID`: documents for workloads.
//!
//! For workloads nothing is written: whichever node was reached signs from local memory,
//! within the staleness limit. What is signed comes from the entry; of a CSR only the key
//! is used, after the requester proved that it holds it. An administrator needs no entry
//! (`mint`). A downstream server's CA certificate is written before it leaves
//! (`downstream`).

mod downstream;
mod mint;
mod wit;

use std::sync::Arc;

use chancery_api::spire::api::server::svid::v1 as api;
use chancery_api::spire::api::server::svid::v1::batch_new_x509svid_response::Result as Item;
use chancery_api::spire::api::server::svid::v1::svid_server::Svid;
use chancery_api::spire::api::types;
use chancery_identity::csr::Csr;
use chancery_identity::entry::EntryId;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_raft_store::Directory;
use chancery_raft_store::model::Entry;
use futures::StreamExt;
use tonic::{Code, Request, Response, Status};

use super::{Context, audit, permit, status, wire};
use crate::authority::{IssueFailed, JwtSvid, X509Svid};

/// Signatures of one call that are under way at a time.
const SIGNING_MAX: usize = 32;
/// Longest audience of a JWT-SVID: all names together, in bytes.
const AUDIENCE_BYTES_MAX: usize = 16 << 10;

/// The service.
pub(super) struct SvidService {
    context: Context,
}

impl SvidService {
    /// A service over the node's state and its issuer.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// The entries that the agent is authorized for, among those named. One that is
    /// not here may have been created on another node a moment ago: a no is said only
    /// after a barrier, of which one does for the whole call.
    async fn authorized(&self, agent: &SpiffeId, ids: &[&str]) -> Vec<Result<Arc<Entry>, Status>> {
        let look = || {
            let directory = self.context.doors.local();
            ids.iter()
                .map(|id| find(&directory, agent, id))
                .collect::<Vec<_>>()
        };
        let found = look();
        let mut newer = None;
        if found.iter().any(|entry| matches!(entry, Found::NotHere)) {
            newer = Some(self.context.doors.exact().await.map(|()| look()));
        }
        settle(found, newer)
    }

    /// Signs one item of a batch.
    async fn sign(&self, agent: &SpiffeId, request: Checked) -> Result<Signed, Status> {
        let Checked { entry, csr } = request;
        // Checking and signing are pure computation for a key in memory: a batch lets
        // other calls of this thread in between.
        tokio::task::yield_now().await;
        csr.verify_signature()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let svid = self
            .context
            .issuer
            .workload_x509(&entry, csr.public_key())
            .await;
        let svid = svid.map_err(|e| unsigned("X509-SVID", e))?;
        audit::workload_svid(agent, &entry, &svid);
        Ok(Signed { entry, svid })
    }
}

/// What the local state says of an entry that an agent names.
enum Found {
    Authorized(Arc<Entry>),
    /// Not in this state; perhaps in a newer one.
    NotHere,
    /// In no state.
    Never,
}

/// An item that is fit to be signed.
struct Checked {
    entry: Arc<Entry>,
    csr: Csr,
}

struct Signed {
    entry: Arc<Entry>,
    svid: X509Svid,
}

/// What was signed, with the id of its entry.
fn named(signed: &Result<Signed, Status>) -> Option<(&str, &X509Svid)> {
    let Signed { entry, svid } = signed.as_ref().ok()?;
    Some((entry.id.as_str(), svid))
}

fn find(directory: &Directory, agent: &SpiffeId, id: &str) -> Found {
    if EntryId::parse(id).is_err() {
        return Found::Never;
    }
    directory
        .authorized_entry(agent.path(), id)
        .map_or(Found::NotHere, Found::Authorized)
}

/// What becomes of each entry: `newer` is what the state after a barrier says, if one
/// was needed, or why there is none.
fn settle(
    found: Vec<Found>,
    newer: Option<Result<Vec<Found>, Status>>,
) -> Vec<Result<Arc<Entry>, Status>> {
    let unknown = || Err(Status::not_found("entry not found or not authorized"));
    let again = |at: usize| match &newer {
        Some(Ok(newer)) => match newer.get(at) {
            Some(Found::Authorized(entry)) => Ok(Arc::clone(entry)),
            _ => unknown(),
        },
        Some(Err(status)) => Err(status.clone()),
        None => unknown(),
    };
    let one = |(at, found)| match found {
        Found::Authorized(entry) => Ok(entry),
        Found::NotHere => again(at),
        Found::Never => unknown(),
    };
    found.into_iter().enumerate().map(one).collect()
}

/// Checks an item without the registry, in SPIRE's order.
fn check_form(item: &api::NewX509svidParams) -> Result<(), Status> {
    if item.entry_id.is_empty() {
        return Err(Status::invalid_argument("missing entry ID"));
    }
    if item.csr.is_empty() {
        return Err(Status::invalid_argument("missing CSR"));
    }
    Ok(())
}

/// Whether what was signed may still leave: the agent and the entry stand as they
/// did, in the state that is here now.
fn still_stands(directory: &Directory, agent: &SpiffeId, entry: &Entry) -> Result<(), Status> {
    let known = directory
        .agent(agent.path())
        .is_some_and(|record| !record.is_banned());
    let authorized = directory.authorized_entry(agent.path(), &entry.id);
    // An entry of the same id may have been made anew for something else.
    if known && authorized.is_some_and(|now| *now == *entry) {
        return Ok(());
    }
    // Not the final word, which is given after a barrier: the agent asks again.
    Err(Status::unavailable(
        "the agent or the entry changed while it was signed; try again",
    ))
}

/// Why the whole call fails: nothing was signed, and another node may well be able
/// to. An agent moves on for a failed call and not for failed items.
fn nothing_possible<T>(items: &[Result<T, Status>]) -> Option<Status> {
    if items.iter().any(Result::is_ok) {
        return None;
    }
    let passing =
        |status: &&Status| matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    items
        .iter()
        .filter_map(|item| item.as_ref().err())
        .find(passing)
        .cloned()
}

/// Why nothing was signed: the code says whether another node may be able to.
fn unsigned(what: &str, failed: IssueFailed) -> Status {
    let status = Status::from(failed);
    let text = format!("failed to sign {what}: {}", status.message());
    Status::new(status.code(), text)
}

/// Refuses where there are no JWT-SVIDs.
pub(super) fn check_jwt_enabled(context: &Context) -> Result<(), Status> {
    if context.issuer.jwt_enabled() {
        Ok(())
    } else {
        Err(Status::unimplemented("JWT functionality is disabled"))
    }
}

/// The names of an audience: an empty list and one of empty names are refused at
/// different places by SPIRE, and so in different words.
fn check_audience(audience: &[String]) -> Result<Vec<String>, Status> {
    if audience.is_empty() {
        return Err(Status::invalid_argument(
            "at least one audience is required",
        ));
    }
    let named: Vec<String> = audience
        .iter()
        .filter(|name| !name.is_empty())
        .cloned()
        .collect();
    if named.is_empty() {
        return Err(Status::internal(
            "failed to sign JWT-SVID: invalid JWT-SVID audience: cannot be empty",
        ));
    }
    if named.iter().map(String::len).sum::<usize>() > AUDIENCE_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "the audience is longer than {AUDIENCE_BYTES_MAX} bytes"
        )));
    }
    Ok(named)
}

/// A JWT-SVID names a workload, whatever an entry says.
fn check_workload(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), Status> {
    id.require_workload(trust_domain)
        .map_err(|e| Status::invalid_argument(format!("invalid SPIFFE ID: {e}")))
}

fn x509_message(trust_domain: &TrustDomain, svid: X509Svid) -> types::X509svid {
    types::X509svid {
        id: Some(wire::id_message(trust_domain, svid.id.path())),
        cert_chain: svid.chain,
        expires_at: svid.expires_at,
        hint: String::new(),
    }
}

fn jwt_message(trust_domain: &TrustDomain, svid: JwtSvid) -> types::Jwtsvid {
    types::Jwtsvid {
        id: Some(wire::id_message(trust_domain, svid.id.path())),
        token: svid.token,
        expires_at: svid.expires_at,
        issued_at: svid.issued_at,
        hint: String::new(),
    }
}

#[tonic::async_trait]
impl Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<api::MintX509svidRequest>,
    ) -> Result<Response<api::MintX509svidResponse>, Status> {
        let svid = mint::x509(&self.context, permit(&request)?, request.get_ref()).await?;
        let svid = Some(svid);
        Ok(Response::new(api::MintX509svidResponse { svid }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<api::MintJwtsvidRequest>,
    ) -> Result<Response<api::MintJwtsvidResponse>, Status> {
        let svid = mint::jwt(&self.context, permit(&request)?, request.get_ref()).await?;
        let svid = Some(svid);
        Ok(Response::new(api::MintJwtsvidResponse { svid }))
    }

    async fn mint_witsvid(
        &self,
        request: Request<api::MintWitsvidRequest>,
    ) -> Result<Response<api::MintWitsvidResponse>, Status> {
        permit(&request)?;
        Err(wit::disabled())
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<api::BatchNewX509svidRequest>,
    ) -> Result<Response<api::BatchNewX509svidResponse>, Status> {
        let agent = super::agent(&request)?.clone();
        let allowance = super::allowance(&self.context, &request)?;
        let items = request.into_inner().params;
        if items.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        allowance.take(items.len()).await?;
        self.context.doors.fresh().await?;
        let asked = self.context.ledger.mark();
        let ids: Vec<&str> = items.iter().map(|item| item.entry_id.as_str()).collect();
        let entries = self.authorized(&agent, &ids).await;
        let checked = items.iter().zip(entries).map(|(item, entry)| {
            check_form(item)?;
            let entry = entry?;
            let csr = Csr::parse(&item.csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
            Ok(Checked { entry, csr })
        });
        let checked: Vec<Result<Checked, Status>> = checked.collect();
        let signed: Vec<Result<Signed, Status>> = futures::stream::iter(checked)
            .map(|item| async { self.sign(&agent, item?).await })
            .buffered(SIGNING_MAX)
            .collect()
            .await;
        let leaving = signed.iter().filter_map(named);
        let cover = self.context.ledger.workloads(&agent, leaving).await?;
        self.context.doors.still_fresh()?;
        if let Some(status) = nothing_possible(&signed) {
            return Err(status);
        }
        let trust_domain = self.context.issuer.trust_domain();
        let directory = self.context.doors.local();
        let checked = signed.into_iter().map(|signed| {
            let signed = signed?;
            still_stands(&directory, &agent, &signed.entry)?;
            Ok(signed)
        });
        let signed: Vec<Result<Signed, Status>> = checked.collect();
        drop(directory);
        let leaving = signed.iter().filter_map(named);
        self.context
            .ledger
            .workloads_leave(cover, asked, &agent, leaving)?;
        let tell = |signed: Result<Signed, Status>| match signed {
            Err(refused) => Item {
                status: status::item(&refused),
                svid: None,
            },
            Ok(Signed { svid, .. }) => Item {
                status: status::item_ok(),
                svid: Some(x509_message(trust_domain, svid)),
            },
        };
        let results = signed.into_iter().map(tell).collect();
        Ok(Response::new(api::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<api::NewJwtsvidRequest>,
    ) -> Result<Response<api::NewJwtsvidResponse>, Status> {
        let agent = super::agent(&request)?.clone();
        super::allowance(&self.context, &request)?.take(1).await?;
        let request = request.into_inner();
        check_jwt_enabled(&self.context)?;
        self.context.doors.fresh().await?;
        let found = self.authorized(&agent, &[&request.entry_id]).await;
        // One was named, so one is found.
        let entry = found
            .into_iter()
            .next()
            .ok_or_else(|| Status::internal("no entry was looked up"))??;
        let trust_domain = self.context.issuer.trust_domain();
        let id = SpiffeId::new(trust_domain, &entry.spiffe_path)
            .map_err(|e| Status::invalid_argument(format!("invalid SPIFFE ID: {e}")))?;
        check_workload(trust_domain, &id)?;
        let audience = check_audience(&request.audience)?;
        let svid = self.context.issuer.jwt(&entry, &audience).await;
        let svid = svid.map_err(|e| unsigned("JWT-SVID", e))?;
        audit::jwt_svid(&agent, &entry, &svid, &audience);
        self.context.ledger.jwt(&agent, &svid).await?;
        self.context.doors.still_fresh()?;
        still_stands(&self.context.doors.local(), &agent, &entry)?;
        let svid = Some(jwt_message(trust_domain, svid));
        Ok(Response::new(api::NewJwtsvidResponse { svid }))
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<api::BatchNewWitsvidRequest>,
    ) -> Result<Response<api::BatchNewWitsvidResponse>, Status> {
        let agent = super::agent(&request)?.clone();
        let allowance = super::allowance(&self.context, &request)?;
        let items = request.into_inner().params;
        if items.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        allowance.take(items.len()).await?;
        let ids: Vec<&str> = items.iter().map(|item| item.entry_id.as_str()).collect();
        let entries = self.authorized(&agent, &ids).await;
        let results = items.iter().zip(entries);
        let results = results
            .map(|(item, entry)| wit::answer(item, entry.map(drop)))
            .collect();
        Ok(Response::new(api::BatchNewWitsvidResponse { results }))
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<api::NewDownstreamX509caRequest>,
    ) -> Result<Response<api::NewDownstreamX509caResponse>, Status> {
        super::allowance(&self.context, &request)?.take(1).await?;
        let answer = downstream::sign(&self.context, permit(&request)?, request.get_ref()).await?;
        Ok(Response::new(answer))
    }
}

#[cfg(test)]
mod tests;
