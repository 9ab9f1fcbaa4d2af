//! Faults of the network that firewall rules make: packets between peers are dropped,
//! all of them or some. Clients reach every node all the time.

use async_trait::async_trait;

use super::cluster::Cluster;
use super::injection::{Injection, Seen};
use super::lab::Drop;
use super::node::PEER_PORT;

/// Fewer dropped packets than these are no partition. Two followers have little to say.
const DROPPED_MIN: u64 = 2;

/// Some nodes do not hear some others.
pub struct Partition {
    /// Who does not hear whom.
    pub drops: Vec<Drop>,
    /// Nodes that have no quorum meanwhile.
    pub away: Vec<usize>,
    /// Nodes that cannot write meanwhile, whoever leads.
    pub silent: Vec<usize>,
    /// For the reader.
    pub whom: String,
}

/// Every drop between two groups, both ways.
pub fn apart(groups: &[Vec<usize>]) -> Vec<Drop> {
    let mut drops = Vec::new();
    for (n, group) in groups.iter().enumerate() {
        for other in groups.iter().enumerate().filter(|(m, _)| *m != n) {
            for (at, from) in group
                .iter()
                .flat_map(|a| other.1.iter().map(move |b| (*a, *b)))
            {
                drops.push(Drop { at, from });
            }
        }
    }
    drops
}

#[async_trait]
impl Injection for Partition {
    fn says(&self) -> String {
        format!("partition: {}", self.whom)
    }

    fn away(&self) -> Vec<usize> {
        self.away.clone()
    }

    fn silent(&self) -> Vec<usize> {
        self.silent.clone()
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        cluster.network.drop(&self.drops, PEER_PORT)
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let dropped = cluster.network.dropped()?;
        cluster.network.heal()?;
        // Each node that does not hear must have been spoken to.
        let mut deaf: Vec<usize> = self.drops.iter().map(|d| d.at).collect();
        deaf.dedup();
        let quiet = deaf.iter().find(|n| dropped[**n] < DROPPED_MIN);
        Ok(Seen::when(
            quiet.is_none(),
            format!("packets dropped: {dropped:?}"),
        ))
    }
}

/// Every node loses a part of what its peers send.
pub struct Loss {
    /// Part of the packets, 0 to 1.
    pub probability: f64,
}

#[async_trait]
impl Injection for Loss {
    fn says(&self) -> String {
        format!(
            "{:.0} % of the packets between peers are lost",
            self.probability * 100.0
        )
    }

    fn away(&self) -> Vec<usize> {
        Vec::new()
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        for node in 0..cluster.nodes.len() {
            cluster.network.lose(node, self.probability, PEER_PORT)?;
        }
        Ok(())
    }

    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen> {
        let dropped = cluster.network.dropped()?;
        cluster.network.heal()?;
        let quiet = dropped.iter().any(|packets| *packets < DROPPED_MIN);
        Ok(Seen::when(!quiet, format!("packets lost: {dropped:?}")))
    }
}
