//! The roots with which administrators of other trust domains are verified: those of
//! the federated bundles.

use std::sync::Arc;

use chancery_raft_store::{ChangeKind, Directory};

use super::change;
use crate::registry::Doors;
use crate::transport::TlsState;

/// Keeps in `tls` the roots of the trust domains that an administrator is of, from the
/// next handshake after a change on. Has no end.
pub async fn keep_foreign_roots(doors: Doors, tls: Arc<TlsState>) {
    // Before the first look, so that no change falls in between.
    let mut feed = doors.registry().subscribe();
    loop {
        take_over(&doors.local(), &tls);
        change(&mut feed, |kind| {
            matches!(
                kind,
                ChangeKind::FederatedBundleSet(_) | ChangeKind::FederatedBundleRemoved(_)
            )
        })
        .await;
    }
}

/// A trust domain without a bundle has no roots.
fn take_over(directory: &Directory, tls: &TlsState) {
    for trust_domain in tls.foreign_trust_domains() {
        match directory.federation().bundle(trust_domain.as_str()) {
            None => tls.remove_roots(&trust_domain),
            Some(bundle) => {
                let roots = bundle.x509_authorities.iter();
                let roots = roots.map(|root| root.certificate.clone()).collect();
                tls.set_roots(&trust_domain, roots);
            }
        }
    }
}
