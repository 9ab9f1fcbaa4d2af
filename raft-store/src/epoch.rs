//! A new epoch of a cluster: the state goes on under another cluster id, with one member
//! that never was before.
//!
//! It is what a restore and a recovery have in common. Whoever belonged to the epoch
//! before can neither call nor be called: each call of a peer names the cluster, and
//! no member's key is known any more.
//!
//! Numbers that others may have seen never come again, although writes that the state
//! does not have are lost: log positions, insertion sequences and the bundle's sequence
//! go on [`GAP`] later, and entries' revisions are lifted with their next change.
//! Outcomes of requests are dropped: a request id begins with its node's id, and none of
//! the nodes that could repeat one is a member.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use openraft::Membership;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::RaftStateMachine;
use prost::Message;

use crate::apply::fold_digest;
use crate::codec;
use crate::log::key;
use crate::machine::transfer::{build, cleared, current_column, for_each_row, load};
use crate::machine::{Registry, StateMachine};
use crate::model::{
    Authority, AuthorityStatus, Cluster, Entry, EpochEnd, KeyIntent, Member, PastEpoch, TokenLogin,
};
use crate::snapshot::{self, Header, SnapshotFile, Snapshots};
use crate::store::{Batch, Column, Durability, Row, Store, StoreError};
use crate::types::{LogEntry, LogId, PeerNode, StoredMembership, Vote};
use crate::view::{Table, Writes, meta};

/// How far numbers go on behind what the state has: more than any cluster writes between
/// a backup and its restore, and few enough that a thousand restores fit where a
/// JSON number stays exact.
pub const GAP: u64 = 1 << 40;
/// The same for the revision number of an entry, which only its updates count up.
const REVISION_GAP: i64 = 1 << 20;
/// Log entries that are read and applied together.
const REPLAY_ENTRIES: usize = 512;

/// How an epoch begins: what the state cannot know.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Id of the cluster from now on; never used before.
    pub cluster_id: String,
    /// How the epoch before ended.
    pub end: EpochEnd,
    /// When the state was the newest, Unix milliseconds; the cluster clock where `None`.
    pub state_at_ms: Option<i64>,
    /// Unix milliseconds now.
    pub now_ms: i64,
    /// Who does it.
    pub by: String,
    /// The only member, without its node id: that follows from the state.
    pub member: Member,
    /// Addresses of the configured peer list: as many voters there shall be.
    pub founding_peers: Vec<String>,
}

/// An epoch that has begun in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Id of the cluster.
    pub cluster_id: String,
    /// Trust domain name.
    pub trust_domain: String,
    /// Its only member.
    pub node_id: u64,
    /// Log position of its state.
    pub log_index: u64,
    /// What it was made from.
    pub past: PastEpoch,
}

/// Hands rows of a state to a sink, in order.
type Source<'a> = dyn FnMut(&mut dyn FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>) -> Result<(), StoreError>
    + 'a;

/// Begins an epoch from a backup, which is read once and believed only when its
/// trailer was right: call [`snapshot::verify`] first, and throw the store away on an
/// error. `store` must be new.
///
/// # Errors
/// What is wrong with the backup or the store.
pub fn begin_from_backup(
    store: &dyn Store,
    snapshots: &Snapshots,
    backup: impl Read,
    beginning: &Beginning,
) -> Result<Begun, io::Error> {
    let mut backup = Some(backup);
    begin(store, snapshots, beginning, &mut |row| {
        let Some(backup) = backup.take() else {
            return Ok(());
        };
        snapshot::decode(backup, |_, rows| {
            rows.into_iter()
                .try_for_each(|(key, value)| row(key, value.unwrap_or_default()))
        })
        .map(drop)
    })
}

/// Begins an epoch in a store that [`replay`] filled.
///
/// # Errors
/// What is wrong with the store.
pub fn begin_from_replay(
    store: &dyn Store,
    snapshots: &Snapshots,
    beginning: &Beginning,
) -> Result<Begun, io::Error> {
    let column = current_column(store)?;
    begin(store, snapshots, beginning, &mut |row| {
        for_each_row(store, column, row)
    })
}

fn begin(
    store: &dyn Store,
    snapshots: &Snapshots,
    beginning: &Beginning,
    source: &mut Source<'_>,
) -> Result<Begun, io::Error> {
    let before = current_column(store)?;
    let target = match before {
        Column::StateA => Column::StateB,
        _ => Column::StateA,
    };
    store.write(cleared(target), Durability::Buffered)?;
    let mut passage = Passage::default();
    let mut batch = Batch::default();
    source(&mut |key, value| {
        if let Some(value) = passage.row(&key, value)? {
            batch.put(target, key, value);
        }
        if batch.ops.len() >= REPLAY_ENTRIES {
            store.write(std::mem::take(&mut batch), Durability::Buffered)?;
        }
        Ok(())
    })?;
    let (begun, rows, position) = passage.end(beginning)?;
    for (key, value) in rows {
        batch.put(target, key, value);
    }
    let vote = Vote {
        leader_id: position.leader_id,
        committed: false,
    };
    // The log goes on behind a snapshot of this very state: nothing of it is left.
    let at = codec::encode_log_id(&position);
    batch.put(Column::Raft, key::VOTE, codec::encode_vote(&vote));
    batch.put(Column::Raft, key::PURGED, at.clone());
    batch.put(Column::Raft, key::COMMITTED, at);
    batch.put(Column::Raft, key::STATE_COLUMN, target.name());
    batch.delete_range(Column::Log, Vec::new(), vec![u8::MAX; 9]);
    batch.ops.extend(cleared(before).ops);
    store.write(batch, Durability::Synced)?;
    build(store, snapshots, target, 0, &|| Ok(()))?;
    Ok(begun)
}

/// Rows on their way from one epoch to the next.
#[derive(Default)]
struct Passage {
    cluster: Option<Cluster>,
    applied: Option<LogId>,
    digest: Vec<u8>,
    revision_max: i64,
    node_id_max: u64,
    /// Rows that the new epoch wrote.
    written: Writes,
}

impl Passage {
    /// The row as it is from now on; `None` if it goes or comes again at the end.
    fn row(&mut self, row_key: &[u8], value: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((table, key)) = Table::of(row_key) else {
            return Err(StoreError::corrupt(format!(
                "row of unknown table {:?}",
                row_key.first()
            )));
        };
        let rewritten = match table {
            Table::Meta => {
                match key {
                    meta::CLUSTER => self.cluster = Some(decode(table, &value)?),
                    meta::APPLIED => self.applied = Some(codec::decode_log_id(&value)?),
                    meta::DIGEST => self.digest = value,
                    meta::MEMBERSHIP | meta::REQUESTS_FROM => {}
                    _ => {
                        return Err(StoreError::corrupt(format!(
                            "unknown row {:?}",
                            String::from_utf8_lossy(key)
                        )));
                    }
                }
                return Ok(None);
            }
            Table::Members => {
                let member: Member = decode(table, &value)?;
                self.node_id_max = self.node_id_max.max(member.node_id);
                return Ok(None);
            }
            Table::Requests
            | Table::RequestOrder
            | Table::RequestFloor
            | Table::NodeTokens
            | Table::RemovedMembers => return Ok(None),
            Table::Intents => closed(decode(table, &value)?),
            Table::Authorities => left_behind(decode(table, &value)?),
            // Whoever was about to log in is gone; what a token refused it refuses still.
            Table::TokenLogins => {
                let mut login: TokenLogin = decode(table, &value)?;
                if login.refusal.is_none() {
                    return Ok(None);
                }
                login.attempt.take().map(|_| login.encode_to_vec())
            }
            Table::Entries => {
                let entry: Entry = decode(table, &value)?;
                self.revision_max = self.revision_max.max(entry.revision_number);
                None
            }
            Table::EntrySequence
            | Table::EntrySimilar
            | Table::EntryParent
            | Table::EntryFederation
            | Table::Agents
            | Table::AgentSequence
            | Table::JoinTokens
            | Table::DeletedEntries
            | Table::FederatedBundles
            | Table::Relationships
            | Table::BundleAuthorities
            | Table::DownstreamCas
            | Table::Holders => None,
        };
        if let Some(rewritten) = &rewritten {
            self.written
                .insert(row_key.to_vec(), Some(rewritten.clone()));
        }
        Ok(Some(rewritten.unwrap_or(value)))
    }

    /// What the new epoch says of itself, and the log position that it begins at.
    fn end(mut self, beginning: &Beginning) -> Result<(Begun, Vec<Row>, LogId), StoreError> {
        let missing = |what: &str| StoreError::corrupt(format!("the state has no {what}"));
        let mut cluster = self
            .cluster
            .take()
            .ok_or_else(|| missing("cluster record"))?;
        let applied = self.applied.ok_or_else(|| missing("log position"))?;
        if cluster.id.is_empty() {
            return Err(missing("cluster id"));
        }
        let full = || StoreError::corrupt("a number of the state is too near to its end");
        let later = |number: u64| number.checked_add(GAP).ok_or_else(full);
        let term = applied.leader_id.term.checked_add(1).ok_or_else(full)?;
        let node_id = cluster.last_node_id.max(self.node_id_max);
        let node_id = node_id.checked_add(1).ok_or_else(full)?;
        let leader_id = LeaderId { term, node_id };
        let position = LogId::new(leader_id, later(applied.index)?);

        let past = PastEpoch {
            cluster_id: std::mem::replace(&mut cluster.id, beginning.cluster_id.clone()),
            log_index: applied.index,
            state_at_ms: beginning.state_at_ms.unwrap_or(cluster.clock_ms),
            end: beginning.end.into(),
            ended_at_ms: beginning.now_ms,
            ended_by: beginning.by.clone(),
            successor: node_id,
            keys_adopted: false,
        };
        cluster.past_epochs.push(past.clone());
        let kept_from = cluster.past_epochs.len().saturating_sub(PastEpoch::KEPT);
        cluster.past_epochs.drain(..kept_from);
        cluster.last_node_id = node_id;
        // Who took documents since the state was the newest, it does not know.
        cluster.ledger_from = cluster.last_sequence;
        cluster.last_sequence = later(cluster.last_sequence)?;
        cluster.bundle_sequence = later(cluster.bundle_sequence)?;
        cluster.revision_floor = cluster
            .revision_floor
            .max(self.revision_max)
            .saturating_add(REVISION_GAP);
        cluster.founding_peers.clone_from(&beginning.founding_peers);
        let trust_domain = cluster.trust_domain.clone();

        let member = Member {
            node_id,
            ..beginning.member.clone()
        };
        let node = PeerNode {
            address: member.peer_address.clone(),
        };
        let membership = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, node)]))
            .map_err(|e| StoreError::corrupt(format!("membership of one: {e}")))?;
        let membership = StoredMembership::new(Some(position), membership);
        let mut write = |table: Table, key: &[u8], value: Vec<u8>| {
            self.written.insert(table.key(key), Some(value.clone()));
            (table.key(key), value)
        };
        let mut rows = vec![
            write(Table::Meta, meta::CLUSTER, cluster.encode_to_vec()),
            write(
                Table::Members,
                &node_id.to_be_bytes(),
                member.encode_to_vec(),
            ),
        ];
        let digest = fold_digest(&self.digest, position.index, &self.written);
        rows.push((Table::Meta.key(meta::DIGEST), digest));
        rows.push((
            Table::Meta.key(meta::APPLIED),
            codec::encode_log_id(&position),
        ));
        rows.push((
            Table::Meta.key(meta::MEMBERSHIP),
            codec::encode_membership(&membership),
        ));
        let begun = Begun {
            cluster_id: cluster.id,
            trust_domain,
            node_id,
            log_index: position.index,
            past,
        };
        Ok((begun, rows, position))
    }
}

/// Whoever was about to make a key is gone. The number of the key stays used.
fn closed(intent: KeyIntent) -> Option<Vec<u8>> {
    (intent.node_id != 0).then(|| {
        KeyIntent {
            node_id: 0,
            ..intent
        }
        .encode_to_vec()
    })
}

/// The authority of a node that is no member any more signs nothing new: what it signed
/// is still trusted, and one that never signed leaves the bundle.
fn left_behind(mut authority: Authority) -> Option<Vec<u8>> {
    if authority.node_id == 0 {
        return None;
    }
    let status = match authority.status() {
        AuthorityStatus::Active => AuthorityStatus::Old,
        AuthorityStatus::Prepared => AuthorityStatus::Revoked,
        _ => return None,
    };
    authority.set_status(status);
    Some(authority.encode_to_vec())
}

fn decode<M: Message + Default>(table: Table, value: &[u8]) -> Result<M, StoreError> {
    crate::view::decode(table, value)
}

/// What the store of a node that lost its quorum holds.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// Facts of the cluster at `applied`.
    pub cluster: Cluster,
    /// Members at `applied`.
    pub members: Vec<Member>,
    /// Last log entry that is applied.
    pub applied: u64,
    /// Last log entry that is on the disk. What lies between may or may not have been
    /// acknowledged.
    pub last: u64,
}

/// Looks into the store of a node that does not run.
///
/// # Errors
/// A store that cannot be read, or that never had a cluster.
pub fn survivor(store: &dyn Store, snapshots: &Snapshots) -> Result<Survivor, StoreError> {
    let (cluster, members, applied) = match newer_snapshot(store, snapshots)? {
        Some((file, index)) => {
            let mut directory = crate::Directory::default();
            file.read(|_, rows| directory.absorb(&rows))?;
            facts(&directory, index)
        }
        None => {
            let (directory, applied, _) = load(store, current_column(store)?)?;
            facts(&directory, applied.map_or(0, |id| id.index))
        }
    };
    if cluster.id.is_empty() {
        return Err(StoreError::corrupt(
            "the store holds no cluster: its founding was never applied here",
        ));
    }
    let last = store.last(Column::Log)?;
    let last = last
        .map(|(_, bytes)| codec::decode_log_entry(&bytes))
        .transpose()?
        .map_or(applied, |entry| entry.log_id.index.max(applied));
    Ok(Survivor {
        cluster,
        members,
        applied,
        last,
    })
}

fn facts(directory: &crate::Directory, applied: u64) -> (Cluster, Vec<Member>, u64) {
    let members = directory.members().map(|m| (**m).clone()).collect();
    (directory.cluster().clone(), members, applied)
}

/// The newest snapshot, if it is ahead of the tables: a crash came between receiving and
/// installing it.
fn newer_snapshot(
    store: &dyn Store,
    snapshots: &Snapshots,
) -> Result<Option<(SnapshotFile, u64)>, StoreError> {
    let column = current_column(store)?;
    let applied = store.get(column, &Table::Meta.key(meta::APPLIED))?;
    let applied = applied.map(|b| codec::decode_log_id(&b)).transpose()?;
    let current = snapshots
        .current()
        .map_err(|e| StoreError::corrupt(format!("snapshot directory: {e}")))?;
    let Some(file) = current else {
        return Ok(None);
    };
    let header: Header = file.read(|_, _| Ok(()))?;
    if header.applied.is_empty() {
        return Ok(None);
    }
    let position = codec::decode_log_id(&header.applied)?;
    Ok((Some(position) > applied).then_some((file, position.index)))
}

/// Copies the state of `from`, which is not changed, into the new store `into`, and
/// applies there every log entry that `from` has behind it, committed or not: what was
/// acknowledged may be among them, and what was not may be either.
///
/// # Errors
/// A store that cannot be read or written; a log with a hole.
pub async fn replay(
    from: &dyn Store,
    from_snapshots: &Snapshots,
    into: Arc<dyn Store>,
    into_snapshots: Snapshots,
) -> Result<(), io::Error> {
    copy(from, from_snapshots, &*into)?;
    let (mut machine, registry): (StateMachine, Registry) =
        StateMachine::open(into, into_snapshots)?;
    let mut next = registry.applied_index() + 1;
    loop {
        let rows = from.scan(Column::Log, &next.to_be_bytes(), None, REPLAY_ENTRIES)?;
        let is_last = rows.len() < REPLAY_ENTRIES;
        let mut entries = Vec::with_capacity(rows.len());
        for (_, bytes) in rows {
            let entry: LogEntry = codec::decode_log_entry(&bytes)?;
            if entry.index() != next {
                return Err(StoreError::corrupt(format!(
                    "the log has a hole in front of entry {}",
                    entry.index()
                ))
                .into());
            }
            next += 1;
            entries.push(Ok((entry, None)));
        }
        machine.apply(futures::stream::iter(entries)).await?;
        if is_last {
            return Ok(());
        }
    }
}

fn copy(from: &dyn Store, snapshots: &Snapshots, into: &dyn Store) -> Result<(), StoreError> {
    let target = current_column(into)?;
    let mut batch = Batch::default();
    let mut put = |key: Vec<u8>, value: Vec<u8>| {
        batch.put(target, key, value);
        if batch.ops.len() >= REPLAY_ENTRIES {
            into.write(std::mem::take(&mut batch), Durability::Buffered)?;
        }
        Ok(())
    };
    match newer_snapshot(from, snapshots)? {
        Some((file, _)) => {
            file.read(|_, rows| {
                rows.into_iter()
                    .try_for_each(|(key, value)| put(key, value.unwrap_or_default()))
            })?;
        }
        None => for_each_row(from, current_column(from)?, &mut put)?,
    }
    into.write(batch, Durability::Buffered)
}
