//! An agent renews its SVID again and again at any node, until it is banned at another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use chancery_api::google::rpc;
use chancery_api::spire::api::server::agent::v1 as api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::types;
use chancery_api::spire::api::types::permission_denied_details::Reason;
use prost::Message as _;
use tonic::{Code, Status};

use super::tokens;
use super::{Sockets, World, is_stale, limited};
use crate::agent::Agent;
use crate::faults::cluster::TRUST_DOMAIN;
use crate::faults::history::{Model, Outcome};
use crate::faults::random::Random;

/// Calls of an agent that go on after its ban.
const AFTERWARDS: Duration = Duration::from_millis(700);

/// One agent after the other, each with its renewals, its ban and its readers. What an
/// agent was signed after the time from which on its ban held everywhere goes to `wrong`.
pub async fn client(world: World, mut random: Random, wrong: tokio::sync::mpsc::Sender<String>) {
    while world.goes_on() {
        let Some(agent) = attest(&world, &mut random).await else {
            continue;
        };
        let life = Life {
            object: agent.path().to_owned(),
            over: Arc::default(),
            holds_by: Arc::new(AtomicI64::new(i64::MAX)),
        };
        let seed = |n| Random::new(random.clone().below(usize::MAX) as u64, n);
        let calls = [
            tokio::spawn(renew(
                world.clone(),
                life.clone(),
                agent,
                seed(1),
                wrong.clone(),
            )),
            tokio::spawn(read(world.clone(), life.clone(), seed(2))),
        ];
        tokio::time::sleep(random.ms(300, 2_500)).await;
        ban(&world, &life, &mut random).await;
        tokio::time::sleep(AFTERWARDS).await;
        life.over.store(true, Ordering::SeqCst);
        for call in calls {
            // A panic of a client shows in the harness's own output.
            let _ = call.await;
        }
    }
}

#[derive(Clone)]
struct Life {
    object: String,
    over: Arc<AtomicBool>,
    /// Unix second from which on the ban holds on every node.
    holds_by: Arc<AtomicI64>,
}

impl Life {
    fn goes_on(&self, world: &World) -> bool {
        world.goes_on() && !self.over.load(Ordering::SeqCst)
    }

    fn id(&self) -> Option<types::Spiffeid> {
        Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: self.object.clone(),
        })
    }
}

async fn attest(world: &World, random: &mut Random) -> Option<Agent> {
    let token = tokens::make(world, random).await?;
    let place = world.any(random);
    let attest = Agent::attest(&place.api, &world.trust, &token, None);
    match tokio::time::timeout(super::CALL_LIMIT, attest).await {
        Ok(Ok(agent)) => Some(agent),
        _ => {
            tokio::time::sleep(random.ms(30, 60)).await;
            None
        }
    }
}

fn unix_s() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// What an answer to a renewal says of the agent: a typed denial makes a stock agent drop
/// its identity, anything else sends it to another node.
fn renewed(status: &Status) -> Outcome {
    match denial(status) {
        Some(Reason::AgentBanned) => Outcome::of("banned"),
        Some(other) => Outcome::of(format!("denied: {}", other.as_str_name())),
        None => Outcome::Nothing,
    }
}

fn denial(status: &Status) -> Option<Reason> {
    let details = rpc::Status::decode(status.details()).ok()?.details;
    let typed = details.iter().find(|d| {
        d.type_url
            .ends_with("spire.api.types.PermissionDeniedDetails")
    })?;
    let typed = types::PermissionDeniedDetails::decode(typed.value.as_slice()).ok()?;
    Some(typed.reason())
}

async fn renew(
    world: World,
    life: Life,
    mut agent: Agent,
    mut random: Random,
    wrong: tokio::sync::mpsc::Sender<String>,
) {
    let client = world.history.client();
    while life.goes_on(&world) {
        let place = world.any(&mut random).clone();
        let connect = agent.connect(&place.api);
        let Ok(Ok(channel)) = tokio::time::timeout(Duration::from_secs(1), connect).await else {
            tokio::time::sleep(random.ms(20, 40)).await;
            continue;
        };
        let began = unix_s();
        let object = (life.object.as_str(), Model::Agent);
        let call = world.history.call(client, object, place.index, "renew", "");
        let outcome = match limited(agent.renew(channel)).await {
            Ok(next) => {
                agent = next;
                let holds_by = life.holds_by.load(Ordering::SeqCst);
                if began > holds_by {
                    // The receiver holds more than a round can send.
                    let _ = wrong.try_send(format!(
                        "{} was renewed by node {} in second {began}; its ban holds everywhere by {holds_by}",
                        life.object, place.index
                    ));
                }
                Outcome::of("done")
            }
            Err(status) => renewed(&status),
        };
        call.end(&outcome);
        tokio::time::sleep(random.ms(10, 60)).await;
    }
}

async fn read(world: World, life: Life, mut random: Random) {
    let mut sockets = Sockets::default();
    let client = world.history.client();
    while life.goes_on(&world) {
        let place = world.any(&mut random).clone();
        if let Some(channel) = sockets.to(&place).await {
            let object = (life.object.as_str(), Model::Agent);
            let call = world.history.call(client, object, place.index, "read", "");
            let request = api::GetAgentRequest {
                id: life.id(),
                output_mask: None,
            };
            let outcome = match limited(AgentClient::new(channel).get_agent(request)).await {
                Ok(response) if is_stale(response.metadata()) => Outcome::Nothing,
                Ok(response) if response.get_ref().banned => Outcome::of("banned"),
                Ok(_) => Outcome::of("active"),
                Err(status) if status.code() == Code::NotFound && !is_stale(status.metadata()) => {
                    Outcome::of("absent")
                }
                Err(_) => {
                    sockets.forget(&place);
                    Outcome::Nothing
                }
            };
            call.end(&outcome);
        }
        tokio::time::sleep(random.ms(20, 80)).await;
    }
}

/// Bans the agent; again where nothing was written.
async fn ban(world: &World, life: &Life, random: &mut Random) {
    while world.goes_on() {
        let place = world.any(random).clone();
        let Some(channel) = Sockets::default().to(&place).await else {
            tokio::time::sleep(random.ms(20, 40)).await;
            continue;
        };
        let object = (life.object.as_str(), Model::Agent);
        let client = world.history.client();
        let call = world.history.call(client, object, place.index, "ban", "");
        let request = api::BanAgentRequest { id: life.id() };
        let outcome = match limited(AgentClient::new(channel).ban_agent(request)).await {
            Ok(response) => {
                let by = response.metadata().get("chancery-holds-by");
                let by = by.and_then(|v| v.to_str().ok()?.parse().ok());
                life.holds_by
                    .store(by.unwrap_or(i64::MAX), Ordering::SeqCst);
                Outcome::of("done")
            }
            Err(status) => Outcome::of_failed_write(&status),
        };
        call.end(&outcome);
        if outcome != Outcome::Nothing {
            return;
        }
    }
}
