//! Watches the disk of a running node, and what its leadership costs or is worth.

use std::sync::Arc;
use std::time::Duration;

use chancery_raft_store::log::InFlight;
use chancery_raft_store::store::Store;

use super::reserve::free_bytes;
use super::{Disk, Reserve};
use crate::cluster::Consensus;
use crate::cluster::status::Members;
use crate::environment::Stopwatch;

/// How often the write under way is looked at.
const STALL_INTERVAL: Duration = Duration::from_millis(50);
/// How often free room is measured.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// Watches until the process ends. Runs beside the consensus that it judges.
pub async fn watch(
    disk: Disk,
    store: Arc<dyn Store>,
    writes: InFlight,
    consensus: Consensus,
    members: Members,
) {
    tokio::join!(
        watch_writes(&disk, &writes, &consensus),
        watch_space(&disk, &store, &consensus, &members)
    );
}

/// How long the write under way has been so.
#[derive(Default)]
struct Age {
    of: Option<(u64, Stopwatch)>,
}

impl Age {
    /// `current` is the number of the write under way.
    fn look(&mut self, current: Option<u64>) -> Duration {
        match (current, &self.of) {
            (None, _) => self.of = None,
            (Some(now), Some((known, since))) if now == *known => return since.elapsed(),
            (Some(now), _) => self.of = Some((now, Stopwatch::start())),
        }
        Duration::ZERO
    }
}

/// A leader that cannot write cannot apply either: leadership goes to a node that
/// can. One that cannot write does not stand.
async fn watch_writes(disk: &Disk, writes: &InFlight, consensus: &Consensus) {
    let mut age = Age::default();
    let mut ticks = tokio::time::interval(STALL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let oldest = age.look(writes.current());
        let stalled = oldest > disk.inner.stall_limit;
        crate::telemetry::oldest_write(oldest);
        let was_stalled = std::mem::replace(&mut disk.state().stalled, stalled);
        match (was_stalled, stalled) {
            (false, true) => {
                tracing::error!(
                    data_dir = %disk.inner.data_dir.display(),
                    for_ms = oldest.as_millis(),
                    "the disk does not answer: this node gives leadership up and does not stand for election"
                );
                consensus.set_candidate(false);
                tokio::spawn(consensus.clone().give_up_leadership());
            }
            (true, false) => {
                tracing::info!("the disk answers again");
                consensus.set_candidate(true);
            }
            _ => {}
        }
    }
}

async fn watch_space(
    disk: &Disk,
    store: &Arc<dyn Store>,
    consensus: &Consensus,
    members: &Members,
) {
    let mut ticks = tokio::time::interval(SPACE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (disk_, store_) = (disk.clone(), Arc::clone(store));
        let measured = tokio::task::spawn_blocking(move || (store_.check(), measure(&disk_)));
        let Ok((checked, Ok((free, held)))) = measured.await else {
            tracing::warn!("free space cannot be measured");
            continue;
        };
        if let Err(error) = checked {
            consensus.end(format!("the store cannot go on: {error}"));
            return;
        }
        disk.measured(free, held);
        let short = disk.short();
        if !consensus.is_leader() {
            continue;
        }
        let roomy = members.voters_with_room(short.is_none());
        if short.is_some() && !roomy.is_empty() {
            consensus
                .hand_over_to_any(&roomy.iter().copied().collect())
                .await;
        }
        let (voters, _) = consensus.voters_and_learners();
        let too_few = roomy.len() * 2 <= voters.len();
        disk.state().voters_short = too_few.then(|| {
            format!(
                "{} of {} voters have room on their disks, which is no majority: free space on the others",
                roomy.len(),
                voters.len()
            )
        });
    }
}

/// Free bytes, and whether the reserve is there; made first if it is missing and
/// leaves enough.
fn measure(disk: &Disk) -> std::io::Result<(u64, bool)> {
    let (margin, reserve): (_, &Reserve) = (disk.inner.margin, &disk.inner.reserve);
    let free = free_bytes(&disk.inner.data_dir)?;
    if reserve.is_held() || margin.is_short(free, false, true) {
        return Ok((free, reserve.is_held()));
    }
    if let Err(error) = reserve.make() {
        tracing::warn!(%error, path = %reserve.path().display(), "the reserve file cannot be made");
    }
    Ok((free_bytes(&disk.inner.data_dir)?, reserve.is_held()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_and_the_same_write_grows_old() {
        let mut age = Age::default();
        assert_eq!(age.look(None), Duration::ZERO);
        assert_eq!(age.look(Some(1)), Duration::ZERO);
        let first = age.look(Some(1));
        assert!(age.look(Some(1)) >= first);
        assert_eq!(age.look(Some(2)), Duration::ZERO, "another one");
        assert_eq!(age.look(None), Duration::ZERO);
        assert_eq!(age.look(Some(2)), Duration::ZERO, "known anew");
    }
}
