//! Time, retries, refusals and unknown commands.

use chancery_raft_store::apply::{ApplyError, REQUEST_MEMORY, apply};
use chancery_raft_store::command::{CreateEntries, CreateJoinToken, DeleteEntries};
use chancery_raft_store::model::Cluster;
use chancery_raft_store::view::{Table, Writes};
use chancery_raft_store::{Command, Proposal, Refusal, RequestId};

use super::{AGENT, START_MS, World, attest, attest_with_token, renew, token};
use crate::support::{Map, Rows, entry, write_to};

#[test]
fn the_cluster_clock_never_goes_back() {
    let mut world = World::new();
    world.time_ms += 5_000;
    world.ok(attest(AGENT, "1"));
    world.time_ms -= 60_000;
    world.ok(Command::CreateJoinToken(token(7, 10)));
    assert_eq!(world.cluster().clock_ms, START_MS + 5_000);
    let made = world.create(vec![entry("1", "/p", "/w", &["a"])]).remove(0);
    assert_eq!(made.entry.unwrap().created_at, START_MS / 1000 + 5);
    // The token lives by the cluster clock, not by the new leader's.
    world.time_ms = START_MS + 16_000;
    assert_eq!(
        world.refused(attest_with_token(7, "/spire/agent/join_token/t")),
        Refusal::TokenExpired
    );
}

fn request(sequence: u64) -> RequestId {
    RequestId {
        node: 2,
        boot: 7,
        sequence,
    }
}

fn create_as(request: RequestId, id: &str) -> Proposal {
    let entries = vec![entry(id, "/p", &format!("/{id}"), &["a"])];
    let command = Command::CreateEntries(CreateEntries { entries });
    Proposal {
        time_ms: START_MS + 50_000,
        ..Proposal::new(Some(request), command)
    }
}

#[test]
fn a_retry_gets_the_first_outcome_and_writes_nothing() {
    let mut world = World::new();
    let first = world.propose(&create_as(request(1), "e"));
    assert_eq!(first.entries[0].refusal(), Refusal::None);
    let rows = world.rows.clone();
    let mut later = create_as(request(1), "e");
    later.time_ms += 1_000_000;
    assert_eq!(world.propose(&later), first);
    assert_eq!(world.rows, rows, "not even the clock");
    assert!(world.changes.is_empty());
    // A refusal is remembered too, though by now it would be accepted.
    let attest = Proposal {
        request: Some(request(2)),
        ..Proposal::new(None, renew("5"))
    };
    assert_eq!(world.propose(&attest).refusal(), Refusal::NotFound);
    world.ok(self::attest(AGENT, "1"));
    assert_eq!(world.propose(&attest).refusal(), Refusal::NotFound);
    // Other nodes, starts and numbers are other requests.
    for other in [
        RequestId {
            node: 3,
            ..request(1)
        },
        RequestId {
            boot: 8,
            ..request(1)
        },
        request(3),
    ] {
        assert_eq!(
            world.propose(&create_as(other, "e")).entries[0].refusal(),
            Refusal::AlreadyExists
        );
    }
}

#[test]
fn requests_are_forgotten_by_log_position_and_then_unknown() {
    let mut world = World::new();
    world.index = 9;
    for sequence in [1, 2, 3] {
        world.propose(&create_as(request(sequence), &format!("e{sequence}")));
    }
    assert_eq!(world.index, 12);
    let mut at_edge = World {
        rows: world.rows.clone(),
        changes: Vec::new(),
        ..world
    };
    at_edge.index = 10 + REQUEST_MEMORY - 1;
    at_edge.ok(attest(AGENT, "1"));
    assert_eq!(
        at_edge.of(Table::Requests),
        3,
        "{REQUEST_MEMORY} positions are kept"
    );
    at_edge.ok(attest(AGENT, "2"));
    assert_eq!(at_edge.of(Table::Requests), 2, "and not one more");
    assert_eq!(at_edge.of(Table::RequestOrder), 2);

    let before = at_edge.rows.clone();
    let outcome = at_edge.propose(&create_as(request(1), "fresh"));
    assert_eq!(outcome.refusal(), Refusal::OutcomeUnknown);
    assert_eq!(
        at_edge.rows, before,
        "nothing is applied that may have been applied before"
    );
    assert_eq!(
        at_edge
            .propose(&create_as(
                RequestId {
                    boot: 6,
                    ..request(99)
                },
                "f"
            ))
            .refusal(),
        Refusal::OutcomeUnknown
    );
    assert_eq!(
        at_edge.propose(&create_as(request(2), "e2")).entries[0].refusal(),
        Refusal::None,
        "remembered"
    );
    assert_eq!(
        at_edge
            .propose(&create_as(
                RequestId {
                    node: 3,
                    ..request(1)
                },
                "g"
            ))
            .refusal(),
        Refusal::None
    );
    assert_eq!(
        at_edge.propose(&create_as(request(4), "h")).refusal(),
        Refusal::None
    );
}

#[test]
fn the_request_memory_shrinks_after_a_gap_in_the_log() {
    let mut world = World::new();
    for sequence in 1..=40 {
        world.propose(&create_as(request(sequence), &format!("e{sequence}")));
    }
    world.index += 2 * REQUEST_MEMORY;
    let mut left = vec![world.of(Table::Requests)];
    for serial in 0..10 {
        world.ok(attest(AGENT, &serial.to_string()));
        left.push(world.of(Table::Requests));
    }
    assert!(
        left.windows(2).all(|w| w[0] - w[1] <= 8),
        "a bounded number at a time: {left:?}"
    );
    assert_eq!(*left.last().unwrap(), 0);
}

#[test]
fn a_refusal_leaves_only_the_clock_and_the_memory() {
    let mut world = World::new();
    world.create(vec![entry(
        "1",
        "/spire/agent/join_token/t",
        "/group",
        &["a"],
    )]);
    world.time_ms += 1000;
    let rows = world.rows_but_clock();
    let cluster = world.cluster();
    // It writes a token and a sequence number before the alias is found to exist.
    let alias = entry("2", "/spire/agent/join_token/t", "/group", &["a"]);
    let command = Command::CreateJoinToken(CreateJoinToken {
        alias: Some(alias),
        ..token(7, 60)
    });
    assert_eq!(world.refused(command.clone()), Refusal::AlreadyExists);
    assert_eq!(world.rows_but_clock(), rows);
    assert_eq!(
        world.cluster(),
        Cluster {
            clock_ms: START_MS + 1000,
            ..cluster
        }
    );
    assert!(world.changes.is_empty(), "nothing is told");

    let proposal = Proposal {
        time_ms: world.time_ms,
        ..Proposal::new(Some(request(1)), command)
    };
    world.propose(&proposal);
    let added: Vec<u8> = world
        .rows_but_clock()
        .keys()
        .filter(|k| !rows.contains_key(*k))
        .map(|k| k[0])
        .collect();
    assert_eq!(
        added,
        [
            Table::Meta as u8,
            Table::Requests as u8,
            Table::RequestOrder as u8
        ]
    );
}

#[test]
fn an_unknown_command_is_an_error_and_never_skipped() {
    let proposal = Proposal {
        request: Some(request(1)),
        time_ms: 1,
        ..Proposal::default()
    };
    let result = apply(&Map(&Rows::new()), &Writes::new(), 17, &proposal);
    assert!(matches!(
        result,
        Err(ApplyError::UnknownCommand { log_index: 17 })
    ));
}

#[test]
fn a_command_sees_what_earlier_ones_of_its_group_wrote() {
    let mut alone = World::new();
    alone.create(vec![
        entry("1", "/p", "/w", &["a"]),
        entry("2", "/p", "/v", &["a"]),
    ]);
    let base = alone.rows.clone();
    let commands = [
        Command::DeleteEntries(DeleteEntries {
            ids: vec!["1".into()],
        }),
        Command::CreateEntries(CreateEntries {
            entries: vec![entry("0", "/p", "/w", &["a"])],
        }),
        Command::CreateEntries(CreateEntries {
            entries: vec![entry("9", "/p", "/v", &["a"])],
        }),
    ];
    let (mut group, mut outcomes) = (Writes::new(), Vec::new());
    for (place, command) in (10..).zip(&commands) {
        let proposal = Proposal {
            time_ms: START_MS,
            ..Proposal::new(None, command.clone())
        };
        let applied = apply(&Map(&base), &group, place, &proposal).unwrap();
        group.extend(applied.writes);
        outcomes.push(applied.outcome);
    }
    alone.index = 9;
    let expected: Vec<_> = commands.into_iter().map(|c| alone.run(c)).collect();
    assert_eq!(outcomes, expected);
    assert_eq!(expected[1].entries[0].refusal(), Refusal::None);
    assert_eq!(expected[2].entries[0].refusal(), Refusal::AlreadyExists);
    let mut together = base;
    write_to(&mut together, group);
    assert_eq!(together, alone.rows);
}
