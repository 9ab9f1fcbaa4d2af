//! The change feed: what caches, watch streams and audit hang on.

use std::sync::Arc;

use crate::command::TellRenewals;

/// Position in the feed: grows with every change, on every node the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeedIndex {
    /// Index of the log entry that made the change.
    pub log_index: u64,
    /// Place among the changes of that log entry.
    pub item: u32,
}

/// One change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it stands in the feed.
    pub at: FeedIndex,
    /// What changed.
    pub kind: ChangeKind,
}

/// What changed; the new value is read from the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Entry created or updated.
    EntrySet(String),
    /// Entry deleted.
    EntryRemoved(String),
    /// Agent attested, renewed, activated, banned or described.
    AgentSet(String),
    /// Agent evicted.
    AgentRemoved(String),
    /// An authority or its status changed.
    AuthoritySet(String),
    /// An authority was forgotten.
    AuthorityRemoved(String),
    /// Trust bundle changed.
    BundleChanged,
    /// X.509-SVIDs are signed in another way from now on.
    IssuanceModeSet,
    /// The keys of authorities are to be others' from now on.
    AuthorityScopeSet,
    /// A key intent opened or closed.
    IntentChanged(String),
    /// A member came or told of itself.
    MemberSet(u64),
    /// A member left for good.
    MemberRemoved(u64),
    /// A CA certificate of this serial was signed for a downstream server.
    DownstreamCaSet(String),
    /// The bundle of another trust domain was created or changed.
    FederatedBundleSet(String),
    /// The bundle of another trust domain was deleted.
    FederatedBundleRemoved(String),
    /// A federation relationship was created or changed.
    RelationshipSet(String),
    /// A federation relationship was deleted.
    RelationshipRemoved(String),
    /// A login on the token of this serial was begun or came to an end.
    TokenLoginChanged(String),
    /// Holders have newer documents. Nothing is stored of it: whoever misses it goes on with
    /// what it knows.
    DocumentsRenewed(Arc<TellRenewals>),
    /// A snapshot took the place of the state: whatever was read before is old.
    StateReplaced,
}
