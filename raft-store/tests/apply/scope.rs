//! Whose the keys of authorities are, and the way from one scope to the other.

use chancery_raft_store::command::{
    AuthorityName, BeginKey, Found, RecordAuthority, RetireAuthorities, SetAuthorityScope,
};
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityScope, AuthorityStatus};
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::World;
use crate::support::admission;

const SHARED: &str = "x509";
const OF_2: &str = "x509/node-2";

fn set(scope: AuthorityScope) -> Command {
    Command::SetAuthorityScope(SetAuthorityScope {
        scope: scope.into(),
    })
}

fn scope(world: &World) -> AuthorityScope {
    world.ask(|t| t.cluster()).unwrap().authority_scope()
}

fn begin(slot: &str, epoch: u64) -> Command {
    Command::BeginKey(BeginKey {
        slot: slot.into(),
        epoch,
        node_id: 2,
        key_id: vec![1; 16],
        key_label: "label".into(),
    })
}

fn record(slot: &str, epoch: u64) -> Command {
    Command::RecordAuthority(RecordAuthority {
        authority: Some(Authority {
            id: format!("{slot}-{epoch}"),
            kind: AuthorityKind::X509.into(),
            slot: slot.into(),
            epoch,
            node_id: if slot == SHARED { 0 } else { 2 },
            key_id: vec![1; 16],
            public_key: vec![1],
            ..Authority::default()
        }),
    })
}

fn activate(slot: &str, epoch: u64) -> Command {
    Command::ActivateAuthority(AuthorityName {
        kind: AuthorityKind::X509.into(),
        id: format!("{slot}-{epoch}"),
    })
}

fn retire(ids: &[&str]) -> Command {
    Command::RetireAuthorities(RetireAuthorities {
        kind: AuthorityKind::X509.into(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    })
}

fn status(world: &World, id: &str) -> AuthorityStatus {
    let found = world.ask(|t| t.authority(AuthorityKind::X509.into(), id));
    found.unwrap().status()
}

fn sign(world: &mut World, slot: &str, epoch: u64) {
    world.ok(begin(slot, epoch));
    world.ok(record(slot, epoch));
    world.ok(activate(slot, epoch));
}

#[test]
fn the_scope_is_the_founders_until_it_is_set() {
    let mut world = World::new();
    assert_eq!(
        scope(&world),
        AuthorityScope::Unspecified,
        "as before level 4"
    );
    world.ok(set(AuthorityScope::PerNode));
    assert_eq!(scope(&world), AuthorityScope::PerNode);
    assert_eq!(world.changes, [ChangeKind::AuthorityScopeSet]);
    world.ok(set(AuthorityScope::PerNode));
    assert_eq!(world.changes, [], "it is that already");
    assert_eq!(
        world.refused(set(AuthorityScope::Unspecified)),
        Refusal::Malformed
    );
    let unknown = Command::SetAuthorityScope(SetAuthorityScope { scope: 3 });
    assert_eq!(world.refused(unknown), Refusal::Malformed);

    let mut world = World::empty();
    world.ok(Command::Found(Found {
        cluster_id: "cluster".into(),
        founder: Some(admission(1)),
        authority_scope: AuthorityScope::Shared.into(),
        ..Found::default()
    }));
    assert_eq!(scope(&world), AuthorityScope::Shared);
}

#[test]
fn outside_of_the_scope_nothing_begins_but_what_follows_one_that_signs() {
    let mut world = World::new();
    world.ok(set(AuthorityScope::PerNode));
    assert_eq!(world.refused(begin(SHARED, 1)), Refusal::Conflict);
    world.ok(begin(OF_2, 1));

    let mut world = World::new();
    sign(&mut world, SHARED, 1);
    world.ok(begin(SHARED, 2));
    world.ok(record(SHARED, 2));
    world.ok(set(AuthorityScope::PerNode));
    world.ok(activate(SHARED, 2));
    sign(&mut world, SHARED, 3);
    assert_eq!(status(&world, "x509-3"), AuthorityStatus::Active);
    sign(&mut world, OF_2, 1);
    world.ok(begin(SHARED, 4));
    world.ok(retire(&["x509-3"]));
    assert_eq!(status(&world, "x509-3"), AuthorityStatus::Old);
    assert_eq!(world.refused(record(SHARED, 4)), Refusal::Conflict);
    assert_eq!(world.refused(begin(SHARED, 5)), Refusal::Conflict);
    world.ok(set(AuthorityScope::Shared));
    world.ok(begin(SHARED, 5));
}

#[test]
fn one_that_was_away_makes_its_own_while_others_have_theirs_and_share_none() {
    let of_3 = "x509/node-3";
    let mut world = World::new();
    world.ok(set(AuthorityScope::Shared));
    assert_eq!(world.refused(begin(of_3, 1)), Refusal::Conflict);
    world.ok(set(AuthorityScope::PerNode));
    sign(&mut world, OF_2, 1);
    world.ok(set(AuthorityScope::Shared));
    assert_eq!(world.refused(begin("jwt/node-3", 1)), Refusal::Conflict);
    world.ok(begin(of_3, 1));
    sign(&mut world, SHARED, 1);
    assert_eq!(world.refused(record(of_3, 1)), Refusal::Conflict);
}

#[test]
fn nothing_is_retired_before_another_signs_nor_once_the_scope_is_the_old_one_again() {
    let mut world = World::new();
    sign(&mut world, SHARED, 1);
    assert_eq!(world.refused(retire(&["x509-1"])), Refusal::Conflict);
    world.ok(set(AuthorityScope::PerNode));
    assert_eq!(world.refused(retire(&["x509-1"])), Refusal::Conflict);
    world.ok(begin(OF_2, 1));
    world.ok(record(OF_2, 1));
    assert_eq!(world.refused(retire(&["x509-1"])), Refusal::Conflict);
    world.ok(activate(OF_2, 1));
    assert_eq!(world.refused(retire(&["x509/node-2-1"])), Refusal::Conflict);
    world.ok(set(AuthorityScope::Shared));
    assert_eq!(world.refused(retire(&["x509-1"])), Refusal::Conflict);
    world.ok(retire(&["x509/node-2-1"]));
    assert_eq!(status(&world, "x509-1"), AuthorityStatus::Active);
    assert_eq!(status(&world, "x509/node-2-1"), AuthorityStatus::Old);
}

#[test]
fn one_that_was_to_sign_next_leaves_the_bundle_and_its_slot_is_closed() {
    let mut world = World::new();
    sign(&mut world, SHARED, 1);
    sign(&mut world, OF_2, 1);
    world.ok(begin(OF_2, 2));
    world.ok(record(OF_2, 2));
    world.ok(begin(OF_2, 3));
    world.ok(set(AuthorityScope::Shared));
    world.ok(retire(&["x509/node-2-1", "x509/node-2-2", "unknown"]));
    assert!(world.changes.contains(&ChangeKind::BundleChanged));
    assert_eq!(status(&world, "x509/node-2-2"), AuthorityStatus::Revoked);
    let intent = world.ask(|t| t.intent(OF_2)).unwrap();
    assert_eq!((intent.node_id, intent.epoch), (0, 3));
    world.ok(retire(&["x509/node-2-1"]));
    assert_eq!(world.changes, [], "said again");
}
