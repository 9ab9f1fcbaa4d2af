//! The Chancery server and the `chancery` command line.
//!
//! A request is followed from left to right: [`transport`] makes a caller of a
//! connection, [`authz`] says whether it may, a module of [`service`] translates,
//! and then either [`registry`] proposes a command to [`cluster`] or [`issue`] builds a
//! document that an [`authority`] signs. [`app`] puts it together.

pub mod app;
pub mod attest;
pub mod authority;
pub mod authz;
pub mod backup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod disk;
pub mod environment;
pub mod health;
pub mod housekeeping;
pub mod http_status;
pub mod issue;
pub mod ledger;
pub mod migrate;
pub mod ratelimit;
pub mod registry;
pub mod service;
pub mod telemetry;
pub mod transport;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod worlds;
