//! Short ways to log entries, proposals and open nodes.

pub(crate) mod commands;
pub(crate) mod gate;
pub(crate) mod home;
pub(crate) mod model_store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chancery_raft_store::command::{AdmitMember, Found};
use chancery_raft_store::log::LogStore;
use chancery_raft_store::machine::Builder;
use chancery_raft_store::model::{Entry, Selector};
use chancery_raft_store::snapshot::{SnapshotFile, Snapshots};
use chancery_raft_store::store::rocks::RocksStore;
use chancery_raft_store::store::{Column, Reader, Row, Store, StoreError};
use chancery_raft_store::types::{LogEntry, LogId, PeerNode, SnapshotMeta, Types, Vote};
use chancery_raft_store::view::{View, Writes};
use chancery_raft_store::{Command, Proposal, Registry, StateMachine};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, Membership, RaftSnapshotBuilder};

pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

pub(crate) fn vote(term: u64, node_id: u64) -> Vote {
    Vote {
        leader_id: LeaderId { term, node_id },
        committed: false,
    }
}

pub(crate) fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry {
        log_id: log_id(term, index),
        payload: EntryPayload::Blank,
    }
}

pub(crate) fn normal(term: u64, index: u64, proposal: Proposal) -> LogEntry {
    LogEntry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(proposal),
    }
}

pub(crate) fn members(ids: &[u64]) -> Membership<u64, PeerNode> {
    let nodes: BTreeMap<u64, PeerNode> = ids
        .iter()
        .map(|id| {
            (
                *id,
                PeerNode {
                    address: format!("node-{id}:8443"),
                },
            )
        })
        .collect();
    Membership::new(vec![ids.iter().copied().collect()], nodes).unwrap()
}

pub(crate) fn membership(term: u64, index: u64, ids: &[u64]) -> LogEntry {
    LogEntry {
        log_id: log_id(term, index),
        payload: EntryPayload::Membership(members(ids)),
    }
}

pub(crate) fn at(time_ms: i64, command: Command) -> Proposal {
    Proposal {
        time_ms,
        ..Proposal::new(None, command)
    }
}

pub(crate) fn found(cluster_id: &str) -> Command {
    Command::Found(Found {
        cluster_id: cluster_id.into(),
        trust_domain: "example.org".into(),
        founder: Some(admission(1)),
        founding_peers: Vec::new(),
        ..Found::default()
    })
}

pub(crate) fn admission(key: u8) -> AdmitMember {
    AdmitMember {
        peer_address: format!("node-{key}:8443"),
        api_address: format!("node-{key}:8081"),
        spki_sha256: vec![key; 32],
        version: "0.1.0".into(),
        ..AdmitMember::default()
    }
}

pub(crate) fn selector(value: &str) -> Selector {
    Selector {
        kind: "unix".into(),
        value: value.into(),
    }
}

pub(crate) fn entry(id: &str, parent: &str, name: &str, selectors: &[&str]) -> Entry {
    Entry {
        id: id.into(),
        parent_path: parent.into(),
        spiffe_path: name.into(),
        selectors: selectors.iter().map(|s| selector(s)).collect(),
        ..Entry::default()
    }
}

/// Appends and hands back what tells of the write.
pub(crate) async fn append(log: &mut LogStore, entries: Vec<LogEntry>) -> Flushed {
    let (done, wait) = <Types>::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    Box::pin(async move { wait.await.unwrap() })
}

pub(crate) type Flushed = std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

pub(crate) async fn apply_all(
    machine: &mut StateMachine,
    entries: Vec<LogEntry>,
) -> std::io::Result<()> {
    machine
        .apply(futures::stream::iter(
            entries.into_iter().map(|e| Ok((e, None))),
        ))
        .await
}

/// The end of a build that has begun.
pub(crate) async fn built(mut builder: Builder) -> (SnapshotMeta, SnapshotFile) {
    let built = RaftSnapshotBuilder::<Types>::build_snapshot(&mut builder)
        .await
        .unwrap();
    (built.meta, built.snapshot)
}

/// A plain map as the state that `apply` reads.
pub(crate) struct Map<'a>(pub(crate) &'a Rows);

impl View for Map<'_> {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn rows(&self, prefix: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self
            .0
            .range(prefix.to_vec()..)
            .take_while(|(k, _)| k.starts_with(prefix));
        Ok(rows
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

pub(crate) fn write_to(rows: &mut Rows, writes: Writes) {
    for (key, value) in writes {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}

/// The rows of the current state column.
pub(crate) fn rows_of(store: &dyn Store) -> Rows {
    let current = store.get(Column::Raft, b"state-column").unwrap();
    let column = if current.as_deref() == Some(b"state-b") {
        Column::StateB
    } else {
        Column::StateA
    };
    column_of(store, column)
}

pub(crate) fn column_of(reader: &(impl Reader + ?Sized), column: Column) -> Rows {
    reader
        .scan(column, &[], None, usize::MAX)
        .unwrap()
        .into_iter()
        .collect()
}

/// Opens the RocksDB store below `dir`, making it the first time.
pub(crate) fn rocks(dir: &Path) -> Arc<dyn Store> {
    let path = dir.join("store");
    let store = if path.exists() {
        RocksStore::open(&path)
    } else {
        RocksStore::create(&path)
    };
    Arc::new(store.unwrap())
}

pub(crate) fn machine(store: &Arc<dyn Store>, dir: &Path) -> (StateMachine, Registry) {
    StateMachine::open(
        Arc::clone(store),
        Snapshots::open(&dir.join("snapshots")).unwrap(),
    )
    .unwrap()
}

pub(crate) fn open_log(store: Arc<dyn Store>) -> LogStore {
    LogStore::open(store).unwrap()
}

/// The write-ahead log of a closed store that holds the newest rows.
pub(crate) fn newest_wal(store: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(store).unwrap().map(|f| f.unwrap().path());
    files
        .filter(|f| f.extension().is_some_and(|e| e == "log"))
        .max_by_key(|f| f.metadata().unwrap().len())
        .unwrap()
}
