//! Authorities: late steps are refused.

use chancery_raft_store::command::{
    AbandonKey, AdoptKeys, AppendBundle, AuthorityName, BeginKey, ProveAuthority, PruneAuthorities,
    RecordAuthority,
};
use chancery_raft_store::model::{
    Authority, AuthorityKind, AuthorityStatus, BundleAuthority, PastEpoch,
};
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::{START_MS, World};

fn begin(epoch: u64) -> BeginKey {
    BeginKey {
        slot: "x509".into(),
        epoch,
        node_id: 1,
        key_id: vec![u8::try_from(epoch).unwrap(); 16],
        key_label: format!("chancery/cluster/x509/{epoch}"),
    }
}

fn abandon(epoch: u64) -> Command {
    Command::AbandonKey(AbandonKey {
        slot: "x509".into(),
        epoch,
    })
}

fn draft(epoch: u64) -> Authority {
    Authority {
        id: format!("authority-{epoch}"),
        kind: AuthorityKind::X509.into(),
        slot: "x509".into(),
        epoch,
        key_id: vec![u8::try_from(epoch).unwrap(); 16],
        public_key: vec![1],
        status: AuthorityStatus::Active.into(),
        ..Authority::default()
    }
}

fn record(authority: Authority) -> Command {
    Command::RecordAuthority(RecordAuthority {
        authority: Some(authority),
    })
}

fn name(epoch: u64) -> AuthorityName {
    AuthorityName {
        kind: AuthorityKind::X509.into(),
        id: format!("authority-{epoch}"),
    }
}

fn authority(world: &World, epoch: u64) -> Authority {
    world
        .ask(|t| t.authority(AuthorityKind::X509.into(), &name(epoch).id))
        .unwrap()
}

#[test]
fn a_key_intent_opens_only_at_the_next_epoch_and_not_beside_another() {
    let mut world = World::new();
    for epoch in [0, 2, 9] {
        assert_eq!(
            world.refused(Command::BeginKey(begin(epoch))),
            Refusal::Conflict
        );
    }
    assert_eq!(
        world.refused(Command::BeginKey(BeginKey {
            node_id: 0,
            ..begin(1)
        })),
        Refusal::Malformed
    );
    assert_eq!(
        world.refused(Command::BeginKey(BeginKey {
            key_id: vec![1; 15],
            ..begin(1)
        })),
        Refusal::Malformed
    );
    world.ok(Command::BeginKey(begin(1)));
    assert_eq!(
        world.ask(|t| t.intent("x509")).unwrap().recorded_at,
        START_MS / 1000
    );
    assert_eq!(
        world.refused(Command::BeginKey(begin(1))),
        Refusal::Conflict
    );
    assert_eq!(
        world.refused(Command::BeginKey(begin(2))),
        Refusal::Conflict,
        "one is open"
    );
    world.ok(Command::BeginKey(BeginKey {
        slot: "jwt".into(),
        ..begin(1)
    }));
}

#[test]
fn an_abandoned_epoch_is_never_used_again() {
    let mut world = World::new();
    assert_eq!(world.refused(abandon(1)), Refusal::Conflict);
    world.ok(Command::BeginKey(begin(1)));
    assert_eq!(world.refused(abandon(2)), Refusal::Conflict);
    world.ok(abandon(1));
    assert_eq!(world.refused(abandon(1)), Refusal::Conflict);
    assert_eq!(
        world.refused(record(draft(1))),
        Refusal::Conflict,
        "a late generator comes too late"
    );
    assert_eq!(
        world.refused(Command::BeginKey(begin(1))),
        Refusal::Conflict
    );
    world.ok(Command::BeginKey(begin(2)));
    world.ok(record(draft(2)));
}

#[test]
fn an_authority_is_recorded_only_for_the_open_intent() {
    let mut world = World::new();
    assert_eq!(
        world.refused(record(draft(1))),
        Refusal::Conflict,
        "no intent"
    );
    world.ok(Command::BeginKey(begin(1)));
    assert_eq!(
        world.refused(record(Authority {
            epoch: 2,
            ..draft(1)
        })),
        Refusal::Conflict
    );
    assert_eq!(
        world.refused(record(Authority {
            key_id: vec![9; 16],
            ..draft(1)
        })),
        Refusal::Conflict
    );
    assert_eq!(
        world.refused(record(Authority {
            slot: "jwt".into(),
            ..draft(1)
        })),
        Refusal::Conflict
    );
    assert_eq!(
        world.refused(record(Authority {
            public_key: Vec::new(),
            ..draft(1)
        })),
        Refusal::Malformed
    );
    assert_eq!(
        world.refused(record(Authority {
            kind: 0,
            ..draft(1)
        })),
        Refusal::Malformed
    );
    assert_eq!(
        world.refused(record(Authority {
            kind: 257,
            ..draft(1)
        })),
        Refusal::Malformed
    );
    assert_eq!(world.cluster().bundle_sequence, 0);
    world.ok(record(draft(1)));
    assert_eq!(world.cluster().bundle_sequence, 1);
    let stored = authority(&world, 1);
    assert_eq!(
        (stored.status(), stored.proved_by.as_slice()),
        (AuthorityStatus::Prepared, &[1][..])
    );
    assert_eq!(
        world.refused(record(draft(1))),
        Refusal::Conflict,
        "a retry finds the intent closed"
    );
    world.ok(Command::BeginKey(begin(2)));
    let reused = Authority {
        id: "authority-1".into(),
        ..draft(2)
    };
    assert_eq!(world.refused(record(reused)), Refusal::AlreadyExists);
}

#[test]
fn one_authority_of_a_slot_signs_and_a_slot_never_goes_back() {
    let mut world = World::new();
    let activate = |epoch| Command::ActivateAuthority(name(epoch));
    prepare(&mut world, 1);
    prepare(&mut world, 2);
    assert_eq!(world.refused(activate(4)), Refusal::NotFound);
    assert_eq!(
        world.refused(activate(1)),
        Refusal::Conflict,
        "a later one was prepared in its place"
    );
    world.ok(activate(2));
    assert_eq!(
        world.refused(activate(2)),
        Refusal::Conflict,
        "a repeated step"
    );
    prepare(&mut world, 3);
    world.ok(activate(3));
    assert_eq!(
        world.refused(activate(2)),
        Refusal::Conflict,
        "a late step of an earlier rotation"
    );
    let status = |epoch| authority(&world, epoch).status();
    use AuthorityStatus::{Active, Old, Revoked};
    assert_eq!([status(1), status(2), status(3)], [Revoked, Old, Active]);
}

fn prepare(world: &mut World, epoch: u64) {
    world.ok(Command::BeginKey(begin(epoch)));
    world.ok(record(draft(epoch)));
}

#[test]
fn only_an_old_authority_is_tainted_and_only_a_tainted_one_revoked() {
    let mut world = World::new();
    let taint = |epoch| Command::TaintAuthority(name(epoch));
    let revoke = |epoch| Command::RevokeAuthority(name(epoch));
    prepare(&mut world, 1);
    assert_eq!(world.refused(taint(1)), Refusal::AuthorityInUse);
    world.ok(Command::ActivateAuthority(name(1)));
    assert_eq!(world.refused(taint(1)), Refusal::AuthorityInUse);
    assert_eq!(world.refused(revoke(1)), Refusal::AuthorityInUse);
    assert_eq!(world.refused(taint(2)), Refusal::NotFound);
    assert_eq!(world.refused(revoke(2)), Refusal::NotFound);
    prepare(&mut world, 2);
    world.ok(Command::ActivateAuthority(name(2)));

    let sequence = world.cluster().bundle_sequence;
    assert_eq!(world.refused(revoke(1)), Refusal::NotTainted);
    world.ok(taint(1));
    let tainted = authority(&world, 1);
    assert_eq!(
        (tainted.status(), tainted.tainted),
        (AuthorityStatus::Old, true)
    );
    assert_eq!(world.refused(taint(1)), Refusal::AlreadyTainted);
    world.ok(revoke(1));
    let revoked = authority(&world, 1);
    assert_eq!(
        (revoked.status(), revoked.tainted),
        (AuthorityStatus::Revoked, true)
    );
    assert_eq!(world.refused(revoke(1)), Refusal::NotFound);
    assert_eq!(world.refused(taint(1)), Refusal::NotFound);
    assert_eq!(
        world.refused(Command::ActivateAuthority(name(1))),
        Refusal::Conflict,
        "a revoked authority never signs again"
    );
    assert_eq!(
        world.cluster().bundle_sequence,
        sequence + 2,
        "each change of the bundle counts"
    );
    assert_eq!(authority(&world, 2).status(), AuthorityStatus::Active);
}

#[test]
fn authorities_of_two_slots_sign_side_by_side() {
    let mut world = World::new();
    for (epoch, slot) in [(1, "x509/node-1"), (2, "x509/node-2")] {
        world.ok(Command::BeginKey(BeginKey {
            slot: slot.into(),
            epoch: 1,
            ..begin(epoch)
        }));
        world.ok(record(Authority {
            slot: slot.into(),
            epoch: 1,
            ..draft(epoch)
        }));
        world.ok(Command::ActivateAuthority(name(epoch)));
    }
    assert_eq!(authority(&world, 1).status(), AuthorityStatus::Active);
    assert_eq!(authority(&world, 2).status(), AuthorityStatus::Active);
}

#[test]
fn proofs_are_kept_as_an_ascending_set() {
    let mut world = World::new();
    world.ok(Command::BeginKey(begin(1)));
    world.ok(record(draft(1)));
    for node_id in [3, 2, 3, 1] {
        world.ok(Command::ProveAuthority(ProveAuthority {
            authority: Some(name(1)),
            node_id,
            ..ProveAuthority::default()
        }));
    }
    assert_eq!(authority(&world, 1).proved_by, [1, 2, 3]);
    let unknown = ProveAuthority {
        authority: Some(name(2)),
        node_id: 1,
        ..ProveAuthority::default()
    };
    assert_eq!(
        world.refused(Command::ProveAuthority(unknown)),
        Refusal::NotFound
    );
}

/// Brings an authority of the slot through prepared to active; its end is given.
fn rotate(world: &mut World, epoch: u64, expires_at: i64) {
    world.ok(Command::BeginKey(begin(epoch)));
    world.ok(record(Authority {
        expires_at,
        ..draft(epoch)
    }));
    world.ok(Command::ActivateAuthority(name(epoch)));
}

fn prune(epochs: &[u64]) -> Command {
    Command::PruneAuthorities(PruneAuthorities {
        authorities: epochs.iter().map(|epoch| name(*epoch)).collect(),
    })
}

const DAY: i64 = 86_400;

#[test]
fn an_authority_is_forgotten_a_day_after_its_end_and_not_before() {
    let mut world = World::new();
    let end = START_MS / 1000;
    rotate(&mut world, 1, end);
    rotate(&mut world, 2, end + 1);
    rotate(&mut world, 3, end + 10 * DAY);
    world.time_ms = START_MS + (DAY - 1) * 1000;
    assert_eq!(world.ok(prune(&[1, 2, 3])).removed, 0);
    world.time_ms = START_MS + DAY * 1000;
    let sequence = world.cluster().bundle_sequence;
    assert_eq!(world.ok(prune(&[3])).removed, 0, "not named");
    assert_eq!(world.cluster().bundle_sequence, sequence);
    let outcome = world.ok(prune(&[1, 2, 3]));
    assert_eq!(outcome.removed, 1);
    assert_eq!(
        outcome
            .pruned
            .iter()
            .map(|a| (a.id.as_str(), a.expires_at))
            .collect::<Vec<_>>(),
        [("authority-1", end)]
    );
    assert_eq!(
        world.changes,
        [
            ChangeKind::AuthorityRemoved("authority-1".into()),
            ChangeKind::BundleChanged
        ]
    );
    assert_eq!(world.cluster().bundle_sequence, sequence + 1);
    assert!(
        world
            .ask(|t| t.authority(AuthorityKind::X509.into(), &name(1).id))
            .is_none()
    );
    assert_eq!(authority(&world, 2).status(), AuthorityStatus::Old);
    // The slot goes on where it was.
    assert_eq!(
        world.refused(Command::BeginKey(begin(1))),
        Refusal::Conflict
    );
    world.ok(Command::BeginKey(begin(4)));
}

#[test]
fn the_last_root_stays_however_long_ago_it_ended() {
    let mut world = World::new();
    let end = START_MS / 1000;
    rotate(&mut world, 1, end);
    rotate(&mut world, 2, end);
    world.time_ms = START_MS + 3 * DAY * 1000;
    assert_eq!(world.refused(prune(&[1, 2])), Refusal::LastAuthority);
    assert_eq!(world.ok(prune(&[1])).removed, 1);
    assert_eq!(world.refused(prune(&[2])), Refusal::LastAuthority);
    // One that is kept elsewhere serves, one of another kind does not.
    let elsewhere = |kind: AuthorityKind| {
        Command::AppendBundle(AppendBundle {
            authorities: vec![BundleAuthority {
                kind: kind.into(),
                id: "elsewhere".into(),
                der: vec![1],
                ..BundleAuthority::default()
            }],
        })
    };
    world.ok(elsewhere(AuthorityKind::Jwt));
    assert_eq!(world.refused(prune(&[2])), Refusal::LastAuthority);
    world.ok(elsewhere(AuthorityKind::X509));
    assert_eq!(world.ok(prune(&[2])).removed, 1);
}

#[test]
fn a_revoked_authority_is_forgotten_without_a_change_of_the_bundle() {
    let mut world = World::new();
    let end = START_MS / 1000;
    world.ok(Command::BeginKey(begin(1)));
    world.ok(record(Authority {
        expires_at: end,
        ..draft(1)
    }));
    // Gives way: it has left the bundle.
    world.ok(Command::BeginKey(begin(2)));
    world.ok(record(Authority {
        expires_at: end,
        ..draft(2)
    }));
    world.time_ms = START_MS + 3 * DAY * 1000;
    let sequence = world.cluster().bundle_sequence;
    let outcome = world.ok(prune(&[1]));
    assert_eq!((outcome.removed, outcome.pruned.len()), (1, 0));
    assert_eq!(world.cluster().bundle_sequence, sequence);
    assert_eq!(world.refused(prune(&[2])), Refusal::LastAuthority);
}

#[test]
fn keys_are_adopted_from_epochs_that_ended_and_from_no_other_cluster() {
    let mut world = World::new();
    let epochs = ["first", "second"].map(|id| PastEpoch {
        cluster_id: id.into(),
        ..PastEpoch::default()
    });
    world.change_cluster(|cluster| cluster.past_epochs = epochs.into());
    let adopt = |ids: &[&str]| {
        let cluster_ids = ids.iter().map(|id| (*id).into()).collect();
        Command::AdoptKeys(AdoptKeys { cluster_ids })
    };
    let adopted = |world: &World| -> Vec<bool> {
        let epochs = world.cluster().past_epochs;
        epochs.iter().map(|epoch| epoch.keys_adopted).collect()
    };
    for unknown in [&["first", "elsewhere"][..], &["cluster"]] {
        assert_eq!(world.refused(adopt(unknown)), Refusal::NotFound);
        assert_eq!(adopted(&world), [false, false], "all or none");
    }
    world.ok(adopt(&["second"]));
    assert_eq!(adopted(&world), [false, true]);
    world.ok(adopt(&["first", "second"]));
    assert_eq!(adopted(&world), [true, true]);
}
