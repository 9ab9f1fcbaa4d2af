//! Pruning: what has expired by the cluster clock goes, and nothing else.

use chancery_raft_store::command::{
    AttestAgent, CreateJoinToken, EntryResult, PruneAgents, PruneEntries, PruneJoinTokens,
};
use chancery_raft_store::model::{Entry, Selector};
use chancery_raft_store::view::Table;
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::{START_MS, World, agent_path, attestation, token};
use crate::support::entry;

const NOW: i64 = START_MS / 1000;

fn prune_entries(ids: &[&str]) -> Command {
    let ids = ids.iter().map(|id| (*id).into()).collect();
    Command::PruneEntries(PruneEntries { ids })
}

fn prune_agents(paths: &[&str], expired_for: i64, include_non_reattestable: bool) -> Command {
    Command::PruneAgents(PruneAgents {
        paths: paths.iter().map(|path| (*path).into()).collect(),
        expired_for,
        include_non_reattestable,
    })
}

fn prune_tokens(tokens: &[u8], expired_for: i64) -> Command {
    let sha256 = tokens.iter().map(|token| vec![*token; 32]).collect();
    Command::PruneJoinTokens(PruneJoinTokens {
        sha256,
        expired_for,
    })
}

#[test]
fn only_entries_that_have_expired_are_pruned() {
    let mut world = World::new();
    let until = |id: &str, expires_at: i64| Entry {
        expires_at,
        ..entry(id, "/p", &format!("/{id}"), &["a"])
    };
    world.create(vec![
        until("never", 0),
        until("past", NOW - 1),
        until("negative", -1),
        until("now", NOW),
        until("future", NOW + 1),
    ]);
    world.time_ms += 500;
    let outcome = world.ok(prune_entries(&[
        "never", "past", "negative", "now", "future", "none",
    ]));
    let refusals: Vec<_> = outcome.entries.iter().map(EntryResult::refusal).collect();
    use Refusal::{Conflict, None, NotFound};
    assert_eq!(
        refusals,
        [Conflict, None, None, Conflict, Conflict, NotFound]
    );
    assert_eq!(outcome.removed, 2);
    assert_eq!(outcome.entries[1].entry.as_ref().unwrap().id, "past");
    assert_eq!(
        world.changes,
        ["past", "negative"].map(|id| ChangeKind::EntryRemoved(id.into()))
    );
    assert_eq!(world.of(Table::Entries), 3);
    assert_eq!(world.of(Table::EntrySimilar), 3);
    // The next second is the first in which it has expired.
    world.time_ms += 500;
    assert_eq!(world.ok(prune_entries(&["now", "future"])).removed, 1);
}

#[test]
fn the_cluster_clock_decides_and_not_the_proposers() {
    let mut world = World::new();
    world.create(vec![Entry {
        expires_at: NOW + 10,
        ..entry("1", "/p", "/w", &["a"])
    }]);
    world.time_ms += 20_000;
    world.delete(&["none"]);
    // A leader whose clock is behind.
    world.time_ms = START_MS;
    assert_eq!(world.ok(prune_entries(&["1"])).removed, 1);
}

#[test]
fn only_agents_that_ended_long_enough_ago_are_pruned() {
    let mut world = World::new();
    let agents = [
        ("/spire/agent/x509pop/old", NOW - 101, true),
        ("/spire/agent/x509pop/edge", NOW - 100, true),
        ("/spire/agent/x509pop/live", NOW + 5, true),
        ("/spire/agent/x509pop/tofu", NOW - 101, false),
        ("/spire/agent/x509pop/banned", NOW - 101, true),
    ];
    for (path, expires_at, can_reattest) in agents {
        world.ok(Command::AttestAgent(AttestAgent {
            expires_at,
            can_reattest,
            ..attestation(path, "1")
        }));
    }
    world.ok(Command::BanAgent(agent_path("/spire/agent/x509pop/banned")));
    let mut paths: Vec<_> = agents.iter().map(|(path, ..)| *path).collect();
    paths.push("/spire/agent/x509pop/none");

    let outcome = world.ok(prune_agents(&paths, 100, false));
    assert_eq!(outcome.removed, 1);
    assert_eq!(
        world.changes,
        [ChangeKind::AgentRemoved("/spire/agent/x509pop/old".into())]
    );
    let outcome = world.ok(prune_agents(&paths, 100, true));
    assert_eq!(outcome.removed, 1);
    assert_eq!(world.agent("/spire/agent/x509pop/tofu"), None);
    let outcome = world.ok(prune_agents(&paths, 0, true));
    assert_eq!(outcome.removed, 1);
    assert_eq!(world.agent("/spire/agent/x509pop/edge"), None);
    assert_eq!(world.of(Table::Agents), 2);
    assert_eq!(world.of(Table::AgentSequence), 2);
    let banned = world.agent("/spire/agent/x509pop/banned").unwrap();
    assert!(banned.is_banned(), "the record is the ban");
}

#[test]
fn a_pruned_agent_takes_its_alias_along() {
    let mut world = World::new();
    let path = "/spire/agent/join_token/t";
    let alias = Entry {
        selectors: vec![Selector {
            kind: "spiffe_id".into(),
            value: format!("spiffe://example.org{path}"),
        }],
        ..entry("alias", path, "/host", &[])
    };
    world.ok(Command::CreateJoinToken(CreateJoinToken {
        alias: Some(alias),
        ..token(7, 60)
    }));
    world.create(vec![entry("workload", path, "/w", &["a"])]);
    world.ok(Command::AttestAgent(AttestAgent {
        attestation_type: "join_token".into(),
        token_sha256: vec![7; 32],
        expires_at: NOW - 1,
        ..attestation(path, "1")
    }));
    let outcome = world.ok(prune_agents(&[path], 0, true));
    assert_eq!(outcome.removed, 1);
    let [gone] = outcome.entries.as_slice() else {
        panic!("one entry goes along: {outcome:?}")
    };
    assert_eq!(gone.entry.as_ref().unwrap().id, "alias");
    assert!(world.entry("alias").is_none() && world.entry("workload").is_some());
}

#[test]
fn only_join_tokens_that_ended_long_enough_ago_are_pruned() {
    let mut world = World::new();
    for (sha256, ttl) in [(1, 10), (2, 20), (3, 300)] {
        world.ok(Command::CreateJoinToken(token(sha256, ttl)));
    }
    world.time_ms += 120_000;
    assert_eq!(world.ok(prune_tokens(&[1, 2, 3, 4], 100)).removed, 1);
    assert_eq!(world.of(Table::JoinTokens), 2);
    assert_eq!(world.ok(prune_tokens(&[1, 2, 3, 4], 0)).removed, 1);
    assert_eq!(world.of(Table::JoinTokens), 1);
}

#[test]
fn a_span_of_time_is_not_negative() {
    let mut world = World::new();
    world.ok(Command::CreateJoinToken(token(1, 10)));
    assert_eq!(world.refused(prune_tokens(&[1], -60)), Refusal::Malformed);
    assert_eq!(
        world.refused(prune_agents(&[], i64::MIN, true)),
        Refusal::Malformed
    );
    assert_eq!(world.ok(prune_tokens(&[1], i64::MAX)).removed, 0);
}
