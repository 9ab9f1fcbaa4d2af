//! Faults of processes: killed, and stopped for a while.

use async_trait::async_trait;
use rustix::process::Signal;

use super::cluster::Cluster;
use super::injection::{Injection, Seen};

/// SIGKILL at the same moment, and a new start.
pub struct Kill {
    /// Who is killed.
    pub victims: Vec<usize>,
    /// Why these, for the reader.
    pub whom: String,
}

#[async_trait]
impl Injection for Kill {
    fn says(&self) -> String {
        format!("SIGKILL of {}", self.whom)
    }

    fn away(&self) -> Vec<usize> {
        self.victims.clone()
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        for victim in &self.victims {
            cluster.nodes[*victim].kill()?;
        }
        Ok(())
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let mut killed = 0;
        for victim in &self.victims {
            let (signal, code) = cluster.nodes[*victim].ended().await?;
            if signal != Some(Signal::KILL.as_raw()) {
                return Ok(Seen::NotMet(format!(
                    "node {victim} ended by itself, with {signal:?} {code:?}"
                )));
            }
            killed += 1;
        }
        for victim in self.victims.clone() {
            cluster.start_node(victim).await?;
        }
        Ok(Seen::Met(format!("{killed} killed")))
    }
}

/// SIGSTOP, and SIGCONT at the end.
pub struct Pause {
    /// Who is stopped.
    pub victim: usize,
    /// Why this one, for the reader.
    pub whom: String,
}

#[async_trait]
impl Injection for Pause {
    fn says(&self) -> String {
        format!("SIGSTOP of {}", self.whom)
    }

    fn away(&self) -> Vec<usize> {
        vec![self.victim]
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        cluster.nodes[self.victim].signal(Signal::STOP)
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let node = &cluster.nodes[self.victim];
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid()?.as_raw_nonzero()))?;
        let stopped = stat.rsplit(") ").next().is_some_and(|s| s.starts_with('T'));
        node.signal(Signal::CONT)?;
        Ok(Seen::when(stopped, format!("stopped: {stopped}")))
    }
}
