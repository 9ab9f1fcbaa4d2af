//! What members are to be: tokens, changes, removal, levels.

use chancery_raft_store::apply::apply;
use chancery_raft_store::command::{
    AdmitMember, ChangeMembers, CreateNodeToken, FEATURE_LEVEL, Found, Proposal, RaiseFeatureLevel,
    RemoveMember,
};
use chancery_raft_store::model::{Member, MemberRole, NodeToken};
use chancery_raft_store::view::{Table, Writes};
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::{Map, World};
use crate::support::admission;

/// A cluster at level 1 with these members, founded from the list of the first three.
pub(super) fn world(members: u8) -> World {
    let mut world = World::empty();
    world.ok(Command::Found(Found {
        cluster_id: "cluster".into(),
        trust_domain: "example.org".into(),
        founder: Some(admission(1)),
        founding_peers: (1..=3).map(|key| admission(key).peer_address).collect(),
        feature_level: 1,
        ..Found::default()
    }));
    for key in 2..=members {
        world.ok(Command::AdmitMember(admission(key)));
    }
    world
}

fn member(world: &World, id: u64) -> Member {
    world.ask(|t| t.member(id)).unwrap()
}

fn roles(world: &World) -> Vec<MemberRole> {
    let members = world.ask(|t| t.members());
    members.iter().map(|m| m.wanted()).collect()
}

fn token(byte: u8, replaces: u64) -> Command {
    Command::CreateNodeToken(CreateNodeToken {
        token: Some(NodeToken {
            sha256: vec![byte; 32],
            expires_at: 0,
            auto_promote: true,
            replaces,
        }),
        ttl: 60,
    })
}

fn by_token(key: u8, byte: u8) -> AdmitMember {
    AdmitMember {
        token_sha256: vec![byte; 32],
        ..admission(key)
    }
}

fn change(promote: &[u64], demote: &[u64], remove: &[u64]) -> ChangeMembers {
    ChangeMembers {
        promote: promote.to_vec(),
        demote: demote.to_vec(),
        remove: remove.to_vec(),
        allow_even: false,
    }
}

use MemberRole::{Founding, Learner, Leaving, Voter};

#[test]
fn the_list_founds_and_whoever_comes_later_is_a_learner() {
    let world = world(4);
    assert_eq!(roles(&world), [Founding, Founding, Founding, Learner]);
    assert!(member(&world, 4).auto_promote, "until it has caught up");
}

#[test]
fn a_node_token_admits_one_node_once() {
    let mut world = world(3);
    world.ok(token(7, 0));
    assert_eq!(world.refused(token(7, 0)), Refusal::AlreadyExists);
    assert_eq!(world.ok(Command::AdmitMember(by_token(4, 7))).node_id, 4);
    assert_eq!(
        world.refused(Command::AdmitMember(by_token(5, 7))),
        Refusal::TokenUnknown
    );
    let again = world.ok(Command::AdmitMember(by_token(4, 7)));
    assert_eq!(again.node_id, 4, "the answer to its first try was lost");
    assert_eq!(world.of(Table::NodeTokens), 0);
}

#[test]
fn a_node_token_ends_by_the_cluster_clock_and_is_gone_then() {
    let mut world = world(3);
    world.ok(token(7, 0));
    world.time_ms += 61_000;
    assert_eq!(
        world.refused(Command::AdmitMember(by_token(4, 7))),
        Refusal::TokenExpired
    );
    assert_eq!(
        world.refused(Command::AdmitMember(by_token(4, 7))),
        Refusal::TokenUnknown
    );
    world.ok(token(8, 0));
    world.time_ms += 61_000;
    world.ok(token(9, 0));
    assert_eq!(world.of(Table::NodeTokens), 1, "what has ended is not kept");
}

#[test]
fn a_replacement_may_have_the_address_of_the_replaced_and_of_nobody_else() {
    let mut world = world(3);
    assert_eq!(world.refused(token(7, 9)), Refusal::NotFound);
    world.ok(token(7, 3));
    let taken = AdmitMember {
        spki_sha256: vec![9; 32],
        ..AdmitMember {
            token_sha256: vec![7; 32],
            ..admission(2)
        }
    };
    assert_eq!(
        world.refused(Command::AdmitMember(taken)),
        Refusal::AlreadyExists
    );
    let wiped = AdmitMember {
        spki_sha256: vec![9; 32],
        ..by_token(3, 7)
    };
    assert_eq!(world.ok(Command::AdmitMember(wiped)).node_id, 4);
    assert_eq!(member(&world, 4).replaces, 3);
    world.ok(Command::ChangeMembers(change(&[4], &[], &[3])));
    assert_eq!(roles(&world), [Voter, Voter, Leaving, Voter]);
    assert_eq!(member(&world, 4).replaces, 0);
}

#[test]
fn the_number_of_voters_stays_odd_unless_it_is_meant() {
    let mut world = world(5);
    let four = change(&[4], &[], &[]);
    assert_eq!(
        world.refused(Command::ChangeMembers(four.clone())),
        Refusal::EvenVoters
    );
    assert_eq!(
        roles(&world),
        [Founding, Founding, Founding, Learner, Learner],
        "a refusal changes nothing"
    );
    world.ok(Command::ChangeMembers(change(&[4, 5], &[], &[])));
    assert_eq!(roles(&world), [Voter; 5]);
    assert!(world.cluster().founding_peers.is_empty());
    world.ok(Command::ChangeMembers(change(&[], &[5], &[4])));
    assert_eq!(roles(&world), [Voter, Voter, Voter, Leaving, Learner]);
    world.ok(Command::ChangeMembers(ChangeMembers {
        allow_even: true,
        ..change(&[5], &[], &[])
    }));
    world.ok(Command::ChangeMembers(change(&[], &[5], &[])));
}

#[test]
fn there_is_a_voter_and_there_are_seven_at_most() {
    let mut world = world(9);
    let all = change(&[], &[], &[1, 2, 3]);
    assert_eq!(
        world.refused(Command::ChangeMembers(all)),
        Refusal::VoterCount
    );
    let nine = change(&[4, 5, 6, 7, 8, 9], &[], &[]);
    assert_eq!(
        world.refused(Command::ChangeMembers(nine)),
        Refusal::VoterCount
    );
    world.ok(Command::ChangeMembers(change(&[4, 5, 6, 7], &[], &[])));
}

#[test]
fn a_change_names_members_each_once() {
    let mut world = world(3);
    for (refusal, change) in [
        (Refusal::Malformed, change(&[], &[], &[])),
        (Refusal::Malformed, change(&[3], &[3], &[])),
        (Refusal::NotFound, change(&[], &[], &[4])),
    ] {
        assert_eq!(world.refused(Command::ChangeMembers(change)), refusal);
    }
}

#[test]
fn who_leaves_is_forgotten_all_but_the_key_and_does_not_come_back() {
    let mut world = world(5);
    world.ok(Command::ChangeMembers(change(&[], &[], &[2, 3])));
    let back = ChangeMembers {
        allow_even: true,
        ..change(&[3], &[], &[])
    };
    assert_eq!(
        world.refused(Command::ChangeMembers(back)),
        Refusal::Conflict
    );
    let remove = |node_id| Command::RemoveMember(RemoveMember { node_id });
    assert_eq!(world.refused(remove(1)), Refusal::Conflict, "it stays");
    world.ok(remove(3));
    assert_eq!(world.changes, [ChangeKind::MemberRemoved(3)]);
    assert_eq!(world.refused(remove(3)), Refusal::NotFound);
    assert_eq!(world.of(Table::RemovedMembers), 1);
    let again = world.ok(Command::AdmitMember(AdmitMember {
        spki_sha256: vec![9; 32],
        ..admission(3)
    }));
    assert_eq!(again.node_id, 6, "an id is never used twice");
    let last = ChangeMembers {
        allow_even: true,
        ..change(&[], &[], &[6])
    };
    world.ok(Command::ChangeMembers(last));
    world.ok(remove(6));
    let behind = world.ok(Command::AdmitMember(admission(7)));
    assert_eq!(
        behind.node_id, 7,
        "an id is never used twice, the last one neither"
    );
}

#[test]
fn a_feature_level_only_grows() {
    let mut world = World::new();
    let raise = |level| Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
    world.ok(raise(1));
    assert_eq!(world.refused(raise(1)), Refusal::Conflict);
    assert_eq!(world.cluster().feature_level, 1);
}

#[test]
fn a_level_that_this_version_does_not_know_stops_the_node() {
    let world = World::new();
    let raise = RaiseFeatureLevel {
        level: FEATURE_LEVEL + 1,
    };
    let proposal = Proposal::new(None, Command::RaiseFeatureLevel(raise));
    let stopped = apply(&Map(&world.rows), &Writes::new(), 100, &proposal)
        .err()
        .unwrap();
    assert!(
        stopped.to_string().contains("upgrade this node"),
        "{stopped}"
    );
}
