//! Who made a call, as the connection proved it.
//!
//! The fields are private and the constructors stay in `transport`: a handler
//! that holds a [`Caller`] holds what a socket or a handshake said.

use std::net::SocketAddr;
use std::sync::Arc;

use chancery_identity::id::SpiffeId;

/// The other end of a connection. Cheap to clone; the transport puts it into
/// the extensions of each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this machine, by the admin socket.
    Local(LocalCaller),
    /// A TLS client without a certificate.
    Anonymous(AnonymousCaller),
    /// A TLS client whose X.509-SVID verified.
    Certificate(Arc<CertificateCaller>),
}

/// A process on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalCaller {
    uid: u32,
    gid: u32,
    pid: Option<i32>,
}

/// A TLS client without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnonymousCaller {
    address: SocketAddr,
}

/// A TLS client whose X.509-SVID verified when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateCaller {
    address: SocketAddr,
    id: SpiffeId,
    serial: String,
    not_after: i64,
}

impl LocalCaller {
    pub(in crate::transport) fn new(uid: u32, gid: u32, pid: Option<i32>) -> Self {
        Self { uid, gid, pid }
    }

    /// The process when it connected, where the system tells.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Effective user of the process when it connected.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Effective group of the process when it connected.
    pub fn gid(&self) -> u32 {
        self.gid
    }
}

impl AnonymousCaller {
    pub(in crate::transport) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where the connection came from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl CertificateCaller {
    pub(in crate::transport) fn new(
        address: SocketAddr,
        id: SpiffeId,
        serial: String,
        not_after: i64,
    ) -> Self {
        Self {
            address,
            id,
            serial,
            not_after,
        }
    }

    /// Where the connection came from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The SPIFFE ID the certificate proves.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificate's serial number in decimal, as agent records hold it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Last second at which the certificate is valid, Unix time
    /// (RFC 5280 §4.1.2.5: inclusive).
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
}

impl Caller {
    /// Where the connection came from; nothing for local callers.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Local(_) => None,
            Self::Anonymous(caller) => Some(caller.address),
            Self::Certificate(caller) => Some(caller.address),
        }
    }

    /// The SPIFFE ID the caller proved, if any.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Local(_) | Self::Anonymous(_) => None,
            Self::Certificate(caller) => Some(&caller.id),
        }
    }

    /// A word for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Anonymous(_) => "anonymous",
            Self::Certificate(_) => "certificate",
        }
    }
}

/// Callers for tests of what stands above; the product cannot make any up.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    fn address() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 4711))
    }

    pub(crate) fn local() -> Caller {
        Caller::Local(LocalCaller::new(0, 0, None))
    }

    pub(crate) fn anonymous() -> Caller {
        Caller::Anonymous(AnonymousCaller::new(address()))
    }

    pub(crate) fn anonymous_from(address: SocketAddr) -> Caller {
        Caller::Anonymous(AnonymousCaller::new(address))
    }

    pub(crate) fn certificate(id: &str, serial: &str, not_after: i64) -> Caller {
        let id = SpiffeId::parse(id).expect("tests write valid IDs");
        Caller::Certificate(Arc::new(CertificateCaller::new(
            address(),
            id,
            serial.to_owned(),
            not_after,
        )))
    }
}
