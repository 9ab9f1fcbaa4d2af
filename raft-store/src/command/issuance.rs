//! How documents are signed.

use prost::Message;

use crate::model::IssuanceMode;

/// See [`super::Command::SetIssuanceMode`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SetIssuanceMode {
    /// The new mode; a value that is none is refused.
    #[prost(enumeration = "IssuanceMode", tag = "1")]
    pub mode: i32,
}
