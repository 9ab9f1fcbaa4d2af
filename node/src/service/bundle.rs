//! `spire.api.server.bundle.v1.Bundle`: the own trust bundle.
//!
//! Agents read it without an identity when they start, so a bundle that no root is in
//! yet is not shown to anyone: it is not found.

use chancery_api::spire::api::server::bundle::v1 as api;
use chancery_api::spire::api::server::bundle::v1::bundle_server::Bundle;
use chancery_api::spire::api::types;
use chancery_identity::bundle;
use tonic::{Request, Response, Status};

use super::{Context, permit, status};
use crate::transport::Caller;

/// The service.
pub(super) struct BundleService {
    context: Context,
}

impl BundleService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

/// The bundle as it is told; nothing before it has a root. No mask is everything.
fn message(bundle: &bundle::Bundle, mask: Option<&types::BundleMask>) -> Option<types::Bundle> {
    if bundle.x509_authorities.is_empty() {
        return None;
    }
    let shown = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    let mut told = types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        ..Default::default()
    };
    if shown(|m| m.x509_authorities) {
        let one = |authority: &bundle::X509Authority| types::X509Certificate {
            asn1: authority.der().to_vec(),
            tainted: authority.is_tainted(),
        };
        told.x509_authorities = bundle.x509_authorities.iter().map(one).collect();
    }
    if shown(|m| m.jwt_authorities) {
        let one = |authority: &bundle::JwtAuthority| types::JwtKey {
            public_key: authority.spki_der().to_vec(),
            key_id: authority.kid().to_owned(),
            expires_at: authority.expires_at(),
            tainted: authority.is_tainted(),
        };
        told.jwt_authorities = bundle.jwt_authorities.iter().map(one).collect();
    }
    if shown(|m| m.refresh_hint) {
        told.refresh_hint = bundle.refresh_hint;
    }
    if shown(|m| m.sequence_number) {
        told.sequence_number = bundle.sequence;
    }
    Some(told)
}

#[tonic::async_trait]
impl Bundle for BundleService {
    async fn get_bundle(
        &self,
        request: Request<api::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        permit(&request)?;
        let local = matches!(request.extensions().get::<Caller>(), Some(Caller::Local(_)));
        // Everyone may ask over the network, so nothing is known of who does: that
        // is answered like an agent's reads.
        let freshness = if local {
            Some(self.context.doors.linearizable().await)
        } else {
            self.context.doors.fresh().await?;
            None
        };
        let told = message(
            &self.context.issuer.bundle(),
            request.get_ref().output_mask.as_ref(),
        );
        let response = Response::new(told.ok_or_else(|| Status::not_found("bundle not found"))?);
        Ok(match freshness {
            Some(freshness) => freshness.mark(response),
            None => response,
        })
    }

    async fn count_bundles(
        &self,
        request: Request<api::CountBundlesRequest>,
    ) -> Result<Response<api::CountBundlesResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn append_bundle(
        &self,
        request: Request<api::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<api::PublishJwtAuthorityRequest>,
    ) -> Result<Response<api::PublishJwtAuthorityResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn publish_wit_authority(
        &self,
        request: Request<api::PublishWitAuthorityRequest>,
    ) -> Result<Response<api::PublishWitAuthorityResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<api::ListFederatedBundlesRequest>,
    ) -> Result<Response<api::ListFederatedBundlesResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<api::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<api::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<api::BatchCreateFederatedBundleResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<api::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<api::BatchUpdateFederatedBundleResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<api::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<api::BatchSetFederatedBundleResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<api::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<api::BatchDeleteFederatedBundleResponse>, Status> {
        Err(status::unimplemented(permit(&request)?.method()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_identity::id::TrustDomain;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData};

    use super::*;

    fn full() -> bundle::Bundle {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&pair).unwrap();
        let spki = pair.subject_public_key_info();
        let mut bundle = bundle::Bundle::new(TrustDomain::parse("example.org").unwrap());
        bundle.x509_authorities =
            vec![bundle::X509Authority::new(certificate.der().to_vec(), true).unwrap()];
        bundle.jwt_authorities =
            vec![bundle::JwtAuthority::new(&spki, "kid".into(), 99, false).unwrap()];
        bundle.sequence = 5;
        bundle.refresh_hint = 60;
        bundle
    }

    #[test]
    fn a_bundle_is_told_as_it_is() {
        let bundle = full();
        let told = message(&bundle, None).unwrap();
        assert_eq!(told.trust_domain, "example.org");
        assert_eq!((told.sequence_number, told.refresh_hint), (5, 60));
        assert_eq!(
            told.x509_authorities[0].asn1,
            bundle.x509_authorities[0].der()
        );
        assert!(told.x509_authorities[0].tainted);
        let key = &told.jwt_authorities[0];
        assert_eq!(
            (key.key_id.as_str(), key.expires_at, key.tainted),
            ("kid", 99, false)
        );
        assert!(told.wit_authorities.is_empty());
    }

    #[test]
    fn the_mask_hides_everything_but_the_trust_domain() {
        let bundle = full();
        let all = message(&bundle, None).unwrap();
        let none = types::Bundle {
            trust_domain: "example.org".into(),
            ..Default::default()
        };
        assert_eq!(
            message(&bundle, Some(&types::BundleMask::default())),
            Some(none.clone())
        );
        let only = |mask| message(&bundle, Some(&mask)).unwrap();
        let mask = types::BundleMask::default();
        assert_eq!(
            only(types::BundleMask {
                x509_authorities: true,
                ..mask
            }),
            types::Bundle {
                x509_authorities: all.x509_authorities,
                ..none.clone()
            }
        );
        assert_eq!(
            only(types::BundleMask {
                jwt_authorities: true,
                ..mask
            }),
            types::Bundle {
                jwt_authorities: all.jwt_authorities,
                ..none.clone()
            }
        );
        assert_eq!(
            only(types::BundleMask {
                refresh_hint: true,
                ..mask
            }),
            types::Bundle {
                refresh_hint: 60,
                ..none.clone()
            }
        );
        assert_eq!(
            only(types::BundleMask {
                sequence_number: true,
                ..mask
            }),
            types::Bundle {
                sequence_number: 5,
                ..none
            }
        );
    }

    #[test]
    fn a_bundle_without_a_root_is_not_there() {
        let mut bundle = full();
        bundle.x509_authorities.clear();
        assert_eq!(message(&bundle, None), None);
    }
}
