//! Rows of the ledger of holders.

use super::{Table, Txn, authority_key};
use crate::model::Holder;
use crate::store::StoreError;

/// Key of a holder's row: authority, path, node and start. All rows of an authority lie
/// together, and in them all of a path.
pub(crate) fn holder_key(holder: &Holder) -> Vec<u8> {
    let mut key = holder_prefix(holder.kind, &holder.authority_id, Some(&holder.path));
    key.extend_from_slice(&holder.node_id.to_be_bytes());
    key.extend_from_slice(&holder.boot.to_be_bytes());
    key
}

/// What the keys of an authority's rows begin with; with a path, of that holder's.
pub(crate) fn holder_prefix(kind: i32, authority_id: &str, path: Option<&str>) -> Vec<u8> {
    let mut key = authority_key(kind, authority_id);
    key.push(0);
    if let Some(path) = path {
        key.extend_from_slice(path.as_bytes());
        key.push(0);
    }
    key
}

/// The ledger of holders.
impl Txn<'_> {
    /// The row of the same authority, path, node and start.
    pub fn holder(&self, holder: &Holder) -> Result<Option<Holder>, StoreError> {
        self.get(Table::Holders, &holder_key(holder))
    }

    /// Row by its key.
    pub fn holder_by_key(&self, key: &[u8]) -> Result<Option<Holder>, StoreError> {
        self.get(Table::Holders, key)
    }

    /// Inserts or replaces a row.
    pub fn put_holder(&mut self, holder: &Holder) {
        self.put(Table::Holders, &holder_key(holder), holder);
    }

    /// Removes a row.
    pub fn remove_holder(&mut self, holder: &Holder) {
        self.remove(Table::Holders, &holder_key(holder));
    }
}
