//! Every method by every kind of caller, and the promises one by one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chancery_identity::id::{SpiffeId, TrustDomain};

use super::decide::decide;
use super::table::{TABLE, Target};
use super::*;

const NOW: i64 = 1_800_000_000;
const LIST_ENTRIES: &str = "/spire.api.server.entry.v1.Entry/ListEntries";
const RENEW_AGENT: &str = "/spire.api.server.agent.v1.Agent/RenewAgent";
const NEW_DOWNSTREAM_CA: &str = "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA";
const GET_FEDERATED_BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle";
const GET_BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
const GET_LOGGER: &str = "/spire.api.server.logger.v1.Logger/GetLogger";

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{text}")).unwrap()
}

struct Facts {
    trust_domain: TrustDomain,
    admin_ids: Vec<SpiffeId>,
    entries: BTreeMap<SpiffeId, EntryFlags>,
    agents: BTreeMap<SpiffeId, AgentStanding>,
}

impl Facts {
    fn new() -> Self {
        let known = |current: &str, pending: &[&str]| AgentStanding::Known {
            current_serial: current.into(),
            pending_serials: pending.iter().map(|p| (*p).into()).collect(),
        };
        let admin = EntryFlags {
            admin: true,
            downstream: false,
        };
        let downstream = EntryFlags {
            admin: false,
            downstream: true,
        };
        Self {
            trust_domain: TrustDomain::parse("here.test").unwrap(),
            admin_ids: vec![id("here.test/boss"), id("there.test/boss")],
            entries: [
                (id("here.test/operator"), admin),
                (id("here.test/child"), downstream),
                // Never asked for: an entry is of this trust domain.
                (
                    id("there.test/any"),
                    EntryFlags {
                        admin: true,
                        downstream: true,
                    },
                ),
            ]
            .into(),
            agents: [
                (id("here.test/spire/agent/a"), known("1", &["2", "3"])),
                (id("here.test/spire/agent/b"), known("1", &[])),
                (id("here.test/spire/agent/banned"), AgentStanding::Banned),
                (id("there.test/any"), known("1", &[])),
            ]
            .into(),
        }
    }
}

impl CallerFacts for Facts {
    fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
    fn is_admin_id(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id)
    }
    fn entry_flags(&self, id: &SpiffeId) -> EntryFlags {
        self.entries.get(id).copied().unwrap_or_default()
    }
    fn agent(&self, id: &SpiffeId) -> AgentStanding {
        self.agents
            .get(id)
            .cloned()
            .unwrap_or(AgentStanding::Absent)
    }
}

/// Asks as `spiffe://{who}` with an SVID of `serial` that ends at `not_after`.
fn ask(
    facts: &Facts,
    method: &str,
    who: &str,
    serial: &str,
    not_after: i64,
) -> Result<Admitted, Denial> {
    decide(
        method,
        CallerKind::Certificate {
            id: &id(who),
            serial,
            not_after,
        },
        NOW,
        facts,
    )
}

fn reason(answer: Result<Admitted, Denial>) -> Option<Reason> {
    answer.expect_err("denied").reason()
}

/// Columns of the golden table: name, and the SVID's ID, serial and end.
const CERTIFICATES: [(&str, &str, &str, i64); 16] = [
    ("agent", "here.test/spire/agent/a", "1", NOW),
    ("other-agent", "here.test/spire/agent/b", "1", NOW),
    ("pending", "here.test/spire/agent/a", "3", NOW + 60),
    ("old-serial", "here.test/spire/agent/a", "0", NOW + 60),
    ("banned", "here.test/spire/agent/banned", "1", NOW + 60),
    ("expired", "here.test/spire/agent/a", "1", NOW - 1),
    ("evicted", "here.test/spire/agent/z", "1", NOW + 60),
    ("downstream", "here.test/child", "1", NOW + 60),
    ("adm-config", "here.test/boss", "1", NOW + 60),
    ("adm-entry", "here.test/operator", "1", NOW + 60),
    ("adm-expired", "here.test/boss", "1", NOW - 1),
    ("workload", "here.test/shop", "1", NOW + 60),
    ("agent-like", "here.test/spire/agent/shop", "1", NOW + 60),
    ("foreign", "there.test/any", "1", NOW + 60),
    ("frn-agent", "there.test/spire/agent/a", "1", NOW + 60),
    ("frn-admin", "there.test/boss", "1", NOW + 60),
];

/// What an admitted caller gets of its own things and of those of others.
fn reach(target: Target) -> [&'static str; 2] {
    match target {
        Target::Caller => ["self", "-"],
        Target::Proved => ["proved", "-"],
        Target::OwnEntries => ["entry", "NotFound"],
        Target::Named => ["named", "named"],
        Target::Shared => [".", "."],
    }
}

fn cell(answer: Result<Admitted, Denial>) -> String {
    match answer {
        Ok(Admitted {
            permit,
            activate_serial,
        }) => {
            let activates = if activate_serial.is_some() { "+" } else { "" };
            format!("{}{activates}", permit.role().as_str())
        }
        Err(denial) => {
            let reason = match denial.reason() {
                None => "-",
                Some(Reason::AgentExpired) => "EXPIRED",
                Some(Reason::AgentNotAttested) => "NOTATTEST",
                Some(Reason::AgentNotActive) => "NOTACTIVE",
                Some(Reason::AgentBanned) => "BANNED",
                Some(other) => panic!("authorization never says {other:?}"),
            };
            let barrier = if denial.needs_barrier() { "?" } else { "" };
            format!("{reason}{barrier}")
        }
    }
}

/// How the golden file begins: what its columns and words mean.
const LEGEND: &str = "\
# Who may call what, generated by a test from the code: every method that is served, by every
# kind of caller. Review a change of this file as what it is: somebody may do more, or less.
#
# Callers: none: TLS without a certificate. local: the admin socket. The others by certificate:
#   agent, other-agent  attested, with their current SVIDs
#   pending             the agent, first use of a renewed SVID      old-serial  an SVID before the current one
#   banned, evicted     agents that were; expired: whose SVID ended while the connection stayed
#   downstream          an entry says so                            adm-entry   likewise
#   adm-config          named in admin_ids                          adm-expired the same, its SVID ended
#   workload            any other of the trust domain               agent-like  a workload named like an agent
#   foreign             of another trust domain                     frn-agent   with the path of an agent of ours
#   frn-admin           named in admin_ids
#
# A word: admitted as that; +: and its pending serial is activated. -: denied. Capitals: denied with
# the reason AGENT_*, on which an agent acts. ?: said only if it still holds after a read-index barrier.
#
# own, other: what an admitted caller reaches of its own things and of somebody else's. self: itself,
# whatever the request says. proved: the identity that the call proves. entry: what hangs below it.
# named: whatever is named. .: what all share. -: cannot be named. NotFound: answered like what is not there.
";

fn golden() -> String {
    let facts = Facts::new();
    let mut text = String::from(LEGEND);
    let mut line = |method: &str, reach: [&str; 2], cells: Vec<String>| {
        write!(text, "{method:<78} {:<7} {:<8}", reach[0], reach[1]).unwrap();
        for cell in cells {
            write!(text, " {cell:<11}").unwrap();
        }
        while text.ends_with(' ') {
            text.pop();
        }
        text.push('\n');
    };
    let mut header = vec!["none".to_owned(), "local".to_owned()];
    header.extend(CERTIFICATES.iter().map(|(name, ..)| (*name).to_owned()));
    line("method", ["own", "other"], header);
    for row in TABLE {
        let mut cells: Vec<String> = [CallerKind::Anonymous, CallerKind::Local]
            .into_iter()
            .map(|caller| cell(decide(row.method, caller, NOW, &facts)))
            .collect();
        cells.extend(CERTIFICATES.iter().map(|(_, who, serial, not_after)| {
            cell(ask(&facts, row.method, who, serial, *not_after))
        }));
        line(row.method, reach(row.target), cells);
    }
    text
}

#[test]
fn every_method_by_every_kind_of_caller_is_as_reviewed() {
    crate::golden::check_file("node/src/authz/golden.txt", &golden());
}

#[test]
fn method_without_a_row_is_denied_to_everybody() {
    let facts = Facts::new();
    for caller in [CallerKind::Local, CallerKind::Anonymous] {
        assert!(decide("/spire.api.server.entry.v1.Entry/Nope", caller, NOW, &facts).is_err());
    }
    assert!(
        !ask(&facts, "/x.Y/Z", "here.test/boss", "1", NOW)
            .unwrap_err()
            .needs_barrier()
    );
}

#[test]
fn first_use_of_a_renewed_svid_is_admitted_and_activated() {
    let admitted = ask(
        &Facts::new(),
        RENEW_AGENT,
        "here.test/spire/agent/a",
        "2",
        NOW,
    )
    .unwrap();
    assert_eq!(admitted.activate_serial.as_deref(), Some("2"));
    assert_eq!(
        admitted.permit.agent(),
        Some(&id("here.test/spire/agent/a"))
    );
    // The current one goes on working, and activates nothing.
    let admitted = ask(
        &Facts::new(),
        RENEW_AGENT,
        "here.test/spire/agent/a",
        "1",
        NOW,
    )
    .unwrap();
    assert_eq!(admitted.activate_serial, None);
}

#[test]
fn agent_is_told_the_reason_it_acts_on() {
    let facts = Facts::new();
    let ask = |who: &str, serial: &str, end| ask(&facts, RENEW_AGENT, who, serial, end);
    assert_eq!(
        reason(ask("here.test/spire/agent/z", "1", NOW)),
        Some(Reason::AgentNotAttested)
    );
    assert_eq!(
        reason(ask("here.test/spire/agent/a", "9", NOW)),
        Some(Reason::AgentNotActive)
    );
    assert_eq!(
        reason(ask("here.test/spire/agent/banned", "1", NOW)),
        Some(Reason::AgentBanned)
    );
    // A workload has no agent record, whatever its ID.
    assert_eq!(
        reason(ask("here.test/shop", "1", NOW)),
        Some(Reason::AgentNotAttested)
    );
    // The end of the SVID comes before everything that the registry knows.
    assert_eq!(
        reason(ask("here.test/spire/agent/banned", "1", NOW - 1)),
        Some(Reason::AgentExpired)
    );
    // Its last second is still its own (RFC 5280 §4.1.2.5).
    assert!(ask("here.test/spire/agent/a", "1", NOW).is_ok());
}

#[test]
fn empty_serial_is_not_the_serial_of_a_banned_agent() {
    assert_eq!(
        reason(ask(
            &Facts::new(),
            RENEW_AGENT,
            "here.test/spire/agent/banned",
            "",
            NOW
        )),
        Some(Reason::AgentBanned)
    );
}

#[test]
fn newer_state_can_change_a_denial_exactly_if_it_came_from_state() {
    let facts = Facts::new();
    let needs = |answer: Result<Admitted, Denial>| answer.unwrap_err().needs_barrier();
    assert!(needs(ask(
        &facts,
        RENEW_AGENT,
        "here.test/spire/agent/z",
        "1",
        NOW
    )));
    assert!(needs(ask(&facts, LIST_ENTRIES, "here.test/shop", "1", NOW)));
    assert!(needs(ask(
        &facts,
        NEW_DOWNSTREAM_CA,
        "here.test/shop",
        "1",
        NOW
    )));
    assert!(!needs(ask(
        &facts,
        RENEW_AGENT,
        "here.test/spire/agent/a",
        "1",
        NOW - 1
    )));
    assert!(!needs(ask(
        &facts,
        LIST_ENTRIES,
        "there.test/shop",
        "1",
        NOW
    )));
    assert!(!needs(ask(&facts, GET_LOGGER, "here.test/boss", "1", NOW)));
    assert!(!needs(decide(
        LIST_ENTRIES,
        CallerKind::Anonymous,
        NOW,
        &facts
    )));
}

#[test]
fn foreign_identity_is_an_administrator_by_configuration_or_nothing() {
    let facts = Facts::new();
    for method in [
        LIST_ENTRIES,
        RENEW_AGENT,
        NEW_DOWNSTREAM_CA,
        GET_FEDERATED_BUNDLE,
    ] {
        // Entries and an agent record of this very ID are in the facts.
        assert_eq!(
            reason(ask(&facts, method, "there.test/any", "1", NOW)),
            None
        );
        assert_eq!(
            reason(ask(&facts, method, "there.test/any", "1", NOW - 1)),
            None
        );
    }
    let admitted = ask(&facts, LIST_ENTRIES, "there.test/boss", "1", NOW).unwrap();
    assert_eq!(admitted.permit.role(), Role::AdminByConfig);
}

#[test]
fn administrator_is_asked_for_before_the_agent() {
    let mut facts = Facts::new();
    let both = id("here.test/spire/agent/a");
    facts.entries.insert(
        both,
        EntryFlags {
            admin: true,
            downstream: false,
        },
    );
    let admitted = ask(
        &facts,
        GET_FEDERATED_BUNDLE,
        "here.test/spire/agent/a",
        "2",
        NOW,
    )
    .unwrap();
    assert_eq!(
        (admitted.permit.role(), admitted.activate_serial),
        (Role::AdminByEntry, None)
    );
}

#[test]
fn administration_does_not_make_an_agent_or_a_downstream_server() {
    let facts = Facts::new();
    assert!(ask(&facts, NEW_DOWNSTREAM_CA, "here.test/boss", "1", NOW).is_err());
    assert_eq!(
        reason(ask(&facts, RENEW_AGENT, "here.test/boss", "1", NOW)),
        Some(Reason::AgentNotAttested)
    );
    let child = ask(&facts, NEW_DOWNSTREAM_CA, "here.test/child", "1", NOW)
        .unwrap()
        .permit;
    assert_eq!(child.downstream(), Some(&id("here.test/child")));
    assert_eq!(child.agent(), None);
}

#[test]
fn open_method_says_nothing_of_the_caller() {
    let facts = Facts::new();
    let admitted = ask(&facts, GET_BUNDLE, "here.test/spire/agent/a", "2", NOW - 1).unwrap();
    assert_eq!(
        (admitted.permit.role(), admitted.activate_serial),
        (Role::Anyone, None)
    );
    assert_eq!(admitted.permit.agent(), None);
    assert_eq!(admitted.permit.method(), GET_BUNDLE);
}
