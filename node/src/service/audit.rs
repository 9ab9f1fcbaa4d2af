//! Audit events of issuance: who got which document. Emitted before the reply, on a
//! target of their own, so that they can be kept apart from logs.

use chancery_identity::id::SpiffeId;
use chancery_raft_store::model::Entry;

use crate::authority::{JwtSvid, X509Svid};

/// Target of audit events.
const TARGET: &str = "chancery::audit";

/// An agent got an X.509-SVID; `how` is `attested` or `renewed`.
pub(super) fn agent_svid(how: &'static str, svid: &X509Svid) {
    tracing::info!(
        target: TARGET,
        event = "agent_svid",
        how,
        id = %svid.id,
        serial = %svid.serial,
        authority = %svid.authority_id,
        expires_at = svid.expires_at,
    );
}

/// A workload's X.509-SVID was issued to an agent.
pub(super) fn workload_svid(agent: &SpiffeId, entry: &Entry, svid: &X509Svid) {
    tracing::info!(
        target: TARGET,
        event = "workload_x509_svid",
        caller = %agent,
        entry = %entry.id,
        revision = entry.revision_number,
        id = %svid.id,
        serial = %svid.serial,
        authority = %svid.authority_id,
        expires_at = svid.expires_at,
    );
}

/// A workload's JWT-SVID was issued to an agent. The token is a secret.
pub(super) fn jwt_svid(agent: &SpiffeId, entry: &Entry, svid: &JwtSvid, audience: &[String]) {
    tracing::info!(
        target: TARGET,
        event = "workload_jwt_svid",
        caller = %agent,
        entry = %entry.id,
        id = %svid.id,
        audience = ?audience,
        authority = %svid.authority_id,
        expires_at = svid.expires_at,
    );
}
