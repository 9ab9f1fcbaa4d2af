//! When two items are the same, whichever server they come from.
//!
//! What servers set themselves is left out: revisions, creation times, taint marks of federated
//! bundles, which no call can write.

use aws_lc_rs::digest::{SHA256, digest};
use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use chancery_api::spire::api::types::{Bundle, Entry, FederationRelationship};
use chancery_identity::bundle::split_certificates;
use prost::Message;

use crate::cli::text;

/// SHA-256.
pub(super) type Digest = [u8; 32];

fn sha256(bytes: &[u8]) -> Digest {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .try_into()
        .expect("a SHA-256 digest has 32 bytes")
}

/// The entry as it is sent and compared: without what the server sets, sets in order.
pub(super) fn canonical(mut entry: Entry) -> Entry {
    entry.revision_number = 0;
    entry.created_at = 0;
    entry
        .selectors
        .sort_by(|a, b| (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value)));
    entry.selectors.dedup();
    for name in &mut entry.federates_with {
        if let Some(bare) = name.strip_prefix("spiffe://") {
            *name = bare.to_owned();
        }
    }
    entry.federates_with.sort();
    entry.federates_with.dedup();
    if entry
        .additional_attributes
        .is_some_and(|attributes| attributes == Default::default())
    {
        entry.additional_attributes = None;
    }
    entry
}

/// Equal for entries that are the same. Takes a canonical one.
pub(super) fn content(entry: &Entry) -> Digest {
    sha256(&entry.encode_to_vec())
}

/// Equal for entries that are similar in SPIRE's sense: SPIFFE ID, parent and the set of selectors.
/// Takes a canonical one.
pub(super) fn similarity(entry: &Entry) -> Digest {
    let key = Entry {
        spiffe_id: entry.spiffe_id.clone(),
        parent_id: entry.parent_id.clone(),
        selectors: entry.selectors.clone(),
        ..Entry::default()
    };
    sha256(&key.encode_to_vec())
}

/// Names of the fields in which two canonical entries differ.
pub(super) fn entry_fields(one: &Entry, other: &Entry) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let mut differ = |field, differs| {
        if differs {
            fields.push(field);
        }
    };
    differ("spiffe_id", one.spiffe_id != other.spiffe_id);
    differ("parent_id", one.parent_id != other.parent_id);
    differ("selectors", one.selectors != other.selectors);
    differ("x509_svid_ttl", one.x509_svid_ttl != other.x509_svid_ttl);
    differ("jwt_svid_ttl", one.jwt_svid_ttl != other.jwt_svid_ttl);
    differ("federates_with", one.federates_with != other.federates_with);
    differ("admin", one.admin != other.admin);
    differ("downstream", one.downstream != other.downstream);
    differ("expires_at", one.expires_at != other.expires_at);
    differ("dns_names", one.dns_names != other.dns_names);
    differ("store_svid", one.store_svid != other.store_svid);
    differ("hint", one.hint != other.hint);
    differ(
        "additional_attributes",
        one.additional_attributes != other.additional_attributes,
    );
    fields
}

/// Names of the fields in which two bundles differ.
pub(super) fn bundle_fields(one: &Bundle, other: &Bundle) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if x509_authorities(one) != x509_authorities(other) {
        fields.push("x509_authorities");
    }
    if jwt_authorities(one) != jwt_authorities(other) {
        fields.push("jwt_authorities");
    }
    if one.refresh_hint != other.refresh_hint {
        fields.push("refresh_hint");
    }
    if one.sequence_number != other.sequence_number {
        fields.push("sequence_number");
    }
    fields
}

/// One item may hold several certificates, one behind the other.
fn x509_authorities(bundle: &Bundle) -> Vec<Vec<u8>> {
    let mut certificates = Vec::new();
    for authority in &bundle.x509_authorities {
        match split_certificates(&authority.asn1) {
            Ok(split) => certificates.extend(split),
            Err(_) => certificates.push(authority.asn1.clone()),
        }
    }
    certificates.sort();
    certificates.dedup();
    certificates
}

fn jwt_authorities(bundle: &Bundle) -> Vec<(&str, &[u8], i64)> {
    let mut keys: Vec<_> = bundle
        .jwt_authorities
        .iter()
        .map(|key| (&*key.key_id, &*key.public_key, key.expires_at))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Names of the fields in which two relationships differ; their bundles are compared apart.
pub(super) fn relationship_fields(
    one: &FederationRelationship,
    other: &FederationRelationship,
) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if one.bundle_endpoint_url != other.bundle_endpoint_url {
        fields.push("bundle_endpoint_url");
    }
    if profile(one) != profile(other) {
        fields.push("bundle_endpoint_profile");
    }
    fields
}

fn profile(relationship: &FederationRelationship) -> (&'static str, &str) {
    match &relationship.bundle_endpoint_profile {
        None => ("", ""),
        Some(BundleEndpointProfile::HttpsWeb(_)) => ("https_web", ""),
        Some(BundleEndpointProfile::HttpsSpiffe(spiffe)) => {
            ("https_spiffe", &spiffe.endpoint_spiffe_id)
        }
    }
}

/// How an entry is named to people: its id and what it issues.
pub(super) fn entry_name(entry: &Entry) -> String {
    format!("{} ({})", entry.id, text::id(entry.spiffe_id.as_ref()))
}

#[cfg(test)]
mod tests {
    use chancery_api::spire::api::types::entry::AdditionalAttributes;
    use chancery_api::spire::api::types::{
        HttpsWebProfile, HttpsspiffeProfile, JwtKey, Selector, Spiffeid, X509Certificate,
    };

    use super::*;

    fn selector(value: &str) -> Selector {
        Selector {
            r#type: "unix".into(),
            value: value.into(),
        }
    }

    fn entry() -> Entry {
        Entry {
            id: "one".into(),
            spiffe_id: Some(Spiffeid {
                trust_domain: "example.org".into(),
                path: "/web".into(),
            }),
            selectors: vec![selector("b"), selector("a"), selector("b")],
            federates_with: vec!["b.test".into(), "spiffe://a.test".into()],
            revision_number: 7,
            created_at: 9,
            additional_attributes: Some(AdditionalAttributes::default()),
            dns_names: vec!["b".into(), "a".into()],
            ..Entry::default()
        }
    }

    #[test]
    fn what_the_server_sets_and_the_order_of_sets_do_not_count() {
        let same = Entry {
            selectors: vec![selector("a"), selector("b")],
            federates_with: vec!["a.test".into(), "b.test".into()],
            revision_number: 0,
            created_at: 0,
            additional_attributes: None,
            ..entry()
        };
        let (one, other) = (canonical(entry()), canonical(same));
        assert_eq!(entry_fields(&one, &other), Vec::<&str>::new());
        assert_eq!(content(&one), content(&other));
        // The first DNS name is the common name: their order counts.
        let mut swapped = entry();
        swapped.dns_names.reverse();
        assert_eq!(entry_fields(&one, &canonical(swapped)), ["dns_names"]);
    }

    #[test]
    fn every_field_that_an_administrator_sets_counts() {
        let one = canonical(entry());
        type Change = fn(&mut Entry);
        let changes: [(&str, Change); 13] = [
            ("spiffe_id", |e| e.spiffe_id = None),
            ("parent_id", |e| e.parent_id = Some(Spiffeid::default())),
            ("selectors", |e| drop(e.selectors.pop())),
            ("x509_svid_ttl", |e| e.x509_svid_ttl = 1),
            ("jwt_svid_ttl", |e| e.jwt_svid_ttl = 1),
            ("federates_with", |e| drop(e.federates_with.pop())),
            ("admin", |e| e.admin = true),
            ("downstream", |e| e.downstream = true),
            ("expires_at", |e| e.expires_at = 1),
            ("dns_names", |e| drop(e.dns_names.pop())),
            ("store_svid", |e| e.store_svid = true),
            ("hint", |e| e.hint = "x".into()),
            ("additional_attributes", |e| {
                e.additional_attributes = Some(AdditionalAttributes {
                    jwt_svid_include_jti: true,
                    ..Default::default()
                });
            }),
        ];
        for (field, change) in changes {
            let mut other = one.clone();
            change(&mut other);
            assert_eq!(entry_fields(&one, &other), [field]);
            assert_ne!(content(&one), content(&other), "{field}");
            let similar = !matches!(field, "spiffe_id" | "parent_id" | "selectors");
            assert_eq!(similarity(&one) == similarity(&other), similar, "{field}");
        }
    }

    #[test]
    fn bundles_are_compared_as_sets_without_marks() {
        let key = |id: &str, expires_at, tainted| JwtKey {
            public_key: vec![1],
            key_id: id.into(),
            expires_at,
            tainted,
        };
        let certificate = |asn1: &[u8], tainted| X509Certificate {
            asn1: asn1.to_vec(),
            tainted,
        };
        let one = Bundle {
            x509_authorities: vec![certificate(b"a", true), certificate(b"b", false)],
            jwt_authorities: vec![key("2", 0, false), key("1", 5, true)],
            ..Bundle::default()
        };
        let same = Bundle {
            x509_authorities: vec![certificate(b"b", false), certificate(b"a", false)],
            jwt_authorities: vec![key("1", 5, false), key("2", 0, false)],
            ..Bundle::default()
        };
        assert_eq!(bundle_fields(&one, &same), Vec::<&str>::new());
        let other = Bundle {
            x509_authorities: vec![certificate(b"a", false)],
            jwt_authorities: vec![key("1", 6, false), key("2", 0, false)],
            refresh_hint: 1,
            sequence_number: 1,
            ..Bundle::default()
        };
        assert_eq!(
            bundle_fields(&one, &other),
            [
                "x509_authorities",
                "jwt_authorities",
                "refresh_hint",
                "sequence_number"
            ]
        );
    }

    #[test]
    fn relationships_differ_by_endpoint_and_profile() {
        let with = |url: &str, profile| FederationRelationship {
            bundle_endpoint_url: url.into(),
            bundle_endpoint_profile: profile,
            ..FederationRelationship::default()
        };
        let web = Some(BundleEndpointProfile::HttpsWeb(HttpsWebProfile {}));
        let spiffe = |id: &str| {
            Some(BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
                endpoint_spiffe_id: id.into(),
            }))
        };
        let one = with("https://a", spiffe("x"));
        assert!(relationship_fields(&one, &one.clone()).is_empty());
        assert_eq!(
            relationship_fields(&one, &with("https://b", web)),
            ["bundle_endpoint_url", "bundle_endpoint_profile"]
        );
        assert_eq!(
            relationship_fields(&one, &with("https://a", spiffe("y"))),
            ["bundle_endpoint_profile"]
        );
    }
}
