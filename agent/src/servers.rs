//! The nodes of the cluster, and which is asked next.
//!
//! Promises: a call goes to one node after the other, from a random one on, until one answers, within
//! one deadline; who was let in by an SVID is connected anew when that is renewed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::tls::{ClientIdentity, Trust, client_config};

/// How long a connection may take to come up, the handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one call may take, over all nodes that are asked.
const CALL: Duration = Duration::from_secs(20);

/// What is shown to a node and how it is judged; connections are made anew when it is another.
struct Identity {
    config: Arc<rustls::ClientConfig>,
    channels: HashMap<String, Channel>,
}

/// The nodes.
pub(crate) struct Servers {
    addresses: Vec<String>,
    next: AtomicUsize,
    identity: Mutex<Identity>,
}

impl Servers {
    /// Those at `addresses`, to be called as nobody.
    ///
    /// # Errors
    /// The provider takes no such configuration.
    pub(crate) fn new(addresses: Vec<String>, trust: Option<Trust>) -> Result<Self, rustls::Error> {
        let at = crate::environment::fraction() * 1_000.0;
        Ok(Self {
            addresses,
            // Agents that start together do not all begin with the first.
            next: AtomicUsize::new(at as usize),
            identity: Mutex::new(Identity {
                config: Arc::new(client_config(trust, None)?),
                channels: HashMap::new(),
            }),
        })
    }

    /// From now on calls are made as `identity` to whom `trust` vouches for.
    ///
    /// # Errors
    /// The provider does not take the identity.
    pub(crate) fn become_known(
        &self,
        trust: Trust,
        identity: &ClientIdentity,
    ) -> Result<(), rustls::Error> {
        let config = Arc::new(client_config(Some(trust), Some(identity))?);
        *self.identity() = Identity {
            config,
            channels: HashMap::new(),
        };
        Ok(())
    }

    fn identity(&self) -> std::sync::MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one node after the other asked until one answers other than that it cannot now.
    ///
    /// # Errors
    /// What the last one said, or that time is over.
    pub(crate) async fn call<T, F>(&self, mut ask: impl FnMut(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let all = async {
            let mut last = Status::unavailable("no server is configured");
            for _ in 0..self.addresses.len() {
                let at = self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len();
                let address = &self.addresses[at];
                match ask(self.channel(address)).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) if may_answer_elsewhere(&status) => {
                        tracing::debug!(address, %status, "asking the next server");
                        self.identity().channels.remove(address);
                        last = status;
                    }
                    Err(status) => return Err(status),
                }
            }
            Err(last)
        };
        tokio::time::timeout(CALL, all)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no server answered in time")))
    }

    /// The connection to a node, made when it is first used.
    fn channel(&self, address: &str) -> Channel {
        let mut identity = self.identity();
        if let Some(channel) = identity.channels.get(address) {
            return channel.clone();
        }
        let config = Arc::clone(&identity.config);
        let target = address.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (config, target) = (Arc::clone(&config), target.clone());
            async move {
                let stream = TcpStream::connect(&target).await?;
                stream.set_nodelay(true)?;
                // Only the bundle says who a server is; the name is not sent to be judged by.
                let name = ServerName::from(stream.peer_addr()?.ip());
                let connector = tokio_rustls::TlsConnector::from(config);
                let stream = connector.connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://server")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        let channel = endpoint.connect_with_connector_lazy(connector);
        identity
            .channels
            .insert(address.to_owned(), channel.clone());
        channel
    }
}

/// Whether another node may do what this one did not.
fn may_answer_elsewhere(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::Cancelled
    )
}
