//! How a node that was left behind finds out.
//!
//! A restore or a recovery begins a new epoch of a cluster under another id and other
//! keys. A node of the epoch before reaches nobody any more, and to it that looks like a
//! lost quorum. So while it hears none it asks the peers of its list, as a node without
//! a cluster would, whose members they are now. Whoever knows the shared secret can say
//! so; nobody is believed while a quorum is there.

use std::time::Duration;

use super::formation::{Plan, say_hello};
use super::{Barriers, Consensus};
use crate::transport::PeerTls;

/// How often the peers are asked while no quorum is heard.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Without a quorum for so long a node begins to ask.
const UNHEARD: Duration = Duration::from_secs(3);
/// How often a node that has served its epoch says what it should do.
const TELL_EVERY: u32 = 15;

/// The cluster goes on without this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node is of cluster {ours}, whose epoch has ended: {peer} is a member of cluster {theirs}, which was restored \
     or recovered from it. It can never come back with this data directory: chancery cluster rejoin puts that aside, \
     and started again the node joins under a new id"
)]
pub struct LeftBehind {
    /// Cluster of this node.
    pub ours: String,
    /// Peer that says so.
    pub peer: String,
    /// Its cluster.
    pub theirs: String,
}

/// Ends when this node was left behind before it heard a quorum since its start. One that
/// did hear one and is left behind later only says so, again and again: it goes on
/// issuing within its limit.
pub async fn left_behind(
    consensus: Consensus,
    barriers: Barriers,
    plan: Plan,
    tls: PeerTls,
) -> LeftBehind {
    let mut told = 0u32;
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        // By barriers alone: a leader that starts again believes in itself at first.
        let age = barriers.age();
        if age.is_some_and(|age| age <= UNHEARD) {
            continue;
        }
        for peer in plan.peers.iter().filter(|p| **p != plan.own) {
            let Some(found) = ask(&consensus, &plan, &tls, peer).await else {
                continue;
            };
            if age.is_none() {
                return found;
            }
            if told.is_multiple_of(TELL_EVERY) {
                tracing::error!(error = %found, "left behind");
            }
            told = told.wrapping_add(1);
        }
    }
}

async fn ask(consensus: &Consensus, plan: &Plan, tls: &PeerTls, peer: &str) -> Option<LeftBehind> {
    let answer = say_hello(plan, tls, peer).await.ok()?;
    let ours = consensus.cluster_id();
    let follows = answer.past_cluster_ids.iter().any(|past| past == ours);
    (follows && answer.cluster_id != ours).then(|| LeftBehind {
        ours: ours.to_owned(),
        peer: peer.to_owned(),
        theirs: answer.cluster_id,
    })
}
