//! `hsm init`, `hsm retry`, `hsm check`, `hsm bench`, `hsm keys` and `hsm adopt`.
//!
//! `init`, `check` and `bench` speak to the token itself and to no server: a cluster's first start
//! needs the token ready.

mod keys;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
use chancery_api::chancery::cluster::v1::{RetryLoginRequest, RetryLoginResponse};
use chancery_hsm::pkcs11::{InitOutcome, Pace, Survey, init_token, pace, survey};
use chancery_hsm::{KeyId, KeyRef, KeyType, Pkcs11Config, SignerError};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::host::Host;
use super::output;
use super::session::{Common, Session, request};
use crate::config::{Config, Keys};

/// What can be done with the token that keeps the authorities' keys.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Initialises the configured token, unless it is there already
    ///
    /// The first uninitialised token of keys.pkcs11.module gets the label keys.pkcs11.token_label and
    /// the user PIN of keys.pkcs11.pin_file. Run it on one node; run again, it changes nothing.
    Init(Init),
    /// Has the asked server try its PIN once, after one was refused
    ///
    /// No server of the cluster tries a PIN by itself once the token refused one, nor while the token
    /// says that few tries are left. Correct the PIN file first: each wrong try brings the token nearer
    /// to its lock. Success lets the other servers log in by themselves again.
    Retry(Retry),
    /// Says whether module, token, PIN and keys are fit for this configuration, and what is missing
    ///
    /// It logs in once, as a server does, and signs once with a key of this cluster's where there is
    /// one. Nothing on the token is changed. It fails where something is missing.
    Check(Check),
    /// Measures how many signatures the token makes in a second
    ///
    /// It makes a key on the token, signs with it by each number of sessions, verifies every
    /// signature, and destroys the key. Servers that sign meanwhile share the token with it.
    Bench(Bench),
    /// Says what each key behind the asked server's signer belongs to; destroys what belongs to nothing
    ///
    /// Orphans are keys that this cluster had made and that no authority has: of a key that was given
    /// up half made, of a revoked authority, and of one that ended. Keys of other clusters in the same
    /// token are shown and never touched.
    Keys(keys::Keys),
    /// Takes over the keys of a cluster that was restored or recovered
    ///
    /// It compares every key that this cluster needs with what the log has, and with -yes lets
    /// `hsm keys -sweep` destroy orphans that were made before the restore.
    Adopt(keys::Adopt),
}

/// `hsm check`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        chancery hsm check -config /etc/chancery/chancery.toml")]
pub(super) struct Check {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// `hsm bench`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        chancery hsm bench -config /etc/chancery/chancery.toml -sessions 1,4,16")]
pub(super) struct Bench {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Numbers of sessions to sign with, 1 to 64 each
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,2,4,8",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    sessions: Vec<u32>,
    /// Types of keys; the configured one (issuance.ca_key_type) when not given
    #[arg(long = "keyType", value_name = "TYPE,TYPE", value_delimiter = ',', value_parser = key_type)]
    key_type: Vec<KeyType>,
    /// How long each measurement lasts, in seconds, 1 to 600
    #[arg(long, value_name = "SECONDS", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

fn key_type(name: &str) -> Result<KeyType, String> {
    let known = KeyType::ALL
        .into_iter()
        .find(|known| known.as_str() == name);
    known.ok_or_else(|| {
        let all = KeyType::ALL.map(KeyType::as_str).join(", ");
        format!("no type of key; one of {all}")
    })
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
        chancery hsm retry -socketPath /run/chancery/api.sock")]
pub(super) struct Retry {
    /// Also with the PIN that was refused: the token's PIN has been changed to it
    #[arg(long = "samePin")]
    same_pin: bool,
    #[command(flatten)]
    common: Common,
}

impl Retry {
    async fn order(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let mut client = ClusterClient::new(session.channel().await?);
        let asked = RetryLoginRequest {
            same_pin: self.same_pin,
        };
        let call = client.retry_login(request(asked));
        let answer = session.call(call).await?;
        if session.is_json() {
            let value = serde_json::json!({
                "token_label": answer.token_label,
                "token_serial": answer.token_serial,
                "not_needed": answer.not_needed,
                "refused_elsewhere": answer.refused_elsewhere,
            });
            return session.out(&output::value_json(&value)?);
        }
        session.out(&retried(&answer))
    }
}

fn retried(answer: &RetryLoginResponse) -> String {
    let token = format!(
        "Token \"{}\" (serial {})",
        answer.token_label, answer.token_serial
    );
    match (answer.not_needed, answer.refused_elsewhere.as_str()) {
        (false, _) => format!(
            "{token} took the PIN. This server signs again; the others log in by themselves, except where \
             their own PIN was refused: correct it there and run this command there.\n"
        ),
        (true, "") => format!("{token} is in use by this server; nothing was tried.\n"),
        (true, elsewhere) => format!(
            "{token} is in use by this server; nothing was tried. It refused another server ({elsewhere}): \
             correct the PIN there and run this command there.\n"
        ),
    }
}

impl Verb {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let said = match self {
            Verb::Check(verb) => return check(&verb.config, host),
            Verb::Bench(verb) => return bench(&verb, host),
            Verb::Keys(verb) => return verb.run(host),
            Verb::Adopt(verb) => return verb.run(host),
            Verb::Init(verb) => said(&init(&verb.config, &verb.so_pin_file)?),
            Verb::Retry(verb) => {
                return Session::run(&verb.common, host, async |session| {
                    verb.order(session).await
                });
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
    let config = Config::load(config)?;
    match config.keys {
        Keys::Pkcs11(token) => crate::app::pkcs11_config(&token, &config.data_dir)
            .map_err(|problem| CliError::Said(problem.to_string())),
        Keys::Memory => Err(CliError::NoToken("memory")),
        Keys::Disk(_) => Err(CliError::NoToken("disk")),
    }
}

/// What keys of authorities are labelled with, whatever the cluster.
const LABELS: &str = "chancery/";

fn check(config: &Path, host: &mut Host<'_>) -> Result<(), CliError> {
    let needed = crate::app::key_type(Config::load(config)?.issuance.ca_key_type);
    let token = configured(config)?;
    let survey = survey(&token, LABELS).map_err(with_advice)?;
    let (report, missing) = checked(&token, &survey, needed);
    host.stdout
        .write_all(report.as_bytes())
        .map_err(CliError::Output)?;
    match missing {
        0 => Ok(()),
        missing => Err(CliError::TokenUnfit { missing }),
    }
}

/// What to do about a token that is not there.
fn with_advice(error: SignerError) -> CliError {
    match error {
        SignerError::TokenNotFound { .. } => CliError::Said(format!(
            "{error}: correct [keys.pkcs11], or have `chancery hsm init` initialise a token"
        )),
        error => error.into(),
    }
}

/// The report of a survey, and how much is missing for a server with keys of the `needed` type.
fn checked(config: &Pkcs11Config, survey: &Survey, needed: KeyType) -> (String, usize) {
    let mut missing = 0;
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<11}{what}");
    };
    line(
        "module",
        format!("{}, {}", survey.library, config.module.display()),
    );
    let token = &survey.token;
    line(
        "token",
        format!(
            "{}, {} of {}",
            token.name(),
            token.model.trim(),
            token.manufacturer.trim()
        ),
    );
    let (wanted, limit) = (u64::from(config.sessions), token.sessions_max);
    line(
        "sessions",
        match limit {
            None => format!("no limit; {wanted} sign, 2 more are used"),
            Some(limit) if limit >= wanted + 2 => {
                format!("at most {limit}; {wanted} sign, 2 more are used")
            }
            Some(limit) => {
                missing += usize::from(limit < 3);
                format!(
                    "at most {limit}: fewer than the {wanted} of keys.pkcs11.sessions sign, 2 more are used"
                )
            }
        },
    );
    line(
        "PIN",
        match &survey.login {
            Ok(()) => format!("taken, {}", config.pin_file.display()),
            Err(error) => {
                missing += 1;
                format!("no: {error}")
            }
        },
    );
    for (key_type, lacks) in &survey.key_types {
        let configured = if *key_type == needed {
            missing += lacks.len();
            " (issuance.ca_key_type)"
        } else {
            ""
        };
        let what = if lacks.is_empty() {
            "can be made and used".to_owned()
        } else {
            format!("no: {}", lacks.join("; "))
        };
        line(key_type.as_str(), format!("{what}{configured}"));
    }
    if survey.login.is_ok() {
        line("keys", format!("{} of Chancery's", survey.keys.len()));
        for seen in &survey.keys {
            let key = &seen.listing.key;
            match &seen.key_type {
                Ok(key_type) => line("", format!("{key_type} {key}")),
                Err(error) => {
                    missing += 1;
                    line("", format!("no: {error}"));
                }
            }
        }
        line(
            "signature",
            match &survey.signature {
                None if survey.keys.is_empty() => {
                    "none made: no key of Chancery's is there yet".into()
                }
                None => "none made: no key above can be used".into(),
                Some(Ok(took)) => format!("made and verified in {:.1} ms", millis(*took)),
                Some(Err(error)) => {
                    missing += 1;
                    format!("no: {error}")
                }
            },
        );
    }
    (text, missing)
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

fn bench(verb: &Bench, host: &mut Host<'_>) -> Result<(), CliError> {
    let mut token = configured(&verb.config)?;
    let configured_type = crate::app::key_type(Config::load(&verb.config)?.issuance.ca_key_type);
    let types = match verb.key_type.as_slice() {
        [] => vec![configured_type],
        types => types.to_vec(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Output)?;
    // Said with the first row: above an error it would be a table of nothing.
    let mut head = "key type   sessions  signatures/s   p50 ms   p99 ms   worst ms\n";
    let mut say = |text: &str| {
        host.stdout
            .write_all(text.as_bytes())
            .and_then(|()| host.stdout.flush())
            .map_err(CliError::Output)
    };
    for key_type in types {
        for sessions in &verb.sessions {
            token.sessions = *sessions;
            let id: [u8; KeyId::BYTES] = crate::environment::random();
            let key = KeyRef {
                id: KeyId::new(id),
                label: format!("chancery-bench/{}", hex::encode(id)),
            };
            let lasts = Duration::from_secs(verb.seconds);
            let measured = runtime.block_on(pace(&token, &key, key_type, lasts));
            let measured = measured.map_err(with_advice)?;
            say(&format!(
                "{}{}",
                std::mem::take(&mut head),
                row(key_type, &measured)
            ))?;
        }
    }
    Ok(())
}

fn row(key_type: KeyType, pace: &Pace) -> String {
    format!(
        "{:<10} {:>8}  {:>12.0} {:>8.2} {:>8.2} {:>10.2}\n",
        key_type.as_str(),
        pace.sessions,
        pace.per_second(),
        millis(pace.percentile(50)),
        millis(pace.percentile(99)),
        millis(pace.percentile(100)),
    )
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
    use chancery_hsm::pkcs11::TokenInfo;

    use crate::cli::testing::{Answer, FakeServer, run};

    #[test]
    fn a_retry_says_what_happened_and_what_to_do_next() {
        const PATH: &str = "/chancery.cluster.v1.Cluster/RetryLogin";
        let took = RetryLoginResponse {
            token_label: "ca".into(),
            token_serial: "42".into(),
            ..RetryLoginResponse::default()
        };
        let not_needed = RetryLoginResponse {
            not_needed: true,
            ..took.clone()
        };
        let elsewhere = RetryLoginResponse {
            refused_elsewhere: "node 3: CKR_PIN_INCORRECT".into(),
            ..not_needed.clone()
        };
        for (answer, wanted) in [
            (
                took,
                "Token \"ca\" (serial 42) took the PIN. This server signs again",
            ),
            (not_needed, "is in use by this server; nothing was tried.\n"),
            (
                elsewhere,
                "It refused another server (node 3: CKR_PIN_INCORRECT): correct the PIN there",
            ),
        ] {
            let server = FakeServer::start([Answer::ok(PATH, &answer)]);
            let outcome = server.run("hsm retry");
            assert!(outcome.out.contains(wanted), "{}", outcome.out);
        }
        let server = FakeServer::start([Answer::refusal(PATH, 9, "nothing was tried")]);
        let outcome = server.run("hsm retry -samePin");
        assert!(!outcome.success);
        assert!(
            outcome
                .err
                .contains("FailedPrecondition desc = nothing was tried"),
            "{}",
            outcome.err
        );
        assert!(server.request::<RetryLoginRequest>(0).same_pin);
    }

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
    fn keys_in_memory_or_on_disk_have_no_token() {
        let disk = "[keys]\nbackend = \"disk\"\n[keys.disk]\ndirectory = \"/nowhere/keys\"\n";
        for (backend, keys) in [("memory", ""), ("disk", disk)] {
            let wanted = format!(
                "Error: there is no token: keys.backend is \"{backend}\", set it to \"pkcs11\"\n"
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
