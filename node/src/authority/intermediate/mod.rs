//! This node's own CAs in issuance mode `intermediate`: each certified by one authority of the
//! cluster, its key in this process only.
//!
//! Why it exists: X.509-SVIDs go on while the token that holds the authorities' keys is away.
//!
//! Promises: a key is made by aws-lc-rs, signs for one authority, is never written and is gone
//! when its intermediate is dropped or replaced. The certificate is checked against its profile
//! before the authority signs and after: CA, pathLen 0, keyCertSign alone, the trust domain as its
//! one name, no name constraints. Nothing is certified on a state that may be too old. A node
//! without the token has another member certify its key ([`peer`]).
//! Refuses to know: who gets what an intermediate signs.

mod peer;
mod plan;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chancery_hsm::{KeyId, KeyRef, KeySpec, KeyType, MemorySigner, Signer, SignerError};
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::Profile;
use chancery_raft_store::ChangeKind;
use chancery_raft_store::model::{Authority, AuthorityStatus};
use tokio::time::Instant;

pub use self::peer::Certifier;
use self::plan::{Failures, Held, Scene, Step};
use super::{Custody, change, key_ref};
use crate::cluster::status::Members;
use crate::environment::{Stopwatch, random};
use crate::issue::{
    CertificateRequest, Draw, IssueError, IssuedCertificate, Subject, X509Authority,
    prepare_certificate,
};
use crate::registry::Doors;

/// What is due is looked at this often at least.
const INTERVAL: Duration = Duration::from_millis(500);
/// Label of the keys, for messages alone: they have no name outside of this process.
const KEY_LABEL: &str = "intermediate";

/// An intermediate with its key.
pub struct Intermediate {
    /// The authority of the cluster that certified it.
    authority_id: String,
    authority: Arc<X509Authority>,
    signer: MemorySigner,
    held: Held,
}

impl Intermediate {
    /// Id of the authority of the cluster that certified it.
    pub fn authority_id(&self) -> &str {
        &self.authority_id
    }

    /// It as an authority for SVIDs, whose chain is itself.
    pub fn authority(&self) -> &Arc<X509Authority> {
        &self.authority
    }

    /// What signs with its key.
    pub fn signer(&self) -> &MemorySigner {
        &self.signer
    }

    /// Unix second of its end.
    pub fn not_after(&self) -> i64 {
        self.held.not_after
    }
}

/// Why there is no intermediate.
#[derive(Debug, thiserror::Error)]
enum CertifyError {
    #[error("{0}")]
    Stale(String),
    #[error("the authority's record has no whole key id")]
    NoKeyId,
    #[error("its key could not be made")]
    Key(#[source] SignerError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("{0}")]
    Elsewhere(String),
}

/// Why a try to have an intermediate certified came to nothing, told to all who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub struct NotCertified {
    /// In words, for the operator.
    pub why: String,
    /// The signer's queue was full: when there may be room.
    pub retry_after: Option<Duration>,
}

impl From<&CertifyError> for NotCertified {
    fn from(error: &CertifyError) -> Self {
        let retry_after = match error {
            CertifyError::Issue(IssueError::Signer(SignerError::Busy { retry_after })) => {
                Some(*retry_after)
            }
            _ => None,
        };
        Self {
            why: crate::app::chain(error),
            retry_after,
        }
    }
}

/// The intermediates of this node. Cheap to clone.
#[derive(Clone)]
pub struct Intermediates {
    inner: Arc<Inner>,
}

struct Inner {
    trust_domain: TrustDomain,
    ttl: i64,
    members: Members,
    state: Mutex<State>,
    /// One is certified at a time, and whoever waited takes what the one before made.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<String, Arc<Intermediate>>,
    failed: BTreeMap<String, Failed>,
}

struct Failed {
    failures: Failures,
    at: Instant,
    why: NotCertified,
}

impl Intermediates {
    /// None yet; each will be for `trust_domain` and live for `ttl` seconds, not longer than its
    /// authority. Of `members` one with a token is asked where this node has none.
    pub fn new(trust_domain: TrustDomain, ttl: i64, members: Members) -> Self {
        let inner = Inner {
            trust_domain,
            ttl,
            members,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of an authority, unless it has ended by `now`.
    pub fn of(&self, authority_id: &str, now: i64) -> Option<Arc<Intermediate>> {
        let held = self.state().held.get(authority_id).cloned();
        held.filter(|held| now < held.not_after())
    }

    /// The one to sign with, of the authorities that this node may sign with: that of the active
    /// one; else of the last that signed and is trusted without a blemish. One that nodes share, or
    /// do not, as `shared` says comes first.
    pub fn signing(
        &self,
        authorities: &[Arc<Authority>],
        shared: bool,
        now: i64,
    ) -> Option<Arc<Intermediate>> {
        let rank = |a: &Authority| {
            let signs = match a.status() {
                AuthorityStatus::Active => true,
                AuthorityStatus::Old => false,
                _ => return None,
            };
            Some((signs, (a.node_id == 0) == shared, a.sequence))
        };
        let candidates = authorities.iter().filter(|a| plan::may_sign(a, now));
        candidates
            .filter_map(|a| Some((rank(a)?, self.of(&a.id, now)?)))
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, held)| held)
    }

    /// Why the last try failed for an authority, if none has succeeded since.
    pub fn failure(&self, authority_id: &str) -> Option<String> {
        let state = self.state();
        state.failed.get(authority_id).map(|f| f.why.why.clone())
    }

    /// Has an authority certify an intermediate, unless somebody else has just had it done.
    ///
    /// # Errors
    /// [`NotCertified`].
    pub async fn certify(
        &self,
        custody: &Custody,
        doors: &Doors,
        record: &Authority,
    ) -> Result<Arc<Intermediate>, NotCertified> {
        let asked = Instant::now();
        let before = self.state().held.get(&record.id).cloned();
        let _turn = self.inner.turn.lock().await;
        {
            let state = self.state();
            let held = state.held.get(&record.id);
            let known = |held: &Arc<Intermediate>| {
                before
                    .as_ref()
                    .is_some_and(|before| Arc::ptr_eq(before, held))
            };
            if let Some(held) = held.filter(|held| !known(held)) {
                return Ok(Arc::clone(held));
            }
            if let Some(failed) = state.failed.get(&record.id).filter(|f| f.at >= asked) {
                return Err(failed.why.clone());
            }
        }
        let made = self.make(custody, doors, record).await;
        let now = doors.consensus().clock().now_unix_ms().div_euclid(1000);
        let mut state = self.state();
        match made {
            Ok(made) => {
                let made = Arc::new(made);
                state.failed.remove(&record.id);
                state.held.insert(record.id.clone(), Arc::clone(&made));
                Ok(made)
            }
            Err(error) => {
                let why = NotCertified::from(&error);
                let failed = state.failed.entry(record.id.clone());
                let failed = failed.or_insert_with(|| Failed {
                    failures: Failures {
                        count: 0,
                        last_at: now,
                    },
                    at: asked,
                    why: why.clone(),
                });
                failed.failures.count = failed.failures.count.saturating_add(1);
                failed.failures.last_at = now;
                failed.at = Instant::now();
                failed.why.clone_from(&why);
                Err(why)
            }
        }
    }

    async fn make(
        &self,
        custody: &Custody,
        doors: &Doors,
        record: &Authority,
    ) -> Result<Intermediate, CertifyError> {
        let stale = |status: tonic::Status| CertifyError::Stale(status.message().to_owned());
        doors.fresh().await.map_err(stale)?;
        let root = self.root(record)?;
        let own = MemorySigner::new();
        let spec = KeySpec {
            key: KeyRef {
                id: KeyId::new(random()),
                label: KEY_LABEL.into(),
            },
            key_type: KeyType::EcP256,
        };
        let public = own.generate(&spec).await.map_err(CertifyError::Key)?;
        let public =
            PublicKey::from_spki_der(&public.spki_der).map_err(IssueError::AuthorityKey)?;
        let draw = Draw::new(&**doors.consensus().clock());
        let (der, not_after) = if custody.asks_others(record) {
            let members = &self.inner.members;
            let asked = peer::Asked {
                doors,
                trust_domain: &self.inner.trust_domain,
                root: &root,
                key: &spec.key,
                signer: &own,
                public: &public,
            };
            asked.certify(members).await?
        } else {
            let me = doors.consensus().me();
            let issued = self
                .certificate(custody, doors, &root, &public, me, &draw)
                .await?;
            (issued.certificate_der, issued.facts.not_after)
        };
        doors.still_fresh().map_err(stale)?;
        let authority =
            X509Authority::new(&self.inner.trust_domain, spec.key, der.clone(), vec![der])?;
        Ok(Intermediate {
            authority_id: record.id.clone(),
            authority: Arc::new(authority),
            signer: own,
            held: Held {
                renew_at: plan::renew_at(
                    draw.now,
                    not_after,
                    root.facts().not_after(),
                    u16::from_be_bytes(random()),
                ),
                not_after,
            },
        })
    }

    fn root(&self, record: &Authority) -> Result<Arc<X509Authority>, CertifyError> {
        let key = key_ref(record).ok_or(CertifyError::NoKeyId)?;
        let der = record.certificate.clone();
        let root = X509Authority::new(&self.inner.trust_domain, key, der, Vec::new())?;
        Ok(Arc::new(root))
    }

    /// Has an authority sign the certificate of an intermediate of `node`, and says so in the
    /// audit log.
    async fn certificate(
        &self,
        custody: &Custody,
        doors: &Doors,
        root: &Arc<X509Authority>,
        public: &PublicKey,
        node: u64,
        draw: &Draw,
    ) -> Result<IssuedCertificate, CertifyError> {
        let request = CertificateRequest {
            profile: Profile::Intermediate,
            id: &SpiffeId::of_trust_domain(&self.inner.trust_domain),
            public_key: public,
            subject: Subject {
                // Each gets its own, so that no two authorities have one name.
                serial_number: None,
                ..Subject::from_name_der(root.facts().subject_der())?
            },
            ttl_seconds: self.inner.ttl,
        };
        let watch = Stopwatch::start();
        let signer = custody.signer();
        let issued = prepare_certificate(root, request, draw)?
            .sign(&**signer)
            .await;
        crate::telemetry::signature(
            "x509_intermediate",
            root.id(),
            signer.kind().as_str(),
            issued.is_ok(),
            watch.elapsed(),
        );
        let issued = issued?;
        // What the authority signed is told even where it does not leave.
        tracing::info!(
            target: "chancery::audit",
            event = "intermediate_certified",
            authority = %root.id(),
            node,
            serial = %issued.facts.serial,
            subject_key_id = hex::encode(&issued.facts.ski),
            expires_at = issued.facts.not_after,
        );
        let stale = |status: tonic::Status| CertifyError::Stale(status.message().to_owned());
        doors.still_fresh().map_err(stale)?;
        Ok(issued)
    }

    fn forget(&self, authority_id: &str) -> Option<Arc<Intermediate>> {
        self.state().held.remove(authority_id)
    }

    fn scene(&self, custody: &Custody, doors: &Doors) -> Scene {
        let directory = doors.local();
        let mode = custody.mode(directory.cluster());
        let authorities = custody.intermediates_of(&directory, doors.consensus().me());
        drop(directory);
        let authorities: Vec<Authority> = authorities
            .iter()
            .map(|authority| (**authority).clone())
            .collect();
        // Whether another member can sign with it is seen when it is asked.
        let others = authorities.iter().filter(|a| custody.asks_others(a));
        let mut usable = custody.tried();
        usable.extend(others.map(|a| a.id.clone()));
        let mut state = self.state();
        state
            .failed
            .retain(|id, _| authorities.iter().any(|a| a.id == *id));
        Scene {
            mode,
            now: doors.consensus().clock().now_unix_ms().div_euclid(1000),
            authorities,
            usable,
            held: state
                .held
                .iter()
                .map(|(id, held)| (id.clone(), held.held))
                .collect(),
            failures: state
                .failed
                .iter()
                .map(|(id, failed)| (id.clone(), failed.failures))
                .collect(),
        }
    }
}

/// Keeps the intermediates of this node as [`plan`] says. Has no end.
pub async fn keep_intermediates(custody: Custody, doors: Doors) {
    let intermediates = custody.intermediates().clone();
    let mut feed = doors.registry().subscribe();
    let mut told = String::new();
    loop {
        let scene = intermediates.scene(&custody, &doors);
        let mut problems = Vec::new();
        for step in plan::plan(&scene) {
            match step {
                Step::Drop(id) => {
                    if intermediates.forget(&id).is_some() {
                        tracing::info!(authority = %id, "an intermediate is dropped");
                    }
                }
                Step::Certify(id) => {
                    let Some(record) = scene.authorities.iter().find(|a| a.id == id) else {
                        continue;
                    };
                    if let Err(why) = intermediates.certify(&custody, &doors, record).await {
                        problems.push(format!("authority {id}: {why}"));
                    }
                }
            }
        }
        // Twice a second would hide every other line.
        let problem = problems.join("; ");
        if problem != told && !problem.is_empty() {
            tracing::warn!(problem, "an intermediate cannot be certified; trying on");
        }
        told = problem;
        let _ = tokio::time::timeout(INTERVAL, change(&mut feed, matters)).await;
    }
}

/// Whether what is due may depend on a change.
fn matters(kind: &ChangeKind) -> bool {
    matches!(
        kind,
        ChangeKind::IssuanceModeSet
            | ChangeKind::AuthorityScopeSet
            | ChangeKind::AuthoritySet(_)
            | ChangeKind::AuthorityRemoved(_)
    )
}
