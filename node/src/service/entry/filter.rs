//! Which entries a list or a count is about.

use std::collections::BTreeSet;

use chancery_api::spire::api::server::entry::v1::{count_entries_request, list_entries_request};
use chancery_identity::id::TrustDomain;
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

    /// The one SPIFFE path that can pass, where there is only one.
    pub(super) fn spiffe_path(&self) -> Option<&str> {
        self.spiffe_path.as_deref()
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
