//! TLS as an agent does it: the server is checked against the trust bundle and
//! must be `spiffe://TD/spire/server`; names and addresses do not matter.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tonic::transport::{Channel, Endpoint, Uri};

pub use chancery_agent::tls::{ClientIdentity, Trust};

/// Connects to a server's agent port.
pub async fn connect(
    address: &str,
    trust: &Trust,
    identity: Option<&ClientIdentity>,
    source: Option<IpAddr>,
) -> anyhow::Result<Channel> {
    connect_behind(address, trust, identity, source, b"").await
}

/// The same, with `header` in front of everything, as a load balancer puts it there.
pub async fn connect_behind(
    address: &str,
    trust: &Trust,
    identity: Option<&ClientIdentity>,
    source: Option<IpAddr>,
    header: &'static [u8],
) -> anyhow::Result<Channel> {
    let config = Arc::new(chancery_agent::tls::client_config(
        Some(trust.clone()),
        identity,
    )?);
    let target: SocketAddr = address
        .parse()
        .with_context(|| format!("address {address}"))?;
    let connector = tower::service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move {
            let socket = TcpSocket::new_v4()?;
            if let Some(source) = source {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            let mut stream = socket.connect(target).await?;
            stream.set_nodelay(true)?;
            stream.write_all(header).await?;
            let name = ServerName::from(target.ip());
            let stream = tokio_rustls::TlsConnector::from(config)
                .connect(name, stream)
                .await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://server").connect_timeout(Duration::from_secs(5));
    let channel = endpoint.connect_with_connector(connector).await;
    channel.with_context(|| format!("cannot connect to {address}"))
}

/// Connects to a server's admin socket.
pub async fn connect_admin(path: &std::path::Path) -> anyhow::Result<Channel> {
    let path = path.to_path_buf();
    let shown = path.display().to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            tokio::net::UnixStream::connect(path)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://admin").connect_timeout(Duration::from_secs(5));
    endpoint
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("cannot connect to {shown}"))
}
