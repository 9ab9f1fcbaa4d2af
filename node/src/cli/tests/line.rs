//! What all verbs have in common: help, flags, warnings, and failures.

use chancery_api::spire::api::server::entry::v1::{CountEntriesRequest, CountEntriesResponse};

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
fn a_failure_in_json_is_an_object_too() {
    let server = FakeServer::start([Answer::refusal(COUNT, 7, "no")]);
    let outcome = server.run("entry count -output json");
    assert!(!outcome.success);
    assert_eq!(
        outcome.out,
        "{\"error\":\"rpc error: code = PermissionDenied desc = no\"}\n"
    );
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
fn verbs_to_come_say_so_and_mistyped_ones_get_a_suggestion() {
    let outcome = run(
        &["x509", "mint", "-spiffeID", "spiffe://example.org/web"],
        "",
    );
    assert!(!outcome.success);
    assert_eq!(
        outcome.err,
        "Error: 'x509 mint' is not available in this version of chancery\n"
    );
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
fn wrong_values_of_flags_are_refused() {
    for line in [
        "entry show -output yaml",
        "entry show -downstream=maybe",
        "entry show -downstream false",
        "token generate -ttl soon",
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
