//! One of the two servers: connections, pages, and what its statuses mean for a run.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chancery_api::chancery::migrate::v1::ImportAgentBanRequest;
use chancery_api::chancery::migrate::v1::migration_client::MigrationClient;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, ListAgentsRequest, ListAgentsResponse,
    count_agents_request, list_agents_request,
};
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::bundle::v1::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchSetFederatedBundleRequest,
    GetBundleRequest, ListFederatedBundlesRequest, ListFederatedBundlesResponse,
};
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest, GetEntryRequest,
    ListEntriesRequest, ListEntriesResponse,
};
use chancery_api::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use chancery_api::spire::api::server::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchUpdateFederationRelationshipRequest,
    ListFederationRelationshipsRequest, ListFederationRelationshipsResponse,
};
use chancery_api::spire::api::types::{
    Agent, Bundle, BundleMask, Entry, EntryMask, FederationRelationship,
    FederationRelationshipMask, JwtKey, Status, X509Certificate,
};
use tonic::Code;
use tonic::transport::Channel;

use crate::cli::connect;
use crate::cli::error::CliError;
use crate::cli::notices;
use crate::cli::session::{ANSWER_BYTES_MAX, CALL_DEADLINE, Session, request};

/// Items a page.
const PAGE_SIZE: i32 = 500;
/// Bundles a page: each may be some hundred kilobytes.
const BUNDLE_PAGE_SIZE: i32 = 50;

/// Warnings of one server that are told.
const NOTICES_MAX: usize = 20;

/// One server.
pub(super) struct Peer {
    name: &'static str,
    socket: PathBuf,
    channel: Channel,
    told: RefCell<BTreeSet<String>>,
}

/// Status and, where the server sends it, the item as it is there.
pub(super) type Answer<T> = (Option<Status>, Option<T>);

macro_rules! client {
    ($client:ident, $peer:expr) => {
        $client::new($peer.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    };
}

impl Peer {
    /// Connects; `name` tells the two apart in errors.
    async fn connect(name: &'static str, socket: &Path) -> Result<Self, CliError> {
        let channel = connect::connect(socket).await;
        Ok(Self {
            name,
            socket: socket.to_owned(),
            told: RefCell::default(),
            channel: channel.map_err(|error| of(name, "connecting", error))?,
        })
    }

    /// One call, given up at the deadline of all calls.
    async fn call<T>(
        &self,
        session: &mut Session<'_, '_>,
        doing: &str,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CliError> {
        let socket = || self.socket.clone();
        let error = match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(response)) => {
                self.tell(session, response.metadata())?;
                return Ok(response.into_inner());
            }
            // A status from the wire has no source; the transport's own always has one.
            Ok(Err(status)) => match std::error::Error::source(&status) {
                Some(cause) => CliError::Lost {
                    socket: socket(),
                    cause: connect::innermost(cause),
                },
                None => CliError::Refused(Box::new(status)),
            },
            Err(_) => CliError::NoAnswer {
                socket: socket(),
                seconds: CALL_DEADLINE.as_secs(),
            },
        };
        Err(of(self.name, doing, error))
    }

    /// Warnings beside an answer, each once: many calls have the same.
    fn tell(
        &self,
        session: &mut Session<'_, '_>,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<(), CliError> {
        let mut told = self.told.borrow_mut();
        for notice in notices::of(metadata) {
            let warns = notice.starts_with("warning");
            if warns && told.len() < NOTICES_MAX && told.insert(notice.clone()) {
                session.err(&format!("the {} server: {notice}\n", self.name))?;
            }
        }
        Ok(())
    }

    /// The trust domain's name.
    async fn trust_domain(&self, session: &mut Session<'_, '_>) -> Result<String, CliError> {
        let output_mask = Some(BundleMask::default());
        let mut client = client!(BundleClient, self);
        let call = client.get_bundle(request(GetBundleRequest { output_mask }));
        let bundle = self.call(session, "reading its bundle", call).await?;
        Ok(bundle.trust_domain)
    }

    /// The trust domain's own bundle.
    pub(super) async fn bundle(&self, session: &mut Session<'_, '_>) -> Result<Bundle, CliError> {
        let mut client = client!(BundleClient, self);
        let call = client.get_bundle(request(GetBundleRequest::default()));
        self.call(session, "reading its bundle", call).await
    }

    /// Adds authorities to the trust domain's own bundle.
    pub(super) async fn append(
        &self,
        session: &mut Session<'_, '_>,
        x509_authorities: Vec<X509Certificate>,
        jwt_authorities: Vec<JwtKey>,
    ) -> Result<(), CliError> {
        let mut client = client!(BundleClient, self);
        let call = client.append_bundle(request(AppendBundleRequest {
            x509_authorities,
            jwt_authorities,
            output_mask: Some(BundleMask::default()),
            wit_authorities: Vec::new(),
        }));
        self.call(session, "adding to its bundle", call)
            .await
            .map(drop)
    }

    /// How many agents are banned.
    pub(super) async fn count_bans(&self, session: &mut Session<'_, '_>) -> Result<u64, CliError> {
        let filter = Some(count_agents_request::Filter {
            by_banned: Some(true),
            ..Default::default()
        });
        let mut client = client!(AgentClient, self);
        let call = client.count_agents(request(CountAgentsRequest { filter }));
        let counted = self.call(session, "counting banned agents", call).await?;
        Ok(u64::try_from(counted.count).unwrap_or(0))
    }

    /// Banned agents behind `token`, and the next token; empty behind the last page.
    pub(super) async fn bans(
        &self,
        session: &mut Session<'_, '_>,
        token: &str,
    ) -> Result<(Vec<Agent>, String), CliError> {
        let filter = Some(list_agents_request::Filter {
            by_banned: Some(true),
            ..Default::default()
        });
        let mut client = client!(AgentClient, self);
        let call = client.list_agents(request(ListAgentsRequest {
            filter,
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token: token.to_owned(),
        }));
        let ListAgentsResponse {
            agents,
            next_page_token,
        } = self.call(session, "listing banned agents", call).await?;
        self.page(token, agents, next_page_token)
    }

    /// Bans an agent, known or not. SPIRE's servers ban only whom they know.
    pub(super) async fn import_ban(
        &self,
        session: &mut Session<'_, '_>,
        agent: Agent,
    ) -> Result<(), CliError> {
        const DOING: &str = "banning an agent";
        let id = agent.id.clone();
        let mut client = client!(MigrationClient, self);
        let call = client.import_agent_ban(request(ImportAgentBanRequest {
            id: agent.id,
            attestation_type: agent.attestation_type,
            selectors: agent.selectors,
            can_reattest: agent.can_reattest,
            // A ban holds whatever the date.
            expires_at: agent.x509svid_expires_at.max(0),
        }));
        match self.call(session, DOING, call).await {
            Err(error) if code(&error) == Some(Code::Unimplemented) => {}
            result => return result,
        }
        let mut client = client!(AgentClient, self);
        let call = client.ban_agent(request(BanAgentRequest { id }));
        self.call(session, DOING, call).await
    }

    /// Federated bundles, as with [`Peer::bans`].
    pub(super) async fn bundles(
        &self,
        session: &mut Session<'_, '_>,
        token: &str,
    ) -> Result<(Vec<Bundle>, String), CliError> {
        let mut client = client!(BundleClient, self);
        let call = client.list_federated_bundles(request(ListFederatedBundlesRequest {
            output_mask: None,
            page_size: BUNDLE_PAGE_SIZE,
            page_token: token.to_owned(),
        }));
        let ListFederatedBundlesResponse {
            bundles,
            next_page_token,
        } = self
            .call(session, "listing federated bundles", call)
            .await?;
        self.page(token, bundles, next_page_token)
    }

    /// Creates federated bundles, or overwrites them.
    pub(super) async fn write_bundles(
        &self,
        session: &mut Session<'_, '_>,
        bundle: Vec<Bundle>,
        overwrite: bool,
    ) -> Result<Vec<Answer<Bundle>>, CliError> {
        const DOING: &str = "writing federated bundles";
        let output_mask = Some(BundleMask::default());
        let count = bundle.len();
        let mut client = client!(BundleClient, self);
        let answers = if overwrite {
            let message = BatchSetFederatedBundleRequest {
                bundle,
                output_mask,
            };
            let call = client.batch_set_federated_bundle(request(message));
            let answer = self.call(session, DOING, call).await?;
            let results = answer.results.into_iter();
            results.map(|r| (r.status, r.bundle)).collect()
        } else {
            let message = BatchCreateFederatedBundleRequest {
                bundle,
                output_mask,
            };
            let call = client.batch_create_federated_bundle(request(message));
            let answer = self.call(session, DOING, call).await?;
            let results = answer.results.into_iter();
            results.map(|r| (r.status, r.bundle)).collect()
        };
        self.one_each(DOING, count, answers)
    }

    /// Federation relationships without their bundles, as with [`Peer::bans`].
    pub(super) async fn relationships(
        &self,
        session: &mut Session<'_, '_>,
        token: &str,
    ) -> Result<(Vec<FederationRelationship>, String), CliError> {
        let mut client = client!(TrustDomainClient, self);
        let call =
            client.list_federation_relationships(request(ListFederationRelationshipsRequest {
                output_mask: Some(FederationRelationshipMask {
                    bundle_endpoint_url: true,
                    bundle_endpoint_profile: true,
                    trust_domain_bundle: false,
                }),
                page_size: PAGE_SIZE,
                page_token: token.to_owned(),
            }));
        let ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token,
        } = self
            .call(session, "listing federation relationships", call)
            .await?;
        self.page(token, federation_relationships, next_page_token)
    }

    /// Creates relationships, or overwrites their endpoint and profile.
    pub(super) async fn write_relationships(
        &self,
        session: &mut Session<'_, '_>,
        federation_relationships: Vec<FederationRelationship>,
        overwrite: bool,
    ) -> Result<Vec<Answer<FederationRelationship>>, CliError> {
        const DOING: &str = "writing federation relationships";
        let count = federation_relationships.len();
        let mut client = client!(TrustDomainClient, self);
        let answers = if overwrite {
            let call = client.batch_update_federation_relationship(request(
                BatchUpdateFederationRelationshipRequest {
                    federation_relationships,
                    input_mask: Some(FederationRelationshipMask {
                        bundle_endpoint_url: true,
                        bundle_endpoint_profile: true,
                        trust_domain_bundle: false,
                    }),
                    output_mask: Some(FederationRelationshipMask::default()),
                },
            ));
            let answer = self.call(session, DOING, call).await?;
            let results = answer.results.into_iter();
            results
                .map(|r| (r.status, r.federation_relationship))
                .collect()
        } else {
            let call = client.batch_create_federation_relationship(request(
                BatchCreateFederationRelationshipRequest {
                    federation_relationships,
                    output_mask: Some(FederationRelationshipMask::default()),
                },
            ));
            let answer = self.call(session, DOING, call).await?;
            let results = answer.results.into_iter();
            results
                .map(|r| (r.status, r.federation_relationship))
                .collect()
        };
        self.one_each(DOING, count, answers)
    }

    /// How many entries there are.
    pub(super) async fn count_entries(
        &self,
        session: &mut Session<'_, '_>,
    ) -> Result<u64, CliError> {
        let mut client = client!(EntryClient, self);
        let call = client.count_entries(request(CountEntriesRequest::default()));
        let counted = self.call(session, "counting entries", call).await?;
        Ok(u64::try_from(counted.count).unwrap_or(0))
    }

    /// Entries, as with [`Peer::bans`].
    pub(super) async fn entries(
        &self,
        session: &mut Session<'_, '_>,
        token: &str,
    ) -> Result<(Vec<Entry>, String), CliError> {
        let mut client = client!(EntryClient, self);
        let call = client.list_entries(request(ListEntriesRequest {
            filter: None,
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token: token.to_owned(),
        }));
        let ListEntriesResponse {
            entries,
            next_page_token,
        } = self.call(session, "listing entries", call).await?;
        self.page(token, entries, next_page_token)
    }

    /// One entry, if it is there.
    pub(super) async fn entry(
        &self,
        session: &mut Session<'_, '_>,
        id: &str,
    ) -> Result<Option<Entry>, CliError> {
        let mut client = client!(EntryClient, self);
        let call = client.get_entry(request(GetEntryRequest {
            id: id.to_owned(),
            output_mask: None,
        }));
        match self.call(session, "reading an entry", call).await {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if code(&error) == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates entries, or overwrites them.
    pub(super) async fn write_entries(
        &self,
        session: &mut Session<'_, '_>,
        entries: Vec<Entry>,
        overwrite: bool,
    ) -> Result<Vec<Answer<Entry>>, CliError> {
        const DOING: &str = "writing entries";
        let count = entries.len();
        let mut client = client!(EntryClient, self);
        let answers = if overwrite {
            let call = client.batch_update_entry(request(BatchUpdateEntryRequest {
                entries,
                input_mask: None,
                output_mask: Some(EntryMask::default()),
            }));
            let answer = self.call(session, DOING, call).await?;
            let results = answer.results.into_iter();
            results.map(|r| (r.status, r.entry)).collect()
        } else {
            let call = client.batch_create_entry(request(BatchCreateEntryRequest {
                entries,
                // The existing entry is what a similar one is compared with.
                output_mask: None,
            }));
            let answer = self.call(session, DOING, call).await?;
            let results = answer.results.into_iter();
            results.map(|r| (r.status, r.entry)).collect()
        };
        self.one_each(DOING, count, answers)
    }

    /// A page whose token does not move would be read for ever.
    fn page<T>(
        &self,
        token: &str,
        items: Vec<T>,
        next: String,
    ) -> Result<(Vec<T>, String), CliError> {
        if !next.is_empty() && next == token {
            let unusable = CliError::Answer(format!("page {token:?} is followed by itself"));
            return Err(of(self.name, "listing", unusable));
        }
        Ok((items, next))
    }

    fn one_each<T>(
        &self,
        doing: &str,
        asked: usize,
        answers: Vec<Answer<T>>,
    ) -> Result<Vec<Answer<T>>, CliError> {
        if answers.len() != asked {
            let answered = answers.len();
            let unusable = CliError::Answer(format!("{answered} results for {asked} items"));
            return Err(of(self.name, doing, unusable));
        }
        Ok(answers)
    }
}

/// Connects to two servers of one trust domain, whose name comes along.
///
/// # Errors
/// Where they are one server, or of two trust domains, or cannot be reached.
pub(super) async fn two(
    session: &mut Session<'_, '_>,
    from_socket: &Path,
    to_socket: &Path,
) -> Result<(Peer, Peer, String), CliError> {
    if is_one_file(from_socket, to_socket) {
        return Err(CliError::Flags(
            "--from-socket and -socketPath name the same socket: name the server to move from with the \
             one and the server to move to with the other",
        ));
    }
    let source = Peer::connect("source", from_socket).await?;
    let target = Peer::connect("target", to_socket).await?;
    let from = source.trust_domain(session).await?;
    let to = target.trust_domain(session).await?;
    if from != to {
        return Err(CliError::TrustDomains { from, to });
    }
    Ok((source, target, from))
}

fn is_one_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn of(name: &str, doing: &str, source: CliError) -> CliError {
    CliError::While {
        doing: format!("the {name} server, {doing}"),
        source: Box::new(source),
    }
}

/// The code with which a call was refused.
fn code(error: &CliError) -> Option<Code> {
    match error {
        CliError::While { source, .. } => code(source),
        CliError::Refused(status) => Some(status.code()),
        _ => None,
    }
}

/// What a refusal of one call says, where it concerns one item only. `None` where every further
/// call would end the same way.
pub(super) fn of_one_item(error: &CliError) -> Option<String> {
    match code(error)? {
        Code::Unavailable
        | Code::Unimplemented
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Cancelled => None,
        // The server's words, without which of the two it is.
        _ => std::error::Error::source(error).map(ToString::to_string),
    }
}
