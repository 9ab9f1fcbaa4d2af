//! Starts of `chancery` that must not come up.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::{Node, bin_dir, eventually, text};
use tokio::process::Command;

const TERMINATE: i32 = 15;
/// What refuses to start does so at once; this is for a machine under load.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

/// Runs `chancery` to its end, which must be exit code 1 and an error; the error.
pub(crate) async fn refused(args: &[&str], env: &[(&str, &Path)]) -> anyhow::Result<String> {
    Ok(refused_with_log(args, env).await?.1)
}

/// The same, and what was logged before.
pub(crate) async fn refused_with_log(
    args: &[&str],
    env: &[(&str, &Path)],
) -> anyhow::Result<(String, String)> {
    let mut command = Command::new(bin_dir()?.join("chancery"));
    command
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(REFUSAL_LIMIT, command.output());
    let output = output
        .await
        .with_context(|| format!("{args:?} goes on running"))??;
    let said = text(&output);
    ensure!(
        output.status.code() == Some(1),
        "{args:?} ended with {}: {said}",
        output.status
    );
    // The log is on standard error as well; the error is its last word.
    let error = said
        .rfind("Error: ")
        .with_context(|| format!("no error: {said}"))?;
    ensure!(
        error == 0 || said.as_bytes()[error - 1] == b'\n',
        "the error is inside a line: {said}"
    );
    ensure!(!said.contains("panicked"), "{said}");
    let (log, error) = said.split_at(error);
    Ok((log.to_owned(), error.to_owned()))
}

/// `server run` with a configuration that must be refused.
pub(crate) async fn run(config: &Path) -> anyhow::Result<String> {
    refused(&["server", "run", "--config", path(config)?], &[]).await
}

pub(crate) fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Asks a node to stop, and waits until its process is gone.
pub(crate) async fn stop(
    cluster: &chancery_tests::cluster::Cluster,
    node: &Node,
) -> anyhow::Result<()> {
    cluster.signal(&node.id, TERMINATE)?;
    eventually("the node's end", Duration::from_secs(20), || async {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid));
        // A process that nobody has waited for yet is a zombie: it holds nothing any more.
        Ok(stat
            .map_or(true, |stat| stat.contains(") Z "))
            .then_some(()))
    })
    .await
}

/// A configuration for a server of its own, in a folder of its own.
pub(crate) struct Setup {
    pub(crate) dir: tempfile::TempDir,
    /// Ports of api, peer, metrics and health.
    pub(crate) ports: [u16; 4],
}

impl Setup {
    pub(crate) fn new() -> anyhow::Result<Self> {
        // All held at once, so that they differ.
        let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0"));
        let mut ports = [0; 4];
        for (port, held) in ports.iter_mut().zip(held) {
            *port = held?.local_addr()?.port();
        }
        Ok(Self {
            dir: tempfile::Builder::new()
                .prefix("chancery-test-")
                .tempdir()?,
            ports,
        })
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// A sound configuration; `rest` goes at its end.
    pub(crate) fn text(&self, rest: &str) -> String {
        let [api, peer, metrics, health] = self.ports;
        format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{}\"\n\
             [api]\naddress = \"127.0.0.1:{api}\"\nadmin_socket = \"{}\"\n\
             [peer]\naddress = \"127.0.0.1:{peer}\"\n\
             [metrics]\naddress = \"127.0.0.1:{metrics}\"\n[health]\naddress = \"127.0.0.1:{health}\"\n{rest}",
            self.data_dir().display(),
            self.socket().display(),
        )
    }

    /// Writes a configuration; its file.
    pub(crate) fn write(&self, text: &str) -> anyhow::Result<PathBuf> {
        let file = self.dir.path().join("chancery.toml");
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Fails if a refused start has left more than an empty data directory and its lock.
    pub(crate) fn nothing_written(&self) -> anyhow::Result<()> {
        ensure!(!self.socket().exists(), "a socket was left");
        let Ok(entries) = std::fs::read_dir(self.data_dir()) else {
            return Ok(());
        };
        for entry in entries {
            let name = entry?.file_name();
            ensure!(name == "lock", "{} was written", name.display());
        }
        Ok(())
    }
}
