//! The methods of node attestation that the configuration switches on.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use chancery_identity::pki::Certificate;
use tonic::Status;

use crate::attest::Attestors;
use crate::attest::x509pop::{OwnAuthorities, Roots, X509Pop};
use crate::authority::Issuer;
use crate::config::{Config, X509PopConfig, X509PopRoots};
use crate::registry::Doors;

/// The roots of nodes' certificates that stand in files.
pub(super) fn external_roots(config: &Config) -> anyhow::Result<Vec<Certificate>> {
    let Some(X509PopConfig {
        roots: X509PopRoots::Files { key, paths },
        ..
    }) = &config.node_attestors.x509pop
    else {
        return Ok(Vec::new());
    };
    let mut roots = Vec::new();
    for path in paths {
        let read = crate::config::read_roots(path);
        roots.extend(
            read.with_context(|| format!("[node_attestors.x509pop] {key}: {}", path.display()))?,
        );
    }
    Ok(roots)
}

/// The own bundle, as a method of attestation needs it.
struct ClusterAuthorities {
    issuer: Issuer,
    doors: Doors,
}

#[async_trait]
impl OwnAuthorities for ClusterAuthorities {
    fn known(&self) -> Vec<Vec<u8>> {
        self.issuer.bundle().roots()
    }

    async fn exact(&self) -> Result<(), Status> {
        self.doors.exact().await
    }
}

/// The methods of node attestation that are switched on.
pub(super) fn attestors(
    config: &Config,
    external: Vec<Certificate>,
    issuer: &Issuer,
    doors: &Doors,
) -> Attestors {
    let mut attestors = Attestors::default();
    if let Some(x509pop) = &config.node_attestors.x509pop {
        let roots = match &x509pop.roots {
            X509PopRoots::Files { .. } => Roots::External(Arc::new(external)),
            X509PopRoots::Spiffe { prefix } => Roots::Spiffe {
                authorities: Arc::new(ClusterAuthorities {
                    issuer: issuer.clone(),
                    doors: doors.clone(),
                }),
                prefix: prefix.clone(),
            },
        };
        let trust_domain = config.trust_domain.clone();
        let settings = x509pop.settings.clone();
        attestors.add(Arc::new(X509Pop::new(trust_domain, roots, settings)));
    }
    attestors
}
