//! Every rule of the SPIFFE standards that Chancery relies on, in one pure room.
//!
//! Issuing a document, verifying a peer, serving a workload and reading a bundle
//! all call the functions here, so a rule cannot mean one thing to the builder
//! and another to the judge.
//!
//! The room promises to be a function of its arguments: no input or output, no
//! clock, no randomness, no async, and no container whose order depends on a
//! hash seed. Time enters as `i64` Unix seconds. It refuses to know who asks,
//! where keys live, and what is stored.
//!
//! | module | rules of |
//! | --- | --- |
//! | [`id`], [`selector`], [`entry`], [`dns`] | SPIFFE-ID, and what a registration entry may say |
//! | [`key`], [`csr`] | public keys worth certifying, and proof of possession |
//! | [`x509_svid`] | X509-SVID and RFC 5280: profiles, chains |
//! | [`jwt_svid`] | JWT-SVID and RFC 7515, 7519 |
//! | [`pki`] | other people's certificates and chains to roots, RFC 5280, as Go judges them |
//! | [`bundle`] | SPIFFE Trust Domain and Bundle, RFC 7517 |

pub mod bundle;
mod certificate;
pub mod csr;
mod der;
pub mod dns;
pub mod entry;
pub mod id;
pub mod jwt_svid;
pub mod key;
pub mod pki;
pub mod selector;
pub mod x509_svid;

pub use der::DerError;
