//! `logger` and `debug` against a server that answers as told.

use chancery_api::spire::api::server::debug::v1::{GetInfoResponse, get_info_response::Cert};
use chancery_api::spire::api::server::logger::v1::SetLogLevelRequest;
use chancery_api::spire::api::types::{LogLevel, Logger};

use super::{id, refused};
use crate::cli::testing::{Answer, FakeServer};

const GET: &str = "/spire.api.server.logger.v1.Logger/GetLogger";
const SET: &str = "/spire.api.server.logger.v1.Logger/SetLogLevel";
const RESET: &str = "/spire.api.server.logger.v1.Logger/ResetLogLevel";
const INFO: &str = "/spire.api.server.debug.v1.Debug/GetInfo";

fn logger(current: LogLevel, launch: LogLevel) -> Logger {
    Logger {
        current_level: current.into(),
        launch_level: launch.into(),
    }
}

#[test]
fn levels_have_logrus_s_names_and_the_contract_s_in_json() {
    use LogLevel::{Debug, Error, Fatal, Info, Panic, Trace, Unspecified, Warn};
    for (current, launch, text, json) in [
        (Info, Warn, ("info", "warning"), ("INFO", "WARN")),
        (Trace, Error, ("trace", "error"), ("TRACE", "ERROR")),
        (Fatal, Panic, ("fatal", "panic"), ("FATAL", "PANIC")),
        (Debug, Debug, ("debug", "debug"), ("DEBUG", "DEBUG")),
    ] {
        let logger = logger(current, launch);
        let server = FakeServer::start([Answer::ok(GET, &logger), Answer::ok(GET, &logger)]);
        assert_eq!(
            server.run("logger get").out,
            format!("Logger Level : {}\nLaunch Level : {}\n\n", text.0, text.1)
        );
        assert_eq!(
            server.run("logger get -output json").out,
            format!(
                "{{\"current_level\":\"{}\",\"launch_level\":\"{}\"}}\n",
                json.0, json.1
            )
        );
    }
    let server = FakeServer::start([
        Answer::ok(GET, &logger(Unspecified, Info)),
        Answer::ok(GET, &logger(Info, Unspecified)),
        Answer::refusal(GET, 2, "no"),
    ]);
    assert_eq!(
        server.run("logger get").err,
        "Error: internal error: returned current log level is undefined; please report this as a \
         bug\n"
    );
    assert_eq!(
        server.run("logger get").err,
        "Error: internal error: returned launch log level is undefined; please report this as a \
         bug\n"
    );
    assert_eq!(
        server.run("logger get").err,
        "Error: error fetching logger: rpc error: code = Unknown desc = no\n"
    );
}

#[test]
fn the_level_is_set_and_reset() {
    let levels = [
        ("panic", LogLevel::Panic),
        ("fatal", LogLevel::Fatal),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("WARNING", LogLevel::Warn),
        ("Info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let server =
        FakeServer::start(levels.map(|(_, level)| Answer::ok(SET, &logger(level, LogLevel::Info))));
    for (name, _) in levels {
        let outcome = server.run(&format!("logger set -level {name}"));
        assert!(
            outcome.out.starts_with("Logger Level : "),
            "{}",
            outcome.err
        );
    }
    let requests: Vec<SetLogLevelRequest> = server.requests();
    for (request, (name, level)) in requests.iter().zip(levels) {
        assert_eq!(request.new_level(), level, "{name}");
    }

    let server = FakeServer::start([
        Answer::ok(RESET, &logger(LogLevel::Info, LogLevel::Info)),
        Answer::refusal(RESET, 2, "no"),
        Answer::refusal(SET, 2, "no"),
    ]);
    assert_eq!(
        server.run("logger reset").out,
        "Logger Level : info\nLaunch Level : info\n\n"
    );
    assert_eq!(
        server.run("logger reset").err,
        "Error: failed to reset logger: rpc error: code = Unknown desc = no\n"
    );
    assert_eq!(
        server.run("logger set -level info").err,
        "Error: failed to set log level: rpc error: code = Unknown desc = no\n"
    );
    assert_eq!(
        refused("logger set"),
        "Error: a value (-level) must be set\n"
    );
    assert_eq!(
        refused("logger set -level Never"),
        "Error: the value \"Never\" is not a valid setting\n"
    );
}

#[test]
fn a_server_tells_about_itself() {
    let info = GetInfoResponse {
        svid_chain: vec![
            Cert {
                id: id("/spire/server"),
                expires_at: 1_705_406_400,
                subject: "O=SPIRE,C=US".into(),
            },
            Cert {
                id: None,
                expires_at: 0,
                subject: String::new(),
            },
        ],
        uptime: 3_642,
        agents_count: 10,
        federated_bundles_count: 2,
        entries_count: 50,
    };
    let server = FakeServer::start([
        Answer::ok(INFO, &info),
        Answer::ok(INFO, &GetInfoResponse::default()),
        Answer::ok(INFO, &GetInfoResponse::default()),
    ]);
    assert_eq!(
        server.run("debug getinfo").out,
        "\
Server Debug Info:
  Uptime:                  1h0m42s
  Registered Agents:       10
  Registration Entries:    50
  Federated Bundles:       2
  SVID Chain:
    [0] SPIFFE ID:  spiffe://example.org/spire/server
        Subject:    O=SPIRE,C=US
        Expires At: 2024-01-16T12:00:00Z
    [1] SPIFFE ID:  (none)
        Subject:    \n        Expires At: 1970-01-01T00:00:00Z
"
    );
    assert!(
        server
            .run("debug getinfo")
            .out
            .ends_with("  Federated Bundles:       0\n")
    );
    assert_eq!(
        server.run("debug getinfo -output json").out,
        "{\"agents_count\":0,\"entries_count\":0,\"federated_bundles_count\":0,\
         \"svid_chain\":[],\"uptime\":0}\n"
    );
}
