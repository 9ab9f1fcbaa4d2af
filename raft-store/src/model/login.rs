//! Logins on tokens: who tries a PIN, and which tokens refused one.

use prost::Message;

/// What must be known before anybody tries a PIN on a token. There is no record of a token on
/// which no login is under way and none was refused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TokenLogin {
    /// `CK_TOKEN_INFO.serialNumber` without its padding.
    #[prost(string, tag = "1")]
    pub serial: String,
    /// The login that is under way.
    #[prost(message, optional, tag = "2")]
    pub attempt: Option<LoginAttempt>,
    /// The refusal after which nobody logs in by himself.
    #[prost(message, optional, tag = "3")]
    pub refusal: Option<LoginRefused>,
}

impl TokenLogin {
    /// Tokens that are known of at most.
    pub const COUNT_MAX: usize = 64;
    /// Bytes of a serial at most; the standard's have 16 (PKCS#11 `CK_TOKEN_INFO`).
    pub const SERIAL_BYTES_MAX: usize = 64;
    /// Bytes of what a token answered at most.
    pub const WHY_BYTES_MAX: usize = 64;
    /// Seconds after which an administrator may take the place of another node that began a login
    /// and has not told its outcome: no login that will end takes as long.
    pub const LOST_AFTER: i64 = 60;
}

/// A login that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LoginAttempt {
    /// Node that logs in.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// Start of that node in which it does.
    #[prost(uint64, tag = "2")]
    pub boot: u64,
    /// Counter within that start.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// Unix seconds by the cluster clock.
    #[prost(int64, tag = "4")]
    pub begun_at: i64,
}

impl LoginAttempt {
    /// Whether it is the one of this node, start and counter.
    pub fn is(&self, node_id: u64, boot: u64, sequence: u64) -> bool {
        (self.node_id, self.boot, self.sequence) == (node_id, boot, sequence)
    }
}

/// A login that a token refused, or whose outcome nobody knows.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LoginRefused {
    /// Node whose PIN it was.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// What the token answered, such as `CKR_PIN_INCORRECT`.
    #[prost(string, tag = "2")]
    pub why: String,
    /// Unix seconds by the cluster clock.
    #[prost(int64, tag = "3")]
    pub at: i64,
}
