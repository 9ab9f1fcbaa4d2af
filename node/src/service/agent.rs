//! `spire.api.server.agent.v1.Agent`: who the agents are, and how they come and go.

mod attest;
mod filter;
mod renew;
mod versions;

use std::sync::Arc;

use chancery_api::spire::api::server::agent::v1 as api;
use chancery_api::spire::api::server::agent::v1::agent_server::Agent;
use chancery_api::spire::api::types;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_raft_store::command::{AgentPath, Command, CreateJoinToken};
use chancery_raft_store::model::{Agent as Record, Entry, JoinToken as StoredToken};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use self::filter::Filter;
pub(super) use self::versions::Versions;
use super::page::{self, PageRequest};
use super::status::{self, Subject};
use super::{Context, holds, permit, wire};
use crate::attest::join_token::JoinToken;
use crate::environment::uuid_v4;
use crate::housekeeping::events;
use crate::transport::Caller;

/// The service.
pub(super) struct AgentService {
    context: Context,
}

impl AgentService {
    /// A service over the node's state and its issuer.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn trust_domain(&self) -> &TrustDomain {
        self.context.issuer.trust_domain()
    }

    /// Agents after a sequence, as many as asked for.
    fn records(&self) -> impl Fn(u64, usize) -> Vec<Arc<Record>> {
        |after, limit| {
            self.context
                .doors
                .local()
                .agents_after(after)
                .take(limit)
                .cloned()
                .collect()
        }
    }

    /// The agent that an administrator names.
    fn named(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        wire::agent_id(self.trust_domain(), id)
            .map_err(|e| status::logged(Status::invalid_argument(format!("invalid agent ID: {e}"))))
    }

    /// Takes an agent's standing away, and tells from when on that holds; `done` is what
    /// the log says of it.
    async fn take_away(
        &self,
        id: &SpiffeId,
        what: Command,
        done: &'static str,
    ) -> Result<Response<()>, Status> {
        let outcome = self.context.doors.write(what).await?;
        outcome
            .accepted()
            .map_err(|refusal| refused(id, status::refused(refusal, "agent")))?;
        tracing::info!(spiffe_id = %id, "{done}");
        Ok(holds::mark(&self.context, Response::new(())).await)
    }

    /// The entries that go when a join-token agent goes, as they are here now.
    fn aliases(&self, agent: &SpiffeId) -> Vec<Arc<Entry>> {
        let directory = self.context.doors.local();
        let by_token = |agent: &Arc<Record>| agent.attestation_type == Record::JOIN_TOKEN;
        if !directory.agent(agent.path()).is_some_and(by_token) {
            return Vec::new();
        }
        directory
            .entries_of_parent_after(agent.path(), 0)
            .filter(|entry| entry.is_join_token_alias(self.trust_domain().as_str()))
            .cloned()
            .collect()
    }
}

/// A refusal about an agent, once it is in the log.
fn refused(agent: &SpiffeId, status: Status) -> Status {
    let subject = Subject {
        spiffe_id: Some(agent.as_str()),
        ..Subject::default()
    };
    status::log(&status, subject);
    status
}

#[tonic::async_trait]
impl Agent for AgentService {
    type AttestAgentStream = BoxStream<'static, Result<api::AttestAgentResponse, Status>>;

    async fn count_agents(
        &self,
        request: Request<api::CountAgentsRequest>,
    ) -> Result<Response<api::CountAgentsResponse>, Status> {
        permit(&request)?;
        let filter = match request.into_inner().filter {
            Some(filter) => Filter::parse("failed to count agents", filter::of_count(filter))
                .map_err(status::logged)?,
            None => Filter::default(),
        };
        let freshness = self.context.doors.linearizable().await;
        let count = page::count(self.records(), |a| a.sequence, |a| filter.matches(a)).await;
        Ok(freshness.mark(Response::new(api::CountAgentsResponse { count })))
    }

    async fn list_agents(
        &self,
        request: Request<api::ListAgentsRequest>,
    ) -> Result<Response<api::ListAgentsResponse>, Status> {
        const WHAT: &str = "failed to list agents";
        permit(&request)?;
        let request = request.into_inner();
        let filter = match request.filter {
            Some(filter) => Filter::parse(WHAT, filter).map_err(status::logged)?,
            None => Filter::default(),
        };
        let pages = PageRequest::new(WHAT, request.page_size, &request.page_token)
            .map_err(status::logged)?;
        let freshness = self.context.doors.linearizable().await;
        let (trust_domain, mask) = (self.trust_domain(), request.output_mask.as_ref());
        let convert = |a: &Arc<Record>| {
            filter
                .matches(a)
                .then(|| filter::message(trust_domain, a, mask))
        };
        let page = pages
            .collect(self.records(), |a| a.sequence, convert)
            .await?;
        let response = api::ListAgentsResponse {
            agents: page.items,
            next_page_token: page.next,
        };
        Ok(freshness.mark(Response::new(response)))
    }

    async fn get_agent(
        &self,
        request: Request<api::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let id = self.named(request.id.as_ref())?;
        let freshness = self.context.doors.linearizable().await;
        let record = self.context.doors.local().agent(id.path()).cloned();
        let record = record
            .ok_or_else(|| freshness.mark_no(refused(&id, Status::not_found("agent not found"))))?;
        let told = filter::message(self.trust_domain(), &record, request.output_mask.as_ref());
        Ok(freshness.mark(Response::new(told)))
    }

    async fn delete_agent(
        &self,
        request: Request<api::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        permit(&request)?;
        let id = self.named(request.get_ref().id.as_ref())?;
        let path = id.path().to_owned();
        let aliases = self.aliases(&id);
        let command = Command::DeleteAgent(AgentPath { path });
        let answer = self.take_away(&id, command, "Agent deleted").await?;
        for alias in aliases {
            if self.context.doors.local().entry(&alias.id).is_none() {
                events::cascade_deleted(self.trust_domain(), &alias);
            }
        }
        Ok(answer)
    }

    async fn ban_agent(
        &self,
        request: Request<api::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        permit(&request)?;
        let id = self.named(request.get_ref().id.as_ref())?;
        let path = id.path().to_owned();
        let command = Command::BanAgent(AgentPath { path });
        self.take_away(&id, command, "Agent banned").await
    }

    async fn attest_agent(
        &self,
        request: Request<Streaming<api::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        permit(&request)?;
        super::allowance(&self.context, &request)?.take(1).await?;
        let caller = request.extensions().get::<Caller>();
        let address = caller.and_then(Caller::address);
        let answers = attest::answers(self.context.clone(), address, request.into_inner());
        Ok(Response::new(answers.await?))
    }

    async fn renew_agent(
        &self,
        request: Request<api::RenewAgentRequest>,
    ) -> Result<Response<api::RenewAgentResponse>, Status> {
        super::allowance(&self.context, &request)?.take(1).await?;
        let caller = super::agent(&request)?.clone();
        let svid = renew::renew(&self.context, &caller, request.into_inner().params).await?;
        Ok(Response::new(api::RenewAgentResponse { svid: Some(svid) }))
    }

    async fn create_join_token(
        &self,
        request: Request<api::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let (value, command) = join_token(self.trust_domain(), &request).map_err(status::logged)?;
        let outcome = self
            .context
            .doors
            .write(Command::CreateJoinToken(command))
            .await?;
        let outcome = outcome.accepted().map_err(|refusal| {
            let status = status::refused(refusal, "join token");
            status::logged(Status::new(
                status.code(),
                format!("failed to create token: {}", status.message()),
            ))
        })?;
        Ok(Response::new(types::JoinToken {
            value,
            expires_at: outcome.expires_at,
        }))
    }

    async fn post_status(
        &self,
        request: Request<api::PostStatusRequest>,
    ) -> Result<Response<api::PostStatusResponse>, Status> {
        super::allowance(&self.context, &request)?.take(1).await?;
        let agent = super::agent(&request)?.clone();
        let version = request.into_inner().agent_version;
        if version.len() > versions::VERSION_BYTES_MAX {
            let text = "agent version is too long (max 255 characters)";
            return Err(refused(&agent, Status::invalid_argument(text)));
        }
        if !version.is_empty() {
            tracing::debug!(spiffe_id = %agent, agent_version = %version, "Agent status updated");
            self.context.versions.told(agent.path().to_owned(), version);
        }
        Ok(Response::new(api::PostStatusResponse {}))
    }
}

/// The token that is asked for and the command that makes it known.
fn join_token(
    trust_domain: &TrustDomain,
    request: &api::CreateJoinTokenRequest,
) -> Result<(String, CreateJoinToken), Status> {
    if request.ttl < 1 {
        return Err(Status::invalid_argument(
            "ttl is required, you must provide one",
        ));
    }
    let named = match &request.agent_id {
        None => None,
        id => Some(
            wire::workload_id(trust_domain, id.as_ref())
                .map_err(|e| Status::invalid_argument(format!("invalid agent ID: {e}")))?,
        ),
    };
    let value = if request.token.is_empty() {
        uuid_v4()
    } else {
        request.token.clone()
    };
    let token = JoinToken::parse(trust_domain, &value)
        .map_err(|e| Status::invalid_argument(format!("failed to create join token ID: {e}")))?;
    let alias = named.map(|id| Entry {
        id: uuid_v4(),
        spiffe_path: id.path().to_owned(),
        parent_path: token.agent_id().path().to_owned(),
        selectors: vec![token.alias_selector()],
        ..Entry::default()
    });
    let stored = StoredToken {
        sha256: token.sha256().to_vec(),
        expires_at: 0,
    };
    let command = CreateJoinToken {
        token: Some(stored),
        ttl: request.ttl,
        alias,
        similar_alias_serves: true,
    };
    Ok((value, command))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn request(ttl: i32, token: &str, agent: Option<&str>) -> api::CreateJoinTokenRequest {
        let agent_id = agent.map(|path| types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        });
        api::CreateJoinTokenRequest {
            ttl,
            token: token.into(),
            agent_id,
        }
    }

    #[test]
    fn a_join_token_is_chosen_where_none_is_given() {
        let (first, command) = join_token(&domain(), &request(1, "", None)).unwrap();
        let (second, _) = join_token(&domain(), &request(1, "", None)).unwrap();
        assert_ne!(first, second);
        assert_eq!(first.len(), 36);
        assert_eq!((command.ttl, command.alias), (1, None));
    }

    #[test]
    fn the_token_itself_is_in_no_command_without_an_alias() {
        let (_, command) = join_token(&domain(), &request(60, "very-secret", None)).unwrap();
        assert!(!format!("{command:?}").contains("very-secret"));
        assert_eq!(command.token.unwrap().sha256.len(), 32);
    }

    #[test]
    fn an_alias_is_the_entry_that_goes_with_the_agent() {
        let (_, command) = join_token(&domain(), &request(60, "t1", Some("/host"))).unwrap();
        let alias = command.alias.unwrap();
        assert_eq!(alias.parent_path, "/spire/agent/join_token/t1");
        assert_eq!(alias.spiffe_path, "/host");
        let [only] = alias.selectors.as_slice() else {
            panic!("one selector")
        };
        assert_eq!(only.kind, "spiffe_id");
        assert_eq!(only.value, "spiffe://example.org/spire/agent/join_token/t1");
    }

    #[test]
    fn join_tokens_are_refused_in_the_words_of_spire() {
        let text = |r| join_token(&domain(), &r).unwrap_err().message().to_owned();
        assert_eq!(
            text(request(0, "", None)),
            "ttl is required, you must provide one"
        );
        assert_eq!(
            text(request(-5, "", None)),
            "ttl is required, you must provide one"
        );
        assert_eq!(
            text(request(1, "", Some("/spire/agent/x"))),
            "invalid agent ID: \"spiffe://example.org/spire/agent/x\" is not a workload in trust \
             domain \"example.org\"; path is in the reserved namespace"
        );
        assert_eq!(
            text(request(1, "a b", None)),
            "failed to create join token ID: path segment characters are limited to letters, \
             numbers, dots, dashes, and underscores"
        );
    }
}
