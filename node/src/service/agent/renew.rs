//! RenewAgent: an agent's next SVID.
//!
//! It is recorded as pending before it leaves, and becomes the current one with its
//! first use; until then the old one works on.

use chancery_api::spire::api::server::agent::v1::AgentX509svidParams;
use chancery_api::spire::api::types;
use chancery_identity::csr::Csr;
use chancery_identity::id::SpiffeId;
use chancery_raft_store::command::{Command, RenewAgent};
use chancery_raft_store::model::Agent;
use tonic::Status;

use crate::service::{Context, audit, status, wire};

/// Signs for the caller itself, with the key of its CSR and nothing else of it.
pub(super) async fn renew(
    context: &Context,
    caller: &SpiffeId,
    params: Option<AgentX509svidParams>,
) -> Result<types::X509svid, Status> {
    let may = || {
        let directory = context.doors.local();
        may_renew(directory.agent(caller.path()).map(AsRef::as_ref))
    };
    // An agent acts upon either no: it is said only when it is exact.
    if may().is_err() {
        context.doors.exact().await?;
        may()?;
    }
    tracing::info!("Renewing agent SVID");
    let params = params.ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
    if params.csr.is_empty() {
        return Err(Status::invalid_argument("missing CSR"));
    }
    let csr = Csr::parse(&params.csr).map_err(|e| {
        Status::invalid_argument(format!("failed to parse CSR: {}", wire::csr_detail(e)))
    })?;
    context.doors.fresh().await?;
    let asked = context.ledger.mark();
    let svid = context.issuer.agent_x509(caller, csr.public_key()).await;
    let svid = svid.map_err(Into::<Status>::into)?;
    context.doors.still_fresh()?;
    let command = RenewAgent {
        path: caller.path().to_owned(),
        serial: svid.serial.clone(),
        expires_at: svid.expires_at,
    };
    let outcome = context.doors.write(Command::RenewAgent(command)).await?;
    outcome
        .accepted()
        .map_err(|refusal| status::refused(refusal, "agent"))?;
    context.ledger.agent(asked, &svid).await?;
    audit::agent_svid("renewed", &svid);
    Ok(types::X509svid {
        cert_chain: svid.chain,
        id: Some(wire::id_message(
            context.issuer.trust_domain(),
            caller.path(),
        )),
        expires_at: svid.expires_at,
        hint: String::new(),
    })
}

/// Whether an agent with this record renews; a ban is decided by the command.
fn may_renew(agent: Option<&Agent>) -> Result<(), Status> {
    let agent = agent.ok_or_else(|| Status::not_found("agent not found"))?;
    if agent.can_reattest {
        Err(status::must_reattest())
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn who_can_attest_again_must() {
        let agent = Agent {
            serial: "1".into(),
            ..Agent::default()
        };
        assert!(may_renew(Some(&agent)).is_ok());
        let status = may_renew(Some(&Agent {
            can_reattest: true,
            ..agent
        }))
        .unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.message(), "agent must reattest instead of renew");
        assert!(!status.details().is_empty());
        let status = may_renew(None).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "agent not found")
        );
    }
}
