//! The clients of a round: what they do at the same time, and what they write down.

pub mod agents;
pub mod authorities;
pub mod entries;
pub mod issuers;
pub mod journal;
pub mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{Code, Status};

use super::cluster::Cluster;
use super::history::History;
use super::random::Random;
use crate::tls::{Trust, connect_admin};

/// A client waits this long; afterwards the outcome of its call is unknown.
pub const CALL_LIMIT: Duration = Duration::from_secs(4);

/// A node as its clients know it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its place in the list of peers.
    pub index: usize,
    /// Admin socket.
    pub admin_socket: PathBuf,
    /// host:port for agents.
    pub api: String,
}

/// Which nodes are in touch with a quorum. A node that left in between counts as away.
#[derive(Debug)]
pub struct Touch(Vec<AtomicU64>);

impl Touch {
    /// All in touch.
    pub fn new(nodes: usize) -> Self {
        Self((0..nodes).map(|_| AtomicU64::new(0)).collect())
    }

    /// A number that stays the same while the node is in touch; none while it is not.
    pub fn of(&self, node: usize) -> Option<u64> {
        let number = self.0.get(node)?.load(Ordering::SeqCst);
        number.is_multiple_of(2).then_some(number)
    }

    /// The node is about to lose touch, or has it again.
    pub fn set(&self, node: usize, in_touch: bool) {
        if let Some(number) = self.0.get(node)
            && number.load(Ordering::SeqCst).is_multiple_of(2) != in_touch
        {
            number.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What the clients of a round share. Cheap to clone.
#[derive(Clone)]
pub struct World {
    /// Number of the round; part of the objects' names.
    pub round: usize,
    /// When it began.
    pub began: Instant,
    /// Nodes.
    pub places: Arc<Vec<Place>>,
    /// Whom clients trust.
    pub trust: Trust,
    /// What is written down.
    pub history: History,
    /// Which nodes are in touch with a quorum.
    pub touch: Arc<Touch>,
    stop: Arc<AtomicBool>,
}

impl World {
    /// The world of a round on `cluster`.
    pub fn new(cluster: &Cluster, round: usize) -> Self {
        let places = cluster.nodes.iter().map(|node| Place {
            index: node.index,
            admin_socket: node.admin_socket(),
            api: node.api(),
        });
        Self {
            round,
            began: Instant::now(),
            places: Arc::new(places.collect()),
            trust: cluster.trust.clone(),
            history: History::new(),
            touch: Arc::new(Touch::new(cluster.nodes.len())),
            stop: Arc::default(),
        }
    }

    /// Asks the clients to end after their present call.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Whether they go on.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Any node.
    pub fn any(&self, random: &mut Random) -> &Place {
        &self.places[random.below(self.places.len())]
    }
}

/// Connections of one client to the nodes' admin sockets.
#[derive(Default)]
pub struct Sockets(std::collections::BTreeMap<usize, Channel>);

impl Sockets {
    /// A connection to a node; none where nobody listens.
    pub async fn to(&mut self, place: &Place) -> Option<Channel> {
        if let Some(channel) = self.0.get(&place.index) {
            return Some(channel.clone());
        }
        let connect = connect_admin(&place.admin_socket);
        let channel = tokio::time::timeout(CALL_LIMIT, connect).await.ok()?.ok()?;
        self.0.insert(place.index, channel.clone());
        Some(channel)
    }

    /// Forgets a connection that failed.
    pub fn forget(&mut self, place: &Place) {
        self.0.remove(&place.index);
    }
}

/// Waits for a call as long as a client waits.
pub async fn limited<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded("the client's own limit")),
    }
}

/// Whether an answer was given from state that no quorum confirmed.
pub fn is_stale(metadata: &tonic::metadata::MetadataMap) -> bool {
    metadata.contains_key("chancery-stale")
}

/// Whether the connection is to blame, or what is behind it.
pub fn is_broken(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::DeadlineExceeded
    )
}
