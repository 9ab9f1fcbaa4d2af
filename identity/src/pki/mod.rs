//! Certificates of other people's authorities, and the chains to the roots one trusts.
//!
//! A node that attests with a certificate brings whatever its enterprise issues:
//! version 1 roots, names in old string types, constraints. SPIRE judges such
//! certificates by Go's `crypto/x509`, so what is accepted here is what that accepts
//! (RFC 5280 §6 without revocation), with every chain found, not the first. Where the two differ this room is the
//! stricter one:
//!
//! - DER only, nothing left over, each structure at most [`CERTIFICATE_BYTES_MAX`].
//! - Curves are P-256, P-384 and P-521. The signer library has no P-224.
//! - RSA moduli have at most 8192 bits.
//! - A *critical* policy constraint, policy mapping or inhibit-any-policy is an
//!   extension that was not understood; policies are not processed.
//!
//! It refuses to know SPIFFE, where roots come from, and what time it is.

mod certificate;
mod chain;
mod constraints;
mod key;
mod name;
mod pss;
mod uri;

pub use certificate::{CERTIFICATE_BYTES_MAX, Certificate, PkiError, UsageBit};
pub use chain::{ChainError, chains};
pub use key::{Curve, SubjectKey};
pub use name::Name;
pub use uri::{Uri, UriError};

#[cfg(test)]
mod tests;
