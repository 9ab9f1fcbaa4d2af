//! SPIFFE IDs: parsed once, valid from then on, compared as bytes.
//!
//! Nothing here normalises. An ID that is not already in its one canonical
//! spelling is refused, so that two strings that name the same workload cannot
//! exist (SPIFFE-ID §2). The text of every refusal is the one SPIRE and go-spiffe
//! give, because clients show it to people and some match on it.

mod trust_domain;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use trust_domain::TrustDomain;

/// Longest SPIFFE ID, in bytes, scheme included (SPIFFE-ID §2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

pub(crate) const SCHEME: &str = "spiffe://";

/// Why a string is not a SPIFFE ID, or an ID not the kind of ID asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The string is empty.
    #[error("cannot be empty")]
    Empty,
    /// The string does not begin with `spiffe://` in lower case.
    #[error("scheme is missing or invalid")]
    WrongScheme,
    /// There is nothing between the scheme and the path.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// The trust domain has a character outside `[a-z0-9._-]`; ports, user
    /// information and upper case end up here.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    BadTrustDomainChar,
    /// The trust domain is longer than 255 bytes.
    #[error("trust domain cannot be longer than 255 bytes")]
    TrustDomainTooLong,
    /// A path was given that does not begin with a slash.
    #[error("path must have a leading slash")]
    NoLeadingSlash,
    /// The path has a character outside `[a-zA-Z0-9._-]`; percent signs,
    /// queries and fragments end up here.
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    BadPathChar,
    /// The path has an empty segment.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// The path ends with a slash.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// The path has a `.` or `..` segment.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// The whole ID is longer than [`SPIFFE_ID_BYTES_MAX`].
    #[error("ID cannot be longer than 2048 bytes")]
    TooLong,
    /// The ID belongs to another trust domain.
    #[error("\"{id}\" is not a member of trust domain \"{trust_domain}\"")]
    NotMember {
        /// The ID judged.
        id: SpiffeId,
        /// The trust domain it should be in.
        trust_domain: TrustDomain,
    },
    /// The ID is the trust domain's own, without a path.
    #[error("\"{id}\" is not {kind} trust domain \"{trust_domain}\"; path is empty")]
    EmptyPath {
        /// The ID judged.
        id: SpiffeId,
        /// What it should have been.
        kind: Kind,
        /// The trust domain it is in.
        trust_domain: TrustDomain,
    },
    /// The ID lies under `/spire`, which is not for workloads.
    #[error(
        "\"{id}\" is not a workload in trust domain \"{trust_domain}\"; path is in the reserved namespace"
    )]
    ReservedPath {
        /// The ID judged.
        id: SpiffeId,
        /// The trust domain it is in.
        trust_domain: TrustDomain,
    },
    /// The ID does not lie under `/spire/agent/`.
    #[error(
        "\"{id}\" is not an agent in trust domain \"{trust_domain}\"; path is not in the agent namespace"
    )]
    NotAgentPath {
        /// The ID judged.
        id: SpiffeId,
        /// The trust domain it is in.
        trust_domain: TrustDomain,
    },
}

/// What an ID was required to be; prints as it stands in SPIRE's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any ID of the trust domain that has a path.
    Member,
    /// An ID outside the reserved namespace.
    Workload,
    /// An ID under `/spire/agent/`.
    Agent,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Member => "a member of",
            Kind::Workload => "a workload in",
            Kind::Agent => "an agent in",
        })
    }
}

/// A valid SPIFFE ID (SPIFFE-ID §2). Cheap to clone.
///
/// A trust domain's own ID, `spiffe://example.org`, is one too: its path is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`; fixed by `text`, so deriving order,
    /// equality and hash over both is the same as over `text` alone.
    path_at: usize,
}

impl SpiffeId {
    /// Parses the canonical text form.
    ///
    /// # Errors
    /// Any of the syntax variants of [`IdError`] (SPIFFE-ID §2.1 to §2.3).
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        // Length first: everything after it walks the whole string.
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return Err(IdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::WrongScheme)?;
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        trust_domain::validate(name)?;
        validate_path(path)?;
        Ok(SpiffeId {
            text: text.into(),
            path_at: SCHEME.len() + name.len(),
        })
    }

    /// The ID at `path` in `trust_domain`. An empty path gives the trust
    /// domain's own ID; any other begins with a slash.
    ///
    /// # Errors
    /// The path variants of [`IdError`], or [`IdError::TooLong`].
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, IdError> {
        validate_path(path)?;
        let text = format!("{SCHEME}{trust_domain}{path}");
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return Err(IdError::TooLong);
        }
        Ok(SpiffeId {
            path_at: text.len() - path.len(),
            text: text.into(),
        })
    }

    /// The trust domain's own ID, without a path: what signing certificates carry
    /// (X509-SVID §4.1).
    #[must_use]
    pub fn of_trust_domain(trust_domain: &TrustDomain) -> Self {
        Self::fixed(trust_domain, "")
    }

    /// The server's ID, `spiffe://TD/spire/server`.
    #[must_use]
    pub fn server(trust_domain: &TrustDomain) -> Self {
        Self::fixed(trust_domain, "/spire/server")
    }

    /// The agent ID `spiffe://TD/spire/agent` followed by `suffix`, which begins
    /// with a slash.
    ///
    /// # Errors
    /// [`IdError::NoLeadingSlash`] for an empty suffix, and as [`SpiffeId::new`].
    pub fn agent(trust_domain: &TrustDomain, suffix: &str) -> Result<Self, IdError> {
        if suffix.is_empty() {
            return Err(IdError::NoLeadingSlash);
        }
        validate_path(suffix)?;
        Self::new(trust_domain, &format!("/spire/agent{suffix}"))
    }

    fn fixed(trust_domain: &TrustDomain, path: &'static str) -> Self {
        Self::new(trust_domain, path)
            .expect("a trust domain of at most 255 bytes and a short literal path are within 2048")
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain of the ID.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain::from_valid(self.trust_domain_name())
    }

    /// The name of the trust domain, without allocating.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// The path with its leading slash, or an empty string.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// Whether the ID is in `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }

    /// Whether the path is `/spire` or below: never a workload's.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.path() == "/spire" || self.path().starts_with("/spire/")
    }

    /// Whether the path lies under `/spire/agent/`.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        self.path().starts_with("/spire/agent/")
    }

    /// Requires an ID with a path in `trust_domain`.
    ///
    /// # Errors
    /// [`IdError::NotMember`], [`IdError::EmptyPath`].
    pub fn require_member(&self, trust_domain: &TrustDomain) -> Result<(), IdError> {
        self.require_path_in(trust_domain, Kind::Member)
    }

    /// Requires an ID that a workload may have.
    ///
    /// # Errors
    /// [`IdError::NotMember`], [`IdError::EmptyPath`], [`IdError::ReservedPath`].
    pub fn require_workload(&self, trust_domain: &TrustDomain) -> Result<(), IdError> {
        self.require_path_in(trust_domain, Kind::Workload)?;
        if self.is_reserved() {
            return Err(IdError::ReservedPath {
                id: self.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        Ok(())
    }

    /// Requires an ID that an agent may have.
    ///
    /// # Errors
    /// [`IdError::NotMember`], [`IdError::EmptyPath`], [`IdError::NotAgentPath`].
    pub fn require_agent(&self, trust_domain: &TrustDomain) -> Result<(), IdError> {
        self.require_path_in(trust_domain, Kind::Agent)?;
        if !self.is_agent() {
            return Err(IdError::NotAgentPath {
                id: self.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        Ok(())
    }

    fn require_path_in(&self, trust_domain: &TrustDomain, kind: Kind) -> Result<(), IdError> {
        if !self.is_member_of(trust_domain) {
            return Err(IdError::NotMember {
                id: self.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        if self.path().is_empty() {
            return Err(IdError::EmptyPath {
                id: self.clone(),
                kind,
                trust_domain: trust_domain.clone(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

/// SPIFFE-ID §2.2: an empty path, or segments each led by one slash.
fn validate_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(IdError::NoLeadingSlash)?;
    if segments.is_empty() {
        return Err(IdError::TrailingSlash);
    }
    let mut rest = segments.split('/').peekable();
    while let Some(segment) = rest.next() {
        match segment {
            "" if rest.peek().is_none() => return Err(IdError::TrailingSlash),
            "" => return Err(IdError::EmptySegment),
            "." | ".." => return Err(IdError::DotSegment),
            _ if !segment.bytes().all(is_path_char) => return Err(IdError::BadPathChar),
            _ => {}
        }
    }
    Ok(())
}

fn is_path_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests;
