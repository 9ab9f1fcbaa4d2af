//! The configuration file: TOML, every key known, every value checked before anything starts.

use std::path::{Path, PathBuf};

use chancery_identity::id::TrustDomain;
use serde::Deserialize;

/// Servers that a file may name.
const SERVERS_MAX: usize = 64;

/// What an agent is to do.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Whose identities it serves.
    pub(crate) trust_domain: TrustDomain,
    /// `host:port` of nodes.
    pub(crate) servers: Vec<String>,
    /// How the first connection is judged.
    pub(crate) bootstrap: Bootstrap,
    /// Where key, SVID and bundle are kept, with mode 0700.
    pub(crate) data_dir: PathBuf,
    /// Where the Workload API is served.
    pub(crate) socket_path: PathBuf,
    /// File with a join token.
    pub(crate) join_token_file: Option<PathBuf>,
}

/// Whom the first connection trusts, when nothing is kept of an earlier one.
#[derive(Debug, Clone)]
pub(crate) enum Bootstrap {
    /// The roots of a PEM file.
    File(PathBuf),
    /// Whoever answers; the bundle it gives is trusted from then on.
    Insecure,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{}: cannot be read: {why}", .path.display())]
    Unreadable { path: PathBuf, why: std::io::Error },
    #[error("{}: {why}", .path.display())]
    Syntax { path: PathBuf, why: String },
    #[error("{}: {}", .path.display(), .problems.join("\n  "))]
    Problems {
        path: PathBuf,
        problems: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    trust_domain: String,
    servers: Vec<String>,
    trust_bundle_path: Option<PathBuf>,
    #[serde(default)]
    insecure_bootstrap: bool,
    data_dir: PathBuf,
    socket_path: PathBuf,
    join_token_file: Option<PathBuf>,
}

impl Config {
    /// Reads and checks a file; every problem is told at once.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|why| ConfigError::Unreadable {
            path: path.to_owned(),
            why,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        raw.check().map_err(|problems| ConfigError::Problems {
            path: path.to_owned(),
            problems,
        })
    }
}

impl Raw {
    fn check(self) -> Result<Config, Vec<String>> {
        let mut problems = Vec::new();
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|why| problems.push(format!("trust_domain: {why}")))
            .ok();
        if self.servers.is_empty() || self.servers.len() > SERVERS_MAX {
            problems.push(format!(
                "servers: name 1 to {SERVERS_MAX}, as \"host:port\""
            ));
        }
        for server in &self.servers {
            let port = server.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                problems.push(format!("servers: \"{server}\" is not \"host:port\""));
            }
        }
        let bootstrap = match (self.trust_bundle_path, self.insecure_bootstrap) {
            (Some(path), false) => Some(Bootstrap::File(path)),
            (None, true) => Some(Bootstrap::Insecure),
            _ => {
                problems.push(
                    "trust_bundle_path: is required, or insecure_bootstrap = true, not both".into(),
                );
                None
            }
        };
        for (key, path) in [
            ("data_dir", &self.data_dir),
            ("socket_path", &self.socket_path),
        ] {
            if !path.is_absolute() {
                problems.push(format!("{key}: is not absolute"));
            }
        }
        match (trust_domain, bootstrap) {
            (Some(trust_domain), Some(bootstrap)) if problems.is_empty() => Ok(Config {
                trust_domain,
                servers: self.servers,
                bootstrap,
                data_dir: self.data_dir,
                socket_path: self.socket_path,
                join_token_file: self.join_token_file,
            }),
            _ => Err(problems),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "trust_domain = 'example.org'\nservers = ['127.0.0.1:8081']\n\
        trust_bundle_path = '/b.pem'\ndata_dir = '/d'\nsocket_path = '/s'\n";

    fn said(text: &str) -> String {
        let error = Config::parse(Path::new("agent.toml"), text).expect_err("is refused");
        error.to_string()
    }

    #[test]
    fn a_file_is_read_and_every_problem_of_it_told() {
        let config = Config::parse(Path::new("agent.toml"), GOOD).expect("is good");
        assert_eq!(config.servers, ["127.0.0.1:8081"]);
        let bad = GOOD
            .replace("'example.org'", "'Exa mple'")
            .replace(":8081", "")
            .replace("'/d'", "'d'")
            + "insecure_bootstrap = true\n";
        let said = said(&bad);
        for part in [
            "trust_domain: ",
            "\"127.0.0.1\" is not",
            "not both",
            "data_dir: is not",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        assert!(said(&format!("{GOOD}sever = 1\n")).contains("sever"));
    }
}
