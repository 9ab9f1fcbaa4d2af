//! What the log says of records that went by themselves, in SPIRE's words and fields.

use chancery_identity::id::TrustDomain;
use chancery_raft_store::model::Entry;

/// An entry went because it had expired.
pub(super) fn pruned_entry(trust_domain: &TrustDomain, entry: &Entry) {
    tracing::info!(
        spiffe_id = id(trust_domain, &entry.spiffe_path),
        parent_id = id(trust_domain, &entry.parent_path),
        entry_id = entry.id,
        "Pruned an expired registration"
    );
}

/// An entry went with the join-token agent whose second name it was.
pub(crate) fn cascade_deleted(trust_domain: &TrustDomain, entry: &Entry) {
    tracing::info!(
        spiffe_id = id(trust_domain, &entry.spiffe_path),
        parent_id = id(trust_domain, &entry.parent_path),
        entry_id = entry.id,
        "Cascade-deleted registration entry on attested node deletion"
    );
}

fn id(trust_domain: &TrustDomain, path: &str) -> String {
    format!("spiffe://{trust_domain}{path}")
}
