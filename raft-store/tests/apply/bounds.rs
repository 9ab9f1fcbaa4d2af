//! What one command leaves behind: the outcome that is remembered is a row, and a row has
//! to fit a snapshot.

use chancery_raft_store::command::{
    AppendBundle, AttestAgent, CreateEntries, DeleteEntries, EntryFields, EntryResult, EntryUpdate,
    PruneAgents, PruneBundle, PruneEntries, UpdateEntries,
};
use chancery_raft_store::model::{AuthorityKind, BundleAuthority, Entry, Selector};
use chancery_raft_store::snapshot::ROW_BYTES_MAX;
use chancery_raft_store::view::Table;
use chancery_raft_store::{Command, Outcome, Proposal, Refusal, RequestId};

use super::{START_MS, World, attestation};
use crate::support::entry;

/// Items of the largest batch that a service or housekeeping proposes.
const ITEMS: usize = 256;
const NOW: i64 = START_MS / 1000;

fn id(n: usize) -> String {
    format!("{n:03}")
}

/// An entry near the largest that there may be.
fn large(n: usize) -> Entry {
    let small = entry(&id(n), "/p", &format!("/{n}"), &["a"]);
    Entry {
        dns_names: vec!["x".repeat(Entry::BYTES_MAX - 1024)],
        expires_at: NOW - 1,
        ..small
    }
}

fn world_of_large_entries() -> World {
    let mut world = World::new();
    for n in 0..ITEMS {
        assert_eq!(world.create(vec![large(n)])[0].refusal(), Refusal::None);
    }
    world
}

impl World {
    /// Runs a command that is remembered; the outcome, and the largest row of the memory.
    fn remembered(&mut self, command: Command) -> (Outcome, usize) {
        let request = RequestId {
            node: 1,
            boot: 1,
            sequence: self.index,
        };
        let proposal = Proposal {
            time_ms: self.time_ms,
            ..Proposal::new(Some(request), command)
        };
        let outcome = self.propose(&proposal).accepted().unwrap();
        let again = self.propose(&proposal);
        assert_eq!(again, outcome, "a retry is told the same");
        let rows = self.rows.iter();
        let memory = rows.filter(|(key, _)| key[0] == Table::Requests as u8);
        let row = memory.map(|(key, value)| key.len() + value.len()).max();
        (outcome, row.unwrap())
    }
}

fn ids() -> Vec<String> {
    (0..ITEMS).map(id).collect()
}

#[test]
fn the_outcome_of_the_largest_batch_of_entries_fits_a_snapshot() {
    let mut world = world_of_large_entries();
    let similar = |n| entry(&format!("other-{n}"), "/p", &format!("/{n}"), &["a"]);
    let fields = EntryFields {
        hint: true,
        ..EntryFields::default()
    };
    let update = |id: String| EntryUpdate {
        id,
        values: Some(Entry::default()),
        fields: Some(fields),
    };
    let batches = [
        Command::CreateEntries(CreateEntries {
            entries: (0..ITEMS).map(similar).collect(),
        }),
        Command::UpdateEntries(UpdateEntries {
            updates: ids().into_iter().map(update).collect(),
        }),
        Command::DeleteEntries(DeleteEntries { ids: ids() }),
    ];
    for command in batches {
        let name = command.name();
        let (outcome, row) = world.remembered(command);
        assert_eq!(outcome.entries.len(), ITEMS, "{name}");
        assert!(row < ROW_BYTES_MAX, "{name}: {row} bytes");
        // Those that were left out are named.
        let named = |r: &EntryResult| r.entry.as_ref().map(|e| e.id.clone());
        let named = |r: &EntryResult| named(r).unwrap_or_else(|| r.entry_id.clone());
        assert_eq!(outcome.entries.iter().map(named).collect::<Vec<_>>(), ids());
    }
    let mut world = world_of_large_entries();
    let (outcome, row) = world.remembered(Command::PruneEntries(PruneEntries { ids: ids() }));
    assert_eq!(outcome.removed as usize, ITEMS);
    assert!(row < ROW_BYTES_MAX, "prune_entries: {row} bytes");
}

#[test]
fn the_outcome_of_the_largest_pruning_of_agents_fits_a_snapshot() {
    let mut world = World::new();
    let path = |n| format!("/spire/agent/join_token/{n}");
    let mut aliases = Vec::new();
    for n in 0..ITEMS {
        world.ok(Command::AttestAgent(AttestAgent {
            attestation_type: "join_token".into(),
            expires_at: NOW - 1000,
            ..attestation(&path(n), "1")
        }));
        // An administrator may write more entries of the form of an alias.
        aliases.extend((0..20).map(|name| Entry {
            selectors: vec![Selector {
                kind: "spiffe_id".into(),
                value: format!("spiffe://example.org{}", path(n)),
            }],
            ..entry(
                &format!("{n}-{name}"),
                &path(n),
                &format!("/{}{name}", "x".repeat(1900)),
                &[],
            )
        }));
    }
    world.create(aliases);
    let (outcome, row) = world.remembered(Command::PruneAgents(PruneAgents {
        paths: (0..ITEMS).map(path).collect(),
        expired_for: 100,
        include_non_reattestable: true,
    }));
    assert_eq!(outcome.removed as usize, ITEMS);
    assert_eq!(world.of(Table::Entries), 0);
    assert!(row < 2 << 20, "{row} bytes");
}

#[test]
fn the_outcome_of_the_largest_pruning_of_the_bundle_fits_a_snapshot() {
    let mut world = World::new();
    let key = |n: usize| BundleAuthority {
        kind: AuthorityKind::Jwt.into(),
        id: format!("{n:0255}"),
        der: vec![1; 1000],
        expires_at: i64::from(n != 0),
        ..BundleAuthority::default()
    };
    let authorities = (0..BundleAuthority::COUNT_MAX).map(key).collect();
    world.ok(Command::AppendBundle(AppendBundle { authorities }));
    let command = Command::PruneBundle(PruneBundle {
        expires_before: i64::MAX,
    });
    let (outcome, row) = world.remembered(command);
    assert_eq!(outcome.pruned.len(), BundleAuthority::COUNT_MAX - 1);
    assert!(row < ROW_BYTES_MAX, "{row} bytes");
}
