//! Clocks of single processes, by libfaketime: the wall clock only. What measures ages,
//! `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`, no operator can set.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;

use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use crate::cluster::eventually;

/// What makes the wall clock right.
const RIGHT: &str = "+0";
/// A node whose clock is off by more, against the median of a majority, signs nothing.
const MUTE_FROM: Duration = Duration::from_secs(10);
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

/// What is wrong with a clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// It is so many seconds ahead, or behind.
    Off(i32),
    /// It gains so many seconds in each, or loses them. (A rate of libfaketime's own
    /// counts from the start of the process, which would be a step first.)
    Drifts(f64),
}

impl Setting {
    /// How far it is off at least once the fault is there.
    fn least(self) -> Duration {
        match self {
            // Peers know a clock to the half of a round trip.
            Self::Off(seconds) => Duration::from_secs(seconds.unsigned_abs().into()) * 9 / 10,
            Self::Drifts(_) => Duration::from_millis(300),
        }
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off(seconds) => write!(f, "is {seconds:+} s off"),
            Self::Drifts(rate) => write!(f, "drifts by {rate:+} s a second"),
        }
    }
}

/// The wall clock of one node is wrong.
pub struct WrongClock {
    /// Whose.
    pub victim: usize,
    /// For the reader.
    pub whom: String,
    /// How.
    pub setting: Setting,
    drift: Option<tokio::task::JoinHandle<()>>,
}

impl WrongClock {
    /// The clock of `victim`.
    pub fn new(victim: usize, who: &str, setting: Setting) -> Self {
        Self {
            victim,
            whom: format!("{who}, node {victim}"),
            setting,
            drift: None,
        }
    }
}

/// Lets a clock drift until it is aborted.
async fn drift(file: PathBuf, rate: f64) {
    let began = Instant::now();
    let mut steps = tokio::time::interval(Duration::from_millis(100));
    loop {
        steps.tick().await;
        let off = began.elapsed().as_secs_f64() * rate;
        // The fault is not met where it cannot be written.
        let _ = set(&file, &format!("{off:+.3}"));
    }
}

/// Sets a clock at once: whoever reads the file in between sees the old setting.
fn set(file: &Path, setting: &str) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, setting)?;
    Ok(std::fs::rename(new, file)?)
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
        format!("the clock of {} {}", self.whom, self.setting)
    }

    fn away(&self) -> Vec<usize> {
        vec![self.victim]
    }

    fn mute(&self) -> Vec<usize> {
        if self.setting.least() > MUTE_FROM {
            vec![self.victim]
        } else {
            Vec::new()
        }
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let file = file(&cluster.nodes[self.victim].home);
        match self.setting {
            Setting::Off(seconds) => set(&file, &format!("{seconds:+}"))?,
            Setting::Drifts(rate) => self.drift = Some(tokio::spawn(drift(file, rate))),
        }
        let off = u64::try_from(self.setting.least().as_millis())?;
        let limit = Duration::from_secs(10);
        eventually("a wrong clock", limit, || async {
            Ok((skew_ms(cluster, self.victim).await? >= off).then_some(()))
        })
        .await
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let skew = skew_ms(cluster, self.victim).await;
        if let Some(drift) = self.drift.take() {
            drift.abort();
            // It is not cancelled in the middle of a write.
            let _ = drift.await;
        }
        set(&file(&cluster.nodes[self.victim].home), RIGHT)?;
        let off = u64::try_from(self.setting.least().as_millis())?;
        Ok(match skew {
            Ok(skew) => Seen::when(skew >= off, format!("off by {skew} ms as a peer sees it")),
            Err(error) => Seen::NotMet(format!("its skew is not known: {error:#}")),
        })
    }
}
