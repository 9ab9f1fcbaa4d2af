//! `migrate config`, `migrate data` and `migrate trust`: from SPIRE's servers to a cluster of ours.

mod config;
mod data;
mod peer;
mod trust;

use clap::Subcommand;

use super::error::CliError;
use super::host::Host;

/// What can be taken over from SPIRE.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Writes our configuration from a server.conf of SPIRE's, and names what it cannot carry over
    Config(config::Config),
    /// Copies entries, federation and bans from a running server
    Data(data::Data),
    /// Lets two servers of one trust domain trust each other's authorities, both ways
    Trust(trust::Trust),
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        match self {
            Verb::Config(verb) => verb.run(host),
            Verb::Data(verb) => verb.run(host),
            Verb::Trust(verb) => verb.run(host),
        }
    }
}
