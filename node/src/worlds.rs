//! What the model tests of this crate are made of: dice that a seed decides, and a state in memory.

use std::collections::BTreeMap;

use chancery_raft_store::store::{Row, StoreError};
use chancery_raft_store::view::View;

/// splitmix64: the seed decides everything.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    /// True once in `sides`.
    pub(crate) fn once_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    /// Below `sides`.
    pub(crate) fn seconds(&mut self, sides: u64) -> i64 {
        i64::try_from(self.roll(sides)).unwrap()
    }
}

/// Rows of the replicated state.
#[derive(Default)]
pub(crate) struct Rows(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl View for Rows {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn rows(&self, prefix: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.0.range(prefix.to_vec()..);
        let rows = rows.take_while(|(key, _)| key.starts_with(prefix));
        let rows = rows.take(limit);
        Ok(rows.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}
