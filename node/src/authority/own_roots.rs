//! The roots with which agents, and whoever else has an SVID of this cluster, are verified.

use std::sync::Arc;

use chancery_raft_store::{Change, ChangeKind};
use tokio::sync::broadcast;

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
        bundle_change(&mut feed).await;
    }
}

async fn bundle_change(feed: &mut broadcast::Receiver<Change>) {
    loop {
        match feed.recv().await {
            Ok(change) => match change.kind {
                ChangeKind::BundleChanged | ChangeKind::StateReplaced => return,
                _ => {}
            },
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
