//! Changing entries, and taking away what has expired.
//!
//! Who proposes a pruning names candidates from what it knows; `apply` looks at each
//! one again by the cluster clock, so a candidate that was renewed meanwhile stays.

use prost::Message;

use super::AuthorityName;
use crate::model::Entry;

/// See [`super::Command::UpdateEntries`].
#[derive(Clone, PartialEq, Message)]
pub struct UpdateEntries {
    /// Each succeeds or fails on its own, in order.
    #[prost(message, repeated, tag = "1")]
    pub updates: Vec<EntryUpdate>,
}

/// New values for some fields of one entry.
#[derive(Clone, PartialEq, Message)]
pub struct EntryUpdate {
    /// Entry to change.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Values; only those of `fields` mean something.
    #[prost(message, optional, tag = "2")]
    pub values: Option<Entry>,
    /// Fields that take the new value.
    #[prost(message, optional, tag = "3")]
    pub fields: Option<EntryFields>,
}

/// Fields of an entry that an update may set: all but id, sequence, revision and
/// creation time.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct EntryFields {
    /// [`Entry::spiffe_path`]
    #[prost(bool, tag = "1")]
    pub spiffe_path: bool,
    /// [`Entry::parent_path`]
    #[prost(bool, tag = "2")]
    pub parent_path: bool,
    /// [`Entry::selectors`]
    #[prost(bool, tag = "3")]
    pub selectors: bool,
    /// [`Entry::x509_svid_ttl`]
    #[prost(bool, tag = "4")]
    pub x509_svid_ttl: bool,
    /// [`Entry::jwt_svid_ttl`]
    #[prost(bool, tag = "5")]
    pub jwt_svid_ttl: bool,
    /// [`Entry::federates_with`]
    #[prost(bool, tag = "6")]
    pub federates_with: bool,
    /// [`Entry::admin`]
    #[prost(bool, tag = "7")]
    pub admin: bool,
    /// [`Entry::downstream`]
    #[prost(bool, tag = "8")]
    pub downstream: bool,
    /// [`Entry::expires_at`]
    #[prost(bool, tag = "9")]
    pub expires_at: bool,
    /// [`Entry::dns_names`]
    #[prost(bool, tag = "10")]
    pub dns_names: bool,
    /// [`Entry::store_svid`]
    #[prost(bool, tag = "11")]
    pub store_svid: bool,
    /// [`Entry::hint`]
    #[prost(bool, tag = "12")]
    pub hint: bool,
    /// [`Entry::disable_x509_svid_prefetch`] and [`Entry::jwt_svid_include_jti`]
    #[prost(bool, tag = "13")]
    pub additional_attributes: bool,
}

impl EntryFields {
    /// Every field that can be set.
    pub const ALL: Self = Self {
        spiffe_path: true,
        parent_path: true,
        selectors: true,
        x509_svid_ttl: true,
        jwt_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
    };
}

impl EntryUpdate {
    /// `entry` with the new values. Its id, sequence, revision and creation time stay.
    pub fn onto(&self, entry: &Entry) -> Entry {
        let fields = self.fields.unwrap_or_default();
        let mut changed = entry.clone();
        let Some(values) = &self.values else {
            return changed;
        };
        if fields.spiffe_path {
            changed.spiffe_path.clone_from(&values.spiffe_path);
        }
        if fields.parent_path {
            changed.parent_path.clone_from(&values.parent_path);
        }
        if fields.selectors {
            changed.selectors.clone_from(&values.selectors);
        }
        if fields.x509_svid_ttl {
            changed.x509_svid_ttl = values.x509_svid_ttl;
        }
        if fields.jwt_svid_ttl {
            changed.jwt_svid_ttl = values.jwt_svid_ttl;
        }
        if fields.federates_with {
            changed.federates_with.clone_from(&values.federates_with);
        }
        if fields.admin {
            changed.admin = values.admin;
        }
        if fields.downstream {
            changed.downstream = values.downstream;
        }
        if fields.expires_at {
            changed.expires_at = values.expires_at;
        }
        if fields.dns_names {
            changed.dns_names.clone_from(&values.dns_names);
        }
        if fields.store_svid {
            changed.store_svid = values.store_svid;
        }
        if fields.hint {
            changed.hint.clone_from(&values.hint);
        }
        if fields.additional_attributes {
            changed.disable_x509_svid_prefetch = values.disable_x509_svid_prefetch;
            changed.jwt_svid_include_jti = values.jwt_svid_include_jti;
        }
        changed
    }
}

/// See [`super::Command::PruneEntries`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PruneEntries {
    /// Candidates: ids of entries that seem to have expired.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// See [`super::Command::PruneAgents`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PruneAgents {
    /// Candidates: paths of agents whose SVID seems to have ended.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
    /// Seconds that must have passed since the SVID's end; not negative.
    #[prost(int64, tag = "2")]
    pub expired_for: i64,
    /// Also those that cannot attest again by themselves.
    #[prost(bool, tag = "3")]
    pub include_non_reattestable: bool,
}

/// See [`super::Command::PruneJoinTokens`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PruneJoinTokens {
    /// Candidates: SHA-256 of tokens that nobody redeemed in time.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub sha256: Vec<Vec<u8>>,
    /// Seconds that must have passed since the token's end; not negative.
    #[prost(int64, tag = "2")]
    pub expired_for: i64,
}

/// See [`super::Command::PruneAuthorities`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PruneAuthorities {
    /// Candidates: authorities that seem to have ended a day ago or earlier.
    #[prost(message, repeated, tag = "1")]
    pub authorities: Vec<AuthorityName>,
}

impl PruneAuthorities {
    /// Feature level of the command.
    pub const FEATURE_LEVEL: u32 = 2;
}
