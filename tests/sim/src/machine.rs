//! One machine: its disk and clock, and the process of the node that runs on it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_node::cluster::pins::PinBook;
use chancery_node::cluster::server::PeerServer;
use chancery_node::cluster::status::{Members, SelfStatus};
use chancery_node::cluster::{Barriers, Consensus, Proposer, Start, Storage};
use chancery_node::disk::{Disk as RoomOnDisk, Margin};
use chancery_node::environment::Clock;
use chancery_raft_store::command::FEATURE_LEVEL;
use chancery_raft_store::identity_record::Pin;
use chancery_raft_store::runtime::{self, Host};
use chancery_raft_store::snapshot::Snapshots;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::clock::SimClock;
use crate::coverage::Met;
use crate::disk::Disk;
use crate::executor::{Executor, Group};
use crate::network::{Network, SimPeers, key_of};
use crate::observer::Observer;
use crate::random::Random;

/// Cluster of every run.
pub const CLUSTER_ID: &str = "00000000-0000-4000-8000-000000000000";
/// Log entries between snapshots: few, so that they are made all the time.
const SNAPSHOT_AFTER: u64 = 24;
/// Log entries kept behind one: a node that was away needs the snapshot.
const KEEP_AFTER_SNAPSHOT: u64 = 8;

const NO_MARGIN: Margin = Margin {
    min_free: 0,
    reserve: 0,
};

/// How long the disk takes for one write, at most, before and behind its effect.
#[derive(Debug)]
pub struct Speed {
    ms_max: Mutex<u64>,
}

impl Speed {
    /// Longest half of a write of a sound disk, milliseconds.
    pub const SOUND_MS: u64 = 1;

    /// Sets the longest half of a write, milliseconds.
    pub fn set(&self, ms_max: u64) {
        *self.ms_max.lock().unwrap_or_else(PoisonError::into_inner) = ms_max;
    }

    fn ms_max(&self) -> u64 {
        *self.ms_max.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine, whether its node runs or not.
pub struct Machine {
    /// Node id.
    pub id: u64,
    /// Outlives processes.
    pub disk: Disk,
    /// The machine's clocks.
    pub clock: Arc<SimClock>,
    /// How fast the disk is.
    pub speed: Arc<Speed>,
    /// Snapshot directory.
    pub directory: PathBuf,
    /// Members that its node was told of when it joined, as the identity record has them.
    pub pins: Vec<Pin>,
    /// Starts so far, as the identity record counts them.
    pub boot: u64,
    /// What its process does.
    pub process: Process,
    /// Its disk was made to fail: the process is expected to end.
    pub may_end: bool,
    /// Its disk is damaged for good: it never comes back.
    pub lost: bool,
    /// Its node was told that it was removed, and ended. Started again it is told again.
    pub told_removed: bool,
}

/// The process on a machine.
pub enum Process {
    /// None.
    Down,
    /// Reads its store.
    Starting(Group),
    /// Takes part.
    Up(Running),
}

/// A node that takes part.
#[derive(Clone)]
pub struct Running {
    /// Its tasks.
    pub group: Group,
    /// Its part in consensus.
    pub consensus: Consensus,
    /// Its door for writes.
    pub proposer: Proposer,
    /// Its door for reads.
    pub barriers: Barriers,
    /// What it knows of the others.
    pub members: Members,
}

impl Machine {
    /// A new machine.
    pub fn new(id: u64, directory: PathBuf, clock: SimClock, pins: Vec<Pin>) -> Self {
        Self {
            id,
            disk: Disk::default(),
            clock: Arc::new(clock),
            speed: Arc::new(Speed {
                ms_max: Mutex::new(Speed::SOUND_MS),
            }),
            directory,
            pins,
            boot: 0,
            process: Process::Down,
            may_end: false,
            lost: false,
            told_removed: false,
        }
    }

    /// The node, if it takes part.
    pub fn running(&self) -> Option<&Running> {
        match &self.process {
            Process::Up(running) => Some(running),
            Process::Down | Process::Starting(_) => None,
        }
    }

    /// The tasks of the process, if there is one.
    pub fn group(&self) -> Option<Group> {
        match &self.process {
            Process::Up(running) => Some(running.group),
            Process::Starting(group) => Some(*group),
            Process::Down => None,
        }
    }
}

/// Peer address of a node.
pub fn address(node: u64) -> String {
    format!("node-{node}:8443")
}

/// How a node is known to its peers.
pub fn pin(node: u64) -> Pin {
    Pin {
        node_id: node,
        peer_address: address(node),
        spki_sha256: key_of(node).to_vec(),
    }
}

/// What the code of one process runs on.
pub struct NodeHost {
    /// Runs its tasks.
    pub executor: Executor,
    /// Its tasks.
    pub group: Group,
    /// Its random numbers.
    pub random: Mutex<Random>,
    /// Its disk's speed.
    pub speed: Arc<Speed>,
    /// Its clocks.
    pub clock: Arc<SimClock>,
    /// Counts what is met.
    pub observer: Observer,
}

impl NodeHost {
    fn draw(&self, bound: u64) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.below(bound)
    }
}

impl Host for NodeHost {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.executor.spawn_boxed(self.group, task);
    }

    fn storage(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        if name == "snapshot-build" {
            self.observer.met(Met::SnapshotBuilt);
        }
        // A crash may come before the effect, or between the effect and the answer.
        let half = || Duration::from_millis(self.draw(self.speed.ms_max() + 1));
        let (before, behind) = (half(), half());
        Box::pin(async move {
            sleep(before).await;
            work();
            sleep(behind).await;
        })
    }

    fn random(&self) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.draw()
    }

    fn shown(&self, moment: Instant) -> Instant {
        self.clock.shown(moment)
    }

    fn moment(&self, shown: Instant) -> Instant {
        self.clock.moment(shown)
    }
}

/// What a node tells of itself.
struct Status(Consensus);

impl SelfStatus for Status {
    fn node_status(&self) -> wire::NodeStatusResponse {
        let (applied_index, state_digest) = self.0.registry().digest();
        wire::NodeStatusResponse {
            applied_index,
            state_digest,
            clock_unix_ms: self.0.clock().now_unix_ms(),
            feature_level: FEATURE_LEVEL,
            members: self.0.pins(),
            checkpoints: self.0.checkpoints(),
            ..wire::NodeStatusResponse::default()
        }
    }

    fn outage_parts(&self) -> Vec<(&'static str, i64)> {
        Vec::new()
    }

    fn stale_limit(&self) -> Duration {
        Duration::ZERO
    }
}

/// What a process needs to know to start.
pub struct Boot {
    /// Node id.
    pub id: u64,
    /// Which start this is.
    pub boot: u64,
    /// Its tasks.
    pub group: Group,
    /// Its disk.
    pub disk: Disk,
    /// Snapshot directory.
    pub directory: PathBuf,
    /// Its clocks.
    pub clock: Arc<SimClock>,
    /// Members that it was told of when it joined.
    pub pins: Vec<Pin>,
    /// It is the first node of a cluster that is not formed yet.
    pub founder: bool,
}

/// Starts a node as the server does, in its order. Runs among the node's tasks.
///
/// # Errors
/// Why it cannot take part.
pub async fn start(boot: Boot, network: Network, observer: Observer) -> Result<Running, String> {
    let watcher = {
        let (observer, id) = (observer.clone(), boot.id);
        Arc::new(move |batch: &_| observer.wrote(id, batch))
    };
    let store = boot.disk.mount(watcher);
    let snapshots = Snapshots::open(&boot.directory).map_err(|e| e.to_string())?;
    let storage = Storage::open_unmarked(store, snapshots).map_err(|e| e.to_string())?;
    let pins = PinBook::new(storage.registry.clone(), &boot.pins);
    let clock: Arc<dyn Clock> = Arc::clone(&boot.clock) as Arc<dyn Clock>;
    let start = Start {
        cluster_id: CLUSTER_ID.into(),
        node_id: boot.id,
        boot: boot.boot,
        peers: Arc::new(SimPeers::new(network.clone(), boot.id, pins.clone())),
        clock,
        // Never watched: a simulated disk has room, and its stalls are Raft's alone.
        disk: RoomOnDisk::new(&boot.directory, NO_MARGIN, Duration::MAX),
        heartbeat: Duration::from_millis(70),
        election: (Duration::from_millis(200), Duration::from_millis(400)),
        snapshot_after: SNAPSHOT_AFTER,
        keep_after_snapshot: KEEP_AFTER_SNAPSHOT,
    };
    let consensus = Consensus::start(start, storage)
        .await
        .map_err(|e| e.to_string())?;
    let proposer = Proposer::start(consensus.clone());
    let barriers = Barriers::start(consensus.clone());
    // Asks the others all the time, as a server does.
    runtime::spawn(pins.clone().follow());
    let members = Members::start(consensus.clone(), pins.clone());
    let status = Arc::new(Status(consensus.clone()));
    network.listen(
        boot.id,
        boot.group,
        PeerServer::new(consensus.clone(), pins.clone(), status),
        pins,
    );
    runtime::spawn(consensus.clone().drive_membership(members.clone()));
    if boot.founder {
        consensus
            .initialise(address(boot.id))
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(Running {
        group: boot.group,
        consensus,
        proposer,
        barriers,
        members,
    })
}
