//! The methods of the Workload API.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use chancery_api::workload as api;
use chancery_api::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use chancery_identity::bundle::Bundle;
use chancery_identity::id::SpiffeId;
use chancery_identity::jwt_svid;
use chancery_identity::selector::Selector;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::jwt::Tokens;
use crate::environment;
use crate::manager::{Identity, Snapshot};
use crate::servers::Servers;

/// Without it a request may have been made by a browser or a proxy (SPIFFE Workload Endpoint §6.1).
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// Answers that wait for a workload to read them.
const UNREAD_MAX: usize = 2;

type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct WorkloadApi {
    snapshots: Snapshots,
    tokens: Tokens,
}

/// What a workload is: told once for each call.
struct Workload {
    selectors: BTreeSet<Selector>,
}

impl Workload {
    /// The process that made a request, if the request has the security header.
    async fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let values: Vec<_> = request.metadata().get_all(SECURITY_HEADER).iter().collect();
        if !matches!(values.as_slice(), [value] if *value == "true") {
            return Err(Status::invalid_argument(
                "security header missing from request",
            ));
        }
        let failed = || Status::unavailable("workload attestation failed");
        let caller = request.extensions().get::<Option<Arc<Caller>>>().cloned();
        let caller = caller.flatten().ok_or_else(failed)?;
        // Names of users and groups may come from another machine.
        let selectors = tokio::task::spawn_blocking(move || caller.selectors()).await;
        match selectors {
            Ok(Ok(selectors)) => Ok(Self {
                selectors: selectors.into_iter().collect(),
            }),
            Ok(Err(error)) => {
                tracing::warn!(%error, "workload attestation failed");
                Err(failed())
            }
            Err(_) => Err(failed()),
        }
    }

    /// Its identities in the order of their entries, one for each hint.
    fn identities<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Identity> {
        let matching = snapshot.identities.values().filter(|identity| {
            let selectors = &identity.entry.selectors;
            !selectors.is_empty() && selectors.iter().all(|s| self.selectors.contains(s))
        });
        let now = environment::now();
        let matching: Vec<_> = matching.filter(|i| !i.svid.has_expired(now)).collect();
        let oldest = |identity: &Identity| (identity.entry.created_at, identity.entry.id.clone());
        let mut first: BTreeMap<&str, &Identity> = BTreeMap::new();
        for identity in &matching {
            let before = first.entry(&identity.entry.hint).or_insert(identity);
            if oldest(identity) < oldest(before) {
                *before = identity;
            }
        }
        let kept = |identity: &&Identity| {
            let hint = identity.entry.hint.as_str();
            hint.is_empty() || first[hint].entry.id == identity.entry.id
        };
        matching.into_iter().filter(kept).collect()
    }
}

fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

fn x509_bundle(bundle: &Bundle) -> Vec<u8> {
    bundle.roots().concat()
}

/// The bundles of the own trust domain and of those that the identities federate with, by id.
fn bundles<T>(
    snapshot: &Snapshot,
    identities: &[&Identity],
    form: impl Fn(&Bundle) -> T,
) -> BTreeMap<String, T> {
    let of = |bundle: &Bundle| {
        let id = SpiffeId::of_trust_domain(&bundle.trust_domain);
        (id.as_str().to_owned(), form(bundle))
    };
    let mut all = BTreeMap::from([of(&snapshot.bundle)]);
    all.extend(foreign(snapshot, identities).map(of));
    all
}

fn foreign<'a>(
    snapshot: &'a Snapshot,
    identities: &'a [&Identity],
) -> impl Iterator<Item = &'a Bundle> {
    let names = identities.iter().flat_map(|i| &i.entry.federates_with);
    let names: BTreeSet<_> = names.collect();
    let bundles = names
        .into_iter()
        .filter_map(|name| snapshot.federated.get(name));
    bundles.map(AsRef::as_ref)
}

fn x509_answer(snapshot: &Snapshot, identities: &[&Identity]) -> api::X509svidResponse {
    let bundle = x509_bundle(&snapshot.bundle);
    let svids = identities.iter().map(|identity| api::X509svid {
        spiffe_id: identity.svid.id.clone(),
        x509_svid: identity.svid.chain.concat(),
        x509_svid_key: identity.svid.key.to_vec(),
        bundle: bundle.clone(),
        hint: identity.entry.hint.clone(),
    });
    let federated = foreign(snapshot, identities).map(|bundle| {
        let id = SpiffeId::of_trust_domain(&bundle.trust_domain);
        (id.as_str().to_owned(), x509_bundle(bundle))
    });
    api::X509svidResponse {
        svids: svids.collect(),
        crl: Vec::new(),
        federated_bundles: federated.collect(),
    }
}

impl WorkloadApi {
    pub(super) fn new(snapshots: Snapshots, servers: Arc<Servers>) -> Self {
        Self {
            snapshots,
            tokens: Tokens::new(servers),
        }
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>, Status> {
        let snapshot = self.snapshots.borrow().clone();
        snapshot.ok_or_else(|| Status::unavailable("the agent has not synced yet"))
    }

    /// Answers now, and again whenever what a workload is to know is another.
    fn follow<T: PartialEq + Send + Clone + 'static>(
        &self,
        workload: Workload,
        answer: impl Fn(&Snapshot, &[&Identity]) -> T + Send + 'static,
    ) -> Response<Answers<T>> {
        let (sender, receiver) = mpsc::channel(UNREAD_MAX);
        let mut snapshots = self.snapshots.clone();
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot {
                    let identities = workload.identities(&snapshot);
                    if identities.is_empty() {
                        let _ = sender.send(Err(no_identity())).await;
                        return;
                    }
                    let next = answer(&snapshot, &identities);
                    if told.as_ref() != Some(&next) {
                        if sender.send(Ok(next.clone())).await.is_err() {
                            return;
                        }
                        told = Some(next);
                    }
                }
                tokio::select! {
                    changed = snapshots.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<api::X509svidResponse>;
    type FetchX509BundlesStream = Answers<api::X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<api::JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<api::WitsvidResponse>;
    type FetchWITBundlesStream = Answers<api::WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<api::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let workload = Workload::of(&request).await?;
        Ok(self.follow(workload, x509_answer))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<api::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let workload = Workload::of(&request).await?;
        Ok(
            self.follow(workload, |snapshot, identities| api::X509BundlesResponse {
                crl: Vec::new(),
                bundles: bundles(snapshot, identities, x509_bundle),
            }),
        )
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<api::JwtsvidRequest>,
    ) -> Result<Response<api::JwtsvidResponse>, Status> {
        let workload = Workload::of(&request).await?;
        let request = request.into_inner();
        if request.audience.is_empty() || request.audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if !request.spiffe_id.is_empty() {
            SpiffeId::parse(&request.spiffe_id).map_err(|error| {
                Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}"))
            })?;
        }
        let snapshot = self.snapshot()?;
        let mut identities = workload.identities(&snapshot);
        identities.retain(|identity| {
            request.spiffe_id.is_empty() || identity.entry.spiffe_id == request.spiffe_id
        });
        if identities.is_empty() {
            return Err(no_identity());
        }
        let mut svids = Vec::new();
        for identity in identities {
            let token = self
                .tokens
                .get(&identity.entry.id, request.audience.clone());
            let token = token.await.map_err(|status| {
                Status::unavailable(format!("could not fetch JWT-SVID: {}", status.message()))
            })?;
            svids.push(api::Jwtsvid {
                spiffe_id: identity.entry.spiffe_id.clone(),
                svid: token,
                hint: identity.entry.hint.clone(),
            });
        }
        Ok(Response::new(api::JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<api::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let workload = Workload::of(&request).await?;
        Ok(
            self.follow(workload, |snapshot, identities| api::JwtBundlesResponse {
                bundles: bundles(snapshot, identities, |bundle| bundle.to_jwks().into_bytes()),
            }),
        )
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<api::ValidateJwtsvidRequest>,
    ) -> Result<Response<api::ValidateJwtsvidResponse>, Status> {
        let workload = Workload::of(&request).await?;
        let request = request.into_inner();
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let snapshot = self.snapshot()?;
        let identities = workload.identities(&snapshot);
        let mut refused = None;
        let own = std::iter::once(&*snapshot.bundle);
        for bundle in own.chain(foreign(&snapshot, &identities)) {
            let keys = bundle.jwt_authorities.iter();
            let keys = keys.map(|key| (key.kid().to_owned(), key.public_key().clone()));
            let validated = jwt_svid::validate(
                &request.svid,
                &keys.collect(),
                &bundle.trust_domain,
                &request.audience,
                environment::now(),
            );
            match validated {
                Ok(validated) => {
                    // Of a foreign token only what the standard names.
                    let is_own = bundle.trust_domain == snapshot.bundle.trust_domain;
                    let claims = validated.claims.into_iter().filter(|(name, _)| {
                        is_own || matches!(name.as_str(), "sub" | "exp" | "aud")
                    });
                    let mut claims: BTreeMap<_, _> =
                        claims.map(|(name, value)| (name, proto(value))).collect();
                    let audience = validated
                        .audience
                        .into_iter()
                        .map(serde_json::Value::String);
                    claims.insert("aud".into(), proto(audience.collect()));
                    return Ok(Response::new(api::ValidateJwtsvidResponse {
                        spiffe_id: validated.id.as_str().to_owned(),
                        claims: Some(prost_types::Struct { fields: claims }),
                    }));
                }
                Err(jwt_svid::ValidateError::ForeignTrustDomain(_)) => {}
                Err(error) => refused = Some(error.to_string()),
            }
        }
        Err(Status::invalid_argument(refused.unwrap_or_else(|| {
            "no keys found for the token's trust domain".to_owned()
        })))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<api::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("WIT-SVIDs are not served"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<api::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("WIT-SVIDs are not served"))
    }
}

fn proto(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(b),
        // A Struct has numbers of 64-bit floating point alone.
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(s) => Kind::StringValue(s),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(proto).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields.into_iter().map(|(k, v)| (k, proto(v))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
