//! The state in memory, shaped for questions: what a node answers from.
//!
//! It is fed with the very rows that `apply` wrote, after they were stored, so it
//! never says more than the tables do. A lookup costs what it returns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use crate::model::{
    Agent, Authority, AuthorityKind, Cluster, DownstreamCa, Entry, KeyIntent, Member, Selector,
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
    /// Entries by parent path, then id; node aliases are nobody's children.
    children: BTreeMap<String, BTreeMap<String, Arc<Entry>>>,
    /// Entries by SPIFFE path, then id.
    named: BTreeMap<String, BTreeMap<String, Arc<Entry>>>,
    /// Node aliases by one of their selectors, then id: an alias can only apply
    /// to an agent that has that selector.
    aliases: BTreeMap<Selector, BTreeMap<String, Arc<Entry>>>,
    agents: BTreeMap<String, Arc<Agent>>,
    agent_sequence: BTreeMap<u64, Arc<Agent>>,
    join_tokens: BTreeSet<Vec<u8>>,
    authorities: BTreeMap<(i32, String), Arc<Authority>>,
    intents: BTreeMap<String, KeyIntent>,
    members: BTreeMap<u64, Arc<Member>>,
    /// By row key, which begins with their end.
    downstream_cas: BTreeMap<Vec<u8>, Arc<DownstreamCa>>,
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
                }
                if let Some(agent) = value_of::<Agent>(table, value)? {
                    let agent = Arc::new(agent);
                    self.agent_sequence
                        .insert(agent.sequence, Arc::clone(&agent));
                    self.agents.insert(path, agent);
                }
            }
            Table::JoinTokens => {
                if value.is_some() {
                    self.join_tokens.insert(key.to_vec());
                } else {
                    self.join_tokens.remove(key);
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
                let id: [u8; 8] = key.try_into().map_err(|_| {
                    StoreError::corrupt(format!("member key of {} bytes", key.len()))
                })?;
                match value_of::<Member>(table, value)? {
                    Some(member) => self
                        .members
                        .insert(u64::from_be_bytes(id), Arc::new(member)),
                    None => self.members.remove(&u64::from_be_bytes(id)),
                };
            }
            Table::DownstreamCas => {
                match value_of::<DownstreamCa>(table, value)? {
                    Some(ca) => self.downstream_cas.insert(key.to_vec(), Arc::new(ca)),
                    None => self.downstream_cas.remove(key),
                };
            }
            // Indexes and request memory are read from the tables only.
            Table::Meta
            | Table::EntrySequence
            | Table::EntrySimilar
            | Table::EntryParent
            | Table::AgentSequence
            | Table::Requests
            | Table::RequestOrder
            | Table::RequestFloor
            | Table::DeletedEntries => {}
        }
        Ok(())
    }

    fn index_entry(&mut self, entry: Arc<Entry>) {
        let id = &entry.id;
        self.entry_sequence
            .insert(entry.sequence, Arc::clone(&entry));
        self.named
            .entry(entry.spiffe_path.clone())
            .or_default()
            .insert(id.clone(), Arc::clone(&entry));
        if entry.parent_path != SERVER_PATH {
            self.children
                .entry(entry.parent_path.clone())
                .or_default()
                .insert(id.clone(), Arc::clone(&entry));
        } else if let Some(selector) = alias_selector(&entry) {
            self.aliases
                .entry(selector.clone())
                .or_default()
                .insert(id.clone(), Arc::clone(&entry));
        }
        self.entries.insert(id.clone(), entry);
    }

    fn unindex_entry(&mut self, entry: &Entry) {
        self.entry_sequence.remove(&entry.sequence);
        remove_from(&mut self.children, &entry.parent_path, &entry.id);
        remove_from(&mut self.named, &entry.spiffe_path, &entry.id);
        if let Some(selector) = alias_selector(entry) {
            remove_from(&mut self.aliases, selector, &entry.id);
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

    /// Entries that issue this SPIFFE path.
    pub fn entries_named(&self, spiffe_path: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.named
            .get(spiffe_path)
            .into_iter()
            .flat_map(BTreeMap::values)
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

    /// Whether a join token with this digest waits to be redeemed.
    pub fn has_join_token(&self, sha256: &[u8]) -> bool {
        self.join_tokens.contains(sha256)
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

    /// Key intent of a slot.
    pub fn intent(&self, slot: &str) -> Option<&KeyIntent> {
        self.intents.get(slot)
    }

    /// Member by id.
    pub fn member(&self, node_id: u64) -> Option<&Arc<Member>> {
        self.members.get(&node_id)
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
            if !seen.insert(parent) {
                continue;
            }
            for (id, entry) in self.children.get(parent).into_iter().flatten() {
                found.insert(id.clone(), Arc::clone(entry));
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

fn remove_from<K: Ord + Clone>(
    index: &mut BTreeMap<K, BTreeMap<String, Arc<Entry>>>,
    key: &K,
    id: &str,
) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
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

fn text(table: Table, key: &[u8]) -> Result<String, StoreError> {
    String::from_utf8(key.to_vec())
        .map_err(|_| StoreError::corrupt(format!("key of {table:?} is not text")))
}
