//! The name of a trust domain.
//!
//! SPIFFE-ID §2.1 limits the name to lower-case letters, digits, dots, dashes and
//! underscores; §2.4 asks readers to compare it without regard to case. The two
//! pull apart for input such as `Example.org`. Chancery refuses it, as SPIRE does:
//! an ID that is never folded needs no rule for which spelling is signed, stored
//! and compared, and no peer can present two spellings of one name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{IdError, SCHEME, SpiffeId};

/// Longest trust domain name, in bytes (SPIFFE-ID §2.1).
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// A valid trust domain name such as `example.org`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name.
    ///
    /// # Errors
    /// The trust domain variants of [`IdError`].
    pub fn parse(name: &str) -> Result<Self, IdError> {
        validate(name)?;
        Ok(TrustDomain(name.into()))
    }

    /// Parses a bare name or takes the trust domain of a whole SPIFFE ID, as
    /// SPIRE does where it reads `federates_with`.
    ///
    /// # Errors
    /// As [`TrustDomain::parse`], or as [`SpiffeId::parse`] when the text holds `:/`.
    pub fn parse_name_or_id(text: &str) -> Result<Self, IdError> {
        if text.contains(":/") {
            return SpiffeId::parse(text).map(|id| id.trust_domain());
        }
        Self::parse(text)
    }

    /// `name` was taken out of a valid ID.
    pub(super) fn from_valid(name: &str) -> Self {
        debug_assert!(validate(name).is_ok());
        TrustDomain(name.into())
    }

    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own ID as text, `spiffe://NAME`.
    #[must_use]
    pub fn id_string(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

pub(super) fn validate(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::MissingTrustDomain);
    }
    if name.len() > TRUST_DOMAIN_BYTES_MAX {
        return Err(IdError::TrustDomainTooLong);
    }
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if !name.bytes().all(allowed) {
        return Err(IdError::BadTrustDomainChar);
    }
    Ok(())
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        Self::parse(name)
    }
}
