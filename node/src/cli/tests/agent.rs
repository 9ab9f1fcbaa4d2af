//! `token` and `agent` against a server that answers as told.

use chancery_api::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, CountAgentsResponse, CreateJoinTokenRequest,
    DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, ListAgentsResponse,
};
use chancery_api::spire::api::types::{Agent, JoinToken};

use super::id;
use crate::cli::testing::{Answer, FakeServer, run};

const TOKEN: &str = "/spire.api.server.agent.v1.Agent/CreateJoinToken";
const AGENTS: &str = "/spire.api.server.agent.v1.Agent/ListAgents";
const AGENT_COUNT: &str = "/spire.api.server.agent.v1.Agent/CountAgents";
const AGENT: &str = "/spire.api.server.agent.v1.Agent/GetAgent";
const BAN: &str = "/spire.api.server.agent.v1.Agent/BanAgent";
const EVICT: &str = "/spire.api.server.agent.v1.Agent/DeleteAgent";

#[test]
fn token_generate_prints_the_token() {
    let token = JoinToken {
        value: "t-1".into(),
        expires_at: 9,
    };
    let server = FakeServer::start((0..3).map(|_| Answer::ok(TOKEN, &token)));
    assert_eq!(
        server.run("token generate").out,
        "Token: t-1\nWarning: Missing SPIFFE ID.\n"
    );
    let line = "token generate -ttl 30 -spiffeID spiffe://example.org/node";
    assert_eq!(server.run(line).out, "Token: t-1\n");
    assert_eq!(
        server.run("token generate -output json").out,
        "{\"expires_at\":\"9\",\"value\":\"t-1\"}\n"
    );
    let requests: Vec<CreateJoinTokenRequest> = server.requests();
    assert_eq!((requests[0].ttl, &requests[0].agent_id), (600, &None));
    assert_eq!((requests[1].ttl, &requests[1].agent_id), (30, &id("/node")));
}

fn agent() -> Agent {
    Agent {
        id: id("/spire/agent/join_token/one"),
        attestation_type: "join_token".into(),
        x509svid_serial_number: "42".into(),
        x509svid_expires_at: 1_552_410_266,
        ..Agent::default()
    }
}

#[test]
fn agents_are_listed_page_by_page() {
    let first = ListAgentsResponse {
        agents: vec![agent()],
        next_page_token: "1".into(),
    };
    let last = ListAgentsResponse {
        agents: vec![agent()],
        next_page_token: String::new(),
    };
    let server = FakeServer::start([Answer::ok(AGENTS, &first), Answer::ok(AGENTS, &last)]);
    let outcome = server.run(
        "agent list -selector a:b -matchSelectorsOn exact -attestationType join_token \
         -canReattest false -banned x",
    );
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome
            .out
            .starts_with("Found 2 attested agents:\n\nSPIFFE ID         : spiffe://")
    );
    let requests: Vec<ListAgentsRequest> = server.requests();
    assert_eq!(
        (requests[0].page_size, &*requests[1].page_token),
        (1_000, "1")
    );
    let filter = requests[1].filter.as_ref().unwrap();
    assert_eq!(filter.by_attestation_type, "join_token");
    assert_eq!(filter.by_selector_match.as_ref().unwrap().r#match, 0);
    assert_eq!(filter.by_can_reattest, Some(false));
    assert_eq!(filter.by_banned, None);
}

#[test]
fn agents_are_counted_with_the_date_as_given() {
    let date = "2021-01-01 15:04:05 -0700 -07";
    let server = FakeServer::start([Answer::ok(AGENT_COUNT, &CountAgentsResponse { count: 1 })]);
    let socket = server.socket().display().to_string();
    let words = [
        "agent",
        "count",
        "-expiresBefore",
        date,
        "-banned=true",
        "-socketPath",
        &socket,
    ];
    assert_eq!(run(&words, "").out, "1 attested agent\n");
    let requests: Vec<CountAgentsRequest> = server.requests();
    let filter = requests[0].filter.as_ref().unwrap();
    assert_eq!(filter.by_expires_before, date);
    assert_eq!(filter.by_banned, Some(true));

    let outcome = server.run("agent count -expiresBefore 2001-13-05");
    assert!(!outcome.success);
    assert!(
        outcome
            .err
            .starts_with("Error: date is not valid: \"2001-13-05\"")
    );
}

#[test]
fn one_agent_is_shown_banned_and_evicted() {
    let server = FakeServer::start([
        Answer::ok(AGENT, &agent()),
        Answer::ok(BAN, &()).with("chancery-holds-everywhere", "true"),
        Answer::ok(EVICT, &())
            .with("chancery-holds-everywhere", "false")
            .with("chancery-missing", "3"),
        Answer::ok(BAN, &()),
    ]);
    let at = "-spiffeID spiffe://example.org/spire/agent/join_token/one";
    let shown = server.run(&format!("agent show {at}"));
    assert!(
        shown
            .out
            .starts_with("Found an attested agent given its SPIFFE ID\n\nSPIFFE ID ")
    );

    let banned = server.run(&format!("agent ban {at}"));
    assert_eq!(banned.out, "Agent banned successfully\n");
    assert_eq!(banned.err, "in force on every node\n");

    let evicted = server.run(&format!("agent evict {at}"));
    assert_eq!(evicted.out, "Agent evicted successfully\n");
    assert_eq!(
        evicted.err,
        "warning: in force on every node in touch, not confirmed by node 3\n"
    );
    assert_eq!(
        server.run(&format!("agent ban {at} -output json")).out,
        "{}\n"
    );

    let missing = server.run("agent ban");
    assert_eq!(missing.err, "Error: a SPIFFE ID is required\n");
    let sent: Vec<GetAgentRequest> = server.requests();
    assert!(
        sent.iter()
            .all(|request| request.id == id("/spire/agent/join_token/one"))
    );
    // The three requests have the id in the same place.
    let _: (Vec<BanAgentRequest>, Vec<DeleteAgentRequest>) = (server.requests(), server.requests());
}
