//! Clocks of single processes, by libfaketime: the wall clock only. What measures ages,
//! `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`, no operator can set.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;

use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use crate::cluster::eventually;

/// What makes the wall clock right.
const RIGHT: &str = "+0";
/// libfaketime looks into its file this often.
const LOOK_S: u64 = 1;

/// Environment of a node whose wall clock the harness sets through a file in `home`.
pub fn environment(home: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut candidates = Vec::new();
    for folder in std::fs::read_dir("/usr/lib")?.flatten() {
        candidates.push(folder.path().join("faketime/libfaketimeMT.so.1"));
    }
    let library = candidates.into_iter().find(|p| p.is_file());
    let library = library.context("libfaketime is missing: `make setup` installs it")?;
    let file = file(home);
    std::fs::write(&file, RIGHT)?;
    let set = |name: &str, value: String| (name.to_owned(), value);
    Ok(vec![
        set("LD_PRELOAD", library.display().to_string()),
        set("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        set("FAKETIME_CACHE_DURATION", LOOK_S.to_string()),
        set("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        set("FAKETIME_DONT_RESET", "1".into()),
    ])
}

fn file(home: &Path) -> PathBuf {
    home.join("clock")
}

/// The wall clock of one node is wrong.
pub struct WrongClock {
    /// Whose.
    pub victim: usize,
    /// For the reader.
    pub whom: String,
    /// In libfaketime's notation: `+3600`, `-5`, `+0 x1.1`.
    pub setting: &'static str,
    /// How far it is off at least once the setting is seen.
    pub off: Duration,
}

/// How far a node's own clock, as its peers tell it, is from this machine's.
async fn skew_ms(cluster: &Cluster, node: usize) -> anyhow::Result<u64> {
    let asked = cluster
        .nodes
        .iter()
        .find(|n| n.index != node)
        .context("one node has no peers")?;
    let id = cluster.nodes[node].status().await?.node_id;
    let status = asked.status().await?;
    let member = status.members.into_iter().find(|m| m.id == id);
    let skew = member.and_then(|m| m.clock_skew_ms);
    Ok(skew.context("no skew is known")?.unsigned_abs())
}

#[async_trait]
impl Injection for WrongClock {
    fn says(&self) -> String {
        format!("the clock of {} is set to {}", self.whom, self.setting)
    }

    fn away(&self) -> Vec<usize> {
        vec![self.victim]
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        std::fs::write(file(&cluster.nodes[self.victim].home), self.setting)?;
        let off = u64::try_from(self.off.as_millis())?;
        let limit = Duration::from_secs(10);
        eventually("a wrong clock", limit, || async {
            Ok((skew_ms(cluster, self.victim).await? >= off).then_some(()))
        })
        .await
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let skew = skew_ms(cluster, self.victim).await;
        std::fs::write(file(&cluster.nodes[self.victim].home), RIGHT)?;
        let off = u64::try_from(self.off.as_millis())?;
        Ok(match skew {
            Ok(skew) => Seen::when(skew >= off, format!("off by {skew} ms as a peer sees it")),
            Err(error) => Seen::NotMet(format!("its skew is not known: {error:#}")),
        })
    }
}
