//! Members: ids and keys.

use chancery_raft_store::command::{AdmitMember, AnnounceMember};
use chancery_raft_store::model::Member;
use chancery_raft_store::view::Table;
use chancery_raft_store::{Command, Refusal};

use super::World;
use crate::support::{admission, found};

#[test]
fn a_cluster_is_founded_once() {
    let mut world = World::new();
    assert_eq!(world.refused(found("another")), Refusal::AlreadyExists);
    assert_eq!(world.cluster().id, "cluster");
    let member: Member = world.ask(|t| t.member(1)).unwrap();
    assert_eq!(member.spki_sha256, [1; 32]);
}

#[test]
fn a_node_id_is_given_out_once_and_a_key_keeps_its_own() {
    let mut world = World::new();
    let admit = |key| Command::AdmitMember(admission(key));
    assert_eq!(world.ok(admit(2)).node_id, 2);
    assert_eq!(world.ok(admit(3)).node_id, 3);
    assert_eq!(
        world.ok(admit(2)).node_id,
        2,
        "the answer to its first try was lost"
    );
    assert_eq!(world.ok(admit(1)).node_id, 1);
    let wiped = AdmitMember {
        spki_sha256: vec![9; 32],
        ..admission(2)
    };
    assert_eq!(
        world.refused(Command::AdmitMember(wiped)),
        Refusal::AlreadyExists,
        "an address under another key"
    );
    let short = AdmitMember {
        spki_sha256: vec![9; 31],
        ..admission(9)
    };
    assert_eq!(
        world.refused(Command::AdmitMember(short)),
        Refusal::Malformed
    );
    assert_eq!(world.ok(admit(4)).node_id, 4, "refusals use no id up");
    assert_eq!(world.of(Table::Members), 4);
}

#[test]
fn a_member_never_goes_back_to_an_earlier_start() {
    let mut world = World::new();
    let announce = |node_id, boot, version: &str| {
        Command::AnnounceMember(AnnounceMember {
            node_id,
            boot,
            version: version.into(),
            api_address: "new:8081".into(),
        })
    };
    world.ok(announce(1, 5, "2"));
    world.ok(announce(1, 5, "3"));
    assert_eq!(world.refused(announce(1, 4, "1")), Refusal::Conflict);
    assert_eq!(world.refused(announce(2, 9, "1")), Refusal::NotFound);
    let member = world.ask(|t| t.member(1)).unwrap();
    assert_eq!(
        (
            member.boot,
            member.version.as_str(),
            member.api_address.as_str()
        ),
        (5, "3", "new:8081")
    );
}
