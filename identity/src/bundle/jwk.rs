//! Keys as JSON (RFC 7517, RFC 7518 §6, RFC 8037 §2), and back.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::key::{KeyKind, PublicKey, coordinate_bytes};

/// One key. The fields stand in the order in which go-jose writes them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Jwk {
    #[serde(rename = "use", default, skip_serializing_if = "String::is_empty")]
    pub(super) usage: String,
    #[serde(default)]
    pub(super) kty: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) kid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    crv: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) x5c: Vec<String>,
}

const CURVES: [(KeyKind, &str); 3] = [
    (KeyKind::EcP256, "P-256"),
    (KeyKind::EcP384, "P-384"),
    (KeyKind::EcP521, "P-521"),
];

impl Jwk {
    pub(super) fn of(key: &PublicKey) -> Self {
        let encode = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        if let Some((n, e)) = key.rsa_components() {
            return Jwk {
                kty: "RSA".into(),
                n: encode(n),
                e: encode(e),
                ..Jwk::default()
            };
        }
        match (coordinate_bytes(key.kind()), curve_name(key.kind())) {
            (Some(size), Some(curve)) => {
                // An uncompressed point: 0x04, then both coordinates in full length.
                let (x, y) = key.bits()[1..].split_at(size);
                Jwk {
                    kty: "EC".into(),
                    crv: curve.into(),
                    x: encode(x),
                    y: encode(y),
                    ..Jwk::default()
                }
            }
            _ => Jwk {
                kty: "OKP".into(),
                crv: "Ed25519".into(),
                x: encode(key.bits()),
                ..Jwk::default()
            },
        }
    }

    /// With the certificate of an X.509 authority, `x5c` of exactly one.
    pub(super) fn with_certificate(mut self, der: &[u8]) -> Self {
        self.x5c = vec![STANDARD.encode(der)];
        self
    }

    /// With what the key is for (SPIFFE Trust Domain and Bundle §4.2.2).
    pub(super) fn with_use(mut self, usage: &str) -> Self {
        usage.clone_into(&mut self.usage);
        self
    }

    /// With the id by which tokens name the key.
    pub(super) fn with_kid(mut self, kid: &str) -> Self {
        kid.clone_into(&mut self.kid);
        self
    }

    /// The key, if it is of a known kind, well formed and strong enough.
    pub(super) fn public_key(&self) -> Option<PublicKey> {
        let decode = |field: &Option<String>| URL_SAFE_NO_PAD.decode(field.as_ref()?).ok();
        match self.kty.as_str() {
            "EC" => {
                let (kind, _) = CURVES.iter().find(|(_, name)| *name == self.crv)?;
                let (x, y) = (decode(&self.x)?, decode(&self.y)?);
                let size = coordinate_bytes(*kind)?;
                // RFC 7518 §6.2.1.2: coordinates have the full length of the curve.
                if x.len() != size || y.len() != size {
                    return None;
                }
                PublicKey::from_point(*kind, &[&[0x04], &x[..], &y[..]].concat()).ok()
            }
            "RSA" => PublicKey::from_rsa_components(&decode(&self.n)?, &decode(&self.e)?).ok(),
            "OKP" if self.crv == "Ed25519" => {
                PublicKey::from_point(KeyKind::Ed25519, &decode(&self.x)?).ok()
            }
            _ => None,
        }
    }
}

fn curve_name(kind: KeyKind) -> Option<&'static str> {
    CURVES
        .iter()
        .find(|(known, _)| *known == kind)
        .map(|(_, name)| *name)
}
