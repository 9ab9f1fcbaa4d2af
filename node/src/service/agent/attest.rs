//! AttestAgent: a proof becomes an identity.
//!
//! An agent's SVID is written before it leaves (DESIGN §3): it is signed, recorded by
//! the command that also consumes the proof, and only then sent. What costs a
//! signature comes after everything that can be refused without one.

use std::time::Duration;

use chancery_api::spire::api::server::agent::v1 as api;
use chancery_api::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use chancery_api::spire::api::server::agent::v1::attest_agent_response::Result as Answer;
use chancery_api::spire::api::types;
use chancery_identity::csr::Csr;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::Refusal;
use chancery_raft_store::command::{AttestAgent, Command};
use tonic::{Status, Streaming};

use crate::attest::join_token::JoinToken;
use crate::attest::{Attestation, Attestor, PAYLOAD_BYTES_MAX};
use crate::registry::Doors;
use crate::service::{Context, audit, status, wire};

/// An agent says what it attests with at once.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(10);

/// A first message in good form.
struct Proof {
    csr: Vec<u8>,
    attestor: Attestor,
    payload: Vec<u8>,
}

/// Runs one attestation to its end.
pub(super) async fn attest(
    context: &Context,
    mut messages: Streaming<api::AttestAgentRequest>,
) -> Result<Answer, Status> {
    let first = tokio::time::timeout(FIRST_MESSAGE_LIMIT, messages.message()).await;
    let first = match first {
        Ok(Ok(Some(message))) => message,
        Ok(Ok(None)) => return Err(unread("EOF")),
        Ok(Err(error)) => return Err(unread(error.message())),
        Err(_) => {
            return Err(Status::deadline_exceeded(format!(
                "failed to receive request from stream: nothing came within {FIRST_MESSAGE_LIMIT:?}"
            )));
        }
    };
    let proof = Proof::read(first)?;
    let csr = Csr::parse(&proof.csr).map_err(|e| {
        Status::invalid_argument(format!("failed to parse CSR: {}", wire::csr_detail(e)))
    })?;
    let attestation = match proof.attestor {
        Attestor::JoinToken => {
            join_token(
                &context.doors,
                context.issuer.trust_domain(),
                &proof.payload,
            )
            .await?
        }
    };
    let path = attestation.id.path().to_owned();
    if is_banned(&context.doors, &path) {
        context.doors.exact().await?;
        if is_banned(&context.doors, &path) {
            return Err(banned());
        }
    }
    context.doors.fresh().await?;
    let svid = context
        .issuer
        .agent_x509(&attestation.id, csr.public_key())
        .await;
    let svid = svid.map_err(Into::<Status>::into)?;
    context.doors.still_fresh()?;
    let command = AttestAgent {
        path,
        attestation_type: attestation.attestor.name().into(),
        selectors: attestation.selectors,
        serial: svid.serial.clone(),
        expires_at: svid.expires_at,
        can_reattest: attestation.can_reattest,
        token_sha256: attestation
            .token
            .map_or_else(Vec::new, |t| t.sha256().to_vec()),
    };
    let outcome = context.doors.write(Command::AttestAgent(command)).await?;
    outcome.accepted().map_err(|refusal| match refusal {
        Refusal::AgentBanned => banned(),
        refusal => status::refused(refusal, "agent"),
    })?;
    audit::agent_svid("attested", &svid);
    Ok(Answer {
        svid: Some(types::X509svid {
            cert_chain: svid.chain,
            id: Some(wire::id_message(
                context.issuer.trust_domain(),
                svid.id.path(),
            )),
            expires_at: svid.expires_at,
            hint: String::new(),
        }),
        reattestable: attestation.can_reattest,
    })
}

impl Proof {
    /// Checks the first message in SPIRE's order and words.
    fn read(message: api::AttestAgentRequest) -> Result<Self, Status> {
        let malformed = |what: &str| Status::invalid_argument(format!("malformed param: {what}"));
        let Some(Step::Params(Params { data, params })) = message.step else {
            return Err(malformed("missing params"));
        };
        let data = data.ok_or_else(|| malformed("missing attestation data"))?;
        let params = params.ok_or_else(|| malformed("missing X509-SVID parameters"))?;
        if params.csr.is_empty() {
            return Err(malformed("missing CSR"));
        }
        if data.r#type.is_empty() {
            return Err(malformed("missing attestation data type"));
        }
        if data.payload.is_empty() {
            return Err(malformed("missing attestation data payload"));
        }
        if data.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(malformed("attestation data payload is too large"));
        }
        let attestor = Attestor::named(&data.r#type).ok_or_else(|| {
            Status::failed_precondition(format!(
                "error getting node attestor: could not find node attestor type {:?}",
                data.r#type
            ))
        })?;
        Ok(Self {
            csr: params.csr,
            attestor,
            payload: data.payload,
        })
    }
}

/// What a join token proves. A token that no node knows costs no signature; one that
/// only this node does not know yet is waited for.
async fn join_token(
    doors: &Doors,
    trust_domain: &TrustDomain,
    payload: &[u8],
) -> Result<Attestation, Status> {
    let text = std::str::from_utf8(payload).ok();
    // Text of any other shape was never made a token, on any node.
    let token = text.and_then(|text| JoinToken::parse(trust_domain, text).ok());
    let token = token.ok_or_else(status::token_unknown)?;
    if !doors.local().has_join_token(token.sha256()) {
        doors.exact().await?;
        if !doors.local().has_join_token(token.sha256()) {
            return Err(status::token_unknown());
        }
    }
    Ok(token.attestation())
}

fn is_banned(doors: &Doors, path: &str) -> bool {
    doors
        .local()
        .agent(path)
        .is_some_and(|agent| agent.is_banned())
}

/// Without a typed detail here: the agent has no identity to drop.
fn banned() -> Status {
    Status::permission_denied("failed to attest: agent is banned")
}

fn unread(why: &str) -> Status {
    Status::invalid_argument(format!("failed to receive request from stream: {why}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::Code;

    use super::*;

    fn message(kind: &str, payload: &[u8], csr: &[u8]) -> api::AttestAgentRequest {
        let data = types::AttestationData {
            r#type: kind.into(),
            payload: payload.to_vec(),
        };
        let params = api::AgentX509svidParams { csr: csr.to_vec() };
        let params = Params {
            data: Some(data),
            params: Some(params),
        };
        api::AttestAgentRequest {
            step: Some(Step::Params(params)),
        }
    }

    fn refused(message: api::AttestAgentRequest) -> (Code, String) {
        let status = Proof::read(message).err().unwrap();
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn a_first_message_is_refused_in_the_order_and_words_of_spire() {
        let table = [
            (api::AttestAgentRequest { step: None }, "missing params"),
            (
                api::AttestAgentRequest {
                    step: Some(Step::ChallengeResponse(vec![1])),
                },
                "missing params",
            ),
            (
                api::AttestAgentRequest {
                    step: Some(Step::Params(Params::default())),
                },
                "missing attestation data",
            ),
            (
                api::AttestAgentRequest {
                    step: Some(Step::Params(Params {
                        data: Some(types::AttestationData::default()),
                        params: None,
                    })),
                },
                "missing X509-SVID parameters",
            ),
            (message("", b"", b""), "missing CSR"),
            (message("", b"", b"c"), "missing attestation data type"),
            (message("x", b"", b"c"), "missing attestation data payload"),
            (
                message("join_token", &vec![0; PAYLOAD_BYTES_MAX + 1], b"c"),
                "attestation data payload is too large",
            ),
        ];
        for (message, text) in table {
            assert_eq!(
                refused(message),
                (Code::InvalidArgument, format!("malformed param: {text}"))
            );
        }
    }

    #[test]
    fn an_unknown_method_is_named() {
        assert_eq!(
            refused(message("x509pop", b"p", b"c")),
            (
                Code::FailedPrecondition,
                "error getting node attestor: could not find node attestor type \"x509pop\"".into()
            )
        );
    }

    #[test]
    fn a_good_first_message_is_taken_as_it_is() {
        let proof = Proof::read(message("join_token", b"t", b"c")).unwrap();
        assert_eq!(proof.attestor, Attestor::JoinToken);
        assert_eq!(
            (proof.payload.as_slice(), proof.csr.as_slice()),
            (&b"t"[..], &b"c"[..])
        );
    }
}
