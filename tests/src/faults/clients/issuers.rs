//! An agent has an X.509-SVID signed at every node at a steady pace.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};
use tonic::transport::Channel;

use super::entries::{create_one, entry};
use super::{CALL_LIMIT, Place, World, limited};
use crate::agent::{Agent, key_and_csr};
use crate::faults::cluster::Cluster;

/// One document at each node in this time.
const PACE: Duration = Duration::from_millis(80);
/// A document that was not signed is asked for again so often.
const TRIES: usize = 3;
/// Pause before that.
const PAUSE: Duration = Duration::from_millis(150);

/// The agent of a cluster that has documents signed.
#[derive(Clone)]
pub struct Workload {
    agent: Agent,
    entry_id: String,
    csr: Vec<u8>,
}

impl Workload {
    /// Attests the agent and registers its workload.
    pub async fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let node = cluster.nodes.first().context("a cluster has nodes")?;
        let token = cluster.token(node.index).await?;
        let agent = Agent::attest(&node.api(), &cluster.trust, &token, None).await?;
        let channel = crate::tls::connect_admin(&node.admin_socket()).await?;
        let (status, made) = create_one(channel, entry(agent.path(), "/workload")).await?;
        let made = made.with_context(|| format!("the workload's entry: {status}"))?;
        // One key for all: what clients compute is not what is looked at.
        let (_, csr) = key_and_csr()?;
        Ok(Self {
            agent,
            entry_id: made.id,
            csr,
        })
    }

    /// Connects to a node as the agent.
    pub async fn connect(&self, place: &Place) -> anyhow::Result<Channel> {
        self.agent.connect(&place.api).await
    }

    /// Has one document signed.
    pub async fn sign(&self, channel: Channel) -> anyhow::Result<()> {
        let params = vec![NewX509svidParams {
            entry_id: self.entry_id.clone(),
            csr: self.csr.clone(),
        }];
        let mut client = SvidClient::new(channel);
        let asked = client.batch_new_x509svid(BatchNewX509svidRequest { params });
        let results = limited(asked).await?.into_inner().results;
        let result = results.into_iter().next().context("no result")?;
        let status = result.status.unwrap_or_default();
        ensure!(result.svid.is_some(), "{} {}", status.code, status.message);
        Ok(())
    }
}

/// A document that a node signed some time between the request and the answer.
#[derive(Clone, Copy, Debug)]
pub struct Signed {
    /// The node.
    pub node: usize,
    /// When it was asked for.
    pub asked: Instant,
    /// When it was here.
    pub answered: Instant,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Documents.
    pub documents: Vec<Signed>,
    /// Requests that failed, by node and time of the answer.
    pub refusals: Vec<(usize, Instant)>,
    /// Requests that failed with every retry at a node in touch with a quorum, and why.
    pub failures: Vec<(usize, String)>,
}

/// The tally of all nodes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Issuance(Arc<Mutex<Tally>>);

impl Issuance {
    /// What came of it so far.
    pub fn tally(&self) -> Tally {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Has documents signed at one node until the round ends.
pub async fn client(world: World, place: Place, workload: Workload, issuance: Issuance) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut channel = None;
    while world.goes_on() {
        pace.tick().await;
        let touch = world.touch.of(place.index);
        let mut why = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let asked = Instant::now();
            match one(&workload, &place, &mut channel).await {
                Ok(()) => {
                    let signed = Signed {
                        node: place.index,
                        asked,
                        answered: Instant::now(),
                    };
                    issuance.note(|t| t.documents.push(signed));
                    why.clear();
                    break;
                }
                Err(error) => {
                    channel = None;
                    issuance.note(|t| t.refusals.push((place.index, Instant::now())));
                    why = format!("{error:#}");
                }
            }
        }
        // Only who was in touch from the first try to the last had to sign.
        if !why.is_empty() && touch.is_some() && touch == world.touch.of(place.index) {
            issuance.note(|t| t.failures.push((place.index, why)));
        }
    }
}

async fn one(
    workload: &Workload,
    place: &Place,
    channel: &mut Option<Channel>,
) -> anyhow::Result<()> {
    let connected = match channel {
        Some(channel) => channel.clone(),
        None => {
            let made = tokio::time::timeout(CALL_LIMIT, workload.connect(place)).await;
            channel.insert(made.context("no answer in time")??).clone()
        }
    };
    workload.sign(connected).await
}
