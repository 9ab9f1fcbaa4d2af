//! The own bundle: what is appended, and what is pruned.

use chancery_raft_store::command::{
    AppendBundle, AuthorityName, BeginKey, PruneBundle, RecordAuthority,
};
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
        publisher: String::new(),
    }
}

/// A key of a downstream server.
fn published(publisher: &str, id: &str, expires_at: i64) -> BundleAuthority {
    BundleAuthority {
        publisher: publisher.into(),
        ..key(id, 1, expires_at)
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
    // The id counts as well: it is told with the rest.
    let max = BundleAuthority::BYTES_MAX;
    assert_eq!(
        world.refused(append(vec![large("a", max)])),
        Refusal::BundleFull
    );
    world.ok(append(vec![large("a", max - 1)]));
    assert_eq!(
        world.refused(append(vec![large("b", 1)])),
        Refusal::BundleFull
    );
}

#[test]
fn a_downstream_server_has_its_share_and_no_more() {
    let mut world = World::new();
    let max = BundleAuthority::PUBLISHED_BY_ONE_MAX;
    let publish = |world: &mut World, publisher: &str, n: usize| {
        let id = format!("{publisher}-{n}");
        world.run(append(vec![published(publisher, &id, NOW + 60)]))
    };
    for n in 0..max {
        assert_eq!(publish(&mut world, "/a", n).refusal(), Refusal::None);
    }
    let rows = world.rows_but_clock();
    let refused = publish(&mut world, "/a", max).refusal();
    assert_eq!(refused, Refusal::PublishedTooMuch);
    assert_eq!(world.rows_but_clock(), rows);
    // What is there already, other servers and administrators are not concerned.
    assert_eq!(publish(&mut world, "/a", 0).refusal(), Refusal::None);
    assert_eq!(publish(&mut world, "/b", 0).refusal(), Refusal::None);
    world.ok(append(vec![key("admin", 1, 0)]));
    assert_eq!(world.of(Table::BundleAuthorities), max + 2);

    // A revoked key makes room.
    let name = AuthorityName {
        kind: AuthorityKind::Jwt.into(),
        id: "/a-0".into(),
    };
    world.ok(Command::TaintAuthority(name.clone()));
    world.ok(Command::RevokeAuthority(name));
    assert_eq!(publish(&mut world, "/a", max).refusal(), Refusal::None);
}

#[test]
fn published_keys_that_ended_make_way() {
    let mut world = World::new();
    let max = BundleAuthority::PUBLISHED_BY_ONE_MAX;
    world.ok(append(vec![published("/b", "other", NOW + 1)]));
    for n in 0..max {
        let end = NOW + 60 + i64::try_from(n).unwrap();
        world.ok(append(vec![published("/a", &format!("{n}"), end)]));
    }
    let new = || append(vec![published("/a", "new", NOW + 1000)]);
    world.time_ms += 59_000;
    assert_eq!(world.refused(new()), Refusal::PublishedTooMuch);
    world.time_ms += 2_000;
    world.ok(new());
    let ids: Vec<_> = stored(&world).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids.len(), max + 1);
    assert!(!ids.contains(&"0".into()), "the first that ended");
    for kept in ["1", "other", "new"] {
        assert!(ids.contains(&kept.into()), "{kept}");
    }
}

#[test]
fn all_downstream_servers_together_leave_room_for_administrators() {
    let mut world = World::new();
    let max = BundleAuthority::PUBLISHED_MAX;
    let by_one = BundleAuthority::PUBLISHED_BY_ONE_MAX;
    for n in 0..max {
        let publisher = format!("/{}", n / by_one);
        world.ok(append(vec![published(
            &publisher,
            &n.to_string(),
            NOW + 60,
        )]));
    }
    let one_more = || append(vec![published("/new", "new", NOW + 600)]);
    assert_eq!(world.refused(one_more()), Refusal::PublishedTooMuch);
    let rest = BundleAuthority::COUNT_MAX - max;
    world.ok(append(
        (0..rest).map(|n| root(&n.to_string(), 1, 0)).collect(),
    ));
    // The ended keys of others make way as well.
    world.time_ms += 61_000;
    world.ok(one_more());
    assert_eq!(
        world.of(Table::BundleAuthorities),
        BundleAuthority::COUNT_MAX
    );

    let mut world = World::new();
    let large = |id: &str, bytes: usize| BundleAuthority {
        der: vec![1; bytes],
        ..published("/a", id, NOW + 60)
    };
    let max = BundleAuthority::PUBLISHED_BYTES_MAX;
    world.ok(append(vec![large("a", max - 1)]));
    assert_eq!(
        world.refused(append(vec![large("b", 1)])),
        Refusal::PublishedTooMuch
    );
}

#[test]
fn an_id_has_a_bound() {
    let mut world = World::new();
    let (fits, too_long) = ("k".repeat(255), "k".repeat(256));
    for bad in [key(&too_long, 1, 6), root(&too_long, 1, 6)] {
        assert_eq!(world.refused(append(vec![bad])), Refusal::Malformed);
    }
    world.ok(append(vec![key(&fits, 1, 6), root(&fits, 1, 6)]));
}

#[test]
fn what_an_earlier_version_let_in_is_pruned_with_a_short_id() {
    let mut world = World::new();
    world.ok(append(vec![key("kept", 2, 0)]));
    let (view, none) = (Map(&world.rows), Writes::new());
    let mut txn = Txn::new(&view, &none, 99, START_MS);
    txn.put_bundle_authority(&key(&"\u{e9}".repeat(1 << 20), 1, 1));
    let writes = txn.finish().0;
    write_to(&mut world.rows, writes);
    let outcome = world.ok(prune(i64::MAX));
    assert_eq!(outcome.pruned.len(), 1);
    assert_eq!(outcome.pruned[0].id, "\u{e9}".repeat(127));
    assert_eq!(world.of(Table::BundleAuthorities), 1);
}

#[test]
fn a_key_that_is_kept_elsewhere_is_tainted_and_then_revoked() {
    let mut world = World::new();
    world.ok(append(vec![key("k", 2, 6), key("k", 2, 8), key("l", 3, 6)]));
    let name = |kind: AuthorityKind, id: &str| AuthorityName {
        kind: kind.into(),
        id: id.into(),
    };
    let jwt = |id| name(AuthorityKind::Jwt, id);
    let taint = |name| Command::TaintAuthority(name);
    let revoke = |name| Command::RevokeAuthority(name);
    let sequence = world.cluster().bundle_sequence;
    assert_eq!(world.refused(taint(jwt("none"))), Refusal::NotFound);
    assert_eq!(world.refused(revoke(jwt("none"))), Refusal::NotFound);
    assert_eq!(world.refused(revoke(jwt("k"))), Refusal::NotTainted);

    world.ok(taint(jwt("k")));
    assert_eq!(world.changes, [ChangeKind::BundleChanged]);
    assert_eq!(world.cluster().bundle_sequence, sequence + 1);
    let all = world.ask(|t| t.bundle_authorities());
    let tainted: Vec<_> = all.iter().map(|a| (a.id.as_str(), a.tainted)).collect();
    assert_eq!(
        tainted,
        [("k", true), ("k", true), ("l", false)],
        "every record of it"
    );
    assert_eq!(world.refused(taint(jwt("k"))), Refusal::AlreadyTainted);

    world.ok(revoke(jwt("k")));
    assert_eq!(world.changes, [ChangeKind::BundleChanged]);
    assert_eq!(world.cluster().bundle_sequence, sequence + 2);
    assert_eq!(stored(&world), [("l".into(), 3, 6)]);
    assert_eq!(world.refused(revoke(jwt("k"))), Refusal::NotFound);

    // Roots of elsewhere are not the business of these commands, as with SPIRE.
    world.ok(append(vec![root("r", 1, 5)]));
    let x509 = name(AuthorityKind::X509, "r");
    assert_eq!(world.refused(taint(x509.clone())), Refusal::NotFound);
    assert_eq!(world.refused(revoke(x509)), Refusal::NotFound);
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
