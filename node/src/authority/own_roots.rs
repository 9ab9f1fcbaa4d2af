//! The roots with which agents, and whoever else has an SVID of this cluster, are verified.

use std::sync::Arc;

use chancery_raft_store::ChangeKind;

use super::change;
use super::issuer::Issuer;
use crate::registry::Doors;
use crate::transport::TlsState;

/// Keeps the roots of the own bundle in `tls`, from the next handshake after a change on: a
/// revoked authority lets nobody in. Has no end.
pub async fn keep_own_roots(issuer: Issuer, doors: Doors, tls: Arc<TlsState>) {
    // Before the first look, so that no change falls in between.
    let mut feed = doors.registry().subscribe();
    loop {
        tls.set_roots(issuer.trust_domain(), issuer.bundle().roots());
        change(&mut feed, |kind| *kind == ChangeKind::BundleChanged).await;
    }
}
