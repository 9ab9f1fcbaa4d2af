//! Updates of entries: what changes, what stays, what is refused.

use chancery_raft_store::command::{
    EntryFields, EntryResult, EntryUpdate, FederatedBundles, UpdateEntries,
};
use chancery_raft_store::model::{Entry, FederatedBundle, Selector};
use chancery_raft_store::view::Table;
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::{START_MS, World};
use crate::support::{entry, selector};

impl World {
    fn update(&mut self, updates: Vec<EntryUpdate>) -> Vec<EntryResult> {
        self.ok(Command::UpdateEntries(UpdateEntries { updates }))
            .entries
    }
}

fn update(id: &str, fields: EntryFields, values: Entry) -> EntryUpdate {
    EntryUpdate {
        id: id.into(),
        values: Some(values),
        fields: Some(fields),
    }
}

/// Another value in every field.
fn other() -> Entry {
    Entry {
        id: "other".into(),
        sequence: 999,
        spiffe_path: "/other".into(),
        parent_path: "/q".into(),
        selectors: vec![selector("x")],
        x509_svid_ttl: 1,
        jwt_svid_ttl: 2,
        federates_with: vec!["other.org".into()],
        admin: true,
        downstream: true,
        expires_at: 3,
        dns_names: vec!["other".into()],
        revision_number: 999,
        store_svid: true,
        hint: "other".into(),
        created_at: 999,
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
    }
}

fn world() -> (World, Entry) {
    let mut world = World::new();
    let bundle = FederatedBundle {
        trust_domain: "other.org".into(),
        ..FederatedBundle::default()
    };
    world.ok(Command::SetFederatedBundles(FederatedBundles {
        bundles: vec![bundle],
    }));
    world.create(vec![entry("1", "/p", "/w", &["a", "b"])]);
    let before = world.entry("1").unwrap();
    world.time_ms += 5_000;
    (world, before)
}

#[test]
fn an_update_of_everything_keeps_id_sequence_and_creation() {
    let (mut world, before) = world();
    let result = world
        .update(vec![update("1", EntryFields::ALL, other())])
        .remove(0);
    let expected = Entry {
        id: "1".into(),
        sequence: before.sequence,
        revision_number: 1,
        created_at: START_MS / 1000,
        ..other()
    };
    assert_eq!(result.refusal(), Refusal::None);
    assert_eq!(result.entry, Some(expected.clone()));
    assert_eq!(world.entry("1"), Some(expected));
    assert_eq!(world.changes, [ChangeKind::EntrySet("1".into())]);
}

#[test]
fn each_field_is_set_alone() {
    type Field = (fn(&mut EntryFields), fn(&mut Entry, Entry));
    let fields: [Field; 13] = [
        (
            |f| f.spiffe_path = true,
            |e, o| e.spiffe_path = o.spiffe_path,
        ),
        (
            |f| f.parent_path = true,
            |e, o| e.parent_path = o.parent_path,
        ),
        (|f| f.selectors = true, |e, o| e.selectors = o.selectors),
        (
            |f| f.x509_svid_ttl = true,
            |e, o| e.x509_svid_ttl = o.x509_svid_ttl,
        ),
        (
            |f| f.jwt_svid_ttl = true,
            |e, o| e.jwt_svid_ttl = o.jwt_svid_ttl,
        ),
        (
            |f| f.federates_with = true,
            |e, o| e.federates_with = o.federates_with,
        ),
        (|f| f.admin = true, |e, o| e.admin = o.admin),
        (|f| f.downstream = true, |e, o| e.downstream = o.downstream),
        (|f| f.expires_at = true, |e, o| e.expires_at = o.expires_at),
        (|f| f.dns_names = true, |e, o| e.dns_names = o.dns_names),
        (|f| f.store_svid = true, |e, o| e.store_svid = o.store_svid),
        (|f| f.hint = true, |e, o| e.hint = o.hint),
        (
            |f| f.additional_attributes = true,
            |e, o| {
                e.disable_x509_svid_prefetch = o.disable_x509_svid_prefetch;
                e.jwt_svid_include_jti = o.jwt_svid_include_jti;
            },
        ),
    ];
    let mut all = EntryFields::default();
    for (choose, set) in fields {
        let (mut world, before) = world();
        let mut chosen = EntryFields::default();
        choose(&mut chosen);
        choose(&mut all);
        let mut expected = Entry {
            revision_number: 1,
            ..before.clone()
        };
        set(&mut expected, other());
        let changes = world.update(vec![update("1", chosen, other())]);
        assert_eq!(changes[0].entry, Some(expected.clone()), "{chosen:?}");
        assert_ne!(
            expected,
            Entry {
                revision_number: 1,
                ..before
            }
        );
    }
    assert_eq!(all, EntryFields::ALL, "a field is in no case");
}

#[test]
fn an_update_that_changes_nothing_counts_all_the_same() {
    let (mut world, before) = world();
    for revision_number in 1..4 {
        let result = world
            .update(vec![update("1", EntryFields::default(), other())])
            .remove(0);
        let expected = Entry {
            revision_number,
            ..before.clone()
        };
        assert_eq!(result.entry, Some(expected));
    }
    let without_values = EntryUpdate {
        id: "1".into(),
        values: None,
        fields: Some(EntryFields::ALL),
    };
    assert_eq!(
        world.update(vec![without_values])[0].entry,
        Some(Entry {
            revision_number: 4,
            ..before
        })
    );
}

#[test]
fn updates_of_one_batch_succeed_or_fail_alone_and_see_each_other() {
    let (mut world, _) = world();
    let hint = EntryFields {
        hint: true,
        ..EntryFields::default()
    };
    let empty = EntryFields {
        selectors: true,
        ..EntryFields::default()
    };
    let results = world.update(vec![
        update("none", hint, other()),
        update("1", hint, other()),
        update("", hint, other()),
        update("1", empty, Entry::default()),
        update("1", hint, Entry::default()),
    ]);
    let refusals: Vec<_> = results.iter().map(EntryResult::refusal).collect();
    use Refusal::{Malformed, None, NotFound};
    assert_eq!(refusals, [NotFound, None, NotFound, Malformed, None]);
    assert!(
        results
            .iter()
            .all(|r| r.entry.is_some() == (r.refusal() == None))
    );
    let entry = world.entry("1").unwrap();
    assert_eq!((entry.hint.as_str(), entry.revision_number), ("", 2));
    assert_eq!(entry.selectors.len(), 2);
}

#[test]
fn the_indexes_move_with_the_entry() {
    let (mut world, _) = world();
    world.update(vec![update(
        "1",
        EntryFields {
            store_svid: false,
            ..EntryFields::ALL
        },
        other(),
    )]);
    let parents = |world: &World, path: &str| {
        let found = world.ask(|t| t.entries_of_parent(path, 10));
        found.into_iter().map(|e| e.id).collect::<Vec<_>>()
    };
    assert_eq!(parents(&world, "/p"), [""; 0]);
    assert_eq!(parents(&world, "/q"), ["1"]);
    assert_eq!(world.of(Table::EntryFederation), 1);
    let alone = EntryFields {
        federates_with: true,
        ..EntryFields::default()
    };
    world.update(vec![update("1", alone, Entry::default())]);
    assert_eq!(world.of(Table::EntryFederation), 0);
    world.update(vec![update("1", alone, other())]);
    assert_eq!(world.of(Table::EntryFederation), 1);
    // The old name is free, the new one is taken.
    let again = world.create(vec![
        entry("2", "/p", "/w", &["a", "b"]),
        entry("3", "/q", "/other", &["x"]),
    ]);
    assert_eq!(again[0].refusal(), Refusal::None);
    assert_eq!(again[1].refusal(), Refusal::AlreadyExists);
    assert_eq!(again[1].entry.as_ref().unwrap().id, "1");
    // Nothing of it stays behind.
    world.time_ms += 1_000;
    world.delete(&["1", "2"]);
    for table in [
        Table::Entries,
        Table::EntrySequence,
        Table::EntrySimilar,
        Table::EntryParent,
        Table::EntryFederation,
    ] {
        assert_eq!(world.of(table), 0, "{table:?}");
    }
}

#[test]
fn an_update_may_make_entries_similar() {
    let (mut world, _) = world();
    world.create(vec![entry("2", "/p", "/v", &["a", "b"])]);
    let rename = EntryFields {
        spiffe_path: true,
        ..EntryFields::default()
    };
    let values = entry("", "", "/w", &[]);
    let result = world.update(vec![update("2", rename, values)]).remove(0);
    assert_eq!(result.refusal(), Refusal::None);
    assert_eq!(world.of(Table::EntrySimilar), 2);
    let again = world.create(vec![entry("3", "/p", "/w", &["b", "a"])]);
    assert_eq!(again[0].refusal(), Refusal::AlreadyExists);
}

#[test]
fn an_entry_for_svid_stores_keeps_selectors_of_one_type_whichever_half_is_new() {
    let mixed = || {
        let other_type = Selector {
            kind: "k8s".into(),
            value: "ns:a".into(),
        };
        vec![selector("a"), other_type]
    };
    let store = EntryFields {
        store_svid: true,
        ..EntryFields::default()
    };
    let selectors = EntryFields {
        selectors: true,
        ..EntryFields::default()
    };
    let stored = Entry {
        store_svid: true,
        ..entry("", "", "", &["a"])
    };
    let plain_mixed = Entry {
        selectors: mixed(),
        ..Entry::default()
    };

    let (mut world, _) = world();
    world.update(vec![update("1", store, stored.clone())]);
    let before = world.entry("1").unwrap();
    let result = world
        .update(vec![update("1", selectors, plain_mixed.clone())])
        .remove(0);
    assert_eq!(
        (result.refusal(), result.entry),
        (Refusal::EntryMixedSelectors, None)
    );
    assert_eq!(world.entry("1"), Some(before), "a refusal changes nothing");

    world.create(vec![Entry {
        selectors: mixed(),
        ..entry("2", "/p", "/v", &[])
    }]);
    let result = world.update(vec![update("2", store, stored)]).remove(0);
    assert_eq!(result.refusal(), Refusal::EntryMixedSelectors);
    // Both at once is fine when they fit.
    let both = EntryFields {
        store_svid: true,
        selectors: true,
        ..EntryFields::default()
    };
    let fits = Entry {
        store_svid: true,
        ..entry("", "", "", &["a", "b"])
    };
    assert_eq!(
        world.update(vec![update("2", both, fits)])[0].refusal(),
        Refusal::None
    );
}

#[test]
fn an_entry_does_not_grow_past_its_bound_bit_by_bit() {
    let (mut world, _) = world();
    let large = |bytes: usize| vec!["x".repeat(bytes)];
    let dns = EntryFields {
        dns_names: true,
        ..EntryFields::default()
    };
    let federates = EntryFields {
        federates_with: true,
        ..EntryFields::default()
    };
    let values = Entry {
        dns_names: large(Entry::BYTES_MAX / 2),
        federates_with: large(Entry::BYTES_MAX / 2),
        ..Entry::default()
    };
    let results = world.update(vec![
        update("1", dns, values.clone()),
        update("1", federates, values),
    ]);
    assert_eq!(results[0].refusal(), Refusal::None);
    assert_eq!(results[1].refusal(), Refusal::EntryTooLarge);
    assert_eq!(world.entry("1").unwrap().revision_number, 1);
}

#[test]
fn an_entry_comes_to_federate_with_known_trust_domains_only() {
    let (mut world, before) = world();
    let federates = EntryFields {
        federates_with: true,
        ..EntryFields::default()
    };
    let values = Entry {
        federates_with: vec!["other.org".into(), "unknown.org".into()],
        ..Entry::default()
    };
    let results = world.update(vec![
        update("1", federates, values.clone()),
        update("none", federates, values.clone()),
        // What is not set is not looked at.
        update("1", EntryFields::default(), values),
    ]);
    assert_eq!(results[0].refusal(), Refusal::NoFederatedBundle);
    assert_eq!(results[0].unknown_bundle, "unknown.org");
    assert_eq!(results[1].refusal(), Refusal::NotFound);
    let expected = Entry {
        revision_number: 1,
        ..before
    };
    assert_eq!(results[2].entry, Some(expected));
}
