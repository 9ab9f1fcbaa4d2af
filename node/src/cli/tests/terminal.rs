//! What is painted where: never in a pipe, a file or JSON.

use chancery_api::spire::api::server::agent::v1::ListAgentsResponse;
use chancery_api::spire::api::server::entry::v1::ListEntriesResponse;
use chancery_api::spire::api::types::{Agent, Entry};
use prost::Message;

use super::{id, selector};
use crate::cli::paint::strip;
use crate::cli::testing::{Answer, FakeServer, cluster_status};

const ESCAPE: char = '\u{1b}';

/// `line` is painted at a terminal, and nowhere else differs from what a pipe gets.
fn painted_at_a_terminal_only(line: &str, path: &'static str, answer: &impl Message) {
    let server = FakeServer::start((0..5).map(|_| Answer::ok(path, answer)));
    let piped = server.run(line).out;
    assert!(!piped.contains(ESCAPE), "{line}: {piped:?}");

    let seen = server.run_at_terminal(line, &[]).out;
    assert!(seen.contains(ESCAPE), "{line}: {seen:?}");
    assert_eq!(strip(&seen), piped, "{line}");

    for variables in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
        let plain = server.run_at_terminal(line, &variables).out;
        assert_eq!(plain, piped, "{line}, {variables:?}");
    }
    let json = server.run_at_terminal(&format!("{line} -output json"), &[]);
    assert!(json.out.starts_with('{') && !json.out.contains(ESCAPE));
    server.all_answered();
}

#[test]
fn entries_are_painted_at_a_terminal_only() {
    let entries = vec![Entry {
        id: "web".into(),
        spiffe_id: id("/web"),
        parent_id: id("/node"),
        selectors: vec![selector("unix", "uid:1000")],
        ..Entry::default()
    }];
    let listed = ListEntriesResponse {
        entries,
        next_page_token: String::new(),
    };
    let path = "/spire.api.server.entry.v1.Entry/ListEntries";
    painted_at_a_terminal_only("entry show", path, &listed);
}

#[test]
fn agents_are_painted_at_a_terminal_only() {
    let agent = Agent {
        id: id("/spire/agent/join_token/one"),
        attestation_type: "join_token".into(),
        banned: true,
        ..Agent::default()
    };
    let listed = ListAgentsResponse {
        agents: vec![agent.clone()],
        next_page_token: String::new(),
    };
    let path = "/spire.api.server.agent.v1.Agent/ListAgents";
    painted_at_a_terminal_only("agent list", path, &listed);
    let line = "agent show -spiffeID spiffe://example.org/spire/agent/join_token/one";
    let path = "/spire.api.server.agent.v1.Agent/GetAgent";
    painted_at_a_terminal_only(line, path, &agent);
}

#[test]
fn the_cluster_is_painted_at_a_terminal_only() {
    let path = "/chancery.cluster.v1.Cluster/Status";
    painted_at_a_terminal_only("cluster status", path, &cluster_status());
}
