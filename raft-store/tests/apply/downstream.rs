//! CA certificates of downstream servers: recorded for who may have one, forgotten
//! when they have ended.

use chancery_raft_store::command::{
    AuthorityName, BeginKey, DeleteEntries, RecordAuthority, RecordDownstreamCa,
};
use chancery_raft_store::model::{Authority, AuthorityKind, DownstreamCa, Entry};
use chancery_raft_store::view::Table;
use chancery_raft_store::{ChangeKind, Command, Directory, Refusal};
use prost::Message;

use super::{START_MS, World};
use crate::support::entry;

const NOW: i64 = START_MS / 1000;
const AUTHORITY: &str = "a1";

/// A cluster with a signing authority and an entry that makes `/nested` downstream.
fn world() -> World {
    let mut world = World::new();
    world.ok(Command::BeginKey(BeginKey {
        slot: "x509".into(),
        epoch: 1,
        node_id: 1,
        key_id: vec![1; 16],
        key_label: "label".into(),
    }));
    let authority = Authority {
        id: AUTHORITY.into(),
        kind: AuthorityKind::X509.into(),
        slot: "x509".into(),
        epoch: 1,
        key_id: vec![1; 16],
        public_key: vec![1],
        ..Authority::default()
    };
    world.ok(Command::RecordAuthority(RecordAuthority {
        authority: Some(authority),
    }));
    world.create(vec![
        Entry {
            downstream: true,
            ..entry("down", "/p", "/nested", &["a"])
        },
        entry("plain", "/p", "/plain", &["a"]),
    ]);
    world
}

fn activate(world: &mut World) {
    world.ok(Command::ActivateAuthority(AuthorityName {
        kind: AuthorityKind::X509.into(),
        id: AUTHORITY.into(),
    }));
}

fn ca(serial: &str, expires_at: i64) -> DownstreamCa {
    DownstreamCa {
        caller_path: "/nested".into(),
        entry_id: "down".into(),
        authority_id: AUTHORITY.into(),
        serial: serial.into(),
        subject_key_id: "0b".into(),
        issued_at: NOW - 10,
        expires_at,
    }
}

fn record(ca: DownstreamCa) -> Command {
    Command::RecordDownstreamCa(RecordDownstreamCa { ca: Some(ca) })
}

/// Serials that the tables hold, as a directory that read them all tells them.
fn recorded(world: &World) -> Vec<String> {
    let mut directory = Directory::default();
    for (key, value) in &world.rows {
        directory.absorb_row(key, Some(value)).unwrap();
    }
    directory
        .downstream_cas()
        .map(|ca| ca.serial.clone())
        .collect()
}

#[test]
fn what_was_signed_is_recorded_as_it_was_signed() {
    let mut world = world();
    activate(&mut world);
    world.ok(record(ca("7", NOW + 60)));
    assert_eq!(world.changes, [ChangeKind::DownstreamCaSet("7".into())]);
    let mut directory = Directory::default();
    for (key, value) in &world.rows {
        directory.absorb_row(key, Some(value)).unwrap();
    }
    let held: Vec<_> = directory.downstream_cas().map(|c| (**c).clone()).collect();
    assert_eq!(held, [ca("7", NOW + 60)]);
    assert_eq!(
        world.refused(record(ca("7", NOW + 60))),
        Refusal::AlreadyExists
    );
}

#[test]
fn only_an_entry_that_says_downstream_allows_it_to_its_own_id() {
    let mut world = world();
    activate(&mut world);
    let before = world.rows_but_clock();
    let other = |change: fn(&mut DownstreamCa)| {
        let mut ca = ca("7", NOW + 60);
        change(&mut ca);
        record(ca)
    };
    for refused in [
        other(|ca| ca.entry_id = "nobody".into()),
        other(|ca| {
            ca.entry_id = "plain".into();
            ca.caller_path = "/plain".into();
        }),
        other(|ca| ca.caller_path = "/plain".into()),
    ] {
        assert_eq!(world.refused(refused), Refusal::NotFound);
    }
    assert_eq!(world.rows_but_clock(), before);
    world.ok(Command::DeleteEntries(DeleteEntries {
        ids: vec!["down".into()],
    }));
    assert_eq!(world.refused(record(ca("7", NOW + 60))), Refusal::NotFound);
}

#[test]
fn an_authority_that_does_not_sign_or_is_tainted_has_signed_nothing() {
    let mut world = world();
    assert_eq!(
        world.refused(record(ca("7", NOW + 60))),
        Refusal::Conflict,
        "it is prepared only"
    );
    activate(&mut world);
    let unknown = DownstreamCa {
        authority_id: "a2".into(),
        ..ca("7", NOW + 60)
    };
    assert_eq!(world.refused(record(unknown)), Refusal::Conflict);
    let held = world
        .ask(|t| t.authority(AuthorityKind::X509.into(), AUTHORITY))
        .unwrap();
    let tainted = Authority {
        tainted: true,
        ..held
    };
    let mut key = vec![1];
    key.extend_from_slice(AUTHORITY.as_bytes());
    world
        .rows
        .insert(Table::Authorities.key(&key), tainted.encode_to_vec());
    assert_eq!(world.refused(record(ca("7", NOW + 60))), Refusal::Conflict);
    assert_eq!(world.of(Table::DownstreamCas), 0);
}

#[test]
fn a_record_that_lacks_something_is_the_proposers_mistake() {
    let mut world = world();
    activate(&mut world);
    let whole = ca("7", NOW + 60);
    let empty = String::new;
    for broken in [
        DownstreamCa {
            caller_path: empty(),
            ..whole.clone()
        },
        DownstreamCa {
            entry_id: empty(),
            ..whole.clone()
        },
        DownstreamCa {
            authority_id: empty(),
            ..whole.clone()
        },
        DownstreamCa {
            serial: empty(),
            ..whole.clone()
        },
        DownstreamCa {
            subject_key_id: empty(),
            ..whole.clone()
        },
        DownstreamCa {
            issued_at: 0,
            ..whole.clone()
        },
        DownstreamCa {
            expires_at: whole.issued_at,
            ..whole.clone()
        },
    ] {
        assert_eq!(world.refused(record(broken)), Refusal::Malformed);
    }
    let none = Command::RecordDownstreamCa(RecordDownstreamCa { ca: None });
    assert_eq!(world.refused(none), Refusal::Malformed);
    world.ok(record(whole));
}

#[test]
fn ended_ones_are_forgotten_a_few_with_each_command() {
    let mut world = world();
    activate(&mut world);
    // Recorded in another order than they end.
    for n in (0..40).rev() {
        world.ok(record(ca(&format!("{n}"), NOW + 10 + n)));
    }
    world.ok(record(ca("last", NOW + 900)));
    assert_eq!(world.of(Table::DownstreamCas), 41);
    // The end is inclusive: in its last second one is still there.
    world.time_ms = START_MS + 10_000;
    world.ok(record(ca("x", NOW + 901)));
    assert_eq!(recorded(&world)[0], "0");
    world.time_ms = START_MS + 100_000;
    world.ok(record(ca("y", NOW + 902)));
    assert_eq!(world.of(Table::DownstreamCas), 43 - 16);
    assert_eq!(recorded(&world)[0], "16", "those first that ended first");
    for serial in ["z", "zz"] {
        world.ok(record(ca(serial, NOW + 903)));
    }
    assert_eq!(recorded(&world), ["last", "x", "y", "z", "zz"]);
}
