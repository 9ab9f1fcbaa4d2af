//! The `chancery-agent` command line.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use chancery_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use chancery_api::workload::{X509svidRequest, X509svidResponse};
use chancery_identity::bundle::{pem, pem_certificate, split_certificates};
use clap::{Parser, Subcommand};
use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Uri};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::manager::Manager;
use crate::workload;

/// A join token is a UUID or what an administrator chose.
const TOKEN_BYTES_MAX: usize = 1024;

#[derive(Parser)]
#[command(
    name = "chancery-agent",
    version,
    about = "Serves identities to the workloads of a host",
    long_about = "Serves identities to the workloads of a host.\n\nFlags may be written as SPIRE's, with one dash (-config FILE), or with two."
)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Attests to the cluster and serves the Workload API until it is stopped
    Run {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// File with a join token, for a host that is not attested yet
        #[arg(long = "joinTokenFile", value_name = "FILE")]
        join_token_file: Option<PathBuf>,
        /// The join token itself: everyone on this host can read it
        #[arg(
            long = "joinToken",
            value_name = "TOKEN",
            conflicts_with = "join_token_file"
        )]
        join_token: Option<String>,
    },
    /// Checks a configuration file
    Validate {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Asks the Workload API as a workload does
    #[command(subcommand)]
    Api(Api),
}

#[derive(Subcommand)]
enum Api {
    /// Fetches what this process is given
    #[command(subcommand)]
    Fetch(Fetch),
}

#[derive(Subcommand)]
enum Fetch {
    /// X.509-SVIDs with their bundles
    X509 {
        /// Socket of the Workload API; else that of SPIFFE_ENDPOINT_SOCKET
        #[arg(long = "socketPath", value_name = "PATH")]
        socket_path: Option<PathBuf>,
        /// Folder for svid.N.pem, svid.N.key and bundle.N.pem
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
}

/// Runs a command line; what failed is on standard error, in one line.
pub fn main(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = Line::parse_from(line.into_iter().map(two_dashes));
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(line.verb.run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `-config` as `--config`.
fn two_dashes(word: OsString) -> OsString {
    match word.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => word,
    }
}

impl Verb {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Validate { config } => {
                Config::load(&config)?;
                say(&format!("{} is fit for use\n", config.display()))
            }
            Self::Run {
                config,
                join_token_file,
                join_token,
            } => {
                let config = Config::load(&config)?;
                tracing_subscriber::fmt()
                    .with_env_filter(
                        tracing_subscriber::EnvFilter::try_from_default_env()
                            .unwrap_or_else(|_| "info".into()),
                    )
                    .with_writer(std::io::stderr)
                    .init();
                if join_token.is_some() {
                    tracing::warn!(
                        "-joinToken: others on this host can read the token; use -joinTokenFile"
                    );
                }
                let file = join_token_file.or_else(|| config.join_token_file.clone());
                let token = match (join_token, file) {
                    (Some(token), _) => Some(Zeroizing::new(token)),
                    (None, Some(file)) => Some(read_token(&file)?),
                    (None, None) => None,
                };
                run(config, token).await
            }
            Self::Api(Api::Fetch(Fetch::X509 { socket_path, write })) => {
                fetch_x509(socket_path, write.as_deref()).await
            }
        }
    }
}

/// A token file of its owner alone.
fn read_token(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).with_context(|| format!("join token {shown}"))?;
    ensure!(
        metadata.mode() & 0o077 == 0,
        "join token {shown}: mode {:04o} lets others than its owner at it; chmod 0600 it",
        metadata.mode() & 0o7777
    );
    let text = Zeroizing::new(std::fs::read_to_string(path).with_context(|| format!("{shown}"))?);
    let token = text.trim();
    ensure!(
        (1..=TOKEN_BYTES_MAX).contains(&token.len()),
        "join token {shown}: has not 1 to {TOKEN_BYTES_MAX} bytes"
    );
    Ok(Zeroizing::new(token.to_owned()))
}

async fn run(config: Config, token: Option<Zeroizing<String>>) -> anyhow::Result<()> {
    let socket_path = config.socket_path.clone();
    let manager = Manager::start(config, token).await?;
    let snapshots = manager.subscribe();
    let servers = manager.servers();
    let mut synced = snapshots.clone();
    let serving = async move {
        // Served only once there is something to serve.
        if synced.wait_for(Option::is_some).await.is_err() {
            return Ok(());
        }
        let listener = workload::listen(&socket_path)
            .with_context(|| format!("socket {}", socket_path.display()))?;
        tracing::info!(socket = %socket_path.display(), "serving the Workload API");
        workload::serve(listener, snapshots, servers).await?;
        anyhow::Ok(())
    };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        error = manager.run() => Err(error.into()),
        served = serving => served,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

#[allow(
    clippy::disallowed_methods,
    reason = "the variable that SPIFFE defines for workloads"
)]
fn socket(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path);
    }
    let text = std::env::var("SPIFFE_ENDPOINT_SOCKET")
        .context("name the socket with -socketPath, or in SPIFFE_ENDPOINT_SOCKET")?;
    let path = text.strip_prefix("unix://").or(text.strip_prefix("unix:"));
    let path =
        path.with_context(|| format!("SPIFFE_ENDPOINT_SOCKET: \"{text}\" is no unix: path"))?;
    Ok(path.into())
}

async fn fetch_x509(socket_path: Option<PathBuf>, write: Option<&Path>) -> anyhow::Result<()> {
    let path = socket(socket_path)?;
    let shown = path.display().to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://workload");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.with_context(|| format!("no agent serves at {shown}"))?;
    let mut request = tonic::Request::new(X509svidRequest {});
    let metadata = request.metadata_mut();
    metadata.insert("workload.spiffe.io", "true".parse()?);
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let answer = client.fetch_x509svid(request).await;
    let answer = match answer {
        Ok(answers) => answers.into_inner().message().await,
        Err(status) => Err(status),
    };
    let answer =
        answer.map_err(|status| anyhow::anyhow!("{} ({:?})", status.message(), status.code()))?;
    let answer = answer.context("the agent ended the stream")?;
    let mut text = format!("Received {} svids\n", answer.svids.len());
    for (n, svid) in answer.svids.iter().enumerate() {
        let certificates = split_certificates(&svid.x509_svid)?;
        text.push_str(&format!(
            "\nSPIFFE ID:\t{}\nCertificates:\t{}\n",
            svid.spiffe_id,
            certificates.len()
        ));
        if !svid.hint.is_empty() {
            text.push_str(&format!("Hint:\t\t{}\n", svid.hint));
        }
        if let Some(dir) = write {
            write_svid(dir, n, &answer)?;
        }
    }
    say(&text)
}

fn write_svid(dir: &Path, n: usize, answer: &X509svidResponse) -> anyhow::Result<()> {
    let svid = &answer.svids[n];
    let certificates = |der: &[u8]| -> anyhow::Result<String> {
        let certificates = split_certificates(der)?;
        Ok(certificates
            .iter()
            .map(|der| pem_certificate(der))
            .collect())
    };
    for (name, mode, text) in [
        (
            format!("svid.{n}.pem"),
            0o644,
            certificates(&svid.x509_svid)?,
        ),
        (
            format!("svid.{n}.key"),
            0o600,
            pem("PRIVATE KEY", &svid.x509_svid_key),
        ),
        (
            format!("bundle.{n}.pem"),
            0o644,
            certificates(&svid.bundle)?,
        ),
    ] {
        let path = dir.join(name);
        let mut file = std::fs::OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(mode);
        let written = file.open(&path).and_then(|mut file| {
            // Also of one that was there: a key is nobody else's.
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.write_all(text.as_bytes())
        });
        written.with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}
