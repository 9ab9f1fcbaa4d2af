//! The kinds of certificate that Chancery issues, and what one is expected to be.

use super::{CaFacts, Serial};
use crate::certificate::KeyUsage;
use crate::id::SpiffeId;
use crate::key::PublicKey;

/// A kind of certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// A root: `spiffe://TD`, signs certificates and revocation lists, no path length.
    SelfSignedCa,
    /// A nested cluster's authority: as a root, signed by ours.
    DownstreamCa,
    /// A node's own short-lived signing certificate: `spiffe://TD`, signs
    /// certificates only, path length 0.
    Intermediate,
    /// The server's own: `spiffe://TD/spire/server`.
    Server,
    /// An agent's.
    Agent,
    /// A workload's, with the DNS names of its entry in the entry's order.
    Workload {
        /// Valid by [`crate::dns::validate`].
        dns_names: Vec<String>,
    },
}

impl Profile {
    /// Whether certificates of this kind sign certificates.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        matches!(
            self,
            Profile::SelfSignedCa | Profile::DownstreamCa | Profile::Intermediate
        )
    }

    /// The DNS names that belong into the certificate.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        match self {
            Profile::Workload { dns_names } => dns_names,
            _ => &[],
        }
    }

    pub(super) fn path_len(&self) -> Option<u32> {
        matches!(self, Profile::Intermediate).then_some(0)
    }

    pub(super) fn key_usage(&self) -> KeyUsage {
        KeyUsage(match self {
            Profile::SelfSignedCa | Profile::DownstreamCa => {
                KeyUsage::KEY_CERT_SIGN | KeyUsage::CRL_SIGN
            }
            Profile::Intermediate => KeyUsage::KEY_CERT_SIGN,
            Profile::Server | Profile::Agent | Profile::Workload { .. } => {
                KeyUsage::DIGITAL_SIGNATURE | KeyUsage::KEY_ENCIPHERMENT | KeyUsage::KEY_AGREEMENT
            }
        })
    }
}

/// What a certificate is meant to be, from the sources that decide it: the entry or
/// the caller for the ID, the request for the key, the registry for the issuer.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The kind.
    pub profile: &'a Profile,
    /// The ID, which is the trust domain's own for signing certificates.
    pub id: &'a SpiffeId,
    /// The certified key.
    pub public_key: &'a PublicKey,
    /// Who signs; none for a self-signed root and only there.
    pub issuer: Option<&'a CaFacts>,
    /// Unix seconds.
    pub now: i64,
}

/// What a certificate says, once it was found sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The one URI name.
    pub id: SpiffeId,
    /// The serial number.
    pub serial: Serial,
    /// Unix seconds, inclusive.
    pub not_before: i64,
    /// Unix seconds, inclusive (RFC 5280 §4.1.2.5).
    pub not_after: i64,
    /// Subject key identifier; empty if the certificate has none.
    pub ski: Vec<u8>,
    /// Authority key identifier.
    pub aki: Option<Vec<u8>>,
    /// The certified key.
    pub public_key: PublicKey,
}
