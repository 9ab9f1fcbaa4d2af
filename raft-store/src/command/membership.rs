//! The cluster, its members and its clock.

use prost::Message;

use crate::model::{AuthorityScope, IssuanceMode, NodeToken};

/// Feature level of this version: the highest whose commands, fields and encodings it
/// knows. A level is committed once every member offers it; nothing of it is proposed
/// before.
///
/// * 0: everything up to federated bundles and bans.
/// * 1: node tokens, changes of members, clocks that bear a step of time out.
/// * 2: authorities that ended are pruned.
/// * 3: logins on tokens are claimed, the issuance mode, keys of epochs that ended are adopted,
///   who holds documents of an authority is noted.
/// * 4: whose the keys of authorities are is replicated, and can be changed.
pub const FEATURE_LEVEL: u32 = 4;

/// See [`super::Command::Found`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Found {
    /// Random UUID.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// Trust domain name.
    #[prost(string, tag = "2")]
    pub trust_domain: String,
    /// The founder; becomes node 1.
    #[prost(message, optional, tag = "3")]
    pub founder: Option<AdmitMember>,
    /// The static peer list; empty when members are admitted by hand.
    #[prost(string, repeated, tag = "4")]
    pub founding_peers: Vec<String>,
    /// Level at which the cluster starts: the founder's.
    #[prost(uint32, tag = "5")]
    pub feature_level: u32,
    /// Mode in which the cluster starts to sign: the founder's.
    #[prost(enumeration = "IssuanceMode", tag = "75")]
    pub issuance_mode: i32,
    /// Whose the keys of its authorities are: as the founder's configuration says.
    #[prost(enumeration = "AuthorityScope", tag = "76")]
    pub authority_scope: i32,
}

/// See [`super::Command::AdmitMember`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AdmitMember {
    /// host:port for peers.
    #[prost(string, tag = "1")]
    pub peer_address: String,
    /// host:port for agents.
    #[prost(string, tag = "2")]
    pub api_address: String,
    /// SHA-256 of the peer key's SubjectPublicKeyInfo.
    #[prost(bytes = "vec", tag = "3")]
    pub spki_sha256: Vec<u8>,
    /// Version of its binary.
    #[prost(string, tag = "4")]
    pub version: String,
    /// SHA-256 of the secret of the node token to consume; empty for nodes of the list.
    #[prost(bytes = "vec", tag = "5")]
    pub token_sha256: Vec<u8>,
    /// It wants to stay a learner, whatever its token says.
    #[prost(bool, tag = "6")]
    pub stay_learner: bool,
}

/// See [`super::Command::AnnounceMember`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AnnounceMember {
    /// Who.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// host:port for agents.
    #[prost(string, tag = "2")]
    pub api_address: String,
    /// Version of its binary.
    #[prost(string, tag = "3")]
    pub version: String,
    /// Which start this is.
    #[prost(uint64, tag = "4")]
    pub boot: u64,
}

/// See [`super::Command::CreateNodeToken`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateNodeToken {
    /// What is stored of it. `expires_at` is set by `apply` from `ttl`.
    #[prost(message, optional, tag = "1")]
    pub token: Option<NodeToken>,
    /// Seconds from the cluster clock, at least 1.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
}

/// See [`super::Command::ChangeMembers`]. An id stands in one list at most.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChangeMembers {
    /// Become voters.
    #[prost(uint64, repeated, tag = "1")]
    pub promote: Vec<u64>,
    /// Become learners.
    #[prost(uint64, repeated, tag = "2")]
    pub demote: Vec<u64>,
    /// Leave the cluster.
    #[prost(uint64, repeated, tag = "3")]
    pub remove: Vec<u64>,
    /// An even number of voters is meant.
    #[prost(bool, tag = "4")]
    pub allow_even: bool,
}

/// See [`super::Command::RemoveMember`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RemoveMember {
    /// Who.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
}

/// See [`super::Command::RaiseFeatureLevel`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RaiseFeatureLevel {
    /// The new level.
    #[prost(uint32, tag = "1")]
    pub level: u32,
}

/// A voter's clock.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ClockTold {
    /// Whose.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// Unix milliseconds.
    #[prost(int64, tag = "2")]
    pub clock_ms: i64,
}

/// See [`super::Command::SetClock`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SetClock {
    /// Unix milliseconds.
    #[prost(int64, tag = "1")]
    pub clock_ms: i64,
}
