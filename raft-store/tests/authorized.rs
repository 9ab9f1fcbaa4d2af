//! Which entries an agent is authorized for: the indexed answer against the rule
//! as it is written down.

use std::collections::{BTreeMap, BTreeSet};

use chancery_raft_store::Directory;
use chancery_raft_store::model::{Agent, Entry};
use chancery_raft_store::view::Table;
use proptest::prelude::*;
use prost::Message;

use crate::support::{entry, selector};

const SERVER: &str = "/spire/server";
const AGENT: &str = "/spire/agent/a";

fn directory(entries: &[Entry], agent: Option<&[String]>) -> Directory {
    let mut directory = Directory::default();
    for (sequence, entry) in (1..).zip(entries) {
        let row = Table::Entries.key(entry.id.as_bytes());
        let entry = Entry {
            sequence,
            ..entry.clone()
        };
        directory
            .absorb_row(&row, Some(&entry.encode_to_vec()))
            .unwrap();
    }
    if let Some(selectors) = agent {
        let selectors = selectors.iter().map(|s| selector(s)).collect();
        let agent = Agent {
            path: AGENT.into(),
            sequence: 1,
            serial: "1".into(),
            selectors,
            ..Agent::default()
        };
        directory
            .absorb_row(
                &Table::Agents.key(AGENT.as_bytes()),
                Some(&agent.encode_to_vec()),
            )
            .unwrap();
    }
    directory
}

/// The rule without an index: roots are the agent's own path and the name of every
/// alias that applies; what has a root or a descendant of one as its parent counts.
fn by_the_rule(entries: &[Entry], selectors: &[String]) -> BTreeSet<String> {
    let held: BTreeSet<_> = selectors.iter().map(|s| selector(s)).collect();
    let aliases = entries.iter().filter(|e| e.parent_path == SERVER);
    let applying =
        aliases.filter(|e| !e.selectors.is_empty() && e.selectors.iter().all(|s| held.contains(s)));
    let mut parents: BTreeSet<&str> = applying.map(|e| e.spiffe_path.as_str()).collect();
    parents.insert(AGENT);
    let mut found = BTreeSet::new();
    loop {
        let size = found.len();
        for entry in entries.iter().filter(|e| e.parent_path != SERVER) {
            if parents.contains(entry.parent_path.as_str()) {
                found.insert(entry.id.clone());
                parents.insert(&entry.spiffe_path);
            }
        }
        if found.len() == size {
            return found;
        }
    }
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &[
            AGENT,
            "/spire/agent/b",
            SERVER,
            "/g",
            "/h",
            "/u",
            "/v",
            "/w",
        ][..],
    )
}

fn some_selectors(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set("[abcd]", 0..=most).prop_map(|set| set.into_iter().collect())
}

fn graph() -> impl Strategy<Value = Vec<Entry>> {
    let parent = prop_oneof![2 => path(), 1 => Just(SERVER)];
    let one = (parent, path(), some_selectors(3));
    prop::collection::vec(one, 0..14).prop_map(|list| {
        let numbered = (1..).zip(list);
        numbered
            .map(|(sequence, (parent, name, selectors))| {
                let selectors: Vec<&str> = selectors.iter().map(String::as_str).collect();
                Entry {
                    sequence,
                    ..entry(&format!("e{sequence}"), parent, name, &selectors)
                }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_agents_entries_are_those_of_the_rule(
        entries in graph(),
        agent in prop::option::of(some_selectors(4)),
        removed in prop::collection::btree_set(0usize..14, 0..4),
    ) {
        let mut directory = directory(&entries, agent.as_deref());
        // Removal must undo what insertion indexed.
        let mut left = Vec::new();
        for (place, entry) in entries.into_iter().enumerate() {
            if removed.contains(&place) {
                directory.absorb_row(&Table::Entries.key(entry.id.as_bytes()), None).unwrap();
            } else {
                left.push(entry);
            }
        }
        let expected = by_the_rule(&left, agent.as_deref().unwrap_or_default());
        let found: BTreeSet<String> = directory.authorized_entries(AGENT).into_keys().collect();
        prop_assert_eq!(&found, &expected);
        for entry in &left {
            let single = directory.authorized_entry(AGENT, &entry.id);
            prop_assert_eq!(single.is_some(), expected.contains(&entry.id), "{}", &entry.id);
        }
        prop_assert!(directory.authorized_entry(AGENT, "none").is_none());
    }
}

fn authorized(entries: &[Entry], selectors: &[&str]) -> Vec<String> {
    let selectors: Vec<String> = selectors.iter().map(|s| (*s).into()).collect();
    let directory = directory(entries, Some(&selectors));
    let found: BTreeMap<_, _> = directory.authorized_entries(AGENT);
    for entry in entries {
        assert_eq!(
            directory.authorized_entry(AGENT, &entry.id).is_some(),
            found.contains_key(&entry.id)
        );
    }
    found.into_keys().collect()
}

#[test]
fn an_alias_gives_its_descendants_and_never_itself() {
    let entries = [
        entry("alias", SERVER, "/group", &["a", "b"]),
        entry("child", "/group", "/w", &["x"]),
        entry("grandchild", "/w", "/v", &["x"]),
        entry("stranger", "/other", "/v", &["x"]),
    ];
    assert_eq!(
        authorized(&entries, &["a", "b", "c"]),
        ["child", "grandchild"]
    );
    assert_eq!(
        authorized(&entries, &["a"]),
        [""; 0],
        "every selector of the alias is needed"
    );
}

#[test]
fn a_name_shared_by_an_alias_and_an_entry_is_reached_by_either() {
    let entries = [
        entry("alias", SERVER, "/group", &["a"]),
        entry("member", AGENT, "/group", &["x"]),
        entry("child", "/group", "/w", &["x"]),
    ];
    assert_eq!(authorized(&entries, &["a"]), ["child", "member"]);
    assert_eq!(
        authorized(&entries, &["z"]),
        ["child", "member"],
        "the entry continues upward"
    );
    assert_eq!(authorized(&entries[..1], &["a"]), [""; 0]);
}

#[test]
fn a_circle_of_parents_ends() {
    let entries = [
        entry("1", "/u", "/v", &["x"]),
        entry("2", "/v", "/u", &["x"]),
        entry("3", "/w", "/w", &["x"]),
    ];
    assert_eq!(authorized(&entries, &["a"]), [""; 0]);
    let entries = [entries.as_slice(), &[entry("4", AGENT, "/v", &["x"])]].concat();
    assert_eq!(authorized(&entries, &["a"]), ["1", "2", "4"]);
}

#[test]
fn an_agent_without_a_record_has_the_entries_below_its_own_name() {
    let entries = [
        entry("1", AGENT, "/w", &["x"]),
        entry("2", SERVER, "/g", &["a"]),
        entry("3", "/g", "/v", &["x"]),
    ];
    let directory = directory(&entries, None);
    assert_eq!(
        directory
            .authorized_entries(AGENT)
            .into_keys()
            .collect::<Vec<_>>(),
        ["1"]
    );
    assert!(directory.authorized_entry(AGENT, "3").is_none());
}
