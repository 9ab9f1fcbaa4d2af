//! What a relationship may say, and how what became of it is told; the rest is tested
//! with whole nodes.

#![allow(clippy::unwrap_used)]

use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;

use super::*;

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn spiffe(id: &str) -> Option<BundleEndpointProfile> {
    let endpoint_spiffe_id = id.to_owned();
    Some(BundleEndpointProfile::HttpsSpiffe(
        types::HttpsspiffeProfile { endpoint_spiffe_id },
    ))
}

fn web() -> Option<BundleEndpointProfile> {
    Some(BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}))
}

fn full() -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: "other.test".into(),
        bundle_endpoint_url: "https://other.test/bundle".into(),
        bundle_endpoint_profile: spiffe("spiffe://other.test/bundle"),
        trust_domain_bundle: Some(types::Bundle {
            trust_domain: "other.test".into(),
            refresh_hint: 60,
            sequence_number: 7,
            ..Default::default()
        }),
    }
}

#[test]
fn a_relationship_is_told_as_it_was_given() {
    let mut given = full();
    let drafted = new_draft(&own(), given.clone()).unwrap();
    assert_eq!(convert::draft_message(&drafted, None), Some(given.clone()));
    given.bundle_endpoint_profile = web();
    given.trust_domain_bundle = None;
    given.trust_domain = "spiffe://other.test/x".into();
    let drafted = new_draft(&own(), given.clone()).unwrap();
    given.trust_domain = "other.test".into();
    assert_eq!(convert::draft_message(&drafted, None), Some(given));
}

#[test]
fn the_mask_hides_everything_but_the_trust_domain() {
    let drafted = new_draft(&own(), full()).unwrap();
    let only = |mask| convert::draft_message(&drafted, Some(&mask)).unwrap();
    let (mask, all) = (types::FederationRelationshipMask::default(), full());
    let none = types::FederationRelationship {
        trust_domain: "other.test".into(),
        ..Default::default()
    };
    assert_eq!(only(mask), none);
    let url = types::FederationRelationshipMask {
        bundle_endpoint_url: true,
        ..mask
    };
    assert_eq!(
        only(url),
        types::FederationRelationship {
            bundle_endpoint_url: all.bundle_endpoint_url,
            ..none.clone()
        }
    );
    let profile = types::FederationRelationshipMask {
        bundle_endpoint_profile: true,
        ..mask
    };
    assert_eq!(
        only(profile),
        types::FederationRelationship {
            bundle_endpoint_profile: all.bundle_endpoint_profile,
            ..none.clone()
        }
    );
    let bundle = types::FederationRelationshipMask {
        trust_domain_bundle: true,
        ..mask
    };
    assert_eq!(
        only(bundle),
        types::FederationRelationship {
            trust_domain_bundle: all.trust_domain_bundle,
            ..none
        }
    );
}

#[test]
fn relationships_are_refused_in_the_words_of_spire() {
    type Break = fn(&mut types::FederationRelationship);
    let table: [(Break, &str); 9] = [
        (
            |f| f.trust_domain.clear(),
            "failed to parse trust domain: trust domain is missing",
        ),
        (
            |f| f.bundle_endpoint_url = "http://other.test".into(),
            "bundle endpoint URL must use the https scheme",
        ),
        (
            |f| f.bundle_endpoint_url = "https://".into(),
            "bundle endpoint URL must specify the host",
        ),
        (
            |f| f.bundle_endpoint_url = "https://u:p@other.test".into(),
            "bundle endpoint URL must not contain user info",
        ),
        (
            |f| f.bundle_endpoint_profile = None,
            "unsupported bundle endpoint profile type: <nil>",
        ),
        (
            |f| f.bundle_endpoint_profile = spiffe("other.test"),
            "failed to parse endpoint SPIFFE ID: scheme is missing or invalid",
        ),
        (
            |f| f.trust_domain_bundle = Some(types::Bundle::default()),
            "failed to parse bundle: invalid trust domain: trust domain is missing",
        ),
        (
            |f| {
                let bundle = f.trust_domain_bundle.as_mut().unwrap();
                bundle.trust_domain = "third.test".into();
            },
            "trust domain bundle (\"third.test\") must match the trust domain of the federation \
             relationship (\"other.test\")",
        ),
        (
            |f| {
                let bundle = f.trust_domain_bundle.as_mut().unwrap();
                bundle.x509_authorities = vec![types::X509Certificate::default()];
            },
            "failed to parse bundle: unable to parse X.509 authority: x509: malformed certificate",
        ),
    ];
    for (break_it, text) in table {
        let mut message = full();
        break_it(&mut message);
        let status = new_draft(&own(), message).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            format!("failed to convert federation relationship: {text}")
        );
    }
    let mut message = full();
    message.trust_domain = "example.org".into();
    message.trust_domain_bundle = None;
    let status = new_draft(&own(), message.clone()).unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::InvalidArgument,
            "unable to create federation relationship for server trust domain"
        )
    );
    assert!(draft(message).is_ok(), "an update only does not find it");
}

#[test]
fn each_outcome_of_a_deletion_is_told_with_its_name() {
    let result = |refusal: Refusal| RelationshipResult {
        refusal: refusal.into(),
    };
    let told = |given: &str, result: Done<String>| {
        let deleted = deleted(given.into(), result);
        let status = deleted.status.unwrap();
        (status.code, status.message, deleted.trust_domain)
    };
    let name = || "other.test".to_owned();
    assert_eq!(
        told("spiffe://other.test", Ok((name(), result(Refusal::None)))),
        (0, "OK".into(), name())
    );
    assert_eq!(
        told("other.test", Ok((name(), result(Refusal::NotFound)))),
        (5, "federation relationship not found".into(), name())
    );
    assert_eq!(
        told("", Err(nameable(String::new()).unwrap_err())),
        (3, "missing trust domain".into(), String::new())
    );
    assert_eq!(
        told("A", Err(nameable("A".into()).unwrap_err())).2,
        "A",
        "what cannot be read is told as it came"
    );
}

#[test]
fn no_mask_is_everything() {
    let all = fields(None);
    assert!(all.endpoint_url && all.profile && all.bundle);
    let none = fields(Some(&types::FederationRelationshipMask::default()));
    assert_eq!(none, RelationshipFields::default());
}
