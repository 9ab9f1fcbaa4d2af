//! `server run` and `server validate`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use crate::config::{Config, ConfigErrors};

/// What can be done with the server itself.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Runs the server
    Run(Run),
    /// Checks a configuration file
    Validate(Validate),
}

/// `server run`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery server run -config /etc/chancery/chancery.toml")]
pub(super) struct Run {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// `server validate`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery server validate -config /etc/chancery/chancery.toml")]
pub(super) struct Validate {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Run {
    /// Blocks until the server has stopped.
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = load(&self.config)?;
        crate::app::run(config).map_err(CliError::Server)
    }
}

impl Validate {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        load(&self.config)?;
        writeln!(host.stdout, "Chancery server configuration file is valid.")
            .map_err(CliError::Output)
    }
}

/// What validates also starts: both verbs check the file and the machine it is used on.
fn load(path: &Path) -> Result<Config, CliError> {
    let config = Config::load(path)?;
    config
        .check_environment()
        .map_err(|problems| ConfigErrors {
            origin: path.display().to_string(),
            problems,
        })?;
    Ok(config)
}
