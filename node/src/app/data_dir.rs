//! The data directory of a node: whose it is, and that nothing in it is of another place.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use chancery_raft_store::command::FEATURE_LEVEL;
use chancery_raft_store::high_water::{HighWater, Owner};
use chancery_raft_store::identity_record::IdentityRecord;
use chancery_raft_store::store::Store;
use chancery_raft_store::store::rocks::RocksStore;

use crate::cluster::Storage;
use crate::cluster::formation::{Plan, VERSION};
use crate::config::Config;
use crate::disk::{Gate, GatedStore};
use crate::environment::uuid_v4;
use crate::telemetry::MeteredStore;
use crate::transport::PeerKey;

/// File that says why a data directory must not be served from.
pub(crate) const QUARANTINE: &str = "quarantine";

/// Makes the data directory, and keeps other processes out of it for as long as the
/// file lives: a second one would count the first one's starts, and might take its
/// unfinished store for what a crash has left. An exchange of the directory's state that was
/// cut off is finished first.
pub(crate) fn own_data_dir(dir: &Path) -> anyhow::Result<File> {
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
        Ok(()) => {
            crate::backup::settle(dir)?;
            Ok(lock)
        }
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
    if let Ok(why) = fs::read_to_string(dir.join(QUARANTINE)) {
        bail!(
            "{}: {}; let it join under a new id (chancery cluster rejoin)",
            dir.display(),
            why.trim()
        );
    }
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
            "node {} of cluster {} has lost its store {}: it must not start as that node again; let it join under a new \
             id (chancery cluster rejoin)",
            record.node_id,
            record.cluster_id,
            store.display()
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

/// Founds a cluster of this node alone: from its next start on it is node 1 of a cluster of
/// its own, which others join by tokens. Returns the cluster's id.
///
/// # Errors
/// The node belongs to a cluster, or its configuration names others that it is to form one
/// with; a server runs on the data directory; the files cannot be written.
pub fn init_cluster(config: &Config) -> anyhow::Result<String> {
    if config.cluster.peers.len() > 1 {
        bail!(
            "[cluster] peers names {} nodes, which form their cluster by themselves: start them, or take the list out",
            config.cluster.peers.len()
        );
    }
    if config.cluster.join_token_file.is_some() {
        bail!("[cluster] join_token_file is there to join a cluster: take it out to found one");
    }
    let _lock = own_data_dir(&config.data_dir)?;
    let mut record = identity(config)?;
    if record.node_id != 0 {
        bail!(
            "{} belongs to node {} of cluster {} already: nothing was changed. To leave that cluster for good use \
             `chancery cluster rejoin`",
            config.data_dir.display(),
            record.node_id,
            record.cluster_id
        );
    }
    record.cluster_id = uuid_v4();
    record.node_id = 1;
    record.save(&config.data_dir)?;
    Ok(record.cluster_id)
}

/// What a node was, and where its files are now.
pub struct SetAside {
    /// Its id.
    pub node_id: u64,
    /// Its cluster.
    pub cluster_id: String,
    /// Folder with its identity, store and snapshots.
    pub to: PathBuf,
}

/// Moves what a node has of its cluster out of the way, so that its next start joins anew,
/// under a new id. `None` when it belongs to no cluster. The folder holds its key and the
/// state: secrets, to be removed when nobody needs them.
///
/// # Errors
/// A server runs on the data directory, or the files cannot be moved.
pub fn set_aside(config: &Config) -> anyhow::Result<Option<SetAside>> {
    let dir = &config.data_dir;
    let _lock = own_data_dir(dir)?;
    // A record that cannot be read is a reason to be here.
    let (node_id, cluster_id) = match IdentityRecord::load(dir) {
        Ok(Some(record)) => (record.node_id, record.cluster_id),
        Ok(None) if !store_path(dir).exists() => return Ok(None),
        Ok(None) | Err(_) => (0, String::new()),
    };
    let to = (1u32..)
        .map(|n| dir.join(format!("set-aside-{n}")))
        .find(|to| !to.exists())
        .unwrap_or_else(|| dir.join("set-aside"));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&to)
        .with_context(|| format!("cannot make {}", to.display()))?;
    // The identity goes last: until then the node is what it was, or is told that its
    // store is gone.
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name();
        let kept = name == "lock" || name.to_string_lossy().starts_with("set-aside");
        if !kept && name != "identity" {
            names.push(name);
        }
    }
    if IdentityRecord::path(dir).exists() {
        names.push("identity".into());
    }
    for name in names {
        let from = dir.join(&name);
        fs::rename(&from, to.join(&name))
            .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    File::open(dir)?.sync_all()?;
    Ok(Some(SetAside {
        node_id,
        cluster_id,
        to,
    }))
}

/// Notes that the state in the data directory is not the cluster's, so that no later start
/// serves it, and says so.
pub(super) fn quarantine(dir: &Path, index: u64) -> anyhow::Error {
    let why = format!(
        "the state of this node is another one than that of the majority at log entry {index}"
    );
    let path = dir.join(QUARANTINE);
    // Without the note the next start finds out again.
    if let Err(error) = fs::write(&path, format!("{why}\n")) {
        tracing::error!(%error, path = %path.display(), "cannot be written");
    }
    anyhow::anyhow!("{why}; let it join under a new id (chancery cluster rejoin)")
}

fn store_path(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

pub(super) fn open_store(
    data_dir: &Path,
    record: &mut IdentityRecord,
    gate: &Gate,
) -> anyhow::Result<Arc<dyn Store>> {
    let path = store_path(data_dir);
    let store = if record.store_made {
        RocksStore::open(&path).with_context(|| {
            format!(
                "cannot open the store {}: if its files are damaged or missing, set the data directory {} aside with \
                 `chancery cluster rejoin` and let the node join again under a new id (docs/runbooks/a-node-with-a-damaged-or-full-disk.md)",
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
    // A wait for room is no time of the disk.
    let store = GatedStore::new(MeteredStore::new(store), gate.clone());
    Ok(Arc::new(store))
}

/// A cluster that has come to a newer level holds records of which this version would drop
/// what it does not know.
pub(super) fn check_level(storage: &Storage) -> anyhow::Result<()> {
    let level = storage.registry.read().cluster().feature_level;
    if level > FEATURE_LEVEL {
        bail!(
            "the cluster is at feature level {level}, and version {VERSION} knows {FEATURE_LEVEL} at most: start the \
             newer version again"
        );
    }
    Ok(())
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
