//! strace on a node: it reports the system calls of a running process, and may tamper
//! with them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use super::cluster::Cluster;
use crate::cluster::eventually;

/// strace has attached within this time.
const ATTACH_LIMIT: Duration = Duration::from_secs(20);

/// strace, attached to all threads of a node. It goes with the node.
pub struct Tracer {
    child: Child,
    calls: PathBuf,
}

impl Tracer {
    /// Attaches to a node with further arguments for strace.
    ///
    /// # Errors
    /// It does not start, or does not attach in time.
    pub async fn attach(cluster: &Cluster, node: usize, args: &[&str]) -> anyhow::Result<Self> {
        let home = &cluster.nodes[node].home;
        let (calls, errors) = (home.join("strace"), home.join("strace-errors"));
        let said = std::fs::File::create(&errors)?;
        let pid = cluster.nodes[node].pid()?.as_raw_nonzero().to_string();
        let child = Command::new("strace")
            .arg("-f")
            .args(args)
            .arg("-o")
            .arg(&calls)
            .args(["-p", &pid])
            .stdin(Stdio::null())
            .stderr(said)
            .spawn()
            .context("cannot run strace")?;
        let tracer = Self { child, calls };
        eventually("strace attached", ATTACH_LIMIT, || async {
            let said = std::fs::read_to_string(&errors)?;
            Ok(said.contains("attached").then_some(()))
        })
        .await?;
        Ok(tracer)
    }

    /// What it has reported so far.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn calls(&self) -> anyhow::Result<String> {
        let calls = std::fs::read(&self.calls)
            .with_context(|| format!("cannot read {}", self.calls.display()))?;
        Ok(String::from_utf8_lossy(&calls).into_owned())
    }

    /// Detaches; all that it reported.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn detach(mut self) -> anyhow::Result<String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended with the process.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.child.wait()?;
        self.calls()
    }

    /// Waits for its end, which the end of the node brings; all that it reported.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn last(mut self) -> anyhow::Result<String> {
        self.child.wait()?;
        self.calls()
    }
}
