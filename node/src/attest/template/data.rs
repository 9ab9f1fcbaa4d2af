//! What templates see: the root's fields, and the members of their values.
//!
//! One list says which fields there are, of which kind, and how each is read, so that
//! what passes the check can be read.

use std::collections::BTreeMap;

use chancery_identity::pki::{Certificate, Name};

use super::value::{Value, year};

/// What is known of the node that attests.
#[derive(Clone, Debug)]
pub struct Data<'a> {
    /// Its certificate.
    pub certificate: &'a Certificate,
    /// Name of the method.
    pub plugin_name: &'a str,
    /// SHA-1 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// Serial number of the certificate, lower-case hex of even length.
    pub serial_number_hex: String,
    /// The cluster's trust domain.
    pub trust_domain: &'a str,
    /// Path of the certificate's SPIFFE ID without the prefix; empty outside `spiffe` mode.
    pub svid_path_trimmed: String,
    /// Keys and values of the URIs `x509pop://TD/<key>/<value>`.
    pub uri_san_selectors: BTreeMap<String, String>,
}

type Read = fn(&Data<'_>) -> Value;

/// Fields of the root.
const ROOT: [(&str, Read); 15] = [
    ("Subject", |d| {
        Value::Name(d.certificate.subject().clone().into())
    }),
    ("Issuer", |d| {
        Value::Name(d.certificate.issuer().clone().into())
    }),
    ("SerialNumber", |d| {
        Value::Number(d.certificate.serial().into())
    }),
    ("DNSNames", |d| Value::texts(d.certificate.dns_names())),
    ("EmailAddresses", |d| {
        Value::texts(d.certificate.email_addresses())
    }),
    ("IPAddresses", |d| {
        Value::list(
            d.certificate
                .ip_addresses()
                .iter()
                .map(|a| Value::Address(*a)),
        )
    }),
    ("URIs", |d| {
        Value::list(
            d.certificate
                .uris()
                .iter()
                .map(|u| Value::Uri(u.clone().into())),
        )
    }),
    ("NotBefore", |d| Value::Time(d.certificate.not_before())),
    ("NotAfter", |d| Value::Time(d.certificate.not_after())),
    ("PluginName", |d| Value::text(d.plugin_name)),
    ("Fingerprint", |d| Value::text(&d.fingerprint)),
    ("SerialNumberHex", |d| Value::text(&d.serial_number_hex)),
    ("TrustDomain", |d| Value::text(d.trust_domain)),
    ("SVIDPathTrimmed", |d| Value::text(&d.svid_path_trimmed)),
    ("URISanSelectors", |d| {
        Value::Map(d.uri_san_selectors.clone().into())
    }),
];

/// Members of a name.
const NAME: [&str; 10] = [
    "CommonName",
    "SerialNumber",
    "Country",
    "Organization",
    "OrganizationalUnit",
    "Locality",
    "Province",
    "StreetAddress",
    "PostalCode",
    "String",
];
/// Members of a URI.
const URI: [&str; 10] = [
    "Scheme",
    "Opaque",
    "Host",
    "Path",
    "RawQuery",
    "Fragment",
    "Hostname",
    "Port",
    "EscapedPath",
    "String",
];
/// Members of a time.
const TIME: [&str; 3] = ["Unix", "Year", "String"];
/// Members of other values that print themselves.
const TEXT: [&str; 1] = ["String"];

/// Checks a chain of fields that begins at the root, as far as it can be known before
/// there is a certificate.
pub(super) fn check(chain: &[String]) -> Result<(), String> {
    let Some((first, rest)) = chain.split_first() else {
        return Err("the whole data (.) cannot be used; name a field".into());
    };
    let known: &[&str] = match first.as_str() {
        // Its members are what certificates say.
        "URISanSelectors" if rest.len() <= 1 => return Ok(()),
        "Subject" | "Issuer" => &NAME,
        "NotBefore" | "NotAfter" => &TIME,
        "SerialNumber" => &TEXT,
        name if ROOT.iter().any(|(known, _)| *known == name) => &[],
        name => return Err(format!("field .{name} is not supported")),
    };
    match rest {
        [] => Ok(()),
        [member] if known.contains(&member.as_str()) => Ok(()),
        _ => Err(format!("field .{} is not supported", chain.join("."))),
    }
}

/// Checks the name of a field of a value that is not known yet.
pub(super) fn check_member(name: &str) -> Result<(), String> {
    let lists: [&[&str]; 4] = [&NAME, &URI, &TIME, &TEXT];
    if lists.iter().any(|list| list.contains(&name)) {
        Ok(())
    } else {
        Err(format!("field .{name} is not supported"))
    }
}

impl Data<'_> {
    /// A field of the root.
    pub(super) fn field(&self, name: &str) -> Result<Value, String> {
        ROOT.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, read)| read(self))
            .ok_or_else(|| format!("field .{name} is not supported"))
    }
}

/// A member of a value.
pub(super) fn member(value: &Value, name: &str) -> Result<Value, String> {
    let found = match value {
        Value::Map(map) => {
            let found = map.get(name).map(Value::text);
            return found.ok_or_else(|| format!("map has no entry for key {name:?}"));
        }
        Value::Name(of) => name_member(of, name),
        Value::Uri(uri) => match name {
            "Scheme" => Some(uri.scheme()),
            "Opaque" => Some(uri.opaque()),
            "Host" => Some(uri.host()),
            "Path" => Some(uri.path()),
            "RawQuery" => Some(uri.query()),
            "Fragment" => Some(uri.fragment()),
            "Hostname" => Some(uri.host_name()),
            "Port" => Some(uri.port()),
            "EscapedPath" => Some(uri.escaped_path()),
            "String" => Some(uri.as_str()),
            _ => None,
        }
        .map(Value::text),
        Value::Time(seconds) => match name {
            "Unix" => Some(Value::Int(*seconds)),
            "Year" => Some(Value::Int(year(*seconds))),
            "String" => Some(Value::text(value.show())),
            _ => None,
        },
        Value::Address(_) | Value::Number(_) if name == "String" => Some(Value::text(value.show())),
        Value::Nil => return Err(format!("nil data; no entry for key {name:?}")),
        _ => None,
    };
    found.ok_or_else(|| format!("can't evaluate field {name} in type {}", value.kind()))
}

fn name_member(of: &Name, name: &str) -> Option<Value> {
    Some(match name {
        "CommonName" => Value::text(of.common_name()),
        "SerialNumber" => Value::text(of.serial_number()),
        "Country" => Value::texts(of.country()),
        "Organization" => Value::texts(of.organization()),
        "OrganizationalUnit" => Value::texts(of.organizational_unit()),
        "Locality" => Value::texts(of.locality()),
        "Province" => Value::texts(of.province()),
        "StreetAddress" => Value::texts(of.street_address()),
        "PostalCode" => Value::texts(of.postal_code()),
        "String" => Value::text(of.to_string()),
        _ => return None,
    })
}
