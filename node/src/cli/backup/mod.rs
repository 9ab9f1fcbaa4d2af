//! `backup save`, `inspect`, `verify` and `restore`.
//!
//! `save` asks a running node; the others speak to no server and work on files.

mod report;
mod save;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use super::session::Format;
use super::{output, text};
use crate::backup::{self, Depth, Renewed};
use crate::config::Config;
use report::Report;

/// What can be done with backups.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Writes the state of the cluster to a file, while it serves
    ///
    /// The file has everything that any node acknowledged before the call, all of one log position.
    /// It holds join tokens' digests and who may do what: keep it as you keep a secret. Private keys are
    /// not in it.
    Save(save::Save),
    /// Shows what a backup is of and how much is in it
    Inspect(Inspect),
    /// Reads a backup to its end, every checksum and every row
    Verify(Verify),
    /// Makes a node out of a backup, in an empty data directory
    ///
    /// Offline. The node begins a new cluster with the state of the backup; no node of the cluster
    /// before can join it or be called by it. The other nodes of the configuration's peer list join with
    /// empty data directories.
    Restore(Restore),
}

/// `backup inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery backup inspect -file /var/backups/chancery.backup\n  \
    chancery backup inspect -file /var/backups/chancery.backup -output json")]
pub(super) struct Inspect {
    #[command(flatten)]
    flags: FileFlags,
}

/// `backup verify`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery backup verify -file /var/backups/chancery.backup")]
pub(super) struct Verify {
    #[command(flatten)]
    flags: FileFlags,
}

/// Which file, and how results are written.
#[derive(Debug, Args)]
struct FileFlags {
    /// Backup file
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Output format
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Pretty)]
    output: Format,
}

/// `backup restore`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        chancery backup restore -config /etc/chancery/chancery.toml -file /var/backups/chancery.backup")]
pub(super) struct Restore {
    /// Configuration file of the node
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    flags: FileFlags,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        match self {
            Verb::Save(verb) => verb.run(host),
            Verb::Inspect(verb) => verb.flags.show(Depth::Inspect, host),
            Verb::Verify(verb) => verb.flags.show(Depth::Verify, host),
            Verb::Restore(verb) => verb.run(host),
        }
    }
}

impl FileFlags {
    fn show(&self, depth: Depth, host: &mut Host<'_>) -> Result<(), CliError> {
        let survey = backup::survey(&self.file, depth)?;
        let report = Report::of(&self.file, &survey, depth == Depth::Verify)?;
        let text = match self.output {
            Format::Json => output::value_json(&report)?,
            Format::Pretty => report.pretty(),
        };
        host.stdout
            .write_all(text.as_bytes())
            .map_err(CliError::Output)
    }
}

impl Restore {
    fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let config = Config::load(&self.config)?;
        let by = host.who();
        let renewed = backup::restore(&config, &self.flags.file, by)?;
        say_renewed(&renewed, &config, self.flags.output, host)
    }
}

/// Says what has become of a data directory, and what comes next.
pub(super) fn say_renewed(
    renewed: &Renewed,
    config: &Config,
    format: Format,
    host: &mut Host<'_>,
) -> Result<(), CliError> {
    let begun = &renewed.begun;
    let aside = renewed.aside.as_ref().map(|dir| dir.display().to_string());
    let text = match format {
        Format::Json => output::value_json(&serde_json::json!({
            "cluster_id": begun.cluster_id,
            "trust_domain": begun.trust_domain,
            "node_id": begun.node_id.to_string(),
            "log_index": begun.log_index,
            "how": backup::ended(&begun.past),
            "from_cluster_id": begun.past.cluster_id,
            "from_log_index": begun.past.log_index,
            "state_of": text::rfc3339(begun.past.state_at_ms.div_euclid(1000)),
            "by": begun.past.ended_by,
            "data_dir": config.data_dir.display().to_string(),
            "kept_in": aside,
        }))?,
        Format::Pretty => {
            let kept = aside.map_or_else(String::new, |dir| {
                format!("What was there is kept in {dir}; nothing reads it.\n")
            });
            format!(
                "Node {} of the new cluster {} is in {}, with the state of cluster {} at log position {} ({}).\n\
                 {kept}Start it. The other nodes of its peer list join it with empty data directories; a node \
                 with a data directory of the old cluster cannot.\n",
                begun.node_id,
                begun.cluster_id,
                config.data_dir.display(),
                begun.past.cluster_id,
                begun.past.log_index,
                text::date(begun.past.state_at_ms.div_euclid(1000)),
            )
        }
    };
    host.stdout
        .write_all(text.as_bytes())
        .map_err(CliError::Output)
}
