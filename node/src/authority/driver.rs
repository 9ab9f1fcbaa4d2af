//! Runs the planner's steps on this node.

use std::collections::BTreeSet;
use std::time::Duration;

use chancery_hsm::{KeyId, KeyRef, KeySpec, KeyType, PublicKeyInfo, SignerError};
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::Profile;
use chancery_raft_store::ChangeKind;
use chancery_raft_store::command::{
    AbandonKey, AuthorityName, BeginKey, Command, ProveAuthority, PruneAuthorities,
    RecordAuthority, RecordServerSvid, Refusal, RetireAuthorities,
};
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityScope, KeyIntent};

use super::intermediate::NotCertified;
use super::plan::{self, KINDS, Missing, Overdue, Scene, Step};
use super::{Custody, change, key_ref};
use crate::cluster::Consensus;
use crate::cluster::status::Members;
use crate::environment::{Stopwatch, random};
use crate::housekeeping::events::pruned_authority;
use crate::issue::{
    CertificateRequest, Draw, IssueError, IssuedCertificate, Subject, prepare_self_signed,
};
use crate::registry::Doors;
use crate::telemetry::rfc3339;

/// The plan is looked at this often at least.
const INTERVAL: Duration = Duration::from_millis(500);
/// And this often while the keys cannot be used: agents wait for them.
const INTERVAL_WITHOUT_KEYS: Duration = Duration::from_millis(100);
/// Bytes that are signed to try a key.
const TRIAL_BYTES: usize = 32;

/// How this node's authorities are made.
#[derive(Clone)]
pub struct Making {
    /// Key type of new authorities.
    pub key_type: KeyType,
    /// Lifetime of new authorities, in seconds.
    pub ttl: i64,
    /// Subject of new X.509 authorities.
    pub subject: Subject,
    /// Trust domain name.
    pub trust_domain: TrustDomain,
    /// Whether there are authorities for JWT-SVIDs.
    pub jwt_enabled: bool,
}

/// Drives authorities on this node.
pub struct Driver {
    doors: Doors,
    members: Members,
    custody: Custody,
    making: Making,
}

/// A step did not succeed; it is planned again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error("the change was not written: {0}")]
    Write(#[from] crate::cluster::ProposeError),
    #[error("another node was first: {0:?}")]
    Refused(Refusal),
    #[error("the authority's record has no whole key id")]
    NoKeyId,
    #[error("the token's key is not the one that is recorded for the authority")]
    OtherKey,
    #[error("the token's signature does not verify with the recorded key")]
    BadSignature,
    #[error("no intermediate of it could be certified")]
    Intermediate(#[source] NotCertified),
    #[error("the new certificate cannot be made")]
    Certificate(#[from] IssueError),
}

impl Driver {
    /// A driver of this node's authorities.
    pub fn new(doors: Doors, members: Members, custody: Custody, making: Making) -> Self {
        Self {
            doors,
            members,
            custody,
            making,
        }
    }

    /// Plans and acts, on every change of an authority and twice a second. Has no end.
    pub async fn run(self) {
        let mut feed = self.doors.registry().subscribe();
        let started = self.doors.consensus().clock().boottime();
        let mut scope = (self.scope(), started);
        let (mut told, mut warned) = (String::new(), String::new());
        loop {
            if scope.0 != self.scope() {
                scope = (self.scope(), self.doors.consensus().clock().boottime());
            }
            let scene = self.scene(started, scope.1).await;
            let overdue: Vec<_> = KINDS.iter().filter_map(|k| measure(&scene, *k)).collect();
            let warning = overdue.join("; ");
            if warning != warned && !warning.is_empty() {
                tracing::warn!("{warning}");
            }
            warned = warning;

            let mut problems = Vec::new();
            let usable = self.custody.signer().health().usable;
            for step in plan::plan(&scene) {
                // A key that cannot be made here would keep other nodes from making it.
                if !usable && matches!(step, Step::Begin { .. }) {
                    continue;
                }
                let Err(error) = self.act(&step).await else {
                    continue;
                };
                problems.push(format!("{step:?}: {}", crate::app::chain(&error)));
                // Without a leader the others would only wait as long.
                if matches!(error, StepError::Write(_)) {
                    break;
                }
            }
            // The same problem twice a second would hide every other line.
            let problem = problems.join("; ");
            if problem != told && !problem.is_empty() {
                tracing::warn!(problem, "an authority cannot be brought forward; trying on");
            }
            told = problem;
            let interval = if usable {
                INTERVAL
            } else {
                INTERVAL_WITHOUT_KEYS
            };
            // Running out of time is the other reason to look again.
            let _ = tokio::time::timeout(interval, change(&mut feed, plan_may_differ)).await;
        }
    }

    /// Ids of own authorities whose key is gone for good: it was made in another backend or
    /// token, or is not where a backend of one node has its keys. A token that is away, or shows
    /// a key at one time and not at another, says nothing of that.
    async fn lost(&self, authorities: &[Authority]) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        let signer = self.custody.signer();
        let serials = signer.token_serials();
        let me = self.doors.consensus().me();
        for authority in authorities.iter().filter(|a| a.node_id == me) {
            let Some(key) = key_ref(authority) else {
                continue;
            };
            let elsewhere = authority.backend != signer.kind().as_str()
                || !serials.is_empty()
                    && !serials.iter().any(|s| authority.token_serials.contains(s));
            let gone = elsewhere
                || !self.custody.has_token()
                    && matches!(
                        signer.public_key(&key).await,
                        Err(SignerError::NotFound { .. })
                    );
            if gone {
                lost.insert(authority.id.clone());
            }
        }
        lost
    }

    fn scope(&self) -> AuthorityScope {
        self.doors.local().cluster().authority_scope()
    }

    async fn scene(&self, started: Duration, moved: Duration) -> Scene {
        let authorities: Vec<Authority> = {
            let directory = self.doors.local();
            let all = KINDS.iter().flat_map(|k| directory.authorities(*k));
            all.map(|a| (*a).clone()).collect()
        };
        let lost = self.lost(&authorities).await;
        let consensus = self.doors.consensus();
        let me = consensus.me();
        let clock = consensus.clock();
        let now = clock.now_unix_ms().div_euclid(1000);
        let directory = self.doors.local();
        let mode = self.custody.mode(directory.cluster());
        let can_sign = |a: &&Authority| self.custody.can_sign(a, mode, now);
        let usable = authorities.iter().filter(can_sign);
        let usable = usable.map(|a| a.id.clone()).collect();
        let mut seen = self.members.seen_ago();
        seen.retain(|id, _| directory.member(*id).is_some());
        let slots = KINDS.map(|kind| [None, Some(me)].map(|node| plan::slot(kind, node)));
        Scene {
            me,
            leader: consensus.is_leader(),
            scope: directory.cluster().authority_scope(),
            token: self.custody.has_token(),
            tokenless: self
                .members
                .without_token(self.custody.signer().kind().as_str()),
            without_jwt: !self.making.jwt_enabled,
            prunes: directory.cluster().feature_level >= PruneAuthorities::FEATURE_LEVEL,
            now,
            up_for: whole_seconds(clock.boottime().saturating_sub(started)),
            scope_for: whole_seconds(clock.boottime().saturating_sub(moved)),
            authorities,
            lost,
            intents: slots
                .iter()
                .flatten()
                .filter_map(|slot| directory.intent(slot).cloned())
                .collect(),
            seen: seen
                .into_iter()
                .map(|(id, ago)| (id, whole_seconds(ago)))
                .collect(),
            usable,
        }
    }

    async fn write(&self, command: Command) -> Result<(), StepError> {
        self.doors
            .propose(command)
            .await?
            .accepted()
            .map(drop)
            .map_err(StepError::Refused)
    }

    async fn act(&self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Begin { slot, epoch, .. } => self.begin(slot, *epoch).await,
            Step::Abandon { slot, epoch } => {
                self.write(Command::AbandonKey(AbandonKey {
                    slot: slot.clone(),
                    epoch: *epoch,
                }))
                .await
            }
            Step::Make { kind, intent } => {
                let watch = Stopwatch::start();
                let made = self.make(*kind, intent).await;
                crate::telemetry::spire::prepared(is_jwt(*kind), made.is_ok(), watch.elapsed());
                if let Err(error) = &made {
                    let why = crate::app::chain(error);
                    self.custody
                        .set_making_failed(&intent.slot, intent.epoch, why);
                }
                made
            }
            Step::Prove { kind, id } => self.prove(*kind, id).await,
            Step::Activate { kind, id } => {
                let name = AuthorityName {
                    kind: (*kind).into(),
                    id: id.clone(),
                };
                self.write(Command::ActivateAuthority(name)).await?;
                let authorities = self.doors.local().authorities(*kind);
                if let Some(authority) = authorities.iter().find(|a| a.id == *id) {
                    log_activated(authority);
                }
                Ok(())
            }
            Step::Retire { kind, ids } => {
                let command = RetireAuthorities {
                    kind: (*kind).into(),
                    ids: ids.clone(),
                };
                self.write(Command::RetireAuthorities(command)).await?;
                tracing::info!(
                    kind = if is_jwt(*kind) { "jwt" } else { "x509" },
                    retired = ?ids,
                    "authorities outside of the scope sign no more: others have taken over"
                );
                Ok(())
            }
            Step::Prune { authorities } => self.prune(authorities).await,
        }
    }

    /// The keys stay in the token, and the log names them: a cluster whose clocks were wrong,
    /// or that is restored, may need one again.
    async fn prune(&self, authorities: &[AuthorityName]) -> Result<(), StepError> {
        let before = KINDS.map(|kind| self.doors.local().authorities(kind));
        let command = Command::PruneAuthorities(PruneAuthorities {
            authorities: authorities.to_vec(),
        });
        let outcome = self.doors.propose(command).await?;
        let outcome = outcome.accepted().map_err(StepError::Refused)?;
        outcome.pruned.iter().for_each(pruned_authority);
        crate::telemetry::spire::pruned(outcome.pruned.len());
        let after = KINDS.map(|kind| self.doors.local().authorities(kind));
        let is_left = |gone: &Authority| {
            let mut left = after.iter().flatten();
            left.any(|a| a.kind == gone.kind && a.id == gone.id)
        };
        for authority in before.iter().flatten().filter(|a| !is_left(a)) {
            tracing::info!(
                local_authority_id = %authority.id,
                slot = authority.slot,
                key_id = hex::encode(&authority.key_id),
                key_label = authority.key_label,
                "an authority that ended long ago is forgotten; its key stays where it is"
            );
        }
        Ok(())
    }

    async fn begin(&self, slot: &str, epoch: u64) -> Result<(), StepError> {
        self.write(begin_key(self.doors.consensus(), slot, epoch))
            .await
    }

    /// Generates under the name that the log already has, or finds what an
    /// interrupted try left; proves it by the signatures over certificate or trial; records it.
    async fn make(&self, kind: AuthorityKind, intent: &KeyIntent) -> Result<(), StepError> {
        let signer = self.custody.signer();
        let id: [u8; KeyId::BYTES] = intent
            .key_id
            .as_slice()
            .try_into()
            .map_err(|_| StepError::NoKeyId)?;
        let key = KeyRef {
            id: KeyId::new(id),
            label: intent.key_label.clone(),
        };
        let spec = KeySpec {
            key: key.clone(),
            key_type: self.making.key_type,
        };
        let public = match signer.generate(&spec).await {
            Err(SignerError::AlreadyExists { .. }) => signer.public_key(&key).await?,
            generated => generated?,
        };
        self.try_key(&key, &public).await?;
        let now = self
            .doors
            .consensus()
            .clock()
            .now_unix_ms()
            .div_euclid(1000);
        let mut authority = Authority {
            kind: kind.into(),
            slot: intent.slot.clone(),
            epoch: intent.epoch,
            key_id: intent.key_id.clone(),
            key_label: intent.key_label.clone(),
            key_type: public.key_type.as_str().into(),
            backend: signer.kind().as_str().into(),
            token_serials: signer.token_serials(),
            node_id: if KeyIntent::is_of_one_node(&intent.slot) {
                self.doors.consensus().me()
            } else {
                0
            },
            public_key: public.spki_der.clone(),
            issued_at: now,
            expires_at: now + self.making.ttl,
            ..Authority::default()
        };
        match kind {
            AuthorityKind::Jwt => authority.id = random_key_id(),
            AuthorityKind::X509 | AuthorityKind::Unspecified => {
                let made = self.certificate(&key, &public).await?;
                authority.id = made.authority_id;
                authority.issued_at = made.facts.not_before;
                authority.expires_at = made.facts.not_after;
                authority.certificate = made.certificate_der;
            }
        }
        self.write(Command::RecordAuthority(RecordAuthority {
            authority: Some(authority.clone()),
        }))
        .await?;
        self.custody.set_usable(&authority.id, true);
        log_prepared(&authority);
        Ok(())
    }

    /// The self-signed certificate of a new X.509 authority.
    async fn certificate(
        &self,
        key: &KeyRef,
        public: &PublicKeyInfo,
    ) -> Result<IssuedCertificate, StepError> {
        let id = SpiffeId::of_trust_domain(&self.making.trust_domain);
        let public_key =
            PublicKey::from_spki_der(&public.spki_der).map_err(IssueError::AuthorityKey)?;
        let request = CertificateRequest {
            profile: Profile::SelfSignedCa,
            id: &id,
            public_key: &public_key,
            subject: self.making.subject.clone(),
            ttl_seconds: self.making.ttl,
        };
        let draw = Draw::new(&**self.doors.consensus().clock());
        let prepared = prepare_self_signed(key.clone(), request, &draw)?;
        Ok(prepared.sign(&**self.custody.signer()).await?)
    }

    async fn prove(&self, kind: AuthorityKind, id: &str) -> Result<(), StepError> {
        let me = self.doors.consensus().me();
        let authorities = self.doors.local().authorities(kind);
        let Some(authority) = authorities.iter().find(|a| a.id == id) else {
            return Ok(());
        };
        if !self.custody.asks_others(authority) {
            let key = key_ref(authority).ok_or(StepError::NoKeyId)?;
            let public = self.custody.signer().public_key(&key).await?;
            if public.spki_der != authority.public_key {
                return Err(StepError::OtherKey);
            }
            self.try_key(&key, &public).await?;
            self.custody.set_usable(id, true);
        }
        // What is to be shown is what will sign: an intermediate where intermediates do.
        let mode = self.custody.mode(self.doors.local().cluster());
        let now = self
            .doors
            .consensus()
            .clock()
            .now_unix_ms()
            .div_euclid(1000);
        if !self.custody.can_sign(authority, mode, now) {
            self.custody
                .intermediates()
                .certify(&self.custody, &self.doors, authority)
                .await
                .map_err(StepError::Intermediate)?;
        }
        if !authority.proved_by.contains(&me) {
            let name = AuthorityName {
                kind: kind.into(),
                id: id.to_owned(),
            };
            self.write(Command::ProveAuthority(ProveAuthority {
                authority: Some(name),
                node_id: me,
                with_intermediate: self.custody.intermediates().of(id, now).is_some(),
            }))
            .await?;
        }
        Ok(())
    }

    async fn try_key(&self, key: &KeyRef, public: &PublicKeyInfo) -> Result<(), StepError> {
        let algorithm = public.key_type.algorithm();
        let message = random::<TRIAL_BYTES>();
        let signature = self.custody.signer().sign(key, algorithm, &message).await?;
        if chancery_hsm::verify(&public.spki_der, algorithm, &message, &signature) {
            Ok(())
        } else {
            Err(StepError::BadSignature)
        }
    }
}

/// Measures the authority of a kind that signs here, and says what is wrong if another one
/// should have taken over from it.
fn measure(scene: &Scene, kind: AuthorityKind) -> Option<String> {
    let name = if is_jwt(kind) { "jwt" } else { "x509" };
    let left = plan::signs_until(scene, kind).map(|end| end.saturating_sub(scene.now));
    let overdue = plan::overdue(scene, kind);
    crate::telemetry::authority(name, left.unwrap_or(0), overdue.is_some());
    let Overdue {
        id,
        expires_at,
        missing,
    } = overdue?;
    let why = match missing {
        Missing::Successor => "the key of the next one could not be made".to_owned(),
        Missing::Proofs(by) => {
            let nodes: Vec<_> = by.iter().map(u64::to_string).collect();
            format!(
                "the next one's key has not signed on node {}",
                nodes.join(", ")
            )
        }
    };
    let end = rfc3339(expires_at);
    Some(format!(
        "{name} authority {id} ends at {end} and no other one can take over: {why}"
    ))
}

fn is_jwt(kind: AuthorityKind) -> bool {
    kind == AuthorityKind::Jwt
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// The command that announces a key which this node will make.
pub(super) fn begin_key(consensus: &Consensus, slot: &str, epoch: u64) -> Command {
    Command::BeginKey(BeginKey {
        slot: slot.to_owned(),
        epoch,
        node_id: consensus.me(),
        key_id: random::<{ KeyId::BYTES }>().to_vec(),
        key_label: format!("chancery/{}/{slot}/{epoch}", consensus.cluster_id()),
    })
}

/// SPIRE's message and fields: operators search for them.
fn log_prepared(authority: &Authority) {
    let (slot, id) = (&authority.slot, &authority.id);
    let issued_at = rfc3339(authority.issued_at);
    let expiration = rfc3339(authority.expires_at);
    if authority.kind() == AuthorityKind::Jwt {
        tracing::info!(slot, issued_at, expiration, local_authority_id = %id, "JWT key prepared");
    } else {
        tracing::info!(slot, issued_at, expiration, self_signed = true, local_authority_id = %id, "X509 CA prepared");
    }
}

/// The same for an authority that signs from now on.
pub(super) fn log_activated(authority: &Authority) {
    let (slot, id) = (&authority.slot, &authority.id);
    let issued_at = rfc3339(authority.issued_at);
    let expiration = rfc3339(authority.expires_at);
    crate::telemetry::spire::activated(is_jwt(authority.kind()));
    if is_jwt(authority.kind()) {
        tracing::info!(slot, issued_at, expiration, local_authority_id = %id, "JWT key activated");
    } else {
        tracing::info!(slot, issued_at, expiration, local_authority_id = %id, "X509 CA activated");
    }
}

/// A key id as SPIRE's: 32 characters of the alphanumeric alphabet.
fn random_key_id() -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // 64 bits a character leave no bias that anybody could measure.
    (0..32)
        .map(|_| char::from(ALPHABET[(u64::from_be_bytes(random()) % 62) as usize]))
        .collect()
}

/// Whether a plan may depend on a change.
fn plan_may_differ(kind: &ChangeKind) -> bool {
    matches!(
        kind,
        ChangeKind::AuthoritySet(_)
            | ChangeKind::AuthorityRemoved(_)
            | ChangeKind::IntentChanged(_)
            | ChangeKind::IssuanceModeSet
            | ChangeKind::AuthorityScopeSet
            | ChangeKind::MemberSet(_)
    )
}

/// Records which authority issued the server SVID that this node serves; whether it
/// is recorded.
pub(super) async fn record_server_svid(doors: &Doors, authority_id: &str) -> bool {
    let command = RecordServerSvid {
        node_id: doors.consensus().me(),
        authority_id: authority_id.to_owned(),
    };
    match doors.propose(Command::RecordServerSvid(command)).await {
        Ok(outcome) => outcome.accepted().is_ok(),
        Err(error) => {
            tracing::debug!(%error, "the server SVID's issuer is not recorded yet");
            false
        }
    }
}
