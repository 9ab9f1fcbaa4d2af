//! Issuing: from a decided request to a signed document, or to nothing.
//!
//! ```text
//! request + draw ─► build ─► judge ─► Prepared ─► sign ─► assemble ─► verify ─► judge ─► issued
//! ```
//!
//! - The builder (`tbs`, over rcgen) and the judge (`chancery_identity`) share no code, so a
//!   mistake of one is caught by the other *before* the authority's key is used.
//! - A [`Prepared`] document has been judged, is bound to its authority's key, and is consumed by
//!   signing: what was checked is what is signed, once.
//! - Time and random bits come in a [`Draw`]; nothing here asks the system for either.
//!
//! This room knows nothing of who may ask (the services decide that), of replicated state, and of
//! where keys live. It never retries: the caller knows its deadline.

mod draw;
mod error;
mod jwt;
mod prepare;
mod request;
mod subject;
mod tbs;
mod validity;
mod x509;

pub use draw::Draw;
pub use error::IssueError;
pub use jwt::{IssuedToken, JwtAuthority, TokenDraft, TokenRequest, prepare_token};
pub use prepare::{Document, MEMORY_CHECK_INTERVAL, Prepared, SigningKey};
pub use request::{RequestDraft, prepare_request};
pub use subject::Subject;
pub use validity::{BACKDATE_SECONDS, Validity};
pub use x509::{
    CertificateDraft, CertificateRequest, IssuedCertificate, X509Authority, prepare_certificate,
    prepare_self_signed,
};

#[cfg(test)]
mod tests;
