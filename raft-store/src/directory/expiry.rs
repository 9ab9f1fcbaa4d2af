//! Records by when they end, so that looking for what has expired costs what it finds.

use std::collections::BTreeSet;

/// Names of records of one kind by Unix second.
#[derive(Debug)]
pub(super) struct Expiry<K>(BTreeSet<(i64, K)>);

impl<K> Default for Expiry<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord + Clone> Expiry<K> {
    /// Notes that `name` ends at this second.
    pub(super) fn add(&mut self, at: i64, name: K) {
        self.0.insert((at, name));
    }

    /// Forgets what was noted.
    pub(super) fn remove(&mut self, at: i64, name: K) {
        self.0.remove(&(at, name));
    }

    /// What ends before this second, the longest ended first.
    pub(super) fn before(&self, second: i64) -> impl Iterator<Item = &K> {
        self.0
            .iter()
            .take_while(move |(at, _)| *at < second)
            .map(|(_, name)| name)
    }
}
