//! The agent port over real sockets.

#[path = "limit_tests.rs"]
mod limits;
#[path = "proxy_tests.rs"]
mod proxies;

use std::time::Duration;

use chancery_identity::id::TrustDomain;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::environment::SystemClock;
use crate::transport::testing::{Echo, Held, TestCa, TestLeaf, called, echoed};
use crate::transport::tls::{ServerIdentity, provider};

const SERVER: &str = "spiffe://example.org/spire/server";
const AGENT: &str = "spiffe://example.org/spire/agent/x";
const PATIENCE: Duration = Duration::from_secs(20);

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn limits() -> Limits {
    Limits {
        age_max: None,
        ..Limits::of_peers()
    }
}

struct Server {
    address: SocketAddr,
    tls: Arc<TlsState>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ListenError>>,
}

impl Server {
    /// A server with an identity, its port open.
    async fn start<S: GrpcService>(ca: &TestCa, limits: Limits, service: S) -> Self {
        let foreign = "spiffe://other.test/admin".parse().unwrap();
        let tls = TlsState::new(own(), [foreign]);
        tls.set_roots(&own(), vec![ca.root()]);
        tls.set_identity(Some(identity(&ca.leaf(SERVER, 1))));
        let server = Self::start_with(tls, limits, service);
        server.until(true).await;
        server
    }

    fn start_with<S: GrpcService>(tls: Arc<TlsState>, limits: Limits, service: S) -> Self {
        Self::start_behind(Vec::new(), tls, limits, service)
    }

    /// Behind proxies of these ranges.
    fn start_behind<S: GrpcService>(
        proxies: Vec<Cidr>,
        tls: Arc<TlsState>,
        limits: Limits,
        service: S,
    ) -> Self {
        let port = TcpPort::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = port.local_addr();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve_agents(
            port,
            proxies,
            tls.clone(),
            Arc::new(SystemClock),
            limits,
            service,
            shutdown.clone(),
        ));
        Self {
            address,
            tls,
            shutdown,
            task,
        }
    }

    /// Waits until connecting succeeds (or fails, where `open` is false).
    async fn until(&self, open: bool) {
        let wait = async {
            while TcpStream::connect(self.address).await.is_ok() != open {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the port changes its state");
    }
}

fn identity(leaf: &TestLeaf) -> ServerIdentity {
    ServerIdentity::new(vec![leaf.certificate.clone()], &leaf.key).unwrap()
}

/// Takes any server certificate; the tests look at it themselves.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn client(
    leaf: Option<&TestLeaf>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match leaf {
        Some(leaf) => builder
            .with_client_auth_cert(vec![leaf.certificate.clone()], leaf.key.clone_key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

async fn handshake(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<ClientStream> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("ignored.example").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

fn channel(address: SocketAddr, leaf: Option<&TestLeaf>) -> Channel {
    let config = Arc::new(client(leaf, rustls::DEFAULT_VERSIONS));
    Endpoint::from_static("http://server").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let config = config.clone();
            async move { handshake(address, config).await.map(TokioIo::new) }
        },
    ))
}

#[tokio::test]
async fn callers_are_what_their_handshake_proved() {
    let ca = TestCa::new("example.org");
    let server = Server::start(&ca, limits(), Echo).await;
    assert_eq!(
        echoed(channel(server.address, None)).await.unwrap(),
        "anonymous"
    );
    let agent = ca.leaf(AGENT, 18_446_744_073_709_551_615);
    let said = echoed(channel(server.address, Some(&agent))).await.unwrap();
    // 2080-01-01T00:00:00Z.
    assert_eq!(
        said,
        format!("certificate {AGENT} 18446744073709551615 3471292800")
    );
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn presented_certificates_must_verify() {
    let ca = TestCa::new("example.org");
    let server = Server::start(&ca, limits(), Echo).await;
    let stranger = TestCa::new("example.org");
    let other = TestCa::new("other.test");
    server.tls.set_roots(
        &TrustDomain::parse("other.test").unwrap(),
        vec![other.root()],
    );
    for (what, leaf) in [
        ("another authority", stranger.leaf(AGENT, 7)),
        ("expired", ca.leaf_until(AGENT, 7, 2022)),
        ("no SPIFFE ID", ca.leaf("https://example.org/x", 7)),
        (
            "another trust domain by our authority",
            ca.leaf("spiffe://other.test/admin", 7),
        ),
        (
            "our trust domain by another's authority",
            other.leaf(AGENT, 7),
        ),
        (
            "another trust domain, no administrator",
            other.leaf("spiffe://other.test/x", 7),
        ),
    ] {
        let refused = echoed(channel(server.address, Some(&leaf))).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    let admin = other.leaf("spiffe://other.test/admin", 7);
    assert!(echoed(channel(server.address, Some(&admin))).await.is_ok());
    server
        .tls
        .remove_roots(&TrustDomain::parse("other.test").unwrap());
    assert!(echoed(channel(server.address, Some(&admin))).await.is_err());
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let ca = TestCa::new("example.org");
    let server = Server::start(&ca, limits(), Echo).await;
    let agent = ca.leaf(AGENT, 7);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        // One config, so one session cache, as a client that wants to resume has.
        let config = Arc::new(client(Some(&agent), &[version]));
        for attempt in 0..3 {
            let mut stream = handshake(server.address, config.clone()).await.unwrap();
            // HTTP/2 preface and settings: a ticket would come before the answer.
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .unwrap();
            let mut some = [0; 9];
            stream.read_exact(&mut some).await.unwrap();
            let (_, session) = stream.get_ref();
            assert_eq!(
                session.handshake_kind(),
                Some(rustls::HandshakeKind::Full),
                "attempt {attempt}"
            );
            assert_eq!(session.protocol_version(), Some(version.version));
        }
    }
}

#[tokio::test]
async fn clients_without_http2_are_refused() {
    let ca = TestCa::new("example.org");
    let server = Server::start(&ca, limits(), Echo).await;
    for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = client(None, rustls::DEFAULT_VERSIONS);
        config.alpn_protocols = alpn;
        let Ok(mut stream) = handshake(server.address, Arc::new(config)).await else {
            continue;
        };
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the connection stays open");
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[tokio::test]
async fn port_is_open_only_with_an_identity_and_shows_the_current_one() {
    let ca = TestCa::new("example.org");
    let server = Server::start_with(TlsState::new(own(), []), limits(), Echo);
    assert!(TcpStream::connect(server.address).await.is_err());
    let config = Arc::new(client(None, rustls::DEFAULT_VERSIONS));
    for serial in [1, 2] {
        let leaf = ca.leaf(SERVER, serial);
        server.tls.set_identity(Some(identity(&leaf)));
        server.until(true).await;
        let stream = handshake(server.address, config.clone()).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(shown, leaf.certificate);
    }
    server.tls.set_identity(None);
    server.until(false).await;
    server.tls.set_identity(Some(identity(&ca.leaf(SERVER, 3))));
    server.until(true).await;
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn silent_clients_are_cut_off() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        handshake_timeout: Duration::from_millis(100),
        ..limits()
    };
    let server = Server::start(&ca, limits, Echo).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        connections_max: 1,
        ..limits()
    };
    let server = Server::start(&ca, limits, Echo).await;
    let first = channel(server.address, None);
    let wait = async {
        // The probe of an open port is itself a connection that must go first.
        while echoed(first.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    assert!(echoed(channel(server.address, None)).await.is_err());
    assert!(echoed(first).await.is_ok());
}

fn never_sent(error: &tonic::transport::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_canceled)
}

#[tokio::test]
async fn aged_connections_go_without_losing_a_call() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        age_max: Some(Duration::from_millis(50)),
        drain: PATIENCE,
        ..limits()
    };
    let held = Held::new();
    let server = Server::start(&ca, limits, held.clone()).await;
    let channel = channel(server.address, None);
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { called(&channel, "/held").await }
    });
    let _ = held.started.acquire().await.unwrap();
    let first = called(&channel, "/free").await.unwrap();
    // The client moves to a new connection while the call is still held.
    let moved = async {
        loop {
            match called(&channel, "/free").await {
                Ok(from) if from != first => break,
                Ok(_) => tokio::task::yield_now().await,
                // The channel chose a connection that was just asked to go, and
                // says that nothing was sent: gRPC clients then send again.
                Err(error) if never_sent(&error) => {}
                Err(error) => panic!("a call failed: {error:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, moved)
        .await
        .expect("the connection is asked to go");
    held.release.add_permits(1);
    call.await.unwrap().expect("the held call survives");
}

#[tokio::test]
async fn shutdown_lets_calls_finish_and_refuses_new_ones() {
    let ca = TestCa::new("example.org");
    let held = Held::new();
    let server = Server::start(&ca, limits(), held.clone()).await;
    let channel = channel(server.address, None);
    let call = tokio::spawn(async move { called(&channel, "/held").await });
    let _ = held.started.acquire().await.unwrap();
    server.shutdown.cancel();
    server.until(false).await;
    assert!(!server.task.is_finished());
    held.release.add_permits(1);
    call.await.unwrap().expect("the call under way finishes");
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = TcpPort::bind(taken.local_addr().unwrap());
    assert!(matches!(bound, Err(ListenError::Bind { .. })), "{bound:?}");
}
