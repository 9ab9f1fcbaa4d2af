//! The replicated records, as they stand in the tables, the log and snapshots.
//!
//! They are protobuf messages written by hand: a field number is never used
//! twice, and a field that a stored record lacks reads as its zero value. What
//! they hold was checked at the edge (`chancery-identity`), so paths are SPIFFE
//! paths of the cluster's own trust domain and selectors are valid.

mod login;

use prost::{Enumeration, Message};

pub use self::login::{LoginAttempt, LoginRefused, TokenLogin};

/// A selector of an entry or an agent.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Selector {
    /// Type, without a colon.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Value; may contain colons.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A registration entry.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Caller's or a random UUID; unique.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Insertion sequence: order and page token.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Path of the SPIFFE ID that is issued.
    #[prost(string, tag = "3")]
    pub spiffe_path: String,
    /// Path of the parent's SPIFFE ID.
    #[prost(string, tag = "4")]
    pub parent_path: String,
    /// In the order they were given; never empty.
    #[prost(message, repeated, tag = "5")]
    pub selectors: Vec<Selector>,
    /// Seconds; 0 is the cluster's default.
    #[prost(int32, tag = "6")]
    pub x509_svid_ttl: i32,
    /// Seconds; 0 is the cluster's default.
    #[prost(int32, tag = "7")]
    pub jwt_svid_ttl: i32,
    /// Trust domain names.
    #[prost(string, repeated, tag = "8")]
    pub federates_with: Vec<String>,
    /// The identity may administer the cluster.
    #[prost(bool, tag = "9")]
    pub admin: bool,
    /// The identity may ask for a downstream CA.
    #[prost(bool, tag = "10")]
    pub downstream: bool,
    /// Unix seconds at which the entry may be pruned; 0 is never.
    #[prost(int64, tag = "11")]
    pub expires_at: i64,
    /// DNS SANs, in order.
    #[prost(string, repeated, tag = "12")]
    pub dns_names: Vec<String>,
    /// SPIRE's per-entry counter.
    #[prost(int64, tag = "13")]
    pub revision_number: i64,
    /// For SVID stores only, never for the Workload API.
    #[prost(bool, tag = "14")]
    pub store_svid: bool,
    /// At most 1024 bytes.
    #[prost(string, tag = "15")]
    pub hint: String,
    /// Unix seconds by the cluster clock.
    #[prost(int64, tag = "16")]
    pub created_at: i64,
    /// Additional attribute of the same name.
    #[prost(bool, tag = "17")]
    pub disable_x509_svid_prefetch: bool,
    /// Additional attribute of the same name.
    #[prost(bool, tag = "18")]
    pub jwt_svid_include_jti: bool,
}

impl Entry {
    /// Largest entry, encoded: every agent it is for keeps it in memory, and a page of
    /// them must fit an answer.
    pub const BYTES_MAX: usize = 256 << 10;

    /// Whether it is of the form in which a join token's second name is written: it goes
    /// when the agent that came by the token goes.
    pub fn is_join_token_alias(&self, trust_domain: &str) -> bool {
        let [only] = self.selectors.as_slice() else {
            return false;
        };
        let of_parent = || {
            only.value
                .strip_prefix("spiffe://")?
                .strip_prefix(trust_domain)
        };
        only.kind == "spiffe_id" && of_parent() == Some(self.parent_path.as_str())
    }
}

/// A renewed agent SVID that has not been used yet.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PendingSvid {
    /// Decimal.
    #[prost(string, tag = "1")]
    pub serial: String,
    /// Unix seconds.
    #[prost(int64, tag = "2")]
    pub expires_at: i64,
}

/// An attested agent.
#[derive(Clone, PartialEq, Message)]
pub struct Agent {
    /// Path of its SPIFFE ID, below `/spire/agent/`.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Insertion sequence: order and page token.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Name of the attestor.
    #[prost(string, tag = "3")]
    pub attestation_type: String,
    /// What attestation found, without duplicates.
    #[prost(message, repeated, tag = "4")]
    pub selectors: Vec<Selector>,
    /// Decimal serial of the current SVID; empty once banned.
    #[prost(string, tag = "5")]
    pub serial: String,
    /// Unix seconds at which the current SVID ends.
    #[prost(int64, tag = "6")]
    pub expires_at: i64,
    /// Newest last, at most [`Agent::PENDING_MAX`].
    #[prost(message, repeated, tag = "7")]
    pub pending: Vec<PendingSvid>,
    /// May attest again instead of renewing.
    #[prost(bool, tag = "8")]
    pub can_reattest: bool,
    /// As the agent told with PostStatus; at most 255 characters.
    #[prost(string, tag = "9")]
    pub agent_version: String,
}

impl Agent {
    /// Renewed SVIDs that may wait for their first use at a time.
    pub const PENDING_MAX: usize = 4;

    /// Attestor name of agents that came with a join token.
    pub const JOIN_TOKEN: &str = "join_token";

    /// A banned agent keeps its record and loses every serial.
    pub fn is_banned(&self) -> bool {
        self.serial.is_empty()
    }
}

/// A join token that has not been redeemed. The token itself is not stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct JoinToken {
    /// SHA-256 of the token's text.
    #[prost(bytes = "vec", tag = "1")]
    pub sha256: Vec<u8>,
    /// Unix seconds.
    #[prost(int64, tag = "2")]
    pub expires_at: i64,
}

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AuthorityKind {
    /// Never stored.
    Unspecified = 0,
    /// X.509-SVIDs.
    X509 = 1,
    /// JWT-SVIDs.
    Jwt = 2,
}

/// Where an authority is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AuthorityStatus {
    /// Never stored.
    Unspecified = 0,
    /// In the bundle, not signing yet.
    Prepared = 1,
    /// Signing.
    Active = 2,
    /// In the bundle for what it signed before.
    Old = 3,
    /// No longer in the bundle, never to sign again. The record stays until a day after the
    /// authority's end: it names the key.
    Revoked = 4,
}

/// An issuing authority: what the cluster knows of a key that it can sign with.
#[derive(Clone, PartialEq, Message)]
pub struct Authority {
    /// X.509: lower-case hex of the subject key id. JWT: the key id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What it signs.
    #[prost(enumeration = "AuthorityKind", tag = "2")]
    pub kind: i32,
    /// Insertion sequence.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// Where it is in its life.
    #[prost(enumeration = "AuthorityStatus", tag = "4")]
    pub status: i32,
    /// Slot it was made for; see [`KeyIntent`].
    #[prost(string, tag = "5")]
    pub slot: String,
    /// Epoch of the slot.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// Key in its backend: `CKA_ID`, 16 bytes.
    #[prost(bytes = "vec", tag = "7")]
    pub key_id: Vec<u8>,
    /// Key in its backend: `CKA_LABEL`.
    #[prost(string, tag = "8")]
    pub key_label: String,
    /// `ec-p256`, `ec-p384`, `rsa-2048` or `rsa-4096`.
    #[prost(string, tag = "9")]
    pub key_type: String,
    /// `pkcs11`, `disk` or `memory`.
    #[prost(string, tag = "10")]
    pub backend: String,
    /// Serials of the tokens that hold the key.
    #[prost(string, repeated, tag = "11")]
    pub token_serials: Vec<String>,
    /// Node that alone holds the key; 0 when shared.
    #[prost(uint64, tag = "12")]
    pub node_id: u64,
    /// DER of the CA certificate; empty for JWT.
    #[prost(bytes = "vec", tag = "13")]
    pub certificate: Vec<u8>,
    /// DER of the SubjectPublicKeyInfo.
    #[prost(bytes = "vec", tag = "14")]
    pub public_key: Vec<u8>,
    /// Unix seconds.
    #[prost(int64, tag = "15")]
    pub issued_at: i64,
    /// Unix seconds.
    #[prost(int64, tag = "16")]
    pub expires_at: i64,
    /// Still trusted, no longer to be used.
    #[prost(bool, tag = "17")]
    pub tainted: bool,
    /// Nodes that proved by a signature that they can use the key, ascending.
    #[prost(uint64, repeated, tag = "18")]
    pub proved_by: Vec<u64>,
}

/// A key that is being created (DESIGN: intent, generate, prove, record).
///
/// A crash between any two steps leaves a key that this record already names.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyIntent {
    /// `x509` or `jwt`, followed by `/node-<id>` where each node has its own.
    #[prost(string, tag = "1")]
    pub slot: String,
    /// Grows by one with each intent of the slot.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Node that generates; 0 when the slot has no open intent.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// `CKA_ID` to generate under, 16 random bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub key_id: Vec<u8>,
    /// `CKA_LABEL` to generate under.
    #[prost(string, tag = "5")]
    pub key_label: String,
    /// Unix seconds at which the intent was recorded.
    #[prost(int64, tag = "6")]
    pub recorded_at: i64,
}

impl KeyIntent {
    /// Whether a slot is that of a node with keys of its own.
    pub fn is_of_one_node(slot: &str) -> bool {
        slot.contains('/')
    }
}

/// A CA certificate that was signed for a downstream server. Recorded before it leaves,
/// kept until it ends.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DownstreamCa {
    /// Path of the SPIFFE ID that asked for it.
    #[prost(string, tag = "1")]
    pub caller_path: String,
    /// Registration entry that allowed it.
    #[prost(string, tag = "2")]
    pub entry_id: String,
    /// X.509 authority that signed it.
    #[prost(string, tag = "3")]
    pub authority_id: String,
    /// Decimal.
    #[prost(string, tag = "4")]
    pub serial: String,
    /// Lower-case hex: the authority id under which the downstream server signs.
    #[prost(string, tag = "5")]
    pub subject_key_id: String,
    /// Unix seconds.
    #[prost(int64, tag = "6")]
    pub issued_at: i64,
    /// Unix seconds.
    #[prost(int64, tag = "7")]
    pub expires_at: i64,
}

/// A node of the cluster, voter or learner.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Member {
    /// Never used twice.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// host:port for peers.
    #[prost(string, tag = "2")]
    pub peer_address: String,
    /// host:port for agents.
    #[prost(string, tag = "3")]
    pub api_address: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its peer key: its identity.
    #[prost(bytes = "vec", tag = "4")]
    pub spki_sha256: Vec<u8>,
    /// Version it last announced.
    #[prost(string, tag = "5")]
    pub version: String,
    /// Times it has started.
    #[prost(uint64, tag = "6")]
    pub boot: u64,
    /// Authority that issued the server SVID it serves.
    #[prost(string, tag = "7")]
    pub server_svid_issuer: String,
    /// What the operator wants it to be; the leader brings Raft's membership there.
    #[prost(enumeration = "MemberRole", tag = "8")]
    pub wanted: i32,
    /// Becomes a voter without being asked once it has caught up.
    #[prost(bool, tag = "9")]
    pub auto_promote: bool,
    /// Member whose place it takes when it becomes a voter; 0 is none's.
    #[prost(uint64, tag = "10")]
    pub replaces: u64,
}

/// What a member is wanted to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum MemberRole {
    /// As the founding list says: a voter, if its address is on it, once the list is complete.
    Founding = 0,
    /// Has the state, serves agents and signs; has no vote.
    Learner = 1,
    /// Has a vote.
    Voter = 2,
    /// Is to be removed.
    Leaving = 3,
}

/// A token by which one node may join. The token itself is not stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeToken {
    /// SHA-256 of the token's secret.
    #[prost(bytes = "vec", tag = "1")]
    pub sha256: Vec<u8>,
    /// Unix seconds.
    #[prost(int64, tag = "2")]
    pub expires_at: i64,
    /// See [`Member::auto_promote`].
    #[prost(bool, tag = "3")]
    pub auto_promote: bool,
    /// See [`Member::replaces`].
    #[prost(uint64, tag = "4")]
    pub replaces: u64,
}

/// Which key signs X.509-SVIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum IssuanceMode {
    /// The authority's own.
    Direct = 0,
    /// A short-lived one of the node's, which the authority certifies.
    Intermediate = 1,
}

impl IssuanceMode {
    /// The name used in configuration, commands and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Intermediate => "intermediate",
        }
    }

    /// The mode of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Direct, Self::Intermediate]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }
}

/// Whose the keys of authorities are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AuthorityScope {
    /// As before feature level 4: shared where a node's keys are in a token, else its own.
    Unspecified = 0,
    /// One authority of each kind; every node signs with its key.
    Shared = 1,
    /// Each node has authorities of its own.
    PerNode = 2,
}

impl AuthorityScope {
    /// The name used in configuration, commands and messages; empty where none was set.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Shared => "shared",
            Self::PerNode => "per-node",
        }
    }

    /// The scope of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Shared, Self::PerNode]
            .into_iter()
            .find(|scope| scope.as_str() == name)
    }
}

/// Facts that hold for the cluster as a whole.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Cluster {
    /// UUID chosen when the first node was initialised.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Trust domain name.
    #[prost(string, tag = "2")]
    pub trust_domain: String,
    /// Last node id that was given out.
    #[prost(uint64, tag = "3")]
    pub last_node_id: u64,
    /// Last insertion sequence that was given out.
    #[prost(uint64, tag = "4")]
    pub last_sequence: u64,
    /// Sequence number of the own trust bundle.
    #[prost(uint64, tag = "5")]
    pub bundle_sequence: u64,
    /// Cluster clock in Unix milliseconds: the greatest time any command carried.
    #[prost(int64, tag = "6")]
    pub clock_ms: i64,
    /// Addresses of the static peer list it was formed from.
    #[prost(string, repeated, tag = "7")]
    pub founding_peers: Vec<String>,
    /// Level of commands and encodings that every member knows; see
    /// [`crate::command::FEATURE_LEVEL`].
    #[prost(uint32, tag = "8")]
    pub feature_level: u32,
    /// Epochs that ended in a restore or a recovery, the oldest first; the last
    /// [`PastEpoch::KEPT`] of them.
    #[prost(message, repeated, tag = "20")]
    pub past_epochs: Vec<PastEpoch>,
    /// An entry's revision number is at least this much after its next change: an agent may
    /// have seen greater ones than the state has, of changes that were lost.
    #[prost(int64, tag = "21")]
    pub revision_floor: i64,
    /// Which key signs X.509-SVIDs. From feature level 3 on.
    #[prost(enumeration = "IssuanceMode", tag = "75")]
    pub issuance_mode: i32,
    /// Whose the keys of authorities are to be. From feature level 4 on.
    #[prost(enumeration = "AuthorityScope", tag = "76")]
    pub authority_scope: i32,
    /// Insertion sequence up to which authorities may have holders that the ledger does not
    /// know: it came into force later, or notes were lost with an epoch.
    #[prost(uint64, tag = "30")]
    pub ledger_from: u64,
    /// Rows of the ledger; see [`Holder::ROWS_MAX`].
    #[prost(uint64, tag = "31")]
    pub holder_rows: u64,
}

/// Who holds documents of an authority, as one start of one node noted before it handed them
/// out.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Holder {
    /// `AuthorityKind` of the authority.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Authority id.
    #[prost(string, tag = "2")]
    pub authority_id: String,
    /// Node that handed them out; 0 in the row of those that found no place.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// Which start of it.
    #[prost(uint64, tag = "4")]
    pub boot: u64,
    /// Path of the holder's SPIFFE ID; empty where it is not known.
    #[prost(string, tag = "5")]
    pub path: String,
    /// Unix second at which the last of the documents ends, or later.
    #[prost(int64, tag = "6")]
    pub until: i64,
    /// Number of the command that wrote it.
    #[prost(uint64, tag = "7")]
    pub number: u64,
    /// Holders that found no place, each as often as it was noted.
    #[prost(uint64, tag = "8")]
    pub surplus: u64,
}

impl Holder {
    /// Rows at most, those of holders that found no place aside.
    pub const ROWS_MAX: u64 = 250_000;
    /// Longest path, in bytes: a SPIFFE ID has 2048.
    pub const PATH_BYTES_MAX: usize = 2048;
}

/// How an epoch of a cluster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum EpochEnd {
    /// Never stored.
    Unspecified = 0,
    /// A node was made from a backup.
    Restored = 1,
    /// One survivor went on alone.
    Recovered = 2,
}

/// An epoch that ended: what the state of the next one was taken from, by whom and when.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PastEpoch {
    /// Id that the cluster had.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// Last log entry of that epoch that the state has.
    #[prost(uint64, tag = "2")]
    pub log_index: u64,
    /// When that state was the newest, Unix milliseconds: the backup's time; for a recovery
    /// the cluster clock.
    #[prost(int64, tag = "3")]
    pub state_at_ms: i64,
    /// How it ended.
    #[prost(enumeration = "EpochEnd", tag = "4")]
    pub end: i32,
    /// Unix milliseconds by the clock of the machine on which it was ended.
    #[prost(int64, tag = "5")]
    pub ended_at_ms: i64,
    /// Who ended it, as the machine knew the caller.
    #[prost(string, tag = "6")]
    pub ended_by: String,
    /// First node of the next epoch.
    #[prost(uint64, tag = "7")]
    pub successor: u64,
    /// An administrator said that its keys belong to this cluster now: what made them is gone
    /// for good.
    #[prost(bool, tag = "8")]
    pub keys_adopted: bool,
}

impl PastEpoch {
    /// So many are remembered.
    pub const KEPT: usize = 16;
}

/// Outcome of a request, kept so that a retry is answered and not applied again.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RequestMemory {
    /// Log index at which it was applied.
    #[prost(uint64, tag = "1")]
    pub log_index: u64,
    /// Encoded outcome.
    #[prost(bytes = "vec", tag = "2")]
    pub outcome: Vec<u8>,
}

/// A certificate of a trust bundle.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BundleCertificate {
    /// DER of exactly one certificate.
    #[prost(bytes = "vec", tag = "1")]
    pub certificate: Vec<u8>,
}

/// A key of a trust bundle that signs JWT-SVIDs.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BundleJwtKey {
    /// DER of the SubjectPublicKeyInfo.
    #[prost(bytes = "vec", tag = "1")]
    pub public_key: Vec<u8>,
    /// Key id; never empty.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// Unix seconds; 0 where no end is known.
    #[prost(int64, tag = "3")]
    pub expires_at: i64,
}

/// The bundle of another trust domain.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FederatedBundle {
    /// Trust domain name; never the cluster's own.
    #[prost(string, tag = "1")]
    pub trust_domain: String,
    /// Insertion sequence: order and page token.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// In the order they were given.
    #[prost(message, repeated, tag = "3")]
    pub x509_authorities: Vec<BundleCertificate>,
    /// In the order they were given.
    #[prost(message, repeated, tag = "4")]
    pub jwt_authorities: Vec<BundleJwtKey>,
    /// Seconds; 0 where there is none.
    #[prost(int64, tag = "5")]
    pub refresh_hint: i64,
    /// As its trust domain, or whoever wrote it, says.
    #[prost(uint64, tag = "6")]
    pub sequence_number: u64,
}

/// How the endpoint of a foreign bundle proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum EndpointProfile {
    /// Never stored.
    Unspecified = 0,
    /// By a certificate of the web's public authorities.
    HttpsWeb = 1,
    /// By an X.509-SVID.
    HttpsSpiffe = 2,
}

/// Where the bundle of another trust domain is fetched, and how.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FederationRelationship {
    /// Trust domain name; never the cluster's own.
    #[prost(string, tag = "1")]
    pub trust_domain: String,
    /// Insertion sequence: order and page token.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// `https://`, with a host and without user information.
    #[prost(string, tag = "3")]
    pub endpoint_url: String,
    /// How the endpoint proves who it is.
    #[prost(enumeration = "EndpointProfile", tag = "4")]
    pub profile: i32,
    /// SPIFFE ID of the endpoint; empty where the web's authorities vouch for it.
    #[prost(string, tag = "5")]
    pub endpoint_spiffe_id: String,
}

/// An authority of the own bundle whose key this cluster does not hold: one that an
/// administrator appended or a downstream server published.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BundleAuthority {
    /// What it signs.
    #[prost(enumeration = "AuthorityKind", tag = "1")]
    pub kind: i32,
    /// X.509: lower-case hex of the subject key id. JWT: the key id. Several may have
    /// the same.
    #[prost(string, tag = "2")]
    pub id: String,
    /// Insertion sequence.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// X.509: DER of the certificate. JWT: DER of the SubjectPublicKeyInfo.
    #[prost(bytes = "vec", tag = "4")]
    pub der: Vec<u8>,
    /// Unix seconds; 0 where no end is known.
    #[prost(int64, tag = "5")]
    pub expires_at: i64,
    /// Still trusted, about to be revoked.
    #[prost(bool, tag = "6")]
    pub tainted: bool,
    /// Path of the SPIFFE ID of the downstream server that published it; empty for what
    /// an administrator appended.
    #[prost(string, tag = "7")]
    pub publisher: String,
}

impl BundleAuthority {
    /// Records of this kind in the own bundle at most, both kinds together: a bundle of
    /// them still fits the message that a stock agent takes.
    pub const COUNT_MAX: usize = 512;
    /// Their DER and ids together, in bytes.
    pub const BYTES_MAX: usize = 1 << 20;
    /// Time that one stays in the bundle after its end at least, in seconds: SPIRE's.
    pub const KEPT_AFTER_END: i64 = 24 * 60 * 60;
    /// Bytes of an id at most.
    pub const ID_BYTES_MAX: usize = chancery_identity::bundle::ID_BYTES_MAX;
    /// Records that one downstream server may have published. Its keys that ended make way
    /// for new ones, so it is the number of keys in use of all servers with that SPIFFE ID.
    pub const PUBLISHED_BY_ONE_MAX: usize = 16;
    /// Records that all downstream servers together may have published: what is left of
    /// [`BundleAuthority::COUNT_MAX`] is the administrators' alone.
    pub const PUBLISHED_MAX: usize = Self::COUNT_MAX / 2;
    /// Bytes of what downstream servers published, of [`BundleAuthority::BYTES_MAX`].
    pub const PUBLISHED_BYTES_MAX: usize = Self::BYTES_MAX / 2;

    /// Bytes that count.
    pub fn bytes(&self) -> usize {
        self.der.len() + self.id.len()
    }
}
