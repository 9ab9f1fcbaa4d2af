//! The state in memory, shaped for questions: what a node answers from.
//!
//! It is fed with the very rows that `apply` wrote, after they were stored, so it
//! never says more than the tables do. A lookup costs what it returns.

mod expiry;
mod federation;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use self::expiry::Expiry;
pub use self::federation::Federation;
pub use self::ledger::{Holders, Ledger};
use crate::command::NoteHolders;
use crate::model::{
    Agent, Authority, AuthorityKind, Cluster, DownstreamCa, Entry, JoinToken, KeyIntent, Member,
    Selector, TokenLogin,
};
use crate::store::StoreError;
use crate::view::{Table, Writes, decode, meta};

/// Path of the server's own SPIFFE ID: parent of node aliases.
const SERVER_PATH: &str = "/spire/server";

/// In-memory form of the tables. Immutable to readers.
#[derive(Debug, Default)]
pub struct Directory {
    cluster: Cluster,
    entries: BTreeMap<String, Arc<Entry>>,
    entry_sequence: BTreeMap<u64, Arc<Entry>>,
    entry_expiry: Expiry<String>,
    /// Entries by parent path, then sequence; node aliases are the server's.
    children: BTreeMap<String, BTreeMap<u64, Arc<Entry>>>,
    /// Entries by SPIFFE path, then sequence.
    named: BTreeMap<String, BTreeMap<u64, Arc<Entry>>>,
    /// Node aliases by one of their selectors, then sequence: an alias can only apply
    /// to an agent that has that selector.
    aliases: BTreeMap<Selector, BTreeMap<u64, Arc<Entry>>>,
    agents: BTreeMap<String, Arc<Agent>>,
    agent_sequence: BTreeMap<u64, Arc<Agent>>,
    /// Without banned agents.
    agent_expiry: Expiry<String>,
    /// End of each by digest.
    join_tokens: BTreeMap<Vec<u8>, i64>,
    join_token_expiry: Expiry<Vec<u8>>,
    authorities: BTreeMap<(i32, String), Arc<Authority>>,
    intents: BTreeMap<String, KeyIntent>,
    members: BTreeMap<u64, Arc<Member>>,
    removed_members: BTreeMap<u64, Vec<u8>>,
    node_tokens: BTreeSet<Vec<u8>>,
    /// By row key, which begins with their end.
    downstream_cas: BTreeMap<Vec<u8>, Arc<DownstreamCa>>,
    token_logins: BTreeMap<String, TokenLogin>,
    federation: Federation,
    ledger: Ledger,
    digest: Vec<u8>,
}

impl Directory {
    /// Takes in rows that are in the tables now.
    pub fn absorb(&mut self, writes: &Writes) -> Result<(), StoreError> {
        for (key, value) in writes {
            self.absorb_row(key, value.as_deref())?;
        }
        Ok(())
    }

    /// Takes in one row; `None` is a removal.
    pub fn absorb_row(&mut self, row_key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let Some((table, key)) = Table::of(row_key) else {
            return Err(StoreError::corrupt(format!(
                "row of unknown table {:?}",
                row_key.first()
            )));
        };
        match table {
            Table::Meta if key == meta::CLUSTER => {
                self.cluster = value_of(table, value)?.unwrap_or_default()
            }
            Table::Meta if key == meta::DIGEST => self.digest = value.unwrap_or_default().to_vec(),
            Table::Entries => {
                let id = text(table, key)?;
                if let Some(old) = self.entries.remove(&id) {
                    self.unindex_entry(&old);
                }
                if let Some(entry) = value_of::<Entry>(table, value)? {
                    self.index_entry(Arc::new(entry));
                }
            }
            Table::Agents => {
                let path = text(table, key)?;
                if let Some(old) = self.agents.remove(&path) {
                    self.agent_sequence.remove(&old.sequence);
                    self.agent_expiry.remove(old.expires_at, path.clone());
                }
                if let Some(agent) = value_of::<Agent>(table, value)? {
                    let agent = Arc::new(agent);
                    if !agent.is_banned() {
                        self.agent_expiry.add(agent.expires_at, path.clone());
                    }
                    self.agent_sequence
                        .insert(agent.sequence, Arc::clone(&agent));
                    self.agents.insert(path, agent);
                }
            }
            Table::JoinTokens => {
                if let Some(old) = self.join_tokens.remove(key) {
                    self.join_token_expiry.remove(old, key.to_vec());
                }
                if let Some(token) = value_of::<JoinToken>(table, value)? {
                    self.join_token_expiry.add(token.expires_at, key.to_vec());
                    self.join_tokens.insert(key.to_vec(), token.expires_at);
                }
            }
            Table::Authorities => {
                let (kind, id) = key.split_first().unwrap_or((&0, &[]));
                let name = (i32::from(*kind), text(table, id)?);
                match value_of::<Authority>(table, value)? {
                    Some(authority) => self.authorities.insert(name, Arc::new(authority)),
                    None => self.authorities.remove(&name),
                };
            }
            Table::Intents => {
                let slot = text(table, key)?;
                match value_of::<KeyIntent>(table, value)? {
                    Some(intent) => self.intents.insert(slot, intent),
                    None => self.intents.remove(&slot),
                };
            }
            Table::Members => {
                let id = node_id(key)?;
                match value_of::<Member>(table, value)? {
                    Some(member) => self.members.insert(id, Arc::new(member)),
                    None => self.members.remove(&id),
                };
            }
            Table::NodeTokens => {
                self.node_tokens.remove(key);
                if value.is_some() {
                    self.node_tokens.insert(key.to_vec());
                }
            }
            Table::RemovedMembers => {
                let id = node_id(key)?;
                self.removed_members.remove(&id);
                if let Some(spki) = value {
                    self.removed_members.insert(id, spki.to_vec());
                }
            }
            Table::DownstreamCas => {
                match value_of::<DownstreamCa>(table, value)? {
                    Some(ca) => self.downstream_cas.insert(key.to_vec(), Arc::new(ca)),
                    None => self.downstream_cas.remove(key),
                };
            }
            Table::TokenLogins => {
                let serial = text(table, key)?;
                match value_of::<TokenLogin>(table, value)? {
                    Some(login) => self.token_logins.insert(serial, login),
                    None => self.token_logins.remove(&serial),
                };
            }
            Table::FederatedBundles | Table::Relationships | Table::BundleAuthorities => {
                self.federation.absorb(table, key, value)?;
            }
            Table::Holders => self.ledger.absorb(key, value)?,
            // Indexes and request memory are read from the tables only.
            Table::Meta
            | Table::EntrySequence
            | Table::EntrySimilar
            | Table::EntryParent
            | Table::AgentSequence
            | Table::Requests
            | Table::RequestOrder
            | Table::RequestFloor
            | Table::DeletedEntries
            | Table::EntryFederation => {}
        }
        Ok(())
    }

    fn index_entry(&mut self, entry: Arc<Entry>) {
        let sequence = entry.sequence;
        self.entry_sequence.insert(sequence, Arc::clone(&entry));
        if entry.expires_at != 0 {
            self.entry_expiry.add(entry.expires_at, entry.id.clone());
        }
        self.named
            .entry(entry.spiffe_path.clone())
            .or_default()
            .insert(sequence, Arc::clone(&entry));
        self.children
            .entry(entry.parent_path.clone())
            .or_default()
            .insert(sequence, Arc::clone(&entry));
        if let Some(selector) = alias_selector(&entry) {
            self.aliases
                .entry(selector.clone())
                .or_default()
                .insert(sequence, Arc::clone(&entry));
        }
        self.entries.insert(entry.id.clone(), entry);
    }

    fn unindex_entry(&mut self, entry: &Entry) {
        self.entry_sequence.remove(&entry.sequence);
        self.entry_expiry.remove(entry.expires_at, entry.id.clone());
        remove_from(&mut self.children, &entry.parent_path, entry.sequence);
        remove_from(&mut self.named, &entry.spiffe_path, entry.sequence);
        if let Some(selector) = alias_selector(entry) {
            remove_from(&mut self.aliases, selector, entry.sequence);
        }
    }
}

/// Questions.
impl Directory {
    /// Facts of the cluster as a whole.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Rolling digest of the state, lower-case hex.
    pub fn digest_hex(&self) -> String {
        hex::encode(&self.digest)
    }

    /// Rolling digest of the state.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// Entry by id.
    pub fn entry(&self, id: &str) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    /// Entries inserted after `sequence`, in insertion order.
    pub fn entries_after(&self, sequence: u64) -> impl Iterator<Item = &Arc<Entry>> {
        self.entry_sequence
            .range(sequence.saturating_add(1)..)
            .map(|(_, entry)| entry)
    }

    /// Number of entries.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Entries that issue this SPIFFE path, in insertion order.
    pub fn entries_named(&self, spiffe_path: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.named
            .get(spiffe_path)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Those of them that were inserted after `sequence`.
    pub fn entries_named_after(
        &self,
        spiffe_path: &str,
        sequence: u64,
    ) -> impl Iterator<Item = &Arc<Entry>> {
        after(&self.named, spiffe_path, sequence)
    }

    /// Entries whose parent has this path and that were inserted after `sequence`, in
    /// insertion order.
    pub fn entries_of_parent_after(
        &self,
        parent_path: &str,
        sequence: u64,
    ) -> impl Iterator<Item = &Arc<Entry>> {
        after(&self.children, parent_path, sequence)
    }

    /// Ids of entries that may be pruned at this Unix second, the longest expired first.
    pub fn expired_entries(&self, now: i64) -> impl Iterator<Item = &String> {
        self.entry_expiry.before(now)
    }

    /// Agent by path.
    pub fn agent(&self, path: &str) -> Option<&Arc<Agent>> {
        self.agents.get(path)
    }

    /// Agents inserted after `sequence`, in insertion order.
    pub fn agents_after(&self, sequence: u64) -> impl Iterator<Item = &Arc<Agent>> {
        self.agent_sequence
            .range(sequence.saturating_add(1)..)
            .map(|(_, agent)| agent)
    }

    /// Number of agents, banned ones included.
    pub fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// Agents, without banned ones, whose SVID ended before this Unix second, the longest
    /// ended first.
    pub fn agents_ended_before(&self, second: i64) -> impl Iterator<Item = &Arc<Agent>> {
        self.agent_expiry
            .before(second)
            .filter_map(|path| self.agents.get(path))
    }

    /// Whether a join token with this digest waits to be redeemed.
    pub fn has_join_token(&self, sha256: &[u8]) -> bool {
        self.join_tokens.contains_key(sha256)
    }

    /// Digests of join tokens that ended before this Unix second, the longest ended first.
    pub fn join_tokens_ended_before(&self, second: i64) -> impl Iterator<Item = &Vec<u8>> {
        self.join_token_expiry.before(second)
    }

    /// Authorities of a kind, in the order they came to be.
    pub fn authorities(&self, kind: AuthorityKind) -> Vec<Arc<Authority>> {
        let mut found: Vec<_> = self
            .authorities
            .values()
            .filter(|a| a.kind() == kind)
            .cloned()
            .collect();
        found.sort_by_key(|a| a.sequence);
        found
    }

    /// The key intents of all slots, open and closed.
    pub fn intents(&self) -> impl Iterator<Item = &KeyIntent> {
        self.intents.values()
    }

    /// Key intent of a slot.
    pub fn intent(&self, slot: &str) -> Option<&KeyIntent> {
        self.intents.get(slot)
    }

    /// What is known of logins on tokens, of each token.
    pub fn token_logins(&self) -> impl Iterator<Item = &TokenLogin> {
        self.token_logins.values()
    }

    /// What is known of logins on a token, by its serial; nothing where none is under way and none
    /// was refused.
    pub fn token_login(&self, serial: &str) -> Option<&TokenLogin> {
        self.token_logins.get(serial)
    }

    /// Bundles and relationships of other trust domains, and the authorities of the own
    /// bundle that are not this cluster's.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// Who holds documents of an authority.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether every document of the authority was noted in the ledger: it came to be while
    /// that was in force, and no state was lost since.
    pub fn is_accounted_for(&self, authority: &Authority) -> bool {
        self.cluster.feature_level >= NoteHolders::FEATURE_LEVEL
            && authority.sequence > self.cluster.ledger_from
    }

    /// Member by id.
    pub fn member(&self, node_id: u64) -> Option<&Arc<Member>> {
        self.members.get(&node_id)
    }

    /// Whether a node token with this digest waits to be used.
    pub fn has_node_token(&self, sha256: &[u8]) -> bool {
        self.node_tokens.contains(sha256)
    }

    /// Whether a member with this key was removed; its id then.
    pub fn removed_member(&self, spki_sha256: &[u8]) -> Option<u64> {
        let mut removed = self.removed_members.iter();
        removed
            .find(|(_, spki)| spki.as_slice() == spki_sha256)
            .map(|(id, _)| *id)
    }

    /// Ids of members that were removed, as far as they are remembered.
    pub fn removed_members(&self) -> impl Iterator<Item = u64> {
        self.removed_members.keys().copied()
    }

    /// Every member, by id.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.values()
    }

    /// CA certificates of downstream servers, those first that end first. One that has
    /// ended may be among them for a while.
    pub fn downstream_cas(&self) -> impl Iterator<Item = &Arc<DownstreamCa>> {
        self.downstream_cas.values()
    }

    /// Entries that the agent with this path is authorized for, by id.
    ///
    /// Roots are the agent itself and every node alias whose selectors the agent
    /// has; below each root, entries are followed from SPIFFE ID to children, each
    /// parent path once.
    pub fn authorized_entries(&self, agent_path: &str) -> BTreeMap<String, Arc<Entry>> {
        let mut found = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&str> = vec![agent_path];
        if let Some(agent) = self.agents.get(agent_path) {
            let selectors: BTreeSet<&Selector> = agent.selectors.iter().collect();
            for selector in &selectors {
                let candidates = self
                    .aliases
                    .get(*selector)
                    .into_iter()
                    .flat_map(BTreeMap::values);
                todo.extend(
                    candidates
                        .filter(|alias| alias.selectors.iter().all(|s| selectors.contains(s)))
                        .map(|alias| alias.spiffe_path.as_str()),
                );
            }
        }
        while let Some(parent) = todo.pop() {
            // Node aliases are nobody's entries.
            if parent == SERVER_PATH || !seen.insert(parent) {
                continue;
            }
            let children = self.children.get(parent).into_iter();
            for entry in children.flat_map(BTreeMap::values) {
                found.insert(entry.id.clone(), Arc::clone(entry));
                todo.push(&entry.spiffe_path);
            }
        }
        found
    }

    /// The entry `id`, if the agent with this path is authorized for it.
    ///
    /// Walks from the entry up to a root, so it costs the depth and not the number
    /// of the agent's entries.
    pub fn authorized_entry(&self, agent_path: &str, id: &str) -> Option<Arc<Entry>> {
        let entry = self
            .entries
            .get(id)
            .filter(|e| e.parent_path != SERVER_PATH)?;
        let agent = self.agents.get(agent_path);
        let selectors: BTreeSet<&Selector> =
            agent.iter().flat_map(|a| a.selectors.iter()).collect();
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&str> = vec![&entry.parent_path];
        while let Some(path) = todo.pop() {
            if path == agent_path {
                return Some(Arc::clone(entry));
            }
            if !seen.insert(path) {
                continue;
            }
            for parent in self.entries_named(path) {
                if parent.parent_path == SERVER_PATH {
                    if !parent.selectors.is_empty()
                        && parent.selectors.iter().all(|s| selectors.contains(s))
                    {
                        return Some(Arc::clone(entry));
                    }
                } else {
                    todo.push(&parent.parent_path);
                }
            }
        }
        None
    }
}

/// The selector under which an alias is indexed: its smallest.
fn alias_selector(entry: &Entry) -> Option<&Selector> {
    (entry.parent_path == SERVER_PATH)
        .then(|| entry.selectors.iter().min())
        .flatten()
}

fn after<'a>(
    index: &'a BTreeMap<String, BTreeMap<u64, Arc<Entry>>>,
    path: &str,
    sequence: u64,
) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
    let entries = index.get(path).into_iter();
    entries
        .flat_map(move |entries| entries.range(sequence.saturating_add(1)..))
        .map(|(_, entry)| entry)
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeMap<u64, Arc<Entry>>>, key: &K, sequence: u64) {
    if let Some(entries) = index.get_mut(key) {
        entries.remove(&sequence);
        if entries.is_empty() {
            index.remove(key);
        }
    }
}

fn value_of<M: Message + Default>(
    table: Table,
    value: Option<&[u8]>,
) -> Result<Option<M>, StoreError> {
    value.map(|bytes| decode(table, bytes)).transpose()
}

fn node_id(key: &[u8]) -> Result<u64, StoreError> {
    let id: [u8; 8] = key
        .try_into()
        .map_err(|_| StoreError::corrupt(format!("member key of {} bytes", key.len())))?;
    Ok(u64::from_be_bytes(id))
}

fn text(table: Table, key: &[u8]) -> Result<String, StoreError> {
    String::from_utf8(key.to_vec())
        .map_err(|_| StoreError::corrupt(format!("key of {table:?} is not text")))
}
