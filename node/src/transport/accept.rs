//! The accept loop that the agent port and the peer port share: caps in total
//! and by source, handshakes with a deadline and a bound, and an orderly end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Place, Slot};
use super::descriptors::Rank;
use super::http2::{self, End, GrpcService};
use super::limits::Limits;
use super::proxy::{ProxyError, TrustedProxies};
use crate::telemetry::names;

/// Connections the kernel completes before they are accepted.
const BACKLOG: u32 = 1_024;
/// Wait after an accept that failed for lack of descriptors or memory, so that
/// the loop does not spin on it.
const ACCEPT_ERROR_WAIT: Duration = Duration::from_millis(50);
const REBIND_WAIT: Duration = Duration::from_millis(200);

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, not this machine's, or needs a privilege.
    #[error("cannot listen on {address}")]
    Bind {
        /// Address asked for.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The TLS library refused its own settings.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

/// A TCP address that is reserved but not listened on: connecting to it is
/// refused until it is served.
#[derive(Debug)]
pub struct TcpPort {
    socket: TcpSocket,
    address: SocketAddr,
}

impl TcpPort {
    /// Reserves `address`.
    ///
    /// # Errors
    /// [`ListenError::Bind`].
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            // A restart must not wait for connections of the last run.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|source| ListenError::Bind { address, source })
    }

    /// The reserved address.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn listen(self) -> Result<TcpListener, ListenError> {
        let address = self.address;
        self.socket
            .listen(BACKLOG)
            .map_err(|source| ListenError::Bind { address, source })
    }

    /// Reserves again an address that was just given up; it is ours in the
    /// configuration, so whoever holds it for a moment is waited for.
    async fn rebind(address: SocketAddr) -> Self {
        loop {
            match Self::bind(address) {
                Ok(port) => return port,
                Err(error) => {
                    tracing::warn!(%address, error = &error as &dyn std::error::Error, "cannot reserve the port again yet");
                    tokio::time::sleep(REBIND_WAIT).await;
                }
            }
        }
    }
}

/// Why a connection was not served; the words label a metric.
#[derive(Debug)]
pub(super) enum Refusal {
    Limit,
    Proxy(ProxyError),
    Handshake(io::Error),
    Protocol,
    Certificate(String),
}

/// What a port does with a fresh connection, and when it is open at all.
pub(super) trait Welcome: Send + Sync + 'static {
    /// The connection after the handshake.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What each of its requests carries.
    type Extension: Clone + Send + Sync + 'static;
    /// Label of the port's metrics.
    const PORT: &'static str;
    /// Whose connections they are, where descriptors are short.
    const RANK: Rank;

    /// Resolves as soon as the port may be open.
    fn opened(&self) -> impl Future<Output = ()> + Send;
    /// Resolves as soon as the port must be closed.
    fn closed(&self) -> impl Future<Output = ()> + Send;
    /// Whether a connection that was welcomed is nobody's that is known: of those there
    /// may be fewer.
    fn is_anonymous(&self, extension: &Self::Extension) -> bool;
    /// Whose PROXY headers are believed; none where the port knows no proxies at all.
    fn proxies(&self) -> Option<&TrustedProxies> {
        None
    }
    /// The handshake.
    fn welcome(
        &self,
        stream: TcpStream,
        from: SocketAddr,
    ) -> impl Future<Output = Result<(Self::Io, Self::Extension), Refusal>> + Send;
}

/// Serves until `shutdown`; returns when every connection has ended, at the
/// latest [`Limits::SHUTDOWN_DRAIN`] after it.
pub(super) async fn run<W: Welcome, S: GrpcService>(
    mut port: TcpPort,
    welcome: Arc<W>,
    limits: Limits,
    service: S,
    shutdown: CancellationToken,
) -> Result<(), ListenError> {
    let address = port.local_addr();
    let connections = TaskTracker::new();
    let limits = Arc::new(limits);
    let admission = Admission::new(&limits);
    let handshakes = Arc::new(Semaphore::new(limits.handshakes_max as usize));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = welcome.opened() => {}
        }
        let listener = port.listen()?;
        tracing::info!(%address, port = W::PORT, "Starting Server APIs");
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = welcome.closed() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    limits.descriptors.failed(&error);
                    tracing::warn!(%error, port = W::PORT, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_ERROR_WAIT).await;
                    continue;
                }
            };
            if !limits.descriptors.admit(&stream, W::RANK) {
                refused(W::PORT, "descriptors");
                continue;
            }
            let Some(place) = admission.place() else {
                refused(W::PORT, "limit");
                continue;
            };
            let connection = Connection {
                welcome: welcome.clone(),
                limits: limits.clone(),
                handshakes: handshakes.clone(),
                service: service.clone(),
                closing: shutdown.clone(),
            };
            connections.spawn(connection.run(stream, from, place));
        }
        drop(listener);
        if shutdown.is_cancelled() {
            break;
        }
        tracing::warn!(%address, port = W::PORT, "Port closed");
        port = TcpPort::rebind(address).await;
    }
    connections.close();
    let patience = Limits::SHUTDOWN_DRAIN + Duration::from_millis(500);
    if tokio::time::timeout(patience, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            port = W::PORT,
            left = connections.len(),
            "connections left at shutdown"
        );
    }
    Ok(())
}

struct Connection<W, S> {
    welcome: Arc<W>,
    limits: Arc<Limits>,
    handshakes: Arc<Semaphore>,
    service: S,
    closing: CancellationToken,
}

impl<W: Welcome, S: GrpcService> Connection<W, S> {
    async fn run(self, stream: TcpStream, from: SocketAddr, place: Place) {
        let open = metrics::gauge!(names::CONNECTIONS, "port" => W::PORT);
        open.increment(1.0);
        self.serve(stream, from, place).await;
        open.decrement(1.0);
    }

    async fn serve(self, stream: TcpStream, from: SocketAddr, place: Place) {
        // Small messages, each waited for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let greeting = greet(&*self.welcome, &self.handshakes, stream, from, place);
        let greeting = tokio::select! {
            () = self.closing.cancelled() => return,
            greeting = tokio::time::timeout(self.limits.handshake_timeout, greeting) => greeting,
        };
        let (io, extension, slot) = match greeting {
            Ok(Ok(welcomed)) => welcomed,
            Ok(Err(refusal)) => {
                let (reason, detail) = refusal.told();
                if !matches!(refusal, Refusal::Limit) {
                    tracing::info!(%from, port = W::PORT, reason, detail, "connection refused");
                }
                return refused(W::PORT, reason);
            }
            Err(_) => return refused(W::PORT, "timeout"),
        };
        let end = http2::serve(
            io,
            self.service,
            extension,
            &self.limits,
            self.limits.age(slot.is_anonymous()),
            &self.closing,
        )
        .await;
        if end == End::Silent {
            refused(W::PORT, "timeout");
        }
    }
}

/// Everything before HTTP/2: who it is that connects, and the handshake.
async fn greet<W: Welcome>(
    welcome: &W,
    handshakes: &Semaphore,
    mut stream: TcpStream,
    from: SocketAddr,
    place: Place,
) -> Result<(W::Io, W::Extension, Slot), Refusal> {
    let (client, slot) = match welcome.proxies() {
        // Whose connection it is, is known behind the proxy's header.
        Some(proxies) if proxies.hold(from.ip()) => {
            let client = proxies.client(&mut stream, from).await;
            let client = client.map_err(Refusal::Proxy)?;
            let slot = place.of(client.ip()).ok_or(Refusal::Limit)?;
            (client, slot)
        }
        proxies => {
            let slot = place.of(from.ip()).ok_or(Refusal::Limit)?;
            if let Some(proxies) = proxies {
                let client = proxies.client(&mut stream, from).await;
                client.map_err(Refusal::Proxy)?;
            }
            (from, slot)
        }
    };
    // A client that says nothing holds nobody up: it is no handshake yet.
    stream.peek(&mut [0]).await.map_err(Refusal::Handshake)?;
    // Held to the end of the handshake: the semaphores are never closed. Those of one
    // source wait for each other before they are in anybody else's way.
    let own = slot.handshakes();
    let _own = own.acquire().await;
    let _permit = handshakes.acquire().await;
    let (io, extension) = welcome.welcome(stream, client).await?;
    let slot = if welcome.is_anonymous(&extension) {
        slot.anonymous().ok_or(Refusal::Limit)?
    } else {
        slot
    };
    Ok((io, extension, slot))
}

impl Refusal {
    /// The word of the metric, and the rest for the log.
    fn told(&self) -> (&'static str, String) {
        match self {
            Self::Limit => ("limit", String::new()),
            Self::Proxy(error) => ("proxy", error.to_string()),
            Self::Handshake(error) => ("handshake", error.to_string()),
            Self::Protocol => ("protocol", "the client does not speak HTTP/2".to_owned()),
            Self::Certificate(message) => ("certificate", message.clone()),
        }
    }
}

pub(super) fn refused(port: &'static str, reason: &'static str) {
    metrics::counter!(names::CONNECTIONS_REFUSED, "port" => port, "reason" => reason).increment(1);
}
