//! How documents are signed.

use prost::Message;

use crate::model::{AuthorityKind, AuthorityScope, IssuanceMode};

/// See [`super::Command::SetIssuanceMode`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SetIssuanceMode {
    /// The new mode; a value that is none is refused.
    #[prost(enumeration = "IssuanceMode", tag = "1")]
    pub mode: i32,
}

/// See [`super::Command::SetAuthorityScope`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SetAuthorityScope {
    /// The new scope; one that is none is refused.
    #[prost(enumeration = "AuthorityScope", tag = "1")]
    pub scope: i32,
}

impl SetAuthorityScope {
    /// Feature level from which on it may be proposed.
    pub const FEATURE_LEVEL: u32 = 4;
}

/// See [`super::Command::RetireAuthorities`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RetireAuthorities {
    /// Kind of all of them.
    #[prost(enumeration = "AuthorityKind", tag = "1")]
    pub kind: i32,
    /// Their ids.
    #[prost(string, repeated, tag = "2")]
    pub ids: Vec<String>,
}
