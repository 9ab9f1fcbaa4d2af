//! The accept loop that the agent port and the peer port share: caps in total
//! and by source, handshakes with a deadline and a bound, and an orderly end.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http2::{self, GrpcService};
use crate::config;
use crate::environment::random;
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

/// Bounds of one port.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: u32,
    /// Connections at once from one IP address.
    pub connections_per_source_max: u32,
    /// Handshakes at once.
    pub handshakes_max: u32,
    /// Calls at once on one connection.
    pub streams_max: u32,
    /// Time from accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Age at which a connection is asked to go, varied by a tenth; none for
    /// connections that may stay.
    pub age_max: Option<Duration>,
    /// Time its calls then have.
    pub drain: Duration,
}

impl Limits {
    /// Most time calls have when the whole server stops, so that its exit
    /// stays inside ten seconds.
    pub const SHUTDOWN_DRAIN: Duration = Duration::from_secs(8);

    /// Of the agent port, as configured.
    pub fn of_agents(api: &config::Api) -> Self {
        Self {
            connections_max: api.max_connections,
            connections_per_source_max: api.max_connections_per_source,
            handshakes_max: api.max_handshakes,
            streams_max: api.max_streams_per_connection,
            handshake_timeout: api.handshake_timeout,
            age_max: Some(api.max_connection_age),
            drain: api.connection_drain,
        }
    }

    /// Of the peer port: few members, each with a few long connections.
    pub fn of_peers() -> Self {
        Self {
            connections_max: 256,
            connections_per_source_max: 64,
            handshakes_max: 32,
            streams_max: 256,
            handshake_timeout: Duration::from_secs(5),
            age_max: None,
            drain: Duration::from_secs(2),
        }
    }

    /// Of the admin socket: people and scripts of this machine.
    pub fn of_admins() -> Self {
        Self {
            connections_max: 128,
            connections_per_source_max: 128,
            handshakes_max: 1,
            streams_max: 100,
            handshake_timeout: Duration::from_secs(5),
            age_max: None,
            drain: Duration::from_secs(8),
        }
    }

    /// The age of one connection: within a tenth of `age_max`, at random, so
    /// that clients which came together do not come back together.
    fn age(&self) -> Option<Duration> {
        let age = self.age_max?;
        let unit = f64::from(u32::from_be_bytes(random())) / f64::from(u32::MAX);
        Some(age.mul_f64(0.9 + 0.2 * unit))
    }
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

    /// Resolves as soon as the port may be open.
    fn opened(&self) -> impl Future<Output = ()> + Send;
    /// Resolves as soon as the port must be closed.
    fn closed(&self) -> impl Future<Output = ()> + Send;
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
                    tracing::warn!(%error, port = W::PORT, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_ERROR_WAIT).await;
                    continue;
                }
            };
            let Some(slot) = admission.admit(from.ip()) else {
                refused(W::PORT, "limit");
                continue;
            };
            let connection = Connection {
                welcome: welcome.clone(),
                limits: limits.clone(),
                handshakes: handshakes.clone(),
                service: service.clone(),
                closing: shutdown.clone(),
                _slot: slot,
            };
            connections.spawn(connection.run(stream, from));
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
    _slot: Slot,
}

impl<W: Welcome, S: GrpcService> Connection<W, S> {
    async fn run(self, stream: TcpStream, from: SocketAddr) {
        let open = metrics::gauge!(names::CONNECTIONS, "port" => W::PORT);
        open.increment(1.0);
        self.serve(stream, from).await;
        open.decrement(1.0);
    }

    async fn serve(self, stream: TcpStream, from: SocketAddr) {
        // Small messages, each waited for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let handshake = async {
            // Held to the end of the handshake: the semaphore is never closed.
            let _permit = self.handshakes.acquire().await;
            self.welcome.welcome(stream, from).await
        };
        let handshake = tokio::select! {
            () = self.closing.cancelled() => return,
            handshake = tokio::time::timeout(self.limits.handshake_timeout, handshake) => handshake,
        };
        let (io, extension) = match handshake {
            Ok(Ok(welcomed)) => welcomed,
            Ok(Err(refusal)) => {
                let (reason, detail) = match &refusal {
                    Refusal::Handshake(error) => ("handshake", error.to_string()),
                    Refusal::Protocol => {
                        ("protocol", "the client does not speak HTTP/2".to_owned())
                    }
                    Refusal::Certificate(message) => ("certificate", message.clone()),
                };
                tracing::info!(%from, port = W::PORT, reason, detail, "connection refused");
                return refused(W::PORT, reason);
            }
            Err(_) => return refused(W::PORT, "timeout"),
        };
        http2::serve(
            io,
            self.service,
            extension,
            &self.limits,
            self.limits.age(),
            &self.closing,
        )
        .await;
    }
}

fn refused(port: &'static str, reason: &'static str) {
    metrics::counter!(names::CONNECTIONS_REFUSED, "port" => port, "reason" => reason).increment(1);
}

/// Counts connections in total and by source.
#[derive(Debug, Clone)]
struct Admission {
    total: Arc<Semaphore>,
    per_source_max: u32,
    sources: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
}

/// One admitted connection; frees its place when dropped.
#[derive(Debug)]
struct Slot {
    source: IpAddr,
    sources: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
    _total: OwnedSemaphorePermit,
}

impl Admission {
    fn new(limits: &Limits) -> Self {
        Self {
            total: Arc::new(Semaphore::new(limits.connections_max as usize)),
            per_source_max: limits.connections_per_source_max,
            sources: Arc::default(),
        }
    }

    fn admit(&self, source: IpAddr) -> Option<Slot> {
        // One host has one address, however a dual-stack socket spells it.
        let source = source.to_canonical();
        let total = self.total.clone().try_acquire_owned().ok()?;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_insert(0);
        if *count >= self.per_source_max {
            return None;
        }
        *count += 1;
        drop(sources);
        Some(Slot {
            source,
            sources: self.sources.clone(),
            _total: total,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: u32, per_source: u32) -> Limits {
        Limits {
            connections_max: total,
            connections_per_source_max: per_source,
            ..Limits::of_peers()
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn both_caps_hold_and_places_come_back() {
        let admission = Admission::new(&limits(3, 2));
        let first = admission.admit(ip(1)).unwrap();
        let _second = admission.admit(ip(1)).unwrap();
        assert!(admission.admit(ip(1)).is_none(), "third from one source");
        let _other = admission.admit(ip(2)).unwrap();
        assert!(admission.admit(ip(3)).is_none(), "fourth in total");
        drop(first);
        assert!(admission.admit(ip(1)).is_some());
    }

    #[test]
    fn a_refused_source_takes_no_place() {
        let admission = Admission::new(&limits(2, 1));
        let _one = admission.admit(ip(1)).unwrap();
        for _ in 0..10 {
            assert!(admission.admit(ip(1)).is_none());
        }
        assert!(admission.admit(ip(2)).is_some());
    }

    #[test]
    fn mapped_addresses_count_as_their_source() {
        let admission = Admission::new(&limits(9, 1));
        let _v4 = admission.admit(ip(1)).unwrap();
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 0x0001_u16]);
        assert!(admission.admit(mapped).is_none());
    }

    #[test]
    fn no_source_is_remembered_after_it_left() {
        let admission = Admission::new(&limits(9, 9));
        drop(admission.admit(ip(1)));
        assert!(admission.sources.lock().unwrap().is_empty());
    }

    #[test]
    fn ages_differ_within_a_tenth() {
        let limits = Limits {
            age_max: Some(Duration::from_secs(180)),
            ..Limits::of_peers()
        };
        let ages: Vec<_> = (0..100).filter_map(|_| limits.age()).collect();
        assert!(
            ages.iter().all(|a| (162..=198).contains(&a.as_secs())),
            "{ages:?}"
        );
        assert!(ages.iter().any(|a| a.as_secs() < 175) && ages.iter().any(|a| a.as_secs() > 185));
        assert_eq!(Limits::of_peers().age(), None);
    }
}
