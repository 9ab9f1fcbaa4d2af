//! What is remembered only to answer rightly later: the outcomes of requests, and
//! when a deleted entry was created.
//!
//! Both are forgotten by what stands in the log, a few rows with each command, so
//! every node forgets the same at the same place.

use super::{Table, Txn, meta};
use crate::command::RequestId;
use crate::model::RequestMemory;
use crate::store::StoreError;

/// Log positions that one command takes out of the request memory at most.
const FORGET_MAX: u64 = 8;

/// Deleted entries that one command looks at to forget them.
const DELETED_FORGET_MAX: usize = 16;

/// Requests.
impl Txn<'_> {
    /// Outcome of an earlier request.
    pub fn remembered(&self, id: &RequestId) -> Result<Option<RequestMemory>, StoreError> {
        self.get(Table::Requests, &request_key(id))
    }

    /// Whether this request is at or below one of its node that was forgotten: it
    /// may have been applied, and nobody knows any more.
    pub fn is_forgotten(&self, id: &RequestId) -> Result<bool, StoreError> {
        let floor: Option<RequestId> = self.get(Table::RequestFloor, &id.node.to_be_bytes())?;
        Ok(floor.is_some_and(|floor| (id.boot, id.sequence) <= (floor.boot, floor.sequence)))
    }

    /// Remembers an outcome.
    pub fn remember(&mut self, id: &RequestId, outcome: Vec<u8>) -> Result<(), StoreError> {
        let memory = RequestMemory {
            log_index: self.log_index,
            outcome,
        };
        self.put(Table::Requests, &request_key(id), &memory);
        self.put(Table::RequestOrder, &self.log_index.to_be_bytes(), id);
        if self.requests_from()?.is_none() {
            self.put_bytes(
                Table::Meta,
                meta::REQUESTS_FROM,
                self.log_index.to_be_bytes().to_vec(),
            );
        }
        Ok(())
    }

    /// Forgets requests applied more than `keep` log positions ago, a few at a time.
    ///
    /// Looks positions up one by one: a scan from the front would step over the
    /// remains of everything forgotten before.
    pub fn forget_requests(&mut self, keep: u64) -> Result<(), StoreError> {
        let Some(first) = self.requests_from()? else {
            return Ok(());
        };
        let oldest_kept = self.log_index.saturating_sub(keep);
        // More than one for one: the memory shrinks back to its size whatever it grew to.
        let until = oldest_kept.min(first.saturating_add(FORGET_MAX)).max(first);
        for index in first..until {
            let order = index.to_be_bytes();
            let Some(id) = self.get::<RequestId>(Table::RequestOrder, &order)? else {
                continue;
            };
            self.remove(Table::Requests, &request_key(&id));
            self.remove(Table::RequestOrder, &order);
            if !self.is_forgotten(&id)? {
                self.put(Table::RequestFloor, &id.node.to_be_bytes(), &id);
            }
        }
        if until > first {
            self.put_bytes(
                Table::Meta,
                meta::REQUESTS_FROM,
                until.to_be_bytes().to_vec(),
            );
        }
        Ok(())
    }

    fn requests_from(&self) -> Result<Option<u64>, StoreError> {
        let bytes = self.get_bytes(Table::Meta, meta::REQUESTS_FROM)?;
        bytes
            .map(|b| number("first remembered request", &b))
            .transpose()
    }
}

/// Deleted entries.
impl Txn<'_> {
    /// Second to record as the creation of entry `id`: the clock's, or a later one
    /// if the id was deleted within this second. An agent tells a recreated entry
    /// from the one before by it.
    pub fn creation_second(&self, id: &str) -> Result<i64, StoreError> {
        let deleted = self.get_bytes(Table::DeletedEntries, id.as_bytes())?;
        let after = match deleted {
            Some(bytes) => number("creation second", &bytes)?
                .cast_signed()
                .saturating_add(1),
            None => i64::MIN,
        };
        Ok(self.now().max(after))
    }

    /// Forgets deleted entries whose creation second is over, a few at a time.
    pub fn forget_deleted_entries(&mut self) -> Result<(), StoreError> {
        for (id, created_at) in self.pairs(Table::DeletedEntries, &[], DELETED_FORGET_MAX)? {
            if number("creation second", &created_at)?.cast_signed() < self.now() {
                self.remove(Table::DeletedEntries, &id);
            }
        }
        Ok(())
    }
}

fn number(what: &str, bytes: &[u8]) -> Result<u64, StoreError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| StoreError::corrupt(format!("{what}: {} bytes", bytes.len())))?;
    Ok(u64::from_be_bytes(bytes))
}

fn request_key(id: &RequestId) -> Vec<u8> {
    [
        id.node.to_be_bytes(),
        id.boot.to_be_bytes(),
        id.sequence.to_be_bytes(),
    ]
    .concat()
}
