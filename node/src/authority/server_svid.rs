//! The SVID that this node shows to agents: its own key in memory, renewed at
//! half its life, and at once when another authority signs, or in another mode.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chancery_raft_store::ChangeKind;
use chancery_raft_store::model::IssuanceMode;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::change;
use super::driver::record_server_svid;
use super::issuer::{IssueFailed, Issuer};
use super::source::Wanted;
use crate::registry::Doors;
use crate::transport::{ServerIdentity, TlsState};

/// How often its age and issuer are looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is served at present; `None` while the agent port is closed.
#[derive(Clone, Default)]
pub struct ServerSvid {
    current: Arc<RwLock<Option<Current>>>,
}

#[derive(Clone)]
struct Current {
    /// Leaf first, without the root.
    chain: Arc<Vec<Vec<u8>>>,
    /// What it came from.
    source: Wanted,
    made_at: i64,
    not_after: i64,
}

impl ServerSvid {
    /// Unix second at which it ends.
    pub fn not_after(&self) -> Option<i64> {
        self.get().map(|c| c.not_after)
    }

    /// Its certificates, leaf first and without the root; `None` while there is none.
    pub fn chain(&self) -> Option<Arc<Vec<Vec<u8>>>> {
        self.get().map(|c| c.chain)
    }

    fn get(&self) -> Option<Current> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, current: Option<Current>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// Keeps a server SVID in `tls`. Has no end.
pub async fn keep_server_svid(
    issuer: Issuer,
    doors: Doors,
    tls: Arc<TlsState>,
    served: ServerSvid,
) {
    let mut feed = doors.registry().subscribe();
    let mut told = String::new();
    let mut recorded = String::new();
    loop {
        tokio::select! {
            // Time is the other reason to look.
            _ = tokio::time::timeout(INTERVAL, change(&mut feed, matters)) => {}
            // The first one opens the agent port.
            () = issuer.another_usable() => {}
        }
        let now = doors.consensus().clock().now_unix_ms().div_euclid(1000);
        let current = served.get();
        if current.as_ref().is_some_and(|c| now >= c.not_after) {
            // An expired SVID would only make agents fail in a less clear way.
            tls.set_identity(None);
            served.set(None);
        }
        let Some(wanted) = issuer.wanted() else {
            continue;
        };
        let due = current
            .as_ref()
            .is_none_or(|c| c.source != wanted || now >= c.made_at + (c.not_after - c.made_at) / 2);
        let shown = current.as_ref().map(|c| c.source.authority_id.as_str());
        let unknown_for = issuer.seconds_unknown_to_agents(shown);
        if due && unknown_for > 0 {
            if told.is_empty() {
                told = "waiting for agents to learn the new authority".into();
                tracing::info!(seconds = unknown_for, authority = %wanted.authority_id, "{told}");
            }
            continue;
        }
        if due {
            match renew(&issuer, &tls, wanted.mode, now).await {
                Ok(next) => {
                    tracing::info!(authority = %next.source.authority_id, mode = next.source.mode.as_str(), expires_at = next.not_after, "server SVID issued");
                    // SPIRE's line for the same.
                    let id = chancery_identity::id::SpiffeId::server(issuer.trust_domain());
                    let expiration = crate::telemetry::rfc3339(next.not_after);
                    tracing::debug!(spiffe_id = %id, expiration, "Signed X509 SVID");
                    told.clear();
                    served.set(Some(next));
                }
                Err(error) => {
                    let text = crate::app::chain(&error);
                    if text != told {
                        tracing::warn!(error = %text, "the server SVID cannot be issued; trying on");
                        told = text;
                    }
                    continue;
                }
            }
        }
        let served_by = served.get().map(|c| c.source.authority_id);
        let Some(served_by) = served_by.filter(|id| *id != recorded) else {
            continue;
        };
        if record_server_svid(&doors, &served_by).await {
            recorded = served_by;
        }
    }
}

/// Whether the SVID to serve may be another after a change.
fn matters(kind: &ChangeKind) -> bool {
    matches!(
        kind,
        ChangeKind::IssuanceModeSet | ChangeKind::AuthorityScopeSet | ChangeKind::AuthoritySet(_)
    )
}

async fn renew(
    issuer: &Issuer,
    tls: &TlsState,
    mode: IssuanceMode,
    now: i64,
) -> Result<Current, IssueFailed> {
    let (svid, key) = issuer.server_x509().await?;
    let chain = svid
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let identity = ServerIdentity::new(chain, &key)
        .map_err(|e| IssueFailed::Profile(crate::app::chain(&e)))?;
    // Whoever is let in now must find the roots that it is judged by.
    tls.set_roots(issuer.trust_domain(), issuer.bundle().roots());
    tls.set_identity(Some(identity));
    Ok(Current {
        chain: Arc::new(svid.chain),
        source: Wanted {
            authority_id: svid.authority_id,
            mode,
        },
        made_at: now,
        not_after: svid.expires_at,
    })
}
