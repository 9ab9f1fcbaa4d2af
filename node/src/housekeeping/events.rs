//! What the log says of records that went by themselves, in SPIRE's words and fields.

use chancery_identity::id::TrustDomain;
use chancery_raft_store::model::{AuthorityKind, BundleAuthority, Entry};

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

/// An authority left the own bundle because it had ended.
pub(crate) fn pruned_authority(pruned: &BundleAuthority) {
    let (id, expiration) = (pruned.id.as_str(), pruned.expires_at);
    match pruned.kind() {
        AuthorityKind::Jwt => tracing::info!(
            kid = id,
            expiration,
            "Pruning JWT signing key due to expiration"
        ),
        AuthorityKind::X509 | AuthorityKind::Unspecified => tracing::info!(
            subject_key_id = id,
            expiration,
            "Pruning CA certificate due to expiration"
        ),
    }
}

fn id(trust_domain: &TrustDomain, path: &str) -> String {
    format!("spiffe://{trust_domain}{path}")
}
