//! Readers of what callers hand in that are more than a field or two, by their bytes:
//! for fuzzing, which has no services.

use chancery_api::spire::api::types;
use chancery_raft_store::command::RelationshipDraft;
use prost::Message;

use super::trust_domain::convert;

/// An encoded `spire.api.types.FederationRelationship`, with the bundle that it may
/// bring, if a service would take it.
pub fn relationship(bytes: &[u8]) -> Option<RelationshipDraft> {
    let message = types::FederationRelationship::decode(bytes).ok()?;
    convert::draft(&message).ok()
}

/// What a service would tell of it.
pub fn relationship_told(draft: &RelationshipDraft) -> Vec<u8> {
    convert::draft_message(draft, None)
        .unwrap_or_default()
        .encode_to_vec()
}
