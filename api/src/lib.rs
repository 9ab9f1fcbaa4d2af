//! The protobuf contracts of Chancery and the code generated from them; no logic.
//!
//! **Why.** Drop-in means that every number, name and method path is the one SPIRE's agents,
//! command line and libraries were compiled with. They stand in `proto/` once, and a test holds
//! them against a table of facts taken from SPIRE's own descriptors.
//!
//! **Promises.** The modules follow the packages; file and package names are SPIRE's, so that
//! reflection shows what SPIRE's would. Map fields are ordered (`BTreeMap`): equal messages have
//! equal bytes. Well-known types are those of [`prost_types`]; `Empty` and the wrappers are plain
//! Rust types (`()`, `Option<bool>`, `Option<String>`).
//!
//! **Refuses to know.** Transports, TLS, authorization, and what any message means: generated
//! clients take a channel that the caller made, and values are checked where they are used.
//!
//! Generated names follow Rust's casing: `SPIFFEID` is `Spiffeid`, `X509SVID` is `X509svid`, the
//! service `SVID` is in the modules `svid_server` and `svid_client`.

mod packages;

pub use packages::{chancery, google, grpc, spiffe, spire, workload};

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// All files of `proto/` and the well-known ones they import, as an encoded
/// `google.protobuf.FileDescriptorSet` in dependency order, without comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
