//! Offline work on the state of a node: a restore from a backup, and going on from one
//! survivor.
//!
//! Both end in a new epoch of the cluster (see `raft-store`'s `epoch`): another cluster
//! id, another node id, another peer key. What belonged to the epoch before, the node's
//! own past included, can neither call nor be called.
//!
//! Promises: a data directory is changed whole or not at all, whenever the process ends
//! ([`place`]); nothing of what was there is removed. No server runs on it meanwhile.
//! Refuses to know: flags and words for people (`cli`), and how a backup comes to be
//! (`service::backup`).

mod place;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chancery_raft_store::Registry;
use chancery_raft_store::epoch::{
    Beginning, Begun, Survivor, begin_from_backup, begin_from_replay, replay, survivor,
};
use chancery_raft_store::high_water::{HighWater, HighWaterError, Owner, shortfall};
use chancery_raft_store::identity_record::{IdentityError, IdentityRecord};
use chancery_raft_store::model::{EpochEnd, Member, MemberRole, PastEpoch};
use chancery_raft_store::snapshot::{self, Snapshots, Survey};
use chancery_raft_store::store::rocks::RocksStore;
use chancery_raft_store::store::{Store, StoreError};

pub use self::place::settle;
use self::place::{Place, SNAPSHOTS, STORE, Staged};
use crate::cluster::formation::VERSION;
use crate::config::Config;
use crate::environment::{Clock as _, SystemClock, uuid_v4};
use crate::telemetry::rfc3339;
use crate::transport::{PeerKey, PeerKeyError};

/// Why nothing was restored or recovered.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not whole, or not what it says.
    #[error("{} is no whole backup: {why}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is what nodes hand each other.
    #[error(
        "{} is a node's snapshot and no backup: make one with chancery backup save",
        .0.display()
    )]
    Snapshot(PathBuf),
    /// The backup is of another trust domain than the configuration.
    #[error(
        "{} is a backup of trust domain {theirs}, the configuration is for {ours}; check -file and trust_domain",
        path.display()
    )]
    TrustDomain {
        /// Which file.
        path: PathBuf,
        /// The backup's.
        theirs: String,
        /// The configured one.
        ours: String,
    },
    /// Something is in the data directory already.
    #[error(
        "the data directory {} is not empty, it holds {item}: a backup is restored into an empty one; move what is \
         there away, or give data_dir another",
        dir.display()
    )]
    NotEmpty {
        /// Which directory.
        dir: PathBuf,
        /// One of its items.
        item: String,
    },
    /// There is no state that could go on.
    #[error("the data directory {} {why}", dir.display())]
    NothingToRecover {
        /// Which directory.
        dir: PathBuf,
        /// What it lacks.
        why: String,
    },
    /// The store of the survivor was not accepted as it is.
    #[error(
        "nothing was changed: the store lacks what it had ({why}). Another survivor or a backup may have it; give \
         -shortStore to go on without"
    )]
    Short {
        /// What it lacks.
        why: String,
    },
    /// The data directory cannot be used.
    #[error("{0:#}")]
    Place(anyhow::Error),
    /// A step of the exchange failed.
    #[error("{action} {}", path.display())]
    Step {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The identity record cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] PeerKeyError),
    /// A store failed, or does not hold what it must.
    #[error("{what}: {why}")]
    Store {
        /// Which one.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn store_error(what: &'static str) -> impl Fn(io::Error) -> BackupError {
    move |error| BackupError::Store {
        what,
        why: error.to_string(),
    }
}

/// How much of a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every checksum; rows are counted.
    Inspect,
    /// Every row as well.
    Verify,
}

/// Looks into a backup or a snapshot.
///
/// # Errors
/// [`BackupError::Read`] and [`BackupError::Damaged`].
pub fn survey(path: &Path, depth: Depth) -> Result<Survey, BackupError> {
    let file = open(path)?;
    let survey = match depth {
        Depth::Inspect => snapshot::inspect(file),
        Depth::Verify => snapshot::verify(file),
    };
    survey.map_err(|error| damaged(path, &error))
}

fn open(path: &Path) -> Result<BufReader<File>, BackupError> {
    let unreadable = |source| BackupError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    Ok(BufReader::with_capacity(1 << 20, file))
}

fn damaged(path: &Path, error: &StoreError) -> BackupError {
    let text = error.to_string();
    let why = text.strip_prefix("corrupt store: ").unwrap_or(&text);
    let why = why.strip_prefix("snapshot: ").unwrap_or(why);
    BackupError::Damaged {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

/// What has become of a data directory.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// The epoch that began.
    pub begun: Begun,
    /// Where what was there before is now; `None` if nothing was.
    pub aside: Option<PathBuf>,
}

/// Makes a node out of a backup, in an empty data directory.
///
/// # Errors
/// [`BackupError`]; the directory is then as empty as it was.
pub fn restore(config: &Config, path: &Path, by: String) -> Result<Renewed, BackupError> {
    let place = Place::own(&config.data_dir)?;
    if let Some(item) = place.items()?.into_iter().next() {
        return Err(BackupError::NotEmpty {
            dir: config.data_dir.clone(),
            item,
        });
    }
    let survey = survey(path, Depth::Verify)?;
    let origin = survey
        .header
        .origin
        .ok_or_else(|| BackupError::Snapshot(path.to_owned()))?;
    let ours = config.trust_domain.as_str();
    if origin.trust_domain != ours {
        return Err(BackupError::TrustDomain {
            path: path.to_owned(),
            theirs: origin.trust_domain,
            ours: ours.to_owned(),
        });
    }
    let key = PeerKey::generate()?;
    let beginning = beginning(
        config,
        &key,
        EpochEnd::Restored,
        Some(origin.created_at_ms),
        by,
    );
    let staged = place.stage()?;
    let begun = {
        let (store, snapshots) = new_store(&staged)?;
        begin_from_backup(&store, &snapshots, open(path)?, &beginning)
            .map_err(store_error("the new store"))?
    };
    renew(&place, staged, begun, &key)
}

/// A node whose quorum is gone, about to go on alone. Its data directory is this
/// process's for as long as it lives.
pub struct Recovery {
    place: Place,
    record: IdentityRecord,
    survivor: Survivor,
    short: Option<String>,
}

impl Recovery {
    /// Takes the data directory, and looks what is in it.
    ///
    /// # Errors
    /// [`BackupError`]; nothing was changed.
    pub fn look(config: &Config) -> Result<Self, BackupError> {
        let dir = &config.data_dir;
        let place = Place::own(dir)?;
        let nothing = |why: &str| BackupError::NothingToRecover {
            dir: dir.clone(),
            why: why.to_owned(),
        };
        let record = IdentityRecord::load(dir)?
            .ok_or_else(|| nothing("has no identity record: no node was ever here"))?;
        if record.node_id == 0 || !record.store_made || !dir.join(STORE).exists() {
            return Err(nothing(
                "has no store: there is nothing to go on from; restore a backup into an empty directory",
            ));
        }
        let quarantine = dir.join(crate::app::QUARANTINE);
        if quarantine.exists() {
            let why = std::fs::read_to_string(&quarantine).unwrap_or_default();
            return Err(nothing(&format!(
                "must not be gone on from, {} says: {}; use another survivor or a backup",
                quarantine.display(),
                why.trim()
            )));
        }
        if record.trust_domain != config.trust_domain.as_str() {
            return Err(nothing(&format!(
                "belongs to trust domain {}, the configuration is for {}; check data_dir and trust_domain",
                record.trust_domain,
                config.trust_domain.as_str()
            )));
        }
        let (store, snapshots) = old_store(dir)?;
        let survivor =
            survivor(&store, &snapshots).map_err(|e| store_error("the store")(e.into()))?;
        if survivor.cluster.id != record.cluster_id {
            return Err(nothing(&format!(
                "holds a store of cluster {} and the identity record of a node of cluster {}",
                survivor.cluster.id, record.cluster_id
            )));
        }
        let own = survivor
            .members
            .iter()
            .find(|m| m.node_id == record.node_id);
        if own.is_none_or(|m| m.wanted() == MemberRole::Leaving) {
            return Err(nothing(&format!(
                "is of node {}, which was removed from the cluster: use a node that is a member, or a backup",
                record.node_id
            )));
        }
        let short = short_of_mark(dir, &record, &store)?;
        Ok(Self {
            place,
            record,
            survivor,
            short,
        })
    }

    /// What the store had once and lacks now, if the high-water mark beside it tells.
    pub fn short(&self) -> Option<&str> {
        self.short.as_deref()
    }

    /// What is here.
    pub fn survivor(&self) -> &Survivor {
        &self.survivor
    }

    /// Node that it is.
    pub fn node_id(&self) -> u64 {
        self.record.node_id
    }

    /// Begins the new epoch.
    ///
    /// # Errors
    /// [`BackupError`]; the old state is then there as it was.
    pub async fn run(self, config: &Config, by: String) -> Result<Renewed, BackupError> {
        let key = PeerKey::generate()?;
        let beginning = beginning(config, &key, EpochEnd::Recovered, None, by);
        let staged = self.place.stage()?;
        let begun = {
            let (old, old_snapshots) = old_store(&config.data_dir)?;
            let (store, snapshots) = new_store(&staged)?;
            let store: Arc<dyn Store> = Arc::new(store);
            replay(&old, &old_snapshots, Arc::clone(&store), snapshots.clone())
                .await
                .map_err(store_error("the log cannot be applied"))?;
            place::step();
            begin_from_replay(&*store, &snapshots, &beginning)
                .map_err(store_error("the new store"))?
        };
        renew(&self.place, staged, begun, &key)
    }
}

/// What the high-water mark in `dir` says that the store lacks.
fn short_of_mark(
    dir: &Path,
    record: &IdentityRecord,
    store: &RocksStore,
) -> Result<Option<String>, BackupError> {
    let unusable = |e: HighWaterError| store_error("the high-water mark")(std::io::Error::other(e));
    let Some(mark) = HighWater::load(dir).map_err(unusable)? else {
        return Ok(None);
    };
    // The start that would come next, if the node were started.
    let next = Owner {
        cluster_id: record.cluster_id.clone(),
        node_id: record.node_id,
        boot: record.boot.saturating_add(1),
    };
    if let Err(wrong) = mark.check_identity(&next, dir) {
        return Ok(Some(wrong.to_string()));
    }
    let found = chancery_raft_store::log::found(store, mark.position.last)
        .map_err(|e| store_error("the store")(e.into()))?;
    Ok(shortfall(&mark, &found, &next))
}

fn old_store(dir: &Path) -> Result<(RocksStore, Snapshots), BackupError> {
    let store =
        RocksStore::open(&dir.join(STORE)).map_err(|e| store_error("the store")(e.into()))?;
    let snapshots =
        Snapshots::open(&dir.join(SNAPSHOTS)).map_err(store_error("the snapshot directory"))?;
    Ok((store, snapshots))
}

fn new_store(staged: &Staged) -> Result<(RocksStore, Snapshots), BackupError> {
    let store = RocksStore::create(&staged.path().join(STORE))
        .map_err(|e| store_error("the new store")(e.into()))?;
    let snapshots = Snapshots::open(&staged.path().join(SNAPSHOTS))
        .map_err(store_error("the new snapshot directory"))?;
    Ok((store, snapshots))
}

fn beginning(
    config: &Config,
    key: &PeerKey,
    end: EpochEnd,
    state_at_ms: Option<i64>,
    by: String,
) -> Beginning {
    let own = config.peer.advertise.to_string();
    let mut founding_peers: Vec<String> = config
        .cluster
        .peers
        .iter()
        .map(ToString::to_string)
        .collect();
    if founding_peers.is_empty() {
        founding_peers.push(own.clone());
    }
    Beginning {
        cluster_id: uuid_v4(),
        end,
        state_at_ms,
        now_ms: SystemClock.now_unix_ms(),
        by,
        member: Member {
            peer_address: own,
            api_address: config.api.advertise.to_string(),
            spki_sha256: key.spki_sha256().to_vec(),
            version: VERSION.into(),
            ..Member::default()
        },
        founding_peers,
    }
}

fn renew(
    place: &Place,
    staged: Staged,
    begun: Begun,
    key: &PeerKey,
) -> Result<Renewed, BackupError> {
    place::step();
    let record = IdentityRecord {
        cluster_id: begun.cluster_id.clone(),
        trust_domain: begun.trust_domain.clone(),
        node_id: begun.node_id,
        peer_key: key.to_pkcs8().to_vec(),
        boot: 0,
        store_made: true,
        founded: true,
        pins: Vec::new(),
    };
    record.save(staged.path())?;
    let aside = place.exchange(staged, &begun.past)?;
    Ok(Renewed { begun, aside })
}

/// Tells the audit trail, at each start, what the state was taken from.
pub fn tell_epoch(registry: &Registry) {
    let past = registry.read().cluster().past_epochs.last().cloned();
    if let Some(past) = past {
        tracing::info!(
            target: "chancery::audit",
            event = "cluster_epoch",
            how = ended(&past),
            from_cluster = %past.cluster_id,
            from_log_index = past.log_index,
            state_of = rfc3339(past.state_at_ms.div_euclid(1000)),
            at = rfc3339(past.ended_at_ms.div_euclid(1000)),
            by = %past.ended_by,
            first_node = past.successor,
        );
    }
}

/// How an epoch ended, in one word.
pub fn ended(past: &PastEpoch) -> &'static str {
    match past.end() {
        EpochEnd::Restored => "restored",
        EpochEnd::Recovered => "recovered",
        EpochEnd::Unspecified => "ended",
    }
}
