//! The `chancery` command line: the server's start, and its administration.
//!
//! Why it exists: people and scripts that know SPIRE's server command must find its verbs, flags
//! and output here, byte for byte where a script could depend on them; what SPIRE has no verb for
//! (`cluster`, `hsm`, `backup`) follows the same habits.
//!
//! Promises: results go to standard output, everything else to standard error; the exit code is 0
//! or 1, and 127 for a noun that does not exist, as with SPIRE; no call waits longer than
//! [`session::CALL_DEADLINE`]. A warning that a server sends along (an answer from old state, a ban
//! that does not hold everywhere yet) is always shown.
//! Refuses to know: what a verb means. It translates flags to calls and the answers to text; the
//! server decides.
//!
//! `flags` makes SPIRE's spelling digestible, `input` and `bundle_file` read the files that flags
//! name, `connect` finds the server, `session` carries out calls, `output`, `text`, `paint`,
//! `zone` and `batch` write; then one module a noun.

mod agent;
mod backup;
mod batch;
mod bundle;
mod bundle_file;
mod cluster;
mod connect;
mod debug;
mod entry;
mod error;
mod federation;
mod filter;
mod flags;
mod healthcheck;
mod host;
mod hsm;
mod input;
mod issuance;
mod localauthority;
mod logger;
mod migrate;
mod mint;
mod notices;
mod output;
mod paint;
mod server;
mod session;
mod text;
mod token;
mod upstreamauthority;
mod zone;

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
/// Expects the process-wide rustls provider to be installed. Returns 0, 1 or 127.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    Host::with_process(|host| ExitCode::from(run(args, host) as u8))
}

/// Reads `bytes` as every kind of file and token that a verb reads, for the fuzz target: none may
/// panic, and a bundle that was read is written so that it reads back equal.
pub fn read_as_every_input(bytes: &[u8]) {
    entry::read_as_every_input(bytes);
    federation::read_as_input(bytes);
    bundle_file::read_as_every_input(bytes);
    mint::read_as_token(bytes);
}

/// How a command line ended; the value is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Success = 0,
    Failure = 1,
    /// The noun is missing or does not exist. SPIRE's code, and the shell's for an unknown command.
    UnknownNoun = 127,
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
    /// The trust bundle, and those of federated trust domains
    #[command(
        subcommand,
        after_help = "Example:\n  chancery bundle show -format spiffe"
    )]
    Bundle(bundle::Verb),
    /// Federation relationships: where other trust domains' bundles come from
    #[command(subcommand, after_help = "Example:\n  chancery federation list")]
    Federation(federation::Verb),
    /// X.509-SVIDs made on request
    #[command(
        subcommand,
        after_help = "Example:\n  chancery x509 mint -spiffeID spiffe://example.org/web -write ."
    )]
    X509(mint::X509Verb),
    /// JWT-SVIDs made on request
    #[command(
        subcommand,
        after_help = "Example:\n  chancery jwt mint -spiffeID spiffe://example.org/web -audience db"
    )]
    Jwt(mint::JwtVerb),
    /// The authorities that sign for this trust domain
    #[command(
        subcommand,
        after_help = "Example:\n  chancery localauthority x509 show"
    )]
    Localauthority(localauthority::Kind),
    /// The authorities that sign this trust domain's authorities
    #[command(
        subcommand,
        after_help = "Example:\n  chancery upstreamauthority taint -subjectKeyID 0ba1f6c9"
    )]
    Upstreamauthority(upstreamauthority::Verb),
    /// How much the asked server logs
    #[command(
        subcommand,
        after_help = "Example:\n  chancery logger set -level debug"
    )]
    Logger(logger::Verb),
    /// What the asked server knows about itself
    #[command(subcommand, after_help = "Example:\n  chancery debug getinfo")]
    Debug(debug::Verb),
    /// Asks the server whether it is healthy
    Healthcheck(healthcheck::Healthcheck),
    /// The cluster and its members
    #[command(subcommand, after_help = "Example:\n  chancery cluster status")]
    Cluster(cluster::Verb),
    /// How documents are signed
    #[command(
        subcommand,
        after_help = "Example:\n  chancery issuance mode intermediate"
    )]
    Issuance(issuance::Verb),
    /// The whole state in a file, and back
    #[command(
        subcommand,
        after_help = "Example:\n  chancery backup save -file /var/backups/chancery.backup"
    )]
    Backup(backup::Verb),
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

fn run(args: impl IntoIterator<Item = OsString>, host: &mut Host<'_>) -> Exit {
    let mut command = CommandLine::command();
    command.build();
    let args = flags::rewrite(&command, args);

    let noun_exists = args
        .get(1)
        .is_some_and(|word| command.find_subcommand(word).is_some());
    let parsed = command
        .try_get_matches_from(args)
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    match parsed {
        Ok(command_line) => {
            let result = dispatch(command_line.noun, host);
            report(host, result)
        }
        Err(error) => match explain(host, &error) {
            Exit::Failure if !noun_exists => Exit::UnknownNoun,
            exit => exit,
        },
    }
}

fn dispatch(noun: Noun, host: &mut Host<'_>) -> Result<(), CliError> {
    match noun {
        Noun::Server(server::Verb::Run(verb)) | Noun::Run(verb) => verb.run(host),
        Noun::Server(server::Verb::Validate(verb)) | Noun::Validate(verb) => verb.run(host),
        Noun::Entry(verb) => verb.run(host),
        Noun::Token(verb) => verb.run(host),
        Noun::Agent(verb) => verb.run(host),
        Noun::Bundle(verb) => verb.run(host),
        Noun::Federation(verb) => verb.run(host),
        Noun::X509(verb) => verb.run(host),
        Noun::Jwt(verb) => verb.run(host),
        Noun::Localauthority(kind) => kind.run(host),
        Noun::Upstreamauthority(verb) => verb.run(host),
        Noun::Logger(verb) => verb.run(host),
        Noun::Debug(verb) => verb.run(host),
        Noun::Healthcheck(verb) => verb.run(host),
        Noun::Cluster(verb) => verb.run(host),
        Noun::Issuance(verb) => verb.run(host),
        Noun::Backup(verb) => verb.run(host),
        Noun::Hsm(verb) => verb.run(host),
        Noun::Migrate(verb) => verb.run(host),
    }
}

/// Says what failed. Where standard error cannot be written there is nobody left to tell.
fn report(host: &mut Host<'_>, result: Result<(), CliError>) -> Exit {
    match result {
        Ok(()) => Exit::Success,
        // The reader has gone, which is how `| head` ends; it needs no telling.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Exit::Failure
        }
        Err(error) => {
            let _ = writeln!(host.stderr, "Error: {}", error.with_causes());
            Exit::Failure
        }
    }
}

/// Help and version are results, everything else of the parser's is an error in our words.
fn explain(host: &mut Host<'_>, error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    let written = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return match host.stdout.write_all(text.as_bytes()) {
                Ok(()) => Exit::Success,
                Err(_) => Exit::Failure,
            };
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
    Exit::Failure
}
