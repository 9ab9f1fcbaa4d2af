//! Somebody who changes the members while the cluster is hurt: adds nodes by tokens,
//! promotes, demotes, removes, and replaces, also what is dead. What is wanted goes into
//! the members' records; the nodes' own membership driver brings Raft's there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chancery_node::cluster::ProposeError;
use chancery_raft_store::command::{AdmitMember, ChangeMembers, CreateNodeToken, Outcome, Refusal};
use chancery_raft_store::model::NodeToken;
use chancery_raft_store::{Command, Proposal};
use tokio::time::sleep;

use crate::random::Random;
use crate::reference::key_of;
use crate::world::World;

/// Members at most.
const MEMBERS_MAX: usize = 5;
/// Longest time between two changes, milliseconds.
const PAUSE_MS: u64 = 600;
/// A healed cluster must have taken a change by then.
const TAKEN_WITHIN: Duration = Duration::from_secs(25);

/// What became of one attempt.
enum Attempt {
    Done(Outcome),
    /// Certainly not in the log.
    NotWritten,
    /// Perhaps in the log, now or later.
    Unknown,
}

/// The operator of a run.
pub struct Operator {
    world: Arc<World>,
    random: Random,
    /// Voters that must be left, whatever becomes of what is under way.
    voters_min: usize,
    tokens: u64,
    /// Changes that were asked for by [`key_of`]: none is asked for twice.
    issued: BTreeSet<Vec<u8>>,
    /// Those with an unknown outcome.
    doubtful: Vec<(Vec<u8>, ChangeMembers)>,
}

impl Operator {
    /// One who leaves three voters where a disk `may_break`, so that a quorum is left, and
    /// one where not.
    pub fn new(world: Arc<World>, random: Random, may_break: bool) -> Self {
        Self {
            world,
            random,
            voters_min: if may_break { 3 } else { 1 },
            tokens: 0,
            issued: BTreeSet::new(),
            doubtful: Vec::new(),
        }
    }

    /// Changes members until `until`, and ends what was begun. Counts as a caller.
    pub async fn work(mut self, until: Duration) {
        loop {
            sleep(Duration::from_millis(self.random.between(50, PAUSE_MS))).await;
            if self.is_over() || self.world.executor().now() >= until {
                break;
            }
            self.change_something().await;
        }
        self.world.caller_ended();
    }

    fn is_over(&self) -> bool {
        self.world.observer().violation().is_some()
    }

    async fn change_something(&mut self) {
        let facts = self.world.observer().facts(|facts| {
            let declared = facts.reference.declared();
            declared.map(|declared| (declared, facts.reference.members()))
        });
        // One is on its way out.
        let Some((declared, members)) = facts else {
            return;
        };
        self.doubtful.retain(|(key, _)| {
            let observer = self.world.observer();
            observer.facts(|facts| facts.reference.placed(key).is_none())
        });
        let learners: Vec<u64> = declared.learners.iter().copied().collect();
        let mut voters: Vec<u64> = declared.voters.iter().flatten().copied().collect();
        let lost = members.iter().map(|member| member.node_id).find(|id| {
            let machines = self.world.machines();
            machines.get(id).is_some_and(|machine| machine.lost)
        });
        let doubted: BTreeSet<u64> = self
            .doubtful
            .iter()
            .flat_map(|(_, change)| change.demote.iter().chain(&change.remove).copied())
            .collect();
        let sure = voters.iter().filter(|id| !doubted.contains(id)).count();
        let may_lose_one = sure > self.voters_min;
        // Losing one who is in doubt costs none of those who are sure.
        voters.retain(|id| may_lose_one || doubted.contains(id));
        let learner = self.random.pick(&learners).copied();
        let voter = self.random.pick(&voters).copied();
        let (mut promote, mut demote, mut remove) = (Vec::new(), Vec::new(), Vec::new());
        match self.random.below(100) {
            0..25 if members.len() < MEMBERS_MAX => {
                let auto_promote = self.random.chance(500);
                return self.join(auto_promote, 0).await;
            }
            25..50 => {
                let ids: Vec<u64> = members
                    .iter()
                    .map(|member| member.node_id)
                    .filter(|id| !members.iter().any(|member| member.replaces == *id))
                    .collect();
                let some = self.random.pick(&ids).copied();
                if let Some(id) = lost.filter(|id| ids.contains(id)).or(some) {
                    self.join(true, id).await;
                }
                return;
            }
            50..62 => promote.extend(learner),
            62..72 => demote.extend(voter),
            72..80 if members.len() > 3 => remove.extend(voter),
            80..88 if members.len() > 3 => remove.extend(learner),
            // One in the place of another.
            88..94 => {
                promote.extend(learner);
                demote.extend(voter.filter(|_| learner.is_some()));
            }
            _ => {
                promote.extend(learner);
                remove.extend(voter.filter(|_| learner.is_some()));
            }
        }
        if promote.len() + demote.len() + remove.len() == 0 {
            return;
        }
        self.declare(ChangeMembers {
            promote,
            demote,
            remove,
            allow_even: true,
        })
        .await;
    }

    /// Asks once for a change of what members are to be.
    async fn declare(&mut self, change: ChangeMembers) {
        let command = Command::ChangeMembers(change.clone());
        let key = key_of(&Proposal::new(None, command.clone()));
        if !self.issued.insert(key.clone()) {
            return;
        }
        match self.attempt(command).await {
            Attempt::Done(_) => {}
            Attempt::NotWritten => {
                self.issued.remove(&key);
            }
            Attempt::Unknown => self.doubtful.push((key, change)),
        }
    }

    /// Makes a token, has a new node admitted with it, and starts that. A node in the place
    /// of another `replaces` it.
    pub async fn join(&mut self, auto_promote: bool, replaces: u64) {
        self.tokens += 1;
        let mut sha256 = vec![1; 24];
        sha256.extend_from_slice(&self.tokens.to_be_bytes());
        let create = CreateNodeToken {
            token: Some(NodeToken {
                sha256: sha256.clone(),
                auto_promote,
                replaces,
                ..NodeToken::default()
            }),
            // Clocks step by a year.
            ttl: i64::from(i32::MAX),
        };
        let Some(made) = self.insist(Command::CreateNodeToken(create)).await else {
            return;
        };
        // By the try before, whose answer was lost; or there is nobody to replace any more.
        if !matches!(made.refusal(), Refusal::None | Refusal::AlreadyExists) {
            return;
        }
        let id = self.world.next_id();
        let admit = AdmitMember {
            token_sha256: sha256,
            ..World::admission(id)
        };
        let Some(admitted) = self.insist(Command::AdmitMember(admit)).await else {
            return;
        };
        if admitted.node_id != id {
            let what = format!("node {id} was admitted as {admitted:?}");
            return self.world.observer().violated(&what);
        }
        self.world.joined(id).await;
    }

    /// Asks until there is an answer.
    async fn insist(&mut self, command: Command) -> Option<Outcome> {
        let name = command.name();
        let began = self.world.executor().now();
        while !self.is_over() {
            match self.attempt(command.clone()).await {
                // Until a majority of clocks agrees.
                Attempt::Done(outcome) if outcome.refusal() == Refusal::ClockStep => {}
                Attempt::Done(outcome) => return Some(outcome),
                Attempt::NotWritten | Attempt::Unknown => {}
            }
            // Faults end before.
            if self.world.executor().now() > began + TAKEN_WITHIN {
                let what = format!("{name} is not acknowledged within {TAKEN_WITHIN:?}");
                self.world.observer().violated(&what);
            }
            sleep(Duration::from_millis(self.random.between(20, 200))).await;
        }
        None
    }

    async fn attempt(&mut self, command: Command) -> Attempt {
        let Some((_, running)) = self.world.any_running(&mut self.random) else {
            return Attempt::NotWritten;
        };
        let limit = Duration::from_millis(self.random.between(500, 3_000));
        let proposed = self
            .world
            .within(running.group, async move {
                running.proposer.propose(command, limit).await
            })
            .await;
        match proposed {
            Some(Ok(outcome)) => Attempt::Done(outcome),
            Some(Err(
                ProposeError::NoLeader
                | ProposeError::Busy
                | ProposeError::NoRoom(_)
                | ProposeError::Level { .. },
            )) => Attempt::NotWritten,
            Some(Err(ProposeError::Unknown | ProposeError::Stopped(_))) | None => Attempt::Unknown,
        }
    }
}
