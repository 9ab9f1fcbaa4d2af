//! A link shaper in user space: the kernels of test machines often lack `tc netem`.
//!
//! While it is there, a route in each node's namespace leads the packets for its peers
//! into a TUN device. The harness reads them there, and lets each out again at the peer's
//! device, later, twice or never. Connections live on; clients are not affected.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use super::lab::{Network, run};
use super::random::Random;

/// Packets on their way on one node's links; more are dropped, as by any full queue.
const UNDER_WAY_MAX: usize = 2_000;
/// Larger packets than these do not come out of a TUN device of the usual size.
const PACKET_BYTES_MAX: usize = 2_048;
/// A link that carried fewer packets proves little.
const PACKETS_MIN: u64 = 50;

/// What becomes of each packet between two nodes.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Each packet takes so long at least, one way.
    pub delay: Duration,
    /// And up to so much longer, each for itself: packets overtake each other.
    pub jitter: Duration,
    /// Packets of a thousand that are lost.
    pub lost: usize,
    /// Packets of a thousand that come twice.
    pub twice: usize,
}

#[derive(Debug, Default)]
struct Counts {
    carried: AtomicU64,
    overtaken: AtomicU64,
    lost: AtomicU64,
    twice: AtomicU64,
}

/// All links between nodes are shaped.
pub struct Shaped {
    link: Link,
    seed: u64,
    counts: Arc<Vec<Counts>>,
    readers: Vec<JoinHandle<()>>,
    devices: Arc<Vec<AsyncDevice>>,
}

fn device(node: usize) -> String {
    format!("shape{node}")
}

impl Shaped {
    /// Shapes every link like `link`.
    pub fn new(link: Link, random: &mut Random) -> Self {
        Self {
            link,
            seed: random.below(usize::MAX) as u64,
            counts: Arc::default(),
            readers: Vec::new(),
            devices: Arc::default(),
        }
    }

    /// A device for a node, moved into its namespace; packets do not go there yet.
    fn make(node: usize) -> anyhow::Result<AsyncDevice> {
        let (name, space) = (device(node), Network::name(node));
        let made = DeviceBuilder::new().name(&name).enable(false).build_async();
        let made = made.context("cannot make a TUN device: is /dev/net/tun there?")?;
        run("ip", &["link", "set", &name, "netns", &space])?;
        run("ip", &["-n", &space, "link", "set", &name, "up"])?;
        Ok(made)
    }
}

/// Destination of an IPv4 packet.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let version = packet.first()? >> 4;
    let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (version == 4).then(|| Ipv4Addr::from(bytes))
}

/// Reads what a node sends, and lets it out at the other end.
async fn carry(
    from: usize,
    link: Link,
    devices: Arc<Vec<AsyncDevice>>,
    counts: Arc<Vec<Counts>>,
    mut random: Random,
) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    // The number of the newest packet that each peer was handed.
    let newest: Arc<Vec<AtomicU64>> = Arc::new(devices.iter().map(|_| AtomicU64::new(0)).collect());
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let mut number = 0;
    while let Ok(bytes) = devices[from].recv(&mut packet).await {
        let packet = packet[..bytes].to_vec();
        let to = destination(&packet);
        let to = to.and_then(|to| (0..devices.len()).find(|n| Network::address(*n) == to));
        let Some(to) = to.filter(|to| *to != from) else {
            continue;
        };
        number += 1;
        if random.below(1_000) < link.lost {
            counts[from].lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let copies = 1 + usize::from(random.below(1_000) < link.twice);
        if copies > 1 {
            counts[from].twice.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..copies {
            let Ok(slot) = Arc::clone(&under_way).try_acquire_owned() else {
                counts[from].lost.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let jitter = u64::try_from(link.jitter.as_micros()).unwrap_or(0);
            let jitter = random.below(usize::try_from(jitter).unwrap_or(0).max(1));
            let after = link.delay + Duration::from_micros(u64::try_from(jitter).unwrap_or(0));
            let (devices, counts, packet) =
                (Arc::clone(&devices), Arc::clone(&counts), packet.clone());
            let newest = Arc::clone(&newest);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let before = newest[to].fetch_max(number, Ordering::Relaxed);
                if before > number {
                    counts[from].overtaken.fetch_add(1, Ordering::Relaxed);
                }
                // A device that is full or gone loses packets, as devices do.
                if devices[to].send(&packet).await.is_ok() {
                    counts[from].carried.fetch_add(1, Ordering::Relaxed);
                }
                drop(slot);
            });
        }
    }
}

#[async_trait]
impl Injection for Shaped {
    fn says(&self) -> String {
        let Link {
            delay,
            jitter,
            lost,
            twice,
        } = self.link;
        format!(
            "packets between peers take {delay:?} to {:?}, {lost} of 1000 are lost, {twice} come twice",
            delay + jitter
        )
    }

    fn away(&self) -> Vec<usize> {
        Vec::new()
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let nodes = cluster.nodes.len();
        let made: anyhow::Result<Vec<_>> = (0..nodes).map(Self::make).collect();
        self.devices = Arc::new(made?);
        self.counts = Arc::new((0..nodes).map(|_| Counts::default()).collect());
        for node in 0..nodes {
            let random = Random::new(self.seed, u64::try_from(node)?);
            let (devices, counts) = (Arc::clone(&self.devices), Arc::clone(&self.counts));
            self.readers.push(tokio::spawn(carry(
                node, self.link, devices, counts, random,
            )));
        }
        for node in 0..nodes {
            for peer in (0..nodes).filter(|peer| *peer != node) {
                let (to, source) = (Network::address(peer), Network::address(node));
                let (to, source) = (format!("{to}/32"), source.to_string());
                let route = ["route", "add", &to, "dev", &device(node), "src", &source];
                run(
                    "ip",
                    &[&["-n", &Network::name(node)], route.as_slice()].concat(),
                )?;
            }
        }
        Ok(())
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        for node in 0..cluster.nodes.len() {
            let space = Network::name(node);
            run("ip", &["-n", &space, "link", "set", &device(node), "down"])?;
        }
        for reader in self.readers.drain(..) {
            reader.abort();
        }
        // The devices go with the last packet that is under way.
        self.devices = Arc::default();
        let sum = |of: fn(&Counts) -> &AtomicU64| -> u64 {
            self.counts
                .iter()
                .map(|c| of(c).load(Ordering::Relaxed))
                .sum()
        };
        let told = format!(
            "packets carried {}, overtaken {}, lost {}, twice {}",
            sum(|c| &c.carried),
            sum(|c| &c.overtaken),
            sum(|c| &c.lost),
            sum(|c| &c.twice)
        );
        let quiet = self
            .counts
            .iter()
            .any(|c| c.carried.load(Ordering::Relaxed) < PACKETS_MIN);
        let kept = |of: fn(&Counts) -> &AtomicU64, wanted: bool| !wanted || sum(of) > 0;
        let met = !quiet
            && kept(|c| &c.overtaken, self.link.jitter > self.link.delay)
            && kept(|c| &c.lost, self.link.lost > 0)
            && kept(|c| &c.twice, self.link.twice > 0);
        Ok(Seen::when(met, told))
    }
}
