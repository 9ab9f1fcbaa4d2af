//! JWT-SVIDs.

use std::sync::Arc;

use chancery_hsm::{KeyRef, Signature};
use chancery_identity::id::SpiffeId;
use chancery_identity::jwt_svid::{
    Claims, Expected, JwtAlgorithm, assemble, judge, judge_signing_input, signing_input,
};
use chancery_identity::key::PublicKey;

use super::draw::Draw;
use super::error::IssueError;
use super::prepare::{Document, Prepared, SigningKey};
use super::validity::Validity;

/// An authority that signs tokens.
#[derive(Debug)]
pub struct JwtAuthority {
    kid: String,
    algorithm: JwtAlgorithm,
    not_after: i64,
    key: Arc<SigningKey>,
}

impl JwtAuthority {
    /// The authority of a recorded key (SubjectPublicKeyInfo) that ends at `not_after`, in Unix
    /// seconds.
    ///
    /// # Errors
    /// [`IssueError::AuthorityKey`], [`IssueError::AuthorityKeyKind`].
    pub fn new(
        kid: String,
        key: KeyRef,
        spki_der: &[u8],
        not_after: i64,
    ) -> Result<Self, IssueError> {
        let public_key = PublicKey::from_spki_der(spki_der).map_err(IssueError::AuthorityKey)?;
        let kind = public_key.kind();
        Ok(JwtAuthority {
            kid,
            algorithm: JwtAlgorithm::for_key(kind).ok_or(IssueError::AuthorityKeyKind(kind))?,
            not_after,
            key: Arc::new(SigningKey::new(key, public_key)?),
        })
    }

    /// The key id, which is also the authority's id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }
}

/// A token to make.
#[derive(Debug)]
pub struct TokenRequest<'a> {
    /// The `sub` claim.
    pub id: &'a SpiffeId,
    /// The `aud` claim; empty strings are dropped.
    pub audience: Vec<String>,
    /// How long it should live. It lives shorter when its authority ends before.
    pub ttl_seconds: i64,
    /// The `iss` claim, where one is configured.
    pub issuer: Option<String>,
    /// Whether it carries a `jti` claim, made of the draw.
    pub with_jwt_id: bool,
}

/// What a prepared token will say.
#[derive(Debug)]
pub struct TokenDraft {
    claims: Claims,
    authority: Arc<JwtAuthority>,
    capped: bool,
    now: i64,
}

impl TokenDraft {
    /// The claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The id of the authority that signs it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.authority.kid
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            algorithm: self.authority.algorithm,
            kid: &self.authority.kid,
            claims: &self.claims,
            authority_not_after: self.authority.not_after,
            now: self.now,
        }
    }
}

/// A token that may leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The compact form.
    pub token: String,
    /// Its claims.
    pub claims: Claims,
    /// The id of the authority that signed it.
    pub kid: String,
    /// Whether the authority's end made it shorter than asked for.
    pub capped: bool,
}

/// Builds and judges a token.
///
/// # Errors
/// [`IssueError`]; the authority's key was not used.
pub fn prepare_token(
    authority: &Arc<JwtAuthority>,
    request: TokenRequest<'_>,
    draw: &Draw,
) -> Result<Prepared<TokenDraft>, IssueError> {
    // A key has an end but no beginning, and a token no backdating: there is no `nbf`.
    let life = (0, authority.not_after);
    let validity = Validity::within(draw.now, request.ttl_seconds, life, draw.spread)?;
    let claims = Claims::new(
        request.id.clone(),
        request.audience,
        draw.now,
        validity.not_after,
    )
    .map_err(IssueError::Claims)?
    .with_issuer(request.issuer)
    .with_jwt_id(request.with_jwt_id.then(|| as_uuid(draw.serial)));
    let message = signing_input(authority.algorithm, &authority.kid, &claims);
    let draft = TokenDraft {
        claims,
        authority: Arc::clone(authority),
        capped: validity.capped,
        now: draw.now,
    };
    judge_signing_input(&message, &draft.expected()).map_err(IssueError::Token)?;
    Ok(Prepared::new(
        draft,
        message.into_bytes(),
        Arc::clone(&authority.key),
    ))
}

/// Random bytes marked as a version 4 UUID (RFC 9562 §5.4), which SPIRE's are.
fn as_uuid(mut random: [u8; 16]) -> [u8; 16] {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    random
}

impl Document for TokenDraft {
    type Issued = IssuedToken;

    fn verifies(&self, key: &SigningKey, message: &[u8], signature: &Signature) -> bool {
        let signature = signature.to_jws();
        let algorithm = self.authority.algorithm;
        algorithm
            .verify(key.public_key(), message, &signature)
            .is_ok()
    }

    fn finish(self, message: Vec<u8>, signature: &Signature) -> Result<IssuedToken, IssueError> {
        let message = String::from_utf8(message).expect("a signing input was made from a string");
        let token = assemble(&message, &signature.to_jws());
        judge(&token, &self.expected()).map_err(IssueError::Token)?;
        Ok(IssuedToken {
            token,
            kid: self.authority.kid.clone(),
            capped: self.capped,
            claims: self.claims,
        })
    }
}
