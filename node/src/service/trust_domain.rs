//! `spire.api.server.trustdomain.v1.TrustDomain`: federation relationships.
//!
//! They are records: nothing fetches the bundles of other trust domains yet, so a
//! request to do it at once is answered with UNIMPLEMENTED, which clients do not try
//! again. The bundle that comes with a relationship is stored like any other.

pub(super) mod convert;
mod url;

use std::sync::Arc;

use chancery_api::spire::api::server::trustdomain::v1 as api;
use chancery_api::spire::api::server::trustdomain::v1::batch_create_federation_relationship_response::Result as Created;
use chancery_api::spire::api::server::trustdomain::v1::batch_delete_federation_relationship_response::Result as Deleted;
use chancery_api::spire::api::server::trustdomain::v1::batch_update_federation_relationship_response::Result as Updated;
use chancery_api::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomain as Api;
use chancery_api::spire::api::types;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_raft_store::command::{
    Command, RelationshipDraft, RelationshipFields, RelationshipResult, Relationships,
    TrustDomains, UpdateRelationships,
};
use chancery_raft_store::Refusal;
use chancery_raft_store::model::{EndpointProfile, FederatedBundle, FederationRelationship};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::batch::{self, Batch, Room};
use super::page::PageRequest;
use super::{Context, permit, refusal, status};

/// What became of a relationship of a batch.
type Done<T> = Result<(T, RelationshipResult), Status>;

/// The service.
pub(super) struct TrustDomainService {
    context: Context,
}

impl TrustDomainService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn own(&self) -> &TrustDomain {
        self.context.issuer.trust_domain()
    }

    /// The relationship and its bundle as they are told.
    fn stored(
        &self,
        name: &str,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> Option<types::FederationRelationship> {
        let directory = self.context.doors.local();
        let federation = directory.federation();
        let relationship = federation.relationship(name)?;
        let bundle = federation.bundle(name).map(Arc::as_ref);
        Some(convert::message(relationship, bundle, mask))
    }

    /// An endpoint that shows an SVID cannot be verified without a bundle.
    fn warn_of_missing_bundle(&self, draft: &RelationshipDraft, has_bundle: bool) {
        let Some(relationship) = &draft.relationship else {
            return;
        };
        if has_bundle || relationship.profile() != EndpointProfile::HttpsSpiffe {
            return;
        }
        let Ok(endpoint) = SpiffeId::parse(&relationship.endpoint_spiffe_id) else {
            return;
        };
        let trust_domain = endpoint.trust_domain();
        let directory = self.context.doors.local();
        if trust_domain != *self.own()
            && directory
                .federation()
                .bundle(trust_domain.as_str())
                .is_none()
        {
            tracing::warn!(
                trust_domain_id = relationship.trust_domain,
                endpoint_spiffe_id = %endpoint,
                "bundle not found for the endpoint SPIFFE ID trust domain"
            );
        }
    }

    fn created(
        &self,
        result: Done<RelationshipDraft>,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> Created {
        let done = result.and_then(|(draft, result)| {
            let name = name_of(&draft).to_owned();
            match result.refusal() {
                Refusal::None => {
                    self.warn_of_missing_bundle(&draft, draft.bundle.is_some());
                    tracing::debug!(trust_domain_id = name, "Federation relationship created");
                    // What was given, not what is stored, as with SPIRE.
                    Ok(convert::draft_message(&draft, mask))
                }
                Refusal::AlreadyExists => Err(refusal::failed(
                    Code::Internal,
                    &name,
                    "failed to create federation relationship",
                    // What SPIRE says over SQLite; it has no code of its own for this.
                    "datastore-sql: UNIQUE constraint failed: \
                     federated_trust_domains.trust_domain",
                )),
                other => Err(unexpected(
                    other,
                    &name,
                    "failed to create federation relationship",
                )),
            }
        });
        let (status, federation_relationship) = item(done);
        Created {
            status,
            federation_relationship: federation_relationship.flatten(),
        }
    }

    fn updated(
        &self,
        result: Done<RelationshipDraft>,
        mask: Option<&types::FederationRelationshipMask>,
        room: &mut Room,
    ) -> Updated {
        let done = result.and_then(|(draft, result)| {
            let name = name_of(&draft).to_owned();
            let message = "failed to update federation relationship";
            match result.refusal() {
                Refusal::None => {
                    let has_bundle = self.context.doors.local();
                    let has_bundle = has_bundle.federation().bundle(&name).is_some();
                    self.warn_of_missing_bundle(&draft, has_bundle);
                    tracing::debug!(trust_domain_id = name, "Federation relationship updated");
                    Ok(self.stored(&name, mask).and_then(|stored| room.fit(stored)))
                }
                Refusal::NotFound => Err(refusal::failed(
                    Code::Internal,
                    &name,
                    message,
                    "unable to fetch federation relationship: record not found",
                )),
                other => Err(unexpected(other, &name, message)),
            }
        });
        let (status, federation_relationship) = item(done);
        Updated {
            status,
            federation_relationship: federation_relationship.flatten(),
        }
    }
}

fn name_of(draft: &RelationshipDraft) -> &str {
    draft
        .relationship
        .as_ref()
        .map_or("", |relationship| relationship.trust_domain.as_str())
}

fn parse(name: &str) -> Result<TrustDomain, Status> {
    TrustDomain::parse_name_or_id(name)
        .map_err(|error| refusal::invalid(name, "failed to parse trust domain", error))
}

/// What a caller hands in.
fn draft(message: types::FederationRelationship) -> Result<RelationshipDraft, Status> {
    convert::draft(&message).map_err(|error| {
        refusal::invalid(
            &message.trust_domain,
            "failed to convert federation relationship",
            error,
        )
    })
}

fn new_draft(
    own: &TrustDomain,
    message: types::FederationRelationship,
) -> Result<RelationshipDraft, Status> {
    let draft = draft(message)?;
    if name_of(&draft) == own.as_str() {
        return Err(refusal::invalid_alone(
            own.as_str(),
            "unable to create federation relationship for server trust domain",
        ));
    }
    Ok(draft)
}

fn nameable(name: String) -> Result<String, Status> {
    if name.is_empty() {
        return Err(refusal::invalid_alone("", "missing trust domain"));
    }
    Ok(parse(&name)?.to_string())
}

/// No mask is everything.
fn fields(mask: Option<&types::FederationRelationshipMask>) -> RelationshipFields {
    let taken = |field: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(field);
    RelationshipFields {
        endpoint_url: taken(|m| m.bundle_endpoint_url),
        profile: taken(|m| m.bundle_endpoint_profile),
        bundle: taken(|m| m.trust_domain_bundle),
    }
}

fn deleted(given: String, result: Done<String>) -> Deleted {
    // A name that was read is told as it was read.
    let (trust_domain, done) = match result {
        Err(status) => (given, Err(status)),
        Ok((name, result)) => {
            let done = match result.refusal() {
                Refusal::None => {
                    tracing::debug!(trust_domain_id = name, "Federation relationship deleted");
                    Ok(())
                }
                Refusal::NotFound => Err(refusal::not_found(
                    &name,
                    "federation relationship not found",
                )),
                other => Err(unexpected(
                    other,
                    &name,
                    "failed to delete federation relationship",
                )),
            };
            (name, done)
        }
    };
    let (status, _) = item(done);
    Deleted {
        status,
        trust_domain,
    }
}

fn unexpected(other: Refusal, name: &str, message: &str) -> Status {
    let status = status::refused(other, "federation relationship");
    refusal::failed(status.code(), name, message, status.message())
}

fn item<T>(done: Result<T, Status>) -> (Option<types::Status>, Option<T>) {
    match done {
        Ok(told) => (status::item_ok(), Some(told)),
        Err(status) => (status::item(&status), None),
    }
}

#[tonic::async_trait]
impl Api for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<api::ListFederationRelationshipsRequest>,
    ) -> Result<Response<api::ListFederationRelationshipsResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let pages = PageRequest::new(
            "failed to list federation relationships",
            request.page_size,
            &request.page_token,
        )
        .map_err(status::logged)?;
        let freshness = self.context.doors.linearizable().await;
        let mask = request.output_mask.as_ref();
        let next = |after, limit| {
            let directory = self.context.doors.local();
            let federation = directory.federation();
            let with_bundle = |relationship: &Arc<FederationRelationship>| {
                let bundle = federation.bundle(&relationship.trust_domain);
                (Arc::clone(relationship), bundle.cloned())
            };
            let relationships = federation.relationships_after(after);
            relationships
                .take(limit)
                .map(with_bundle)
                .collect::<Vec<_>>()
        };
        let told = |(relationship, bundle): &(Arc<_>, Option<Arc<FederatedBundle>>)| {
            Some(convert::message(relationship, bundle.as_deref(), mask))
        };
        let page = pages
            .collect(next, |(relationship, _)| relationship.sequence, told)
            .await?;
        let response = api::ListFederationRelationshipsResponse {
            federation_relationships: page.items,
            next_page_token: page.next,
        };
        Ok(freshness.mark(Response::new(response)))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<api::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let trust_domain = parse(&request.trust_domain)?;
        let freshness = self.context.doors.linearizable().await;
        let told = self.stored(trust_domain.as_str(), request.output_mask.as_ref());
        let told = told.ok_or_else(|| {
            let message = "federation relationship does not exist";
            freshness.mark_no(refusal::not_found(trust_domain.as_str(), message))
        })?;
        Ok(freshness.mark(Response::new(told)))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<api::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<api::BatchCreateFederationRelationshipResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        batch::check_size(&request.federation_relationships)?;
        let batch = Batch::sort_out(request.federation_relationships, |message| {
            new_draft(self.own(), message)
        });
        let make = |drafts| Command::CreateRelationships(Relationships { drafts });
        let size = RelationshipDraft::encoded_len;
        let results = batch
            .write(&self.context.doors, SUBJECT, size, make, |o| {
                o.relationships
            })
            .await?;
        let mask = request.output_mask.as_ref();
        let results = results.into_iter().map(|r| self.created(r, mask));
        Ok(Response::new(
            api::BatchCreateFederationRelationshipResponse {
                results: results.collect(),
            },
        ))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<api::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<api::BatchUpdateFederationRelationshipResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        batch::check_size(&request.federation_relationships)?;
        let batch = Batch::sort_out(request.federation_relationships, draft);
        let fields = Some(fields(request.input_mask.as_ref()));
        let make = |drafts| Command::UpdateRelationships(UpdateRelationships { drafts, fields });
        let size = RelationshipDraft::encoded_len;
        let results = batch
            .write(&self.context.doors, SUBJECT, size, make, |o| {
                o.relationships
            })
            .await?;
        let (mask, mut room) = (request.output_mask.as_ref(), Room::new());
        let results = results
            .into_iter()
            .map(|r| self.updated(r, mask, &mut room));
        Ok(Response::new(
            api::BatchUpdateFederationRelationshipResponse {
                results: results.collect(),
            },
        ))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<api::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<api::BatchDeleteFederationRelationshipResponse>, Status> {
        permit(&request)?;
        let names = request.into_inner().trust_domains;
        batch::check_names(&names)?;
        let batch = Batch::sort_out(names.clone(), nameable);
        let make = |names| Command::DeleteRelationships(TrustDomains { names });
        let results = batch
            .write(&self.context.doors, SUBJECT, String::len, make, |o| {
                o.relationships
            })
            .await?;
        let results = names.into_iter().zip(results);
        let results = results.map(|(name, result)| deleted(name, result));
        Ok(Response::new(
            api::BatchDeleteFederationRelationshipResponse {
                results: results.collect(),
            },
        ))
    }

    async fn refresh_bundle(
        &self,
        request: Request<api::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        permit(&request)?;
        let trust_domain = parse(&request.get_ref().trust_domain)?;
        let name = trust_domain.as_str();
        self.context.doors.linearizable().await;
        if self.stored(name, None).is_none() {
            let message = format!("no relationship with trust domain \"{name}\"");
            return Err(refusal::not_found(name, &message));
        }
        Err(refusal::failed(
            Code::Unimplemented,
            name,
            "failed to refresh bundle",
            "this server does not fetch bundles of other trust domains yet; set the bundle by hand",
        ))
    }
}

/// What a refusal of a whole command speaks of.
const SUBJECT: &str = "federation relationship";

#[cfg(test)]
#[path = "trust_domain/tests.rs"]
mod tests;
