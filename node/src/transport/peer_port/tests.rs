//! The peer port over real sockets.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::environment::SystemClock;
use crate::transport::peer_tls::{ConnectError, PeerKey, PinPolicy};
use crate::transport::testing::{Echo, echoed};
use crate::transport::tls::provider;
use crate::transport::{Role, proof, verify_proof};

const SECRET: &[u8] = b"0123456789abcdef";

fn tls() -> PeerTls {
    PeerTls::new(&PeerKey::generate().unwrap(), Arc::new(SystemClock)).unwrap()
}

struct Server {
    address: String,
    pin: [u8; 32],
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ListenError>>,
}

fn start() -> Server {
    let tls = tls();
    let pin = *tls.spki_sha256();
    let port = TcpPort::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = port.local_addr().to_string();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve_peers(
        port,
        tls,
        Limits::of_peers(),
        Echo,
        |_| false,
        shutdown.clone(),
    ));
    Server {
        address,
        pin,
        shutdown,
        task,
    }
}

/// Connects, however long the listener takes to come up.
async fn connect(
    tls: &PeerTls,
    server: &Server,
    policy: PinPolicy,
) -> Result<(tonic::transport::Channel, PeerConnection), ConnectError> {
    let attempt = async {
        loop {
            match tls.connect(&server.address, policy).await {
                Err(ConnectError::Unreachable { .. }) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), attempt)
        .await
        .expect("the port opens")
}

#[test]
fn stored_keys_come_back_the_same() {
    let key = PeerKey::generate().unwrap();
    let again = PeerKey::from_pkcs8(&key.to_pkcs8()).unwrap();
    assert_eq!(key.spki_sha256(), again.spki_sha256());
    assert_ne!(
        key.spki_sha256(),
        PeerKey::generate().unwrap().spki_sha256()
    );
    assert!(PeerKey::from_pkcs8(b"no key").is_err());
}

#[tokio::test]
async fn both_ends_see_each_others_key_and_one_exporter() {
    let server = start();
    let client = tls();
    let (channel, connection) = connect(&client, &server, PinPolicy::Exactly(server.pin))
        .await
        .unwrap();
    assert_eq!(connection.remote_spki_sha256(), &server.pin);
    assert_eq!(connection.local_spki_sha256(), client.spki_sha256());
    assert_eq!(
        echoed(channel).await.unwrap(),
        format!(
            "peer {} {}",
            hex::encode(client.spki_sha256()),
            hex::encode(connection.exporter())
        )
    );
    let lazy = client.channel(&server.address, server.pin);
    assert!(echoed(lazy).await.is_ok());
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn another_key_than_the_pinned_is_refused() {
    let server = start();
    let client = tls();
    let mut wrong = server.pin;
    wrong[31] ^= 1;
    let refused = connect(&client, &server, PinPolicy::Exactly(wrong)).await;
    assert!(
        matches!(refused, Err(ConnectError::Handshake { .. })),
        "{refused:?}"
    );
    let lazy = client.channel(&server.address, wrong);
    assert!(echoed(lazy).await.is_err());
}

#[tokio::test]
async fn a_proof_holds_on_its_own_connection_only() {
    let server = start();
    let client = tls();
    let policy = PinPolicy::AnyForBootstrap;
    let (channel, first) = connect(&client, &server, policy).await.unwrap();
    let (_, second) = connect(&client, &server, policy).await.unwrap();
    assert_ne!(first.exporter(), second.exporter());
    // The server's view of the first connection, from what it says of it.
    let said = echoed(channel).await.unwrap();
    let exporter = hex::decode(said.rsplit(' ').next().unwrap()).unwrap();
    let seen = PeerConnection::for_tests(
        *client.spki_sha256(),
        server.pin,
        exporter.try_into().unwrap(),
    );
    assert!(verify_proof(
        SECRET,
        Role::Client,
        &seen,
        &proof(SECRET, Role::Client, &first)
    ));
    assert!(!verify_proof(
        SECRET,
        Role::Client,
        &seen,
        &proof(SECRET, Role::Client, &second)
    ));
    assert!(verify_proof(
        SECRET,
        Role::Server,
        &first,
        &proof(SECRET, Role::Server, &seen)
    ));
    assert!(!verify_proof(
        SECRET,
        Role::Server,
        &second,
        &proof(SECRET, Role::Server, &seen)
    ));
}

#[tokio::test]
async fn a_single_connection_never_becomes_another() {
    let server = start();
    let client = tls();
    let (channel, _) = connect(&client, &server, PinPolicy::AnyForBootstrap)
        .await
        .unwrap();
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
    assert!(echoed(channel.clone()).await.is_err());
    // Somebody else at the same address is not talked to.
    let port = TcpPort::bind(server.address.parse().unwrap()).unwrap();
    let _other = tokio::spawn(serve_peers(
        port,
        tls(),
        Limits::of_peers(),
        Echo,
        |_| false,
        CancellationToken::new(),
    ));
    for _ in 0..10 {
        assert!(echoed(channel.clone()).await.is_err());
        tokio::task::yield_now().await;
    }
}

/// A client that differs from a peer in one thing.
async fn answered(
    server: &Server,
    version: &'static rustls::SupportedProtocolVersion,
    with_key: bool,
) -> bool {
    // Make sure the port is open first.
    connect(&tls(), server, PinPolicy::AnyForBootstrap)
        .await
        .unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(crate::transport::peer_tls::any_key_for_tests());
    let mut config = if with_key {
        let pair = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
        builder
            .with_client_auth_cert(vec![pair.cert.der().clone()], key)
            .unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let name = ServerName::try_from("x").unwrap();
    match TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
    {
        Err(_) => false,
        // TLS 1.3 clients learn of a refusal only when they read.
        Ok(mut stream) => matches!(stream.read(&mut [0; 9]).await, Ok(1..)),
    }
}

#[tokio::test]
async fn older_tls_and_keyless_clients_are_refused() {
    let server = start();
    assert!(answered(&server, &rustls::version::TLS13, true).await);
    assert!(!answered(&server, &rustls::version::TLS12, true).await);
    assert!(!answered(&server, &rustls::version::TLS13, false).await);
}
