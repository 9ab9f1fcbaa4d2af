//! The `chancery` command line: the server's start, and its administration.
//!
//! Why it exists: people and scripts that know SPIRE's server command must find its verbs, flags
//! and output here, byte for byte where a script could depend on them; what SPIRE has no verb for
//! (`cluster`, `hsm`) follows the same habits.
//!
//! Promises: results go to standard output, everything else to standard error; the exit code is 0
//! or 1; no call waits longer than [`session::CALL_DEADLINE`]. A warning that a server sends along
//! (an answer from old state, a ban that does not hold everywhere yet) is always shown.
//! Refuses to know: what a verb means. It translates flags to one call and the answer to text; the
//! server decides.
//!
//! `flags` makes SPIRE's spelling digestible, `connect` finds the server, `session` carries out
//! calls, `output` and `text` write; then one module a noun.

mod agent;
mod bundle;
mod cluster;
mod connect;
mod entry;
mod error;
mod filter;
mod flags;
mod healthcheck;
mod host;
mod hsm;
mod migrate;
mod notices;
mod output;
mod server;
mod session;
mod text;
mod token;
mod unavailable;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use error::CliError;
use host::Host;

/// Runs one command line, program name first, against the process's own streams and environment.
///
/// Expects the process-wide rustls provider to be installed. Returns success or 1.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    Host::with_process(|host| match run(args, host) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Highly available SPIFFE issuance: the server and its administration.
///
/// Flags may be written as SPIRE's, with one dash (-spiffeID ID), or with two.
#[derive(Debug, Parser)]
#[command(
    name = "chancery",
    version,
    args_override_self = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Examples:\n  \
        chancery server run -config /etc/chancery/chancery.toml\n  \
        chancery entry create -parentID spiffe://example.org/node -spiffeID spiffe://example.org/web -selector unix:uid:1000\n  \
        chancery cluster status"
)]
struct CommandLine {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Runs the server, or checks its configuration
    #[command(
        subcommand,
        after_help = "Example:\n  chancery server run -config /etc/chancery/chancery.toml"
    )]
    Server(server::Verb),
    /// Runs the server; the same as `server run`
    Run(server::Run),
    /// Checks a configuration file; the same as `server validate`
    Validate(server::Validate),
    /// Registration entries: which workload gets which identity
    #[command(subcommand, after_help = "Example:\n  chancery entry show")]
    Entry(entry::Verb),
    /// Join tokens
    #[command(
        subcommand,
        after_help = "Example:\n  chancery token generate -spiffeID spiffe://example.org/node"
    )]
    Token(token::Verb),
    /// Attested agents
    #[command(subcommand, after_help = "Example:\n  chancery agent list")]
    Agent(agent::Verb),
    /// The trust bundle
    #[command(
        subcommand,
        after_help = "Example:\n  chancery bundle show -format spiffe"
    )]
    Bundle(bundle::Verb),
    /// Asks the server whether it is healthy
    Healthcheck(healthcheck::Healthcheck),
    /// The cluster and its members
    #[command(subcommand, after_help = "Example:\n  chancery cluster status")]
    Cluster(cluster::Verb),
    /// The token that keeps the authorities' keys
    #[command(
        subcommand,
        after_help = "Example:\n  chancery hsm init -config /etc/chancery/chancery.toml -soPinFile /root/so-pin"
    )]
    Hsm(hsm::Verb),
    /// From SPIRE's servers to this one
    #[command(
        subcommand,
        after_help = "Example:\n  chancery migrate config server.conf -out chancery.toml"
    )]
    Migrate(migrate::Verb),
}

/// Whether the command succeeded.
fn run(args: impl IntoIterator<Item = OsString>, host: &mut Host<'_>) -> bool {
    let mut command = CommandLine::command();
    command.build();
    let args = flags::rewrite(&command, args);

    if let Some(verb) = unavailable::verb(&args) {
        return report(host, Err(CliError::NotAvailable { verb }));
    }
    let parsed = command
        .try_get_matches_from(args)
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    match parsed {
        Ok(command_line) => {
            let result = dispatch(command_line.noun, host);
            report(host, result)
        }
        Err(error) => explain(host, &error),
    }
}

fn dispatch(noun: Noun, host: &mut Host<'_>) -> Result<(), CliError> {
    match noun {
        Noun::Server(server::Verb::Run(verb)) | Noun::Run(verb) => verb.run(),
        Noun::Server(server::Verb::Validate(verb)) | Noun::Validate(verb) => verb.run(host),
        Noun::Entry(verb) => verb.run(host),
        Noun::Token(verb) => verb.run(host),
        Noun::Agent(verb) => verb.run(host),
        Noun::Bundle(verb) => verb.run(host),
        Noun::Healthcheck(verb) => verb.run(host),
        Noun::Cluster(verb) => verb.run(host),
        Noun::Hsm(verb) => verb.run(host),
        Noun::Migrate(verb) => verb.run(host),
    }
}

/// Says what failed. Where standard error cannot be written there is nobody left to tell.
fn report(host: &mut Host<'_>, result: Result<(), CliError>) -> bool {
    match result {
        Ok(()) => true,
        // The reader has gone, which is how `| head` ends; it needs no telling.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => false,
        Err(error) => {
            let _ = writeln!(host.stderr, "Error: {}", error.with_causes());
            false
        }
    }
}

/// Help and version are results, everything else of the parser's is an error in our words.
fn explain(host: &mut Host<'_>, error: &clap::Error) -> bool {
    let text = error.render().to_string();
    let written = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return host.stdout.write_all(text.as_bytes()).is_ok();
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            host.stderr.write_all(text.as_bytes())
        }
        _ => {
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            write!(host.stderr, "Error: {text}")
        }
    };
    // As in `report`: a standard error that cannot be written has nobody behind it.
    let _ = written;
    false
}
