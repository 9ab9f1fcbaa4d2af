//! Between the wire's messages and what the registry stores: SPIFFE IDs, selectors,
//! and the rule by which two sets match.

use std::collections::BTreeSet;

use chancery_api::spire::api::types;
use chancery_identity::csr::CsrError;
use chancery_identity::id::{IdError, SpiffeId, TrustDomain};
use chancery_identity::selector::{self, SelectorError};
use chancery_raft_store::model::Selector;
use tonic::Status;

/// Why a message does not name the kind of SPIFFE ID that was asked for. The text
/// is SPIRE's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireIdError {
    /// There is no message.
    #[error("request must specify SPIFFE ID")]
    Missing,
    /// It does not name an ID, or one of another kind.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Reads any SPIFFE ID.
pub(super) fn spiffe_id(id: Option<&types::Spiffeid>) -> Result<SpiffeId, WireIdError> {
    let id = id.ok_or(WireIdError::Missing)?;
    let trust_domain = TrustDomain::parse_name_or_id(&id.trust_domain)?;
    Ok(SpiffeId::new(&trust_domain, &id.path)?)
}

/// Reads an ID with a path in `trust_domain`.
pub(super) fn member_id(
    trust_domain: &TrustDomain,
    id: Option<&types::Spiffeid>,
) -> Result<SpiffeId, WireIdError> {
    let id = spiffe_id(id)?;
    id.require_member(trust_domain)?;
    Ok(id)
}

/// Reads an ID that a workload of `trust_domain` may have.
pub(super) fn workload_id(
    trust_domain: &TrustDomain,
    id: Option<&types::Spiffeid>,
) -> Result<SpiffeId, WireIdError> {
    let id = spiffe_id(id)?;
    id.require_workload(trust_domain)?;
    Ok(id)
}

/// Reads an ID that an agent of `trust_domain` may have.
pub(super) fn agent_id(
    trust_domain: &TrustDomain,
    id: Option<&types::Spiffeid>,
) -> Result<SpiffeId, WireIdError> {
    let id = spiffe_id(id)?;
    id.require_agent(trust_domain)?;
    Ok(id)
}

/// The message that names `path` in `trust_domain`.
pub(super) fn id_message(trust_domain: &TrustDomain, path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: trust_domain.to_string(),
        path: path.to_owned(),
    }
}

/// Reads selectors, in their order.
pub(super) fn selectors(messages: &[types::Selector]) -> Result<Vec<Selector>, SelectorError> {
    let one = |message: &types::Selector| {
        let valid = selector::Selector::new(message.r#type.clone(), message.value.clone())?;
        Ok(Selector {
            kind: valid.kind().to_owned(),
            value: valid.value().to_owned(),
        })
    };
    messages.iter().map(one).collect()
}

/// The messages for selectors.
pub(super) fn selector_messages(selectors: &[Selector]) -> Vec<types::Selector> {
    let one = |s: &Selector| types::Selector {
        r#type: s.kind.clone(),
        value: s.value.clone(),
    };
    selectors.iter().map(one).collect()
}

/// What is wrong with a CSR, without the prefix that differs by method.
pub(super) fn csr_detail(error: CsrError) -> String {
    let text = error.to_string();
    let known = ["malformed CSR: ", "invalid CSR signature: "];
    let detail = known.iter().find_map(|prefix| text.strip_prefix(prefix));
    detail.unwrap_or(&text).to_owned()
}

/// How a filter's set (F) relates to a record's (R).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// R is F.
    Exact,
    /// R has something, and nothing that is not in F.
    Subset,
    /// R has everything of F.
    Superset,
    /// R has something of F.
    Any,
}

/// A filter by a set. Never empty: that would be a mistake of the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetFilter<T> {
    rule: Rule,
    set: BTreeSet<T>,
}

impl<T: Ord> SetFilter<T> {
    /// A filter by `set`, by the wire's number of the rule; `what` begins the message
    /// of a refusal. Selectors and trust domains number their rules alike.
    pub(super) fn new(what: &str, rule: i32, set: BTreeSet<T>) -> Result<Self, Status> {
        use types::selector_match::MatchBehavior;
        let rule = match MatchBehavior::try_from(rule) {
            Ok(MatchBehavior::MatchExact) => Rule::Exact,
            Ok(MatchBehavior::MatchSubset) => Rule::Subset,
            Ok(MatchBehavior::MatchSuperset) => Rule::Superset,
            Ok(MatchBehavior::MatchAny) => Rule::Any,
            Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "{what}: unhandled match behavior {rule}"
                )));
            }
        };
        Ok(Self { rule, set })
    }

    /// Whether a record with this set passes.
    pub(super) fn matches(&self, record: &[T]) -> bool {
        let in_filter = |item: &T| self.set.contains(item);
        let in_record = || {
            let record: BTreeSet<&T> = record.iter().collect();
            self.set.iter().all(|item| record.contains(item))
        };
        match self.rule {
            Rule::Exact => record.iter().all(in_filter) && in_record(),
            Rule::Subset => !record.is_empty() && record.iter().all(in_filter),
            Rule::Superset => in_record(),
            Rule::Any => record.iter().any(in_filter),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_identity::key::KeyError;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn message(trust_domain: &str, path: &str) -> types::Spiffeid {
        types::Spiffeid {
            trust_domain: trust_domain.into(),
            path: path.into(),
        }
    }

    #[test]
    fn ids_are_refused_in_the_words_of_spire() {
        let text = |id: Option<&types::Spiffeid>| agent_id(&domain(), id).unwrap_err().to_string();
        assert_eq!(text(None), "request must specify SPIFFE ID");
        assert_eq!(
            text(Some(&message("other.org", "/spire/agent/a"))),
            "\"spiffe://other.org/spire/agent/a\" is not a member of trust domain \"example.org\""
        );
        assert_eq!(
            text(Some(&message("example.org", "/a"))),
            "\"spiffe://example.org/a\" is not an agent in trust domain \"example.org\"; \
             path is not in the agent namespace"
        );
        assert_eq!(
            workload_id(&domain(), Some(&message("example.org", "")))
                .unwrap_err()
                .to_string(),
            "\"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty"
        );
        assert_eq!(text(Some(&message("", "/a"))), "trust domain is missing");
        assert_eq!(
            text(Some(&message("example.org", "a"))),
            "path must have a leading slash"
        );
    }

    #[test]
    fn kinds_of_ids_are_told_apart() {
        let at = |path: &str| Some(message("example.org", path));
        assert!(member_id(&domain(), at("/spire/server").as_ref()).is_ok());
        assert!(workload_id(&domain(), at("/spire/server").as_ref()).is_err());
        assert!(workload_id(&domain(), at("/web").as_ref()).is_ok());
        let agent = agent_id(&domain(), at("/spire/agent/x/1").as_ref()).unwrap();
        assert_eq!(
            id_message(&domain(), agent.path()),
            at("/spire/agent/x/1").unwrap()
        );
    }

    #[test]
    fn selectors_keep_their_order() {
        let messages: Vec<_> = [("unix", "uid:1"), ("k8s", "ns:a")]
            .map(|(kind, value)| types::Selector {
                r#type: kind.into(),
                value: value.into(),
            })
            .into();
        let read = selectors(&messages).unwrap();
        assert_eq!(
            read[0],
            Selector {
                kind: "unix".into(),
                value: "uid:1".into()
            }
        );
        assert_eq!(selector_messages(&read), messages);
        assert_eq!(
            selectors(&[types::Selector::default()])
                .unwrap_err()
                .to_string(),
            "missing selector type"
        );
    }

    #[test]
    fn a_csr_is_described_without_the_prefix() {
        let error = CsrError::Signature(KeyError::BadSignature);
        assert_eq!(csr_detail(error), "signature does not verify");
        assert_eq!(
            csr_detail(CsrError::Key(KeyError::UnsupportedKey)),
            "unsupported public key algorithm"
        );
    }

    #[test]
    fn every_rule_matches_as_it_says() {
        let all = ["", "a", "b", "ab", "abc", "c", "ac"];
        let table = [
            (0, vec!["ab"]),
            (1, vec!["a", "b", "ab"]),
            (2, vec!["ab", "abc"]),
            (3, vec!["a", "b", "ab", "abc", "ac"]),
        ];
        for (rule, expected) in table {
            let filter = SetFilter::new("x", rule, BTreeSet::from(['a', 'b'])).unwrap();
            let found: Vec<_> = all
                .into_iter()
                .filter(|r| filter.matches(&r.chars().collect::<Vec<_>>()))
                .collect();
            assert_eq!(found, expected, "rule {rule}");
        }
    }

    #[test]
    fn repetition_and_order_do_not_matter_to_a_match() {
        let filter = SetFilter::new("x", 0, BTreeSet::from([1, 2])).unwrap();
        assert!(filter.matches(&[2, 1, 2]));
        assert!(!filter.matches(&[2, 2]));
    }

    #[test]
    fn an_unknown_rule_is_the_callers_mistake() {
        let status =
            SetFilter::new("malformed selectors filter", 4, BTreeSet::from([1])).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "malformed selectors filter: unhandled match behavior 4"
        );
    }
}
