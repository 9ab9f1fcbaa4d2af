//! JWT-SVIDs: what one must and must not say, and whether to believe one.
//!
//! As with certificates, builder and judge are apart: [`signing_input`] writes the
//! bytes to sign, [`judge_signing_input`] and [`judge`] read them back and compare
//! them with what was meant, [`validate`] is what a workload's peer does. Header
//! and claims are written in the order and form in which SPIRE writes them.

mod algorithm;
mod judge;
mod validate;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

pub use algorithm::JwtAlgorithm;
pub use judge::{Expected, JwtViolation, judge, judge_signing_input};
pub use validate::{LEEWAY_SECONDS, TOKEN_BYTES_MAX, ValidateError, Validated, validate};

use crate::id::SpiffeId;

/// Most audiences in one token.
pub const AUDIENCES_MAX: usize = 256;

/// Why claims cannot be made. The text is SPIRE's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// No audience is left after empty ones are dropped (JWT-SVID §3.2).
    #[error("invalid JWT-SVID audience: cannot be empty")]
    NoAudience,
    /// More than [`AUDIENCES_MAX`] audiences.
    #[error("invalid JWT-SVID audience: more than {AUDIENCES_MAX} values")]
    TooManyAudiences,
    /// The token would end before it begins.
    #[error("invalid JWT-SVID lifetime")]
    Lifetime,
}

/// The claims of a token that we issue. There is no `nbf`, as with SPIRE: a clock
/// a little behind ours would refuse a token just issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    subject: SpiffeId,
    audience: Vec<String>,
    issued_at: i64,
    expires_at: i64,
    issuer: Option<String>,
    jwt_id: Option<String>,
}

impl Claims {
    /// Claims for `subject` towards `audience`, from which empty strings are
    /// dropped. Times are Unix seconds.
    ///
    /// # Errors
    /// [`ClaimsError`].
    pub fn new(
        subject: SpiffeId,
        audience: Vec<String>,
        issued_at: i64,
        expires_at: i64,
    ) -> Result<Self, ClaimsError> {
        let audience: Vec<String> = audience.into_iter().filter(|aud| !aud.is_empty()).collect();
        if audience.is_empty() {
            return Err(ClaimsError::NoAudience);
        }
        if audience.len() > AUDIENCES_MAX {
            return Err(ClaimsError::TooManyAudiences);
        }
        if issued_at <= 0 || expires_at <= issued_at {
            return Err(ClaimsError::Lifetime);
        }
        Ok(Claims {
            subject,
            audience,
            issued_at,
            expires_at,
            issuer: None,
            jwt_id: None,
        })
    }

    /// With an `iss` claim, which OIDC verifiers need (RFC 7519 §4.1.1).
    #[must_use]
    pub fn with_issuer(mut self, issuer: Option<String>) -> Self {
        self.issuer = issuer;
        self
    }

    /// With a `jti` claim made of 16 random bytes (RFC 7519 §4.1.7), in unpadded
    /// base64url as SPIRE's; bytes of a version 4 UUID are SPIRE's choice of random.
    #[must_use]
    pub fn with_jwt_id(mut self, random: Option<[u8; 16]>) -> Self {
        self.jwt_id = random.map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        self
    }

    /// The `sub` claim.
    #[must_use]
    pub fn subject(&self) -> &SpiffeId {
        &self.subject
    }

    /// The `aud` claim.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// The `iat` claim, in Unix seconds.
    #[must_use]
    pub fn issued_at(&self) -> i64 {
        self.issued_at
    }

    /// The `exp` claim, in Unix seconds.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// The `jti` claim.
    #[must_use]
    pub fn jwt_id(&self) -> Option<&str> {
        self.jwt_id.as_deref()
    }
}

/// Fields in alphabetical order, which is how SPIRE's libraries write maps.
#[derive(Serialize)]
struct HeaderForm<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

#[derive(Serialize)]
struct ClaimsForm<'a> {
    aud: &'a [String],
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    sub: &'a str,
}

/// The bytes to sign: header and claims in base64url, joined by a dot (RFC 7515
/// §5.1). The header is `alg`, `kid` and `typ` and nothing else (JWT-SVID §2).
#[must_use]
pub fn signing_input(algorithm: JwtAlgorithm, kid: &str, claims: &Claims) -> String {
    let header = HeaderForm {
        alg: algorithm.name(),
        kid,
        typ: "JWT",
    };
    let claims = ClaimsForm {
        aud: &claims.audience,
        exp: claims.expires_at,
        iat: claims.issued_at,
        iss: claims.issuer.as_deref(),
        jti: claims.jwt_id.as_deref(),
        sub: claims.subject.as_str(),
    };
    format!("{}.{}", encode_part(&header), encode_part(&claims))
}

/// The token of a signing input and the signature over it: `r || s` for ECDSA,
/// as it is for RSA (RFC 7518 §3.3, §3.4).
#[must_use]
pub fn assemble(signing_input: &str, raw_signature: &[u8]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(raw_signature))
}

fn encode_part(part: &impl Serialize) -> String {
    let json = serde_json::to_vec(part).expect("strings and integers always have a JSON form");
    URL_SAFE_NO_PAD.encode(json)
}

#[cfg(test)]
mod tests;
