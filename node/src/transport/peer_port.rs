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
/// membership changes while connections stay. `is_member` tells whose keys have a place
/// among the many connections of members; the others have few, and not for long.
///
/// # Errors
/// [`ListenError`].
pub async fn serve_peers<S: GrpcService>(
    port: TcpPort,
    tls: PeerTls,
    limits: Limits,
    service: S,
    is_member: impl Fn(&[u8; 32]) -> bool + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> Result<(), ListenError> {
    let welcome = Arc::new(PeerWelcome { tls, is_member });
    accept::run(port, welcome, limits, service, shutdown).await
}

struct PeerWelcome<F> {
    tls: PeerTls,
    is_member: F,
}

impl<F: Fn(&[u8; 32]) -> bool + Send + Sync + 'static> Welcome for PeerWelcome<F> {
    type Io = TlsStream<TcpStream>;
    type Extension = PeerConnection;
    const PORT: &'static str = "peer";
    const RANK: Rank = Rank::Own;

    fn is_anonymous(&self, peer: &PeerConnection) -> bool {
        !(self.is_member)(peer.remote_spki_sha256())
    }

    async fn opened(&self) {}

    async fn closed(&self) {
        std::future::pending().await
    }

    async fn welcome(
        &self,
        stream: TcpStream,
        _: SocketAddr,
    ) -> Result<(Self::Io, PeerConnection), Refusal> {
        self.tls.accept(stream).await.map_err(Refusal::Handshake)
    }
}

#[cfg(test)]
mod tests;
