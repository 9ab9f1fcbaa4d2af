//! `chancery.migrate.v1.Migration`: what comes from another server and SPIRE's API has no call for.

use chancery_api::chancery::migrate::v1 as api;
use chancery_api::chancery::migrate::v1::migration_server::Migration;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::command::{Command, ImportBan};
use tonic::{Request, Response, Status};

use super::{Context, holds, permit, status, wire};

/// Longest name of an attestor, in bytes.
const ATTESTATION_TYPE_BYTES_MAX: usize = 255;
/// Most selectors of an agent.
const SELECTORS_MAX: usize = 1_000;

/// The service.
pub(super) struct MigrationService {
    context: Context,
}

impl MigrationService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Migration for MigrationService {
    async fn import_agent_ban(
        &self,
        request: Request<api::ImportAgentBanRequest>,
    ) -> Result<Response<()>, Status> {
        permit(&request)?;
        let command = import_ban(self.context.issuer.trust_domain(), request.into_inner())?;
        let path = command.path.clone();
        let outcome = self
            .context
            .doors
            .write(Command::ImportBan(command))
            .await?;
        outcome
            .accepted()
            .map_err(|refusal| status::refused(refusal, "agent"))?;
        let trust_domain = self.context.issuer.trust_domain();
        tracing::info!(spiffe_id = %format_args!("spiffe://{trust_domain}{path}"), "Agent banned");
        Ok(holds::mark(&self.context, Response::new(())).await)
    }
}

/// The command for a request that holds what it must.
fn import_ban(
    trust_domain: &TrustDomain,
    request: api::ImportAgentBanRequest,
) -> Result<ImportBan, Status> {
    let id = wire::agent_id(trust_domain, request.id.as_ref())
        .map_err(|e| Status::invalid_argument(format!("invalid agent ID: {e}")))?;
    let kind = &request.attestation_type;
    if kind.len() > ATTESTATION_TYPE_BYTES_MAX || kind.chars().any(char::is_control) {
        return Err(Status::invalid_argument("invalid attestation type"));
    }
    if request.selectors.len() > SELECTORS_MAX {
        return Err(Status::invalid_argument(format!(
            "too many selectors (max {SELECTORS_MAX})"
        )));
    }
    if request.expires_at < 0 {
        return Err(Status::invalid_argument("invalid expiry"));
    }
    let selectors = wire::selectors(&request.selectors)
        .map_err(|e| Status::invalid_argument(format!("invalid selectors: {e}")))?;
    Ok(ImportBan {
        path: id.path().to_owned(),
        attestation_type: request.attestation_type,
        selectors,
        can_reattest: request.can_reattest,
        expires_at: request.expires_at,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_api::spire::api::types::{Selector, Spiffeid};

    use super::*;

    fn request() -> api::ImportAgentBanRequest {
        api::ImportAgentBanRequest {
            id: Some(Spiffeid {
                trust_domain: "example.org".into(),
                path: "/spire/agent/x509pop/a".into(),
            }),
            attestation_type: "x509pop".into(),
            selectors: vec![Selector {
                r#type: "x509pop".into(),
                value: "ca:fingerprint:00".into(),
            }],
            can_reattest: true,
            expires_at: 7,
        }
    }

    fn asked(request: api::ImportAgentBanRequest) -> Result<ImportBan, String> {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        import_ban(&trust_domain, request).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_ban_names_an_agent_of_this_trust_domain() {
        let command = asked(request()).unwrap();
        assert_eq!(command.path, "/spire/agent/x509pop/a");
        assert_eq!(command.selectors.len(), 1);
        for (trust_domain, path) in [
            ("other.org", "/spire/agent/x509pop/a"),
            ("example.org", "/web"),
            ("example.org", ""),
            ("example.org", "/spire/server"),
        ] {
            let id = Some(Spiffeid {
                trust_domain: trust_domain.into(),
                path: path.into(),
            });
            let refused = asked(api::ImportAgentBanRequest { id, ..request() }).unwrap_err();
            assert!(refused.starts_with("invalid agent ID: "), "{refused}");
        }
        let without = api::ImportAgentBanRequest {
            id: None,
            ..request()
        };
        asked(without).unwrap_err();
    }

    #[test]
    fn what_goes_into_the_record_is_bounded() {
        let long = api::ImportAgentBanRequest {
            attestation_type: "x".repeat(255),
            selectors: vec![request().selectors.remove(0); 1_000],
            ..request()
        };
        asked(long.clone()).unwrap();
        let mut kind = long.clone();
        kind.attestation_type.push('x');
        assert_eq!(asked(kind).unwrap_err(), "invalid attestation type");
        let mut selectors = long.clone();
        selectors.selectors.push(selectors.selectors[0].clone());
        assert_eq!(
            asked(selectors).unwrap_err(),
            "too many selectors (max 1000)"
        );
        let mut selector = long.clone();
        selector.selectors[0].r#type.clear();
        assert!(
            asked(selector)
                .unwrap_err()
                .starts_with("invalid selectors: ")
        );
        let mut expired = long;
        expired.expires_at = -1;
        assert_eq!(asked(expired).unwrap_err(), "invalid expiry");
    }
}
