//! Agents: attestation, renewal, bans.

use chancery_raft_store::command::{
    ActivateAgents, Activation, AttestAgent, ImportBan, SetAgentVersion,
};
use chancery_raft_store::{Command, Refusal};

use super::{AGENT, World, agent_path, attest, attestation, renew};
use crate::support::selector;

fn activate(serials: &[&str]) -> Command {
    let activation = |serial: &&str| Activation {
        path: AGENT.into(),
        serial: (*serial).into(),
    };
    Command::ActivateAgents(ActivateAgents {
        activations: serials.iter().map(activation).collect(),
    })
}

fn pending(world: &World) -> Vec<String> {
    world
        .agent(AGENT)
        .unwrap()
        .pending
        .into_iter()
        .map(|p| p.serial)
        .collect()
}

#[test]
fn attestation_replaces_serials_and_selectors_and_keeps_the_place() {
    let mut world = World::new();
    world.ok(attest(AGENT, "1"));
    let first = world.agent(AGENT).unwrap();
    assert_eq!(
        first.selectors,
        [selector("a"), selector("b")],
        "as a set, in order"
    );
    world.ok(Command::SetAgentVersion(SetAgentVersion {
        path: AGENT.into(),
        version: "1.14".into(),
    }));
    world.ok(renew("2"));
    world.ok(Command::AttestAgent(AttestAgent {
        selectors: vec![selector("c")],
        ..attestation(AGENT, "3")
    }));
    let second = world.agent(AGENT).unwrap();
    assert_eq!(
        (
            second.sequence,
            second.serial.as_str(),
            second.pending.len()
        ),
        (first.sequence, "3", 0)
    );
    assert_eq!(
        (second.selectors, second.agent_version),
        (vec![selector("c")], "1.14".into())
    );
}

#[test]
fn a_banned_agent_neither_attests_nor_renews_nor_activates() {
    let mut world = World::new();
    world.ok(attest(AGENT, "1"));
    world.ok(renew("2"));
    world.ok(Command::BanAgent(agent_path(AGENT)));
    assert_eq!(world.refused(attest(AGENT, "3")), Refusal::AgentBanned);
    assert_eq!(world.refused(renew("4")), Refusal::AgentBanned);
    world.ok(activate(&["2"]));
    let agent = world.agent(AGENT).unwrap();
    assert!(agent.is_banned() && agent.pending.is_empty());
    world.ok(Command::DeleteAgent(agent_path(AGENT)));
    world.ok(attest(AGENT, "5"));
    assert_eq!(
        world.refused(Command::BanAgent(agent_path("/spire/agent/x509pop/none"))),
        Refusal::NotFound
    );
}

fn imported(path: &str) -> ImportBan {
    ImportBan {
        path: path.into(),
        attestation_type: "x509pop".into(),
        selectors: vec![selector("b"), selector("a"), selector("b")],
        can_reattest: true,
        expires_at: 77,
    }
}

#[test]
fn an_imported_ban_keeps_an_agent_out_that_never_came_here() {
    let mut world = World::new();
    world.ok(Command::ImportBan(imported(AGENT)));
    let agent = world.agent(AGENT).unwrap();
    assert!(agent.is_banned() && agent.can_reattest && agent.sequence > 0);
    assert_eq!(agent.selectors, [selector("a"), selector("b")]);
    assert_eq!(
        (agent.attestation_type.as_str(), agent.expires_at),
        ("x509pop", 77)
    );
    assert_eq!(world.refused(attest(AGENT, "1")), Refusal::AgentBanned);
    assert_eq!(world.refused(renew("1")), Refusal::AgentBanned);

    // Once more changes nothing.
    let before = world.rows_but_clock();
    world.ok(Command::ImportBan(imported(AGENT)));
    assert_eq!(world.rows_but_clock(), before);

    world.ok(Command::DeleteAgent(agent_path(AGENT)));
    world.ok(attest(AGENT, "2"));
    assert_eq!(
        world.refused(Command::ImportBan(imported(""))),
        Refusal::Malformed
    );
}

#[test]
fn an_imported_ban_takes_the_serials_of_an_agent_that_is_known() {
    let mut world = World::new();
    world.ok(attest(AGENT, "1"));
    world.ok(renew("2"));
    let before = world.agent(AGENT).unwrap();
    world.ok(Command::ImportBan(imported(AGENT)));
    let agent = world.agent(AGENT).unwrap();
    assert!(agent.is_banned() && agent.pending.is_empty());
    assert_eq!(
        (agent.sequence, agent.selectors, agent.expires_at),
        (before.sequence, before.selectors, before.expires_at)
    );
}

#[test]
fn renewal_needs_an_agent_that_may_renew() {
    let mut world = World::new();
    assert_eq!(world.refused(renew("1")), Refusal::NotFound);
    world.ok(Command::AttestAgent(AttestAgent {
        can_reattest: true,
        ..attestation(AGENT, "1")
    }));
    assert_eq!(world.refused(renew("2")), Refusal::AgentMustReattest);
}

#[test]
fn at_most_four_renewals_wait_and_each_of_them_activates() {
    for chosen in 0..4 {
        let mut world = World::new();
        world.ok(attest(AGENT, "1"));
        for serial in ["2", "3", "4", "5", "6"] {
            world.ok(renew(serial));
        }
        assert_eq!(pending(&world), ["3", "4", "5", "6"]);
        let serial = pending(&world)[chosen].clone();
        world.ok(activate(&[&serial]));
        let agent = world.agent(AGENT).unwrap();
        assert_eq!((agent.serial, agent.expires_at), (serial, 200));
        assert_eq!(
            pending(&world),
            ["3", "4", "5", "6"][chosen + 1..],
            "older ones are dropped, newer ones wait"
        );
    }
}

#[test]
fn activating_what_no_longer_waits_changes_nothing() {
    let mut world = World::new();
    world.ok(attest(AGENT, "1"));
    for serial in ["2", "3"] {
        world.ok(renew(serial));
    }
    world.ok(activate(&["3"]));
    let before = world.rows_but_clock();
    world.ok(activate(&["2", "3", "9"]));
    world.ok(Command::ActivateAgents(ActivateAgents {
        activations: vec![Activation {
            path: "/spire/agent/none".into(),
            serial: "2".into(),
        }],
    }));
    assert_eq!(world.rows_but_clock(), before);
    assert_eq!(world.agent(AGENT).unwrap().serial, "3");
}
