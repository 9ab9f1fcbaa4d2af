//! Which entries a list or a count is about.

use std::collections::BTreeSet;
use std::sync::Arc;

use chancery_api::spire::api::server::entry::v1::{count_entries_request, list_entries_request};
use chancery_identity::id::TrustDomain;
use chancery_raft_store::Directory;
use chancery_raft_store::model::{Entry, Selector};
use tonic::Status;

use crate::service::wire::{self, SetFilter};

const SELECTORS: &str = "malformed selectors filter";
const FEDERATES_WITH: &str = "malformed federates with filter";

/// A checked filter; the default one lets everything pass.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Filter {
    spiffe_path: Option<String>,
    parent_path: Option<String>,
    selectors: Option<SetFilter<Selector>>,
    federates_with: Option<SetFilter<String>>,
    hint: Option<String>,
    downstream: Option<bool>,
}

impl Filter {
    /// Reads the filter of a list, in SPIRE's order and words.
    pub(super) fn parse(
        trust_domain: &TrustDomain,
        message: list_entries_request::Filter,
    ) -> Result<Self, Status> {
        let parent = message.by_parent_id.map(|id| {
            wire::member_id(trust_domain, Some(&id))
                .map_err(|e| Status::invalid_argument(format!("malformed parent ID filter: {e}")))
        });
        let parent = parent.transpose()?;
        let spiffe_id = message.by_spiffe_id.map(|id| {
            wire::workload_id(trust_domain, Some(&id))
                .map_err(|e| Status::invalid_argument(format!("malformed SPIFFE ID filter: {e}")))
        });
        let spiffe_id = spiffe_id.transpose()?;
        let selectors = message.by_selectors.map(|by| {
            let selectors = wire::selectors(&by.selectors)
                .map_err(|e| Status::invalid_argument(format!("{SELECTORS}: {e}")))?;
            if selectors.is_empty() {
                return Err(Status::invalid_argument(format!(
                    "{SELECTORS}: empty selector set"
                )));
            }
            SetFilter::new(SELECTORS, by.r#match, BTreeSet::from_iter(selectors))
        });
        let selectors = selectors.transpose()?;
        let federates_with = message.by_federates_with.map(|by| {
            let names = by.trust_domains.iter().map(|name| {
                TrustDomain::parse_name_or_id(name)
                    .map(|td| td.to_string())
                    .map_err(|e| Status::invalid_argument(format!("{FEDERATES_WITH}: {e}")))
            });
            let names = names.collect::<Result<BTreeSet<_>, _>>()?;
            if names.is_empty() {
                return Err(Status::invalid_argument(format!(
                    "{FEDERATES_WITH}: empty trust domain set"
                )));
            }
            SetFilter::new(FEDERATES_WITH, by.r#match, names)
        });
        Ok(Self {
            spiffe_path: spiffe_id.map(|id| id.path().to_owned()),
            parent_path: parent.map(|id| id.path().to_owned()),
            selectors,
            federates_with: federates_with.transpose()?,
            // As SPIRE: an empty hint is no filter.
            hint: message.by_hint.filter(|hint| !hint.is_empty()),
            // As SPIRE: false, which its command line always sends, is no filter.
            downstream: message.by_downstream.filter(|downstream| *downstream),
        })
    }

    /// Whether the entry passes.
    pub(super) fn matches(&self, entry: &Entry) -> bool {
        self.spiffe_path
            .as_ref()
            .is_none_or(|path| *path == entry.spiffe_path)
            && self
                .parent_path
                .as_ref()
                .is_none_or(|path| *path == entry.parent_path)
            && self.hint.as_ref().is_none_or(|hint| *hint == entry.hint)
            && self
                .downstream
                .is_none_or(|downstream| downstream == entry.downstream)
            && self
                .selectors
                .as_ref()
                .is_none_or(|f| f.matches(&entry.selectors))
            && self
                .federates_with
                .as_ref()
                .is_none_or(|f| f.matches(&entry.federates_with))
    }

    /// Entries after a sequence in their order, as many as asked for, with none left out
    /// that may pass. Each call costs what it gives: a path that the filter names is
    /// looked up, whatever else it names is not.
    pub(super) fn candidates(
        &self,
        directory: &Directory,
        after: u64,
        limit: usize,
    ) -> Vec<Arc<Entry>> {
        if let Some(path) = &self.spiffe_path {
            let named = directory.entries_named_after(path, after);
            named.take(limit).cloned().collect()
        } else if let Some(path) = &self.parent_path {
            let children = directory.entries_of_parent_after(path, after);
            children.take(limit).cloned().collect()
        } else {
            directory
                .entries_after(after)
                .take(limit)
                .cloned()
                .collect()
        }
    }
}

/// The filter of a count as that of a list: their fields are the same.
pub(super) fn of_count(filter: count_entries_request::Filter) -> list_entries_request::Filter {
    list_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_api::spire::api::types;
    use chancery_raft_store::view::Table;
    use prost::Message;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn id(path: &str) -> Option<types::Spiffeid> {
        Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        })
    }

    fn entry() -> Entry {
        Entry {
            id: "e".into(),
            spiffe_path: "/web".into(),
            parent_path: "/host".into(),
            selectors: vec![Selector {
                kind: "a".into(),
                value: "1".into(),
            }],
            federates_with: vec!["one.org".into(), "two.org".into()],
            hint: "h".into(),
            downstream: true,
            ..Entry::default()
        }
    }

    fn parse(change: impl FnOnce(&mut list_entries_request::Filter)) -> Result<Filter, Status> {
        let mut message = list_entries_request::Filter::default();
        change(&mut message);
        Filter::parse(&domain(), message)
    }

    fn passes(change: impl FnOnce(&mut list_entries_request::Filter)) -> bool {
        parse(change).unwrap().matches(&entry())
    }

    fn selectors(rule: i32, values: &[&str]) -> Option<types::SelectorMatch> {
        let one = |v: &&str| types::Selector {
            r#type: "a".into(),
            value: (*v).into(),
        };
        Some(types::SelectorMatch {
            selectors: values.iter().map(one).collect(),
            r#match: rule,
        })
    }

    fn domains(rule: i32, names: &[&str]) -> Option<types::FederatesWithMatch> {
        let trust_domains = names.iter().map(|n| (*n).to_owned()).collect();
        Some(types::FederatesWithMatch {
            trust_domains,
            r#match: rule,
        })
    }

    #[test]
    fn each_filter_tells_apart() {
        assert!(passes(|_| ()));
        assert!(passes(|f| f.by_spiffe_id = id("/web")));
        assert!(!passes(|f| f.by_spiffe_id = id("/web/x")));
        assert!(passes(|f| f.by_parent_id = id("/host")));
        assert!(!passes(|f| f.by_parent_id = id("/spire/server")));
        assert!(passes(|f| f.by_hint = Some("h".into())));
        assert!(!passes(|f| f.by_hint = Some("x".into())));
        assert!(passes(|f| f.by_downstream = Some(true)));
        assert!(passes(|f| f.by_downstream = Some(false)));
        assert!(passes(|f| f.by_selectors = selectors(0, &["1"])));
        assert!(!passes(|f| f.by_selectors = selectors(0, &["1", "2"])));
        assert!(passes(|f| f.by_selectors = selectors(1, &["1", "2"])));
        assert!(passes(|f| f.by_federates_with = domains(2, &["two.org"])));
        assert!(passes(
            |f| f.by_federates_with = domains(0, &["spiffe://two.org", "one.org"])
        ));
        assert!(!passes(|f| f.by_federates_with = domains(0, &["two.org"])));
    }

    #[test]
    fn candidates_come_in_insertion_order_with_and_without_an_index() {
        let mut directory = Directory::default();
        // Ids in another order than sequences.
        for (id, sequence, path, parent) in [
            ("c", 1, "/a", "/p"),
            ("b", 2, "/b", "/p"),
            ("a", 3, "/a", "/q"),
            ("d", 4, "/a", "/spire/server"),
        ] {
            let entry = Entry {
                id: id.into(),
                sequence,
                spiffe_path: path.into(),
                parent_path: parent.into(),
                ..Entry::default()
            };
            let key = Table::Entries.key(id.as_bytes());
            directory
                .absorb_row(&key, Some(&entry.encode_to_vec()))
                .unwrap();
        }
        type Change = fn(&mut list_entries_request::Filter);
        let ids = |change: Change, after, limit| {
            let found = parse(change).unwrap().candidates(&directory, after, limit);
            found.iter().map(|e| e.id.clone()).collect::<Vec<_>>()
        };
        let all: Change = |_| ();
        assert_eq!(ids(all, 0, 10), ["c", "b", "a", "d"]);
        assert_eq!(ids(all, 1, 2), ["b", "a"]);
        let named: Change = |f| f.by_spiffe_id = id("/a");
        assert_eq!(ids(named, 0, 10), ["c", "a", "d"]);
        assert_eq!(ids(named, 1, 1), ["a"]);
        assert_eq!(ids(named, 4, 10), [""; 0]);
        let children: Change = |f| f.by_parent_id = id("/p");
        assert_eq!(ids(children, 0, 10), ["c", "b"]);
        assert_eq!(ids(children, 1, 10), ["b"]);
        let aliases: Change = |f| f.by_parent_id = id("/spire/server");
        assert_eq!(ids(aliases, 0, 10), ["d"]);
        let both: Change = |f| (f.by_spiffe_id, f.by_parent_id) = (id("/b"), id("/q"));
        assert_eq!(
            ids(both, 0, 10),
            ["b"],
            "the filter itself is asked afterwards"
        );
    }

    #[test]
    fn filters_are_combined_with_and() {
        assert!(!passes(|f| {
            f.by_spiffe_id = id("/web");
            f.by_hint = Some("x".into());
        }));
    }

    #[test]
    fn an_empty_hint_is_no_filter() {
        assert!(passes(|f| f.by_hint = Some(String::new())));
    }

    #[test]
    fn filters_are_refused_in_the_words_of_spire() {
        type Change = fn(&mut list_entries_request::Filter);
        let table: [(Change, &str); 7] = [
            (
                |f| f.by_parent_id = id(""),
                "malformed parent ID filter: \"spiffe://example.org\" is not a member of trust \
                 domain \"example.org\"; path is empty",
            ),
            (
                |f| f.by_spiffe_id = id("/spire/server"),
                "malformed SPIFFE ID filter: \"spiffe://example.org/spire/server\" is not a \
                 workload in trust domain \"example.org\"; path is in the reserved namespace",
            ),
            (
                |f| f.by_selectors = selectors(0, &[""]),
                "malformed selectors filter: missing selector value",
            ),
            (
                |f| f.by_selectors = selectors(0, &[]),
                "malformed selectors filter: empty selector set",
            ),
            (
                |f| f.by_federates_with = domains(0, &[""]),
                "malformed federates with filter: trust domain is missing",
            ),
            (
                |f| f.by_federates_with = domains(0, &[]),
                "malformed federates with filter: empty trust domain set",
            ),
            (
                |f| f.by_federates_with = domains(9, &["one.org"]),
                "malformed federates with filter: unhandled match behavior 9",
            ),
        ];
        for (change, text) in table {
            let status = parse(change).unwrap_err();
            assert_eq!(
                (status.code(), status.message()),
                (tonic::Code::InvalidArgument, text)
            );
        }
    }
}
