//! The agent port: TLS with the server SVID, a client certificate if there is
//! one, HTTP/2 only.

use std::net::SocketAddr;
use std::sync::Arc;

use chancery_identity::x509_svid::read_svid;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::accept::{self, ListenError, Refusal, TcpPort, Welcome};
use super::caller::{AnonymousCaller, Caller, CertificateCaller};
use super::descriptors::Rank;
use super::http2::GrpcService;
use super::limits::Limits;
use super::proxy::TrustedProxies;
use super::tls::{ALPN_HTTP2, TlsState};
use crate::config::Cidr;
use crate::environment::Clock;

/// Serves agents on `port` until `shutdown`, and returns when their calls have
/// ended. The port is open only while `tls` has a server SVID; requests carry
/// their [`Caller`] in their extensions. A connection from `proxies` may begin with
/// a PROXY protocol header, which then says where its caller is.
///
/// # Errors
/// [`ListenError`].
pub async fn serve_agents<S: GrpcService>(
    port: TcpPort,
    proxies: Vec<Cidr>,
    tls: Arc<TlsState>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    service: S,
    shutdown: CancellationToken,
) -> Result<(), ListenError> {
    let config = tls.server_config(clock).map_err(ListenError::Tls)?;
    let welcome = AgentWelcome {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        tls,
        proxies: TrustedProxies::new(proxies),
    };
    accept::run(port, Arc::new(welcome), limits, service, shutdown).await
}

struct AgentWelcome {
    acceptor: TlsAcceptor,
    tls: Arc<TlsState>,
    proxies: TrustedProxies,
}

impl Welcome for AgentWelcome {
    type Io = TlsStream<TcpStream>;
    type Extension = Caller;
    const PORT: &'static str = "agent";
    const RANK: Rank = Rank::Anybody;

    async fn opened(&self) {
        self.tls.until_identity(true).await;
    }

    async fn closed(&self) {
        self.tls.until_identity(false).await;
    }

    fn is_anonymous(&self, caller: &Caller) -> bool {
        matches!(caller, Caller::Anonymous(_))
    }

    fn proxies(&self) -> Option<&TrustedProxies> {
        Some(&self.proxies)
    }

    async fn welcome(
        &self,
        stream: TcpStream,
        from: SocketAddr,
    ) -> Result<(Self::Io, Caller), Refusal> {
        let stream = self
            .acceptor
            .accept(stream)
            .await
            .map_err(Refusal::Handshake)?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN_HTTP2) {
            return Err(Refusal::Protocol);
        }
        let caller = match session.peer_certificates() {
            None | Some([]) => Caller::Anonymous(AnonymousCaller::new(from)),
            Some([leaf, ..]) => {
                // The verifier judged this very certificate; only its facts
                // are read here.
                let facts = read_svid(leaf).map_err(|e| Refusal::Certificate(e.to_string()))?;
                Caller::Certificate(Arc::new(CertificateCaller::new(
                    from,
                    facts.id,
                    facts.serial.to_string(),
                    facts.not_after,
                )))
            }
        };
        Ok((stream, caller))
    }
}

#[cfg(test)]
mod tests;
