//! What the cluster tests and the demo share: a client that speaks the agent
//! protocol, and a handle on a cluster of real processes.

pub mod agent;
pub mod cluster;
pub mod load;
pub mod tls;
pub mod x509pop;
