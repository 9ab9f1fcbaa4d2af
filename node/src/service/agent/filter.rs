//! Which agents a list or a count is about, and how much of each is told.

use std::collections::BTreeSet;

use chancery_api::spire::api::server::agent::v1::{count_agents_request, list_agents_request};
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::model::{Agent, Selector};
use tonic::Status;

use crate::service::moment;
use crate::service::wire::{self, SetFilter};

/// A checked filter; the default one lets everything pass.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Filter {
    attestation_type: Option<String>,
    selectors: Option<SetFilter<Selector>>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    /// Unix seconds.
    expires_before: Option<i64>,
}

impl Filter {
    /// Reads the filter of a list; `what` begins the message of a refusal.
    pub(super) fn parse(what: &str, message: list_agents_request::Filter) -> Result<Self, Status> {
        let selectors = message.by_selector_match.map(|by| {
            let selectors = wire::selectors(&by.selectors)
                .map_err(|e| Status::invalid_argument(format!("failed to parse selectors: {e}")))?;
            if selectors.is_empty() {
                return Err(Status::invalid_argument(format!(
                    "{what}: cannot list by empty selectors set"
                )));
            }
            SetFilter::new(what, by.r#match, BTreeSet::from_iter(selectors))
        });
        Ok(Self {
            attestation_type: Some(message.by_attestation_type).filter(|kind| !kind.is_empty()),
            selectors: selectors.transpose()?,
            banned: message.by_banned,
            can_reattest: message.by_can_reattest,
            // As SPIRE: a moment that cannot be read is no filter.
            expires_before: moment::parse(&message.by_expires_before),
        })
    }

    /// Whether the agent passes.
    pub(super) fn matches(&self, agent: &Agent) -> bool {
        self.attestation_type
            .as_ref()
            .is_none_or(|kind| *kind == agent.attestation_type)
            && self.banned.is_none_or(|banned| banned == agent.is_banned())
            && self
                .can_reattest
                .is_none_or(|can| can == agent.can_reattest)
            && self
                .expires_before
                .is_none_or(|before| agent.expires_at < before)
            && self
                .selectors
                .as_ref()
                .is_none_or(|filter| filter.matches(&agent.selectors))
    }
}

/// The filter of a count as that of a list: their fields are the same.
pub(super) fn of_count(filter: count_agents_request::Filter) -> list_agents_request::Filter {
    list_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    }
}

/// The agent as it is told. The id is always there; no mask is everything.
pub(super) fn message(
    trust_domain: &TrustDomain,
    agent: &Agent,
    mask: Option<&types::AgentMask>,
) -> types::Agent {
    let shown = |field: fn(&types::AgentMask) -> bool| mask.is_none_or(field);
    let mut told = types::Agent {
        id: Some(wire::id_message(trust_domain, &agent.path)),
        ..types::Agent::default()
    };
    if shown(|m| m.attestation_type) {
        told.attestation_type.clone_from(&agent.attestation_type);
    }
    if shown(|m| m.x509svid_serial_number) {
        told.x509svid_serial_number.clone_from(&agent.serial);
    }
    if shown(|m| m.x509svid_expires_at) {
        told.x509svid_expires_at = agent.expires_at;
    }
    if shown(|m| m.selectors) {
        told.selectors = wire::selector_messages(&agent.selectors);
    }
    if shown(|m| m.banned) {
        told.banned = agent.is_banned();
    }
    if shown(|m| m.can_reattest) {
        told.can_reattest = agent.can_reattest;
    }
    if shown(|m| m.agent_version) {
        told.agent_version.clone_from(&agent.agent_version);
    }
    told
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn agent() -> Agent {
        Agent {
            path: "/spire/agent/x/1".into(),
            sequence: 9,
            attestation_type: "x".into(),
            selectors: vec![
                Selector {
                    kind: "a".into(),
                    value: "1".into(),
                },
                Selector {
                    kind: "b".into(),
                    value: "2".into(),
                },
            ],
            serial: "77".into(),
            expires_at: 1000,
            pending: vec![],
            can_reattest: true,
            agent_version: "1.2.3".into(),
        }
    }

    fn filter(change: impl FnOnce(&mut list_agents_request::Filter)) -> Filter {
        let mut message = list_agents_request::Filter::default();
        change(&mut message);
        Filter::parse("failed to list agents", message).unwrap()
    }

    fn by_selectors(rule: i32, selectors: &[(&str, &str)]) -> types::SelectorMatch {
        let one = |(kind, value): &(&str, &str)| types::Selector {
            r#type: (*kind).into(),
            value: (*value).into(),
        };
        types::SelectorMatch {
            selectors: selectors.iter().map(one).collect(),
            r#match: rule,
        }
    }

    #[test]
    fn each_filter_tells_apart() {
        let banned = Agent {
            serial: String::new(),
            ..agent()
        };
        assert!(filter(|_| ()).matches(&agent()) && filter(|_| ()).matches(&banned));
        assert!(filter(|f| f.by_attestation_type = "x".into()).matches(&agent()));
        assert!(!filter(|f| f.by_attestation_type = "y".into()).matches(&agent()));
        assert!(filter(|f| f.by_banned = Some(true)).matches(&banned));
        assert!(!filter(|f| f.by_banned = Some(true)).matches(&agent()));
        assert!(filter(|f| f.by_banned = Some(false)).matches(&agent()));
        assert!(filter(|f| f.by_can_reattest = Some(true)).matches(&agent()));
        assert!(!filter(|f| f.by_can_reattest = Some(false)).matches(&agent()));
        let superset = |s| filter(|f| f.by_selector_match = Some(by_selectors(2, &[s])));
        assert!(superset(("a", "1")).matches(&agent()));
        assert!(!superset(("a", "2")).matches(&agent()));
    }

    #[test]
    fn expiry_before_is_strict_and_nonsense_is_no_filter() {
        let before = |text: &str| filter(|f| f.by_expires_before = text.into());
        assert!(before("1970-01-01 00:16:41 +0000 +00").matches(&agent()));
        assert!(!before("1970-01-01 00:16:40 +0000 +00").matches(&agent()));
        assert!(before("yesterday").matches(&agent()));
    }

    #[test]
    fn filters_are_combined_with_and() {
        let both = filter(|f| {
            f.by_attestation_type = "x".into();
            f.by_can_reattest = Some(false);
        });
        assert!(!both.matches(&agent()));
    }

    #[test]
    fn an_empty_set_and_a_bad_selector_are_refused() {
        let refused = |by| {
            let message = list_agents_request::Filter {
                by_selector_match: Some(by),
                ..Default::default()
            };
            Filter::parse("failed to list agents", message)
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert_eq!(
            refused(by_selectors(0, &[])),
            "failed to list agents: cannot list by empty selectors set"
        );
        assert_eq!(
            refused(by_selectors(0, &[("a:b", "c")])),
            "failed to parse selectors: selector type contains ':'"
        );
    }

    #[test]
    fn the_mask_hides_everything_but_the_id() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let full = message(&domain, &agent(), None);
        assert_eq!(full.x509svid_serial_number, "77");
        assert_eq!(full.selectors.len(), 2);
        let none = message(&domain, &agent(), Some(&types::AgentMask::default()));
        assert_eq!(
            none,
            types::Agent {
                id: full.id.clone(),
                ..Default::default()
            }
        );
        type Field = (
            fn(&mut types::AgentMask),
            fn(&mut types::Agent, &types::Agent),
        );
        let fields: [Field; 6] = [
            (
                |m| m.attestation_type = true,
                |a, f| a.attestation_type.clone_from(&f.attestation_type),
            ),
            (
                |m| m.x509svid_serial_number = true,
                |a, f| {
                    a.x509svid_serial_number
                        .clone_from(&f.x509svid_serial_number)
                },
            ),
            (
                |m| m.x509svid_expires_at = true,
                |a, f| a.x509svid_expires_at = f.x509svid_expires_at,
            ),
            (
                |m| m.selectors = true,
                |a, f| a.selectors.clone_from(&f.selectors),
            ),
            (
                |m| m.can_reattest = true,
                |a, f| a.can_reattest = f.can_reattest,
            ),
            (
                |m| m.agent_version = true,
                |a, f| a.agent_version.clone_from(&f.agent_version),
            ),
        ];
        for (show, expect) in fields {
            let mut mask = types::AgentMask::default();
            show(&mut mask);
            let mut expected = none.clone();
            expect(&mut expected, &full);
            assert_ne!(expected, none);
            assert_eq!(message(&domain, &agent(), Some(&mask)), expected);
        }
        let banned = Agent {
            serial: String::new(),
            ..agent()
        };
        let mask = types::AgentMask {
            banned: true,
            ..Default::default()
        };
        assert!(message(&domain, &banned, Some(&mask)).banned);
    }
}
