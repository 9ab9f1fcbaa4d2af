//! Signs with the authority that is active on this node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chancery_hsm::{BackendKind, SignerError};
use chancery_identity::bundle::Bundle;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::PublicKey;
use chancery_identity::x509_svid::Profile;
use chancery_raft_store::model::{Authority, AuthorityKind, Entry, IssuanceMode};
use tonic::Status;
use tonic::metadata::MetadataValue;
use zeroize::Zeroizing;

use super::intermediate::NotCertified;
use super::own_bundle::OwnBundle;
use super::server_svid::ServerSvid;
use super::source::Source;
use super::{Custody, key_ref, plan};
use crate::environment::Stopwatch;
use crate::issue::{
    BACKDATE_SECONDS, CertificateRequest, Draw, IssueError, JwtAuthority, Subject, TokenRequest,
    X509Authority, prepare_certificate, prepare_token,
};
use crate::registry::Doors;

/// Time for agents to learn of a new authority when the SVID that is served must be replaced, because its issuer is tainted:
/// one round and what it may be late.
const LEARNING_SECONDS_TAINTED: i64 = 8;

/// Lifetimes of documents, in seconds, unless an entry or a request says otherwise, and
/// which documents there are.
#[derive(Clone, Debug)]
pub struct Lifetimes {
    /// Agents' SVIDs.
    pub agent: i64,
    /// Workloads' X.509-SVIDs.
    pub x509: i64,
    /// JWT-SVIDs.
    pub jwt: i64,
    /// The server's SVID.
    pub server: i64,
    /// CA certificates of downstream servers.
    pub ca: i64,
    /// `iss` claim of JWT-SVIDs.
    pub jwt_issuer: Option<String>,
    /// Whether there are JWT-SVIDs at all.
    pub jwt_enabled: bool,
}

/// An X.509-SVID that somebody decides on without an entry.
#[derive(Debug)]
pub struct Mint<'a> {
    /// Whose; a workload's.
    pub id: &'a SpiffeId,
    /// Key whose possession was proved.
    pub public_key: &'a PublicKey,
    /// Valid, and none covered by another.
    pub dns_names: Vec<String>,
    /// The subject; empty for the usual one.
    pub subject: Subject,
    /// Seconds; 0 or less for the usual.
    pub ttl: i32,
}

/// A signed X.509-SVID, or a signed CA certificate.
#[derive(Clone, Debug)]
pub struct X509Svid {
    /// Whose.
    pub id: SpiffeId,
    /// DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// Decimal.
    pub serial: String,
    /// Authority of the cluster that signed it, or its issuer.
    pub authority_id: String,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
}

/// A signed JWT-SVID.
#[derive(Clone, Debug)]
pub struct JwtSvid {
    /// Whose.
    pub id: SpiffeId,
    /// Compact form.
    pub token: String,
    /// Authority that signed it.
    pub authority_id: String,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
}

/// Why no document was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueFailed {
    /// No authority of that kind signs on this node now.
    #[error("no {0} authority can sign on this node now")]
    NoAuthority(&'static str),
    /// The room of issuing refused or failed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Intermediates sign, and this node holds none and got none.
    #[error("this node holds no intermediate to sign with and got none")]
    NoIntermediate(#[source] NotCertified),
    /// A stored id or server key is not what it must be.
    #[error("{0}")]
    Profile(String),
}

impl From<IssueFailed> for Status {
    /// What another node may be able to do is UNAVAILABLE, so that agents move on;
    /// our own mistakes are internal and logged, never told in detail.
    fn from(failed: IssueFailed) -> Self {
        match &failed {
            IssueFailed::NoAuthority(_) => Self::unavailable(format!("{failed}; try another node")),
            IssueFailed::NoIntermediate(NotCertified {
                retry_after: Some(retry_after),
                ..
            }) => busy(*retry_after),
            IssueFailed::NoIntermediate(_) => {
                // Why not is for the operator: it may name tokens, files and modules.
                tracing::warn!(error = %crate::app::chain(&failed), "no intermediate to sign with");
                Self::unavailable("this node holds no intermediate to sign with; try another node")
            }
            IssueFailed::Issue(IssueError::Signer(error)) => match error {
                SignerError::Busy { retry_after } => busy(*retry_after),
                _ => {
                    tracing::warn!(error = %crate::app::chain(&failed), "signing failed");
                    Self::unavailable(
                        "the signing key cannot be used on this node now; try another node",
                    )
                }
            },
            IssueFailed::Issue(
                IssueError::AuthorityExpired { .. } | IssueError::AuthorityNotYetValid { .. },
            ) => Self::unavailable(format!("{}; try another node", crate::app::chain(&failed))),
            IssueFailed::Issue(error) if !error.is_our_mistake() => {
                Self::invalid_argument(crate::app::chain(error))
            }
            IssueFailed::Issue(_) | IssueFailed::Profile(_) => {
                tracing::error!(error = %crate::app::chain(&failed), "a document was not issued");
                Self::internal("the document could not be issued")
            }
        }
    }
}

/// The queue of the signer is full. Clients that retry by gRPC's rules (gRFC A6) obey the trailer.
fn busy(retry_after: Duration) -> Status {
    let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    let mut status = Status::resource_exhausted(format!(
        "the signer is busy; try again in {ms} ms, or another node now"
    ));
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", MetadataValue::from(ms));
    status
}

/// Signs with the authority that is active on this node. Cheap to clone.
#[derive(Clone)]
pub struct Issuer {
    inner: Arc<Inner>,
}

struct Inner {
    doors: Doors,
    custody: Custody,
    lifetimes: Lifetimes,
    trust_domain: TrustDomain,
    server_svid: ServerSvid,
    x509: Mutex<Option<Arc<X509Authority>>>,
    jwt: Mutex<Option<Arc<JwtAuthority>>>,
    bundle: OwnBundle,
}

impl Issuer {
    /// An issuer of this node.
    pub fn new(
        doors: Doors,
        custody: Custody,
        lifetimes: Lifetimes,
        trust_domain: TrustDomain,
        server_svid: ServerSvid,
    ) -> Self {
        let inner = Inner {
            doors,
            custody,
            lifetimes,
            trust_domain,
            server_svid,
            x509: Mutex::default(),
            jwt: Mutex::default(),
            bundle: OwnBundle::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Trust domain of everything it issues.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.inner.trust_domain
    }

    /// Where this node's keys are.
    pub fn key_backend(&self) -> BackendKind {
        self.inner.custody.signer().kind()
    }

    pub(super) fn doors(&self) -> &Doors {
        &self.inner.doors
    }

    pub(super) fn custody(&self) -> &Custody {
        &self.inner.custody
    }

    pub(super) fn now(&self) -> i64 {
        self.inner
            .doors
            .consensus()
            .clock()
            .now_unix_ms()
            .div_euclid(1000)
    }

    pub(super) fn signing(&self, kind: AuthorityKind) -> Option<Arc<Authority>> {
        let me = self.inner.doors.consensus().me();
        let directory = self.inner.doors.local();
        let authorities = directory.authorities(kind);
        let shared = self.inner.custody.shares(directory.cluster());
        drop(directory);
        self.inner
            .custody
            .signing(&authorities, shared, me, self.now())
    }

    /// Waits until another authority has been seen to sign here. For one who waits.
    pub(super) async fn another_usable(&self) {
        self.inner.custody.another_usable().await;
    }

    /// Seconds until agents can be expected to know the authority that signs on this
    /// node; zero where no agent is there to meet it. `served` is the issuer of the
    /// server SVID that is shown until then.
    ///
    /// A stock agent that meets an unknown root exits, and it asks for the bundle every
    /// five seconds.
    pub(super) fn seconds_unknown_to_agents(&self, served: Option<&str>) -> i64 {
        let Some(signing) = self.signing_record() else {
            return 0;
        };
        // Renewed, it is nothing new to them.
        if served == Some(signing.id.as_str()) {
            return 0;
        }
        let directory = self.inner.doors.local();
        if directory.agent_count() == 0 {
            return 0;
        }
        let authorities = directory.authorities(AuthorityKind::X509);
        let tainted = authorities
            .iter()
            .any(|a| a.tainted && served == Some(a.id.as_str()));
        drop(directory);
        let learning = if tainted {
            LEARNING_SECONDS_TAINTED
        } else {
            plan::LEARNING
        };
        (signing.issued_at + BACKDATE_SECONDS + learning - self.now()).max(0)
    }

    /// The authority that signs, as an issuer by itself.
    pub(super) fn authority_source(&self) -> Result<Source, IssueFailed> {
        let authority = self.x509_authority()?;
        Ok(Source::direct(authority, self.inner.custody.signer()))
    }

    /// The parsed form of the record, made once for each authority.
    fn x509_authority(&self) -> Result<Arc<X509Authority>, IssueFailed> {
        let record = self
            .signing(AuthorityKind::X509)
            .ok_or(IssueFailed::NoAuthority("X.509"))?;
        let mut held = self
            .inner
            .x509
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(authority) = held.as_ref().filter(|a| a.id() == record.id) {
            return Ok(Arc::clone(authority));
        }
        let key = key_ref(&record)
            .ok_or_else(|| IssueFailed::Profile("authority without a key id".into()))?;
        let made = X509Authority::new(
            &self.inner.trust_domain,
            key,
            record.certificate.clone(),
            Vec::new(),
        )?;
        let authority = Arc::new(made);
        *held = Some(Arc::clone(&authority));
        Ok(authority)
    }

    fn jwt_authority(&self) -> Result<Arc<JwtAuthority>, IssueFailed> {
        let record = self
            .signing(AuthorityKind::Jwt)
            .ok_or(IssueFailed::NoAuthority("JWT"))?;
        let mut held = self
            .inner
            .jwt
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(authority) = held.as_ref().filter(|a| a.kid() == record.id) {
            return Ok(Arc::clone(authority));
        }
        let key = key_ref(&record)
            .ok_or_else(|| IssueFailed::Profile("authority without a key id".into()))?;
        let authority = Arc::new(JwtAuthority::new(
            record.id.clone(),
            key,
            &record.public_key,
            record.expires_at,
        )?);
        *held = Some(Arc::clone(&authority));
        Ok(authority)
    }

    fn id(&self, path: &str) -> Result<SpiffeId, IssueFailed> {
        // Checked when it was stored; a stored path that is none is a defect.
        SpiffeId::new(&self.inner.trust_domain, path)
            .map_err(|e| IssueFailed::Profile(e.to_string()))
    }

    async fn svid(
        &self,
        profile: Profile,
        id: &SpiffeId,
        key: &PublicKey,
        ttl_seconds: i64,
    ) -> Result<X509Svid, IssueFailed> {
        let request = CertificateRequest {
            profile,
            id,
            public_key: key,
            subject: Subject::of_svids(),
            ttl_seconds,
        };
        self.certificate(&self.svid_source().await?, request).await
    }

    async fn certificate(
        &self,
        source: &Source,
        request: CertificateRequest<'_>,
    ) -> Result<X509Svid, IssueFailed> {
        let watch = Stopwatch::start();
        let kind = if request.profile.is_ca() {
            "x509_ca"
        } else {
            "x509"
        };
        let draw = Draw::new(&**self.inner.doors.consensus().clock());
        let prepared = prepare_certificate(&source.authority, request, &draw)?;
        let signer = source.signer();
        let issued = prepared.sign(signer).await;
        crate::telemetry::signature(
            kind,
            &source.authority_id,
            signer.kind().as_str(),
            issued.is_ok(),
            watch.elapsed(),
        );
        let issued = issued?;
        let svid = X509Svid {
            id: issued.facts.id,
            serial: issued.facts.serial.to_string(),
            issued_at: issued.facts.not_before,
            expires_at: issued.facts.not_after,
            chain: issued.chain,
            authority_id: source.authority_id.clone(),
        };
        Ok(svid)
    }

    /// Signs a workload's X.509-SVID as its entry says.
    pub async fn workload_x509(
        &self,
        entry: &Entry,
        key: &PublicKey,
    ) -> Result<X509Svid, IssueFailed> {
        let id = self.id(&entry.spiffe_path)?;
        let ttl = asked(entry.x509_svid_ttl, self.inner.lifetimes.x509);
        let profile = Profile::Workload {
            dns_names: entry.dns_names.clone(),
        };
        self.svid(profile, &id, key, ttl).await
    }

    /// Signs a workload's X.509-SVID as an administrator says.
    pub async fn mint_x509(&self, mint: Mint<'_>) -> Result<X509Svid, IssueFailed> {
        let subject = if mint.subject.is_empty() {
            Subject::of_svids()
        } else {
            mint.subject
        };
        let request = CertificateRequest {
            profile: Profile::Workload {
                dns_names: mint.dns_names,
            },
            id: mint.id,
            public_key: mint.public_key,
            subject,
            ttl_seconds: asked(mint.ttl, self.inner.lifetimes.x509),
        };
        self.certificate(&self.svid_source().await?, request).await
    }

    /// Signs a CA certificate for a downstream server, in the name of the trust domain.
    /// It must be recorded before it leaves.
    pub async fn downstream_ca(
        &self,
        key: &PublicKey,
        preferred_ttl: i32,
    ) -> Result<X509Svid, IssueFailed> {
        let source = self.authority_source()?;
        let request = CertificateRequest {
            profile: Profile::DownstreamCa,
            id: &SpiffeId::of_trust_domain(&self.inner.trust_domain),
            public_key: key,
            subject: source.authority.downstream_subject()?,
            ttl_seconds: asked(preferred_ttl, self.inner.lifetimes.ca),
        };
        self.certificate(&source, request).await
    }

    /// Signs an agent's SVID.
    pub async fn agent_x509(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
    ) -> Result<X509Svid, IssueFailed> {
        self.svid(Profile::Agent, id, key, self.inner.lifetimes.agent)
            .await
    }

    /// Makes a key and signs this server's own SVID: the SVID and the PKCS#8 DER of the key.
    pub(super) async fn server_x509(&self) -> Result<(X509Svid, Zeroizing<Vec<u8>>), IssueFailed> {
        let bad = |e: &dyn std::fmt::Display| IssueFailed::Profile(format!("server key: {e}"));
        let pair =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| bad(&e))?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let key = PublicKey::from_spki_der(&spki).map_err(|e| bad(&e))?;
        let id = SpiffeId::server(&self.inner.trust_domain);
        let svid = self
            .svid(Profile::Server, &id, &key, self.inner.lifetimes.server)
            .await?;
        Ok((svid, Zeroizing::new(pair.serialize_der())))
    }

    /// Whether this server issues JWT-SVIDs at all.
    pub fn jwt_enabled(&self) -> bool {
        self.inner.lifetimes.jwt_enabled
    }

    /// Signs a workload's JWT-SVID as its entry says.
    pub async fn jwt(&self, entry: &Entry, audience: &[String]) -> Result<JwtSvid, IssueFailed> {
        let id = self.id(&entry.spiffe_path)?;
        self.token(
            &id,
            audience,
            entry.jwt_svid_ttl,
            entry.jwt_svid_include_jti,
        )
        .await
    }

    /// Signs a workload's JWT-SVID as an administrator says; never with a `jti`.
    pub async fn mint_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: i32,
    ) -> Result<JwtSvid, IssueFailed> {
        self.token(id, audience, ttl, false).await
    }

    async fn token(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: i32,
        with_jwt_id: bool,
    ) -> Result<JwtSvid, IssueFailed> {
        let watch = Stopwatch::start();
        let authority = self.jwt_authority()?;
        let request = TokenRequest {
            id,
            audience: audience.to_vec(),
            ttl_seconds: asked(ttl, self.inner.lifetimes.jwt),
            issuer: self.inner.lifetimes.jwt_issuer.clone(),
            with_jwt_id,
        };
        let draw = Draw::new(&**self.inner.doors.consensus().clock());
        let prepared = prepare_token(&authority, request, &draw)?;
        let signer = self.inner.custody.signer();
        let issued = prepared.sign(&**signer).await;
        crate::telemetry::signature(
            "jwt",
            authority.kid(),
            signer.kind().as_str(),
            issued.is_ok(),
            watch.elapsed(),
        );
        let issued = issued?;
        Ok(JwtSvid {
            id: id.clone(),
            issued_at: issued.claims.issued_at(),
            expires_at: issued.claims.expires_at(),
            token: issued.token,
            authority_id: issued.kid,
        })
    }

    /// The own trust bundle, as this node's state has it: the cluster's authorities and
    /// those that were appended or published, in the order they came.
    pub fn bundle(&self) -> Arc<Bundle> {
        let directory = self.inner.doors.local();
        self.inner.bundle.of(&self.inner.trust_domain, &directory)
    }

    /// When the X.509 authority that SVIDs of this node lead to ends, Unix seconds.
    pub fn x509_authority_expires_at(&self) -> Option<i64> {
        Some(self.signing_record()?.expires_at)
    }

    /// What issuing on this node ends with by itself, and seconds until then; 0 once it has.
    /// A server SVID counts where the authority itself must renew it: an intermediate that
    /// lives does that without anybody.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        let now = self.now();
        let left = |end: Option<i64>| {
            let left = end.map(|end| end - now);
            left.and_then(|left| u64::try_from(left).ok()).unwrap_or(0)
        };
        if self.mode() == IssuanceMode::Intermediate {
            let held = self.inner.custody.signing_intermediate(&self.inner.doors);
            return vec![("intermediate", left(held.map(|held| held.not_after())))];
        }
        let authority = self.signing(AuthorityKind::X509).map(|a| a.expires_at);
        let server_svid = self.inner.server_svid.not_after();
        vec![
            ("authority", left(authority)),
            ("server_svid", left(server_svid)),
        ]
    }
}

/// A lifetime that was asked for in seconds, or the usual one: nobody asks for none.
fn asked(ttl: i32, usual: i64) -> i64 {
    if ttl > 0 { i64::from(ttl) } else { usual }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_when_to_come_back_in_words_and_for_clients_that_retry() {
        let busy = SignerError::Busy {
            retry_after: Duration::from_millis(40),
        };
        let met_by_intermediate = IssueFailed::NoIntermediate(NotCertified {
            why: "the queue is full".to_owned(),
            retry_after: Some(Duration::from_millis(40)),
        });
        for failed in [
            IssueFailed::Issue(IssueError::Signer(busy)),
            met_by_intermediate,
        ] {
            let status = Status::from(failed);
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            assert!(status.message().contains("40 ms"), "{}", status.message());
            let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
            assert_eq!(pushback, "40");
        }
    }

    #[test]
    fn a_lifetime_of_zero_or_less_is_the_usual_one() {
        assert_eq!([1, 0, -1, i32::MIN].map(|ttl| asked(ttl, 7)), [1, 7, 7, 7]);
    }
}
