//! Bundles as documents, byte for byte as SPIRE prints them.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::jwk::Jwk;
use super::{Bundle, JwtAuthority};

/// Members stand in the order, and are left out when zero, as go-spiffe does.
#[derive(Serialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_sequence: u64,
    #[serde(skip_serializing_if = "is_not_positive")]
    spiffe_refresh_hint: i64,
}

#[derive(Serialize)]
struct KeySet {
    keys: Vec<Jwk>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the form that serde calls
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the form that serde calls
fn is_not_positive(value: &i64) -> bool {
    *value <= 0
}

impl Bundle {
    /// The SPIFFE bundle document (§4), indented by four spaces, without a newline
    /// at the end. X.509 authorities come first, then JWT authorities, each in the
    /// bundle's order; taint and expiry have no place in it. A bundle without keys
    /// has an empty list, because `keys` must be there (§4.1.3).
    #[must_use]
    pub fn to_spiffe_json(&self) -> String {
        let x509 = self.x509_authorities.iter().map(|authority| {
            Jwk::of(&authority.public_key())
                .with_use("x509-svid")
                .with_certificate(authority.der())
        });
        let jwt = self.jwt_authorities.iter();
        let jwt = jwt.map(|authority| jwt_key(authority).with_use("jwt-svid"));
        to_json(&Document {
            keys: x509.chain(jwt).collect(),
            spiffe_sequence: self.sequence,
            spiffe_refresh_hint: self.refresh_hint,
        })
    }

    /// The JWT authorities as a plain JSON Web Key Set (RFC 7517 §5), without `use`
    /// and SPIFFE's own members, as the Workload API serves it.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        to_json(&KeySet {
            keys: self.jwt_authorities.iter().map(jwt_key).collect(),
        })
    }
}

fn jwt_key(authority: &JwtAuthority) -> Jwk {
    Jwk::of(authority.public_key()).with_kid(authority.kid())
}

fn to_json(document: &impl Serialize) -> String {
    let mut out = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    document
        .serialize(&mut serializer)
        .expect("strings and integers always have a JSON form");
    let text = String::from_utf8(out).expect("JSON text is UTF-8");
    escape_like_go(&text)
}

/// Go escapes what could end an HTML script element. These characters stand nowhere
/// in JSON but inside strings, and only a key id can hold them.
fn escape_like_go(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out
}
