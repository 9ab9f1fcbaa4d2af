//! Logins on tokens: one at a time, and none after a refusal.

use chancery_raft_store::command::{
    ClaimLogin, FEATURE_LEVEL, LoginEnd, RaiseFeatureLevel, SettleLogin,
};
use chancery_raft_store::model::{LoginRefused, TokenLogin};
use chancery_raft_store::view::Table;
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::{START_MS, World};
use crate::support::admission;

const TOKEN: &str = "5b1d";

/// A cluster of three.
fn world() -> World {
    let mut world = World::new();
    for key in [2, 3] {
        world.ok(Command::AdmitMember(admission(key)));
    }
    world
}

fn claim(node_id: u64, boot: u64, sequence: u64) -> ClaimLogin {
    ClaimLogin {
        serial: TOKEN.into(),
        node_id,
        boot,
        sequence,
        ordered: false,
    }
}

fn claims(node_id: u64, boot: u64, sequence: u64) -> Command {
    Command::ClaimLogin(claim(node_id, boot, sequence))
}

fn orders(node_id: u64, boot: u64, sequence: u64) -> Command {
    Command::ClaimLogin(ClaimLogin {
        ordered: true,
        ..claim(node_id, boot, sequence)
    })
}

fn settles(node_id: u64, boot: u64, sequence: u64, end: LoginEnd) -> Command {
    Command::SettleLogin(SettleLogin {
        serial: TOKEN.into(),
        node_id,
        boot,
        sequence,
        end: end.into(),
        why: "CKR_PIN_INCORRECT".into(),
    })
}

fn known(world: &World) -> Option<TokenLogin> {
    world.ask(|t| t.token_login(TOKEN))
}

#[test]
fn others_wait_for_the_login_that_is_under_way() {
    let mut world = world();
    world.ok(claims(1, 1, 1));
    assert_eq!(world.changes, [ChangeKind::TokenLoginChanged(TOKEN.into())]);
    for other in [claims(2, 1, 1), claims(3, 9, 9), orders(2, 1, 1)] {
        assert_eq!(world.refused(other), Refusal::LoginUnderWay);
    }
    world.ok(Command::ClaimLogin(ClaimLogin {
        serial: "another".into(),
        ..claim(2, 1, 2)
    }));
    world.ok(settles(1, 1, 1, LoginEnd::Accepted));
    assert_eq!(
        known(&world),
        None,
        "nothing is kept of a login that went well"
    );
    world.ok(claims(2, 1, 1));
}

#[test]
fn nobody_logs_in_by_himself_after_a_refusal() {
    let mut world = world();
    world.ok(claims(2, 4, 1));
    world.ok(settles(2, 4, 1, LoginEnd::Refused));
    let refusal = LoginRefused {
        node_id: 2,
        why: "CKR_PIN_INCORRECT".into(),
        at: START_MS / 1000,
    };
    let kept = known(&world).unwrap();
    assert_eq!((kept.attempt, kept.refusal), (None, Some(refusal.clone())));
    for (node, boot) in [(1, 1), (2, 4), (2, 5), (3, 1)] {
        assert_eq!(world.refused(claims(node, boot, 9)), Refusal::LoginRefused);
    }
    // An ordered one that reached no PIN leaves it as it was.
    world.ok(orders(3, 1, 1));
    assert_eq!(world.refused(claims(1, 1, 9)), Refusal::LoginRefused);
    assert_eq!(world.refused(orders(1, 1, 9)), Refusal::LoginUnderWay);
    world.ok(settles(3, 1, 1, LoginEnd::NotTried));
    assert_eq!(known(&world).unwrap().refusal, Some(refusal));
    world.ok(orders(3, 1, 2));
    world.ok(settles(3, 1, 2, LoginEnd::Accepted));
    assert_eq!(known(&world), None);
    world.ok(claims(1, 1, 1));
}

#[test]
fn a_login_whose_node_is_gone_is_not_taken_for_one_that_ended() {
    let mut world = world();
    world.ok(claims(1, 1, 1));
    // The same node after a crash cannot know what became of it.
    assert_eq!(world.refused(claims(1, 2, 1)), Refusal::LoginUnderWay);
    world.time_ms += 3_600_000;
    for other in [claims(1, 2, 1), claims(2, 1, 1)] {
        assert_eq!(world.refused(other), Refusal::LoginUnderWay);
    }
    // Its own node knows it by its start and counter, and closes no other's.
    for wrong in [
        settles(2, 1, 1, LoginEnd::NotTried),
        settles(1, 2, 1, LoginEnd::NotTried),
        settles(1, 1, 2, LoginEnd::NotTried),
    ] {
        assert_eq!(world.refused(wrong), Refusal::Conflict);
    }
    world.ok(settles(1, 1, 1, LoginEnd::Refused));
    assert_eq!(world.refused(claims(2, 1, 1)), Refusal::LoginRefused);
}

#[test]
fn an_administrator_takes_the_place_of_a_login_that_cannot_end_any_more() {
    let mut world = world();
    let level = FEATURE_LEVEL;
    world.ok(Command::RaiseFeatureLevel(RaiseFeatureLevel { level }));
    world.ok(claims(1, 1, 1));
    world.time_ms += TokenLogin::LOST_AFTER * 1000 - 1;
    assert_eq!(world.refused(orders(2, 1, 1)), Refusal::LoginUnderWay);
    world.time_ms += 1;
    world.ok(orders(2, 1, 1));
    assert_eq!(
        world.refused(settles(1, 1, 1, LoginEnd::Accepted)),
        Refusal::Conflict
    );
    // Whether the one that was lost spent a try nobody knows: that stands until a PIN is taken.
    world.ok(settles(2, 1, 1, LoginEnd::NotTried));
    let stands = known(&world).and_then(|login| login.refusal).unwrap();
    assert_eq!((stands.node_id, stands.why.as_str()), (1, "cut off"));
    assert_eq!(world.refused(claims(3, 1, 1)), Refusal::LoginRefused);
    world.ok(orders(3, 1, 1));
    world.ok(settles(3, 1, 1, LoginEnd::Accepted));
    assert_eq!(known(&world), None);
    // Of its own node he need not wait: it knows that none is under way.
    world.ok(claims(3, 1, 2));
    world.ok(orders(3, 2, 1));
}

#[test]
fn a_start_of_a_node_tries_one_after_the_other() {
    let mut world = world();
    world.ok(claims(1, 1, 2));
    for earlier in [1, 2] {
        assert_eq!(world.refused(claims(1, 1, earlier)), Refusal::LoginUnderWay);
    }
    world.ok(claims(1, 1, 3));
    assert_eq!(
        world.refused(settles(1, 1, 2, LoginEnd::Refused)),
        Refusal::Conflict
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut world = world();
    let with = |serial: String| {
        Command::ClaimLogin(ClaimLogin {
            serial,
            ..claim(1, 1, 1)
        })
    };
    for serial in [String::new(), "x".repeat(TokenLogin::SERIAL_BYTES_MAX + 1)] {
        assert_eq!(world.refused(with(serial)), Refusal::Malformed);
    }
    assert_eq!(
        world.refused(claims(7, 1, 1)),
        Refusal::NotFound,
        "no member"
    );
    assert_eq!(
        world.refused(settles(1, 1, 1, LoginEnd::Accepted)),
        Refusal::NotFound
    );
    world.ok(claims(1, 1, 1));
    assert_eq!(
        world.refused(settles(1, 1, 1, LoginEnd::Unspecified)),
        Refusal::Malformed
    );
    let long = SettleLogin {
        serial: TOKEN.into(),
        node_id: 1,
        boot: 1,
        sequence: 1,
        end: LoginEnd::Refused.into(),
        why: "x".repeat(TokenLogin::WHY_BYTES_MAX + 1),
    };
    assert_eq!(
        world.refused(Command::SettleLogin(long)),
        Refusal::Malformed
    );
    for n in 1..TokenLogin::COUNT_MAX {
        world.ok(with(format!("token-{n}")));
    }
    assert_eq!(
        world.refused(with("one more".into())),
        Refusal::TooManyTokens
    );
    assert_eq!(world.of(Table::TokenLogins), TokenLogin::COUNT_MAX);
}
