//! Sockets, TLS and limits: what turns a connection into a [`Caller`].
//!
//! Why it exists: who is calling is decided once, by what the connection
//! proved, and nothing above can make up a caller.
//!
//! Promises: an agent port that is open only while there is a server SVID to
//! show, where a presented certificate verified against the trust bundle of
//! that moment; an admin socket whose peers are this machine's; a peer port
//! where both sides proved a key. Connections are counted in total and by source,
//! fewer of them without a certificate; each has a deadline for its handshake and for its first words, a bound on its
//! streams, must show that it is alive, and on the agent port grows old. A
//! proxy's word on who its client is counts only from where the configuration
//! says. Near the limit of open files agents are turned away. Refuses to know: what a caller may do (`authz`) and what any call means.

mod accept;
mod admin;
mod admission;
mod agent_port;
mod caller;
mod descriptors;
mod http2;
mod limits;
mod peer_port;
mod peer_proof;
pub mod peer_tls;
mod preface;
pub mod proxy;
mod source;
mod tls;

pub use accept::{ListenError, TcpPort};
pub use admin::{AdminSocket, AdminSocketError};
pub use agent_port::serve_agents;
pub use caller::{AnonymousCaller, Caller, CertificateCaller, LocalCaller};
pub use descriptors::{Descriptors, Rank};
pub use http2::GrpcService;
pub use limits::Limits;
pub use peer_port::serve_peers;
pub use peer_proof::{Proof, Role, proof, verify_proof};
pub use peer_tls::{ConnectError, PeerConnection, PeerKey, PeerKeyError, PeerTls, PinPolicy};
pub use source::source;
pub use tls::{ServerIdentity, ServerIdentityError, TlsState};

#[cfg(test)]
pub(crate) use caller::testing as caller_testing;
#[cfg(test)]
mod testing;
