//! Whether a token about to be signed, or about to leave, is what was meant.
//!
//! The judge reads the bytes with a reader of its own, exact about every field, and
//! shares nothing with the writer but the names: a claim too many, one in another
//! type, or a header that points at another key cannot pass.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{Claims, JwtAlgorithm, TOKEN_BYTES_MAX};

/// What a token is meant to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// That of the signing key.
    pub algorithm: JwtAlgorithm,
    /// The id of the signing key.
    pub kid: &'a str,
    /// The claims.
    pub claims: &'a Claims,
    /// When the signing key ends, in Unix seconds; no token outlives it.
    pub authority_not_after: i64,
    /// Unix seconds.
    pub now: i64,
}

/// Why a token must not be signed or must not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtViolation {
    /// Not of the form `header.claims` or `header.claims.signature` (RFC 7515 §7.1).
    #[error("token does not have the right number of parts")]
    Parts,
    /// Larger than anyone reads.
    #[error("token is larger than {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    /// The header is not JSON of exactly `alg`, `kid` and `typ` (JWT-SVID §2).
    #[error("malformed token header")]
    Header,
    /// `alg` is not that of the key (JWT-SVID §2.1).
    #[error("alg is not that of the signing key")]
    Algorithm,
    /// `kid` is not that of the key (JWT-SVID §2.2).
    #[error("kid is not that of the signing key")]
    KeyId,
    /// `typ` is not `JWT` (JWT-SVID §2.3).
    #[error("typ is not JWT")]
    Type,
    /// The claims are not JSON of exactly the claims that we issue.
    #[error("malformed token claims")]
    Claims,
    /// `sub` is not the expected ID (JWT-SVID §3.1).
    #[error("sub is not the expected SPIFFE ID")]
    Subject,
    /// The ID has no path, so it is nobody's.
    #[error("sub has no path")]
    SubjectPath,
    /// `aud` is not the expected list (JWT-SVID §3.2).
    #[error("aud is not the expected audience")]
    Audience,
    /// `exp` or `iat` is not the expected one (JWT-SVID §3.3).
    #[error("exp or iat is not the expected one")]
    Times,
    /// `iss` or `jti` is not the expected one.
    #[error("iss or jti is not the expected one")]
    Optional,
    /// The token has already expired.
    #[error("token has already expired")]
    Expired,
    /// The token outlives the key that signs it.
    #[error("token outlives its authority")]
    OutlivesAuthority,
    /// The signature is not base64url or not of the algorithm's length (RFC 7518 §3.4).
    #[error("malformed token signature")]
    Signature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: Option<String>,
    jti: Option<String>,
    sub: String,
}

/// Judges the bytes to sign. They may be signed if and only if this returns `Ok`.
///
/// # Errors
/// The first rule that is broken.
pub fn judge_signing_input(
    signing_input: &str,
    expected: &Expected<'_>,
) -> Result<(), JwtViolation> {
    if signing_input.len() > TOKEN_BYTES_MAX {
        return Err(JwtViolation::TooLarge);
    }
    let (header, body) = signing_input.split_once('.').ok_or(JwtViolation::Parts)?;
    if body.contains('.') {
        return Err(JwtViolation::Parts);
    }
    let header: Header = read(header).ok_or(JwtViolation::Header)?;
    let body: Body = read(body).ok_or(JwtViolation::Claims)?;
    check_header(&header, expected)?;
    check_body(&body, expected)
}

/// Judges a whole token by the same rules, and that its signature has the form that
/// the algorithm demands. Whether it verifies is for [`JwtAlgorithm::verify`].
///
/// # Errors
/// The first rule that is broken.
pub fn judge(token: &str, expected: &Expected<'_>) -> Result<(), JwtViolation> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwtViolation::TooLarge);
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(JwtViolation::Parts)?;
    judge_signing_input(signing_input, expected)?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| JwtViolation::Signature)?;
    match expected.algorithm.signature_bytes() {
        Some(length) if signature.len() != length => Err(JwtViolation::Signature),
        None if signature.is_empty() => Err(JwtViolation::Signature),
        _ => Ok(()),
    }
}

fn read<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

fn check_header(header: &Header, expected: &Expected<'_>) -> Result<(), JwtViolation> {
    if header.alg != expected.algorithm.name() {
        return Err(JwtViolation::Algorithm);
    }
    if header.kid != expected.kid || header.kid.is_empty() {
        return Err(JwtViolation::KeyId);
    }
    if header.typ != "JWT" {
        return Err(JwtViolation::Type);
    }
    Ok(())
}

fn check_body(body: &Body, expected: &Expected<'_>) -> Result<(), JwtViolation> {
    let claims = expected.claims;
    if body.sub != claims.subject().as_str() {
        return Err(JwtViolation::Subject);
    }
    if claims.subject().path().is_empty() {
        return Err(JwtViolation::SubjectPath);
    }
    if body.aud != claims.audience() {
        return Err(JwtViolation::Audience);
    }
    if body.exp != claims.expires_at() || body.iat != claims.issued_at() {
        return Err(JwtViolation::Times);
    }
    if body.iss != claims.issuer || body.jti != claims.jwt_id {
        return Err(JwtViolation::Optional);
    }
    if body.exp <= expected.now {
        return Err(JwtViolation::Expired);
    }
    if body.exp > expected.authority_not_after {
        return Err(JwtViolation::OutlivesAuthority);
    }
    Ok(())
}
