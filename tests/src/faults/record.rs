//! What a run has found so far, in a file: a run that was interrupted goes on from there.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::cluster::{bin_dir, root};

/// What one round found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the fault, or of what else was measured.
    pub of: String,
    /// Number among those of the same name, from zero.
    pub turn: usize,
    /// Rounds that it stands for.
    pub rounds: usize,
    /// Why it proves nothing.
    pub not_met: Option<String>,
    /// What must not be, one sentence each.
    pub violations: Vec<String>,
    /// From the fault to the answer of the next acknowledged write, in milliseconds.
    pub write_after_ms: Option<u64>,
    /// From the healing until all serve, in milliseconds.
    pub healed_after_ms: Option<u64>,
    /// Answered calls in histories.
    pub answered: usize,
    /// Objects with a history.
    pub histories: usize,
    /// Those that the checker could not judge in time.
    pub unjudged: usize,
    /// Acknowledged writes that were looked for on every node afterwards.
    pub written: usize,
    /// Documents that were signed.
    pub documents: usize,
    /// What else is worth a place in the table.
    pub notes: Vec<String>,
}

impl Finding {
    /// Whether it counts.
    pub fn is_met(&self) -> bool {
        self.not_met.is_none()
    }
}

/// Milliseconds of a time.
pub fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a record is of; another cannot go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Commit of the tree, with `+` where it was changed.
    pub commit: String,
    /// The server that is run, by the first bytes of its SHA-256: the tree may have gone on
    /// since it was built.
    pub server: String,
    /// Seed of the run.
    pub seed: u64,
}

impl Origin {
    /// That of the tree this program was built from, and of the server beside it.
    ///
    /// # Errors
    /// git or the server is missing, or the tree is not git's.
    pub fn now(seed: u64) -> anyhow::Result<Self> {
        let git = |args: &[&str]| {
            let mut command = Command::new("git");
            let output = command.arg("-C").arg(root()).args(args).output();
            let output = output.context("cannot run git")?;
            ensure!(
                output.status.success(),
                "git {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
            commit.push('+');
        }
        let server =
            std::fs::read(bin_dir()?.join("chancery")).context("cannot read the server")?;
        let server = digest(&SHA256, &server);
        let server = hex::encode(server.as_ref().get(..8).unwrap_or_default());
        Ok(Self {
            commit,
            server,
            seed,
        })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            commit,
            server,
            seed,
        } = self;
        write!(f, "commit {commit}, server {server}, seed {seed}")
    }
}

/// The file of a run, or none.
pub struct Record {
    file: Option<File>,
    found: Vec<Finding>,
}

impl Record {
    /// A record in memory alone.
    pub fn unkept() -> Self {
        Self {
            file: None,
            found: Vec::new(),
        }
    }

    /// The record in a file, which is made where there is none.
    ///
    /// # Errors
    /// It is of another commit or seed, cannot be read, or cannot be written.
    pub fn open(path: &Path, origin: &Origin) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        };
        // A line that a killed run did not finish counts for nothing.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = text.get(..whole).unwrap_or_default().lines();
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot write {shown}"))?;
        file.set_len(whole as u64)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
        match lines.next() {
            None => write_line(&mut file, origin)?,
            Some(first) => {
                let known: Origin = serde_json::from_str(first)
                    .with_context(|| format!("{shown} is no record of a run"))?;
                ensure!(
                    known == *origin,
                    "{shown} is of {known}, this is {origin}: go on there, or remove the file"
                );
            }
        }
        let found = lines
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{shown} is damaged"))?;
        Ok(Self {
            file: Some(file),
            found,
        })
    }

    /// Adds what a round found.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, finding: Finding) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            write_line(file, &finding).context("cannot write the record")?;
        }
        self.found.push(finding);
        Ok(())
    }

    /// All that was found.
    pub fn found(&self) -> &[Finding] {
        &self.found
    }

    /// Turns of a name that were taken, and rounds of them that count.
    pub fn taken(&self, of: &str) -> (usize, usize) {
        let mine = self.found.iter().filter(|f| f.of == of);
        let turns = mine.clone().map(|f| f.turn + 1).max().unwrap_or(0);
        let met = mine.filter(|f| f.is_met()).map(|f| f.rounds).sum();
        (turns, met)
    }
}

fn write_line(file: &mut File, line: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(file.write_all(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(of: &str, turn: usize, met: bool) -> Finding {
        Finding {
            of: of.into(),
            turn,
            rounds: 1,
            not_met: (!met).then(|| "nobody called".to_owned()),
            ..Finding::default()
        }
    }

    #[test]
    fn a_record_goes_on_where_it_was_cut_off_and_only_with_its_own_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let origin = Origin {
            commit: "abc".into(),
            server: "def".into(),
            seed: 7,
        };
        let mut record = Record::open(&path, &origin).unwrap();
        record.add(finding("pause", 0, true)).unwrap();
        record.add(finding("pause", 1, false)).unwrap();
        drop(record);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"of\":\"pau");
        std::fs::write(&path, torn).unwrap();
        let mut again = Record::open(&path, &origin).unwrap();
        assert_eq!(again.taken("pause"), (2, 1));
        assert_eq!(again.taken("loss"), (0, 0));
        again.add(finding("pause", 2, true)).unwrap();
        let found = Record::open(&path, &origin).unwrap().found().to_vec();
        assert_eq!(found.len(), 3);
        assert_eq!(found[2], finding("pause", 2, true));
        let other = Origin { seed: 8, ..origin };
        let refused = Record::open(&path, &other).err().unwrap().to_string();
        assert!(
            refused.contains("server def, seed 7, this is commit abc, server def, seed 8"),
            "{refused}"
        );
    }
}
