//! What all verbs have in common: help, flags, warnings, and failures.

use chancery_api::spire::api::server::agent::v1::ListAgentsResponse;
use chancery_api::spire::api::server::entry::v1::{CountEntriesRequest, CountEntriesResponse};
use chancery_api::spire::api::types::Agent;

use super::COUNT;
use crate::cli::testing::{Answer, FakeServer, run};

#[test]
fn an_answer_from_old_state_is_marked_on_standard_error_only() {
    let counted = Answer::ok(COUNT, &CountEntriesResponse { count: 5 });
    let server = FakeServer::start([counted.with("chancery-stale", "1234")]);
    let outcome = server.run("entry count -output json");
    assert_eq!(outcome.out, "{\"count\":5}\n");
    assert_eq!(
        outcome.err,
        "warning: answered without a quorum from state 1234 ms old\n"
    );
}

#[test]
fn what_two_answers_say_is_told_once() {
    let evicted = || {
        Answer::ok("/spire.api.server.agent.v1.Agent/DeleteAgent", &())
            .with("chancery-holds-everywhere", "true")
    };
    let agents = ListAgentsResponse {
        agents: ["/one", "/two"]
            .map(|path| Agent {
                id: super::id(path),
                ..Agent::default()
            })
            .into(),
        next_page_token: String::new(),
    };
    let listed = Answer::ok("/spire.api.server.agent.v1.Agent/ListAgents", &agents);
    let server = FakeServer::start([listed, evicted(), evicted()]);
    let outcome = server.run("agent purge");
    assert!(outcome.out.contains("/one\n") && outcome.out.contains("/two\n"));
    assert_eq!(outcome.err, "in force on every node\n");
}

#[test]
fn a_failure_leaves_standard_output_empty_in_json_too() {
    let server = FakeServer::start([Answer::refusal(COUNT, 7, "no")]);
    let outcome = server.run("entry count -output json");
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.out, "");
    assert_eq!(
        outcome.err,
        "Error: rpc error: code = PermissionDenied desc = no\n"
    );
}

#[test]
fn a_server_that_is_not_there_is_told_with_what_to_look_at() {
    let words = ["entry", "count", "-socketPath", "/nonexistent/api.sock"];
    let outcome = run(&words, "");
    assert!(!outcome.success);
    assert_eq!(
        outcome.err,
        "Error: cannot reach the server at unix:/nonexistent/api.sock: No such file or directory \
         (os error 2); is it running, and is -socketPath right?\n"
    );
}

#[test]
fn a_connection_that_breaks_is_not_an_answer() {
    let server = FakeServer::start([Answer::refusal("hang up", 0, "")]);
    let outcome = server.run("entry count");
    assert!(!outcome.success);
    let lost = format!(
        "Error: lost the connection to the server at unix:{}: ",
        server.socket().display()
    );
    assert!(outcome.err.starts_with(&lost), "{}", outcome.err);
}

#[test]
fn what_is_mistyped_gets_a_suggestion() {
    let outcome = run(&["entry", "shwo"], "");
    assert!(!outcome.success);
    assert!(
        outcome
            .err
            .starts_with("Error: unrecognized subcommand 'shwo'")
    );
    assert!(outcome.err.contains("'show'"), "{}", outcome.err);
    let outcome = run(&["entry", "show", "-spifeID", "x"], "");
    assert!(!outcome.success);
    assert!(
        outcome
            .err
            .starts_with("Error: unexpected argument '--spifeID'")
    );
    assert!(outcome.err.contains("'--spiffeID'"), "{}", outcome.err);
}

#[test]
fn a_noun_that_does_not_exist_has_a_code_of_its_own() {
    let code = |words: &[&str]| {
        let outcome = run(words, "");
        assert_eq!(outcome.out, "", "{words:?}");
        assert_ne!(outcome.err, "", "{words:?}");
        outcome.code
    };
    assert_eq!(code(&[]), 127);
    assert_eq!(code(&["entyr"]), 127);
    assert_eq!(code(&["wit", "mint"]), 127);
    assert_eq!(code(&["-nosuchflag"]), 127);
    for words in [
        ["entry"].as_slice(),
        &["entry", "shwo"],
        &["localauthority", "x509"],
        &["localauthority", "wit", "show"],
        &["entry", "show", "-nosuchflag"],
    ] {
        assert_eq!(code(words), 1, "{words:?}");
    }
}

#[test]
fn every_verb_of_spire_s_is_there() {
    let root = <crate::cli::CommandLine as clap::CommandFactory>::command();
    for line in [
        "agent ban",
        "agent count",
        "agent evict",
        "agent list",
        "agent purge",
        "agent show",
        "bundle count",
        "bundle delete",
        "bundle list",
        "bundle set",
        "bundle show",
        "debug getinfo",
        "entry count",
        "entry create",
        "entry delete",
        "entry show",
        "entry update",
        "federation create",
        "federation delete",
        "federation list",
        "federation refresh",
        "federation show",
        "federation update",
        "healthcheck",
        "jwt mint",
        "localauthority jwt activate",
        "localauthority jwt prepare",
        "localauthority jwt revoke",
        "localauthority jwt show",
        "localauthority jwt taint",
        "localauthority x509 activate",
        "localauthority x509 prepare",
        "localauthority x509 revoke",
        "localauthority x509 show",
        "localauthority x509 taint",
        "logger get",
        "logger reset",
        "logger set",
        "run",
        "token generate",
        "upstreamauthority revoke",
        "upstreamauthority taint",
        "validate",
        "x509 mint",
    ] {
        let mut command = &root;
        for word in line.split(' ') {
            command = command
                .find_subcommand(word)
                .unwrap_or_else(|| panic!("{line}"));
        }
        let has = |name: &str| {
            command
                .get_arguments()
                .any(|arg| arg.get_long() == Some(name))
        };
        if !matches!(line, "run" | "validate") {
            for flag in ["socketPath", "instance", "output"] {
                assert!(has(flag), "{line} -{flag}");
            }
        }
    }
}

#[test]
fn wrong_values_of_flags_are_refused() {
    for line in [
        "entry show -output yaml",
        "entry show -downstream=maybe",
        "entry show -downstream false",
        "token generate -ttl soon",
        "agent purge -expiredFor 5d",
        "x509 mint -ttl -1h",
        "entry update -jwtSVIDIncludeJTI=maybe",
        "server run",
    ] {
        let outcome = run(&line.split(' ').collect::<Vec<_>>(), "");
        assert!(!outcome.success, "{line}");
        assert!(
            outcome.err.starts_with("Error: "),
            "{line}: {}",
            outcome.err
        );
    }
}

#[test]
fn a_flag_given_twice_counts_the_last_time() {
    let server = FakeServer::start([Answer::ok(COUNT, &CountEntriesResponse { count: 0 })]);
    let outcome = server.run("entry count -hint a -hint b -selector x:1 -selector y:2");
    assert_eq!(outcome.out, "0 registration entries\n");
    let requests: Vec<CountEntriesRequest> = server.requests();
    let filter = requests[0].filter.as_ref().unwrap();
    assert_eq!(filter.by_hint.as_deref(), Some("b"));
    assert_eq!(filter.by_selectors.as_ref().unwrap().selectors.len(), 2);
}

#[test]
fn every_verb_has_help_with_an_example() {
    fn visit(command: &clap::Command, words: &mut Vec<String>) {
        let line: Vec<&str> = words.iter().map(String::as_str).chain(["-help"]).collect();
        let outcome = run(&line, "");
        assert!(outcome.success, "{words:?}");
        assert!(
            outcome.out.contains("Example"),
            "{words:?}: {}",
            outcome.out
        );
        assert_eq!(outcome.err, "", "{words:?}");
        for subcommand in command.get_subcommands() {
            words.push(subcommand.get_name().to_owned());
            visit(subcommand, words);
            words.pop();
        }
    }
    visit(
        &<crate::cli::CommandLine as clap::CommandFactory>::command(),
        &mut Vec::new(),
    );
}

#[test]
fn the_version_is_a_result() {
    for spelling in ["--version", "-version", "-v"] {
        let outcome = run(&[spelling], "");
        assert!(outcome.success);
        assert_eq!(
            outcome.out,
            format!("chancery {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}
