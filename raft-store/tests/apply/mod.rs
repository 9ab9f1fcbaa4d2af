//! What each command promises, on the pure function alone.

mod agents;
mod authorities;
mod bounds;
mod bundle;
mod clock;
mod downstream;
mod entries;
mod federation;
mod issuance;
mod ledger;
mod logins;
mod members;
mod membership;
mod pruning;
mod retries;
mod scope;
mod tokens;
mod updates;

use chancery_raft_store::apply::apply;
use chancery_raft_store::command::{
    AgentPath, AttestAgent, CreateEntries, CreateJoinToken, DeleteEntries, EntryResult, RenewAgent,
};
use chancery_raft_store::model::{Agent, Cluster, Entry, JoinToken};
use chancery_raft_store::store::StoreError;
use chancery_raft_store::view::{Table, Txn, Writes, meta};
use chancery_raft_store::{ChangeKind, Command, Outcome, Proposal, Refusal};

use crate::support::{Map, Rows, found, selector, write_to};

/// A founded cluster at work.
struct World {
    rows: Rows,
    index: u64,
    time_ms: i64,
    changes: Vec<ChangeKind>,
}

const START_MS: i64 = 1_800_000_000_000;

impl World {
    fn empty() -> Self {
        Self {
            rows: Rows::new(),
            index: 0,
            time_ms: START_MS,
            changes: Vec::new(),
        }
    }

    fn new() -> Self {
        let mut world = Self::empty();
        world.ok(found("cluster"));
        world
    }

    fn propose(&mut self, proposal: &Proposal) -> Outcome {
        self.index += 1;
        let applied = apply(&Map(&self.rows), &Writes::new(), self.index, proposal).unwrap();
        write_to(&mut self.rows, applied.writes);
        self.changes = applied.changes.into_iter().map(|c| c.kind).collect();
        applied.outcome
    }

    fn run(&mut self, command: Command) -> Outcome {
        let proposal = Proposal {
            time_ms: self.time_ms,
            ..Proposal::new(None, command)
        };
        self.propose(&proposal)
    }

    fn ok(&mut self, command: Command) -> Outcome {
        self.run(command).accepted().unwrap()
    }

    fn refused(&mut self, command: Command) -> Refusal {
        self.run(command).accepted().unwrap_err()
    }

    fn ask<T>(&self, question: impl FnOnce(&Txn<'_>) -> Result<T, StoreError>) -> T {
        let (view, none) = (Map(&self.rows), Writes::new());
        question(&Txn::new(&view, &none, self.index, self.time_ms)).unwrap()
    }

    fn entry(&self, id: &str) -> Option<Entry> {
        self.ask(|t| t.entry(id))
    }

    fn agent(&self, path: &str) -> Option<Agent> {
        self.ask(|t| t.agent(path))
    }

    fn cluster(&self) -> Cluster {
        self.ask(|t| t.cluster()).unwrap()
    }

    /// Changes what no command changes.
    fn change_cluster(&mut self, change: impl FnOnce(&mut Cluster)) {
        let mut cluster = self.cluster();
        change(&mut cluster);
        let (writes, _) = {
            let (view, none) = (Map(&self.rows), Writes::new());
            let mut txn = Txn::new(&view, &none, self.index, self.time_ms);
            txn.put_cluster(&cluster);
            txn.finish()
        };
        write_to(&mut self.rows, writes);
    }

    fn create(&mut self, entries: Vec<Entry>) -> Vec<EntryResult> {
        self.ok(Command::CreateEntries(CreateEntries { entries }))
            .entries
    }

    fn delete(&mut self, ids: &[&str]) -> Vec<EntryResult> {
        let ids = ids.iter().map(|s| (*s).into()).collect();
        self.ok(Command::DeleteEntries(DeleteEntries { ids }))
            .entries
    }

    /// Rows without the clock.
    fn rows_but_clock(&self) -> Rows {
        let mut rows = self.rows.clone();
        rows.remove(&Table::Meta.key(meta::CLUSTER));
        rows
    }

    fn of(&self, table: Table) -> usize {
        self.rows.keys().filter(|k| k[0] == table as u8).count()
    }
}

const AGENT: &str = "/spire/agent/x509pop/a";

fn attestation(path: &str, serial: &str) -> AttestAgent {
    AttestAgent {
        path: path.into(),
        attestation_type: "x509pop".into(),
        selectors: vec![selector("b"), selector("a"), selector("b")],
        serial: serial.into(),
        expires_at: 100,
        can_reattest: false,
        token_sha256: Vec::new(),
    }
}

fn attest(path: &str, serial: &str) -> Command {
    Command::AttestAgent(attestation(path, serial))
}

fn renew(serial: &str) -> Command {
    Command::RenewAgent(RenewAgent {
        path: AGENT.into(),
        serial: serial.into(),
        expires_at: 200,
    })
}

fn agent_path(path: &str) -> AgentPath {
    AgentPath { path: path.into() }
}

fn token(sha256: u8, ttl: i32) -> CreateJoinToken {
    CreateJoinToken {
        token: Some(JoinToken {
            sha256: vec![sha256; 32],
            expires_at: 0,
        }),
        ttl,
        alias: None,
        similar_alias_serves: false,
    }
}

fn attest_with_token(sha256: u8, path: &str) -> Command {
    Command::AttestAgent(AttestAgent {
        attestation_type: "join_token".into(),
        token_sha256: vec![sha256; 32],
        ..attestation(path, "1")
    })
}
