//! TLS between the nodes of a cluster: keys, not names.
//!
//! A peer is its key. Certificates here only carry the key through the
//! protocol: they are self-signed, their names and dates mean nothing, and
//! none can expire and lock a cluster out that was switched off for a year.
//!
//! Promises: TLS 1.3 on both sides, a handshake signature that proves
//! possession of the key on both sides, and the SHA-256 of that key's
//! SubjectPublicKeyInfo for whoever compares pins. A client with an exact pin
//! talks to that key or not at all. Refuses to know: which keys are members.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use hyper_util::rt::TokioIo;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName as TlsName,
    OtherError, ServerConfig, SignatureScheme, version,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use super::tls::{ALPN_HTTP2, forbid_resumption, provider};
use crate::environment::{Clock, TlsClock};

/// Label of the value that ties a proof to one connection (RFC 8446 §7.5).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-chancery-peer-v1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that answers no ping this long is treated as gone, well inside the
/// patience of whoever waits for it.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Why a key is no peer key.
#[derive(Debug, thiserror::Error)]
pub enum PeerKeyError {
    /// The generator failed.
    #[error("cannot generate a peer key")]
    Generate(#[source] rcgen::Error),
    /// The stored bytes are not an ECDSA P-256 key.
    #[error("the stored peer key is not an ECDSA P-256 key")]
    Parse(#[source] rcgen::Error),
    /// The certificate around the key could not be made.
    #[error("cannot wrap the peer key in a certificate")]
    Certificate(#[source] rcgen::Error),
    /// The TLS library does not take it.
    #[error("cannot set up TLS between nodes")]
    Tls(#[source] rustls::Error),
}

/// A node's own key towards its peers, ECDSA P-256. Made at the node's first
/// start and stored by the caller.
pub struct PeerKey {
    pair: KeyPair,
}

impl PeerKey {
    /// A new key from the provider's generator.
    ///
    /// # Errors
    /// [`PeerKeyError::Generate`].
    pub fn generate() -> Result<Self, PeerKeyError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(|pair| Self { pair })
            .map_err(PeerKeyError::Generate)
    }

    /// The key that [`PeerKey::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// [`PeerKeyError::Parse`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, PeerKeyError> {
        KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(der),
            &PKCS_ECDSA_P256_SHA256,
        )
        .map(|pair| Self { pair })
        .map_err(PeerKeyError::Parse)
    }

    /// PKCS#8 for the node's identity record.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.serialize_der())
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what the membership records.
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.pair.subject_public_key_info())
    }

    fn certificate(&self) -> Result<CertificateDer<'static>, PeerKeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "chancery peer");
        // RFC 5280 §4.1.2.5: the value for "no well-defined expiration".
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let certificate = params
            .self_signed(&self.pair)
            .map_err(PeerKeyError::Certificate)?;
        Ok(certificate.der().clone())
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerKey")
            .field("spki_sha256", &hex::encode(self.spki_sha256()))
            .finish_non_exhaustive()
    }
}

/// Whom a client is willing to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinPolicy {
    /// The key with this SubjectPublicKeyInfo SHA-256, as the membership says.
    Exactly([u8; 32]),
    /// Whoever answers: only while no pin is recorded yet, and only for calls
    /// that carry a proof of the shared secret.
    AnyForBootstrap,
}

/// What a connection between nodes has proved. Cheap to copy; the peer port
/// puts it into the extensions of each request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerConnection {
    remote: [u8; 32],
    local: [u8; 32],
    exporter: [u8; 32],
}

impl PeerConnection {
    /// Key of the other side, as SubjectPublicKeyInfo SHA-256.
    pub fn remote_spki_sha256(&self) -> &[u8; 32] {
        &self.remote
    }

    /// Own key, as SubjectPublicKeyInfo SHA-256.
    pub fn local_spki_sha256(&self) -> &[u8; 32] {
        &self.local
    }

    /// Value that only the two ends of this very connection know.
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// What a connection would have proved, for tests and the simulation, which have none.
    #[cfg(any(test, feature = "faults"))]
    pub fn for_tests(remote: [u8; 32], local: [u8; 32], exporter: [u8; 32]) -> Self {
        Self {
            remote,
            local,
            exporter,
        }
    }
}

impl fmt::Debug for PeerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConnection")
            .field("remote", &hex::encode(self.remote))
            .field("local", &hex::encode(self.local))
            .finish_non_exhaustive()
    }
}

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection, or it took too long.
    #[error("cannot reach peer {address}")]
    Unreachable {
        /// Address dialled.
        address: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The handshake failed: the wrong key, another protocol, another version.
    #[error("handshake with peer {address} failed")]
    Handshake {
        /// Address dialled.
        address: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// HTTP/2 did not start.
    #[error("peer {address} does not speak HTTP/2")]
    Http2 {
        /// Address dialled.
        address: String,
        /// What failed.
        #[source]
        source: tonic::transport::Error,
    },
}

/// TLS settings of one node towards its peers, both directions.
#[derive(Clone)]
pub struct PeerTls {
    local: [u8; 32],
    certificate: CertificateDer<'static>,
    key: Arc<Zeroizing<Vec<u8>>>,
    clock: Arc<dyn Clock>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls")
            .field("local", &hex::encode(self.local))
            .finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Settings for `key`.
    ///
    /// # Errors
    /// [`PeerKeyError::Certificate`], [`PeerKeyError::Tls`].
    pub fn new(key: &PeerKey, clock: Arc<dyn Clock>) -> Result<Self, PeerKeyError> {
        let certificate = key.certificate()?;
        let pkcs8 = key.to_pkcs8();
        let verifier = KeyVerifier::new(PinPolicy::AnyForBootstrap);
        let mut server =
            ServerConfig::builder_with_details(provider(), Arc::new(TlsClock::new(clock.clone())))
                .with_protocol_versions(&[&version::TLS13])
                .map_err(PeerKeyError::Tls)?
                .with_client_cert_verifier(verifier)
                .with_single_cert(vec![certificate.clone()], private_key(&pkcs8))
                .map_err(PeerKeyError::Tls)?;
        server.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        forbid_resumption(&mut server);
        Ok(Self {
            local: key.spki_sha256(),
            certificate,
            key: Arc::new(pkcs8),
            clock,
            server: Arc::new(server),
        })
    }

    /// SHA-256 of the own SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.local
    }

    fn client(&self, policy: PinPolicy) -> Result<ClientConfig, rustls::Error> {
        let clock = Arc::new(TlsClock::new(self.clock.clone()));
        let mut config = ClientConfig::builder_with_details(provider(), clock)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(KeyVerifier::new(policy))
            .with_client_auth_cert(vec![self.certificate.clone()], private_key(&self.key))?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// The server's side of a handshake.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(server::TlsStream<TcpStream>, PeerConnection)> {
        let stream = TlsAcceptor::from(self.server.clone())
            .accept(stream)
            .await?;
        let (_, session) = stream.get_ref();
        let exporter = session
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(io::Error::other)?;
        let connection = self.proved(
            session.peer_certificates(),
            exporter,
            session.alpn_protocol(),
        )?;
        Ok((stream, connection))
    }

    /// One connection to the peer at `address` (host and port) and a channel
    /// over it. The channel does not reconnect: when the connection ends its
    /// calls fail, because what [`PeerConnection`] says holds for this
    /// connection only.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        address: &str,
        policy: PinPolicy,
    ) -> Result<(Channel, PeerConnection), ConnectError> {
        let (stream, connection) = self.dial(address, policy).await?;
        let slot = Arc::new(Mutex::new(Some(stream)));
        let connector = tower::service_fn(move |_| {
            let taken = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(match taken {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the peer connection has ended",
                )),
            })
        });
        let channel = endpoint()
            .connect_with_connector(connector)
            .await
            .map_err(|source| ConnectError::Http2 {
                address: address.to_owned(),
                source,
            })?;
        Ok((channel, connection))
    }

    /// A channel to the peer with key `pin` at `address`, connected when first
    /// used and again when broken.
    pub fn channel(&self, address: &str, pin: [u8; 32]) -> Channel {
        let (tls, address) = (self.clone(), address.to_owned());
        endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
            let (tls, address) = (tls.clone(), address.clone());
            async move {
                let (stream, _) = tls.dial(&address, PinPolicy::Exactly(pin)).await?;
                Ok::<_, ConnectError>(TokioIo::new(stream))
            }
        }))
    }

    async fn dial(
        &self,
        address: &str,
        policy: PinPolicy,
    ) -> Result<(client::TlsStream<TcpStream>, PeerConnection), ConnectError> {
        let unreachable = |source| ConnectError::Unreachable {
            address: address.to_owned(),
            source,
        };
        let refused = |source| ConnectError::Handshake {
            address: address.to_owned(),
            source,
        };
        let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| unreachable(timed_out()))?
            .map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let config = self
            .client(policy)
            .map_err(|e| refused(io::Error::other(e)))?;
        // Never sent and never compared; the API wants one.
        let name = ServerName::try_from("chancery-peer").expect("a valid DNS name");
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, handshake)
            .await
            .map_err(|_| refused(timed_out()))?
            .map_err(refused)?;
        let (_, session) = stream.get_ref();
        let exporter = session
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(|e| refused(io::Error::other(e)))?;
        let connection = self
            .proved(
                session.peer_certificates(),
                exporter,
                session.alpn_protocol(),
            )
            .map_err(refused)?;
        Ok((stream, connection))
    }

    fn proved(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
        exporter: [u8; 32],
        alpn: Option<&[u8]>,
    ) -> io::Result<PeerConnection> {
        if alpn != Some(ALPN_HTTP2) {
            return Err(io::Error::other("the peer does not speak HTTP/2"));
        }
        let leaf = certificates
            .and_then(<[_]>::first)
            .ok_or_else(|| io::Error::other("the peer showed no certificate"))?;
        let remote = spki_sha256_of(leaf).map_err(io::Error::other)?;
        Ok(PeerConnection {
            remote,
            local: self.local,
            exporter,
        })
    }
}

fn endpoint() -> Endpoint {
    // Never resolved: the connector knows the address.
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_timeout(2 * CONNECT_TIMEOUT)
}

fn private_key(pkcs8: &[u8]) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn spki_sha256_of(certificate: &CertificateDer<'_>) -> Result<[u8; 32], webpki::Error> {
    let leaf = webpki::EndEntityCert::try_from(certificate)?;
    Ok(sha256(&leaf.subject_public_key_info()))
}

/// Accepts a certificate for the key in it: the handshake signature proves
/// possession, the policy says which key.
#[derive(Debug)]
struct KeyVerifier {
    policy: PinPolicy,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug, thiserror::Error)]
#[error("the peer's key is {found}, not the pinned {pinned}")]
struct WrongKey {
    found: String,
    pinned: String,
}

impl KeyVerifier {
    fn new(policy: PinPolicy) -> Arc<Self> {
        Arc::new(Self {
            policy,
            algorithms: provider().signature_verification_algorithms,
        })
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let found = spki_sha256_of(certificate)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.policy {
            PinPolicy::AnyForBootstrap => Ok(()),
            PinPolicy::Exactly(pinned) => verify_slices_are_equal(&found, &pinned).map_err(|_| {
                let wrong = WrongKey {
                    found: hex::encode(found),
                    pinned: hex::encode(pinned),
                };
                CertificateError::Other(OtherError(Arc::new(wrong))).into()
            }),
        }
    }

    fn verify_possession(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, dss, &self.algorithms)
    }
}

/// Both sides offer TLS 1.3 alone.
fn older_version() -> rustls::Error {
    rustls::Error::General("nodes speak TLS 1.3 only".to_owned())
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(older_version())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_possession(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[TlsName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(older_version())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_possession(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A verifier that takes any key, for clients that tests build themselves.
#[cfg(test)]
pub(super) fn any_key_for_tests() -> Arc<dyn ServerCertVerifier> {
    KeyVerifier::new(PinPolicy::AnyForBootstrap)
}
