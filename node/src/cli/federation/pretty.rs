//! Federation relationships in SPIRE's words.

use std::fmt::Write as _;

use chancery_api::spire::api::types::FederationRelationship;
use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;

use crate::cli::text;

/// `federation list`.
pub(super) fn list(relationships: &[FederationRelationship]) -> String {
    let found = text::count(
        relationships.len(),
        "federation relationship",
        "federation relationships",
    );
    let mut text = format!("Found {found}\n");
    for relationship in relationships {
        let _ = write!(text, "\n{}", block(relationship));
    }
    text
}

/// One relationship.
pub(super) fn block(relationship: &FederationRelationship) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<26}: {value}");
    };
    line("Trust domain", &relationship.trust_domain);
    line("Bundle endpoint URL", &relationship.bundle_endpoint_url);
    match &relationship.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => line("Bundle endpoint profile", "https_web"),
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            line("Bundle endpoint profile", "https_spiffe");
            line("Endpoint SPIFFE ID", &profile.endpoint_spiffe_id);
        }
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use chancery_api::spire::api::types::{HttpsWebProfile, HttpsspiffeProfile};

    use super::*;

    #[test]
    fn relationships_have_spire_s_lines() {
        let web = FederationRelationship {
            trust_domain: "td-1.org".into(),
            bundle_endpoint_url: "https://td-1.org/bundle".into(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(HttpsWebProfile {})),
            trust_domain_bundle: None,
        };
        let spiffe = FederationRelationship {
            trust_domain: "td-2.org".into(),
            bundle_endpoint_url: "https://td-2.org/bundle".into(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
                endpoint_spiffe_id: "spiffe://other.org/bundle".into(),
            })),
            trust_domain_bundle: None,
        };
        assert_eq!(list(&[]), "Found 0 federation relationships\n");
        assert!(
            list(std::slice::from_ref(&web)).starts_with("Found 1 federation relationship\n\n")
        );
        assert_eq!(
            list(&[web, spiffe]),
            "\
Found 2 federation relationships

Trust domain              : td-1.org
Bundle endpoint URL       : https://td-1.org/bundle
Bundle endpoint profile   : https_web

Trust domain              : td-2.org
Bundle endpoint URL       : https://td-2.org/bundle
Bundle endpoint profile   : https_spiffe
Endpoint SPIFFE ID        : spiffe://other.org/bundle
"
        );
    }
}
