//! A node that runs out of descriptors.

use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;

use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use super::lab;

/// Descriptors that are left to the node.
const LEFT: usize = 4;
/// Connections that would take them.
const CONNECTIONS: usize = 40;

/// The limit of open files of one node is lowered to what it has open, and clients open
/// connections.
pub struct NoDescriptors {
    /// Whose.
    pub victim: usize,
    /// For the reader.
    pub whom: String,
    before: String,
    open: Vec<TcpStream>,
    limit: usize,
}

impl NoDescriptors {
    /// Takes the descriptors of `victim`.
    pub fn new(victim: usize, who: &str) -> Self {
        Self {
            victim,
            whom: format!("{who}, node {victim}"),
            before: String::new(),
            open: Vec::new(),
            limit: 0,
        }
    }

    /// How many of its connections were turned away: never made, or closed by the node.
    fn turned_away(&self) -> usize {
        let closed = |stream: &&TcpStream| {
            let told = stream.try_read(&mut [0]);
            !matches!(told, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
        };
        CONNECTIONS - self.open.len() + self.open.iter().filter(closed).count()
    }

    fn count(&self, cluster: &Cluster) -> anyhow::Result<usize> {
        let pid = cluster.nodes[self.victim].pid()?.as_raw_nonzero();
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }
}

#[async_trait]
impl Injection for NoDescriptors {
    fn says(&self) -> String {
        format!("{} may open {LEFT} more files", self.whom)
    }

    fn away(&self) -> Vec<usize> {
        vec![self.victim]
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let pid = cluster.nodes[self.victim]
            .pid()?
            .as_raw_nonzero()
            .to_string();
        let shown = [
            "--pid",
            &pid,
            "--nofile",
            "--raw",
            "--noheadings",
            "--output=SOFT",
        ];
        lab::run("prlimit", &shown)?
            .trim()
            .clone_into(&mut self.before);
        self.limit = self.count(cluster)? + LEFT;
        let limit = format!("--nofile={}:", self.limit);
        lab::run("prlimit", &["--pid", &pid, &limit])?;
        for _ in 0..CONNECTIONS {
            let connect = TcpStream::connect(cluster.nodes[self.victim].api());
            // Who is not let in has shown what it should.
            if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(50), connect).await {
                self.open.push(stream);
            }
        }
        Ok(())
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let node = &mut cluster.nodes[self.victim];
        if node.has_ended()? {
            let (signal, code) = node.ended().await?;
            self.open.clear();
            cluster.start_node(self.victim).await?;
            return Ok(Seen::Wrong(format!("it ended with {signal:?} {code:?}")));
        }
        let pid = node.pid()?.as_raw_nonzero().to_string();
        let (open, limit, away) = (self.count(cluster)?, self.limit, self.turned_away());
        lab::run(
            "prlimit",
            &["--pid", &pid, &format!("--nofile={}:", self.before)],
        )?;
        self.open.clear();
        let told =
            format!("{away} of {CONNECTIONS} connections turned away, {open} of {limit} open");
        // Where it has some to spare, and takes a few, most are too many all the same.
        Ok(Seen::when(away * 2 > CONNECTIONS, told))
    }
}
