//! Bad input against real processes: what a server is sent, what it is started
//! with, and what it finds on its disk.
//!
//! Each test holds that the bad input is refused in words that name what was wrong,
//! that nothing changed by it, and that the node goes on serving. Texts that SPIRE
//! has are SPIRE's, to the letter, because its clients show them and match on them.

#[path = "bad_input/authorization.rs"]
mod authorization;
#[path = "bad_input/callers.rs"]
mod callers;
#[path = "bad_input/config.rs"]
mod config;
#[path = "bad_input/csr.rs"]
mod csr;
#[path = "bad_input/data_dir.rs"]
mod data_dir;
#[path = "bad_input/entries.rs"]
mod entries;
#[path = "bad_input/foreign.rs"]
mod foreign;
#[path = "bad_input/limits.rs"]
mod limits;
#[path = "bad_input/pkcs11.rs"]
mod pkcs11;
#[path = "bad_input/ports.rs"]
mod ports;
#[path = "bad_input/running.rs"]
mod running;
#[path = "bad_input/server.rs"]
mod server;
#[path = "bad_input/site.rs"]
mod site;
#[path = "bad_input/size.rs"]
mod size;
#[path = "bad_input/spiffe_ids.rs"]
mod spiffe_ids;
#[path = "bad_input/tokens.rs"]
mod tokens;
