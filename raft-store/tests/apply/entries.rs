//! Registration entries: similarity, batches, deletion.

use chancery_raft_store::Refusal;
use chancery_raft_store::command::EntryResult;
use chancery_raft_store::model::{Entry, Selector};
use chancery_raft_store::view::Table;

use super::{START_MS, World};
use crate::support::{entry, selector};

#[test]
fn entries_are_similar_by_name_parent_and_selector_set() {
    let mut world = World::new();
    let first = world
        .create(vec![entry("1", "/p", "/w", &["a", "b"])])
        .remove(0);
    assert_eq!(first.refusal(), Refusal::None);
    let stored = first.entry.unwrap();
    assert_eq!(
        (stored.sequence, stored.revision_number, stored.created_at),
        (1, 0, START_MS / 1000)
    );

    let similar = [&["a", "b"][..], &["b", "a"], &["b", "a", "b", "a"]];
    for (place, selectors) in similar.iter().enumerate() {
        let draft = Entry {
            hint: "other".into(),
            ..entry(&format!("s{place}"), "/p", "/w", selectors)
        };
        let result = world.create(vec![draft]).remove(0);
        assert_eq!(result.refusal(), Refusal::AlreadyExists);
        assert_eq!(
            result.entry,
            Some(stored.clone()),
            "the existing entry comes back"
        );
    }
    let different = [
        entry("d1", "/p", "/w", &["a"]),
        entry("d2", "/p", "/w", &["a", "b", "c"]),
        entry("d3", "/q", "/w", &["a", "b"]),
        entry("d4", "/p", "/v", &["a", "b"]),
        // The same bytes cut elsewhere.
        Entry {
            selectors: vec![
                Selector {
                    kind: "unixa".into(),
                    value: String::new(),
                },
                selector("b"),
            ],
            ..entry("d5", "/p", "/w", &[])
        },
    ];
    for draft in different {
        assert_eq!(
            world.create(vec![draft.clone()])[0].refusal(),
            Refusal::None,
            "{}",
            draft.id
        );
    }
}

#[test]
fn entries_of_one_batch_count_for_each_other_and_fail_alone() {
    let mut world = World::new();
    let results = world.create(vec![
        entry("1", "/p", "/w", &["a"]),
        entry("2", "/p", "/w", &["a"]),
        entry("", "/p", "/x", &["a"]),
        entry("4", "/p", "/y", &[]),
        entry("5", "/p", "/z", &["a"]),
    ]);
    let refusals: Vec<_> = results.iter().map(EntryResult::refusal).collect();
    use Refusal::{AlreadyExists, Malformed, None};
    assert_eq!(refusals, [None, AlreadyExists, Malformed, Malformed, None]);
    assert_eq!(results[1].entry.as_ref().unwrap().id, "1");
    assert_eq!(
        world.entry("5").unwrap().sequence,
        2,
        "a refused one uses no sequence number up"
    );
}

#[test]
fn an_id_that_is_taken_is_refused_without_an_entry() {
    let mut world = World::new();
    world.create(vec![entry("1", "/p", "/w", &["a"])]);
    let result = world
        .create(vec![entry("1", "/p", "/other", &["a"])])
        .remove(0);
    assert_eq!(
        (result.refusal(), result.entry),
        (Refusal::AlreadyExists, None)
    );
    assert_eq!(world.entry("1").unwrap().spiffe_path, "/w");
}

#[test]
fn a_deleted_entry_leaves_no_row_behind_and_may_come_again() {
    let mut world = World::new();
    let before = world.rows_but_clock();
    world.create(vec![entry("1", "/p", "/w", &["a"])]);
    world.time_ms += 1000;
    let results = world.delete(&["1", "2"]);
    assert_eq!(results[0].entry.as_ref().unwrap().id, "1");
    assert_eq!(
        (results[1].refusal(), results[1].entry.as_ref()),
        (Refusal::NotFound, None)
    );
    assert_eq!(world.rows_but_clock(), before);
    assert_eq!(
        world.create(vec![entry("1", "/p", "/w", &["a"])])[0].refusal(),
        Refusal::None
    );
    assert_eq!(
        world.entry("1").unwrap().sequence,
        2,
        "sequence numbers are not given out twice"
    );
}

#[test]
fn a_recreated_entry_never_has_the_creation_second_of_the_one_before() {
    let mut world = World::new();
    let mut seen = Vec::new();
    for _ in 0..4 {
        world.create(vec![entry("1", "/p", "/w", &["a"])]);
        seen.push(world.entry("1").unwrap().created_at);
        world.delete(&["1"]);
    }
    let now = START_MS / 1000;
    assert_eq!(
        seen,
        [now, now + 1, now + 2, now + 3],
        "all within one second of the clock"
    );
    assert_eq!(world.of(Table::DeletedEntries), 1);
    world.time_ms += 10_000;
    world.create(vec![entry("1", "/p", "/w", &["a"])]);
    assert_eq!(world.entry("1").unwrap().created_at, now + 10);
    assert_eq!(
        world.of(Table::DeletedEntries),
        0,
        "it is remembered no longer than needed"
    );
}
