//! What the cluster tests and the demo share: a client that speaks the agent
//! protocol, a handle on a cluster of real processes, and the fault harness.

pub mod agent;
pub mod bench;
pub mod cluster;
pub mod documents;
pub mod faults;
pub mod go;
pub mod load;
pub mod planted;
pub mod secrets;
pub mod softhsm_file;
pub mod tls;
pub mod token_server;
pub mod x509pop;
