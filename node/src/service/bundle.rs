//! `spire.api.server.bundle.v1.Bundle`: the own trust bundle and those of other trust
//! domains.
//!
//! Agents read the own bundle without an identity when they start, so a bundle that no
//! root is in yet is not shown to anyone: it is not found.

pub(super) mod convert;
mod federated;

use chancery_api::spire::api::server::bundle::v1 as api;
use chancery_api::spire::api::server::bundle::v1::bundle_server::Bundle;
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::Refusal;
use chancery_raft_store::command::{AppendBundle, Command};
use chancery_raft_store::model::{BundleAuthority, FederatedBundle};
use tonic::{Code, Request, Response, Status};

use super::page::PageRequest;
use super::{Context, batch, holds, permit, refusal, status};
use crate::authz::CallDeadline;

/// The service.
pub(super) struct BundleService {
    context: Context,
}

impl BundleService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn own(&self) -> &TrustDomain {
        self.context.issuer.trust_domain()
    }

    fn stored(&self, trust_domain: &TrustDomain) -> Option<types::Bundle> {
        let directory = self.context.doors.local();
        let bundle = directory.federation().bundle(trust_domain.as_str())?;
        Some(convert::federated_message(bundle, None))
    }

    /// Adds authorities to the own bundle. What was added is seen here when it returns.
    async fn append(&self, authorities: Vec<BundleAuthority>, message: &str) -> Result<(), Status> {
        let command = Command::AppendBundle(AppendBundle { authorities });
        let outcome = self.context.doors.write(command).await?;
        let own = self.own().as_str();
        match outcome.accepted() {
            Ok(_) => Ok(()),
            Err(Refusal::AlreadyExists) => Err(refusal::failed(
                Code::AlreadyExists,
                own,
                message,
                "another key of the bundle has this key ID",
            )),
            Err(other) => {
                let status = status::refused(other, "bundle");
                let detail = status.message();
                Err(refusal::failed(status.code(), own, message, detail))
            }
        }
    }
}

/// A trust domain that another one's bundle may be of.
fn foreign(own: &TrustDomain, name: &str, not_allowed: &str) -> Result<TrustDomain, Status> {
    let trust_domain = TrustDomain::parse_name_or_id(name)
        .map_err(|error| refusal::invalid(name, "trust domain argument is not valid", error))?;
    if trust_domain == *own {
        return Err(refusal::invalid_alone(name, not_allowed));
    }
    Ok(trust_domain)
}

/// The bundle of another trust domain that a caller hands in.
fn foreign_bundle(
    own: &TrustDomain,
    bundle: types::Bundle,
    not_allowed: &str,
) -> Result<FederatedBundle, Status> {
    foreign(own, &bundle.trust_domain, not_allowed)?;
    convert::federated(&bundle)
        .map_err(|error| refusal::invalid(&bundle.trust_domain, "failed to convert bundle", error))
}

#[tonic::async_trait]
impl Bundle for BundleService {
    async fn get_bundle(
        &self,
        request: Request<api::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        permit(&request)?;
        // Everyone may ask. Agents, and those who show nothing, are answered from local
        // state; whoever else may have changed the bundle on another node a moment ago.
        let exact = convert::may_administer(self.own(), request.extensions().get());
        let freshness = if exact {
            Some(self.context.doors.linearizable().await)
        } else {
            self.context.doors.fresh().await?;
            None
        };
        let told = convert::own_message(
            &self.context.issuer.bundle(),
            request.get_ref().output_mask.as_ref(),
        );
        let told =
            told.ok_or_else(|| refusal::not_found(self.own().as_str(), "bundle not found"))?;
        let response = Response::new(told);
        Ok(match freshness {
            Some(freshness) => freshness.mark(response),
            None => response,
        })
    }

    async fn count_bundles(
        &self,
        request: Request<api::CountBundlesRequest>,
    ) -> Result<Response<api::CountBundlesResponse>, Status> {
        permit(&request)?;
        let freshness = self.context.doors.linearizable().await;
        let own = convert::is_there(&self.context.issuer.bundle());
        let others = self.context.doors.local().federation().bundle_count();
        let count = i32::try_from(others).unwrap_or(i32::MAX);
        let count = count.saturating_add(own.into());
        Ok(freshness.mark(Response::new(api::CountBundlesResponse { count })))
    }

    async fn append_bundle(
        &self,
        request: Request<api::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let own = self.own().as_str();
        if request.jwt_authorities.is_empty() && request.x509_authorities.is_empty() {
            return Err(refusal::invalid_alone(own, "no authorities to append"));
        }
        let keys = convert::jwt_authorities(&request.jwt_authorities)
            .map_err(|e| refusal::invalid(own, "failed to convert JWT authority", e))?;
        let roots = convert::x509_authorities(&request.x509_authorities)
            .map_err(|e| refusal::invalid(own, "failed to convert X.509 authority", e))?;
        let roots = roots.into_iter().map(convert::root_record);
        let keys = keys.into_iter().map(convert::key_record);
        let authorities = roots.chain(keys).collect();
        self.append(authorities, "failed to append bundle").await?;
        let bundle = self.context.issuer.bundle();
        let told = convert::whole_message(&bundle, request.output_mask.as_ref());
        Ok(Response::new(told))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<api::PublishJwtAuthorityRequest>,
    ) -> Result<Response<api::PublishJwtAuthorityResponse>, Status> {
        permit(&request)?;
        super::allowance(&self.context, &request)?.take(1).await?;
        let own = self.own().as_str();
        let publisher = permit(&request)?.downstream();
        let publisher = publisher
            .ok_or_else(|| Status::internal("caller ID missing from request context"))?
            .path()
            .to_owned();
        let key = request.into_inner().jwt_authority;
        let key = key.ok_or_else(|| refusal::invalid_alone(own, "missing JWT authority"))?;
        let keys = convert::jwt_authorities(&[key])
            .map_err(|error| refusal::invalid(own, "invalid JWT authority", error))?;
        let now_ms = self.context.doors.consensus().clock().now_unix_ms();
        for key in &keys {
            convert::check_end(key, now_ms.div_euclid(1000))
                .map_err(|error| refusal::invalid(own, "invalid JWT authority", error))?;
        }
        let publish = |key| convert::published_record(key, &publisher);
        let authorities = keys.into_iter().map(publish).collect();
        self.append(authorities, "failed to publish JWT key")
            .await?;
        let told = convert::whole_message(&self.context.issuer.bundle(), None);
        Ok(Response::new(api::PublishJwtAuthorityResponse {
            jwt_authorities: told.jwt_authorities,
        }))
    }

    async fn publish_wit_authority(
        &self,
        request: Request<api::PublishWitAuthorityRequest>,
    ) -> Result<Response<api::PublishWitAuthorityResponse>, Status> {
        permit(&request)?;
        Err(Status::unimplemented(
            "WIT-SVID functionality is not yet implemented",
        ))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<api::ListFederatedBundlesRequest>,
    ) -> Result<Response<api::ListFederatedBundlesResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let (size, token) = (request.page_size, &request.page_token);
        let pages =
            PageRequest::new("failed to list bundles", size, token).map_err(status::logged)?;
        let freshness = self.context.doors.linearizable().await;
        let next = |after, limit| {
            let directory = self.context.doors.local();
            let bundles = directory.federation().bundles_after(after);
            bundles.take(limit).cloned().collect::<Vec<_>>()
        };
        let mask = request.output_mask.as_ref();
        let page = pages
            .collect(
                next,
                |b| b.sequence,
                |b| Some(convert::federated_message(b, mask)),
            )
            .await?;
        let response = api::ListFederatedBundlesResponse {
            bundles: page.items,
            next_page_token: page.next,
        };
        Ok(freshness.mark(Response::new(response)))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<api::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let by_agent = permit(&request)?.agent().is_some();
        let request = request.into_inner();
        let not_allowed =
            "getting a federated bundle for the server's own trust domain is not allowed";
        let trust_domain = foreign(self.own(), &request.trust_domain, not_allowed)?;
        let mut freshness = None;
        let stored = if by_agent {
            self.context.doors.fresh().await?;
            let mut stored = self.stored(&trust_domain);
            // An agent takes the bundle from its workloads when it is told that there
            // is none: this node may only be behind.
            if stored.is_none() {
                self.context.doors.exact().await?;
                stored = self.stored(&trust_domain);
            }
            stored
        } else {
            freshness = Some(self.context.doors.linearizable().await);
            self.stored(&trust_domain)
        };
        let mut told = stored.ok_or_else(|| {
            let status = refusal::not_found(&request.trust_domain, "bundle not found");
            match freshness {
                Some(freshness) => freshness.mark_no(status),
                None => status,
            }
        })?;
        convert::apply_mask(&mut told, request.output_mask.as_ref());
        let response = Response::new(told);
        Ok(match freshness {
            Some(freshness) => freshness.mark(response),
            None => response,
        })
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<api::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<api::BatchCreateFederatedBundleResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        batch::check_size(&request.bundle)?;
        let (doors, mask) = (&self.context.doors, request.output_mask.as_ref());
        let results = federated::create(doors, self.own(), request.bundle, mask).await?;
        Ok(Response::new(api::BatchCreateFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<api::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<api::BatchUpdateFederatedBundleResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        batch::check_size(&request.bundle)?;
        let masks = federated::Masks {
            input: request.input_mask.as_ref(),
            output: request.output_mask.as_ref(),
        };
        let doors = &self.context.doors;
        let results = federated::update(doors, self.own(), request.bundle, masks).await?;
        Ok(Response::new(api::BatchUpdateFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<api::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<api::BatchSetFederatedBundleResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        batch::check_size(&request.bundle)?;
        let (doors, mask) = (&self.context.doors, request.output_mask.as_ref());
        let results = federated::set(doors, self.own(), request.bundle, mask).await?;
        Ok(Response::new(api::BatchSetFederatedBundleResponse {
            results,
        }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<api::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<api::BatchDeleteFederatedBundleResponse>, Status> {
        permit(&request)?;
        let deadline = request.extensions().get::<CallDeadline>().copied();
        let deadline = deadline.ok_or_else(|| Status::internal("the call has no deadline"))?;
        let request = request.into_inner();
        let mode = federated::delete_mode(request.mode)?;
        batch::check_names(&request.trust_domains)?;
        let doors = &self.context.doors;
        let names = request.trust_domains;
        let results = federated::delete(doors, self.own(), names, mode, deadline).await?;
        let ok = status::item_ok();
        let any = results.iter().any(|result| result.status == ok);
        let response = Response::new(api::BatchDeleteFederatedBundleResponse { results });
        Ok(if any {
            holds::mark(&self.context, response).await
        } else {
            response
        })
    }
}
