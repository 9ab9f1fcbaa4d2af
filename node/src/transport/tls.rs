//! TLS of the agent port, read anew at every handshake.
//!
//! Promises: TLS 1.2 at least, HTTP/2 only, no resumption of any kind (a
//! resumed session would skip the check of the client's chain), the server
//! SVID and the bundles of the moment. A certificate is asked for, not
//! required; one that is presented verifies or the handshake fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::x509_svid::{Purpose, VerifyError, read_svid, verify_chain};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme, version,
};
use tokio::sync::watch;

use crate::environment::{Clock, TlsClock};

/// The one application protocol.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// Why a certificate and a key are no server identity.
#[derive(Debug, thiserror::Error)]
pub enum ServerIdentityError {
    /// The key is of a type that TLS cannot sign with.
    #[error("the key is not usable for TLS")]
    Key(#[source] rustls::Error),
    /// The certificate is not the key's.
    #[error("certificate and key do not belong together")]
    Mismatch(#[source] rustls::Error),
}

/// The certificate that this node shows, with its key.
#[derive(Clone)]
pub struct ServerIdentity(Arc<CertifiedKey>);

impl ServerIdentity {
    /// Chain, leaf first and without the root, and the leaf's private key.
    ///
    /// # Errors
    /// [`ServerIdentityError`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, ServerIdentityError> {
        let key = aws_lc_rs::sign::any_supported_type(key).map_err(ServerIdentityError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified
            .keys_match()
            .map_err(ServerIdentityError::Mismatch)?;
        Ok(Self(Arc::new(certified)))
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").finish_non_exhaustive()
    }
}

/// What handshakes read: the server's identity and the trust bundles. Owned by
/// the composition root, fed by whoever issues and whoever watches bundles.
#[derive(Debug)]
pub struct TlsState {
    trust_domain: TrustDomain,
    admins: BTreeSet<SpiffeId>,
    identity: watch::Sender<Option<ServerIdentity>>,
    roots: ArcSwap<BTreeMap<TrustDomain, Vec<Vec<u8>>>>,
}

impl TlsState {
    /// No identity and no roots yet. `admins` are the IDs of other trust
    /// domains that may connect once their bundle is known; those of the own
    /// trust domain need no mention.
    pub fn new(trust_domain: TrustDomain, admins: impl IntoIterator<Item = SpiffeId>) -> Arc<Self> {
        Arc::new(Self {
            trust_domain,
            admins: admins.into_iter().collect(),
            identity: watch::Sender::new(None),
            roots: ArcSwap::default(),
        })
    }

    /// From the next handshake on this node shows `identity`; with `None` the
    /// agent port closes.
    pub fn set_identity(&self, identity: Option<ServerIdentity>) {
        self.identity.send_replace(identity);
    }

    /// Whether there is an identity to show.
    pub fn has_identity(&self) -> bool {
        self.identity.borrow().is_some()
    }

    /// From the next handshake on certificates of `trust_domain` are verified
    /// with `roots` (DER); an empty list refuses them all.
    pub fn set_roots(&self, trust_domain: &TrustDomain, roots: Vec<Vec<u8>>) {
        self.roots.rcu(|current| {
            let mut next = BTreeMap::clone(current);
            next.insert(trust_domain.clone(), roots.clone());
            next
        });
    }

    /// From the next handshake on certificates of `trust_domain` are refused.
    pub fn remove_roots(&self, trust_domain: &TrustDomain) {
        self.roots.rcu(|current| {
            let mut next = BTreeMap::clone(current);
            next.remove(trust_domain);
            next
        });
    }

    /// The other trust domains that an administrator is of: whose roots are wanted.
    pub fn foreign_trust_domains(&self) -> BTreeSet<TrustDomain> {
        let domains = self.admins.iter().map(SpiffeId::trust_domain);
        domains
            .filter(|domain| *domain != self.trust_domain)
            .collect()
    }

    /// Waits until there is an identity, or until there is none.
    pub(super) async fn until_identity(&self, present: bool) {
        let mut watcher = self.identity.subscribe();
        // The sender lives in `self`, so the channel cannot close.
        let _ = watcher
            .wait_for(|identity| identity.is_some() == present)
            .await
            .map(drop);
    }

    /// Settings that read this state at every handshake.
    pub(super) fn server_config(
        self: &Arc<Self>,
        clock: Arc<dyn Clock>,
    ) -> Result<ServerConfig, rustls::Error> {
        let provider = provider();
        let verifier = SvidVerifier {
            state: self.clone(),
            algorithms: provider.signature_verification_algorithms,
        };
        let mut config =
            ServerConfig::builder_with_details(provider, Arc::new(TlsClock::new(clock)))
                .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(CurrentIdentity(self.clone())));
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        forbid_resumption(&mut config);
        Ok(config)
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<(), ClientRefusal> {
        // Which bundle to verify with is the certificate's own claim; what it
        // claims is believed only after the chain holds.
        let claimed = read_svid(leaf).map_err(ClientRefusal::Svid)?.id;
        let trust_domain = claimed.trust_domain();
        if trust_domain != self.trust_domain && !self.admins.contains(&claimed) {
            return Err(ClientRefusal::Foreign(claimed));
        }
        let roots = self.roots.load();
        let roots = roots
            .get(&trust_domain)
            .ok_or(ClientRefusal::NoBundle(trust_domain.clone()))?;
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(leaf.clone());
        chain.extend_from_slice(intermediates);
        // SPIFFE libraries accept any extended key usage here.
        verify_chain(&chain, &trust_domain, roots, Purpose::Either, now)
            .map(drop)
            .map_err(ClientRefusal::Svid)
    }
}

/// No session is kept, no ticket is given, no early data is taken.
pub(super) fn forbid_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

/// Why a client's certificate is refused.
#[derive(thiserror::Error)]
enum ClientRefusal {
    #[error(transparent)]
    Svid(VerifyError),
    #[error("\"{0}\" is of another trust domain and no administrator")]
    Foreign(SpiffeId),
    #[error("there is no bundle for trust domain \"{0}\"")]
    NoBundle(TrustDomain),
}

/// rustls prints what it wraps in this form: into the log it goes as a sentence.
impl fmt::Debug for ClientRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ClientRefusal> for rustls::Error {
    fn from(refusal: ClientRefusal) -> Self {
        // The alert tells the client which of these it was; the rest is ours.
        let error = match refusal {
            ClientRefusal::Svid(VerifyError::Expired) => CertificateError::Expired,
            ClientRefusal::Svid(VerifyError::NotYetValid) => CertificateError::NotValidYet,
            ClientRefusal::Svid(VerifyError::UnknownIssuer(_)) => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        Self::InvalidCertificate(error)
    }
}

#[derive(Debug)]
struct CurrentIdentity(Arc<TlsState>);

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The name the client asked for is not looked at: agents dial
        // addresses, and verify the SPIFFE ID.
        self.0.identity.borrow().as_ref().map(|i| i.0.clone())
    }
}

#[derive(Debug)]
struct SvidVerifier {
    state: Arc<TlsState>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for SvidVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A list would go stale, and some clients send no certificate when
        // their issuer is not on it.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Seconds since 1970 stay below 2^63 for 292 billion years.
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.state.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The provider that both TLS rooms use.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
