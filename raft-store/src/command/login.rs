//! Logins on tokens: one at a time in the whole cluster, and none after a refusal.

use prost::{Enumeration, Message};

/// See [`super::Command::ClaimLogin`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClaimLogin {
    /// Serial of the token, 1 to [`crate::model::TokenLogin::SERIAL_BYTES_MAX`] bytes.
    #[prost(string, tag = "1")]
    pub serial: String,
    /// Node that is to log in.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// Start of that node in which it does.
    #[prost(uint64, tag = "3")]
    pub boot: u64,
    /// Counter within that start; a later one takes the place of an earlier one.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    /// An administrator orders it, whatever was refused before.
    #[prost(bool, tag = "5")]
    pub ordered: bool,
}

impl ClaimLogin {
    /// Feature level of the commands of logins.
    pub const FEATURE_LEVEL: u32 = 3;
}

/// See [`super::Command::SettleLogin`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SettleLogin {
    /// Serial of the token.
    #[prost(string, tag = "1")]
    pub serial: String,
    /// As in the claim.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// As in the claim.
    #[prost(uint64, tag = "3")]
    pub boot: u64,
    /// As in the claim.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    /// What came of it.
    #[prost(enumeration = "LoginEnd", tag = "5")]
    pub end: i32,
    /// With [`LoginEnd::Refused`]: what the token answered.
    #[prost(string, tag = "6")]
    pub why: String,
}

/// What came of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum LoginEnd {
    /// Never stored.
    Unspecified = 0,
    /// The token took the PIN; what it refused before is forgotten.
    Accepted = 1,
    /// The token refused it, or nobody knows whether it did.
    Refused = 2,
    /// No PIN reached the token.
    NotTried = 3,
}
