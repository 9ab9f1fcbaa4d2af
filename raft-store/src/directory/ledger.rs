//! What a node answers of the holders of an authority's documents.

use std::collections::BTreeMap;

use super::value_of;
use crate::model::{AuthorityKind, Holder};
use crate::store::StoreError;
use crate::view::{Table, holder_prefix, prefix_end};

/// Bytes of node and start at the end of a key.
const STARTED_BYTES: usize = 16;

/// Rows of the ledger, by their key.
#[derive(Debug, Default)]
pub struct Ledger {
    rows: BTreeMap<Vec<u8>, Row>,
}

/// Of a row what is not in its key.
#[derive(Clone, Copy, Debug)]
struct Row {
    until: i64,
    surplus: u64,
}

/// How many hold documents of an authority: never fewer than there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Holders that are known by name, and those that are only counted.
    pub count: u64,
    /// Some node does not know any more to whom it handed documents out.
    pub unnamed: bool,
    /// Unix second at which the last of the documents has ended; 0 where there are none.
    pub until: i64,
}

impl Holders {
    /// Nobody holds any.
    pub fn is_none(&self) -> bool {
        self.count == 0 && !self.unnamed
    }
}

impl Ledger {
    /// Takes in one row; `None` is a removal.
    pub(super) fn absorb(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        match value_of::<Holder>(Table::Holders, value)? {
            Some(holder) => {
                let row = Row {
                    until: holder.until,
                    surplus: holder.surplus,
                };
                self.rows.insert(key.to_vec(), row)
            }
            None => self.rows.remove(key),
        };
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn below(&self, prefix: &[u8]) -> impl Iterator<Item = (&[u8], Row)> {
        let rows = match prefix_end(prefix) {
            Some(end) => self.rows.range(prefix.to_vec()..end),
            None => self.rows.range(prefix.to_vec()..),
        };
        rows.map(|(key, row)| (key.as_slice(), *row))
    }

    /// Paths of an authority's holders at this Unix second, in order, each with when the last of its documents ends;
    /// those after `path`.
    pub fn named_after(
        &self,
        kind: AuthorityKind,
        authority_id: &str,
        path: &str,
        now: i64,
    ) -> impl Iterator<Item = (&str, i64)> {
        let prefix = holder_prefix(kind.into(), authority_id, None);
        let start = if path.is_empty() {
            prefix.clone()
        } else {
            // Behind every key of this path, which has a zero byte there.
            let mut after = prefix.clone();
            after.extend_from_slice(path.as_bytes());
            after.push(1);
            after
        };
        let end = prefix_end(&prefix);
        let skip = prefix.len();
        let mut rows = self
            .rows
            .range(start..)
            .take_while(move |(key, _)| end.as_ref().is_none_or(|end| *key < end))
            .filter(move |(_, row)| row.until > now)
            .filter_map(move |(key, row)| Some((path_of(key, skip)?, row.until)))
            .filter(|(path, _)| !path.is_empty())
            .peekable();
        std::iter::from_fn(move || {
            let (path, mut until) = rows.next()?;
            while let Some((_, other)) = rows.next_if(|(next, _)| *next == path) {
                until = until.max(other);
            }
            Some((path, until))
        })
    }

    /// How many hold documents of an authority at this Unix second.
    pub fn holders(&self, kind: AuthorityKind, authority_id: &str, now: i64) -> Holders {
        let mut holders = Holders::default();
        for (_, until) in self.named_after(kind, authority_id, "", now) {
            holders.count += 1;
            holders.until = holders.until.max(until);
        }
        let nameless = holder_prefix(kind.into(), authority_id, Some(""));
        for (_, row) in self.below(&nameless).filter(|(_, row)| row.until > now) {
            holders.until = holders.until.max(row.until);
            holders.count = holders.count.saturating_add(row.surplus);
            holders.unnamed |= row.surplus == 0;
        }
        holders
    }

    /// Whether a start (node and number of the start) that `concerns` names handed documents of
    /// the authority to a holder that have not ended.
    pub fn handed_out_by(
        &self,
        kind: AuthorityKind,
        authority_id: &str,
        path: &str,
        now: i64,
        concerns: impl Fn(u64, u64) -> bool,
    ) -> bool {
        let prefix = holder_prefix(kind.into(), authority_id, Some(path));
        let mut rows = self.below(&prefix);
        rows.any(|(key, row)| {
            row.until > now && start_of(key).is_some_and(|(node, boot)| concerns(node, boot))
        })
    }

    /// Keys of rows that ended before this Unix second.
    pub fn ended_before(&self, second: i64) -> impl Iterator<Item = &Vec<u8>> {
        let rows = self.rows.iter();
        rows.filter(move |(_, row)| row.until < second)
            .map(|(key, _)| key)
    }
}

/// The path in a row's key, which stands behind `skip` bytes.
fn path_of(key: &[u8], skip: usize) -> Option<&str> {
    let path = key.get(skip..key.len().checked_sub(STARTED_BYTES + 1)?)?;
    std::str::from_utf8(path).ok()
}

/// Node and number of its start in a row's key.
fn start_of(key: &[u8]) -> Option<(u64, u64)> {
    let (head, boot) = key.split_last_chunk()?;
    let (_, node) = head.split_last_chunk()?;
    Some((u64::from_be_bytes(*node), u64::from_be_bytes(*boot)))
}
