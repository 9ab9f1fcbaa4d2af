//! An agent is banned at one node while it renews at another and has documents signed at
//! a third, without a pause, on connections that were there before: nothing that was
//! asked for after the time that the ban's answer names may be signed.
//!
//! In one block of ten a node is cut off from its peers all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1 as api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::types;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::agent::Agent;
use crate::cluster::eventually;
use crate::faults::clients::entries::{create_one, entry};
use crate::faults::clients::{CALL_LIMIT, Place, Sockets, World, limited, tokens};
use crate::faults::cluster::{Cluster, Shape, TRUST_DOMAIN};
use crate::faults::node::PEER_PORT;
use crate::faults::partitions::apart;
use crate::faults::random::Random;
use crate::faults::record::Finding;
use crate::tls::connect_admin;

/// Its name.
pub const NAME: &str = "bans";
/// Rounds of a block.
pub const BLOCK: usize = 100;
/// One block in so many has a node that is cut off.
const CUT_OFF_EVERY: usize = 10;
/// Rounds at the same time.
const AT_ONCE: usize = 25;
/// Calls go on so long after the time that the ban names.
const AFTERWARDS: Duration = Duration::from_millis(150);
/// The cluster has healed within this time.
const HEAL_LIMIT: Duration = Duration::from_secs(45);
/// A ban is tried again for so long.
const BAN_LIMIT: Duration = Duration::from_secs(30);

/// A cluster whose nodes soon stop issuing without a quorum: a ban names that time.
pub const SHAPE: Shape = Shape {
    nodes: 3,
    stale_limit_s: Some(4),
    small_disks: false,
    own_clocks: false,
};

/// What one round saw.
#[derive(Debug, Default)]
struct Seen {
    documents: usize,
    violations: Vec<String>,
    /// Refusals of renewals and of signatures asked for after the named time.
    refused: [usize; 2],
    /// From the ban's call to the time that it names.
    bound_ms: i64,
}

/// One block of rounds.
///
/// # Errors
/// Those of the harness.
pub async fn block(
    cluster: &Cluster,
    turn: usize,
    rounds: usize,
    mut random: Random,
) -> anyhow::Result<Finding> {
    let mut finding = Finding {
        of: NAME.into(),
        turn,
        rounds,
        ..Finding::default()
    };
    let away = turn
        .is_multiple_of(CUT_OFF_EVERY)
        .then(|| random.below(SHAPE.nodes));
    let world = World::new(cluster, turn);
    let (mut bounds, mut unmet) = (Vec::new(), 0);
    for first in (0..rounds).step_by(AT_ONCE) {
        let mut preparing = JoinSet::new();
        for number in first..rounds.min(first + AT_ONCE) {
            let random = Random::new(random.below(usize::MAX) as u64, 0);
            let number = turn * BLOCK + number;
            preparing.spawn(Round::prepare(world.clone(), number, away, random));
        }
        let mut prepared = Vec::new();
        while let Some(round) = preparing.join_next().await {
            prepared.push(round?.with_context(|| cluster.logs())?);
        }
        // The node that is cut off knows the agents, and serves them now.
        if let Some(node) = away {
            let others = (0..SHAPE.nodes).filter(|n| *n != node).collect();
            let drops = apart(&[vec![node], others]);
            cluster.network.drop(&drops, PEER_PORT)?;
        }
        let mut running: JoinSet<_> = prepared.into_iter().map(Round::finish).collect();
        while let Some(ended) = running.join_next().await {
            let seen = ended?.with_context(|| cluster.logs())?;
            finding.documents += seen.documents;
            finding.violations.extend(seen.violations);
            bounds.push(seen.bound_ms);
            unmet += usize::from(seen.refused.contains(&0));
        }
        if away.is_some() {
            cluster.network.heal()?;
            cluster.converged(HEAL_LIMIT).await?;
        }
    }
    if let Some(node) = away {
        finding.notes.push(format!("node {node} is cut off"));
    }
    bounds.sort_unstable();
    finding.notes.push(format!(
        "the time named was {} ms after the call at the median, {} ms at most",
        bounds.get(bounds.len() / 2).copied().unwrap_or_default(),
        bounds.last().copied().unwrap_or_default()
    ));
    if unmet > 0 {
        finding.not_met = Some(format!(
            "in {unmet} rounds nothing was asked for after the time named"
        ));
    }
    Ok(finding)
}

fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// An agent that renews at one node and has documents signed at another.
struct Round {
    world: World,
    away: Option<usize>,
    random: Random,
    agent: Agent,
    entry_id: String,
    banning: Place,
    over: Arc<AtomicBool>,
    calls: Vec<tokio::task::JoinHandle<Vec<Call>>>,
}

impl Round {
    async fn prepare(
        world: World,
        number: usize,
        away: Option<usize>,
        mut random: Random,
    ) -> anyhow::Result<Self> {
        let (agent, entry_id) = eventually_attested(&world, number, away, &mut random).await?;
        // Where it is banned, where it renews, where it has documents signed.
        let first = random.below(SHAPE.nodes);
        let step = 1 + random.below(SHAPE.nodes - 1);
        let mut order = [0, step, 2 * step].map(|s| world.places[(first + s) % 3].clone());
        if Some(order[0].index) == away {
            order.swap(0, 1);
        }
        let [banning, renewing, signing] = order;
        let over = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicU8::new(0));
        let calls = [(Kind::Renew, renewing), (Kind::Sign, signing)].map(|(kind, place)| {
            let caller = Caller {
                agent: agent.clone(),
                entry_id: entry_id.clone(),
                kind,
                place,
            };
            tokio::spawn(repeat(caller, Arc::clone(&over), Arc::clone(&begun)))
        });
        eventually("calls of an agent", BAN_LIMIT, || async {
            Ok((begun.load(Ordering::SeqCst) == 2).then_some(()))
        })
        .await?;
        Ok(Self {
            world,
            away,
            random,
            agent,
            entry_id,
            banning,
            over,
            calls: calls.into(),
        })
    }

    /// Bans the agent, and sees what it is signed afterwards.
    async fn finish(mut self) -> anyhow::Result<Seen> {
        tokio::time::sleep(self.random.ms(0, 40)).await;
        let called = unix_ms();
        let by_ms = ban(
            &self.world,
            &self.banning,
            self.away,
            &self.agent,
            &mut self.random,
        )
        .await?;
        let left = by_ms.saturating_sub(unix_ms());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        tokio::time::sleep(left + AFTERWARDS).await;
        self.over.store(true, Ordering::SeqCst);
        let mut seen = Seen {
            bound_ms: by_ms - called,
            ..Seen::default()
        };
        let mut all = Vec::new();
        for call in self.calls {
            all.extend(call.await?);
        }
        // And on new connections, at every node.
        for place in self.world.places.iter() {
            for kind in [Kind::Renew, Kind::Sign] {
                let caller = Caller {
                    agent: self.agent.clone(),
                    entry_id: self.entry_id.clone(),
                    kind,
                    place: place.clone(),
                };
                all.push(caller.once(&mut None).await);
            }
        }
        for call in all {
            seen.documents += usize::from(call.signed);
            if call.began_ms < by_ms {
                continue;
            }
            match call.signed {
                true => seen.violations.push(format!(
                    "{} {} ms after the time from which on its ban holds: {:?} by node {}",
                    self.agent.path(),
                    call.began_ms - by_ms,
                    call.kind,
                    call.node
                )),
                false => seen.refused[usize::from(call.kind == Kind::Sign)] += 1,
            }
        }
        Ok(seen)
    }
}

/// An agent with an entry, made at nodes that are in touch.
async fn eventually_attested(
    world: &World,
    number: usize,
    away: Option<usize>,
    random: &mut Random,
) -> anyhow::Result<(Agent, String)> {
    let mut last = None;
    for _ in 0..20 {
        match attested(world, number, away, random).await {
            Ok(made) => return Ok(made),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(random.ms(100, 300)).await;
    }
    Err(last
        .unwrap_or_else(|| anyhow::anyhow!("no try"))
        .context("an agent for a ban"))
}

fn in_touch<'a>(world: &'a World, away: Option<usize>, random: &mut Random) -> &'a Place {
    loop {
        let place = world.any(random);
        if Some(place.index) != away {
            return place;
        }
    }
}

async fn attested(
    world: &World,
    number: usize,
    away: Option<usize>,
    random: &mut Random,
) -> anyhow::Result<(Agent, String)> {
    let token = tokens::make(world, random).await.context("no token")?;
    let place = in_touch(world, away, random);
    let attest = Agent::attest(&place.api, &world.trust, &token, None);
    let agent = tokio::time::timeout(CALL_LIMIT, attest).await??;
    let place = in_touch(world, away, random);
    let channel = connect_admin(&place.admin_socket).await?;
    let workload = entry(agent.path(), &format!("/bans/{number}"));
    let (status, made) = create_one(channel, workload).await?;
    ensure!(status.code() == Code::Ok, "{status}");
    Ok((agent, made.context("no entry")?.id))
}

/// Unix milliseconds from which on the ban holds.
async fn ban(
    world: &World,
    first: &Place,
    away: Option<usize>,
    agent: &Agent,
    random: &mut Random,
) -> anyhow::Result<i64> {
    let deadline = tokio::time::Instant::now() + BAN_LIMIT;
    let mut place = first.clone();
    loop {
        if let Some(channel) = Sockets::default().to(&place).await {
            let id = Some(types::Spiffeid {
                trust_domain: TRUST_DOMAIN.into(),
                path: agent.path().into(),
            });
            let request = api::BanAgentRequest { id };
            match limited(AgentClient::new(channel).ban_agent(request)).await {
                Ok(response) => {
                    let by = response.metadata().get("chancery-holds-by");
                    let by = by.and_then(|v| v.to_str().ok()?.parse::<i64>().ok());
                    return Ok(by.context("the answer to a ban names no time")? * 1_000);
                }
                Err(status) => ensure!(
                    tokio::time::Instant::now() < deadline,
                    "a ban did not come to be: {status}"
                ),
            }
        }
        tokio::time::sleep(random.ms(50, 100)).await;
        place = in_touch(world, away, random).clone();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Renew,
    Sign,
}

/// One call and what came of it.
struct Call {
    kind: Kind,
    node: usize,
    began_ms: i64,
    signed: bool,
}

struct Caller {
    agent: Agent,
    entry_id: String,
    kind: Kind,
    place: Place,
}

impl Caller {
    async fn once(&self, channel: &mut Option<Channel>) -> Call {
        let connected = match channel {
            Some(channel) => Some(channel.clone()),
            None => {
                let connect = self.agent.connect(&self.place.api);
                let made = tokio::time::timeout(CALL_LIMIT, connect).await;
                channel.clone_from(&made.ok().and_then(Result::ok));
                channel.clone()
            }
        };
        let began_ms = unix_ms();
        let signed = match connected {
            None => false,
            Some(connected) => {
                let result = self.ask(connected).await;
                if !result.as_ref().is_ok_and(|signed| *signed) {
                    *channel = None;
                }
                result.unwrap_or(false)
            }
        };
        Call {
            kind: self.kind,
            node: self.place.index,
            began_ms,
            signed,
        }
    }

    async fn ask(&self, channel: Channel) -> Result<bool, tonic::Status> {
        match self.kind {
            Kind::Renew => limited(self.agent.renew(channel)).await.map(|_| true),
            Kind::Sign => {
                let ids = [self.entry_id.clone()];
                let results = limited(self.agent.sign(channel, &ids)).await?;
                Ok(results.iter().any(Result::is_ok))
            }
        }
    }
}

/// Calls again and again; all that were answered.
async fn repeat(caller: Caller, over: Arc<AtomicBool>, begun: Arc<AtomicU8>) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut channel = None;
    let mut known = false;
    while !over.load(Ordering::SeqCst) {
        let call = caller.once(&mut channel).await;
        if call.signed && !known {
            known = true;
            begun.fetch_add(1, Ordering::SeqCst);
        }
        let pause = if call.signed { 5 } else { 50 };
        calls.push(call);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    calls
}
