//! Bundles from documents that someone else wrote.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::jwk::Jwk;
use super::{Bundle, JwtAuthority, X509Authority};
use crate::id::TrustDomain;

/// Largest document read, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most keys in one document.
pub const KEYS_MAX: usize = 1024;

/// What to do with a key that we cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Refuse the document, as SPIRE does. For what an operator hands in.
    Strict,
    /// Pass over keys of unknown use or kind, as the standard asks of readers (§4.2.2).
    /// For what another trust domain publishes.
    Lenient,
}

/// Why a document is refused. The text is SPIRE's where SPIRE refuses it too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Larger than [`DOCUMENT_BYTES_MAX`].
    #[error("bundle is larger than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// More than [`KEYS_MAX`] keys.
    #[error("bundle has more than {KEYS_MAX} keys")]
    TooManyKeys,
    /// Not a JSON object with the members it should have.
    #[error("failed to decode bundle: {0}")]
    Json(String),
    /// `keys` is missing (§4.1.3).
    #[error("no authorities found")]
    NoKeys,
    /// A key without `use`.
    #[error("missing use for key entry {0}")]
    NoUse(usize),
    /// A key of a use that SPIFFE does not know.
    #[error("unrecognized use \"{}\" for key entry {at}", .found.escape_default())]
    UnknownUse {
        /// What it says.
        found: String,
        /// Its place in the list, from 0.
        at: usize,
    },
    /// `x5c` has not exactly one certificate (§4.2.2).
    #[error("expected a single certificate in x509-svid entry {at}; got {count}")]
    CertificateCount {
        /// Its place in the list.
        at: usize,
        /// How many it has.
        count: usize,
    },
    /// A JWT key without `kid` (§4.2.2).
    #[error("missing key ID in jwt-svid entry {0}")]
    NoKeyId(usize),
    /// The key is malformed, too weak, of an unknown kind, or not that of its certificate.
    #[error("key entry {0} is not acceptable")]
    BadKey(usize),
}

#[derive(Deserialize)]
struct Document {
    keys: Option<Vec<Value>>,
    #[serde(default)]
    spiffe_sequence: Option<u64>,
    #[serde(default)]
    spiffe_refresh_hint: Option<i64>,
}

impl Bundle {
    /// Reads a SPIFFE bundle document of `trust_domain`; the document itself does
    /// not say whose it is.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn parse_spiffe_json(
        trust_domain: TrustDomain,
        document: &[u8],
        strictness: Strictness,
    ) -> Result<Self, ReadError> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(ReadError::TooLarge);
        }
        let document: Document =
            serde_json::from_slice(document).map_err(|error| ReadError::Json(error.to_string()))?;
        let keys = document.keys.ok_or(ReadError::NoKeys)?;
        if keys.len() > KEYS_MAX {
            return Err(ReadError::TooManyKeys);
        }
        let mut bundle = Bundle::new(trust_domain);
        bundle.sequence = document.spiffe_sequence.unwrap_or_default();
        bundle.refresh_hint = document.spiffe_refresh_hint.unwrap_or_default().max(0);
        for (at, value) in keys.into_iter().enumerate() {
            match (bundle.add(at, value), strictness) {
                (Err(error), Strictness::Strict) => return Err(error),
                (Ok(()), _) | (Err(_), Strictness::Lenient) => {}
            }
        }
        Ok(bundle)
    }

    fn add(&mut self, at: usize, value: Value) -> Result<(), ReadError> {
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| ReadError::BadKey(at))?;
        match jwk.usage.as_str() {
            "x509-svid" => {
                let authority = read_x509(at, &jwk)?;
                let known = |other: &X509Authority| other.der() == authority.der();
                if !self.x509_authorities.iter().any(known) {
                    self.x509_authorities.push(authority);
                }
            }
            "jwt-svid" => {
                let authority = read_jwt(at, &jwk)?;
                // The later of two keys with one id holds, as in SPIRE's map.
                self.jwt_authorities
                    .retain(|other| other.kid() != authority.kid());
                self.jwt_authorities.push(authority);
            }
            // Read by SPIRE, and of no use to us: WIT-SVIDs are not issued here.
            "wit-svid" => {}
            "" => return Err(ReadError::NoUse(at)),
            _ => {
                return Err(ReadError::UnknownUse {
                    found: jwk.usage,
                    at,
                });
            }
        }
        Ok(())
    }
}

fn read_x509(at: usize, jwk: &Jwk) -> Result<X509Authority, ReadError> {
    let [certificate] = &jwk.x5c[..] else {
        return Err(ReadError::CertificateCount {
            at,
            count: jwk.x5c.len(),
        });
    };
    let der = STANDARD
        .decode(certificate)
        .map_err(|_| ReadError::BadKey(at))?;
    let authority = X509Authority::new(der, false).map_err(|_| ReadError::BadKey(at))?;
    // RFC 7517 §4.7: the key's own members must agree with its certificate.
    if jwk.public_key().as_ref() != Some(&authority.public_key()) {
        return Err(ReadError::BadKey(at));
    }
    Ok(authority)
}

fn read_jwt(at: usize, jwk: &Jwk) -> Result<JwtAuthority, ReadError> {
    if jwk.kid.is_empty() {
        return Err(ReadError::NoKeyId(at));
    }
    let key = jwk.public_key().ok_or(ReadError::BadKey(at))?;
    JwtAuthority::new(key.spki_der(), jwk.kid.clone(), 0, false).map_err(|_| ReadError::BadKey(at))
}
