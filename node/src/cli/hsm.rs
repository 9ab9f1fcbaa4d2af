//! `hsm init` and `hsm retry`.
//!
//! It speaks to the token itself and to no server: a cluster's first start needs the token ready.

use std::path::{Path, PathBuf};

use chancery_hsm::Pkcs11Config;
use chancery_hsm::pkcs11::{InitOutcome, TokenInfo, init_token, retry_login};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use crate::config::{Config, Keys};

/// What can be done with the token that keeps the authorities' keys.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Initialises the configured token, unless it is there already
    ///
    /// The first uninitialised token of keys.pkcs11.module gets the label keys.pkcs11.token_label and
    /// the user PIN of keys.pkcs11.pin_file. Run it on one node; run again, it changes nothing.
    Init(Init),
    /// Tries the PIN of the configuration once, after an earlier one was refused
    ///
    /// A server does not try a refused PIN again, nor any PIN while the token says that few tries are
    /// left. Correct keys.pkcs11.pin_file first: each wrong try brings the token nearer to its lock.
    Retry(Retry),
}

/// `hsm init`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        chancery hsm init -config /etc/chancery/chancery.toml -soPinFile /root/so-pin")]
pub(super) struct Init {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// File with the security officer's PIN of the new token, readable by its owner alone
    #[arg(long = "soPinFile", value_name = "FILE")]
    so_pin_file: PathBuf,
}

/// `hsm retry`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        chancery hsm retry -config /etc/chancery/chancery.toml")]
pub(super) struct Retry {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let said = match self {
            Verb::Init(verb) => said(&init(&verb.config, &verb.so_pin_file)?),
            Verb::Retry(verb) => {
                let token: TokenInfo = retry_login(&configured(&verb.config)?)?;
                format!("Token {} took the PIN; servers may start.\n", token.name())
            }
        };
        host.stdout
            .write_all(said.as_bytes())
            .map_err(CliError::Output)
    }
}

/// The token of a configuration. Without a look at the machine: the directories of a
/// server are of no matter here.
fn configured(config: &Path) -> Result<Pkcs11Config, CliError> {
    match Config::load(config)?.keys {
        Keys::Pkcs11(token) => Ok(crate::app::pkcs11_config(&token)),
        Keys::Memory => Err(CliError::NoToken("memory")),
        Keys::Disk(_) => Err(CliError::NoToken("disk")),
    }
}

fn init(config: &Path, so_pin_file: &Path) -> Result<InitOutcome, CliError> {
    Ok(init_token(&configured(config)?, so_pin_file)?)
}

fn said(outcome: &InitOutcome) -> String {
    match outcome {
        InitOutcome::Initialised(token) => format!("Token {} initialised.\n", token.name()),
        InitOutcome::AlreadyThere(token) => format!(
            "Token {} is there already; nothing was changed.\n",
            token.name()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::run;

    fn init_with(keys: &str) -> (String, bool) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chancery.toml");
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"/nowhere/data\"\n\
             [api]\naddress = \"127.0.0.1:8081\"\n{keys}"
        );
        std::fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        let line = ["hsm", "init", "-config", &file, "-soPinFile", "/nowhere/so"];
        let outcome = run(&line, "");
        assert_eq!(outcome.out, "");
        (outcome.err, outcome.success)
    }

    #[test]
    fn keys_in_memory_or_on_disk_have_no_token_to_initialise() {
        let disk = "[keys]\nbackend = \"disk\"\n[keys.disk]\ndirectory = \"/nowhere/keys\"\n";
        for (backend, keys) in [("memory", ""), ("disk", disk)] {
            let wanted = format!(
                "Error: there is no token to initialise: keys.backend is \"{backend}\", set it to \
                 \"pkcs11\"\n"
            );
            assert_eq!(init_with(keys), (wanted, false));
        }
    }

    #[test]
    fn what_the_custody_room_refuses_is_said_in_its_words() {
        let keys = "[keys]\nbackend = \"pkcs11\"\n[keys.pkcs11]\nmodule = \"/nowhere/libnone.so\"\n\
                    token_label = \"ca\"\npin_file = \"/nowhere/pin\"\n";
        let (said, success) = init_with(keys);
        assert!(!success);
        assert_eq!(
            said,
            "Error: no PKCS#11 module at /nowhere/libnone.so: \
             install the vendor's library or correct the path\n"
        );
    }

    #[test]
    fn a_token_made_and_one_found_are_told_apart() {
        let token = TokenInfo {
            label: "ca".into(),
            serial: "42".into(),
            manufacturer: String::new(),
            model: String::new(),
            sessions_max: None,
            pin_warning: None,
        };
        assert_eq!(
            said(&InitOutcome::Initialised(token.clone())),
            "Token \"ca\" (serial 42) initialised.\n"
        );
        assert_eq!(
            said(&InitOutcome::AlreadyThere(token)),
            "Token \"ca\" (serial 42) is there already; nothing was changed.\n"
        );
    }
}
