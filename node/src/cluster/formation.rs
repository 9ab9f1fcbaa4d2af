//! How a cluster comes to be from a static list of peers and a shared secret.
//!
//! Only the first in the list founds, as a cluster of one with id 1, and only
//! after every listed peer answered that it is pristine. The others join as
//! learners under ids from the log. A pristine node that finds a member joins it.
//! Until its key is pinned, each side proves the shared secret; see
//! [`crate::transport::peer_tls`]. The secret is not used again afterwards.

use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_api::chancery::peer::v1::bootstrap_client::BootstrapClient;
use chancery_api::chancery::peer::v1::bootstrap_server::{Bootstrap, BootstrapServer};
use chancery_raft_store::command::{AdmitMember, Command, FEATURE_LEVEL, Found, Refusal};
use chancery_raft_store::identity_record::Pin;
use chancery_raft_store::model::{AuthorityScope, IssuanceMode};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::token::NodeToken;
use super::{Barriers, Consensus, Proposer};
use crate::transport::{
    Limits, ListenError, PeerConnection, PeerTls, PinPolicy, Role, TcpPort, proof, serve_peers,
    verify_proof,
};

/// Bytes of one message of formation.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Pause between two rounds over the list.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// One call of formation.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a node that waits says what for.
const TELL_EVERY: u32 = 20;
/// A join is one write.
const ADMIT_LIMIT: Duration = Duration::from_secs(5);
/// Version that members announce.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What formation needs to know of this node.
#[derive(Clone)]
pub struct Plan {
    /// Trust domain it is configured for.
    pub trust_domain: String,
    /// Static list, this node's own address included.
    pub peers: Vec<String>,
    /// Address of this node in the list.
    pub own: String,
    /// Address for agents.
    pub api_address: String,
    /// Shared secret; empty when the list has one node.
    pub secret: Arc<Zeroizing<Vec<u8>>>,
    /// Does not become a voter by itself.
    pub stay_learner: bool,
}

/// Who this node has become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formed {
    /// Cluster id.
    pub cluster_id: String,
    /// Node id.
    pub node_id: u64,
    /// Members as they are now; empty for a founder.
    pub pins: Vec<Pin>,
    /// This node founds the cluster.
    pub founder: bool,
}

/// Formation cannot succeed.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    /// A listed peer belongs to a cluster of another trust domain.
    #[error(
        "peer {peer} belongs to trust domain {theirs}, this node is configured for {ours}; \
             check trust_domain and [cluster] peers"
    )]
    OtherTrustDomain {
        /// Which peer.
        peer: String,
        /// Its trust domain.
        theirs: String,
        /// The configured one.
        ours: String,
    },
    /// A member refused this node for good.
    #[error("peer {peer} does not admit this node: {why}")]
    Refused {
        /// Which peer.
        peer: String,
        /// What it said.
        why: String,
    },
    /// The secrets differ, or the other end is not a node of this cluster.
    #[error(
        "peer {peer} does not know the shared secret of [cluster] secret_file, or this node's is another one"
    )]
    WrongSecret {
        /// Which peer.
        peer: String,
    },
    /// The peer port does not work.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Runs formation to its end. Answers peers on `port` meanwhile.
pub async fn form(
    plan: &Plan,
    tls: &PeerTls,
    port: TcpPort,
    new_cluster_id: String,
) -> Result<Formed, FormationError> {
    let service = BootstrapServer::new(Pristine { plan: plan.clone() });
    let routes = Routes::new(service.max_decoding_message_size(MESSAGE_BYTES_MAX)).prepare();
    let stop = CancellationToken::new();
    let serve = tokio::spawn(serve_peers(
        port,
        tls.clone(),
        Limits::of_peers(),
        routes,
        |_| false,
        stop.clone(),
    ));
    let formed = search(plan, tls, new_cluster_id).await;
    stop.cancel();
    match serve.await {
        Ok(served) => served?,
        Err(panicked) => tracing::warn!(%panicked, "the formation port ended badly"),
    }
    formed
}

async fn search(
    plan: &Plan,
    tls: &PeerTls,
    new_cluster_id: String,
) -> Result<Formed, FormationError> {
    let first = plan.peers.first() == Some(&plan.own);
    let others: Vec<&String> = plan.peers.iter().filter(|p| **p != plan.own).collect();
    for round in 0u32.. {
        let mut pristine = 0;
        let mut waiting_for = Vec::new();
        for peer in &others {
            match hello(plan, tls, peer).await {
                Ok(Answer::Pristine) => pristine += 1,
                Ok(Answer::Member) => match join(plan, tls, peer).await {
                    Ok(formed) => return Ok(formed),
                    Err(Problem::Final(error)) => return Err(error),
                    Err(Problem::Passing(why)) => waiting_for.push(format!("{peer} ({why})")),
                },
                Err(Problem::Final(error)) => return Err(error),
                Err(Problem::Passing(why)) => waiting_for.push(format!("{peer} ({why})")),
            }
        }
        if first && pristine == others.len() {
            return Ok(Formed {
                cluster_id: new_cluster_id,
                node_id: 1,
                pins: Vec::new(),
                founder: true,
            });
        }
        if !first && waiting_for.is_empty() {
            waiting_for.push(format!(
                "{} (to found the cluster)",
                plan.peers.first().map_or("?", String::as_str)
            ));
        }
        if round % TELL_EVERY == TELL_EVERY - 1 {
            tracing::info!(
                peers = waiting_for.join(", "),
                "waiting for peers to form the cluster"
            );
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    unreachable!("the rounds have no end")
}

enum Answer {
    Pristine,
    Member,
}

/// A problem that another round may solve, or one that it cannot.
pub(super) enum Problem {
    Passing(String),
    Final(FormationError),
}

async fn connect(
    tls: &PeerTls,
    peer: &str,
) -> Result<(BootstrapClient<tonic::transport::Channel>, PeerConnection), Problem> {
    let connected = tls.connect(peer, PinPolicy::AnyForBootstrap).await;
    let (channel, connection) = connected.map_err(|e| Problem::Passing(crate::app::chain(&e)))?;
    Ok((BootstrapClient::new(channel), connection))
}

/// Sorts the status of a refused call.
fn refused(peer: &str, status: &Status) -> Problem {
    match status.code() {
        tonic::Code::Unauthenticated => Problem::Final(FormationError::WrongSecret {
            peer: peer.to_owned(),
        }),
        tonic::Code::FailedPrecondition
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied => Problem::Final(FormationError::Refused {
            peer: peer.to_owned(),
            why: status.message().to_owned(),
        }),
        _ => Problem::Passing(status.message().to_owned()),
    }
}

async fn timed<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
    Ok(answer
        .map_err(|_| Status::deadline_exceeded("no answer"))??
        .into_inner())
}

/// What a peer says it is, once each side proved the secret.
pub(super) async fn say_hello(
    plan: &Plan,
    tls: &PeerTls,
    peer: &str,
) -> Result<wire::HelloResponse, Problem> {
    let (mut client, connection) = connect(tls, peer).await?;
    let request = wire::HelloRequest {
        proof: proof(&plan.secret, Role::Client, &connection).to_vec(),
        peer_address: plan.own.clone(),
    };
    let answer = timed(client.hello(request))
        .await
        .map_err(|s| refused(peer, &s))?;
    if !verify_proof(&plan.secret, Role::Server, &connection, &answer.proof) {
        return Err(Problem::Final(FormationError::WrongSecret {
            peer: peer.to_owned(),
        }));
    }
    if answer.trust_domain != plan.trust_domain {
        return Err(Problem::Final(FormationError::OtherTrustDomain {
            peer: peer.to_owned(),
            theirs: answer.trust_domain,
            ours: plan.trust_domain.clone(),
        }));
    }
    Ok(answer)
}

async fn hello(plan: &Plan, tls: &PeerTls, peer: &str) -> Result<Answer, Problem> {
    match say_hello(plan, tls, peer).await?.state() {
        wire::hello_response::State::Pristine => Ok(Answer::Pristine),
        wire::hello_response::State::Member => Ok(Answer::Member),
        wire::hello_response::State::Unspecified => {
            Err(Problem::Passing("it does not say what it is".into()))
        }
    }
}

async fn join(plan: &Plan, tls: &PeerTls, peer: &str) -> Result<Formed, Problem> {
    let (mut client, connection) = connect(tls, peer).await?;
    let request = wire::JoinRequest {
        proof: proof(&plan.secret, Role::Client, &connection).to_vec(),
        ..join_request(plan)
    };
    let answer = timed(client.join(request))
        .await
        .map_err(|s| refused(peer, &s))?;
    if !verify_proof(&plan.secret, Role::Server, &connection, &answer.proof) {
        return Err(Problem::Final(FormationError::WrongSecret {
            peer: peer.to_owned(),
        }));
    }
    Ok(formed(answer))
}

fn join_request(plan: &Plan) -> wire::JoinRequest {
    wire::JoinRequest {
        trust_domain: plan.trust_domain.clone(),
        peer_address: plan.own.clone(),
        api_address: plan.api_address.clone(),
        version: VERSION.into(),
        stay_learner: plan.stay_learner,
        feature_level: FEATURE_LEVEL,
        ..wire::JoinRequest::default()
    }
}

fn formed(answer: wire::JoinResponse) -> Formed {
    let pins = answer.members.into_iter().map(|m| Pin {
        node_id: m.node_id,
        peer_address: m.peer_address,
        spki_sha256: m.spki_sha256,
    });
    Formed {
        cluster_id: answer.cluster_id,
        node_id: answer.node_id,
        pins: pins.collect(),
        founder: false,
    }
}

/// Joins by a node token: asks the members that it names in turn until one admits this
/// node.
///
/// # Errors
/// Where no further try can succeed: the token is used, has ended, or is of another trust
/// domain, or the cluster will not have this node.
pub async fn join_by_token(
    plan: &Plan,
    tls: &PeerTls,
    token: &NodeToken,
) -> Result<Formed, FormationError> {
    if token.trust_domain != plan.trust_domain {
        return Err(FormationError::OtherTrustDomain {
            peer: "of the node token".into(),
            theirs: token.trust_domain.clone(),
            ours: plan.trust_domain.clone(),
        });
    }
    for round in 0u32.. {
        let mut waiting_for = Vec::new();
        for member in &token.members {
            let peer = &member.peer_address;
            match present(plan, tls, token, member).await {
                Ok(formed) => return Ok(formed),
                Err(Problem::Final(error)) => return Err(error),
                Err(Problem::Passing(why)) => waiting_for.push(format!("{peer} ({why})")),
            }
        }
        if round % TELL_EVERY == TELL_EVERY - 1 {
            tracing::info!(
                peers = waiting_for.join(", "),
                "waiting for a member to admit this node"
            );
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    unreachable!("the rounds have no end")
}

/// Presents the token at one member, whose key it names.
async fn present(
    plan: &Plan,
    tls: &PeerTls,
    token: &NodeToken,
    member: &Pin,
) -> Result<Formed, Problem> {
    let peer = &member.peer_address;
    let pin = member.spki_sha256.as_slice().try_into();
    let pin = pin.map_err(|_| Problem::Passing("its key in the token is cut".into()))?;
    let mut client = BootstrapClient::new(tls.channel(peer, pin));
    let request = wire::JoinRequest {
        token: token.secret.to_vec(),
        ..join_request(plan)
    };
    let answer = timed(client.join(request))
        .await
        .map_err(|s| refused(peer, &s))?;
    if answer.cluster_id != token.cluster_id {
        return Err(Problem::Passing(format!(
            "it belongs to cluster {}, the token is for {}",
            answer.cluster_id, token.cluster_id
        )));
    }
    Ok(formed(answer))
}

fn connection_of<T>(request: &Request<T>) -> Result<PeerConnection, Status> {
    request
        .extensions()
        .get::<PeerConnection>()
        .copied()
        .ok_or_else(|| Status::unauthenticated("not a peer connection"))
}

/// Checks the caller's proof, and returns ours.
fn prove(plan: &Plan, connection: &PeerConnection, presented: &[u8]) -> Result<Vec<u8>, Status> {
    if plan.secret.is_empty() || !verify_proof(&plan.secret, Role::Client, connection, presented) {
        return Err(Status::unauthenticated(
            "the proof of the shared secret is wrong",
        ));
    }
    Ok(proof(&plan.secret, Role::Server, connection).to_vec())
}

/// Answers while this node has no identity.
struct Pristine {
    plan: Plan,
}

#[tonic::async_trait]
impl Bootstrap for Pristine {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let connection = connection_of(&request)?;
        let proof = prove(&self.plan, &connection, &request.get_ref().proof)?;
        Ok(Response::new(wire::HelloResponse {
            proof,
            state: wire::hello_response::State::Pristine.into(),
            cluster_id: String::new(),
            trust_domain: self.plan.trust_domain.clone(),
            past_cluster_ids: Vec::new(),
        }))
    }

    async fn join(
        &self,
        _: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        Err(Status::unavailable(
            "this node is not a member of a cluster yet",
        ))
    }
}

/// Tokens of joining nodes that are looked at at once.
const TOKENS_AT_ONCE: usize = 8;
/// Longest address of a joining node: a host name of 253 bytes, and a port.
const WORD_BYTES_MAX: usize = 259;

/// Answers once this node is a member.
pub struct Admission {
    plan: Plan,
    consensus: Consensus,
    proposer: Proposer,
    barriers: Barriers,
    looked_at: tokio::sync::Semaphore,
}

impl Admission {
    /// Admits nodes of the static list, and whoever has a node token, into the cluster of
    /// `consensus`.
    pub fn new(plan: Plan, consensus: Consensus, proposer: Proposer, barriers: Barriers) -> Self {
        Self {
            plan,
            consensus,
            proposer,
            barriers,
            looked_at: tokio::sync::Semaphore::new(TOKENS_AT_ONCE),
        }
    }

    /// Whether a token may be presented to the log at all: whoever reaches the port can
    /// send one, and each write costs every node. Few are looked at at once, so that they
    /// do not keep the other callers of a barrier waiting.
    async fn check_token(&self, connection: &PeerConnection, token: &[u8]) -> Result<(), Status> {
        let looked_at = self.looked_at.try_acquire();
        let _looked_at = looked_at
            .map_err(|_| Status::unavailable("too many nodes present tokens at once: try again"))?;
        let sha256 = NodeToken::sha256(token);
        let known = || {
            let state = self.consensus.registry().read();
            let mut members = state.members();
            // The answer to its first try was lost.
            state.has_node_token(&sha256)
                || members.any(|m| m.spki_sha256 == connection.remote_spki_sha256())
        };
        if known() {
            return Ok(());
        }
        let passed = self.barriers.pass(ADMIT_LIMIT).await;
        passed.map_err(|e| Status::unavailable(e.to_string()))?;
        if known() {
            Ok(())
        } else {
            Err(unknown_token())
        }
    }
}

/// What every member will keep and show of the joining node.
fn check_words(asked: &wire::JoinRequest) -> Result<(), Status> {
    let words = [
        ("peer address", &asked.peer_address),
        ("API address", &asked.api_address),
        ("version", &asked.version),
    ];
    for (name, word) in words {
        if word.len() > WORD_BYTES_MAX || !word.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Status::invalid_argument(format!(
                "the {name} of a joining node is at most {WORD_BYTES_MAX} printable characters without a space"
            )));
        }
    }
    Ok(())
}

fn unknown_token() -> Status {
    Status::permission_denied(
        "the node token is unknown or was used already: make another with chancery cluster token",
    )
}

impl Admission {
    fn past_cluster_ids(&self) -> Vec<String> {
        let registry = self.consensus.registry().read();
        let past = registry.cluster().past_epochs.iter();
        past.map(|epoch| epoch.cluster_id.clone()).collect()
    }
}

#[tonic::async_trait]
impl Bootstrap for Admission {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let connection = connection_of(&request)?;
        let proof = prove(&self.plan, &connection, &request.get_ref().proof)?;
        Ok(Response::new(wire::HelloResponse {
            proof,
            state: wire::hello_response::State::Member.into(),
            cluster_id: self.consensus.cluster_id().to_owned(),
            trust_domain: self.plan.trust_domain.clone(),
            past_cluster_ids: self.past_cluster_ids(),
        }))
    }

    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let connection = connection_of(&request)?;
        let asked = request.get_ref();
        // A token that is right takes the place of the shared secret.
        let by_token = !asked.token.is_empty();
        let proof = if by_token {
            Vec::new()
        } else {
            prove(&self.plan, &connection, &asked.proof)?
        };
        let asked = request.into_inner();
        if by_token {
            self.check_token(&connection, &asked.token).await?;
        }
        check_words(&asked)?;
        if asked.trust_domain != self.plan.trust_domain {
            return Err(Status::failed_precondition(format!(
                "this cluster serves trust domain {}, the joining node is configured for {}",
                self.plan.trust_domain, asked.trust_domain
            )));
        }
        let level = self.consensus.registry().read().cluster().feature_level;
        if asked.feature_level < level {
            return Err(Status::failed_precondition(format!(
                "this cluster is at feature level {level}, version {} of the joining node knows {} at most: \
                 upgrade it first",
                asked.version, asked.feature_level
            )));
        }
        if by_token && level < FEATURE_LEVEL {
            return Err(Status::unavailable(
                "not every member knows node tokens yet: the upgrade of the cluster is not complete",
            ));
        }
        if !by_token && !self.plan.peers.contains(&asked.peer_address) {
            return Err(Status::permission_denied(format!(
                "{} is not in this cluster's list of peers",
                asked.peer_address
            )));
        }
        let admit = Command::AdmitMember(AdmitMember {
            peer_address: asked.peer_address.clone(),
            api_address: asked.api_address,
            spki_sha256: connection.remote_spki_sha256().to_vec(),
            version: asked.version,
            token_sha256: match by_token {
                true => NodeToken::sha256(&asked.token),
                false => Vec::new(),
            },
            stay_learner: level > 0 && asked.stay_learner,
        });
        let outcome = self.proposer.propose(admit, ADMIT_LIMIT).await;
        let outcome = outcome.map_err(|e| Status::unavailable(e.to_string()))?;
        let outcome = outcome.accepted().map_err(|refusal| match refusal {
            Refusal::AlreadyExists => Status::already_exists(format!(
                "a member with another key has the address {}: take that member out first (chancery cluster remove), \
                 or start this node with a token that replaces it (chancery cluster token -replaces ID)",
                asked.peer_address
            )),
            Refusal::TokenUnknown => unknown_token(),
            Refusal::TokenExpired => Status::permission_denied(
                "the node token has ended: make another with chancery cluster token",
            ),
            // The founding command is still on its way.
            Refusal::Conflict => Status::unavailable("the cluster is not founded yet"),
            other => Status::failed_precondition(format!("the cluster refused: {other:?}")),
        })?;
        Ok(Response::new(wire::JoinResponse {
            proof,
            cluster_id: self.consensus.cluster_id().to_owned(),
            node_id: outcome.node_id,
            members: self.consensus.pins(),
        }))
    }
}

/// The first command of a log. Repeating it after a crash changes nothing.
pub fn found(
    plan: &Plan,
    cluster_id: &str,
    tls: &PeerTls,
    mode: IssuanceMode,
    scope: AuthorityScope,
) -> Command {
    Command::Found(Found {
        cluster_id: cluster_id.to_owned(),
        trust_domain: plan.trust_domain.clone(),
        founder: Some(AdmitMember {
            peer_address: plan.own.clone(),
            api_address: plan.api_address.clone(),
            spki_sha256: tls.spki_sha256().to_vec(),
            version: VERSION.into(),
            ..AdmitMember::default()
        }),
        founding_peers: plan.peers.clone(),
        feature_level: FEATURE_LEVEL,
        issuance_mode: mode.into(),
        authority_scope: scope.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joining_node_has_addresses_and_a_version_that_can_be_shown() {
        let good = wire::JoinRequest {
            peer_address: "node-4.example.org:8082".into(),
            api_address: "[2001:db8::4]:8081".into(),
            version: VERSION.into(),
            ..wire::JoinRequest::default()
        };
        check_words(&good).unwrap();
        for bad in ["a b:1", "\u{1b}[2J:1", "\u{e4}:1", &"a".repeat(260)] {
            let asked = wire::JoinRequest {
                api_address: bad.into(),
                ..good.clone()
            };
            let refused = check_words(&asked).unwrap_err();
            assert!(refused.message().starts_with("the API address"), "{bad:?}");
        }
    }
}
