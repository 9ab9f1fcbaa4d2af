//! `migrate config`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::migrate::{self, hcl};

/// `migrate config`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery migrate config /opt/spire/conf/server/server.conf -out chancery.toml\n  \
    chancery migrate config -expandEnv server.conf | less")]
pub(in crate::cli) struct Config {
    /// SPIRE's configuration file, HCL or JSON; - reads standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Where to write ours; must not exist yet. Standard output where none is given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replaces $VARIABLES in the file by the environment's, as SPIRE's -expandEnv does
    #[arg(long = "expandEnv")]
    expand_env: bool,
}

impl Config {
    /// Remarks go to standard error, `FILE:LINE: key: text`; they are no failure.
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let mut text = self.read(host)?;
        let mut lines = Vec::new();
        if self.expand_env {
            let expanded = migrate::expand(&text, host.variable);
            for name in &expanded.unset {
                let shown = name.escape_debug();
                lines.push(format!(
                    "{}: the variable {shown} is not set; nothing stands in its place",
                    self.file
                ));
            }
            text = expanded.text;
        }
        let translation =
            migrate::translate(&text, &self.file).map_err(|source| CliError::Hcl {
                path: self.file.clone().into(),
                source,
            })?;
        for remark in &translation.remarks {
            lines.push(match remark.line {
                Some(line) => format!("{}:{line}: {remark}", self.file),
                None => format!("{}: {remark}", self.file),
            });
        }
        for problem in &translation.left_open {
            // One line each; problems of ours have no others.
            lines.push(format!("still wrong with the result: {problem}"));
        }
        match &self.out {
            Some(out) => {
                write_new(out, &translation.toml).map_err(|source| CliError::Write {
                    path: out.clone(),
                    source,
                })?;
                let verdict = if translation.left_open.is_empty() {
                    "its keys are complete"
                } else {
                    "it needs what is named above"
                };
                lines.push(format!(
                    "wrote {}; {verdict}, check it with: chancery validate -config {}",
                    out.display(),
                    out.display()
                ));
            }
            None => {
                let written = host.stdout.write_all(translation.toml.as_bytes());
                written.map_err(CliError::Output)?;
            }
        }
        for line in lines {
            writeln!(host.stderr, "{line}").map_err(CliError::Output)?;
        }
        Ok(())
    }

    fn read(&self, host: &mut Host<'_>) -> Result<String, CliError> {
        let failed = |source: io::Error| CliError::File {
            path: self.file.clone().into(),
            source,
        };
        let bytes_max = hcl::BYTES_MAX as u64;
        let mut bytes = Vec::new();
        if self.file == "-" {
            let mut limited = (&mut *host.stdin).take(bytes_max + 1);
            limited.read_to_end(&mut bytes).map_err(failed)?;
        } else {
            let file = File::open(&self.file).map_err(failed)?;
            let mut limited = file.take(bytes_max + 1);
            limited.read_to_end(&mut bytes).map_err(failed)?;
        }
        if bytes.len() as u64 > bytes_max {
            return Err(CliError::FileTooLarge {
                path: self.file.clone().into(),
                bytes_max,
            });
        }
        String::from_utf8(bytes).map_err(|error| failed(io::Error::other(error.utf8_error())))
    }
}

/// Never over a file that is there.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
