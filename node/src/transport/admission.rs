//! Who gets in: connections counted in total and by source.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::Limits;

/// Counts connections in total and by source.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    total: Arc<Semaphore>,
    per_source_max: u32,
    sources: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
}

/// One connection's place among all, not yet counted for a source; freed when
/// dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Admission,
    total: OwnedSemaphorePermit,
}

/// One admitted connection; frees its place when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    source: IpAddr,
    sources: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
    _total: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            total: Arc::new(Semaphore::new(limits.connections_max as usize)),
            per_source_max: limits.connections_per_source_max,
            sources: Arc::default(),
        }
    }

    /// A place among all connections, for one whose source is not known yet.
    pub(super) fn place(&self) -> Option<Place> {
        let total = self.total.clone().try_acquire_owned().ok()?;
        Some(Place {
            admission: self.clone(),
            total,
        })
    }

    /// A place for a connection from `source`.
    #[cfg(test)]
    fn admit(&self, source: IpAddr) -> Option<Slot> {
        self.place()?.of(source)
    }
}

impl Place {
    /// The place of a connection from `source`; none if that has its share already.
    pub(super) fn of(self, source: IpAddr) -> Option<Slot> {
        let Self { admission, total } = self;
        // One host has one address, however a dual-stack socket spells it.
        let source = source.to_canonical();
        let mut sources = lock(&admission.sources);
        let count = sources.entry(source).or_insert(0);
        if *count >= admission.per_source_max {
            return None;
        }
        *count += 1;
        drop(sources);
        Some(Slot {
            source,
            sources: admission.sources,
            _total: total,
        })
    }
}

fn lock(sources: &Mutex<BTreeMap<IpAddr, u32>>) -> MutexGuard<'_, BTreeMap<IpAddr, u32>> {
    sources.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut sources = lock(&self.sources);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: u32, per_source: u32) -> Limits {
        Limits {
            connections_max: total,
            connections_per_source_max: per_source,
            ..Limits::of_peers()
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn both_caps_hold_and_places_come_back() {
        let admission = Admission::new(&limits(3, 2));
        let first = admission.admit(ip(1)).unwrap();
        let _second = admission.admit(ip(1)).unwrap();
        assert!(admission.admit(ip(1)).is_none(), "third from one source");
        let _other = admission.admit(ip(2)).unwrap();
        assert!(admission.admit(ip(3)).is_none(), "fourth in total");
        drop(first);
        assert!(admission.admit(ip(1)).is_some());
    }

    #[test]
    fn a_refused_source_takes_no_place() {
        let admission = Admission::new(&limits(2, 1));
        let _one = admission.admit(ip(1)).unwrap();
        for _ in 0..10 {
            assert!(admission.admit(ip(1)).is_none());
        }
        assert!(admission.admit(ip(2)).is_some());
    }

    #[test]
    fn mapped_addresses_count_as_their_source() {
        let admission = Admission::new(&limits(9, 1));
        let _v4 = admission.admit(ip(1)).unwrap();
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 0x0001_u16]);
        assert!(admission.admit(mapped).is_none());
    }

    #[test]
    fn no_source_is_remembered_after_it_left() {
        let admission = Admission::new(&limits(9, 9));
        drop(admission.admit(ip(1)));
        assert!(admission.sources.lock().unwrap().is_empty());
    }

    #[test]
    fn a_place_whose_source_is_not_known_yet_counts_in_total_alone() {
        let admission = Admission::new(&limits(2, 1));
        let first = admission.place().unwrap();
        let second = admission.place().unwrap();
        assert!(admission.place().is_none(), "third in total");
        let _first = first.of(ip(1)).unwrap();
        assert!(second.of(ip(1)).is_none(), "second from one source");
        assert!(
            admission.admit(ip(2)).is_some(),
            "the refused one left its place"
        );
    }
}
