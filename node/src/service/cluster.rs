//! `chancery.cluster.v1.Cluster`: the cluster's state, and changes of its members.

use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::cluster::v1 as api;
use chancery_api::chancery::cluster::v1::cluster_server::Cluster;
use chancery_api::chancery::peer::v1::Pin as WirePin;
use chancery_hsm::AwaitedSigner;
use chancery_hsm::pkcs11::Retried;
use chancery_raft_store::command::{
    ChangeMembers, Command, CreateNodeToken, SetAuthorityScope, SetClock, SetIssuanceMode,
};
use chancery_raft_store::identity_record::Pin;
use chancery_raft_store::model::{
    AuthorityKind, AuthorityScope, IssuanceMode, NodeToken as TokenRecord,
};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{Context, audit, permit, status};
use crate::authority::plan;
use crate::cluster::status::SelfStatus;
use crate::cluster::token::{NodeToken, SECRET_BYTES};
use crate::environment::random;
use crate::transport::Caller;

/// A token lives this long unless told otherwise, in seconds.
const TTL_DEFAULT: i64 = 3_600;
/// And this long at most.
const TTL_MAX: i64 = 604_800;
/// Ids in one request.
const IDS_MAX: usize = 64;
/// A voter that answered within this time counts for the majority that a change needs.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// The service.
pub struct ClusterService {
    context: Context,
    this: Arc<dyn SelfStatus>,
    token: Option<Arc<AwaitedSigner>>,
}

impl ClusterService {
    /// A service over what this node knows.
    pub fn new(
        context: Context,
        this: Arc<dyn SelfStatus>,
        token: Option<Arc<AwaitedSigner>>,
    ) -> Self {
        Self {
            context,
            this,
            token,
        }
    }

    /// What is left to do until only authorities of the scope sign.
    fn scope_left(&self) -> Vec<String> {
        let seen = self.context.members.seen_ago();
        let now = self.context.doors.consensus().clock().now_unix_ms();
        let now = now.div_euclid(1000);
        let own = self.context.steward.custody().signer().kind();
        let tokenless = self.context.members.without_token(own.as_str());
        let state = self.context.doors.local();
        let seen = seen
            .into_iter()
            .filter(|(id, _)| state.member(*id).is_some())
            .map(|(id, ago)| (id, i64::try_from(ago.as_secs()).unwrap_or(i64::MAX)))
            .collect();
        let scope = state.cluster().authority_scope();
        let kinds = [AuthorityKind::X509, AuthorityKind::Jwt].into_iter();
        kinds
            .filter_map(|kind| {
                let authorities = state.authorities(kind);
                let left = plan::left(&authorities, kind, scope, &seen, &tokenless, now)?;
                Some(left.sentence(kind, now))
            })
            .collect()
    }

    /// Whether every voter that answers has its keys in a token. Learners may go without: others
    /// certify intermediates for them.
    fn check_tokens(&self) -> Result<(), Status> {
        let report = self.context.members.report(&*self.this);
        let members = report.members.iter();
        let others: Vec<_> = members
            .filter(|m| m.role != "learner" && !matches!(&*m.key_backend, "" | "pkcs11"))
            .map(|m| {
                format!(
                    "node {} has them in its {}",
                    m.id,
                    where_it_is(&m.key_backend)
                )
            })
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "nodes can share keys in a token alone, and {}: give every voter the token in its [keys] first, one after the \
             other",
            others.join(", ")
        )))
    }

    /// What another node was refused with by a token, if it still stands.
    fn refused_elsewhere(&self, serial: &str) -> String {
        let state = self.context.doors.local();
        let refusal = state.token_login(serial).and_then(|l| l.refusal.as_ref());
        refusal.map_or_else(String::new, |refused| {
            format!("node {}: {}", refused.node_id, refused.why)
        })
    }

    /// Another node whose PIN was refused: most likely this one has the same.
    fn another_refused(&self) -> Option<u64> {
        let state = self.context.doors.local();
        let me = self.context.doors.consensus().me();
        let refused = state.token_logins().filter_map(|l| l.refusal.as_ref());
        refused.map(|r| r.node_id).find(|node| *node != me)
    }

    /// Whether the voters that would be left can carry the change out: without a majority
    /// of them it would stand half done, and nothing else could be written.
    fn check_majority(&self, change: &ChangeMembers) -> Result<(), Status> {
        let seen = self.context.members.seen_within(SEEN_WITHIN);
        let state = self.context.doors.local();
        let founding = &state.cluster().founding_peers;
        let after: Vec<u64> = state
            .members()
            .filter(|m| {
                let id = m.node_id;
                let goes = change.demote.contains(&id) || change.remove.contains(&id);
                change.promote.contains(&id) || (m.is_wanted_voter(founding) && !goes)
            })
            .map(|m| m.node_id)
            .collect();
        let silent: Vec<String> = after
            .iter()
            .filter(|id| !seen.contains(id))
            .map(ToString::to_string)
            .collect();
        // Nothing left is a refusal of its own.
        if after.is_empty() || (after.len() - silent.len()) * 2 > after.len() {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "only {} of the {} voters that would be left answer (not: node {}), which is no majority: nothing could be \
             written any more. Bring them back, or remove the dead ones instead",
            after.len() - silent.len(),
            after.len(),
            silent.join(", ")
        )))
    }
}

fn ids(texts: &[String]) -> Result<Vec<u64>, Status> {
    texts.iter().map(|text| id(text)).collect()
}

fn id(text: &str) -> Result<u64, Status> {
    let parsed = text.parse().ok().filter(|id| *id > 0);
    parsed.ok_or_else(|| Status::invalid_argument(format!("{text:?} is not a node id")))
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(
        &self,
        _: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let mut report = self.context.members.report(&*self.this);
        report.scope_left = self.scope_left();
        Ok(Response::new(report))
    }

    async fn create_token(
        &self,
        request: Request<api::CreateTokenRequest>,
    ) -> Result<Response<api::CreateTokenResponse>, Status> {
        let permit = permit(&request)?;
        let asked = request.get_ref().clone();
        let ttl = match asked.ttl {
            0 => TTL_DEFAULT,
            ttl if (1..=TTL_MAX).contains(&ttl) => ttl,
            ttl => {
                return Err(Status::invalid_argument(format!(
                    "a TTL of {ttl} s is not between 1 and {TTL_MAX}"
                )));
            }
        };
        let replaces = match &*asked.replaces {
            "" => 0,
            text => id(text)?,
        };
        if replaces != 0 && asked.learner {
            return Err(Status::invalid_argument(
                "a node that takes another's place becomes what that one is: learner and replaces exclude each other",
            ));
        }
        let secret = Zeroizing::new(random::<SECRET_BYTES>().to_vec());
        let command = CreateNodeToken {
            token: Some(TokenRecord {
                sha256: NodeToken::sha256(&secret),
                expires_at: 0,
                auto_promote: !asked.learner,
                replaces,
            }),
            ttl,
        };
        let doors = &self.context.doors;
        let outcome = doors.write(Command::CreateNodeToken(command)).await?;
        let outcome = outcome
            .accepted()
            .map_err(|refusal| status::refused(refusal, &format!("node {replaces}")))?;
        let token = NodeToken {
            cluster_id: doors.consensus().cluster_id().to_owned(),
            trust_domain: self.context.issuer.trust_domain().as_str().to_owned(),
            secret,
            members: doors.consensus().pins().into_iter().map(pin).collect(),
        };
        audit::node_token(permit, outcome.expires_at, asked.learner, replaces);
        Ok(Response::new(api::CreateTokenResponse {
            token: token.encode().to_string(),
            expires_at: outcome.expires_at,
        }))
    }

    async fn change_members(
        &self,
        request: Request<api::ChangeMembersRequest>,
    ) -> Result<Response<api::ChangeMembersResponse>, Status> {
        let permit = permit(&request)?;
        let asked = request.get_ref().clone();
        let change = ChangeMembers {
            promote: ids(&asked.promote)?,
            demote: ids(&asked.demote)?,
            remove: ids(&asked.remove)?,
            allow_even: asked.allow_even,
        };
        let mut named = [&change.promote, &change.demote, &change.remove]
            .map(Vec::clone)
            .concat();
        let count = named.len();
        named.sort_unstable();
        named.dedup();
        if named.is_empty() || named.len() != count || count > IDS_MAX {
            return Err(Status::invalid_argument(format!(
                "name 1 to {IDS_MAX} nodes, each once"
            )));
        }
        // What is decided on must be the members of now.
        self.context.doors.exact().await?;
        for id in &named {
            if self.context.doors.local().member(*id).is_none() {
                return Err(Status::not_found(format!("node {id} is not a member")));
            }
        }
        self.check_majority(&change)?;
        let outcome = self
            .context
            .doors
            .write(Command::ChangeMembers(change.clone()))
            .await?;
        outcome
            .accepted()
            .map_err(|refusal| status::refused(refusal, "a named node"))?;
        audit::members_changed(permit, &change);
        Ok(Response::new(api::ChangeMembersResponse {}))
    }

    async fn set_clock(
        &self,
        request: Request<api::SetClockRequest>,
    ) -> Result<Response<api::SetClockResponse>, Status> {
        let permit = permit(&request)?;
        let doors = &self.context.doors;
        doors.exact().await?;
        let clock_ms = match request.get_ref().unix_ms {
            0 => doors.consensus().clock().now_unix_ms(),
            ms if ms > 0 => ms,
            ms => {
                return Err(Status::invalid_argument(format!("{ms} ms is before 1970")));
            }
        };
        let before_unix_ms = doors.local().cluster().clock_ms;
        let outcome = doors
            .write(Command::SetClock(SetClock { clock_ms }))
            .await?;
        outcome
            .accepted()
            .map_err(|refusal| status::refused(refusal, "the cluster clock"))?;
        audit::clock_set(permit, before_unix_ms, clock_ms);
        Ok(Response::new(api::SetClockResponse {
            before_unix_ms,
            unix_ms: clock_ms,
        }))
    }

    async fn retry_login(
        &self,
        request: Request<api::RetryLoginRequest>,
    ) -> Result<Response<api::RetryLoginResponse>, Status> {
        let permit = permit(&request)?;
        let by = match request.extensions().get::<Caller>() {
            Some(Caller::Local(by)) => Some(by),
            _ => None,
        };
        let token = self.token.as_ref().ok_or_else(|| {
            Status::failed_precondition("this node keeps no keys in a PKCS#11 token")
        })?;
        let same_pin = request.get_ref().same_pin;
        if let Some(other) = self.another_refused().filter(|_| !same_pin) {
            return Err(Status::failed_precondition(format!(
                "a token refused the PIN of node {other}; nothing was tried: correct the PIN there and run \
                 `chancery hsm retry` there, or say -samePin if that node is gone or this one's PIN is right"
            )));
        }
        audit::login_ordered(permit, by, same_pin);
        let retried = match token.retry(same_pin).await {
            Ok(retried) => retried,
            Err(error) => {
                audit::login_retried(permit, by, &error.to_string());
                return Err(Status::failed_precondition(error.to_string()));
            }
        };
        let answer = match retried {
            Retried::LoggedIn(token) => {
                audit::login_retried(permit, by, "the token took the PIN");
                api::RetryLoginResponse {
                    token_label: token.label,
                    token_serial: token.serial,
                    ..api::RetryLoginResponse::default()
                }
            }
            Retried::NotNeeded(token) => {
                audit::login_retried(permit, by, "nothing was tried: the token is in use");
                api::RetryLoginResponse {
                    refused_elsewhere: self.refused_elsewhere(&token.serial),
                    token_label: token.label,
                    token_serial: token.serial,
                    not_needed: true,
                }
            }
        };
        Ok(Response::new(answer))
    }

    async fn set_issuance_mode(
        &self,
        request: Request<api::SetIssuanceModeRequest>,
    ) -> Result<Response<api::SetIssuanceModeResponse>, Status> {
        let permit = permit(&request)?;
        let name = &request.get_ref().mode;
        let mode = IssuanceMode::from_name(name).ok_or_else(|| {
            Status::invalid_argument(format!(
                "{name:?} is no issuance mode: it is \"direct\" or \"intermediate\""
            ))
        })?;
        let doors = &self.context.doors;
        doors.exact().await?;
        let before = doors.local().cluster().issuance_mode();
        let command = SetIssuanceMode { mode: mode.into() };
        let outcome = doors.write(Command::SetIssuanceMode(command)).await?;
        outcome
            .accepted()
            .map_err(|refusal| status::refused(refusal, "the issuance mode"))?;
        audit::issuance_mode_set(permit, before, mode);
        Ok(Response::new(api::SetIssuanceModeResponse {
            before: before.as_str().to_owned(),
            mode: mode.as_str().to_owned(),
        }))
    }

    async fn set_authority_scope(
        &self,
        request: Request<api::SetAuthorityScopeRequest>,
    ) -> Result<Response<api::SetAuthorityScopeResponse>, Status> {
        let permit = permit(&request)?;
        let name = &request.get_ref().scope;
        let scope = AuthorityScope::from_name(name).ok_or_else(|| {
            Status::invalid_argument(format!(
                "{name:?} is no scope of authorities: it is \"shared\" or \"per-node\""
            ))
        })?;
        if scope == AuthorityScope::Shared {
            self.check_tokens()?;
        }
        let doors = &self.context.doors;
        doors.exact().await?;
        let before = doors.local().cluster().authority_scope();
        let command = SetAuthorityScope {
            scope: scope.into(),
        };
        let outcome = doors.write(Command::SetAuthorityScope(command)).await?;
        outcome
            .accepted()
            .map_err(|refusal| status::refused(refusal, "the scope of authorities"))?;
        audit::authority_scope_set(permit, before, scope);
        Ok(Response::new(api::SetAuthorityScopeResponse {
            before: before.as_str().to_owned(),
            scope: scope.as_str().to_owned(),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<api::TransferLeaderRequest>,
    ) -> Result<Response<api::TransferLeaderResponse>, Status> {
        let permit = permit(&request)?;
        let to = match &*request.get_ref().to {
            "" => None,
            text => Some(id(text)?),
        };
        let leader = self.context.doors.consensus().transfer_leader(to).await?;
        audit::leader_transferred(permit, leader);
        Ok(Response::new(api::TransferLeaderResponse {
            leader: leader.to_string(),
        }))
    }
}

/// Where keys are, of a backend's name.
fn where_it_is(backend: &str) -> &str {
    match backend {
        "disk" => "data directory",
        other => other,
    }
}

fn pin(wire: WirePin) -> Pin {
    Pin {
        node_id: wire.node_id,
        peer_address: wire.peer_address,
        spki_sha256: wire.spki_sha256,
    }
}
