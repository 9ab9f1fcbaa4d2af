//! What changes trust bundles and federation relationships.

use prost::{Enumeration, Message};

use super::Refusal;
use crate::model::{BundleAuthority, FederatedBundle, FederationRelationship};

/// See [`super::Command::CreateFederatedBundles`] and
/// [`super::Command::SetFederatedBundles`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FederatedBundles {
    /// Without insertion sequence.
    #[prost(message, repeated, tag = "1")]
    pub bundles: Vec<FederatedBundle>,
}

/// Parts of a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BundleFields {
    /// Roots of X.509-SVIDs.
    #[prost(bool, tag = "1")]
    pub x509_authorities: bool,
    /// Keys of JWT-SVIDs.
    #[prost(bool, tag = "2")]
    pub jwt_authorities: bool,
    /// Refresh hint.
    #[prost(bool, tag = "3")]
    pub refresh_hint: bool,
    /// Sequence number.
    #[prost(bool, tag = "4")]
    pub sequence_number: bool,
}

/// See [`super::Command::UpdateFederatedBundles`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UpdateFederatedBundles {
    /// Found by trust domain.
    #[prost(message, repeated, tag = "1")]
    pub bundles: Vec<FederatedBundle>,
    /// What is taken of each.
    #[prost(message, optional, tag = "2")]
    pub fields: Option<BundleFields>,
}

/// What becomes of entries that federate with a deleted bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DeleteMode {
    /// There must be none.
    Restrict = 0,
    /// They are deleted too.
    Delete = 1,
    /// They stay, without that trust domain.
    Dissociate = 2,
}

/// See [`super::Command::DeleteFederatedBundles`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteFederatedBundles {
    /// Names.
    #[prost(string, repeated, tag = "1")]
    pub trust_domains: Vec<String>,
    /// What becomes of entries.
    #[prost(enumeration = "DeleteMode", tag = "2")]
    pub mode: i32,
}

impl DeleteFederatedBundles {
    /// Entries that one command deletes or dissociates at most, over all its names.
    pub const ENTRIES_MAX: usize = 1000;
}

/// A relationship, and the bundle that came with it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelationshipDraft {
    /// Without insertion sequence.
    #[prost(message, optional, tag = "1")]
    pub relationship: Option<FederationRelationship>,
    /// Takes the place of the one that is stored.
    #[prost(message, optional, tag = "2")]
    pub bundle: Option<FederatedBundle>,
}

/// See [`super::Command::CreateRelationships`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Relationships {
    /// What to create.
    #[prost(message, repeated, tag = "1")]
    pub drafts: Vec<RelationshipDraft>,
}

/// Parts of a relationship.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RelationshipFields {
    /// URL of the endpoint.
    #[prost(bool, tag = "1")]
    pub endpoint_url: bool,
    /// Profile, with the endpoint's SPIFFE ID.
    #[prost(bool, tag = "2")]
    pub profile: bool,
    /// Bundle of the trust domain.
    #[prost(bool, tag = "3")]
    pub bundle: bool,
}

/// See [`super::Command::UpdateRelationships`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UpdateRelationships {
    /// Found by trust domain.
    #[prost(message, repeated, tag = "1")]
    pub drafts: Vec<RelationshipDraft>,
    /// What is taken of each.
    #[prost(message, optional, tag = "2")]
    pub fields: Option<RelationshipFields>,
}

/// Names trust domains.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TrustDomains {
    /// Names.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
}

/// See [`super::Command::AppendBundle`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppendBundle {
    /// Without sequence and untainted.
    #[prost(message, repeated, tag = "1")]
    pub authorities: Vec<BundleAuthority>,
}

/// See [`super::Command::PruneBundle`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PruneBundle {
    /// Unix seconds; what ended later stays. At least a day before the cluster clock,
    /// whatever stands here.
    #[prost(int64, tag = "1")]
    pub expires_before: i64,
}

/// Result of one federated bundle of a batch.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FederatedBundleResult {
    /// Why not, if not.
    #[prost(enumeration = "Refusal", tag = "1")]
    pub refusal: i32,
    /// At a deletion: entries that federated with it; of those that were deleted or
    /// dissociated what this command did.
    #[prost(uint64, tag = "2")]
    pub entries: u64,
    /// At a deletion: more entries federate with it than one command touches. The bundle
    /// is still there; the same deletion goes on.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Result of one federation relationship of a batch.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelationshipResult {
    /// Why not, if not.
    #[prost(enumeration = "Refusal", tag = "1")]
    pub refusal: i32,
}
