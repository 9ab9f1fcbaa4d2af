//! Federation relationships on the wire and in the registry. What one may say is judged
//! here, in SPIRE's order and words.

use chancery_api::spire::api::types;
use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use chancery_identity::id::{IdError, SpiffeId, TrustDomain};
use chancery_raft_store::command::RelationshipDraft;
use chancery_raft_store::model::{EndpointProfile, FederatedBundle, FederationRelationship};

use super::url;
pub(in crate::service) use super::url::UrlError;
use crate::service::bundle::convert::{self as bundles, BundleError};

/// Why a relationship is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::service) enum RelationshipError {
    #[error("failed to parse trust domain: {0}")]
    TrustDomain(IdError),
    #[error(transparent)]
    Url(UrlError),
    #[error("unsupported bundle endpoint profile type: <nil>")]
    NoProfile,
    #[error("failed to parse endpoint SPIFFE ID: {0}")]
    EndpointId(IdError),
    #[error("failed to parse bundle: {0}")]
    Bundle(BundleError),
    #[error(
        "trust domain bundle (\"{bundle}\") must match the trust domain of the federation \
         relationship (\"{relationship}\")"
    )]
    OtherBundle {
        bundle: String,
        relationship: TrustDomain,
    },
}

/// Reads a relationship whole, whatever of it is wanted.
pub(in crate::service) fn draft(
    message: &types::FederationRelationship,
) -> Result<RelationshipDraft, RelationshipError> {
    let trust_domain = TrustDomain::parse_name_or_id(&message.trust_domain)
        .map_err(RelationshipError::TrustDomain)?;
    let endpoint_url = url::parse(&message.bundle_endpoint_url).map_err(RelationshipError::Url)?;
    let (profile, endpoint_spiffe_id) = match &message.bundle_endpoint_profile {
        None => return Err(RelationshipError::NoProfile),
        Some(BundleEndpointProfile::HttpsWeb(_)) => (EndpointProfile::HttpsWeb, String::new()),
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            let id = SpiffeId::parse(&profile.endpoint_spiffe_id)
                .map_err(RelationshipError::EndpointId)?;
            (EndpointProfile::HttpsSpiffe, id.to_string())
        }
    };
    let bundle = message.trust_domain_bundle.as_ref().map(|given| {
        let bundle = bundles::federated(given).map_err(RelationshipError::Bundle)?;
        if bundle.trust_domain == trust_domain.as_str() {
            Ok(bundle)
        } else {
            Err(RelationshipError::OtherBundle {
                bundle: given.trust_domain.clone(),
                relationship: trust_domain.clone(),
            })
        }
    });
    let relationship = FederationRelationship {
        trust_domain: trust_domain.to_string(),
        sequence: 0,
        endpoint_url,
        profile: profile.into(),
        endpoint_spiffe_id,
    };
    Ok(RelationshipDraft {
        relationship: Some(relationship),
        bundle: bundle.transpose()?,
    })
}

/// A draft as it is told once it is stored.
pub(in crate::service) fn draft_message(
    draft: &RelationshipDraft,
    mask: Option<&types::FederationRelationshipMask>,
) -> Option<types::FederationRelationship> {
    let relationship = draft.relationship.as_ref()?;
    Some(message(relationship, draft.bundle.as_ref(), mask))
}

/// A relationship as it is told. The trust domain is always there; no mask is
/// everything.
pub(in crate::service) fn message(
    relationship: &FederationRelationship,
    bundle: Option<&FederatedBundle>,
    mask: Option<&types::FederationRelationshipMask>,
) -> types::FederationRelationship {
    let shown = |field: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(field);
    let mut told = types::FederationRelationship {
        trust_domain: relationship.trust_domain.clone(),
        ..Default::default()
    };
    if shown(|m| m.bundle_endpoint_url) {
        told.bundle_endpoint_url
            .clone_from(&relationship.endpoint_url);
    }
    if shown(|m| m.bundle_endpoint_profile) {
        told.bundle_endpoint_profile = Some(match relationship.profile() {
            EndpointProfile::HttpsSpiffe => {
                BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                    endpoint_spiffe_id: relationship.endpoint_spiffe_id.clone(),
                })
            }
            EndpointProfile::HttpsWeb | EndpointProfile::Unspecified => {
                BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {})
            }
        });
    }
    if shown(|m| m.trust_domain_bundle) {
        told.trust_domain_bundle = bundle.map(|bundle| bundles::federated_message(bundle, None));
    }
    told
}
