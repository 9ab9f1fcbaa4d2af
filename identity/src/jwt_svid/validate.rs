//! Whether to believe a token (JWT-SVID §5, RFC 7515 §5.2, RFC 7519 §7.2).
//!
//! The caller brings the keys of one trust domain, and the token must be of that
//! trust domain: keys vouch for no other. The algorithm is pinned by the kind of
//! the key; the token's `alg` can only agree. Foreign issuers may write what ours
//! does not (an `aud` that is one string, a fractional `exp`, further claims), so
//! this reader is wider than the judge's, and no less strict about what it needs.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::JwtAlgorithm;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::key::{KeyError, PublicKey};

/// Largest token read, in bytes.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Clock skew forgiven at both ends of a token's life, as go-spiffe forgives
/// (RFC 7519 §4.1.4 allows "a few minutes").
pub const LEEWAY_SECONDS: i64 = 60;

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// Larger than [`TOKEN_BYTES_MAX`].
    #[error("token is larger than {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    /// Not a compact JWS of three parts (RFC 7515 §7.1).
    #[error("token is malformed")]
    Malformed,
    /// The algorithm is not one of ours (JWT-SVID §2.1).
    #[error("token algorithm is not supported")]
    Algorithm,
    /// The header has no `kid`, without which no key is tried.
    #[error("token header missing key id")]
    NoKeyId,
    /// `typ` is neither `JWT` nor `JOSE` (JWT-SVID §2.3).
    #[error("token header type is not JWT")]
    Type,
    /// The header demands an extension that we do not know (RFC 7515 §4.1.11).
    #[error("token header has critical extensions")]
    Critical,
    /// There is no `sub`.
    #[error("token missing subject claim")]
    NoSubject,
    /// `sub` is not a SPIFFE ID, or one without a path.
    #[error("token has an invalid subject claim: {0}")]
    Subject(IdError),
    /// There is no `exp`, or one that is no time (JWT-SVID §3.3).
    #[error("token missing exp claim")]
    NoExpiry,
    /// `sub` is of another trust domain than the keys.
    #[error("token subject is not of trust domain \"{0}\"")]
    ForeignTrustDomain(TrustDomain),
    /// The trust domain has no such key.
    #[error("public key not found in trust domain \"{0}\"")]
    UnknownKey(TrustDomain),
    /// The signature is not one by that key.
    #[error(transparent)]
    Signature(KeyError),
    /// The token has expired.
    #[error("token has expired")]
    Expired,
    /// The token says that it is of the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The expected audience is not in `aud` (JWT-SVID §3.2).
    #[error("expected audience is not among the token's")]
    Audience,
}

/// A token that was believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// The `sub` claim.
    pub id: SpiffeId,
    /// The `aud` claim.
    pub audience: Vec<String>,
    /// The `exp` claim, in Unix seconds.
    pub expires_at: i64,
    /// All claims as they stand.
    pub claims: Map<String, Value>,
}

/// Unknown header fields are ignored (RFC 7515 §4); repeated ones are refused.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// Validates `token` for `audience` under the `keys`, by key id, of `trust_domain`.
///
/// # Errors
/// [`ValidateError`]. Nothing of the token is to be used then.
pub fn validate(
    token: &str,
    keys: &BTreeMap<String, PublicKey>,
    trust_domain: &TrustDomain,
    audience: &str,
    now: i64,
) -> Result<Validated, ValidateError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(ValidateError::TooLarge);
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(ValidateError::Malformed)?;
    let (header, body) = signing_input
        .split_once('.')
        .ok_or(ValidateError::Malformed)?;
    let header: Header = read(header)?;
    let algorithm = JwtAlgorithm::from_name(&header.alg).ok_or(ValidateError::Algorithm)?;
    let kid = check_header(&header)?;

    // The claims are read before the signature is checked because `sub` says whose
    // keys to use; nothing of them is believed until it was.
    let claims: Map<String, Value> = read(body)?;
    let id = read_subject(&claims)?;
    if !id.is_member_of(trust_domain) {
        return Err(ValidateError::ForeignTrustDomain(trust_domain.clone()));
    }
    let key = keys
        .get(kid)
        .ok_or_else(|| ValidateError::UnknownKey(trust_domain.clone()))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| ValidateError::Malformed)?;
    algorithm
        .verify(key, signing_input.as_bytes(), &signature)
        .map_err(ValidateError::Signature)?;

    let expires_at = read_time(&claims, "exp")?.ok_or(ValidateError::NoExpiry)?;
    if now > expires_at.saturating_add(LEEWAY_SECONDS) {
        return Err(ValidateError::Expired);
    }
    for claim in ["nbf", "iat"] {
        if let Some(at) = read_time(&claims, claim)?
            && now < at.saturating_sub(LEEWAY_SECONDS)
        {
            return Err(ValidateError::NotYetValid);
        }
    }
    let audiences = read_audience(&claims)?;
    if audience.is_empty() || !audiences.iter().any(|aud| aud == audience) {
        return Err(ValidateError::Audience);
    }
    Ok(Validated {
        id,
        audience: audiences,
        expires_at,
        claims,
    })
}

fn read<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, ValidateError> {
    let json = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| ValidateError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| ValidateError::Malformed)
}

fn check_header(header: &Header) -> Result<&str, ValidateError> {
    if header.crit.is_some() {
        return Err(ValidateError::Critical);
    }
    if !matches!(header.typ.as_deref(), None | Some("JWT" | "JOSE")) {
        return Err(ValidateError::Type);
    }
    match header.kid.as_deref() {
        None | Some("") => Err(ValidateError::NoKeyId),
        Some(kid) => Ok(kid),
    }
}

fn read_subject(claims: &Map<String, Value>) -> Result<SpiffeId, ValidateError> {
    let subject = claims.get("sub").and_then(Value::as_str);
    let id = SpiffeId::parse(subject.ok_or(ValidateError::NoSubject)?)
        .map_err(ValidateError::Subject)?;
    id.require_member(&id.trust_domain())
        .map_err(ValidateError::Subject)?;
    Ok(id)
}

/// RFC 7519 §2, NumericDate: seconds, possibly with a fraction, which is dropped.
fn read_time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, ValidateError> {
    /// Far beyond any date, and exact as a float.
    const LATEST: f64 = 1e15;
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            #[allow(clippy::cast_possible_truncation)] // dropping the fraction is meant
            (None, Some(seconds)) if seconds.abs() < LATEST => Ok(Some(seconds.floor() as i64)),
            _ => Err(ValidateError::Malformed),
        },
        Some(_) => Err(ValidateError::Malformed),
    }
}

/// RFC 7519 §4.1.3: a list of strings, or one.
fn read_audience(claims: &Map<String, Value>) -> Result<Vec<String>, ValidateError> {
    match claims.get("aud") {
        Some(Value::String(audience)) => Ok(vec![audience.clone()]),
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or(ValidateError::Malformed),
        None => Err(ValidateError::Audience),
        Some(_) => Err(ValidateError::Malformed),
    }
}
