//! The configuration file: TOML, strict, checked once.
//!
//! Why it exists: a server that starts with half-understood settings fails
//! later and elsewhere. Everything the file can get wrong is found here, all of
//! it in one pass, each problem named by its path.
//!
//! Promises: a [`Config`] is valid by construction; nothing downstream checks a
//! value again. A new key has a default, so that old files keep working.
//! Refuses to know: what the values are used for.
//!
//! `schema` is the one list of keys (type, bounds, default, meaning), `raw`
//! mirrors the file, `overrides` is what flags say in its place, `checked` is what
//! the rest of the server sees, and `environment` looks at the machine the file is
//! used on.

mod checked;
mod cidr;
mod duration;
mod environment;
mod node_attestors;
mod overrides;
mod raw;
pub mod schema;
mod secret;

use std::fmt;
use std::path::{Path, PathBuf};

pub use checked::{
    Agents, Api, CaKeyType, CaSubject, Cluster, Config, DiskKeys, HealthPaths, HostPort, Issuance,
    Keys, LogFormat, LogLevel, Peer, PinSource, Pkcs11, Raft, RaftProfile, RateLimit, Storage,
    TokenName,
};
pub use cidr::Cidr;
pub use duration::{DurationError, format_duration, parse_duration};
pub use node_attestors::{NodeAttestors, RootsFileError, X509PopConfig, X509PopRoots, read_roots};
pub use overrides::{Overrides, Variables};
pub use secret::{SecretFileError, read_secret_file};

/// Size from which on a file is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Instead of what the parser of TOML finds in it.
const NOT_OURS: &str = "is SPIRE's configuration; translate it with `chancery migrate config FILE -out \
                        chancery.toml`, and name the result by -config";

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path of the key in the file, dotted; empty where the whole file is meant.
    pub path: String,
    /// What is wrong with it and, where known, what would be right.
    pub message: String,
}

impl Problem {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Everything that is wrong with one file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file as the user named it.
    pub origin: String,
    /// In the order of their paths.
    pub problems: Vec<Problem>,
}

impl ConfigErrors {
    fn new(origin: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self {
            origin: origin.to_owned(),
            problems,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(f, "{}: {count} {noun}", self.origin)?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Every problem of the file; or that it cannot be read, is no UTF-8, or
    /// is larger than 1 MiB.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_with(path, &Overrides::default(), None)
    }

    /// [`Config::load`] with `overrides` in place of keys of the file and, where `variable` is
    /// given, the values it has for `$NAME` and `${NAME}` in place of these.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(
        path: &Path,
        overrides: &Overrides,
        variable: Option<Variables<'_>>,
    ) -> Result<Self, ConfigErrors> {
        let origin = path.display().to_string();
        let text = read_text(path)
            .map_err(|message| ConfigErrors::new(&origin, vec![Problem::new("", message)]))?;
        let text = match variable {
            // As Go does it, absent variables are empty.
            Some(variable) => crate::migrate::expand(&text, variable).text,
            None => text,
        };
        Self::parse_with(&text, &origin, overrides)
    }

    /// Checks `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigErrors> {
        Self::parse_with(text, origin, &Overrides::default())
    }

    /// [`Config::parse`] with `overrides` in place of keys of the text.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_with(
        text: &str,
        origin: &str,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let fail = |problems| Err(ConfigErrors::new(origin, problems));
        let mut table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            // A file that is no TOML has no paths yet; the parser's message
            // carries line, column and the line itself.
            Err(error) => {
                let message = if crate::migrate::is_spire(text) {
                    NOT_OURS.to_owned()
                } else {
                    error.to_string().trim_end().to_owned()
                };
                return fail(vec![Problem::new("", message)]);
            }
        };
        overrides.apply(&mut table);
        let mut problems = schema::conform(&mut table);
        let raw = match raw::RawConfig::deserialize_conformed(table) {
            Ok(raw) => raw,
            Err(error) => {
                problems.push(Problem::new("", error.to_string()));
                return fail(problems);
            }
        };
        let config = checked::check(raw, &mut problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => fail(problems),
        }
    }

    /// Checks what only this machine can tell: directories, files, their modes.
    /// `run` and `validate` both call it, so what validates also starts.
    ///
    /// # Errors
    /// Every problem found, each by the key that names the file.
    pub fn check_environment(&self) -> Result<(), Vec<Problem>> {
        environment::check(self)
    }
}

impl Pkcs11 {
    /// The file with the user PIN.
    ///
    /// # Errors
    /// It is a credential, and this process has none.
    pub fn pin_file(&self) -> Result<PathBuf, Problem> {
        environment::pin_file(&self.pin)
            .map_err(|why| Problem::new("keys.pkcs11.pin_credential", why))
    }
}

impl Config {
    /// The same less what does not keep a server from starting: without its module it signs nothing,
    /// and takes part in the cluster.
    ///
    /// # Errors
    /// As [`Config::check_environment`].
    pub fn check_start(&self) -> Result<(), Vec<Problem>> {
        let Err(mut problems) = self.check_environment() else {
            return Ok(());
        };
        problems.retain(|problem| problem.path != "keys.pkcs11.module");
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut text = String::new();
    let read = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("cannot be read: {e}"))?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
