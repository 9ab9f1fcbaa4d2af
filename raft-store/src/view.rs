//! The tables, and the narrow surface by which `apply` reads and writes them.
//!
//! A row's key is one byte of [`Table`] and the record's own key. [`Txn`] lays
//! what a command wrote over what was there before, so that a command sees its
//! own writes and a refused one leaves nothing behind.

mod federation;
mod ledger;
mod login;
mod memory;

use std::collections::BTreeMap;

use prost::Message;

pub(crate) use self::ledger::{holder_key, holder_prefix};
use crate::feed::{Change, ChangeKind, FeedIndex};
use crate::model::{
    Agent, Authority, Cluster, DownstreamCa, Entry, JoinToken, KeyIntent, Member, NodeToken,
    Selector,
};
use crate::store::{Row, StoreError};

/// The kinds of rows. The number is on disk and in snapshots: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Single rows by name; see [`meta`].
    Meta = 1,
    /// [`Entry`] by id.
    Entries = 2,
    /// Entry id by insertion sequence.
    EntrySequence = 3,
    /// Nothing, by digest of (SPIFFE ID, parent, selector set) and entry id.
    EntrySimilar = 4,
    /// Nothing, by parent path, a zero byte, and entry id.
    EntryParent = 5,
    /// [`Agent`] by path.
    Agents = 6,
    /// Agent path by insertion sequence.
    AgentSequence = 7,
    /// [`JoinToken`] by SHA-256 of the token.
    JoinTokens = 8,
    /// [`Authority`] by kind and id.
    Authorities = 9,
    /// [`KeyIntent`] by slot.
    Intents = 10,
    /// [`Member`] by node id.
    Members = 11,
    /// [`RequestMemory`] by request id.
    Requests = 12,
    /// Request id by log index at which it was applied.
    RequestOrder = 13,
    /// Highest request of a node that was forgotten, by node id.
    RequestFloor = 14,
    /// Creation second, by id, of entries deleted within that second.
    DeletedEntries = 15,
    /// [`crate::model::FederatedBundle`] by trust domain.
    FederatedBundles = 16,
    /// [`crate::model::FederationRelationship`] by trust domain.
    Relationships = 17,
    /// [`crate::model::BundleAuthority`] by kind, id and insertion sequence.
    BundleAuthorities = 18,
    /// Nothing, by trust domain that an entry federates with, a zero byte, and entry id.
    EntryFederation = 19,
    /// [`DownstreamCa`] by its end (8 bytes big-endian), authority, a zero byte, and serial.
    DownstreamCas = 20,
    /// [`NodeToken`] by SHA-256 of the token's secret.
    NodeTokens = 21,
    /// SHA-256 of the peer key, by node id, of members that were removed.
    RemovedMembers = 22,
    /// [`crate::model::TokenLogin`] by serial of the token.
    TokenLogins = 23,
    /// [`crate::model::Holder`] by authority, path, node and start.
    Holders = 30,
}

/// Names of the single rows of [`Table::Meta`].
pub mod meta {
    /// [`crate::model::Cluster`].
    pub const CLUSTER: &[u8] = b"cluster";
    /// Log id of the last applied log entry.
    pub const APPLIED: &[u8] = b"applied";
    /// Membership and the log id it was proposed at.
    pub const MEMBERSHIP: &[u8] = b"membership";
    /// Rolling digest of the state.
    pub const DIGEST: &[u8] = b"digest";
    /// Log index below which no request is remembered, 8 bytes big-endian.
    pub const REQUESTS_FROM: &[u8] = b"requests-from";
}

impl Table {
    /// Key of a row.
    pub fn key(self, key: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(1 + key.len());
        row.push(self as u8);
        row.extend_from_slice(key);
        row
    }

    /// Table of a row key, if it is one that this version knows.
    pub fn of(row_key: &[u8]) -> Option<(Self, &[u8])> {
        const ALL: [Table; 24] = [
            Table::Meta,
            Table::Entries,
            Table::EntrySequence,
            Table::EntrySimilar,
            Table::EntryParent,
            Table::Agents,
            Table::AgentSequence,
            Table::JoinTokens,
            Table::Authorities,
            Table::Intents,
            Table::Members,
            Table::Requests,
            Table::RequestOrder,
            Table::RequestFloor,
            Table::DeletedEntries,
            Table::FederatedBundles,
            Table::Relationships,
            Table::BundleAuthorities,
            Table::EntryFederation,
            Table::DownstreamCas,
            Table::NodeTokens,
            Table::RemovedMembers,
            Table::TokenLogins,
            Table::Holders,
        ];
        let (tag, key) = row_key.split_first()?;
        ALL.into_iter().find(|t| *t as u8 == *tag).map(|t| (t, key))
    }
}

/// Reads rows of the state.
pub trait View {
    /// Value of a row.
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows whose key begins with `prefix`, in order, at most `limit`.
    fn rows(&self, prefix: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;
}

/// Rows that were written: `None` is a removal.
pub type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// First key behind every key that begins with `prefix`, if there is one.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}

/// One command at work: what was there, what earlier commands of the batch
/// wrote, and its own writes on top.
pub struct Txn<'a> {
    base: &'a dyn View,
    batch: &'a Writes,
    own: Writes,
    changes: Vec<Change>,
    log_index: u64,
    clock_ms: i64,
}

impl<'a> Txn<'a> {
    /// Starts a command at `log_index`, at cluster time `clock_ms`.
    pub fn new(base: &'a dyn View, batch: &'a Writes, log_index: u64, clock_ms: i64) -> Self {
        Self {
            base,
            batch,
            own: Writes::new(),
            changes: Vec::new(),
            log_index,
            clock_ms,
        }
    }

    /// Cluster clock in Unix seconds.
    pub fn now(&self) -> i64 {
        self.clock_ms.div_euclid(1000)
    }

    /// Cluster clock in Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.clock_ms
    }

    /// Index of the log entry that is applied.
    pub fn log_index(&self) -> u64 {
        self.log_index
    }

    /// Forgets what was written so far.
    pub fn roll_back(&mut self) {
        self.own.clear();
        self.changes.clear();
    }

    /// The writes and changes of this command.
    pub fn finish(self) -> (Writes, Vec<Change>) {
        (self.own, self.changes)
    }

    /// Notes a change for the feed.
    pub fn changed(&mut self, kind: ChangeKind) {
        let item = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        self.changes.push(Change {
            at: FeedIndex {
                log_index: self.log_index,
                item,
            },
            kind,
        });
    }

    fn get_bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let row = table.key(key);
        match self.own.get(&row).or_else(|| self.batch.get(&row)) {
            Some(written) => Ok(written.clone()),
            None => self.base.row(&row),
        }
    }

    fn get<M: Message + Default>(&self, table: Table, key: &[u8]) -> Result<Option<M>, StoreError> {
        self.get_bytes(table, key)?
            .map(|bytes| decode(table, &bytes))
            .transpose()
    }

    fn put<M: Message>(&mut self, table: Table, key: &[u8], record: &M) {
        self.own
            .insert(table.key(key), Some(record.encode_to_vec()));
    }

    fn put_bytes(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.own.insert(table.key(key), Some(value));
    }

    fn remove(&mut self, table: Table, key: &[u8]) {
        self.own.insert(table.key(key), None);
    }

    /// Keys (without table byte) of a table that begin with `prefix`.
    fn keys(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self
            .pairs(table, prefix, limit)?
            .into_iter()
            .map(|(key, _)| key)
            .collect())
    }

    fn pairs(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let prefix = table.key(prefix);
        // Overlaid removals can hide as many rows as there are overlaid rows.
        let overlaid = |w: &Writes| {
            w.range(prefix.clone()..)
                .take_while(|(k, _)| k.starts_with(&prefix))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<Vec<_>>()
        };
        let (batch, own) = (overlaid(self.batch), overlaid(&self.own));
        let mut rows: Writes = self
            .base
            .rows(&prefix, limit + batch.len() + own.len())?
            .into_iter()
            .map(|(k, v)| (k, Some(v)))
            .collect();
        rows.extend(batch);
        rows.extend(own);
        Ok(rows
            .into_iter()
            .filter_map(|(k, v)| v.map(|v| (k[1..].to_vec(), v)))
            .take(limit)
            .collect())
    }
}

/// Typed access, one group a record.
impl Txn<'_> {
    /// Cluster facts; `None` before the cluster is founded.
    pub fn cluster(&self) -> Result<Option<Cluster>, StoreError> {
        self.get(Table::Meta, meta::CLUSTER)
    }

    /// Replaces the cluster facts.
    pub fn put_cluster(&mut self, cluster: &Cluster) {
        self.put(Table::Meta, meta::CLUSTER, cluster);
    }

    /// Gives out the next insertion sequence.
    pub fn next_sequence(&mut self) -> Result<u64, StoreError> {
        let mut cluster = self.cluster()?.unwrap_or_default();
        cluster.last_sequence += 1;
        self.put_cluster(&cluster);
        Ok(cluster.last_sequence)
    }

    /// Counts a change of the own trust bundle.
    pub fn bundle_changed(&mut self) -> Result<(), StoreError> {
        let mut cluster = self.cluster()?.unwrap_or_default();
        cluster.bundle_sequence += 1;
        self.put_cluster(&cluster);
        self.changed(ChangeKind::BundleChanged);
        Ok(())
    }

    /// Entry by id.
    pub fn entry(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        self.get(Table::Entries, id.as_bytes())
    }

    /// Inserts an entry and its indexes.
    pub fn insert_entry(&mut self, entry: &Entry) {
        self.put(Table::Entries, entry.id.as_bytes(), entry);
        self.put_bytes(
            Table::EntrySequence,
            &entry.sequence.to_be_bytes(),
            entry.id.clone().into_bytes(),
        );
        self.put_bytes(
            Table::EntrySimilar,
            &similar_key(entry, Some(&entry.id)),
            Vec::new(),
        );
        self.put_bytes(
            Table::EntryParent,
            &parent_key(&entry.parent_path, Some(&entry.id)),
            Vec::new(),
        );
        self.index_federation(entry);
        self.changed(ChangeKind::EntrySet(entry.id.clone()));
    }

    /// Replaces an entry by one with the same id and sequence, and moves its indexes.
    pub fn replace_entry(&mut self, before: &Entry, entry: &Entry) {
        self.remove(Table::EntrySimilar, &similar_key(before, Some(&before.id)));
        self.remove(
            Table::EntryParent,
            &parent_key(&before.parent_path, Some(&before.id)),
        );
        self.unindex_federation(before);
        // Puts back what was removed where the place is the same.
        self.insert_entry(entry);
    }

    /// Removes an entry and its indexes.
    pub fn remove_entry(&mut self, entry: &Entry) {
        if entry.created_at >= self.now() {
            let created_at = entry.created_at.to_be_bytes().to_vec();
            self.put_bytes(Table::DeletedEntries, entry.id.as_bytes(), created_at);
        }
        self.remove(Table::Entries, entry.id.as_bytes());
        self.remove(Table::EntrySequence, &entry.sequence.to_be_bytes());
        self.remove(Table::EntrySimilar, &similar_key(entry, Some(&entry.id)));
        self.remove(
            Table::EntryParent,
            &parent_key(&entry.parent_path, Some(&entry.id)),
        );
        self.unindex_federation(entry);
        self.changed(ChangeKind::EntryRemoved(entry.id.clone()));
    }

    /// An entry with the same SPIFFE ID, parent and selector set, the oldest id first.
    pub fn similar_entry(&self, entry: &Entry) -> Result<Option<Entry>, StoreError> {
        let prefix = similar_key(entry, None);
        let Some(key) = self
            .keys(Table::EntrySimilar, &prefix, 1)?
            .into_iter()
            .next()
        else {
            return Ok(None);
        };
        let id = text(Table::EntrySimilar, &key[prefix.len()..])?;
        match self.entry(&id)? {
            Some(found) => Ok(Some(found)),
            None => Err(StoreError::corrupt(format!(
                "similarity index names entry {id}, which is not there"
            ))),
        }
    }

    /// Entries whose parent has this path, at most `limit`.
    pub fn entries_of_parent(
        &self,
        parent_path: &str,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let prefix = parent_key(parent_path, None);
        let mut entries = Vec::new();
        for key in self.keys(Table::EntryParent, &prefix, limit)? {
            let id = text(Table::EntryParent, &key[prefix.len()..])?;
            entries.extend(self.entry(&id)?);
        }
        Ok(entries)
    }

    /// Agent by path.
    pub fn agent(&self, path: &str) -> Result<Option<Agent>, StoreError> {
        self.get(Table::Agents, path.as_bytes())
    }

    /// Inserts or replaces an agent.
    pub fn put_agent(&mut self, agent: &Agent) {
        self.put(Table::Agents, agent.path.as_bytes(), agent);
        self.put_bytes(
            Table::AgentSequence,
            &agent.sequence.to_be_bytes(),
            agent.path.clone().into_bytes(),
        );
        self.changed(ChangeKind::AgentSet(agent.path.clone()));
    }

    /// Removes an agent.
    pub fn remove_agent(&mut self, agent: &Agent) {
        self.remove(Table::Agents, agent.path.as_bytes());
        self.remove(Table::AgentSequence, &agent.sequence.to_be_bytes());
        self.changed(ChangeKind::AgentRemoved(agent.path.clone()));
    }

    /// Join token by digest.
    pub fn join_token(&self, sha256: &[u8]) -> Result<Option<JoinToken>, StoreError> {
        self.get(Table::JoinTokens, sha256)
    }

    /// Inserts a join token.
    pub fn put_join_token(&mut self, token: &JoinToken) {
        self.put(Table::JoinTokens, &token.sha256, token);
    }

    /// Removes a join token.
    pub fn remove_join_token(&mut self, sha256: &[u8]) {
        self.remove(Table::JoinTokens, sha256);
    }

    /// Authority by kind and id.
    pub fn authority(&self, kind: i32, id: &str) -> Result<Option<Authority>, StoreError> {
        self.get(Table::Authorities, &authority_key(kind, id))
    }

    /// Every authority of a kind. Bounded by how authorities come to be: a handful a node.
    pub fn authorities(&self, kind: i32) -> Result<Vec<Authority>, StoreError> {
        self.pairs(Table::Authorities, &authority_key(kind, ""), usize::MAX / 4)?
            .into_iter()
            .map(|(_, bytes)| decode(Table::Authorities, &bytes))
            .collect()
    }

    /// Inserts or replaces an authority.
    pub fn put_authority(&mut self, authority: &Authority) {
        self.put(
            Table::Authorities,
            &authority_key(authority.kind, &authority.id),
            authority,
        );
        self.changed(ChangeKind::AuthoritySet(authority.id.clone()));
    }

    /// Forgets an authority.
    pub fn remove_authority(&mut self, authority: &Authority) {
        self.remove(
            Table::Authorities,
            &authority_key(authority.kind, &authority.id),
        );
        self.changed(ChangeKind::AuthorityRemoved(authority.id.clone()));
    }

    /// Whether this very CA certificate is recorded.
    pub fn has_downstream_ca(&self, ca: &DownstreamCa) -> Result<bool, StoreError> {
        let found = self.get_bytes(Table::DownstreamCas, &downstream_ca_key(ca))?;
        Ok(found.is_some())
    }

    /// Inserts a downstream server's CA certificate.
    pub fn put_downstream_ca(&mut self, ca: &DownstreamCa) {
        self.put(Table::DownstreamCas, &downstream_ca_key(ca), ca);
        self.changed(ChangeKind::DownstreamCaSet(ca.serial.clone()));
    }

    /// Forgets CA certificates of downstream servers that have ended: at most `limit`, those
    /// first that ended first.
    pub fn forget_ended_downstream_cas(&mut self, limit: usize) -> Result<(), StoreError> {
        for (key, bytes) in self.pairs(Table::DownstreamCas, &[], limit)? {
            let ca: DownstreamCa = decode(Table::DownstreamCas, &bytes)?;
            if ca.expires_at >= self.now() {
                break;
            }
            self.remove(Table::DownstreamCas, &key);
        }
        Ok(())
    }

    /// Key intent of a slot.
    pub fn intent(&self, slot: &str) -> Result<Option<KeyIntent>, StoreError> {
        self.get(Table::Intents, slot.as_bytes())
    }

    /// Inserts or replaces a key intent.
    pub fn put_intent(&mut self, intent: &KeyIntent) {
        self.put(Table::Intents, intent.slot.as_bytes(), intent);
        self.changed(ChangeKind::IntentChanged(intent.slot.clone()));
    }

    /// Member by node id.
    pub fn member(&self, node_id: u64) -> Result<Option<Member>, StoreError> {
        self.get(Table::Members, &node_id.to_be_bytes())
    }

    /// Every member, by node id.
    pub fn members(&self) -> Result<Vec<Member>, StoreError> {
        self.pairs(Table::Members, &[], usize::MAX / 4)?
            .into_iter()
            .map(|(_, bytes)| decode(Table::Members, &bytes))
            .collect()
    }

    /// Inserts or replaces a member.
    pub fn put_member(&mut self, member: &Member) {
        self.put(Table::Members, &member.node_id.to_be_bytes(), member);
        self.changed(ChangeKind::MemberSet(member.node_id));
    }

    /// Forgets a member all but its key: it is to be told when it calls. Of those removed
    /// before, the last `keep` are kept.
    pub fn remove_member(&mut self, member: &Member, keep: usize) -> Result<(), StoreError> {
        let id = member.node_id.to_be_bytes();
        let before = self.keys(Table::RemovedMembers, &[], usize::MAX / 4)?;
        for oldest in before.iter().take(before.len().saturating_sub(keep)) {
            self.remove(Table::RemovedMembers, oldest);
        }
        self.put_bytes(Table::RemovedMembers, &id, member.spki_sha256.clone());
        self.remove(Table::Members, &id);
        self.changed(ChangeKind::MemberRemoved(member.node_id));
        Ok(())
    }

    /// Node token by digest.
    pub fn node_token(&self, sha256: &[u8]) -> Result<Option<NodeToken>, StoreError> {
        self.get(Table::NodeTokens, sha256)
    }

    /// Inserts a node token.
    pub fn put_node_token(&mut self, token: &NodeToken) {
        self.put(Table::NodeTokens, &token.sha256, token);
    }

    /// Removes a node token.
    pub fn remove_node_token(&mut self, sha256: &[u8]) {
        self.remove(Table::NodeTokens, sha256);
    }

    /// Forgets node tokens that have expired, among the first `limit`.
    pub fn forget_expired_node_tokens(&mut self, limit: usize) -> Result<(), StoreError> {
        for (key, bytes) in self.pairs(Table::NodeTokens, &[], limit)? {
            if decode::<NodeToken>(Table::NodeTokens, &bytes)?.expires_at < self.now() {
                self.remove(Table::NodeTokens, &key);
            }
        }
        Ok(())
    }
}

/// Decodes a row; a record that does not decode is corruption.
pub fn decode<M: Message + Default>(table: Table, bytes: &[u8]) -> Result<M, StoreError> {
    M::decode(bytes)
        .map_err(|e| StoreError::corrupt(format!("row of {table:?} does not decode: {e}")))
}

fn text(table: Table, bytes: &[u8]) -> Result<String, StoreError> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| StoreError::corrupt(format!("key of {table:?} is not text")))
}

fn authority_key(kind: i32, id: &str) -> Vec<u8> {
    let mut key = vec![u8::try_from(kind).unwrap_or(0)];
    key.extend_from_slice(id.as_bytes());
    key
}

fn downstream_ca_key(ca: &DownstreamCa) -> Vec<u8> {
    // Recorded ends are positive, so that their order is that of their bytes.
    let mut key = ca.expires_at.to_be_bytes().to_vec();
    key.extend_from_slice(ca.authority_id.as_bytes());
    key.push(0);
    key.extend_from_slice(ca.serial.as_bytes());
    key
}

fn parent_key(parent_path: &str, id: Option<&str>) -> Vec<u8> {
    let mut key = parent_path.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(id.unwrap_or_default().as_bytes());
    key
}

/// Digest of what makes two entries similar (selectors as a set), and the id.
fn similar_key(entry: &Entry, id: Option<&str>) -> Vec<u8> {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut field = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    field(entry.spiffe_path.as_bytes());
    field(entry.parent_path.as_bytes());
    let mut selectors: Vec<&Selector> = entry.selectors.iter().collect();
    selectors.sort();
    selectors.dedup();
    for selector in selectors {
        field(selector.kind.as_bytes());
        field(selector.value.as_bytes());
    }
    let mut key = digest.finish().as_ref().to_vec();
    key.extend_from_slice(id.unwrap_or_default().as_bytes());
    key
}
