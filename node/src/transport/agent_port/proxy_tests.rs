//! Connections through a load balancer that speaks the PROXY protocol.

use super::*;

const V1: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 8081\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xc0\0\x02\x01\xdc\x04\x1f\x91";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn server(trusted: &[&str], limits: Limits) -> Server {
    let ca = TestCa::new("example.org");
    let tls = TlsState::new(own(), []);
    tls.set_identity(Some(identity(&ca.leaf(SERVER, 1))));
    let trusted = trusted.iter().map(|range| range.parse().unwrap()).collect();
    let server = Server::start_behind(trusted, tls, limits, Held::new());
    server.until(true).await;
    server
}

/// A channel whose connections begin with `header`.
fn behind(address: SocketAddr, header: &'static [u8]) -> Channel {
    let config = Arc::new(client(None, rustls::DEFAULT_VERSIONS));
    Endpoint::from_static("http://server").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let config = config.clone();
            async move {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(header).await?;
                let name = ServerName::try_from("ignored.example").unwrap();
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        },
    ))
}

/// Where the server believes a caller to be.
async fn seen(server: &Server, header: &'static [u8]) -> Result<String, tonic::transport::Error> {
    called(&behind(server.address, header), "/free").await
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_caller_is() {
    let server = server(&["10.0.0.0/8", "127.0.0.0/8"], limits()).await;
    for header in [V1, V2] {
        assert_eq!(
            seen(&server, header).await.unwrap(),
            "Some(198.51.100.7:56324)"
        );
    }
    // It may also speak for itself, or not speak the protocol at all.
    for header in [LOCAL, b"PROXY UNKNOWN\r\n", b""] {
        let from = seen(&server, header).await.unwrap();
        assert!(from.starts_with("Some(127.0.0.1:"), "{from}");
    }
}

#[tokio::test]
async fn nobody_else_does() {
    for trusted in [&[][..], &["10.0.0.0/8"]] {
        let server = server(trusted, limits()).await;
        for header in [V1, V2, LOCAL] {
            let from = seen(&server, header).await;
            assert!(from.is_err(), "{from:?}");
        }
        let from = seen(&server, b"").await.unwrap();
        assert!(from.starts_with("Some(127.0.0.1:"), "{from}");
    }
}

#[tokio::test]
async fn a_bad_header_ends_the_connection() {
    let server = server(&["127.0.0.1/32"], limits()).await;
    for header in [
        b"PROXY TCP4 198.51.100.7 192.0.2.1 56324\r\n".as_slice(),
        b"PROXY UDP4 198.51.100.7 192.0.2.1 1 2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // More than a header may have; and a family that has no address.
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\x04abcd",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(header).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
        assert!(
            matches!(end, Ok(Ok(0) | Err(_))),
            "{}: {end:?}",
            header.escape_ascii()
        );
    }
}

#[tokio::test]
async fn a_header_that_does_not_come_to_its_end_is_cut_off() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(200),
        ..limits()
    };
    let server = server(&["127.0.0.1/32"], limits).await;
    for header in [&V1[..20], &V2[..13], &V2[..20]] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(header).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    }
    assert!(seen(&server, V1).await.is_ok());
}

#[tokio::test]
async fn connections_behind_a_proxy_count_for_their_clients() {
    const OTHER: &[u8] = b"PROXY TCP4 198.51.100.8 192.0.2.1 1 8081\r\n";
    let limits = Limits {
        connections_per_source_max: 2,
        ..limits()
    };
    let server = server(&["127.0.0.1/32"], limits).await;
    let first = behind(server.address, V1);
    let second = behind(server.address, V2);
    for channel in [&first, &second] {
        called(channel, "/free").await.unwrap();
    }
    assert!(seen(&server, V1).await.is_err(), "third from one client");
    let _others = [behind(server.address, OTHER), behind(server.address, OTHER)];
    for channel in &_others {
        called(channel, "/free")
            .await
            .expect("another client by the same proxy");
    }
}
