//! Callers: they write and read through the nodes' own doors, at the same time on
//! different nodes, and remember what they were told.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chancery_node::cluster::ProposeError;
use chancery_raft_store::command::{
    AgentPath, AttestAgent, CreateEntries, CreateJoinToken, DeleteEntries, EntryFields,
    EntryUpdate, Outcome, Refusal, RenewAgent, UpdateEntries,
};
use chancery_raft_store::model::{Entry, JoinToken, Selector};
use chancery_raft_store::{Command, Proposal};
use prost::Message;
use tokio::time::sleep;

use crate::coverage::Met;
use crate::invariants::Event;
use crate::machine::Running;
use crate::random::Random;
use crate::reference::key_of;
use crate::world::World;

/// Longest pause of a caller between two calls, milliseconds.
const PAUSE_MS: u64 = 60;

/// One write that somebody asked for. No two have the same command.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which one.
    pub number: u64,
    /// Node that was asked.
    pub node: u64,
    /// Log index that was acknowledged to somebody when it was asked.
    pub acknowledged: u64,
    /// What was asked for.
    pub command: Command,
    /// [`key_of`] the command.
    pub key: Vec<u8>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.command.name();
        write!(f, "call {} ({name} on node {})", self.number, self.node)
    }
}

/// What callers know that there may be.
#[derive(Default)]
pub struct Known {
    numbers: u64,
    entries: Vec<String>,
    tokens: Vec<Vec<u8>>,
    agents: Vec<String>,
    banned: Vec<String>,
}

/// Names shared by the callers of a run.
pub type Shared = Arc<Mutex<Known>>;

fn selector(value: u64) -> Selector {
    Selector {
        kind: "unix".into(),
        value: format!("uid:{value}"),
    }
}

impl Known {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A command like no other.
    fn command(&mut self, number: u64, random: &mut Random) -> Command {
        let some_entry = random.pick(&self.entries).cloned();
        let some_agent = random.pick(&self.agents).cloned();
        match (random.below(100), some_entry, some_agent) {
            (0..30, _, _) | (_, None, _) => {
                let id = format!("e{number}");
                self.entries.push(id.clone());
                Command::CreateEntries(CreateEntries {
                    entries: vec![Entry {
                        id,
                        parent_path: "/spire/server".into(),
                        spiffe_path: format!("/w{number}"),
                        selectors: vec![selector(number)],
                        ..Entry::default()
                    }],
                })
            }
            (30..50, Some(id), _) => Command::UpdateEntries(UpdateEntries {
                updates: vec![EntryUpdate {
                    id,
                    values: Some(Entry {
                        hint: format!("h{number}"),
                        ..Entry::default()
                    }),
                    fields: Some(EntryFields {
                        hint: true,
                        ..EntryFields::default()
                    }),
                }],
            }),
            // The second name is of nothing: it makes the command unlike any other.
            (50..62, Some(id), _) => Command::DeleteEntries(DeleteEntries {
                ids: vec![id, format!("none{number}")],
            }),
            (62..78, _, Some(path)) => Command::RenewAgent(RenewAgent {
                path,
                serial: number.to_string(),
                expires_at: i64::MAX,
            }),
            (78..84, _, Some(path)) if !self.banned.contains(&path) => {
                self.banned.push(path.clone());
                Command::BanAgent(AgentPath { path })
            }
            _ => {
                let mut sha256 = vec![0; 24];
                sha256.extend_from_slice(&number.to_be_bytes());
                self.tokens.push(sha256.clone());
                Command::CreateJoinToken(CreateJoinToken {
                    token: Some(JoinToken {
                        sha256,
                        ..JoinToken::default()
                    }),
                    ttl: i32::MAX,
                    ..CreateJoinToken::default()
                })
            }
        }
    }

    fn redemption(&mut self, number: u64, token_sha256: Vec<u8>) -> Command {
        let path = format!("/spire/agent/join_token/{number}");
        self.agents.push(path.clone());
        Command::AttestAgent(AttestAgent {
            path,
            attestation_type: "join_token".into(),
            serial: number.to_string(),
            expires_at: i64::MAX,
            token_sha256,
            ..AttestAgent::default()
        })
    }
}

/// One caller. Ends when the world says so.
pub async fn call_on(world: Arc<World>, known: Shared, mut random: Random) {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    while !world.callers_stop() {
        sleep(Duration::from_millis(random.below(PAUSE_MS + 1))).await;
        let Some((node, running)) = world.any_running(&mut random) else {
            sleep(Duration::from_millis(PAUSE_MS)).await;
            continue;
        };
        if random.chance(300) {
            let id = {
                let known = lock();
                random.pick(&known.entries).cloned().unwrap_or_default()
            };
            read(&world, node, &running, id).await;
            continue;
        }
        let limit = Duration::from_millis(random.between(300, 4_000));
        let token = {
            let mut known = lock();
            let at = known.tokens.len().checked_sub(1);
            if random.chance(250) {
                at.map(|at| known.tokens.swap_remove(at))
            } else {
                None
            }
        };
        if let Some(token) = token {
            // Two agents present one token at the same time, to any two nodes.
            let second = world.any_running(&mut random);
            let present = |node: u64, running: Running| {
                let (number, command) = {
                    let mut known = lock();
                    let number = known.number();
                    (number, known.redemption(number, token.clone()))
                };
                write(&world, node, running, number, command, limit)
            };
            let first = present(node, running);
            match second {
                Some((node, running)) => {
                    futures::future::join(first, present(node, running)).await;
                }
                None => first.await,
            }
            continue;
        }
        let (number, command) = {
            let mut known = lock();
            let number = known.number();
            (number, known.command(number, &mut random))
        };
        write(&world, node, running, number, command, limit).await;
    }
    world.caller_ended();
}

async fn write(
    world: &World,
    node: u64,
    running: Running,
    number: u64,
    command: Command,
    limit: Duration,
) {
    let observer = world.observer();
    let call = Call {
        number,
        node,
        acknowledged: observer.facts(|facts| facts.acknowledged_index()),
        key: key_of(&Proposal::new(None, command.clone())),
        command: command.clone(),
    };
    observer.invoked(&call);
    let group = running.group;
    let proposed = world
        .within(group, async move {
            running.proposer.propose(command, limit).await
        })
        .await;
    match proposed {
        Some(Ok(outcome)) => {
            meet(world, &call, &outcome);
            observer.answered(call, outcome);
        }
        Some(Err(
            ProposeError::NoLeader
            | ProposeError::Busy
            | ProposeError::NoRoom(_)
            | ProposeError::Level { .. },
        )) => {
            observer.see(&Event::NotWritten { call: &call });
        }
        // The process died: nobody was told anything.
        Some(Err(ProposeError::Unknown | ProposeError::Stopped(_))) | None => {
            observer.met(Met::WriteUnknown);
        }
    }
}

fn meet(world: &World, call: &Call, outcome: &Outcome) {
    let met = match (&call.command, outcome.refusal()) {
        (Command::AttestAgent(_), Refusal::None) => Met::TokenWon,
        (Command::AttestAgent(_), Refusal::TokenUnknown) => Met::TokenLost,
        (Command::RenewAgent(_), Refusal::AgentBanned) => Met::BanMet,
        _ => return,
    };
    world.observer().met(met);
}

async fn read(world: &World, node: u64, running: &Running, id: String) {
    let observer = world.observer();
    let acknowledged = observer.facts(|facts| facts.acknowledged_index());
    let registry = running.consensus.registry().clone();
    let barriers = running.barriers.clone();
    let wanted = id.clone();
    let read = world
        .within(running.group, async move {
            barriers.pass(Duration::from_secs(2)).await.ok()?;
            let directory = registry.read();
            let found = directory.entry(&wanted).map(|entry| entry.encode_to_vec());
            Some((registry.applied_index(), found))
        })
        .await;
    let Some(Some((applied, found))) = read else {
        observer.met(Met::ReadRefused);
        return;
    };
    observer.met(Met::ReadLinearizable);
    observer.see(&Event::Read {
        node,
        acknowledged,
        applied,
        id: &id,
        found,
    });
}

/// A write that is like no caller's, for the end of a run.
pub fn last_words(node: u64) -> Command {
    Command::CreateEntries(CreateEntries {
        entries: vec![Entry {
            id: format!("last-of-{node}"),
            parent_path: "/spire/server".into(),
            spiffe_path: format!("/last/{node}"),
            selectors: vec![selector(node)],
            ..Entry::default()
        }],
    })
}
