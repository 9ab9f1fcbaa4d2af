//! The disk under the data directory: whether there is room, whether it answers.
//!
//! A store that ran full refuses every write until it is opened again, and opening it
//! needs room itself. So writes are refused while there is still some
//! ([`Disk::no_room`]), what the log must write all the same waits where there is
//! next to none ([`Gate`]), a reserve file keeps back what a start needs ([`Reserve`]),
//! and a leader whose disk is short or does not answer hands leadership over
//! ([`watch`]). It refuses to know what is written.

mod gate;
mod reserve;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use gate::{Gate, GatedStore};
use reserve::free_bytes;
pub use reserve::{Reserve, make_room};
pub use watch::watch;

/// Room that must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin {
    /// Free bytes below which writes are refused.
    pub min_free: u64,
    /// Bytes of the reserve file; 0 is none.
    pub reserve: u64,
}

/// The floor is no higher: the engine writes out at most half of it at a time.
const FLOOR_MAX: u64 = 64 << 20;

impl Margin {
    /// Free bytes below which nothing at all is written: a quarter of the margin, so that
    /// the log goes on for a while after commands are refused.
    fn floor(&self) -> u64 {
        (self.min_free / 4).min(FLOOR_MAX)
    }

    /// Whether room is short. The reserve, while it is not there, is room that is
    /// missing: a start that used it up must not let writes use it up again. Once
    /// short, room counts as enough with an eighth of the margin on top only, so that
    /// it does not change with every write.
    fn is_short(&self, free: u64, reserve_held: bool, was_short: bool) -> bool {
        let missing = if reserve_held { 0 } else { self.reserve };
        let slack = if was_short { self.min_free / 8 } else { 0 };
        free < self.min_free.saturating_add(missing).saturating_add(slack)
    }
}

/// What is known of the disk. Cheap to clone.
#[derive(Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

struct Inner {
    data_dir: PathBuf,
    margin: Margin,
    reserve: Reserve,
    gate: Gate,
    stall_limit: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is said of it while room is short.
    short: Option<String>,
    /// Why this node, if it leads, must refuse writes although it has room itself.
    voters_short: Option<String>,
    stalled: bool,
}

impl Disk {
    /// The disk under `data_dir`. A synced write that takes longer than `stall_limit`
    /// is a stall.
    pub fn new(data_dir: &Path, margin: Margin, stall_limit: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                data_dir: data_dir.to_path_buf(),
                margin,
                reserve: Reserve::new(data_dir, margin.reserve),
                gate: Gate::new(data_dir, margin.floor()),
                stall_limit,
                state: Mutex::default(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = &self.inner.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Set while room is short on this node: how much there is and must be, and where.
    pub fn short(&self) -> Option<String> {
        self.state().short.clone()
    }

    /// In front of every write.
    pub fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// Why a leader must refuse writes, if it must: as of now, for a disk may fill faster
    /// than it is watched.
    pub fn no_room(&self) -> Option<String> {
        // Where it cannot be measured, the last measurement stands.
        let _ = self.look();
        let state = self.state();
        state.short.clone().or_else(|| state.voters_short.clone())
    }

    /// Why even a small command without which this node cannot sign must be refused: there is
    /// hardly the room that the log itself goes on in.
    pub fn no_room_at_all(&self) -> Option<String> {
        // Where it cannot be measured, the last measurement stands.
        let _ = self.look();
        let short = self.short()?;
        let free = free_bytes(&self.inner.data_dir).ok()?;
        (free < self.inner.margin.floor().saturating_mul(2)).then_some(short)
    }

    /// Whether a synced write has been under way for longer than the limit.
    pub fn is_stalled(&self) -> bool {
        self.state().stalled
    }

    /// Measures.
    fn look(&self) -> std::io::Result<()> {
        let inner = &*self.inner;
        if inner.margin.min_free > 0 {
            self.measured(free_bytes(&inner.data_dir)?, inner.reserve.is_held());
        }
        Ok(())
    }

    /// Takes a measurement in, and says so if room has become short by it, or enough.
    fn measured(&self, free: u64, reserve_held: bool) {
        let margin = self.inner.margin;
        let mut state = self.state();
        let was_short = state.short.is_some();
        let is_short = margin.is_short(free, reserve_held, was_short);
        state.short = is_short.then(|| {
            let missing = if reserve_held { 0 } else { margin.reserve };
            format!(
                "{} MiB are free on the disk of {}, and writes need {} MiB: free space there",
                free >> 20,
                self.inner.data_dir.display(),
                (margin.min_free + missing) >> 20
            )
        });
        crate::telemetry::disk(free, is_short);
        match &state.short {
            Some(why) if !was_short => {
                tracing::error!(why, "the disk is nearly full: writes are refused");
            }
            None if was_short => {
                tracing::info!("the disk has room again: writes are accepted");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_is_short_below_the_margin_and_enough_an_eighth_above_it() {
        let margin = Margin {
            min_free: 64 * MIB,
            reserve: 32 * MIB,
        };
        for (free, held, was_short, short) in [
            (64, true, false, false),
            (63, true, false, true),
            (71, true, true, true),
            (72, true, true, false),
            // Without the reserve its room is missing.
            (95, false, false, true),
            (96, false, false, false),
            (103, false, true, true),
            (104, false, true, false),
        ] {
            let found = margin.is_short(free * MIB, held, was_short);
            assert_eq!(
                found, short,
                "{free} MiB, held {held}, was short {was_short}"
            );
        }
    }

    #[test]
    fn nothing_is_written_below_a_quarter_of_the_margin_or_64_mib() {
        for (min_free, floor) in [(0, 0), (16, 4), (32, 8), (256, 64), (1 << 20, 64)] {
            let margin = Margin {
                min_free: min_free * MIB,
                reserve: 0,
            };
            assert_eq!(margin.floor(), floor * MIB);
        }
    }

    #[test]
    fn room_is_measured_when_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let asks = |min_free| {
            let margin = Margin {
                min_free,
                reserve: 0,
            };
            Disk::new(dir.path(), margin, Duration::from_secs(1)).no_room()
        };
        assert_eq!(asks(1), None);
        // More than any disk has.
        assert!(asks(u64::MAX).is_some());
    }

    #[test]
    fn what_a_start_needs_is_written_until_there_is_next_to_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let free = free_bytes(dir.path()).unwrap();
        let asks = |min_free| {
            let margin = Margin {
                min_free,
                reserve: 0,
            };
            let disk = Disk::new(dir.path(), margin, Duration::from_secs(1));
            (disk.no_room().is_some(), disk.no_room_at_all().is_some())
        };
        assert_eq!(asks(1), (false, false));
        // Short of the margin; the log's own floor is 64 MiB at most.
        if free > 1 << 30 {
            assert_eq!(asks(free.saturating_mul(2)), (true, false));
        }
        let small = 2 * FLOOR_MAX;
        let disk = Disk::new(
            dir.path(),
            Margin {
                min_free: u64::MAX,
                reserve: 0,
            },
            Duration::from_secs(1),
        );
        assert_eq!(disk.no_room_at_all().is_some(), free < small);
    }

    #[test]
    fn a_leader_refuses_for_its_own_room_or_for_that_of_the_voters() {
        let margin = Margin {
            min_free: 64 * MIB,
            reserve: 0,
        };
        let disk = Disk::new(Path::new("/data"), margin, Duration::from_secs(1));
        assert_eq!(disk.no_room(), None);
        disk.measured(65 * MIB, true);
        assert_eq!(disk.short(), None);
        disk.measured(12 * MIB, true);
        let said = disk.no_room().unwrap();
        assert!(
            said.contains("12 MiB are free on the disk of /data") && said.contains("64 MiB"),
            "{said}"
        );
        disk.measured(80 * MIB, true);
        disk.state().voters_short = Some("two voters".into());
        assert_eq!(disk.short(), None);
        assert_eq!(disk.no_room().as_deref(), Some("two voters"));
    }
}
