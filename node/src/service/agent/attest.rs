//! AttestAgent: a proof becomes an identity.
//!
//! An agent's SVID is written before it leaves (DESIGN §3): it is signed, recorded by
//! the command that also consumes the proof, and only then sent. What costs a
//! signature comes after everything that can be refused without one.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use chancery_api::spire::api::server::agent::v1 as api;
use chancery_api::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use chancery_api::spire::api::server::agent::v1::attest_agent_response::{
    Result as Answer, Step as Told,
};
use chancery_api::spire::api::types;
use chancery_identity::csr::Csr;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_raft_store::Refusal;
use chancery_raft_store::command::{AttestAgent, Command};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};
use tracing::Instrument as _;

use crate::attest::join_token::{self, JoinToken};
use crate::attest::{Attestation, Node, PAYLOAD_BYTES_MAX, RESPONSE_BYTES_MAX, Rounds};
use crate::registry::Doors;
use crate::service::{Context, audit, status, wire};

/// An agent says what it attests with at once.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// An agent answers a challenge within this time, wherever its key is.
const ROUND_LIMIT: Duration = Duration::from_secs(30);

/// Longest name of a method, in bytes: it is logged, and stands in the answer.
const NAME_BYTES_MAX: usize = 255;

/// A first message in good form.
struct Proof {
    csr: Vec<u8>,
    attestor: String,
    payload: Vec<u8>,
}

/// What the server says in one attestation, in turn.
type Answers = BoxStream<'static, Result<api::AttestAgentResponse, Status>>;

/// Runs one attestation. Until there is something to say, a no is the answer to the
/// call itself. It ends when the agent goes away.
pub(super) async fn answers(
    context: Context,
    address: Option<SocketAddr>,
    messages: Streaming<api::AttestAgentRequest>,
) -> Result<Answers, Status> {
    let (said, mut answers) = mpsc::channel(1);
    let run = async move {
        let mut conversation = Conversation { messages, said };
        let result = attest(&context, address, &mut conversation).await;
        // Whoever listened may be gone.
        let _ = conversation
            .said
            .send(result.map(|result| told(Told::Result(result))))
            .await;
    };
    let task = AbortOnDropHandle::new(tokio::spawn(run.in_current_span()));
    let first = match answers.recv().await {
        Some(first) => first?,
        None => return Err(Status::internal("the attestation was cut off")),
    };
    let rest = stream::unfold((answers, task), |(mut answers, task)| async move {
        let next = answers.recv().await?;
        Some((next, (answers, task)))
    });
    Ok(stream::iter([Ok(first)]).chain(rest).boxed())
}

fn told(step: Told) -> api::AttestAgentResponse {
    api::AttestAgentResponse { step: Some(step) }
}

/// Both sides of the stream.
struct Conversation {
    messages: Streaming<api::AttestAgentRequest>,
    said: mpsc::Sender<Result<api::AttestAgentResponse, Status>>,
}

impl Conversation {
    /// The first message.
    async fn first(&mut self) -> Result<api::AttestAgentRequest, Status> {
        let unread = |why: &str| {
            Status::invalid_argument(format!("failed to receive request from stream: {why}"))
        };
        match tokio::time::timeout(FIRST_MESSAGE_LIMIT, self.messages.message()).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(unread("EOF")),
            Ok(Err(error)) => Err(unread(error.message())),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "failed to receive request from stream: nothing came within {FIRST_MESSAGE_LIMIT:?}"
            ))),
        }
    }
}

#[async_trait]
impl Rounds for Conversation {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, Status> {
        if self
            .said
            .send(Ok(told(Told::Challenge(challenge))))
            .await
            .is_err()
        {
            return Err(Status::internal(
                "failed to send challenge to agent: it is gone",
            ));
        }
        let failed = |code, why: &str| {
            Status::new(
                code,
                format!("failed to receive challenge from agent: {why}"),
            )
        };
        let answer = match tokio::time::timeout(ROUND_LIMIT, self.messages.message()).await {
            Ok(Ok(Some(message))) => match message.step {
                Some(Step::ChallengeResponse(answer)) => answer,
                // As Go's getter has it: what is not there is empty.
                Some(Step::Params(_)) | None => Vec::new(),
            },
            Ok(Ok(None)) => return Err(failed(Code::Internal, "EOF")),
            Ok(Err(error)) => return Err(failed(Code::Internal, error.message())),
            Err(_) => {
                let why = format!("nothing came within {ROUND_LIMIT:?}");
                return Err(failed(Code::DeadlineExceeded, &why));
            }
        };
        if answer.len() > RESPONSE_BYTES_MAX {
            return Err(Status::invalid_argument("challenge response is too large"));
        }
        Ok(answer)
    }
}

/// Runs one attestation to its end, and logs it as SPIRE does.
async fn attest(
    context: &Context,
    address: Option<SocketAddr>,
    conversation: &mut Conversation,
) -> Result<Answer, Status> {
    let address_text = address.map(|address| address.to_string());
    let address_text = address_text.as_deref().unwrap_or_default();
    let proof = async { Proof::read(conversation.first().await?) }.await;
    let proof = proof.inspect_err(|status| failure(status, "", address_text))?;
    let attestor = proof.attestor.clone();
    let result = judge(context, address, conversation, proof).await;
    match &result {
        Ok((_, agent)) => tracing::info!(
            node_attestor_type = attestor,
            agent_id = %agent,
            address = address_text,
            "Agent attestation request completed"
        ),
        Err(status) => failure(status, &attestor, address_text),
    }
    result.map(|(answer, _)| answer)
}

/// A failed attestation, in the words of its answer.
fn failure(status: &Status, node_attestor_type: &str, address: &str) {
    let message = status.message();
    match status.code() {
        Code::InvalidArgument => {
            tracing::error!(node_attestor_type, address, "Invalid argument: {message}");
        }
        _ => {
            let message = status::capitalized(message);
            tracing::error!(node_attestor_type, address, "{message}");
        }
    }
}

async fn judge(
    context: &Context,
    address: Option<SocketAddr>,
    conversation: &mut Conversation,
    proof: Proof,
) -> Result<(Answer, SpiffeId), Status> {
    let trust_domain = context.issuer.trust_domain();
    let attestation = if proof.attestor == join_token::NAME {
        join_token(&context.doors, trust_domain, &proof.payload).await?
    } else {
        let attestor = context.attestors.named(&proof.attestor).ok_or_else(|| {
            Status::failed_precondition(format!(
                "error getting node attestor: could not find node attestor type {:?}",
                proof.attestor
            ))
        })?;
        let clock = context.doors.consensus().clock();
        let node = Node {
            address: address.map(|address| address.ip()),
            now: clock.now_unix_ms().div_euclid(1000),
        };
        let attested = attestor.attest(proof.payload, node, conversation).await;
        attested.map_err(|e| e.into_status(attestor.name()))?
    };
    check_id(&attestation, trust_domain)?;
    let path = attestation.id.path().to_owned();
    if is_banned(&context.doors, &path) {
        context.doors.exact().await?;
        if is_banned(&context.doors, &path) {
            return Err(banned());
        }
    }
    let csr = Csr::parse(&proof.csr).map_err(|e| {
        Status::invalid_argument(format!("failed to parse CSR: {}", wire::csr_detail(e)))
    })?;
    context.doors.fresh().await?;
    let asked = context.ledger.mark();
    let svid = context
        .issuer
        .agent_x509(&attestation.id, csr.public_key())
        .await;
    let svid = svid.map_err(Into::<Status>::into)?;
    context.doors.still_fresh()?;
    let command = AttestAgent {
        path,
        attestation_type: attestation.attestor.into(),
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
    context.ledger.agent(asked, &svid).await?;
    audit::agent_svid("attested", &svid);
    let answer = Answer {
        svid: Some(types::X509svid {
            cert_chain: svid.chain,
            id: Some(wire::id_message(trust_domain, svid.id.path())),
            expires_at: svid.expires_at,
            hint: String::new(),
        }),
        reattestable: attestation.can_reattest,
    };
    Ok((answer, attestation.id))
}

/// Whether the agent may have the ID that its method found.
fn check_id(attestation: &Attestation, trust_domain: &TrustDomain) -> Result<(), Status> {
    let id = &attestation.id;
    if id.path() == SpiffeId::server(trust_domain).path() {
        return Err(Status::internal(
            "agent ID cannot collide with the server ID",
        ));
    }
    let scope = format!("/spire/agent/{}/", attestation.attestor);
    if !id.path().starts_with(&scope) {
        let error = format!(
            "{:?} is not in the agent namespace for attestor {:?}",
            id.as_str(),
            attestation.attestor
        );
        tracing::warn!(
            error,
            node_attestor_type = attestation.attestor,
            agent_id = %id,
            "The node attestor produced an invalid agent ID; future releases will enforce that agent IDs are within the reserved agent namesepace for the node attestor"
        );
    }
    Ok(())
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
        if data.r#type.len() > NAME_BYTES_MAX {
            return Err(malformed("attestation data type is too long"));
        }
        if data.payload.is_empty() {
            return Err(malformed("missing attestation data payload"));
        }
        if data.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(malformed("attestation data payload is too large"));
        }
        Ok(Self {
            csr: params.csr,
            attestor: data.r#type,
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
            (
                message(&"x".repeat(256), b"p", b"c"),
                "attestation data type is too long",
            ),
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
    fn a_good_first_message_is_taken_as_it_is() {
        let proof = Proof::read(message("join_token", b"t", b"c")).unwrap();
        assert_eq!(proof.attestor, "join_token");
        assert_eq!(
            (proof.payload.as_slice(), proof.csr.as_slice()),
            (&b"t"[..], &b"c"[..])
        );
    }

    #[test]
    fn no_agent_is_the_server_and_one_outside_its_scope_is_only_warned_of() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let of = |id: &str| Attestation {
            id: SpiffeId::parse(id).unwrap(),
            attestor: "x509pop",
            selectors: Vec::new(),
            can_reattest: true,
            token: None,
        };
        let status = check_id(&of("spiffe://example.org/spire/server"), &domain).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "agent ID cannot collide with the server ID")
        );
        assert!(check_id(&of("spiffe://example.org/spire/agent/cn/a"), &domain).is_ok());
        assert!(check_id(&of("spiffe://example.org/spire/agent/x509pop/a"), &domain).is_ok());
    }
}
