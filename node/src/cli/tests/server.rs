//! `healthcheck`, `cluster` and the server's own verbs.

use chancery_api::chancery::cluster::v1::{
    SetIssuanceModeRequest, SetIssuanceModeResponse, StatusResponse,
};
use chancery_api::grpc::health::v1::HealthCheckResponse;

use crate::cli::testing::{Answer, FakeServer, cluster_status, run};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const STATUS: &str = "/chancery.cluster.v1.Cluster/Status";
const SET_MODE: &str = "/chancery.cluster.v1.Cluster/SetIssuanceMode";

#[test]
fn healthcheck_tells_by_its_exit_code() {
    let health = |status| Answer::ok(HEALTH, &HealthCheckResponse { status });
    let refusal = Answer::refusal(HEALTH, 13, "store");
    let server = FakeServer::start([health(1), health(1), health(2), refusal]);
    let healthy = server.run("healthcheck");
    assert!(healthy.success);
    assert_eq!(healthy.out, "Server is healthy.\n");
    assert_eq!(
        server.run("healthcheck -shallow -verbose").out,
        "Checking server health...\nServer is healthy.\n"
    );
    let ill = server.run("healthcheck");
    assert!(!ill.success);
    assert_eq!(
        ill.err,
        "Error: server is unhealthy: server returned status \"NOT_SERVING\"\n"
    );
    let unknown = server.run("healthcheck -verbose");
    assert!(!unknown.success);
    assert_eq!(
        unknown.err,
        "Failed to check health: rpc error: code = Internal desc = store\n\
         Error: server is unhealthy: unable to determine health\n"
    );
}

#[test]
fn cluster_status_speaks_to_people_and_to_programs() {
    let electing = StatusResponse {
        leader: None,
        ..cluster_status()
    };
    let server = FakeServer::start([
        Answer::ok(STATUS, &cluster_status()),
        Answer::ok(STATUS, &cluster_status()),
        Answer::ok(STATUS, &electing),
    ]);
    let page = server.run("cluster status").out;
    assert!(page.contains("\nLeader        : node 1, one:8081 (term 7)\n"));
    assert!(page.ends_with("\nAll is well.\n"));

    let json = server.run("cluster status -output json").out;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["leader"], "1");
    assert_eq!(report["term"], 7);
    assert_eq!(report["members"][0]["applied_index"], 1_042);

    let json = server.run("cluster status -output=json").out;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(report["leader"].is_null());
}

#[test]
fn the_issuance_mode_is_shown_and_set() {
    let set = |before: &str, mode: &str| {
        let (before, mode) = (before.into(), mode.into());
        Answer::ok(SET_MODE, &SetIssuanceModeResponse { before, mode })
    };
    let server = FakeServer::start([
        Answer::ok(STATUS, &cluster_status()),
        Answer::ok(STATUS, &cluster_status()),
        set("direct", "intermediate"),
        set("direct", "direct"),
        set("direct", "intermediate"),
    ]);
    assert_eq!(server.run("issuance mode").out, "direct\n");
    assert_eq!(
        server.run("issuance mode -output json").out,
        "{\"mode\":\"direct\"}\n"
    );
    assert_eq!(
        server.run("issuance mode intermediate").out,
        "The issuance mode was direct and is intermediate.\n"
    );
    assert_eq!(
        server.run("issuance mode direct").out,
        "The issuance mode is direct already.\n"
    );
    assert_eq!(
        server.run("issuance mode intermediate -output json").out,
        "{\"before\":\"direct\",\"mode\":\"intermediate\"}\n"
    );
    server.all_answered();
    let asked: SetIssuanceModeRequest = server.request(2);
    assert_eq!(asked.mode, "intermediate");
    let unknown = server.run("issuance mode both");
    assert!(!unknown.success);
    assert!(unknown.err.contains("direct"), "{}", unknown.err);
}

#[test]
fn a_configuration_is_checked_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chancery.toml");
    std::fs::write(&file, "no_such_key = 1\n").unwrap();
    let file = file.display().to_string();
    for words in [
        ["server", "validate"].as_slice(),
        &["validate"],
        &["server", "run"],
        &["run"],
    ] {
        let line = [words, &["-config", &file]].concat();
        let outcome = run(&line, "");
        assert!(!outcome.success, "{words:?}");
        let expected = format!("Error: {file}: ");
        assert!(outcome.err.starts_with(&expected), "{}", outcome.err);
        assert!(outcome.err.contains("no_such_key"), "{}", outcome.err);
    }
}

#[test]
fn flags_and_variables_stand_in_for_keys_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chancery.toml");
    std::fs::write(&file, "log_level = \"${TZ}info\"\n").unwrap();
    let file = file.display().to_string();
    let problems = |flags: &[&str]| {
        let line = [&["validate", "-config", &file], flags].concat();
        let outcome = run(&line, "");
        assert_eq!(outcome.code, 1);
        outcome.err
    };
    let said = problems(&["-expandEnv", "-trustDomain", "example.org"]);
    assert!(!said.contains("log_level: "), "{said}");
    assert!(!said.contains("trust_domain: "), "{said}");
    assert!(said.contains("data_dir: is required"), "{said}");
    let said = problems(&["-dataDir", "/nowhere/data", "-serverPort", "9443"]);
    assert!(said.contains("log_level: "), "{said}");
    assert!(said.contains("trust_domain: is required"), "{said}");
    assert!(!said.contains("data_dir: is required"), "{said}");
    let said = problems(&["-serverPort", "70000"]);
    assert!(said.contains("'70000'"), "{said}");
    let said = problems(&["-logFile", "a\tb", "-logSourceLocation"]);
    assert!(said.contains("log_file: must not hold"), "{said}");
    assert!(!said.contains("log_source_location: "), "{said}");
}

#[test]
fn without_a_flag_the_file_is_where_spire_s_would_be() {
    let outcome = run(&["validate"], "");
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    let expected = "Error: conf/server/server.conf: 1 problem\n  cannot be opened: ";
    assert!(outcome.err.starts_with(expected), "{}", outcome.err);
}
