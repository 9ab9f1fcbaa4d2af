//! `backup save`.
//!
//! The file comes to be under a temporary name beside its own, owner-only, synced, and is
//! read back to its end before it gets its name: what has the name is a whole backup.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chancery_api::chancery::backup::v1::backup_client::BackupClient;
use chancery_api::chancery::backup::v1::{SaveRequest, SaveResponse};
use clap::Args;
use tonic::Streaming;

use super::report::{Report, size};
use crate::backup::{self, Depth};
use crate::cli::error::CliError;
use crate::cli::host::{Host, stderr_is_watched};
use crate::cli::output;
use crate::cli::session::{Common, Session, request};

/// A server that sends nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes between two words of progress.
const PROGRESS_BYTES: u64 = 4 << 20;

/// `backup save`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery backup save -file /var/backups/chancery.backup\n  \
    chancery backup save -file /var/backups/chancery.backup -force -output json")]
pub(in crate::cli) struct Save {
    /// File to write, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Replaces the file where there is one
    #[arg(long)]
    force: bool,
    /// Where no quorum confirms the node's state, takes it as it is and says how old it may be
    #[arg(long = "staleOK")]
    stale_ok: bool,
    #[command(flatten)]
    common: Common,
}

/// The file while it is written; removed with its handle unless it was kept.
struct Part {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Part {
    fn begin(of: &Path) -> Result<Self, CliError> {
        let mut name = of.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = of.with_file_name(name);
        // What an earlier run left is removed, and the file is made anew: one that somebody
        // else put there would stay his, and a link would lead elsewhere.
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let file = removed.and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
        });
        match file {
            Ok(file) => Ok(Self {
                path,
                file,
                kept: false,
            }),
            Err(source) => Err(CliError::Write { path, source }),
        }
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> CliError + use<> {
        let path = self.path.clone();
        move |source| CliError::Write {
            path: path.clone(),
            source,
        }
    }

    /// Gives the file its name, for good.
    fn keep(mut self, name: &Path) -> Result<(), CliError> {
        fs::rename(&self.path, name).map_err(self.failed())?;
        self.kept = true;
        let folder = match name.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(self.failed())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // What is left says by its name that it is no backup.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Save {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        Session::run(&self.common, host, async |session| self.save(session).await)
    }

    fn check_free(&self) -> Result<(), CliError> {
        if self.force || !self.file.exists() {
            return Ok(());
        }
        Err(CliError::Said(format!(
            "{} exists: choose another -file, or replace it with -force",
            self.file.display()
        )))
    }

    async fn save(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        self.check_free()?;
        let mut client = BackupClient::new(session.channel().await?);
        let mut part = Part::begin(&self.file)?;
        let asked = request(SaveRequest {
            stale_ok: self.stale_ok,
        });
        let stream = session.call(client.save(asked)).await?;
        receive(stream, &mut part, session).await?;
        part.file.sync_all().map_err(part.failed())?;
        let survey = backup::survey(&part.path, Depth::Verify)?;
        // Somebody may have been here meanwhile.
        self.check_free()?;
        part.keep(&self.file)?;
        let report = Report::of(&self.file, &survey, true)?;
        let text = match session.is_json() {
            true => output::value_json(&report)?,
            false => report.pretty(),
        };
        session.out(&text)
    }
}

async fn receive(
    mut stream: Streaming<SaveResponse>,
    part: &mut Part,
    session: &mut Session<'_, '_>,
) -> Result<(), CliError> {
    let watched = stderr_is_watched();
    let (mut bytes, mut told) = (0u64, 0u64);
    loop {
        let message = match tokio::time::timeout(PATIENCE, stream.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => break,
            Ok(Err(status)) => return Err(session.failure(status)),
            Err(_) => {
                return Err(CliError::NoAnswer {
                    socket: session.socket().to_owned(),
                    seconds: PATIENCE.as_secs(),
                });
            }
        };
        part.file.write_all(&message.chunk).map_err(part.failed())?;
        bytes += message.chunk.len() as u64;
        if watched && bytes - told >= PROGRESS_BYTES {
            told = bytes;
            session.err(&format!("\r{} received", size(bytes)))?;
        }
    }
    if told > 0 {
        session.err(&format!("\r{} received\n", size(bytes)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_part_that_somebody_put_there_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (name, theirs) = (dir.path().join("b"), dir.path().join("theirs"));
        let part = dir.path().join("b.part");
        std::fs::write(&theirs, "theirs").unwrap();
        symlink(&theirs, &part).unwrap();
        let mut made = Part::begin(&name).unwrap();
        made.file.write_all(b"ours").unwrap();
        drop(made);
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
        std::fs::hard_link(&theirs, &part).unwrap();
        let made = Part::begin(&name).unwrap();
        assert_eq!(made.file.metadata().unwrap().mode() & 0o777, 0o600);
        made.keep(&name).unwrap();
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(std::fs::read(&name).unwrap(), b"");
    }
}
