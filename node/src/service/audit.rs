//! Audit events of issuance: who got which document. Emitted before the reply, on a
//! target of their own, so that they can be kept apart from logs.
//!
//! Beside each event about a workload or a downstream server stands the line that SPIRE
//! logs for it, with SPIRE's text, level and field names, so that searches go on working.

use chancery_hsm::KeyRef;
use chancery_identity::id::SpiffeId;
use chancery_raft_store::command::ChangeMembers;
use chancery_raft_store::model::{AuthorityScope, DownstreamCa, Entry, IssuanceMode};

use crate::authority::{JwtSvid, X509Svid};
use crate::authz::Permit;
use crate::issue::Subject;
use crate::telemetry::rfc3339;
use crate::transport::LocalCaller;

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
    tracing::debug!(
        entry_id = %entry.id,
        spiffe_id = %svid.id,
        expiration = rfc3339(svid.expires_at),
        serial_num = %svid.serial,
        revision_number = entry.revision_number,
        "Signed X509 SVID"
    );
}

/// An administrator had an X.509-SVID minted.
pub(super) fn minted_x509_svid(
    permit: &Permit,
    svid: &X509Svid,
    dns_names: &[String],
    subject: &Subject,
) {
    tracing::info!(
        target: TARGET,
        event = "minted_x509_svid",
        caller = who(permit),
        id = %svid.id,
        serial = %svid.serial,
        authority = %svid.authority_id,
        expires_at = svid.expires_at,
        dns_names = ?dns_names,
    );
    tracing::debug!(
        spiffe_id = %svid.id,
        dns_name = dns_names.join(","),
        subject = %subject,
        expiration = rfc3339(svid.expires_at),
        serial_num = %svid.serial,
        "Signed X509 SVID"
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
    signed_jwt(svid, audience);
}

/// An administrator had a JWT-SVID minted. The token is a secret.
pub(super) fn minted_jwt_svid(permit: &Permit, svid: &JwtSvid, audience: &[String]) {
    tracing::info!(
        target: TARGET,
        event = "minted_jwt_svid",
        caller = who(permit),
        id = %svid.id,
        audience = ?audience,
        authority = %svid.authority_id,
        expires_at = svid.expires_at,
    );
    signed_jwt(svid, audience);
}

/// A downstream server's CA certificate was signed and recorded.
pub(super) fn downstream_ca(caller: &SpiffeId, record: &DownstreamCa, ca: &X509Svid) {
    tracing::info!(
        target: TARGET,
        event = "downstream_x509_ca",
        caller = %caller,
        entry = %record.entry_id,
        id = %ca.id,
        serial = %ca.serial,
        authority = %ca.authority_id,
        subject_key_id = %record.subject_key_id,
        expires_at = ca.expires_at,
    );
    tracing::debug!(
        spiffe_id = %ca.id,
        expiration = rfc3339(ca.expires_at),
        "Signed X509 CA SVID"
    );
}

/// The whole state began to leave as a backup; `stale` is how old it may be where no
/// quorum confirmed it.
pub(super) fn backup(permit: &Permit, stale_ms: Option<i64>) {
    tracing::info!(target: TARGET, event = "backup", caller = who(permit), stale_ms);
}

/// A node token was made. The token is a secret.
pub(super) fn node_token(permit: &Permit, expires_at: i64, learner: bool, replaces: u64) {
    tracing::info!(
        target: TARGET,
        event = "node_token",
        caller = who(permit),
        expires_at,
        learner,
        replaces,
    );
}

/// Members are to be something else from now on.
pub(super) fn members_changed(permit: &Permit, change: &ChangeMembers) {
    tracing::info!(
        target: TARGET,
        event = "members_changed",
        caller = who(permit),
        promote = ?change.promote,
        demote = ?change.demote,
        remove = ?change.remove,
    );
}

/// The cluster clock was set by hand.
pub(super) fn clock_set(permit: &Permit, before_unix_ms: i64, unix_ms: i64) {
    tracing::warn!(
        target: TARGET,
        event = "clock_set",
        caller = who(permit),
        before_unix_ms,
        unix_ms,
    );
}

/// A key is to be destroyed if it belongs to nothing.
pub(super) fn key_destruction_ordered(permit: &Permit, key: &KeyRef) {
    tracing::warn!(target: TARGET, event = "key_destruction_ordered", caller = who(permit), %key);
}

/// A key that belonged to nothing was destroyed, by order of a caller who may be gone.
pub(super) fn key_destroyed(caller: &str, key: &KeyRef) {
    tracing::warn!(target: TARGET, event = "key_destroyed", caller, %key);
}

/// The keys of epochs that ended were said to be this cluster's.
pub(super) fn keys_adopted(permit: &Permit, cluster_ids: &[String]) {
    tracing::warn!(target: TARGET, event = "keys_adopted", caller = who(permit), ?cluster_ids);
}

/// A login on the token was ordered; said before it is tried, so that a try that ends the process
/// is known of as well.
pub(super) fn login_ordered(permit: &Permit, by: Option<&LocalCaller>, same_pin: bool) {
    tracing::warn!(
        target: TARGET,
        event = "login_ordered",
        caller = who(permit),
        uid = by.map(LocalCaller::uid),
        pid = by.and_then(LocalCaller::pid),
        same_pin,
    );
}

/// What came of it.
pub(super) fn login_retried(permit: &Permit, by: Option<&LocalCaller>, outcome: &str) {
    tracing::warn!(
        target: TARGET,
        event = "login_retried",
        caller = who(permit),
        uid = by.map(LocalCaller::uid),
        pid = by.and_then(LocalCaller::pid),
        outcome,
    );
}

/// The issuance mode was set.
pub(super) fn issuance_mode_set(permit: &Permit, before: IssuanceMode, mode: IssuanceMode) {
    tracing::warn!(
        target: TARGET,
        event = "issuance_mode_set",
        caller = who(permit),
        before = before.as_str(),
        mode = mode.as_str(),
    );
}

/// Whose the keys of authorities are to be was set.
pub(super) fn authority_scope_set(permit: &Permit, before: AuthorityScope, scope: AuthorityScope) {
    tracing::warn!(
        target: TARGET,
        event = "authority_scope_set",
        caller = who(permit),
        before = before.as_str(),
        scope = scope.as_str(),
    );
}

/// Leadership was handed over on request.
pub(super) fn leader_transferred(permit: &Permit, leader: u64) {
    tracing::info!(
        target: TARGET,
        event = "leader_transferred",
        caller = who(permit),
        leader,
    );
}

fn signed_jwt(svid: &JwtSvid, audience: &[String]) {
    tracing::debug!(
        spiffe_id = %svid.id,
        audience = ?audience,
        expiration = rfc3339(svid.expires_at),
        "Server CA successfully signed JWT SVID"
    );
}

/// The administrator: by ID, or through the admin socket.
pub(super) fn who(permit: &Permit) -> String {
    permit
        .id()
        .map_or_else(|| permit.role().as_str().to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Role;

    #[test]
    fn an_administrator_without_an_id_came_through_the_socket() {
        let permit = |role, id| Permit::for_tests("/x/Y", role, id);
        let id = SpiffeId::parse("spiffe://example.org/admin").ok();
        assert_eq!(who(&permit(Role::Local, None)), "local");
        assert_eq!(
            who(&permit(Role::AdminByEntry, id)),
            "spiffe://example.org/admin"
        );
    }
}
