//! Who gets in: connections counted in total and by source.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::Limits;
use super::source::source;

/// Counts connections in total and by source.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    total: Arc<Semaphore>,
    per_source_max: u32,
    anonymous_per_source_max: u32,
    anonymous: Arc<Semaphore>,
    handshakes_per_source_max: u32,
    sources: Sources,
}

type Sources = Arc<Mutex<BTreeMap<IpAddr, Count>>>;

/// Connections of one source.
#[derive(Debug)]
struct Count {
    all: u32,
    /// Those among them that are anonymous.
    anonymous: u32,
    /// Places for handshakes.
    handshakes: Arc<Semaphore>,
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
    /// Its place among the anonymous ones.
    anonymous: Option<OwnedSemaphorePermit>,
    admission: Admission,
    handshakes: Arc<Semaphore>,
    _total: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            total: Arc::new(Semaphore::new(limits.connections_max as usize)),
            per_source_max: limits.connections_per_source_max,
            anonymous_per_source_max: limits.anonymous_per_source_max,
            anonymous: Arc::new(Semaphore::new(limits.anonymous_max as usize)),
            handshakes_per_source_max: limits.handshakes_per_source_max,
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
    /// The place of a connection from `address`; none if its source has its share already.
    pub(super) fn of(self, address: IpAddr) -> Option<Slot> {
        let Self { admission, total } = self;
        let source = source(address);
        let mut sources = lock(&admission.sources);
        let count = sources.entry(source).or_insert_with(|| {
            let handshakes = admission.handshakes_per_source_max as usize;
            Count {
                all: 0,
                anonymous: 0,
                handshakes: Arc::new(Semaphore::new(handshakes)),
            }
        });
        if count.all >= admission.per_source_max {
            return None;
        }
        count.all += 1;
        let handshakes = count.handshakes.clone();
        drop(sources);
        Some(Slot {
            source,
            anonymous: None,
            admission,
            handshakes,
            _total: total,
        })
    }
}

impl Slot {
    /// Counts the connection as an anonymous one; none if its source, or all together,
    /// have their share of those already.
    pub(super) fn anonymous(mut self) -> Option<Self> {
        let permit = self.admission.anonymous.clone().try_acquire_owned().ok()?;
        let mut sources = lock(&self.admission.sources);
        let count = sources.get_mut(&self.source)?;
        if count.anonymous >= self.admission.anonymous_per_source_max {
            return None;
        }
        count.anonymous += 1;
        drop(sources);
        self.anonymous = Some(permit);
        Some(self)
    }

    /// Whether it is counted as an anonymous one.
    pub(super) fn is_anonymous(&self) -> bool {
        self.anonymous.is_some()
    }

    /// Places for the handshakes of its source.
    pub(super) fn handshakes(&self) -> Arc<Semaphore> {
        self.handshakes.clone()
    }
}

fn lock(sources: &Mutex<BTreeMap<IpAddr, Count>>) -> MutexGuard<'_, BTreeMap<IpAddr, Count>> {
    sources.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut sources = lock(&self.admission.sources);
        if let Some(count) = sources.get_mut(&self.source) {
            count.all -= 1;
            count.anonymous -= u32::from(self.anonymous.is_some());
            if count.all == 0 {
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
    fn addresses_of_one_network_count_as_one_source() {
        let admission = Admission::new(&limits(9, 1));
        let of = |last| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let _one = admission.admit(of(1)).unwrap();
        assert!(admission.admit(of(2)).is_none());
        let next = IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]);
        assert!(admission.admit(next).is_some());
    }

    #[test]
    fn a_source_has_fewer_connections_without_a_certificate() {
        let admission = Admission::new(&Limits {
            anonymous_per_source_max: 1,
            ..limits(9, 3)
        });
        let admit = || admission.admit(ip(1)).unwrap();
        let first = admit().anonymous().unwrap();
        assert!(admit().anonymous().is_none(), "second from one source");
        // The refused one left its place, and a certificate has its own.
        let (_second, _third) = (admit(), admit());
        let other = admission.admit(ip(2)).unwrap().anonymous();
        assert!(other.is_some());
        drop((first, other));
        assert!(admit().anonymous().is_some());
    }

    #[test]
    fn all_sources_together_have_fewer_anonymous_connections() {
        let admission = Admission::new(&Limits {
            anonymous_max: 2,
            ..limits(9, 3)
        });
        let anonymous = |last| admission.admit(ip(last)).unwrap().anonymous();
        let first = anonymous(1).unwrap();
        let _second = anonymous(2).unwrap();
        assert!(anonymous(3).is_none());
        assert!(
            admission.admit(ip(3)).is_some(),
            "members have their places"
        );
        drop(first);
        assert!(anonymous(3).is_some());
    }

    #[test]
    fn handshakes_of_one_source_have_their_own_places() {
        let admission = Admission::new(&Limits {
            handshakes_per_source_max: 1,
            ..limits(9, 3)
        });
        let of = |last| admission.admit(ip(last)).unwrap();
        let (first, second, other) = (of(1), of(1), of(2));
        let held = first.handshakes().try_acquire_owned().unwrap();
        assert!(second.handshakes().try_acquire_owned().is_err());
        assert!(other.handshakes().try_acquire_owned().is_ok());
        drop(held);
        assert!(second.handshakes().try_acquire_owned().is_ok());
    }

    #[test]
    fn no_source_is_remembered_after_it_left() {
        let admission = Admission::new(&limits(9, 9));
        drop(admission.admit(ip(1)));
        drop(admission.admit(ip(1)).and_then(Slot::anonymous));
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
