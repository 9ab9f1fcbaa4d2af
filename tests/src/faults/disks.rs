//! Faults of disks: syncs that fail or are slow, by strace, and a disk that is full.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;

use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use super::tracer::Tracer;

/// What RocksDB's log and the node's own files call to make their bytes durable.
const SYNCS: &str = "fdatasync,fsync,sync_file_range,msync";

/// What becomes of syncs.
#[derive(Clone, Copy, Debug)]
pub enum Sync {
    /// Each takes so much longer.
    Slow(Duration),
    /// One fails with EIO: the n-th from the injection on.
    Fails(usize),
}

/// Syncs of one node are tampered with.
pub struct TamperedSync {
    /// Whose.
    pub victim: usize,
    /// For the reader.
    pub whom: String,
    /// How.
    pub sync: Sync,
    tracer: Option<Tracer>,
}

impl TamperedSync {
    /// Tampers with the syncs of `victim`.
    pub fn new(victim: usize, who: &str, sync: Sync) -> Self {
        Self {
            victim,
            whom: format!("{who}, node {victim}"),
            sync,
            tracer: None,
        }
    }
}

/// How many calls of strace's report were tampered with.
fn tampered(calls: &str) -> usize {
    let tampered = |line: &&str| line.contains("(INJECTED)") || line.contains("(DELAYED)");
    calls.lines().filter(tampered).count()
}

#[async_trait]
impl Injection for TamperedSync {
    fn says(&self) -> String {
        match self.sync {
            Sync::Slow(by) => format!("each sync of {} takes {by:?} longer", self.whom),
            Sync::Fails(n) => format!("sync {n} of {} fails with EIO", self.whom),
        }
    }

    fn away(&self) -> Vec<usize> {
        vec![self.victim]
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let inject = match self.sync {
            Sync::Slow(by) => format!("inject={SYNCS}:delay_enter={}", by.as_micros()),
            Sync::Fails(n) => format!("inject={SYNCS}:error=EIO:when={n}"),
        };
        let trace = format!("trace={SYNCS}");
        let args = ["-e", &trace, "-e", &inject];
        self.tracer = Some(Tracer::attach(cluster, self.victim, &args).await?);
        Ok(())
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let tracer = self.tracer.take().context("strace was not started")?;
        if matches!(self.sync, Sync::Slow(_)) {
            let slow = tampered(&tracer.detach()?);
            return Ok(Seen::when(slow > 0, format!("{slow} syncs were slow")));
        }
        if !tracer.calls()?.contains("(INJECTED)") {
            tracer.detach()?;
            return Ok(Seen::NotMet("no sync failed".into()));
        }
        // What was not made durable must not be built upon: a new start finds out what is
        // there. A node that stops has ten seconds for its calls.
        let ended = cluster.nodes[self.victim].ended().await;
        tracer.detach()?;
        let Ok((signal, code)) = ended else {
            let goes_on = format!("node {} goes on after a sync failed", self.victim);
            return Ok(Seen::Wrong(goes_on));
        };
        cluster.start_node(self.victim).await?;
        let told = format!("it ended with {signal:?} {code:?} after a failed sync");
        Ok(match code {
            Some(code) if code != 0 => Seen::Met(told),
            _ => Seen::Wrong(told),
        })
    }
}

/// The disk of one node is full.
pub struct FullDisk {
    /// Whose.
    pub victim: usize,
    /// For the reader.
    pub whom: String,
}

impl FullDisk {
    fn filler(&self, cluster: &Cluster) -> PathBuf {
        cluster.nodes[self.victim].home.join("data/filler")
    }
}

#[async_trait]
impl Injection for FullDisk {
    fn says(&self) -> String {
        format!("the disk of {} is full", self.whom)
    }

    fn away(&self) -> Vec<usize> {
        // It takes no writes, and goes on signing.
        Vec::new()
    }

    fn silent(&self) -> Vec<usize> {
        vec![self.victim]
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let mut filler = std::fs::File::create(self.filler(cluster))?;
        let mut chunk = vec![0_u8; 1 << 20];
        // Whole megabytes first, then what is left.
        while !chunk.is_empty() {
            match filler.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    chunk.truncate(chunk.len() / 16);
                }
                Err(error) => return Err(error).context("cannot fill the disk"),
            }
        }
        Ok(())
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let filler = self.filler(cluster);
        let bytes = std::fs::metadata(&filler)?.len();
        std::fs::remove_file(&filler)?;
        let node = &mut cluster.nodes[self.victim];
        let told = format!("{} MiB filled it", bytes >> 20);
        if node.has_ended()? {
            let (signal, code) = node.ended().await?;
            cluster.start_node(self.victim).await?;
            return Ok(Seen::Wrong(format!(
                "{told}; it ended with {signal:?} {code:?}"
            )));
        }
        Ok(Seen::Met(told))
    }
}
