//! What a client may have of the agent port, and where it ends: each bound from
//! both sides.

use tokio::sync::Semaphore;

use super::*;
use crate::transport::Descriptors;

/// The first words of HTTP/2: magic and empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Time in which nothing is to happen.
const A_WHILE: Duration = Duration::from_millis(300);

async fn stream(address: SocketAddr) -> ClientStream {
    let config = Arc::new(client(None, rustls::DEFAULT_VERSIONS));
    handshake(address, config).await.unwrap()
}

/// Whether the server closes the connection within `limit`.
async fn closes(stream: &mut (impl tokio::io::AsyncRead + Unpin), limit: Duration) -> bool {
    let ended = async {
        let mut some = [0; 64];
        while matches!(stream.read(&mut some).await, Ok(1..)) {}
    };
    tokio::time::timeout(limit, ended).await.is_ok()
}

/// Calls until one gets through: the places of earlier connections come back soon
/// after those have ended, not at once.
async fn let_in(address: SocketAddr) -> Channel {
    let attempt = async {
        loop {
            let channel = channel(address, None);
            if echoed(channel.clone()).await.is_ok() {
                return channel;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, attempt)
        .await
        .expect("somebody is let in")
}

#[tokio::test]
async fn one_source_has_its_share_of_connections_and_no_more() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        connections_per_source_max: 2,
        ..limits()
    };
    let server = Server::start(&ca, limits, Echo).await;
    let first = let_in(server.address).await;
    let _second = let_in(server.address).await;
    assert!(
        echoed(channel(server.address, None)).await.is_err(),
        "third"
    );
    drop(first);
    let_in(server.address).await;
}

#[tokio::test]
async fn one_source_has_fewer_connections_without_a_certificate() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        connections_per_source_max: 3,
        anonymous_per_source_max: 1,
        ..limits()
    };
    let server = Server::start(&ca, limits, Echo).await;
    let first = let_in(server.address).await;
    assert!(
        echoed(channel(server.address, None)).await.is_err(),
        "second without a certificate"
    );
    let agent = channel(server.address, Some(&ca.leaf(AGENT, 7)));
    assert!(echoed(agent).await.unwrap().starts_with("certificate "));
    drop(first);
    let_in(server.address).await;
}

#[tokio::test]
async fn agents_are_turned_away_near_the_limit_of_open_files() {
    let ca = TestCa::new("example.org");
    let descriptors = Descriptors::limited(1 << 20);
    let limits = Limits {
        // Not what closes it.
        handshake_timeout: 10 * PATIENCE,
        ..limits().beside(&descriptors)
    };
    let server = Server::start(&ca, limits, Echo).await;
    let _before = let_in(server.address).await;
    // Whatever number a connection has, it is close to this limit.
    descriptors.limit_to(1);
    let mut turned_away = TcpStream::connect(server.address).await.unwrap();
    assert!(closes(&mut turned_away, PATIENCE).await);
    descriptors.limit_to(1 << 20);
    descriptors.look();
    let_in(server.address).await;
}

/// Sizes of the windows for a stream and for the connection that the server opens with
/// (RFC 9113 §6.5.2 and §6.9).
async fn windows(stream: &mut ClientStream) -> (u32, u32) {
    let (mut of_stream, mut of_connection) = (None, None);
    stream.write_all(PREFACE).await.unwrap();
    while of_stream.is_none() || of_connection.is_none() {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match head[3] {
            4 if head[4] == 0 => {
                let mut settings = payload.chunks(6);
                let window = settings.find(|setting| setting[..2] == [0, 4]);
                of_stream = Some(window.map_or(65_535, |setting| number(&setting[2..])));
            }
            8 => of_connection = Some(65_535 + number(&payload)),
            _ => {}
        }
    }
    (of_stream.unwrap(), of_connection.unwrap())
}

#[tokio::test]
async fn what_a_client_may_leave_unread_here_is_little() {
    let ca = TestCa::new("example.org");
    let text = "trust_domain = 'a.test'\ndata_dir = '/a'\n[api]\naddress = '127.0.0.1:8081'";
    let api = crate::config::Config::parse(text, "text").unwrap().api;
    let server = Server::start(&ca, Limits::of_agents(&api), Echo).await;
    let mut stream = stream(server.address).await;
    let read = tokio::time::timeout(PATIENCE, windows(&mut stream)).await;
    assert_eq!(read.unwrap(), (64 << 10, 256 << 10));
}

#[tokio::test]
async fn calls_of_one_connection_beyond_its_streams_wait_for_one_to_end() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        streams_max: 2,
        ..limits()
    };
    let held = Held::new();
    let server = Server::start(&ca, limits, held.clone()).await;
    let channel = channel(server.address, None);
    // The client has the server's settings from now on.
    called(&channel, "/free").await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { called(&channel, "/held").await })
        })
        .collect();
    let started = |count| held.started.acquire_many(count);
    started(2).await.unwrap().forget();
    assert!(
        tokio::time::timeout(A_WHILE, started(1)).await.is_err(),
        "a third call began"
    );
    held.release.add_permits(1);
    let third = tokio::time::timeout(PATIENCE, started(1)).await;
    third
        .expect("the third call begins when another ends")
        .unwrap()
        .forget();
    held.release.add_permits(Semaphore::MAX_PERMITS >> 4);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn handshakes_beyond_their_bound_wait_and_silent_clients_are_no_handshakes() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        handshakes_max: 1,
        handshake_timeout: PATIENCE,
        ..limits()
    };
    let server = Server::start(&ca, limits, Echo).await;
    // These have said nothing: they are not in the way.
    let silent: Vec<_> = [(); 5].map(|()| TcpStream::connect(server.address)).into();
    let _silent = futures::future::join_all(silent).await;
    let_in(server.address).await;
    // This one has begun: a record of 512 bytes is announced.
    let mut begun = TcpStream::connect(server.address).await.unwrap();
    begun.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let config = Arc::new(client(None, rustls::DEFAULT_VERSIONS));
    let address = server.address;
    let next = tokio::spawn(async move {
        // The other's place may be taken a moment after its bytes came.
        loop {
            let shake = handshake(address, config.clone());
            if tokio::time::timeout(A_WHILE, shake).await.is_err() {
                break handshake(address, config).await;
            }
        }
    });
    tokio::time::sleep(A_WHILE * 2).await;
    assert!(!next.is_finished(), "a second handshake got through");
    drop(begun);
    let next = tokio::time::timeout(PATIENCE, next).await;
    next.expect("the place comes back").unwrap().unwrap();
}

#[tokio::test]
async fn silence_after_the_handshake_ends_and_a_preface_keeps_the_connection() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        handshake_timeout: A_WHILE * 2,
        ..limits()
    };
    let server = Server::start(&ca, limits, Echo).await;
    let mut silent = stream(server.address).await;
    let mut half = stream(server.address).await;
    half.write_all(&PREFACE[..PREFACE.len() - 1]).await.unwrap();
    let mut speaks = stream(server.address).await;
    speaks.write_all(PREFACE).await.unwrap();
    assert!(closes(&mut silent, PATIENCE).await, "silent");
    assert!(closes(&mut half, PATIENCE).await, "half a preface");
    assert!(
        !closes(&mut speaks, A_WHILE * 3).await,
        "a client of HTTP/2"
    );
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_dropped_and_one_that_does_stays() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        keep_alive_interval: Duration::from_millis(100),
        keep_alive_timeout: Duration::from_millis(400),
        ..limits()
    };
    let server = Server::start(&ca, limits, Held::new()).await;
    let mut gone = stream(server.address).await;
    gone.write_all(PREFACE).await.unwrap();
    let answers = channel(server.address, None);
    let from = called(&answers, "/free").await.unwrap();
    // Its machine acknowledges what it is sent, and nobody there reads it.
    assert!(closes(&mut gone, PATIENCE).await);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        called(&answers, "/free").await.unwrap(),
        from,
        "the same connection"
    );
}

#[tokio::test]
async fn metadata_of_a_request_is_held_to_its_bound() {
    let ca = TestCa::new("example.org");
    let server = Server::start(&ca, limits(), Echo).await;
    let channel = channel(server.address, None);
    let with = |bytes: usize| {
        let request = http::Request::builder()
            .method("POST")
            .uri("/echo")
            .header("x-long", "v".repeat(bytes))
            .body(tonic::body::Body::empty())
            .unwrap();
        tower::ServiceExt::oneshot(channel.clone(), request)
    };
    assert!(with(15 << 10).await.unwrap().status().is_success());
    let refused = with(17 << 10).await;
    assert!(
        refused.as_ref().map_or(true, |r| !r.status().is_success()),
        "{refused:?}"
    );
    assert!(with(1).await.is_ok(), "the connection lives on");
}

#[tokio::test]
async fn a_connection_younger_than_its_age_is_left_alone() {
    let ca = TestCa::new("example.org");
    let limits = Limits {
        age_max: Some(Duration::from_secs(2)),
        drain: Duration::ZERO,
        ..limits()
    };
    let held = Held::new();
    let server = Server::start(&ca, limits, held.clone()).await;
    let channel = channel(server.address, None);
    let from = called(&channel, "/free").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        called(&channel, "/free").await.unwrap(),
        from,
        "it is not old yet"
    );
    // Past its age, with no time to drain, even a call under way does not keep it.
    let call = tokio::spawn(async move { called(&channel, "/held").await });
    let ended = tokio::time::timeout(Duration::from_secs(10), call).await;
    assert!(ended.expect("the connection ends").unwrap().is_err());
}

#[tokio::test]
async fn what_a_client_calls_the_server_changes_nothing() {
    let ca = TestCa::new("example.org");
    let server = Server::start(&ca, limits(), Echo).await;
    let config = Arc::new(client(None, rustls::DEFAULT_VERSIONS));
    let mut without = client(None, rustls::DEFAULT_VERSIONS);
    without.enable_sni = false;
    let names = ["spire-server.example", "127.0.0.1", "xn--nothing.test"];
    for (config, name) in names
        .iter()
        .map(|name| (config.clone(), *name))
        .chain([(Arc::new(without), "no.name.sent")])
    {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(session.peer_certificates().map(<[_]>::len), Some(1));
    }
}

/// A ClientHello of a client that knows no TLS after `version` (0x0301 is TLS 1.0).
fn hello(version: u16) -> Vec<u8> {
    let [high, low] = version.to_be_bytes();
    let mut body = vec![high, low];
    body.extend([7; 32]);
    // No session; ECDHE-ECDSA with AES-GCM and with AES-CBC; no compression.
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x09, 1, 0]);
    // Groups: P-256. Point format: uncompressed. Signatures: ECDSA with SHA-256.
    // ALPN: h2.
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3, 0, 16, 0, 5, 0, 3, 2,
        b'h', b'2',
    ];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let length = body.len() as u8;
    let message = [&[1, 0, 0, length][..], &body].concat();
    [&[0x16, 3, 1, 0, length + 4][..], &message].concat()
}

#[tokio::test]
async fn tls_1_2_is_the_floor() {
    let ca = TestCa::new("example.org");
    let server = Server::start(&ca, limits(), Echo).await;
    for (version, record) in [(0x0303, 0x16), (0x0302, 0x15), (0x0301, 0x15)] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&hello(version)).await.unwrap();
        let mut answer = [0; 7];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
        read.unwrap().unwrap();
        assert_eq!(answer[0], record, "{version:#x}: {answer:x?}");
        // Alert: fatal, protocol_version.
        assert!(
            record == 0x16 || answer[5..] == [2, 70],
            "{version:#x}: {answer:x?}"
        );
    }
}
