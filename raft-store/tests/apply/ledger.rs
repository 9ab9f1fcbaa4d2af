//! The ledger of holders: never fewer than there are.

use std::sync::Arc;

use chancery_raft_store::command::{
    AuthorityName, BeginKey, HolderNote, NoteHolders, PruneHolders, RaiseFeatureLevel,
    RecordAuthority, Renewal, TellRenewals,
};
use chancery_raft_store::directory::Holders;
use chancery_raft_store::model::{Authority, AuthorityKind, Holder};
use chancery_raft_store::view::Table;
use chancery_raft_store::{ChangeKind, Command, Directory, Refusal};

use super::{AGENT, START_MS, World};

const NOW: i64 = START_MS / 1000;
const END: i64 = NOW + 86_400;

fn name(epoch: u64) -> AuthorityName {
    AuthorityName {
        kind: AuthorityKind::X509.into(),
        id: format!("authority-{epoch}"),
    }
}

fn active(world: &mut World, epoch: u64) {
    world.ok(Command::BeginKey(BeginKey {
        slot: "x509".into(),
        epoch,
        node_id: 1,
        key_id: vec![7; 16],
        key_label: "label".into(),
    }));
    world.ok(Command::RecordAuthority(RecordAuthority {
        authority: Some(Authority {
            id: name(epoch).id,
            kind: AuthorityKind::X509.into(),
            slot: "x509".into(),
            epoch,
            key_id: vec![7; 16],
            public_key: vec![1],
            expires_at: END,
            ..Authority::default()
        }),
    }));
    world.ok(Command::ActivateAuthority(name(epoch)));
}

fn world() -> World {
    let mut world = World::new();
    active(&mut world, 1);
    world
}

fn notes(node_id: u64, boot: u64, number: u64, notes: &[(&str, i64)]) -> Command {
    let note = |(path, until): &(&str, i64)| HolderNote {
        authority: Some(name(1)),
        path: (*path).into(),
        until: *until,
    };
    Command::NoteHolders(NoteHolders {
        node_id,
        boot,
        number,
        notes: notes.iter().map(note).collect(),
    })
}

fn directory(world: &World) -> Directory {
    let mut directory = Directory::default();
    for (key, value) in &world.rows {
        directory.absorb_row(key, Some(value)).unwrap();
    }
    directory
}

fn holders(world: &World, now: i64) -> Holders {
    directory(world)
        .ledger()
        .holders(AuthorityKind::X509, &name(1).id, now)
}

fn some(count: u64, until: i64) -> Holders {
    Holders {
        count,
        unnamed: false,
        until,
    }
}

#[test]
fn a_holder_counts_once_and_until_the_last_of_its_documents_has_ended() {
    let mut world = world();
    assert!(holders(&world, NOW).is_none());
    world.ok(notes(1, 1, 1, &[("/a", NOW + 10), ("/ab", NOW + 20)]));
    world.ok(notes(2, 1, 1, &[("/a", NOW + 30)]));
    world.ok(notes(2, 2, 1, &[("/a", NOW + 5)]));
    assert_eq!(holders(&world, NOW), some(2, NOW + 30));
    assert_eq!(holders(&world, NOW + 29), some(1, NOW + 30));
    assert!(holders(&world, NOW + 30).is_none());
    let directory = directory(&world);
    let named = |after| {
        let ledger = directory.ledger();
        let named = ledger.named_after(AuthorityKind::X509, "authority-1", after, NOW);
        named
            .map(|(path, until)| (path.to_owned(), until - NOW))
            .collect::<Vec<_>>()
    };
    assert_eq!(named(""), [("/a".into(), 30), ("/ab".into(), 20)]);
    assert_eq!(named("/a"), [("/ab".into(), 20)]);
    assert_eq!(named("/ab"), []);
    let by = |path, start, at| {
        let ledger = directory.ledger();
        let concerns = |node, boot| (node, boot) == start;
        ledger.handed_out_by(AuthorityKind::X509, "authority-1", path, NOW + at, concerns)
    };
    assert!(by("/a", (2, 1), 10));
    assert!(by("/a", (1, 1), 9) && !by("/a", (1, 1), 10));
    assert!(!by("/a", (1, 2), 0) && !by("/ab", (2, 1), 0) && !by("/", (1, 1), 0));
}

#[test]
fn a_start_takes_away_what_it_noted_and_nothing_else() {
    let mut world = world();
    world.ok(notes(1, 1, 1, &[("/a", NOW + 10)]));
    world.ok(notes(1, 2, 1, &[("/a", 0)]));
    world.ok(notes(2, 1, 1, &[("/a", NOW)]));
    assert_eq!(holders(&world, NOW), some(1, NOW + 10));
    world.ok(notes(1, 1, 2, &[("/a", 0)]));
    assert!(holders(&world, NOW).is_none());
    assert_eq!(
        (world.of(Table::Holders), world.cluster().holder_rows),
        (0, 0)
    );
}

#[test]
fn a_note_that_comes_late_changes_nothing() {
    let mut world = world();
    world.ok(notes(1, 1, 3, &[("/a", NOW + 10)]));
    world.ok(notes(1, 1, 2, &[("/a", 0), ("/b", NOW + 4)]));
    assert_eq!(holders(&world, NOW), some(2, NOW + 10));
}

#[test]
fn nobody_holds_longer_than_the_authority_lives_nor_of_one_that_is_gone() {
    let mut world = world();
    let outcome = world.ok(notes(1, 1, 1, &[("/a", END + 9)]));
    assert_eq!(outcome.holders, [i32::from(Refusal::None)]);
    assert_eq!(holders(&world, NOW), some(1, END));
    active(&mut world, 2);
    world.ok(Command::TaintAuthority(name(1)));
    world.ok(Command::RevokeAuthority(name(1)));
    let mut mixed = notes(1, 1, 2, &[("/b", END), ("/a", 0)]);
    if let Command::NoteHolders(command) = &mut mixed {
        command.notes.push(HolderNote {
            authority: Some(name(2)),
            path: "/b".into(),
            until: END,
        });
    }
    let outcome = world.ok(mixed);
    assert_eq!(
        outcome.holders,
        [Refusal::NotFound, Refusal::None, Refusal::None].map(i32::from)
    );
    assert!(holders(&world, NOW).is_none());
    world.time_ms = END * 1000;
    let outcome = world.ok(notes(1, 1, 3, &[("/c", END + 1)]));
    assert_eq!(outcome.holders, [i32::from(Refusal::NotFound)]);
}

#[test]
fn whoever_finds_no_place_is_counted() {
    let mut world = world();
    world.ok(notes(1, 1, 1, &[("/a", NOW + 10)]));
    let mut cluster = world.cluster();
    cluster.holder_rows = Holder::ROWS_MAX;
    let key = Table::Meta.key(chancery_raft_store::view::meta::CLUSTER);
    world
        .rows
        .insert(key, prost::Message::encode_to_vec(&cluster));
    world.ok(notes(1, 1, 2, &[("/a", NOW + 11), ("/b", NOW + 40)]));
    world.ok(notes(2, 1, 1, &[("/c", NOW + 30)]));
    assert_eq!(holders(&world, NOW), some(3, NOW + 40));
    assert_eq!(world.of(Table::Holders), 2);
    assert_eq!(holders(&world, NOW + 39), some(2, NOW + 40));
    assert!(holders(&world, NOW + 40).is_none());
}

#[test]
fn holders_that_nobody_can_name_are_no_number() {
    let mut world = world();
    world.ok(notes(1, 1, 1, &[("", NOW + 10)]));
    let found = holders(&world, NOW);
    assert!(found.unnamed && !found.is_none());
    assert_eq!((found.count, found.until), (0, NOW + 10));
    assert!(holders(&world, NOW + 10).is_none());
}

#[test]
fn rows_that_have_ended_are_pruned_and_no_others() {
    let mut world = world();
    world.ok(notes(1, 1, 1, &[("/a", NOW + 10), ("/b", NOW + 11)]));
    let keys: Vec<_> = directory(&world)
        .ledger()
        .ended_before(NOW + 100)
        .cloned()
        .collect();
    assert_eq!(keys.len(), 2);
    world.time_ms = START_MS + 11_000;
    let prune = || Command::PruneHolders(PruneHolders { keys: keys.clone() });
    assert_eq!(world.ok(prune()).removed, 1);
    assert_eq!(world.ok(prune()).removed, 0);
    assert_eq!(
        (world.of(Table::Holders), world.cluster().holder_rows),
        (1, 1)
    );
    assert_eq!(holders(&world, NOW), some(1, NOW + 11));
}

#[test]
fn what_makes_no_sense_is_refused_as_a_whole() {
    let mut world = world();
    let long = "x".repeat(Holder::PATH_BYTES_MAX + 1);
    for bad in [
        notes(0, 1, 1, &[("/a", END)]),
        notes(1, 0, 1, &[("/a", END)]),
        notes(1, 1, 0, &[("/a", END)]),
        notes(1, 1, 1, &[("/ok", END), (&long, END)]),
        notes(1, 1, 1, &[("/a\0b", END)]),
        notes(1, 1, 1, &vec![("/a", END); NoteHolders::NOTES_MAX + 1]),
    ] {
        assert_eq!(world.refused(bad), Refusal::Malformed);
    }
    assert_eq!(world.of(Table::Holders), 0);
}

#[test]
fn renewals_are_told_and_not_stored() {
    let mut world = world();
    let told = TellRenewals {
        node_id: 2,
        renewals: vec![Renewal {
            authority: Some(name(1)),
            path: AGENT.into(),
            item: 7,
            asked_at: NOW,
        }],
    };
    let before = world.rows_but_clock();
    world.ok(Command::TellRenewals(told.clone()));
    assert_eq!(
        world.changes,
        [ChangeKind::DocumentsRenewed(Arc::new(told))]
    );
    assert_eq!(world.rows_but_clock(), before);
}

#[test]
fn an_authority_from_before_the_ledger_is_not_accounted_for() {
    let mut world = World::new();
    active(&mut world, 1);
    let level = world.cluster().feature_level;
    assert!(
        level < NoteHolders::FEATURE_LEVEL,
        "the founding is of an older version"
    );
    world.ok(Command::RaiseFeatureLevel(RaiseFeatureLevel {
        level: NoteHolders::FEATURE_LEVEL,
    }));
    active(&mut world, 2);
    let directory = directory(&world);
    let accounted = |at: usize| {
        let authorities = directory.authorities(AuthorityKind::X509);
        directory.is_accounted_for(&authorities[at])
    };
    assert_eq!([accounted(0), accounted(1)], [false, true]);
}
