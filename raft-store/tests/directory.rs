//! The directory's indexes: whatever rows came and went, each question is answered as
//! by looking at every record.

use std::collections::BTreeMap;
use std::sync::Arc;

use chancery_raft_store::Directory;
use chancery_raft_store::model::{Agent, Entry, JoinToken};
use chancery_raft_store::view::Table;
use proptest::prelude::*;
use prost::Message;

use crate::support::entry;

/// A record set or, without a value, removed.
#[derive(Clone, Debug)]
enum Row {
    Entry(u64, Option<(&'static str, &'static str, i64)>),
    Agent(u64, Option<(i64, bool)>),
    Token(u8, Option<i64>),
}

fn row() -> impl Strategy<Value = Row> {
    let path = || prop::sample::select(&["/spire/server", "/p", "/q"][..]);
    let second = || -2i64..5;
    prop_oneof![
        4 => (1u64..9, prop::option::of((path(), path(), second()))).prop_map(|(n, set)| Row::Entry(n, set)),
        2 => (1u64..5, prop::option::of((second(), any::<bool>()))).prop_map(|(n, set)| Row::Agent(n, set)),
        1 => (1u8..5, prop::option::of(second())).prop_map(|(n, set)| Row::Token(n, set)),
    ]
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    agents: BTreeMap<u64, Agent>,
    tokens: BTreeMap<u8, JoinToken>,
    directory: Directory,
}

impl Model {
    fn take(&mut self, row: Row) {
        let (key, value) = match row {
            Row::Entry(n, set) => {
                let id = format!("e{n}");
                self.entries.remove(&n);
                if let Some((parent, name, expires_at)) = set {
                    let entry = Entry {
                        sequence: n,
                        expires_at,
                        ..entry(&id, parent, name, &["a"])
                    };
                    self.entries.insert(n, entry);
                }
                let value = self.entries.get(&n).map(Message::encode_to_vec);
                (Table::Entries.key(id.as_bytes()), value)
            }
            Row::Agent(n, set) => {
                let path = format!("/spire/agent/x/{n}");
                self.agents.remove(&n);
                if let Some((expires_at, banned)) = set {
                    let agent = Agent {
                        path: path.clone(),
                        sequence: n,
                        serial: if banned { "" } else { "1" }.into(),
                        expires_at,
                        ..Agent::default()
                    };
                    self.agents.insert(n, agent);
                }
                let value = self.agents.get(&n).map(Message::encode_to_vec);
                (Table::Agents.key(path.as_bytes()), value)
            }
            Row::Token(n, set) => {
                self.tokens.remove(&n);
                if let Some(expires_at) = set {
                    let token = JoinToken {
                        sha256: vec![n; 32],
                        expires_at,
                    };
                    self.tokens.insert(n, token);
                }
                let value = self.tokens.get(&n).map(Message::encode_to_vec);
                (Table::JoinTokens.key(&[n; 32]), value)
            }
        };
        self.directory.absorb_row(&key, value.as_deref()).unwrap();
    }

    fn check(&self) {
        let ids = |found: Vec<&Arc<Entry>>| -> Vec<String> {
            found.into_iter().map(|e| e.id.clone()).collect()
        };
        for after in 0..9 {
            let rest = || self.entries.range(after + 1..).map(|(_, e)| e);
            for path in ["/spire/server", "/p", "/q", "/none"] {
                let named = rest().filter(|e| e.spiffe_path == path);
                assert_eq!(
                    ids(self.directory.entries_named_after(path, after).collect()),
                    named.map(|e| e.id.clone()).collect::<Vec<_>>()
                );
                let children = rest().filter(|e| e.parent_path == path);
                assert_eq!(
                    ids(self
                        .directory
                        .entries_of_parent_after(path, after)
                        .collect()),
                    children.map(|e| e.id.clone()).collect::<Vec<_>>()
                );
            }
        }
        for second in -3..6 {
            let mut expired: Vec<_> = self
                .entries
                .values()
                .filter(|e| e.expires_at != 0 && e.expires_at < second)
                .map(|e| (e.expires_at, &e.id))
                .collect();
            expired.sort();
            assert!(
                self.directory
                    .expired_entries(second)
                    .eq(expired.into_iter().map(|(_, id)| id))
            );
            let mut ended: Vec<_> = self
                .agents
                .values()
                .filter(|a| !a.is_banned() && a.expires_at < second)
                .map(|a| (a.expires_at, &a.path))
                .collect();
            ended.sort();
            let found = self.directory.agents_ended_before(second);
            assert!(
                found
                    .map(|a| &a.path)
                    .eq(ended.into_iter().map(|(_, path)| path))
            );
            let mut ended: Vec<_> = self
                .tokens
                .values()
                .filter(|t| t.expires_at < second)
                .map(|t| (t.expires_at, &t.sha256))
                .collect();
            ended.sort();
            assert!(
                self.directory
                    .join_tokens_ended_before(second)
                    .eq(ended.into_iter().map(|(_, sha256)| sha256))
            );
        }
        for n in 1..5u8 {
            assert_eq!(
                self.directory.has_join_token(&[n; 32]),
                self.tokens.contains_key(&n)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_index_follows_its_records(rows in prop::collection::vec(row(), 0..40)) {
        let mut model = Model::default();
        for row in rows {
            model.take(row);
        }
        model.check();
    }
}
