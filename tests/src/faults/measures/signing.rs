//! Documents are signed at every node as fast as the machine can: nobody may lose
//! leadership over it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::faults::clients::World;
use crate::faults::clients::issuers::Workload;
use crate::faults::cluster::Cluster;
use crate::faults::record::Finding;

/// Its name.
pub const NAME: &str = "signing";
/// Callers of each node, and as many for each processor.
const CALLERS: usize = 3;
/// How often nodes are asked who leads.
const LOOK: Duration = Duration::from_millis(250);

/// Signs for `seconds`.
///
/// # Errors
/// Those of the harness.
pub async fn run(
    cluster: &Cluster,
    workload: &Workload,
    turn: usize,
    seconds: usize,
) -> anyhow::Result<Finding> {
    let world = World::new(cluster, turn);
    let over = Arc::new(AtomicBool::new(false));
    let signed = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    for place in world.places.iter() {
        for _ in 0..CALLERS * (1 + processors) {
            let channel = workload.connect(place).await?;
            let (workload, over, signed) = (workload.clone(), over.clone(), signed.clone());
            let node = place.index;
            callers.spawn(async move {
                let mut failed = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    match workload.sign(channel.clone()).await {
                        Ok(()) => {
                            signed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => failed.push(format!("node {node}: {error:#}")),
                    }
                }
                failed
            });
        }
    }
    let (busy, began) = (Cpu::now()?, Instant::now());
    let limit = Duration::from_secs(u64::try_from(seconds)?);
    // Who led, in which term, as the nodes tell it.
    let (mut led, mut silent) = (BTreeSet::new(), 0);
    while began.elapsed() < limit {
        for node in &cluster.nodes {
            match node.status().await {
                Ok(status) => {
                    led.insert((status.term, status.leader));
                }
                Err(_) => silent += 1,
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    let took = began.elapsed();
    over.store(true, Ordering::Relaxed);
    let idle = busy.idle_since()?;
    let mut finding = Finding {
        of: NAME.into(),
        turn,
        rounds: seconds,
        ..Finding::default()
    };
    while let Some(failed) = callers.join_next().await {
        finding.violations.extend(failed?);
    }
    finding.documents = signed.load(Ordering::Relaxed);
    let changes = led.len().saturating_sub(1);
    if changes > 0 {
        finding
            .violations
            .push(format!("leadership changed {changes} times: {led:?}"));
    }
    finding.notes.push(format!(
        "{:.0} documents a second, leader changes {changes}, {silent} unanswered looks, processors idle {:.0} %",
        f64::from(u32::try_from(finding.documents)?) / took.as_secs_f64(),
        idle * 100.0
    ));
    if idle > 0.2 {
        finding.not_met = Some(format!(
            "the processors were idle for {:.0} % of the time",
            idle * 100.0
        ));
    }
    Ok(finding)
}

/// Ticks of all processors: idle ones and all.
struct Cpu {
    idle: u64,
    all: u64,
}

impl Cpu {
    fn now() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .map_while(|n| n.parse().ok())
            .collect();
        Ok(Self {
            // idle and iowait.
            idle: ticks.iter().skip(3).take(2).sum(),
            all: ticks.iter().take(8).sum(),
        })
    }

    /// Part of the time that the processors were idle.
    fn idle_since(&self) -> anyhow::Result<f64> {
        let now = Self::now()?;
        let part = |ticks: u64| u32::try_from(ticks).map(f64::from);
        Ok(part(now.idle - self.idle)? / part((now.all - self.all).max(1))?)
    }
}
