//! Why nothing was issued.

use chancery_hsm::{KeyRef, SignerError};
use chancery_identity::DerError;
use chancery_identity::csr::CsrError;
use chancery_identity::jwt_svid::{ClaimsError, JwtViolation};
use chancery_identity::key::{KeyError, KeyKind};
use chancery_identity::x509_svid::{CaError, ProfileViolation, SerialError};

/// Why no document leaves. [`IssueError::is_our_mistake`] parts what operators should hear of from
/// what callers did.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority's certificate cannot be an issuer.
    #[error("authority certificate is not usable")]
    Authority(#[source] CaError),
    /// The authority's recorded key cannot be read.
    #[error("authority key is not usable")]
    AuthorityKey(#[source] KeyError),
    /// The authority's key is of a kind that no signer has.
    #[error("authority key of kind {0:?} cannot sign")]
    AuthorityKeyKind(KeyKind),
    /// The authority ends now or has ended.
    #[error("authority ended at {not_after}, and now is {now}")]
    AuthorityExpired {
        /// Unix seconds.
        not_after: i64,
        /// Unix seconds.
        now: i64,
    },
    /// The authority begins in the future: this node's clock is behind.
    #[error("authority begins at {not_before}, and now is {now}")]
    AuthorityNotYetValid {
        /// Unix seconds.
        not_before: i64,
        /// Unix seconds.
        now: i64,
    },
    /// The lifetime is not positive, or ends after the year 9999.
    #[error("lifetime of {0} seconds is not possible")]
    Lifetime(i64),
    /// The subject has a value that its type cannot hold.
    #[error("subject is not possible: {0}")]
    Subject(&'static str),
    /// The draw cannot be a serial number.
    #[error("drawn serial number is not possible")]
    Serial(#[source] SerialError),
    /// The claims of the token are not possible.
    #[error(transparent)]
    Claims(ClaimsError),
    /// The builder failed.
    #[error("certificate could not be built")]
    Build(#[source] rcgen::Error),
    /// What was built is not DER to the judge.
    #[error("certificate could not be put together")]
    Assemble(#[source] DerError),
    /// The certificate is not what was meant. Nothing was or will be signed, or what was signed
    /// stays here.
    #[error("certificate violates its profile")]
    Certificate(#[source] ProfileViolation),
    /// The token is not what was meant.
    #[error("token violates its profile")]
    Token(#[source] JwtViolation),
    /// The request for a CA certificate is not one to the judge, or its signature does not verify.
    #[error("request is not usable")]
    Request(#[source] CsrError),
    /// The request for a CA certificate asks for something else than was meant.
    #[error("request is not what was meant")]
    RequestDiffers,
    /// The signer did not sign.
    #[error("signing failed")]
    Signer(#[source] SignerError),
    /// The signature is not one by the recorded key over what was to be signed. It was thrown away.
    #[error("signature by key {0} does not verify with the recorded public key")]
    WrongSignature(KeyRef),
}

impl IssueError {
    /// Whether this can only come from a defect or a broken backend, never from what a caller asked
    /// for or from an authority that came to its end.
    #[must_use]
    pub fn is_our_mistake(&self) -> bool {
        match self {
            IssueError::Authority(_)
            | IssueError::AuthorityKey(_)
            | IssueError::AuthorityKeyKind(_)
            | IssueError::Serial(_)
            | IssueError::Build(_)
            | IssueError::Assemble(_)
            | IssueError::Certificate(_)
            | IssueError::Token(_)
            | IssueError::Request(_)
            | IssueError::RequestDiffers
            | IssueError::WrongSignature(_) => true,
            IssueError::AuthorityExpired { .. }
            | IssueError::AuthorityNotYetValid { .. }
            | IssueError::Lifetime(_)
            | IssueError::Subject(_)
            | IssueError::Claims(_)
            | IssueError::Signer(_) => false,
        }
    }
}
