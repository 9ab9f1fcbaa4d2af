//! The own bundle: what is appended, and what is pruned.

use chancery_raft_store::command::{AppendBundle, BeginKey, PruneBundle, RecordAuthority};
use chancery_raft_store::model::{Authority, AuthorityKind, BundleAuthority};
use chancery_raft_store::view::{Table, Txn, Writes};
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::{START_MS, World};
use crate::support::{Map, write_to};

const DAY: i64 = 24 * 60 * 60;
const NOW: i64 = START_MS / 1000;

fn root(id: &str, der: u8, expires_at: i64) -> BundleAuthority {
    BundleAuthority {
        kind: AuthorityKind::X509.into(),
        id: id.into(),
        sequence: 0,
        der: vec![der],
        expires_at,
        tainted: false,
    }
}

fn key(id: &str, der: u8, expires_at: i64) -> BundleAuthority {
    BundleAuthority {
        kind: AuthorityKind::Jwt.into(),
        ..root(id, der, expires_at)
    }
}

fn append(authorities: Vec<BundleAuthority>) -> Command {
    Command::AppendBundle(AppendBundle { authorities })
}

fn prune(expires_before: i64) -> Command {
    Command::PruneBundle(PruneBundle { expires_before })
}

/// What the bundle has: id, DER, end, in insertion order.
fn stored(world: &World) -> Vec<(String, u8, i64)> {
    let mut all = world.ask(|t| t.bundle_authorities());
    all.sort_by_key(|authority| authority.sequence);
    all.into_iter()
        .map(|a| (a.id, a.der[0], a.expires_at))
        .collect()
}

/// Records an authority of this cluster itself.
fn own(world: &mut World, kind: AuthorityKind, id: &str, der: u8, expires_at: i64) {
    let slot = if kind == AuthorityKind::X509 {
        "x509"
    } else {
        "jwt"
    };
    world.ok(Command::BeginKey(BeginKey {
        slot: slot.into(),
        epoch: 1,
        node_id: 1,
        key_id: vec![7; 16],
        key_label: "label".into(),
    }));
    world.ok(Command::RecordAuthority(RecordAuthority {
        authority: Some(Authority {
            id: id.into(),
            kind: kind.into(),
            slot: slot.into(),
            epoch: 1,
            key_id: vec![7; 16],
            certificate: vec![der],
            public_key: vec![der],
            expires_at,
            ..Authority::default()
        }),
    }));
}

#[test]
fn what_is_appended_is_new_or_changes_nothing() {
    let mut world = World::new();
    own(&mut world, AuthorityKind::X509, "own", 9, 0);
    own(&mut world, AuthorityKind::Jwt, "own", 9, 77);
    let sequence = world.cluster().bundle_sequence;
    world.ok(append(vec![root("a", 1, 5), key("k", 2, 6)]));
    assert_eq!(
        world.cluster().bundle_sequence,
        sequence + 1,
        "one for both"
    );
    assert_eq!(world.changes, [ChangeKind::BundleChanged]);
    assert_eq!(stored(&world), [("a".into(), 1, 5), ("k".into(), 2, 6)]);

    let rows = world.rows_but_clock();
    world.ok(append(vec![root("a", 1, 5), key("k", 2, 6)]));
    // The cluster's own are there as well.
    world.ok(append(vec![root("own", 9, 0), key("own", 9, 77)]));
    assert_eq!(world.rows_but_clock(), rows);
    assert_eq!(world.cluster().bundle_sequence, sequence + 1);
    assert!(world.changes.is_empty());

    // Another certificate of the same key, another end of the same JWT key.
    world.ok(append(vec![root("a", 3, 5), key("k", 2, 8)]));
    assert_eq!(world.cluster().bundle_sequence, sequence + 2);
    assert_eq!(
        stored(&world),
        [
            ("a".into(), 1, 5),
            ("k".into(), 2, 6),
            ("a".into(), 3, 5),
            ("k".into(), 2, 8)
        ]
    );
}

#[test]
fn a_key_id_names_one_key() {
    let mut world = World::new();
    own(&mut world, AuthorityKind::Jwt, "own", 9, 77);
    world.ok(append(vec![key("k", 2, 6)]));
    let rows = world.rows_but_clock();
    for taken in [key("k", 3, 6), key("own", 3, 77)] {
        assert_eq!(
            world.refused(append(vec![root("new", 1, 5), taken])),
            Refusal::AlreadyExists
        );
    }
    assert_eq!(world.rows_but_clock(), rows, "all or none");
    // A zero byte in a name does not make it another's.
    world.ok(append(vec![key("k\0aaaaaaaa", 5, 6)]));
    assert_eq!(
        world
            .ask(|t| t.bundle_authorities_named(AuthorityKind::Jwt.into(), "k"))
            .len(),
        1
    );
}

#[test]
fn appending_again_does_not_undo_a_taint() {
    let mut world = World::new();
    world.ok(append(vec![root("a", 1, 5), key("k", 2, 6)]));
    let (view, none) = (Map(&world.rows), Writes::new());
    let mut txn = Txn::new(&view, &none, 99, START_MS);
    for mut authority in txn.bundle_authorities().unwrap() {
        authority.tainted = true;
        txn.put_bundle_authority(&authority);
    }
    let writes = txn.finish().0;
    write_to(&mut world.rows, writes);
    world.ok(append(vec![
        root("a", 1, 5),
        key("k", 2, 6),
        key("k", 2, 60),
    ]));
    let all = world.ask(|t| t.bundle_authorities());
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|authority| authority.tainted));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut world = World::new();
    let rows = world.rows_but_clock();
    for bad in [
        root("", 1, 5),
        BundleAuthority {
            der: Vec::new(),
            ..root("a", 1, 5)
        },
        BundleAuthority {
            kind: 0,
            ..root("a", 1, 5)
        },
        BundleAuthority {
            kind: 257,
            ..root("a", 1, 5)
        },
    ] {
        assert_eq!(
            world.refused(append(vec![root("ok", 1, 5), bad])),
            Refusal::Malformed
        );
    }
    assert_eq!(world.rows_but_clock(), rows);
}

#[test]
fn the_bundle_has_a_bound_in_number_and_in_bytes() {
    let mut world = World::new();
    let many = |from: usize, count: usize| {
        (from..from + count)
            .map(|n| root(&format!("r{n}"), 1, 5))
            .collect::<Vec<_>>()
    };
    let max = BundleAuthority::COUNT_MAX;
    assert_eq!(world.refused(append(many(0, max + 1))), Refusal::BundleFull);
    world.ok(append(many(0, max)));
    assert_eq!(world.refused(append(many(max, 1))), Refusal::BundleFull);
    world.ok(append(many(0, max)));
    assert_eq!(world.of(Table::BundleAuthorities), max);

    let mut world = World::new();
    let large = |id: &str, bytes: usize| BundleAuthority {
        der: vec![1; bytes],
        ..root(id, 1, 5)
    };
    let max = BundleAuthority::BYTES_MAX;
    world.ok(append(vec![large("a", max)]));
    assert_eq!(
        world.refused(append(vec![large("b", 1)])),
        Refusal::BundleFull
    );
}

#[test]
fn what_ended_a_day_ago_is_pruned_and_nothing_else() {
    let mut world = World::new();
    own(&mut world, AuthorityKind::X509, "own", 9, NOW + 1000);
    own(&mut world, AuthorityKind::Jwt, "own", 9, NOW + 1000);
    world.ok(append(vec![
        root("gone", 1, NOW - DAY),
        root("kept", 2, NOW - DAY + 1),
        key("gone", 3, NOW - DAY),
        key("kept", 4, NOW - DAY + 1),
        key("endless", 5, 0),
    ]));
    let sequence = world.cluster().bundle_sequence;
    // However much is asked for.
    let outcome = world.ok(prune(i64::MAX));
    let pruned: Vec<_> = outcome
        .pruned
        .iter()
        .map(|a| (a.kind(), a.id.as_str(), a.der.len()))
        .collect();
    assert_eq!(
        pruned,
        [
            (AuthorityKind::X509, "gone", 0),
            (AuthorityKind::Jwt, "gone", 0)
        ]
    );
    assert_eq!(world.cluster().bundle_sequence, sequence + 1);
    assert_eq!(
        stored(&world).iter().map(|a| a.1).collect::<Vec<_>>(),
        [2, 4, 5]
    );
    let rows = world.rows_but_clock();
    assert_eq!(world.ok(prune(i64::MAX)).pruned, []);
    assert_eq!(world.rows_but_clock(), rows);
    assert_eq!(world.cluster().bundle_sequence, sequence + 1);
    // Less may be asked for.
    world.time_ms += DAY * 1000;
    assert_eq!(world.ok(prune(NOW - DAY)).pruned, []);
    assert_eq!(world.ok(prune(i64::MAX)).pruned.len(), 2);
}

#[test]
fn pruning_leaves_a_root_and_a_jwt_key() {
    let mut world = World::new();
    world.ok(append(vec![root("a", 1, 1), key("k", 2, NOW)]));
    assert_eq!(world.refused(prune(i64::MAX)), Refusal::LastAuthority);
    world.ok(append(vec![root("b", 2, NOW), key("l", 3, 1)]));
    assert_eq!(world.ok(prune(i64::MAX)).pruned.len(), 2);

    let mut world = World::new();
    world.ok(append(vec![
        root("b", 2, NOW),
        root("a", 1, 1),
        key("k", 3, 1),
    ]));
    assert_eq!(
        world.refused(prune(i64::MAX)),
        Refusal::LastAuthority,
        "the last key holds the old root as well, as with SPIRE"
    );
    own(&mut world, AuthorityKind::Jwt, "own", 9, 1);
    assert_eq!(world.ok(prune(i64::MAX)).pruned.len(), 2);
}
