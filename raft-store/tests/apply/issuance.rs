//! The issuance mode, and what counts as a proof in each.

use chancery_raft_store::command::{
    AuthorityName, BeginKey, Found, ProveAuthority, RecordAuthority, SetIssuanceMode,
};
use chancery_raft_store::model::{Authority, AuthorityKind, IssuanceMode};
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::World;
use crate::support::admission;

fn set(mode: IssuanceMode) -> Command {
    Command::SetIssuanceMode(SetIssuanceMode { mode: mode.into() })
}

fn mode(world: &World) -> IssuanceMode {
    world.ask(|t| t.cluster()).unwrap().issuance_mode()
}

fn name(kind: AuthorityKind) -> AuthorityName {
    AuthorityName {
        kind: kind.into(),
        id: "next".into(),
    }
}

fn prove(kind: AuthorityKind, node_id: u64, with_intermediate: bool) -> Command {
    Command::ProveAuthority(ProveAuthority {
        authority: Some(name(kind)),
        node_id,
        with_intermediate,
    })
}

fn prepare(world: &mut World, kind: AuthorityKind) {
    let slot = format!("{kind:?}");
    world.ok(Command::BeginKey(BeginKey {
        slot: slot.clone(),
        epoch: 1,
        node_id: 1,
        key_id: vec![1; 16],
        key_label: "label".into(),
    }));
    world.ok(Command::RecordAuthority(RecordAuthority {
        authority: Some(Authority {
            id: "next".into(),
            kind: kind.into(),
            slot,
            epoch: 1,
            key_id: vec![1; 16],
            public_key: vec![1],
            ..Authority::default()
        }),
    }));
}

fn proved_by(world: &World, kind: AuthorityKind) -> Vec<u64> {
    let found = world.ask(|t| t.authority(kind.into(), "next"));
    found.unwrap().proved_by
}

#[test]
fn the_mode_is_the_founders_until_it_is_set() {
    let mut world = World::new();
    assert_eq!(mode(&world), IssuanceMode::Direct);
    world.ok(set(IssuanceMode::Intermediate));
    assert_eq!(mode(&world), IssuanceMode::Intermediate);
    assert_eq!(world.changes, [ChangeKind::IssuanceModeSet]);
    world.ok(set(IssuanceMode::Intermediate));
    assert_eq!(world.changes, [], "it is that already");
    world.ok(set(IssuanceMode::Direct));
    assert_eq!(mode(&world), IssuanceMode::Direct);

    let mut world = World::empty();
    world.ok(Command::Found(Found {
        cluster_id: "cluster".into(),
        founder: Some(admission(1)),
        issuance_mode: IssuanceMode::Intermediate.into(),
        ..Found::default()
    }));
    assert_eq!(mode(&world), IssuanceMode::Intermediate);
}

#[test]
fn a_mode_that_this_version_does_not_know_is_refused() {
    let mut world = World::new();
    let unknown = Command::SetIssuanceMode(SetIssuanceMode { mode: 2 });
    assert_eq!(world.refused(unknown), Refusal::Malformed);
    assert_eq!(mode(&world), IssuanceMode::Direct);
}

#[test]
fn with_intermediates_only_who_holds_one_has_proved_an_authority() {
    let (x509, jwt) = (AuthorityKind::X509, AuthorityKind::Jwt);
    let mut world = World::new();
    world.ok(set(IssuanceMode::Intermediate));
    prepare(&mut world, x509);
    prepare(&mut world, jwt);
    let proved = proved_by(&world, x509);
    assert!(proved.is_empty(), "its maker holds no intermediate yet");
    assert_eq!(proved_by(&world, jwt), [1]);
    assert_eq!(world.refused(prove(x509, 2, false)), Refusal::Conflict);
    let activate = Command::ActivateAuthority(name(x509));
    assert_eq!(world.refused(activate.clone()), Refusal::Conflict);
    world.ok(prove(x509, 2, true));
    assert_eq!(proved_by(&world, x509), [2]);
    world.ok(activate);
    // JWT-SVIDs are signed by the authority itself in either mode.
    world.ok(prove(jwt, 2, false));
    assert_eq!(proved_by(&world, jwt), [1, 2]);
}

#[test]
fn proofs_of_what_is_to_sign_next_do_not_outlive_the_change_to_intermediates() {
    let (x509, jwt) = (AuthorityKind::X509, AuthorityKind::Jwt);
    let mut world = World::new();
    prepare(&mut world, x509);
    prepare(&mut world, jwt);
    world.ok(prove(x509, 2, false));
    assert_eq!(proved_by(&world, x509), [1, 2]);
    world.ok(set(IssuanceMode::Intermediate));
    assert!(proved_by(&world, x509).is_empty());
    assert_eq!(proved_by(&world, jwt), [1]);
    // An intermediate takes a signature by the key, so its proof holds in both modes.
    world.ok(prove(x509, 3, true));
    world.ok(set(IssuanceMode::Direct));
    assert_eq!(proved_by(&world, x509), [3]);
}

#[test]
fn an_authority_that_signs_keeps_its_proofs_when_the_mode_changes() {
    let x509 = AuthorityKind::X509;
    let mut world = World::new();
    prepare(&mut world, x509);
    world.ok(Command::ActivateAuthority(name(x509)));
    world.ok(set(IssuanceMode::Intermediate));
    assert_eq!(proved_by(&world, x509), [1]);
}
