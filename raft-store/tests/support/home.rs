//! The data directory of one node, opened in the order in which a server opens it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use chancery_raft_store::command::CreateEntries;
use chancery_raft_store::high_water::{HighWater, Owner};
use chancery_raft_store::identity_record::IdentityRecord;
use chancery_raft_store::log::LogStore;
use chancery_raft_store::snapshot::Snapshots;
use chancery_raft_store::store::Store;
use chancery_raft_store::store::rocks::RocksStore;
use chancery_raft_store::types::LogEntry;
use chancery_raft_store::{Command, Registry, StateMachine};
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};

use super::model_store::ModelStore;
use super::{Rows, apply_all, at, entry, found, membership, normal, rows_of};

pub(crate) struct Home {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) log: LogStore,
    pub(crate) machine: StateMachine,
    pub(crate) registry: Registry,
}

/// The log of the cluster: the same on every node.
pub(crate) fn script(index: u64) -> LogEntry {
    let term = 1 + index / 60;
    match index {
        0 => membership(term, 0, &[1, 2]),
        1 => normal(term, 1, at(1, found("c"))),
        // Not to be compressed to nothing: files shall have several blocks.
        _ => {
            let noise: String = (0..12u64)
                .map(|n| {
                    format!(
                        "{:016x}",
                        (index * 12 + n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    )
                })
                .collect();
            let entries = vec![entry(
                &format!("e{index}"),
                "/p",
                &format!("/w{index}"),
                &[&noise],
            )];
            normal(
                term,
                index,
                at(1000, Command::CreateEntries(CreateEntries { entries })),
            )
        }
    }
}

/// The state that the log gives up to `index`.
pub(crate) async fn state_at(index: u64) -> Rows {
    let store: Arc<dyn Store> = Arc::new(ModelStore::default());
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
    let (mut machine, _) =
        StateMachine::<chancery_raft_store::runtime::Runtime>::open(Arc::clone(&store), snapshots)
            .unwrap();
    apply_all(&mut machine, (0..=index).map(script).collect())
        .await
        .unwrap();
    rows_of(&*store)
}

/// A new identity record of a node.
pub(crate) fn identity(node_id: u64) -> IdentityRecord {
    IdentityRecord {
        cluster_id: "c".into(),
        trust_domain: "example.org".into(),
        node_id,
        peer_key: vec![7; 80],
        boot: 0,
        store_made: false,
        founded: true,
        pins: Vec::new(),
    }
}

impl Home {
    /// Opens what is there, or says why not, as a server does.
    pub(crate) fn open(dir: &Path) -> Result<Self, String> {
        let path = dir.join("store");
        let record = IdentityRecord::load(dir).map_err(|e| e.to_string())?;
        let mut record = record.ok_or_else(|| {
            format!(
                "{} holds a store but no identity record: restore it",
                dir.display()
            )
        })?;
        let owner = |boot| Owner {
            cluster_id: record.cluster_id.clone(),
            node_id: record.node_id,
            boot,
        };
        if let Some(mark) = HighWater::load(dir).map_err(|e| e.to_string())? {
            mark.check_identity(&owner(record.boot), dir)
                .map_err(|e| e.to_string())?;
        }
        let this = owner(record.boot + 1);
        record.boot += 1;
        record.save(dir).map_err(|e| e.to_string())?;
        let broken = |e: &dyn std::fmt::Display| format!("the store in {}: {e}", dir.display());
        let store = if record.store_made {
            RocksStore::open(&path).map_err(|e| broken(&e))?
        } else {
            if path.exists() {
                fs::remove_dir_all(&path).map_err(|e| broken(&e))?;
            }
            let store = RocksStore::create(&path).map_err(|e| broken(&e))?;
            record.store_made = true;
            record.save(dir).map_err(|e| e.to_string())?;
            store
        };
        let store: Arc<dyn Store> = Arc::new(store);
        let snapshots = Snapshots::open(&dir.join("snapshots")).map_err(|e| broken(&e))?;
        let log =
            LogStore::open_marked(Arc::clone(&store), dir, &this).map_err(|e| e.to_string())?;
        let (machine, registry) =
            StateMachine::open(Arc::clone(&store), snapshots).map_err(|e| broken(&e))?;
        machine
            .check_covers(log.durable().purged)
            .map_err(|e| broken(&e))?;
        Ok(Self {
            store,
            log,
            machine,
            registry,
        })
    }

    /// Appends the log entries of the script and applies them, one by one.
    pub(crate) async fn take(
        &mut self,
        indexes: std::ops::RangeInclusive<u64>,
    ) -> std::io::Result<()> {
        for index in indexes {
            super::append(&mut self.log, vec![script(index)])
                .await
                .await?;
            apply_all(&mut self.machine, vec![script(index)]).await?;
        }
        Ok(())
    }

    /// Takes a snapshot and purges the log up to `purge`.
    pub(crate) async fn snapshot(&mut self, purge: u64) -> std::io::Result<()> {
        let mut builder = self.machine.get_snapshot_builder().await;
        openraft::RaftSnapshotBuilder::<chancery_raft_store::Types>::build_snapshot(&mut builder)
            .await?;
        self.log.purge(script(purge).log_id).await
    }

    /// What is not what the script says: the log up to `last`, and the state that it
    /// gives. `None` when all is there.
    pub(crate) async fn missing(&mut self, last: u64) -> Option<String> {
        let state = self.log.get_log_state().await.unwrap();
        let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
        if state.last_log_id.is_none_or(|id| id.index < last) {
            return Some(format!(
                "the log ends at {:?}, not at {last}",
                state.last_log_id
            ));
        }
        let entries = match self.log.try_get_log_entries(first..=last).await {
            Ok(entries) => entries,
            Err(error) => return Some(format!("the log cannot be read: {error}")),
        };
        if entries != (first..=last).map(script).collect::<Vec<_>>() {
            return Some("the log has other entries".into());
        }
        let applied = self.machine.applied_state().await.unwrap().0;
        let next = applied.map_or(0, |id| id.index + 1);
        if next < first {
            return Some(format!(
                "the state ends before {next}, the log begins at {first}"
            ));
        }
        if next <= last {
            apply_all(&mut self.machine, (next..=last).map(script).collect())
                .await
                .unwrap();
        }
        (rows_of(&*self.store) != state_at(self.registry.applied_index()).await)
            .then(|| "the state is another one".into())
    }
}

/// Copies a directory, into one that may be there.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).unwrap();
        }
    }
}
