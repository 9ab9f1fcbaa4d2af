//! `token` and `agent` against a server that answers as told.

use chancery_api::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, CountAgentsResponse, CreateJoinTokenRequest,
    DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, ListAgentsResponse,
};
use chancery_api::spire::api::types::{Agent, JoinToken};

use super::{id, refused};
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

/// Agents whose SVIDs ended an hour, a day and 30 days and a second ago, and one that goes on.
fn ended() -> Answer {
    const NOW: i64 = 1_552_410_266;
    let agent = |name: &str, ended_s_ago: i64| Agent {
        id: id(&format!("/spire/agent/{name}")),
        x509svid_expires_at: NOW - ended_s_ago,
        ..Agent::default()
    };
    let agents = vec![
        agent("agent1", 3_600),
        agent("agent2", 86_400),
        agent("agent3", 30 * 86_400 + 1),
        agent("agent4", -3_600),
    ];
    let next_page_token = String::new();
    Answer::ok(
        AGENTS,
        &ListAgentsResponse {
            agents,
            next_page_token,
        },
    )
}

#[test]
fn purge_evicts_what_ended_a_month_ago() {
    let server = FakeServer::start([ended(), Answer::ok(EVICT, &())]);
    assert_eq!(
        server.run("agent purge").out,
        "Found 1 expired agent\n\n\
         Agents purged:\n\
         SPIFFE ID         : spiffe://example.org/spire/agent/agent3\n"
    );
    let listed: ListAgentsRequest = server.request(0);
    let filter = listed.filter.unwrap();
    assert_eq!(filter.by_can_reattest, Some(true));
    assert!(listed.output_mask.unwrap().x509svid_expires_at);
    let evicted: DeleteAgentRequest = server.request(1);
    assert_eq!(evicted.id, id("/spire/agent/agent3"));

    let server = FakeServer::start([ended(), Answer::ok(EVICT, &())]);
    assert_eq!(
        server.run("agent purge -output json").out,
        "{\"expired_agents\":[{\"agent_id\":\"spiffe://example.org/spire/agent/agent3\",\
         \"deleted\":true}]}\n"
    );
}

#[test]
fn purge_tells_what_could_not_be_evicted_and_succeeds() {
    let answers = || {
        [
            ended(),
            Answer::refusal(EVICT, 13, "store"),
            Answer::ok(EVICT, &()),
        ]
    };
    let server = FakeServer::start(answers());
    let outcome = server.run("agent purge -expiredFor 23h30m");
    assert!(outcome.success, "{}", outcome.err);
    assert_eq!(
        outcome.out,
        "Found 2 expired agents\n\n\
         Agents purged:\n\
         SPIFFE ID         : spiffe://example.org/spire/agent/agent3\n\
         Agents not purged:\n\
         SPIFFE ID         : spiffe://example.org/spire/agent/agent2\n\
         Error             : rpc error: code = Internal desc = store\n"
    );
    let server = FakeServer::start(answers());
    assert_eq!(
        server
            .run("agent purge -expiredFor 23h30m -output json")
            .out,
        "{\"expired_agents\":[\
         {\"agent_id\":\"spiffe://example.org/spire/agent/agent2\",\"deleted\":false,\
         \"error\":\"rpc error: code = Internal desc = store\"},\
         {\"agent_id\":\"spiffe://example.org/spire/agent/agent3\",\"deleted\":true}]}\n"
    );
}

#[test]
fn a_dry_run_and_nothing_to_purge_evict_nobody() {
    let server = FakeServer::start((0..5).map(|_| ended()));
    assert_eq!(
        server.run("agent purge -dryRun -expiredFor 23h").out,
        "Found 2 expired agents\n\n\n\
         Agents that can be purged:\n\
         SPIFFE ID         : spiffe://example.org/spire/agent/agent2\n\
         SPIFFE ID         : spiffe://example.org/spire/agent/agent3\n"
    );
    assert!(
        server
            .run("agent purge -dryRun -expiredFor 23h -output json")
            .out
            .starts_with(
                "{\"expired_agents\":[{\"agent_id\":\"spiffe://example.org/spire/agent/agent2\",\
                 \"deleted\":false},"
            )
    );
    assert_eq!(
        server.run("agent purge -expiredFor 1440h").out,
        "No agents to purge.\n"
    );
    assert_eq!(
        server.run("agent purge -expiredFor 1440h -output json").out,
        "{\"expired_agents\":[]}\n"
    );
    // A second to the month: the default is longer.
    assert!(server.run("agent purge -dryRun").out.contains("Found 1 "));

    let server = FakeServer::start([Answer::refusal(AGENTS, 13, "store")]);
    assert_eq!(
        server.run("agent purge").err,
        "Error: failed to list agents: rpc error: code = Internal desc = store\n"
    );
}

#[test]
fn wrong_flags_are_refused_in_spire_s_words() {
    for verb in ["ban", "evict", "show"] {
        assert_eq!(
            refused(&format!("agent {verb}")),
            "Error: a SPIFFE ID is required\n"
        );
        assert_eq!(
            refused(&format!("agent {verb} -spiffeID nope")),
            "Error: scheme is missing or invalid\n"
        );
    }
    for verb in ["list", "count"] {
        assert_eq!(
            refused(&format!("agent {verb} -selector unix")),
            "Error: error parsing selector \"unix\": selector \"unix\" must be formatted as \
             type:value\n"
        );
        assert_eq!(
            refused(&format!(
                "agent {verb} -selector a:b -matchSelectorsOn NO-MATCHER"
            )),
            "Error: unsupported match behavior\n"
        );
    }
    assert_eq!(
        refused("token generate -spiffeID nope"),
        "Error: scheme is missing or invalid\n"
    );
    assert_eq!(
        refused("token generate -ttl 2147483648"),
        "Error: invalid value for TTL: overflow converting int(2147483648) to int32\n"
    );
}
