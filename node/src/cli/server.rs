//! `server run` and `server validate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use crate::config::{Config, ConfigErrors, Overrides, Problem};

/// Where SPIRE's server looks, from where it is started: who starts servers without `-config` puts
/// our file there.
const DEFAULT_CONFIG: &str = "conf/server/server.conf";

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
#[command(after_help = "Examples:\n  \
    chancery server run -config /etc/chancery/chancery.toml\n  \
    chancery server run -config /etc/chancery/chancery.toml -logLevel debug\n  \
    chancery server run -config /etc/chancery/chancery.toml -logFile /var/log/chancery.log")]
pub(super) struct Run {
    #[command(flatten)]
    flags: Flags,
}

/// `server validate`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery server validate -config /etc/chancery/chancery.toml")]
pub(super) struct Validate {
    #[command(flatten)]
    flags: Flags,
}

/// The configuration file, and what is to hold in its place.
#[derive(Debug, Args)]
struct Flags {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Replaces $NAME and ${NAME} in the file by variables of the environment
    #[arg(long = "expandEnv")]
    expand_env: bool,
    /// In place of trust_domain
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    /// In place of data_dir
    #[arg(long = "dataDir", value_name = "FOLDER")]
    data_dir: Option<String>,
    /// In place of the IP address in api.address
    #[arg(long = "bindAddress", value_name = "IP")]
    bind_address: Option<String>,
    /// In place of the port in api.address
    #[arg(long = "serverPort", value_name = "PORT")]
    server_port: Option<u16>,
    /// In place of api.admin_socket
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
    /// In place of log_level
    #[arg(long = "logLevel", value_name = "LEVEL")]
    log_level: Option<String>,
    /// In place of log_format
    #[arg(long = "logFormat", value_name = "FORMAT")]
    log_format: Option<String>,
    /// In place of log_file: where the log is written; SIGUSR2 opens it again after a rotation
    #[arg(long = "logFile", value_name = "FILE")]
    log_file: Option<String>,
    /// As log_source_location = true: messages say file and line of the source
    #[arg(long = "logSourceLocation")]
    log_source_location: bool,
}

impl Run {
    /// Blocks until the server has stopped.
    pub(super) fn run(self, host: &Host<'_>) -> Result<(), CliError> {
        let config = self.flags.load(host, Config::check_start)?;
        crate::app::run(config).map_err(CliError::Server)
    }
}

impl Validate {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        self.flags.load(host, Config::check_environment)?;
        writeln!(host.stdout, "Chancery server configuration file is valid.")
            .map_err(CliError::Output)
    }
}

impl Flags {
    /// What validates also starts: both verbs check the file and the machine it is used on.
    fn load(
        self,
        host: &Host<'_>,
        check: fn(&Config) -> Result<(), Vec<Problem>>,
    ) -> Result<Config, CliError> {
        let overrides = Overrides {
            trust_domain: self.trust_domain,
            data_dir: self.data_dir,
            log_level: self.log_level,
            log_format: self.log_format,
            log_file: self.log_file,
            log_source_location: self.log_source_location,
            admin_socket: self.socket_path,
            bind_address: self.bind_address,
            server_port: self.server_port,
        };
        let variable = self.expand_env.then_some(host.variable);
        let config = Config::load_with(&self.config, &overrides, variable)?;
        check(&config).map_err(|problems| ConfigErrors {
            origin: self.config.display().to_string(),
            problems,
        })?;
        Ok(config)
    }
}
