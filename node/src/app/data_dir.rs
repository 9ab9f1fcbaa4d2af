//! The data directory of a node: whose it is, and that nothing in it is of another place.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use chancery_raft_store::high_water::{HighWater, Owner};
use chancery_raft_store::identity_record::IdentityRecord;
use chancery_raft_store::store::Store;
use chancery_raft_store::store::rocks::RocksStore;

use crate::cluster::Storage;
use crate::cluster::formation::Plan;
use crate::config::Config;
use crate::telemetry::MeteredStore;
use crate::transport::PeerKey;

/// Makes the data directory, and keeps other processes out of it for as long as the
/// file lives: a second one would count the first one's starts, and might take its
/// unfinished store for what a crash has left.
pub(super) fn own_data_dir(dir: &Path) -> anyhow::Result<File> {
    use rustix::fs::{FlockOperation, flock};
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the data directory {}", dir.display()))?;
    let path = dir.join("lock");
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another process uses the data directory {}: stop it first, or give this server a data_dir of its own",
            dir.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The identity record, or a new one with a key and no membership.
pub(super) fn identity(config: &Config) -> anyhow::Result<IdentityRecord> {
    let dir = &config.data_dir;
    let store = store_path(dir);
    let Some(record) = IdentityRecord::load(dir)? else {
        if store.exists() {
            bail!(
                "{} holds a store but no identity record: restore the record from a backup of this node, or remove the \
                 directory and let the node join again under a new id",
                dir.display()
            );
        }
        let key = PeerKey::generate()?;
        let record = IdentityRecord {
            cluster_id: String::new(),
            trust_domain: config.trust_domain.as_str().to_owned(),
            node_id: 0,
            peer_key: key.to_pkcs8().to_vec(),
            boot: 0,
            store_made: false,
            founded: false,
            pins: Vec::new(),
        };
        record.save(dir)?;
        return Ok(record);
    };
    if record.trust_domain != config.trust_domain.as_str() {
        bail!(
            "the data directory {} belongs to node {} of cluster {} in trust domain {}, the configuration is for {}; \
             check data_dir and trust_domain",
            dir.display(),
            record.node_id,
            record.cluster_id,
            record.trust_domain,
            config.trust_domain.as_str()
        );
    }
    if record.store_made && !store.exists() {
        bail!(
            "node {} of cluster {} has lost its store {}: it must not start as that node again; remove {} and let it \
             join under a new id and address",
            record.node_id,
            record.cluster_id,
            store.display(),
            dir.display()
        );
    }
    Ok(record)
}

/// This node, by its identity record, at the start that the record counts last.
pub(super) fn owner(record: &IdentityRecord) -> Owner {
    Owner {
        cluster_id: record.cluster_id.clone(),
        node_id: record.node_id,
        boot: record.boot,
    }
}

/// Before the record counts this start: neither it nor the store may be older than
/// the high-water mark. A record from before the store was made would have the
/// store taken for an unfinished one, and removed.
pub(super) fn check_mark(data_dir: &Path, record: &IdentityRecord) -> anyhow::Result<()> {
    if let Some(mark) = HighWater::load(data_dir)? {
        mark.check_identity(&owner(record), data_dir)?;
    }
    Ok(())
}

fn store_path(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("store")
}

pub(super) fn open_store(
    data_dir: &Path,
    record: &mut IdentityRecord,
) -> anyhow::Result<Arc<dyn Store>> {
    let path = store_path(data_dir);
    let store = if record.store_made {
        RocksStore::open(&path).with_context(|| {
            format!(
                "cannot open the store {}: if its files are damaged or missing, remove the data directory {} and let \
                 the node join again under a new id (docs/runbooks/a-node-with-a-damaged-or-full-disk.md)",
                path.display(),
                data_dir.display()
            )
        })?
    } else {
        // A crash may have left a store that nothing was acknowledged from.
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| {
                format!("cannot remove the unfinished store {}", path.display())
            })?;
        }
        let store = RocksStore::create(&path)
            .with_context(|| format!("cannot make the store {}", path.display()))?;
        record.store_made = true;
        record.save(data_dir)?;
        store
    };
    Ok(Arc::new(MeteredStore::new(store)))
}

/// A store of another place must not speak for this one.
pub(super) fn check_place(
    storage: &Storage,
    record: &IdentityRecord,
    plan: &Plan,
) -> anyhow::Result<()> {
    let directory = storage.registry.read();
    let cluster = directory.cluster();
    if !cluster.id.is_empty() && cluster.id != record.cluster_id {
        bail!(
            "the store in the data directory is of cluster {}, its identity record of node {} of cluster {}: put back \
             the one that belongs to the other, or remove the data directory and let the node join under a new id",
            cluster.id,
            record.node_id,
            record.cluster_id
        );
    }
    if let Some(member) = directory.member(record.node_id)
        && member.peer_address != plan.own
    {
        bail!(
            "the data directory belongs to node {} of cluster {} at {}, this node is configured as {}; check data_dir \
             and [peer] advertise",
            record.node_id,
            record.cluster_id,
            member.peer_address,
            plan.own
        );
    }
    Ok(())
}
