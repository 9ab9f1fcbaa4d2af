//! Attests, follows the registry, has documents signed and publishes one snapshot of it all.
//!
//! Promises: what is published is whole (an identity is in it with its SVID and every bundle that it
//! needs); what was published stays until something newer is there, whatever becomes of the servers; a
//! key leaves this process in the snapshot and the state file alone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;
use std::sync::Arc;
use std::time::Duration;

use chancery_api::spire::api::server::agent::v1 as agent_api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::bundle::v1::{GetBundleRequest, GetFederatedBundleRequest};
use chancery_api::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::svid::v1 as svid_api;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::types;
use chancery_identity::bundle::Bundle;
use chancery_identity::id::TrustDomain;
use chancery_identity::x509_svid::verify_certificate_signature;
use tokio::sync::watch;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::config::{Bootstrap, Config};
use crate::credentials::{self, Svid};
use crate::environment;
use crate::servers::Servers;
use crate::state::{State, Store};
use crate::tls::{ClientIdentity, Trust};
use crate::wire::{self, Entry};

/// How often the registry is asked, a tenth more or less.
const SYNC: Duration = Duration::from_secs(5);
/// SVIDs that a server signs in one call.
const BATCH: usize = 500;
/// Bytes of one answer: a bundle or the entries of a large host.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// An identity and the document that proves it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) entry: Entry,
    pub(crate) svid: Arc<Svid>,
}

/// What workloads are served from.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// By entry id, which is the order that they are served in.
    pub(crate) identities: BTreeMap<String, Identity>,
    /// Of the own trust domain.
    pub(crate) bundle: Arc<Bundle>,
    /// Of others, by bare name.
    pub(crate) federated: BTreeMap<String, Arc<Bundle>>,
}

/// Why an agent ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error(transparent)]
    State(#[from] crate::state::StateError),
    #[error("the trust bundle cannot be read: {0}")]
    Bundle(String),
    #[error("no join token: name a file in join_token_file or with -joinTokenFile")]
    NoToken,
    #[error("attestation: {} ({:?})", .0.message(), .0.code())]
    Attestation(Status),
    #[error("the server no longer knows this agent: {} ({:?})", .0.message(), .0.code())]
    Refused(Status),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("a key cannot be made: {0}")]
    Key(#[from] rcgen::Error),
}

/// What went wrong in one round; the next one may go well.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{}: {} ({:?})", .0, .1.message(), .1.code())]
    Call(&'static str, Status),
    #[error("{0}")]
    Answer(String),
    #[error(transparent)]
    Agent(#[from] AgentError),
}

fn called(what: &'static str) -> impl Fn(Status) -> RoundError {
    move |status| RoundError::Call(what, status)
}

/// One agent.
pub(crate) struct Manager {
    config: Config,
    store: Store,
    servers: Arc<Servers>,
    state: State,
    published: watch::Sender<Option<Arc<Snapshot>>>,
}

impl Manager {
    /// Goes on with what is kept of an earlier run, or attests by the join token.
    pub(crate) async fn start(
        config: Config,
        token: Option<Zeroizing<String>>,
    ) -> Result<Self, AgentError> {
        let store = Store::open(&config.data_dir)?;
        let kept = store.load()?;
        let kept = kept.filter(|state| !state.svid.has_expired(environment::now()));
        let (servers, state) = match kept {
            Some(state) => {
                let trust = Trust {
                    trust_domain: config.trust_domain.clone(),
                    roots: state.roots.clone(),
                };
                let servers = Servers::new(config.servers.clone(), Some(trust))?;
                (servers, state)
            }
            None => {
                let token = token.ok_or(AgentError::NoToken)?;
                let trust = bootstrap(&config)?;
                let servers = Servers::new(config.servers.clone(), trust)?;
                let state = attest(&servers, &token, &config.trust_domain).await?;
                store.save(&state)?;
                (servers, state)
            }
        };
        let manager = Self {
            config,
            store,
            servers: Arc::new(servers),
            state,
            published: watch::Sender::new(None),
        };
        manager.become_known()?;
        Ok(manager)
    }

    /// What is published, now and from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.published.subscribe()
    }

    /// How others call the servers as this agent.
    pub(crate) fn servers(&self) -> Arc<Servers> {
        Arc::clone(&self.servers)
    }

    fn become_known(&self) -> Result<(), AgentError> {
        let trust = Trust {
            trust_domain: self.config.trust_domain.clone(),
            roots: self.state.roots.clone(),
        };
        let identity = ClientIdentity {
            chain: self.state.svid.chain.clone(),
            key: self.state.svid.key.to_vec(),
        };
        Ok(self.servers.become_known(trust, &identity)?)
    }

    /// Follows the registry for ever; comes back with why it must not go on.
    pub(crate) async fn run(mut self) -> AgentError {
        loop {
            match self.round().await {
                Ok(()) => {}
                Err(RoundError::Agent(error)) => return error,
                Err(RoundError::Call(_, status)) if is_refusal(&status) => {
                    // What is kept is worth nothing any more.
                    if let Err(error) = self.store.forget() {
                        tracing::error!(%error, "an SVID that is refused is still kept");
                    }
                    return AgentError::Refused(status);
                }
                Err(error) => {
                    tracing::warn!(%error, "not in touch with the servers; trying on");
                }
            }
            let spread = 0.9 + 0.2 * environment::fraction();
            tokio::time::sleep(SYNC.mul_f64(spread)).await;
        }
    }

    async fn round(&mut self) -> Result<(), RoundError> {
        self.renew().await?;
        let entries = self.entries().await?;
        let bundle = self.bundle().await?;
        let mut federated = BTreeMap::new();
        for name in entries.iter().flat_map(|entry| &entry.federates_with) {
            if !federated.contains_key(name)
                && let Some(bundle) = self.federated(name).await?
            {
                federated.insert(name.clone(), Arc::new(bundle));
            }
        }
        let roots = bundle.roots();
        if roots != self.state.roots {
            self.state.roots = roots;
            self.store.save(&self.state).map_err(AgentError::from)?;
            self.become_known()?;
        }
        let identities = self.sign(entries, &bundle).await?;
        self.publish(Snapshot {
            identities,
            bundle: Arc::new(bundle),
            federated,
        });
        Ok(())
    }

    /// Publishes what is other than before.
    fn publish(&self, next: Snapshot) {
        self.published.send_if_modified(|now| {
            let same = now.as_ref().is_some_and(|now| {
                let each = now.identities.iter().zip(&next.identities);
                now.bundle == next.bundle
                    && now.federated == next.federated
                    && now.identities.len() == next.identities.len()
                    && each
                        .into_iter()
                        .all(|((_, a), (_, b))| a.entry == b.entry && Arc::ptr_eq(&a.svid, &b.svid))
            });
            if !same {
                *now = Some(Arc::new(next));
            }
            !same
        });
    }

    /// Renews the agent's own SVID past half of its life.
    async fn renew(&mut self) -> Result<(), RoundError> {
        if !self.state.svid.is_due(environment::now()) {
            return Ok(());
        }
        let requested = credentials::request().map_err(AgentError::from)?;
        let renewed = self.servers.call(|channel| {
            let params = agent_api::AgentX509svidParams {
                csr: requested.csr.clone(),
            };
            let request = agent_api::RenewAgentRequest {
                params: Some(params),
            };
            async move { AgentClient::new(channel).renew_agent(request).await }
        });
        let renewed = renewed.await.map_err(called("renewing its SVID"))?;
        let svid = renewed.into_inner().svid;
        let svid = svid.ok_or_else(|| RoundError::Answer("renewed without an SVID".into()))?;
        self.state.svid = wire::svid(svid, requested.key, environment::now());
        self.store.save(&self.state).map_err(AgentError::from)?;
        self.become_known()?;
        tracing::info!(svid = ?self.state.svid, "agent SVID renewed");
        Ok(())
    }

    async fn entries(&self) -> Result<Vec<Entry>, RoundError> {
        let answer = self.servers.call(|channel| async move {
            let mut client = EntryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let request = GetAuthorizedEntriesRequest::default();
            client.get_authorized_entries(request).await
        });
        let answer = answer.await.map_err(called("fetching entries"))?;
        let entries = answer.into_inner().entries.into_iter();
        entries
            .map(Entry::read)
            .collect::<Result<_, _>>()
            .map_err(RoundError::Answer)
    }

    async fn bundle(&self) -> Result<Bundle, RoundError> {
        let answer = self.servers.call(get_bundle).await;
        let answer = answer.map_err(called("fetching the bundle"))?;
        own_bundle(&answer, &self.config.trust_domain).map_err(RoundError::Answer)
    }

    /// The bundle of another trust domain; `None` where the server has none.
    async fn federated(&self, name: &str) -> Result<Option<Bundle>, RoundError> {
        let answer = self.servers.call(|channel| {
            let request = GetFederatedBundleRequest {
                trust_domain: name.to_owned(),
                output_mask: None,
            };
            let mut client =
                BundleClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            async move { client.get_federated_bundle(request).await }
        });
        match answer.await {
            Ok(bundle) => wire::bundle(&bundle.into_inner())
                .map(Some)
                .map_err(RoundError::Answer),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(RoundError::Call("fetching a federated bundle", status)),
        }
    }

    /// The identities of these entries, with what is still good of before and the rest signed.
    async fn sign(
        &self,
        entries: Vec<Entry>,
        bundle: &Bundle,
    ) -> Result<BTreeMap<String, Identity>, RoundError> {
        let now = environment::now();
        let before = self.published.borrow().clone();
        let mut identities = BTreeMap::new();
        let mut due = Vec::new();
        for entry in entries.into_iter().filter(|entry| !entry.store_svid) {
            let known = before.as_ref().and_then(|b| b.identities.get(&entry.id));
            let good = known.filter(|known| {
                known.entry.revision == entry.revision
                    && !known.svid.is_due(now)
                    && !is_tainted(&known.svid, bundle)
            });
            match good {
                Some(known) => {
                    let svid = Arc::clone(&known.svid);
                    identities.insert(entry.id.clone(), Identity { entry, svid });
                }
                None => due.push(entry),
            }
        }
        for batch in due.chunks(BATCH) {
            match self.signed(batch).await {
                Ok(signed) => identities.extend(signed),
                Err(RoundError::Call(what, status)) if is_refusal(&status) => {
                    return Err(RoundError::Call(what, status));
                }
                Err(error) => {
                    tracing::warn!(%error, "SVIDs are not signed; what is there is served on");
                }
            }
            // Nobody loses an identity that is good because a newer one is not there yet; who may
            // have it is as the entry says now.
            for entry in batch {
                let known = before.as_ref().and_then(|b| b.identities.get(&entry.id));
                let good = known.filter(|known| {
                    known.entry.spiffe_id == entry.spiffe_id && !known.svid.has_expired(now)
                });
                if let (Some(known), Vacant(place)) = (good, identities.entry(entry.id.clone())) {
                    let kept = Identity {
                        entry: Entry {
                            // Of what was signed, so that it is asked for again.
                            revision: known.entry.revision,
                            ..entry.clone()
                        },
                        svid: Arc::clone(&known.svid),
                    };
                    place.insert(kept);
                }
            }
        }
        Ok(identities)
    }

    async fn signed(&self, batch: &[Entry]) -> Result<Vec<(String, Identity)>, RoundError> {
        let mut keys = Vec::new();
        let mut params = Vec::new();
        for entry in batch {
            let requested = credentials::request().map_err(AgentError::from)?;
            keys.push(requested.key);
            params.push(svid_api::NewX509svidParams {
                entry_id: entry.id.clone(),
                csr: requested.csr,
            });
        }
        let answer = self.servers.call(|channel| {
            let request = svid_api::BatchNewX509svidRequest {
                params: params.clone(),
            };
            let mut client = SvidClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            async move { client.batch_new_x509svid(request).await }
        });
        let answer = answer.await.map_err(called("having SVIDs signed"))?;
        let results = answer.into_inner().results;
        if results.len() != batch.len() {
            return Err(RoundError::Answer("not every SVID was answered".into()));
        }
        let now = environment::now();
        let mut identities = Vec::new();
        for ((entry, key), result) in batch.iter().zip(keys).zip(results) {
            match result.svid {
                Some(svid) => {
                    let svid = Arc::new(wire::svid(svid, key, now));
                    let entry = entry.clone();
                    identities.push((entry.id.clone(), Identity { entry, svid }));
                }
                None => {
                    let status = result.status.unwrap_or_default();
                    tracing::warn!(
                        entry = entry.id,
                        code = status.code,
                        status.message,
                        "an SVID is not signed"
                    );
                }
            }
        }
        Ok(identities)
    }
}

/// Whether a tainted authority of the bundle signed an SVID.
fn is_tainted(svid: &Svid, bundle: &Bundle) -> bool {
    let Some(last) = svid.chain.last() else {
        return false;
    };
    let tainted = bundle.x509_authorities.iter().filter(|a| a.is_tainted());
    tainted
        .into_iter()
        .any(|authority| verify_certificate_signature(last, &authority.public_key()).is_ok())
}

fn bootstrap(config: &Config) -> Result<Option<Trust>, AgentError> {
    match &config.bootstrap {
        Bootstrap::Insecure => {
            tracing::warn!("insecure_bootstrap: whoever answers first is trusted");
            Ok(None)
        }
        Bootstrap::File(path) => {
            let pem = std::fs::read_to_string(path)
                .map_err(|error| AgentError::Bundle(format!("{}: {error}", path.display())))?;
            let trust = Trust::from_pem(config.trust_domain.as_str(), &pem);
            trust
                .map(Some)
                .map_err(|error| AgentError::Bundle(format!("{}: {error}", path.display())))
        }
    }
}

async fn get_bundle(channel: tonic::transport::Channel) -> Result<types::Bundle, Status> {
    let mut client = BundleClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = GetBundleRequest { output_mask: None };
    client
        .get_bundle(request)
        .await
        .map(tonic::Response::into_inner)
}

/// The bundle of the own trust domain, with somebody to trust.
fn own_bundle(answer: &types::Bundle, trust_domain: &TrustDomain) -> Result<Bundle, String> {
    let bundle = wire::bundle(answer)?;
    if bundle.trust_domain != *trust_domain || bundle.x509_authorities.is_empty() {
        return Err(format!("it is not that of {trust_domain}, or has no root"));
    }
    Ok(bundle)
}

/// A typed no, which is of this agent and not of the moment (SPIRE's `PermissionDeniedDetails`).
fn is_refusal(status: &Status) -> bool {
    status.code() == Code::PermissionDenied && !status.details().is_empty()
}

/// Attests by a join token and fetches the bundle over the same connections.
async fn attest(
    servers: &Servers,
    token: &str,
    trust_domain: &TrustDomain,
) -> Result<State, AgentError> {
    use agent_api::attest_agent_request::{Params, Step};
    use agent_api::attest_agent_response::Step as Answer;
    let requested = credentials::request()?;
    let answer = servers.call(|channel| {
        let params = Params {
            data: Some(types::AttestationData {
                r#type: "join_token".into(),
                payload: token.as_bytes().to_vec(),
            }),
            params: Some(agent_api::AgentX509svidParams {
                csr: requested.csr.clone(),
            }),
        };
        let request = agent_api::AttestAgentRequest {
            step: Some(Step::Params(params)),
        };
        async move {
            let mut client = AgentClient::new(channel);
            let answers = client.attest_agent(tokio_stream::iter([request])).await?;
            match answers.into_inner().message().await?.and_then(|a| a.step) {
                Some(Answer::Result(result)) => Ok(result),
                _ => Err(Status::internal("the server asks more than a join token")),
            }
        }
    });
    let result = answer.await.map_err(AgentError::Attestation)?;
    let svid = result
        .svid
        .ok_or_else(|| AgentError::Attestation(Status::internal("attested without an SVID")))?;
    let bundle = servers
        .call(get_bundle)
        .await
        .map_err(AgentError::Attestation)?;
    let bundle = own_bundle(&bundle, trust_domain).map_err(AgentError::Bundle)?;
    let svid = wire::svid(svid, requested.key, environment::now());
    tracing::info!(?svid, "attested");
    Ok(State {
        svid,
        roots: bundle.roots(),
        reattestable: result.reattestable,
    })
}
