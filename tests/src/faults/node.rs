//! One node: its files, its process, its admin socket.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
use chancery_api::chancery::cluster::v1::{StatusRequest, StatusResponse};
use rustix::process::{Pid, Signal, kill_process};

use super::lab::Network;
use crate::cluster::bin_dir;
use crate::tls::connect_admin;

/// Port of every node for agents.
pub const API_PORT: u16 = 8081;
/// Port of every node for peers.
pub const PEER_PORT: u16 = 8082;
/// A node that is asked how it is answers at once, or is not well.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// A killed process is gone after this time.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A node of a cluster.
pub struct Node {
    /// Its place in the list of peers, from zero.
    pub index: usize,
    /// Folder of configuration, socket and log.
    pub home: PathBuf,
    /// Environment of the process.
    pub env: Vec<(String, String)>,
    child: Option<Child>,
}

impl Node {
    /// A node whose files are in `home`.
    pub fn new(index: usize, home: PathBuf, env: Vec<(String, String)>) -> Self {
        Self {
            index,
            home,
            env,
            child: None,
        }
    }

    /// host:port for agents.
    pub fn api(&self) -> String {
        format!("{}:{API_PORT}", Network::address(self.index))
    }

    /// Admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.home.join("api.sock")
    }

    /// Data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data/node")
    }

    /// Log of every start.
    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        let child = self.child.as_ref();
        let pid = child.and_then(|c| Pid::from_raw(i32::try_from(c.id()).ok()?));
        pid.with_context(|| format!("node {} does not run", self.index))
    }

    /// Starts the process; it is not waited for.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.index);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = Network::command(self.index, bin_dir()?.join("chancery"));
        command
            .args(["server", "run", "--config"])
            .arg(self.home.join("chancery.toml"))
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Ctrl-C is for the harness.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.child = Some(command.spawn().context("cannot start a node")?);
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let sent = kill_process(self.pid()?, signal);
        sent.with_context(|| format!("cannot signal node {}", self.index))
    }

    /// SIGKILL, without waiting for the end.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Waits until the process has ended; whether a signal ended it, and its exit code.
    pub async fn ended(&mut self) -> anyhow::Result<(Option<i32>, Option<i32>)> {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let child = self.child.as_mut().context("it does not run")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok((status.signal(), status.code()));
            }
            if Instant::now() >= deadline {
                bail!("node {} has not ended within {END_LIMIT:?}", self.index);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        match self.child.as_mut() {
            Some(child) => Ok(child.try_wait()?.is_some()),
            None => Ok(true),
        }
    }

    /// `cluster status`, as this node tells it.
    pub async fn status(&self) -> anyhow::Result<StatusResponse> {
        let asked = async {
            let mut client = ClusterClient::new(connect_admin(&self.admin_socket()).await?);
            anyhow::Ok(client.status(StatusRequest {}).await?.into_inner())
        };
        let answer = tokio::time::timeout(STATUS_LIMIT, asked).await;
        answer.with_context(|| format!("node {} does not answer", self.index))?
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        // Issued documents are most of a log and say nothing of a fault.
        let lines = log.lines().filter(|line| !line.contains("chancery::audit"));
        let lines: Vec<String> = lines
            .rev()
            .take(8)
            .map(|line| line.chars().take(300).collect())
            .collect();
        let lines: Vec<String> = lines.into_iter().rev().collect();
        format!("--- node {}\n{}\n", self.index, lines.join("\n"))
    }

    /// What its log says that no node may say.
    pub fn panics(&self) -> Option<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines()
            .find(|line| line.contains("panicked at"))
            .map(str::to_owned)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // It may have ended; the namespace ends it otherwise.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Writes a file that only the owner reads.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = file
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}
