//! `spire.api.server.debug.v1.Debug`: what a server says of itself, on the admin socket
//! alone.
//!
//! SPIRE's answer may be five seconds old; this one is of the moment.

use chancery_api::spire::api::server::debug::v1 as api;
use chancery_api::spire::api::server::debug::v1::debug_server::Debug;
use chancery_api::spire::api::server::debug::v1::get_info_response::Cert;
use chancery_identity::bundle::Bundle;
use chancery_identity::x509_svid::{CaFacts, Purpose, verify_chain};
use rustls_pki_types::CertificateDer;
use tonic::{Request, Response, Status};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Context, permit, wire};
use crate::authority::ServerSvid;
use crate::environment::Stopwatch;
use crate::issue::Subject;

/// The service.
pub(super) struct DebugService {
    context: Context,
    server_svid: ServerSvid,
    uptime: Stopwatch,
}

impl DebugService {
    /// A service over the node's state; `uptime` runs since the process started.
    pub(super) fn new(context: Context, server_svid: ServerSvid, uptime: Stopwatch) -> Self {
        Self {
            context,
            server_svid,
            uptime,
        }
    }
}

/// A chain as it is told, from the leaf to the root that it leads to. SPIRE's answer
/// holds the root too.
fn chain_message(chain: &[Vec<u8>], bundle: &Bundle, now: i64) -> Result<Vec<Cert>, Status> {
    let failed = |e: &dyn std::fmt::Display| {
        Status::internal(format!("failed verification against bundle: {e}"))
    };
    let roots = bundle.roots();
    let presented: Vec<CertificateDer<'_>> = chain.iter().map(|c| c.as_slice().into()).collect();
    let trust_domain = &bundle.trust_domain;
    let leaf = verify_chain(&presented, trust_domain, &roots, Purpose::Server, now)
        .map_err(|e| failed(&e))?;
    let mut told = Vec::new();
    let mut issuer = leaf.aki;
    for (at, der) in chain.iter().enumerate() {
        if at == 0 {
            told.push(Cert {
                id: Some(wire::id_message(trust_domain, leaf.id.path())),
                expires_at: leaf.not_after,
                subject: subject(der)?,
            });
        } else {
            let (cert, aki) = authority_message(bundle, der).ok_or_else(|| failed(&"malformed"))?;
            told.push(cert);
            issuer = aki;
        }
    }
    let root = roots.iter().find(|der| {
        let facts = CaFacts::read(der).ok();
        facts.is_some_and(|facts| issuer.as_deref() == Some(facts.ski()))
    });
    told.extend(root.and_then(|der| Some(authority_message(bundle, der)?.0)));
    Ok(told)
}

/// A signing certificate as it is told, and the key identifier of its issuer.
fn authority_message(bundle: &Bundle, der: &[u8]) -> Option<(Cert, Option<Vec<u8>>)> {
    let facts = CaFacts::read_for(&bundle.trust_domain, der).ok()?;
    let cert = Cert {
        id: facts.trust_domain().map(|td| wire::id_message(td, "")),
        expires_at: facts.not_after(),
        subject: Subject::from_name_der(facts.subject_der())
            .ok()?
            .to_string(),
    };
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let aki = parsed.extensions().iter().find_map(|extension| {
        use x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier;
        match extension.parsed_extension() {
            AuthorityKeyIdentifier(aki) => Some(aki.key_identifier.as_ref()?.0.to_vec()),
            _ => None,
        }
    });
    Some((cert, aki))
}

fn subject(der: &[u8]) -> Result<String, Status> {
    let parsed = X509Certificate::from_der(der).ok();
    let subject = parsed.and_then(|(_, c)| Subject::from_name_der(c.subject().as_raw()).ok());
    subject
        .map(|s| s.to_string())
        .ok_or_else(|| Status::internal("the server SVID has no readable subject"))
}

fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

#[tonic::async_trait]
impl Debug for DebugService {
    async fn get_info(
        &self,
        request: Request<api::GetInfoRequest>,
    ) -> Result<Response<api::GetInfoResponse>, Status> {
        permit(&request)?;
        let freshness = self.context.doors.linearizable().await;
        let bundle = self.context.issuer.bundle();
        if bundle.x509_authorities.is_empty() {
            return Err(Status::not_found("trust domain bundle not found"));
        }
        let now = self.context.doors.consensus().clock().now_unix_ms() / 1000;
        // A server that has none yet has the rest to tell.
        let svid_chain = match self.server_svid.chain() {
            Some(chain) => chain_message(&chain, &bundle, now)?,
            None => Vec::new(),
        };
        let directory = self.context.doors.local();
        let info = api::GetInfoResponse {
            svid_chain,
            uptime: i32::try_from(self.uptime.elapsed().as_secs()).unwrap_or(i32::MAX),
            agents_count: count(directory.agent_count()),
            entries_count: count(directory.entry_count()),
            // SPIRE counts every bundle that it stores, and its own is one of them.
            federated_bundles_count: count(1 + directory.federation().bundle_count()),
        };
        Ok(freshness.mark(Response::new(info)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
