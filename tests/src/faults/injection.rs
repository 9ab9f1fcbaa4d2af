//! What a fault does to a cluster, and how it is taken back.

use async_trait::async_trait;

use super::cluster::Cluster;

/// What was seen of a fault once it was taken back. The text says how, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was met.
    Met(String),
    /// It was not: the round proves nothing.
    NotMet(String),
    /// It was, and a node did what it must not.
    Wrong(String),
}

impl Seen {
    /// Met if `met`.
    pub fn when(met: bool, how: String) -> Self {
        if met {
            Self::Met(how)
        } else {
            Self::NotMet(how)
        }
    }
}

/// One fault, aimed at nodes of a running cluster.
#[async_trait]
pub trait Injection: Send {
    /// What is about to happen, for the reader.
    fn says(&self) -> String;

    /// Nodes that lose touch with the quorum, from before the fault until they are
    /// ready again: nobody relies on them.
    fn away(&self) -> Vec<usize>;

    /// Nodes that must acknowledge no write from the fault to its end.
    fn silent(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Nodes that must sign nothing from soon after the fault to its end.
    fn mute(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Whether a node may answer the fault by ending its process; it is then started again.
    fn may_end(&self, _node: usize) -> bool {
        false
    }

    /// Injects it. When this returns, it is there.
    async fn begin(&mut self, cluster: &mut Cluster) -> anyhow::Result<()>;

    /// Takes it back.
    async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<Seen>;
}
