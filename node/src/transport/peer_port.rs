//! The peer port: TLS 1.3 with a key on both sides, HTTP/2 only.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::accept::{self, ListenError, Refusal, TcpPort, Welcome};
use super::descriptors::Rank;
use super::http2::GrpcService;
use super::limits::Limits;
use super::peer_tls::{PeerConnection, PeerTls};

/// Serves peers on `port` until `shutdown`, and returns when their calls have
/// ended. Requests carry their [`PeerConnection`] in their extensions; whether
/// that key is a member's is for the service to check, at each request, because
/// membership changes while connections stay.
///
/// # Errors
/// [`ListenError`].
pub async fn serve_peers<S: GrpcService>(
    port: TcpPort,
    tls: PeerTls,
    limits: Limits,
    service: S,
    shutdown: CancellationToken,
) -> Result<(), ListenError> {
    accept::run(port, Arc::new(PeerWelcome(tls)), limits, service, shutdown).await
}

struct PeerWelcome(PeerTls);

impl Welcome for PeerWelcome {
    type Io = TlsStream<TcpStream>;
    type Extension = PeerConnection;
    const PORT: &'static str = "peer";
    const RANK: Rank = Rank::Own;

    async fn opened(&self) {}

    async fn closed(&self) {
        std::future::pending().await
    }

    async fn welcome(
        &self,
        stream: TcpStream,
        _: SocketAddr,
    ) -> Result<(Self::Io, PeerConnection), Refusal> {
        self.0.accept(stream).await.map_err(Refusal::Handshake)
    }
}

#[cfg(test)]
mod tests;
