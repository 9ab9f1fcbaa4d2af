//! The Chancery agent: it attests its host to the cluster, keeps the identities of the host's
//! workloads current, and serves them by the SPIFFE Workload API.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`cli`], `config` | commands, and a strict TOML file |
//! | [`tls`], `servers` | connections to nodes: who they must be, and which is asked next |
//! | `credentials`, `state` | keys and certificates, and what is kept through a restart |
//! | `wire` | messages of the API into what the rules of SPIFFE say of them |
//! | `manager` | attests, syncs, has documents signed, and publishes one snapshot of it all |
//! | `workload` | who calls, which identities are theirs, and the Workload API |
//!
//! Facts flow one way: the manager publishes, the Workload API reads. Nothing here decides what an
//! identity may be; `chancery-identity` does.

pub mod cli;
mod config;
mod credentials;
mod environment;
mod manager;
mod servers;
mod state;
pub mod tls;
mod wire;
mod workload;
