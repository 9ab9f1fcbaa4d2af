//! Join tokens: redeemed once, and not late.

use chancery_raft_store::command::CreateJoinToken;
use chancery_raft_store::model::{Entry, Selector};
use chancery_raft_store::view::Table;
use chancery_raft_store::{Command, Refusal};

use super::{AGENT, START_MS, World, agent_path, attest, attest_with_token, token};
use crate::support::{entry, selector};

#[test]
fn a_join_token_is_redeemed_once() {
    let mut world = World::new();
    let made = world.ok(Command::CreateJoinToken(token(7, 60)));
    assert_eq!(made.expires_at, START_MS / 1000 + 60);
    assert_eq!(
        world.refused(Command::CreateJoinToken(token(7, 60))),
        Refusal::AlreadyExists
    );
    world.ok(attest_with_token(7, "/spire/agent/join_token/t"));
    assert_eq!(
        world.refused(attest_with_token(7, "/spire/agent/join_token/u")),
        Refusal::TokenUnknown
    );
    assert_eq!(
        world.refused(attest_with_token(8, "/spire/agent/join_token/v")),
        Refusal::TokenUnknown
    );
    assert_eq!(world.of(Table::Agents), 1);
}

#[test]
fn an_expired_join_token_is_refused_and_gone() {
    let mut world = World::new();
    world.ok(Command::CreateJoinToken(token(7, 60)));
    world.ok(Command::CreateJoinToken(token(8, 60)));
    world.time_ms += 60_000;
    world.ok(attest_with_token(8, "/spire/agent/join_token/last-second"));
    world.time_ms += 1_000;
    assert_eq!(
        world.refused(attest_with_token(7, "/spire/agent/join_token/t")),
        Refusal::TokenExpired
    );
    assert_eq!(world.of(Table::JoinTokens), 0);
    assert_eq!(
        world.refused(attest_with_token(7, "/spire/agent/join_token/t")),
        Refusal::TokenUnknown
    );
    assert_eq!(world.agent("/spire/agent/join_token/t"), None);
}

#[test]
fn a_join_token_that_makes_no_sense_is_refused() {
    let mut world = World::new();
    assert_eq!(
        world.refused(Command::CreateJoinToken(token(7, 0))),
        Refusal::Malformed
    );
    assert_eq!(
        world.refused(Command::CreateJoinToken(token(7, -1))),
        Refusal::Malformed
    );
    assert_eq!(
        world.refused(Command::CreateJoinToken(CreateJoinToken {
            token: None,
            ..token(7, 1)
        })),
        Refusal::Malformed
    );
    assert_eq!(world.of(Table::JoinTokens), 0);
}

#[test]
fn a_join_token_whose_alias_exists_is_not_made() {
    let mut world = World::new();
    world.create(vec![entry(
        "1",
        "/spire/agent/join_token/t",
        "/group",
        &["a"],
    )]);
    let alias = entry("2", "/spire/agent/join_token/t", "/group", &["a"]);
    let command = CreateJoinToken {
        alias: Some(alias),
        ..token(7, 60)
    };
    assert_eq!(
        world.refused(Command::CreateJoinToken(command.clone())),
        Refusal::AlreadyExists
    );
    assert_eq!(world.of(Table::JoinTokens), 0);

    // Unless that one serves as well.
    let command = CreateJoinToken {
        similar_alias_serves: true,
        ..command
    };
    let made = world.ok(Command::CreateJoinToken(command.clone()));
    assert_eq!(made.entries[0].entry.as_ref().unwrap().id, "1");
    assert_eq!(
        (world.of(Table::JoinTokens), world.of(Table::Entries)),
        (1, 1)
    );
    // An entry with the alias' id that is another one does not.
    let command = CreateJoinToken {
        alias: Some(entry("1", "/spire/agent/join_token/u", "/group", &["a"])),
        similar_alias_serves: true,
        ..token(8, 60)
    };
    assert_eq!(
        world.refused(Command::CreateJoinToken(command)),
        Refusal::AlreadyExists
    );
    assert_eq!(world.of(Table::JoinTokens), 1);
}

#[test]
fn deleting_an_agent_takes_its_alias_and_nothing_else() {
    let mut world = World::new();
    let path = "/spire/agent/join_token/t";
    let named = |name: &str| Selector {
        kind: "spiffe_id".into(),
        value: format!("spiffe://example.org{name}"),
    };
    let with = |id: &str, parent: &str, selectors: Vec<Selector>| Entry {
        selectors,
        ..entry(id, parent, &format!("/name-{id}"), &[])
    };
    let alias = with("alias", path, vec![named(path)]);
    world.ok(Command::CreateJoinToken(CreateJoinToken {
        alias: Some(alias),
        ..token(7, 60)
    }));
    world.create(vec![
        with("two-selectors", path, vec![named(path), selector("a")]),
        with("other-name", path, vec![named("/spire/agent/join_token/u")]),
        with("workload", path, vec![selector("a")]),
        with(
            "other-parent",
            "/spire/agent/join_token/t2",
            vec![named(path)],
        ),
    ]);
    world.ok(attest_with_token(7, path));
    world.ok(Command::DeleteAgent(agent_path(path)));
    assert_eq!(world.agent(path), None);
    assert_eq!(world.entry("alias"), None);
    for id in ["two-selectors", "other-name", "workload", "other-parent"] {
        assert!(world.entry(id).is_some(), "{id}");
    }
    assert_eq!(
        world.refused(Command::DeleteAgent(agent_path(path))),
        Refusal::NotFound
    );

    // Another attestor's agent has no alias, whatever its entries look like.
    world.create(vec![with("not-alias", AGENT, vec![named(AGENT)])]);
    world.ok(attest(AGENT, "1"));
    world.ok(Command::DeleteAgent(agent_path(AGENT)));
    assert!(world.entry("not-alias").is_some());
}
