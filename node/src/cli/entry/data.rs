//! Files with entries or ids: what `-data` and `-file` name.
//!
//! The form is Go's JSON of SPIRE's own record of an entry, not protobuf's mapping: names in
//! underscores but for `entryExpiry`, IDs as text, numbers as numbers. As with Go, names are
//! matched without regard to case, null is as good as absent, and unknown members are ignored.

use chancery_api::spire::api::types::{Entry, Selector, entry::AdditionalAttributes};
use chancery_identity::id::TrustDomain;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::error::CliError;
use crate::cli::{filter, input};

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entries {
    entries: Vec<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ids {
    ids: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Record {
    selectors: Vec<RecordSelector>,
    parent_id: String,
    spiffe_id: String,
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    federates_with: Vec<String>,
    entry_id: String,
    admin: bool,
    downstream: bool,
    entryexpiry: i64,
    dns_names: Vec<String>,
    revision_number: i64,
    store_svid: bool,
    hint: String,
    created_at: i64,
    additional_attributes: Option<RecordAttributes>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RecordSelector {
    r#type: String,
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RecordAttributes {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

/// The entries in `bytes`, which are those of the file at `path`.
///
/// # Errors
/// [`CliError::Json`]; [`CliError::Item`] with the position of a wrong entry.
pub(super) fn entries(bytes: &[u8], path: &str) -> Result<Vec<Entry>, CliError> {
    let file: Entries = input::json(bytes, path)?;
    let parsed = file.entries.into_iter().enumerate().map(|(at, value)| {
        entry(value).map_err(|error| CliError::Item {
            number: at + 1,
            source: Box::new(error),
        })
    });
    parsed.collect()
}

/// The ids in `bytes`, which are those of the file at `path`.
///
/// # Errors
/// [`CliError::Json`].
pub(super) fn ids(bytes: &[u8], path: &str) -> Result<Vec<String>, CliError> {
    input::json(bytes, path).map(|file: Ids| file.ids)
}

fn entry(value: Value) -> Result<Entry, CliError> {
    let record: Record = serde_json::from_value(value).map_err(CliError::Shape)?;
    let trust_domain = |text: &String| {
        TrustDomain::parse_name_or_id(text)
            .map(|trust_domain| trust_domain.as_str().to_owned())
            .map_err(|source| CliError::Id {
                what: "federated trust domain",
                text: text.clone(),
                source,
            })
    };
    let selector = |selector: RecordSelector| Selector {
        r#type: selector.r#type,
        value: selector.value,
    };
    let federates_with = record.federates_with.iter().map(trust_domain);
    Ok(Entry {
        id: record.entry_id,
        spiffe_id: Some(filter::id("SPIFFE ID", &record.spiffe_id)?),
        parent_id: Some(filter::id("parent ID", &record.parent_id)?),
        selectors: record.selectors.into_iter().map(selector).collect(),
        x509_svid_ttl: record.x509_svid_ttl,
        federates_with: federates_with.collect::<Result<_, _>>()?,
        admin: record.admin,
        downstream: record.downstream,
        expires_at: record.entryexpiry,
        dns_names: record.dns_names,
        revision_number: record.revision_number,
        store_svid: record.store_svid,
        jwt_svid_ttl: record.jwt_svid_ttl,
        hint: record.hint,
        created_at: record.created_at,
        additional_attributes: record.additional_attributes.map(|attributes| {
            AdditionalAttributes {
                disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
                jwt_svid_include_jti: attributes.jwt_svid_include_jti,
            }
        }),
    })
}

#[cfg(test)]
mod tests {
    use chancery_api::spire::api::types::Spiffeid;

    use super::*;

    /// What `read` makes of `json` on standard input.
    fn from_stdin<T>(
        json: &str,
        read: fn(&[u8], &str) -> Result<T, CliError>,
    ) -> Result<T, String> {
        read(json.as_bytes(), "-").map_err(|error| error.with_causes())
    }

    #[test]
    fn every_member_of_an_entry_arrives() {
        let json = r#"{"entries": [{
            "selectors": [{"type": "unix", "value": "uid:1111"}],
            "spiffe_id": "spiffe://example.org/Blog", "parent_id": "spiffe://example.org/node",
            "x509_svid_ttl": 200, "jwt_svid_ttl": 30, "entry_id": "blog", "admin": true,
            "downstream": true, "entryExpiry": 1552410266, "store_svid": true, "hint": "external",
            "dns_names": ["blog", "www"], "created_at": null,
            "federates_with": ["spiffe://other.org", "third.org"],
            "additional_attributes": {"disable_x509_svid_prefetch": true}
        }]}"#;
        let id = |path: &str| {
            Some(Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            })
        };
        let expected = Entry {
            id: "blog".into(),
            spiffe_id: id("/Blog"),
            parent_id: id("/node"),
            selectors: vec![Selector {
                r#type: "unix".into(),
                value: "uid:1111".into(),
            }],
            x509_svid_ttl: 200,
            federates_with: vec!["other.org".into(), "third.org".into()],
            admin: true,
            downstream: true,
            expires_at: 1_552_410_266,
            dns_names: vec!["blog".into(), "www".into()],
            revision_number: 0,
            store_svid: true,
            jwt_svid_ttl: 30,
            hint: "external".into(),
            created_at: 0,
            additional_attributes: Some(AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: false,
            }),
        };
        assert_eq!(from_stdin(json, entries).unwrap(), [expected]);
    }

    #[test]
    fn names_are_matched_without_case_and_unknown_ones_ignored() {
        let json = r#"{"Entries": [{"SPIFFE_ID": "spiffe://a.org/x", "parent_id": "spiffe://a.org/y",
                       "entryexpiry": 7, "comment": "kept for people"}], "version": 1}"#;
        let parsed = from_stdin(json, entries).unwrap();
        assert_eq!(parsed[0].expires_at, 7);
    }

    #[test]
    fn a_wrong_entry_is_named_by_its_position() {
        let json = r#"{"entries": [
            {"spiffe_id": "spiffe://a.org/x", "parent_id": "spiffe://a.org/y"},
            {"spiffe_id": "spiffe://a.org/x", "parent_id": "y"}]}"#;
        assert_eq!(
            from_stdin(json, entries).unwrap_err(),
            "entry 2: error parsing parent ID \"y\": scheme is missing or invalid"
        );
        let json = r#"{"entries": [{"x509_svid_ttl": "60"}]}"#;
        let error = from_stdin(json, entries).unwrap_err();
        assert!(
            error.starts_with("entry 1: not a registration entry: "),
            "{error}"
        );
        let json = r#"{"entries": [{"x509_svid_ttl": 2147483648}]}"#;
        assert!(
            from_stdin(json, entries)
                .unwrap_err()
                .contains("2147483648")
        );
    }

    #[test]
    fn ids_come_from_their_member_only() {
        assert_eq!(
            from_stdin(r#"{"ids": ["a", "b"]}"#, ids).unwrap(),
            ["a", "b"]
        );
        assert!(from_stdin("{}", ids).unwrap().is_empty());
        assert!(from_stdin(r#"["a"]"#, ids).unwrap_err().starts_with("-: "));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        assert!(from_stdin("", entries).unwrap_err().starts_with("-: EOF"));
    }
}
