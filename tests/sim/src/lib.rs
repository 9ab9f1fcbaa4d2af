//! Deterministic simulation: a whole cluster in one process, decided by one seed.
//!
//! The nodes run the server's own consensus: log, state machine, snapshots, openraft,
//! proposer, barriers, membership driver and peer server. Simulated are what they
//! stand on: clock, network, disk, tasks and random numbers. A run forms a cluster,
//! hurts it while callers write and read, heals it, and compares; [`invariants`] holds
//! what must be true throughout, one property a file. The same seed is the same run,
//! step by step.

pub mod changes;
pub mod clock;
pub mod coverage;
pub mod disk;
pub mod executor;
pub mod invariants;
pub mod machine;
pub mod nemesis;
pub mod network;
pub mod observer;
pub mod operator;
pub mod random;
pub mod reference;
pub mod run;
pub mod standstill;
pub mod workload;
pub mod world;
