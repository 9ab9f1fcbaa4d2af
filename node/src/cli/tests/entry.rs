//! `entry` against a server that answers as told.

use chancery_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest,
    BatchDeleteEntryResponse, BatchUpdateEntryRequest, BatchUpdateEntryResponse,
    CountEntriesRequest, CountEntriesResponse, GetEntryRequest, ListEntriesRequest,
    ListEntriesResponse, batch_create_entry_response, batch_delete_entry_response,
    batch_update_entry_response,
};
use chancery_api::spire::api::types::Entry;
use chancery_api::spire::api::types::entry::AdditionalAttributes;

use super::{COUNT, id, refused, selector, status};
use crate::cli::testing::{Answer, FakeServer};

const CREATE: &str = "/spire.api.server.entry.v1.Entry/BatchCreateEntry";
const LIST: &str = "/spire.api.server.entry.v1.Entry/ListEntries";
const GET: &str = "/spire.api.server.entry.v1.Entry/GetEntry";
const UPDATE: &str = "/spire.api.server.entry.v1.Entry/BatchUpdateEntry";
const DELETE: &str = "/spire.api.server.entry.v1.Entry/BatchDeleteEntry";

fn entry(path: &str) -> Entry {
    Entry {
        id: path.trim_start_matches('/').into(),
        spiffe_id: id(path),
        parent_id: id("/node"),
        selectors: vec![selector("unix", "uid:1000")],
        ..Entry::default()
    }
}

#[test]
fn create_sends_every_flag_and_prints_the_entry() {
    let created = BatchCreateEntryResponse {
        results: vec![batch_create_entry_response::Result {
            status: status(0, "OK"),
            entry: Some(entry("/web")),
        }],
    };
    let server = FakeServer::start([Answer::ok(CREATE, &created)]);
    let outcome = server.run(
        "entry create -entryID web -parentID spiffe://example.org/node \
         -spiffeID=spiffe://example.org/web --selector unix:uid:1000 -selector -odd:one \
         -x509SVIDTTL 60 -jwtSVIDTTL 30 -dns web -dns www -hint external -admin -downstream=true \
         -storeSVID=false -entryExpiry 1552410266 -federatesWith spiffe://other.org \
         -jwtSVIDIncludeJTI -disableX509SVIDPrefetch=false",
    );
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome
            .out
            .starts_with("Entry ID                : web\nSPIFFE ID  ")
    );
    assert_eq!(outcome.err, "");
    let sent = Entry {
        selectors: vec![selector("unix", "uid:1000"), selector("-odd", "one")],
        x509_svid_ttl: 60,
        jwt_svid_ttl: 30,
        dns_names: vec!["web".into(), "www".into()],
        hint: "external".into(),
        admin: true,
        downstream: true,
        expires_at: 1_552_410_266,
        federates_with: vec!["spiffe://other.org".into()],
        additional_attributes: Some(AdditionalAttributes {
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: true,
        }),
        ..entry("/web")
    };
    let requests: Vec<BatchCreateEntryRequest> = server.requests();
    assert_eq!(requests[0].entries, [sent]);
}

#[test]
fn a_node_entry_has_the_server_as_parent() {
    let server = FakeServer::start([Answer::ok(CREATE, &BatchCreateEntryResponse::default())]);
    let line = "entry create -node -spiffeID spiffe://example.org/fleet -selector x509pop:ca:cn:f";
    assert!(server.run(line).success);
    let requests: Vec<BatchCreateEntryRequest> = server.requests();
    assert_eq!(requests[0].entries[0].parent_id, id("/spire/server"));
    assert_eq!(requests[0].entries[0].additional_attributes, None);
}

#[test]
fn create_takes_a_file_from_standard_input() {
    let server = FakeServer::start([Answer::ok(CREATE, &BatchCreateEntryResponse::default())]);
    let json = r#"{"entries":[{"entry_id":"web","spiffe_id":"spiffe://example.org/web",
        "parent_id":"spiffe://example.org/node","selectors":[{"type":"unix","value":"uid:1000"}]}]}"#;
    let outcome = server.run_with_input("entry create -data -", json);
    assert!(outcome.success, "{}", outcome.err);
    let requests: Vec<BatchCreateEntryRequest> = server.requests();
    assert_eq!(requests[0].entries, [entry("/web")]);
}

#[test]
fn a_failed_create_is_printed_as_asked_and_fails() {
    let refused = BatchCreateEntryResponse {
        results: vec![batch_create_entry_response::Result {
            status: status(6, "similar entry already exists"),
            // The entry that exists, which is not what was asked for.
            entry: Some(entry("/exists")),
        }],
    };
    let line = "entry create -parentID spiffe://example.org/node -spiffeID spiffe://example.org/web \
                -selector unix:uid:1000";
    let server = FakeServer::start([Answer::ok(CREATE, &refused), Answer::ok(CREATE, &refused)]);
    let outcome = server.run(line);
    assert!(!outcome.success);
    assert_eq!(outcome.out, "");
    assert_eq!(
        outcome.err,
        "Failed to create the following entry (code: AlreadyExists, msg: \"similar entry already \
         exists\"):\n\
         Entry ID                : (none)\n\
         SPIFFE ID               : spiffe://example.org/web\n\
         Parent ID               : spiffe://example.org/node\n\
         Revision                : 0\n\
         X509-SVID TTL           : default\n\
         JWT-SVID TTL            : default\n\
         Selector                : unix:uid:1000\n\n\
         Error: failed to create one or more entries\n"
    );

    // In JSON the outcome is in the object and the call did not fail, as with SPIRE.
    let outcome = server.run(&format!("{line} -output json"));
    assert!(outcome.success);
    assert!(
        outcome
            .out
            .contains("\"status\":{\"code\":6,\"message\":\"similar entry already")
    );
    assert!(outcome.out.contains("\"path\":\"/web\""));
    assert_eq!(outcome.err, "");
}

#[test]
fn create_refuses_wrong_flags_in_spire_s_words_without_a_server() {
    for (line, error) in [
        ("", "at least one selector is required"),
        (
            "-selector unix",
            "a parent ID is required if the node flag is not set",
        ),
        ("-selector unix -parentID x", "a SPIFFE ID is required"),
        (
            "-selector unix -parentID x -spiffeID y -x509SVIDTTL -10",
            "a positive x509-SVID TTL is required",
        ),
        (
            "-selector unix -parentID x -spiffeID y -jwtSVIDTTL -10",
            "a positive JWT-SVID TTL is required",
        ),
        (
            "-selector unix -node -federatesWith z",
            "node entries can not federate",
        ),
        (
            "-selector unix -parentID spiffe://a.org/p -spiffeID spiffe://a.org/w",
            "selector \"unix\" must be formatted as type:value",
        ),
        (
            "-selector a:b -parentID spiffe://a.org/p -spiffeID spiffe://a.org/w -jwtSVIDTTL 2147483648",
            "invalid value for JWT SVID TTL: overflow converting int(2147483648) to int32",
        ),
    ] {
        assert_eq!(
            refused(&format!("entry create {line}")),
            format!("Error: {error}\n")
        );
    }
}

const UPDATE_LINE: &str = "entry update -entryID web -parentID spiffe://example.org/node \
                           -spiffeID spiffe://example.org/web -selector unix:uid:1000";

fn updated(code: i32, message: &str) -> Answer {
    let response = BatchUpdateEntryResponse {
        results: vec![batch_update_entry_response::Result {
            status: status(code, message),
            entry: (code == 0).then(|| entry("/web")),
        }],
    };
    Answer::ok(UPDATE, &response)
}

#[test]
fn update_replaces_the_whole_entry() {
    let server = FakeServer::start([updated(0, "OK")]);
    let outcome = server.run(&format!(
        "{UPDATE_LINE} -x509SVIDTTL 60 -jwtSVIDTTL 30 -dns web -hint external -admin -downstream \
         -storeSVID -entryExpiry 1552410266 -federatesWith spiffe://other.org"
    ));
    assert!(outcome.success, "{}", outcome.err);
    assert_eq!(
        outcome.out,
        "Entry ID                : web\n\
         SPIFFE ID               : spiffe://example.org/web\n\
         Parent ID               : spiffe://example.org/node\n\
         Revision                : 0\n\
         X509-SVID TTL           : default\n\
         JWT-SVID TTL            : default\n\
         Selector                : unix:uid:1000\n\n"
    );
    let sent = Entry {
        x509_svid_ttl: 60,
        jwt_svid_ttl: 30,
        dns_names: vec!["web".into()],
        hint: "external".into(),
        admin: true,
        downstream: true,
        store_svid: true,
        expires_at: 1_552_410_266,
        federates_with: vec!["spiffe://other.org".into()],
        ..entry("/web")
    };
    let request: BatchUpdateEntryRequest = server.request(0);
    assert_eq!((request.entries, request.input_mask), (vec![sent], None));
}

#[test]
fn update_leaves_the_attribute_that_no_flag_names_as_it_is() {
    let existing = Entry {
        additional_attributes: Some(AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
        }),
        ..entry("/web")
    };
    for (flags, existing, expected) in [
        ("-jwtSVIDIncludeJTI", &entry("/web"), (false, true)),
        ("-disableX509SVIDPrefetch", &entry("/web"), (true, false)),
        ("-jwtSVIDIncludeJTI=false", &existing, (true, false)),
        (
            "-disableX509SVIDPrefetch=0 -jwtSVIDIncludeJTI=T",
            &existing,
            (false, true),
        ),
    ] {
        let server = FakeServer::start([Answer::ok(GET, existing), updated(0, "OK")]);
        let outcome = server.run(&format!("{UPDATE_LINE} {flags}"));
        assert!(outcome.success, "{}", outcome.err);
        assert_eq!(server.request::<GetEntryRequest>(0).id, "web");
        let request: BatchUpdateEntryRequest = server.request(1);
        let sent = request.entries[0].additional_attributes.unwrap();
        assert_eq!(
            (sent.disable_x509_svid_prefetch, sent.jwt_svid_include_jti),
            expected,
            "{flags}"
        );
    }
    let server = FakeServer::start([Answer::refusal(GET, 5, "entry not found")]);
    assert_eq!(
        server.run(&format!("{UPDATE_LINE} -jwtSVIDIncludeJTI")).err,
        "Error: failed to fetch existing entry to merge additional attributes: rpc error: code = \
         NotFound desc = entry not found\n"
    );
}

#[test]
fn a_failed_update_is_printed_as_asked_and_fails() {
    let server = FakeServer::start([
        updated(5, "no such entry"),
        updated(5, "no such entry"),
        Answer::refusal(UPDATE, 13, "store"),
    ]);
    let outcome = server.run(UPDATE_LINE);
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert!(
        outcome.err.starts_with(
            "Failed to update the following entry (code: NotFound, msg: \"no such entry\"):\n\
             Entry ID                : web\n"
        ),
        "{}",
        outcome.err
    );
    assert!(
        outcome
            .err
            .ends_with("\n\nError: failed to update one or more entries\n")
    );
    let outcome = server.run(&format!("{UPDATE_LINE} -output json"));
    assert!(outcome.success, "{}", outcome.err);
    assert!(outcome.out.contains("\"path\":\"/web\""));
    assert_eq!(
        server.run(UPDATE_LINE).err,
        "Error: rpc error: code = Internal desc = store\n"
    );
}

#[test]
fn update_takes_a_file_from_standard_input() {
    let server = FakeServer::start([updated(0, "OK")]);
    let json = r#"{"entries":[{"entry_id":"web","spiffe_id":"spiffe://example.org/web",
        "parent_id":"spiffe://example.org/node","selectors":[{"type":"unix","value":"uid:1000"}],
        "additional_attributes":{"jwt_svid_include_jti":true}}]}"#;
    let outcome = server.run_with_input("entry update -data -", json);
    assert!(outcome.success, "{}", outcome.err);
    let request: BatchUpdateEntryRequest = server.request(0);
    let sent = Entry {
        additional_attributes: Some(AdditionalAttributes {
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: true,
        }),
        ..entry("/web")
    };
    assert_eq!(request.entries, [sent]);
}

#[test]
fn update_refuses_wrong_flags_in_spire_s_words_without_a_server() {
    for (line, error) in [
        ("", "entry ID is required"),
        ("-entryID web", "at least one selector is required"),
        ("-entryID web -selector unix", "a parent ID is required"),
        (
            "-entryID web -selector unix -parentID x",
            "a SPIFFE ID is required",
        ),
        (
            "-entryID web -selector unix -parentID x -spiffeID y -x509SVIDTTL -10",
            "a positive x509-SVID TTL is required",
        ),
        (
            "-entryID web -selector unix -parentID x -spiffeID y -jwtSVIDTTL -10",
            "a positive JWT-SVID TTL is required",
        ),
        (
            "-entryID web -selector unix -parentID x -spiffeID y",
            "error parsing parent ID \"x\": scheme is missing or invalid",
        ),
        (
            "-entryID web -selector unix -parentID spiffe://a.org/p -spiffeID spiffe://a.org/w",
            "selector \"unix\" must be formatted as type:value",
        ),
    ] {
        assert_eq!(
            refused(&format!("entry update {line}")),
            format!("Error: {error}\n")
        );
    }
}

#[test]
fn show_and_count_refuse_wrong_filters_in_spire_s_words() {
    for verb in ["show", "count"] {
        for (line, error) in [
            (
                "-spiffeID nope",
                "error parsing SPIFFE ID \"nope\": scheme is missing or invalid",
            ),
            (
                "-parentID nope",
                "error parsing parent ID \"nope\": scheme is missing or invalid",
            ),
            (
                "-selector unix",
                "error parsing selectors: selector \"unix\" must be formatted as type:value",
            ),
            (
                "-selector unix -matchSelectorsOn NO-MATCHER",
                "match behavior \"NO-MATCHER\" unknown",
            ),
            (
                "-federatesWith spiffe://other.org -matchFederatesWithOn NO-MATCHER",
                "match behavior \"NO-MATCHER\" unknown",
            ),
        ] {
            assert_eq!(
                refused(&format!("entry {verb} {line}")),
                format!("Error: {error}\n")
            );
        }
    }
}

#[test]
fn show_reads_every_page_and_sorts() {
    let page = |path: &str, token: &str| ListEntriesResponse {
        entries: vec![entry(path)],
        next_page_token: token.into(),
    };
    let last = ListEntriesResponse::default();
    let server = FakeServer::start([
        Answer::ok(LIST, &page("/web", "7")),
        Answer::ok(LIST, &page("/db", "9")),
        Answer::ok(LIST, &last),
    ]);
    let outcome = server.run(
        "entry show -parentID spiffe://example.org/node -selector unix:uid:1000 -selector a:b \
         -matchSelectorsOn any -hint h -downstream -federatesWith other.org",
    );
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome
            .out
            .starts_with("Found 2 entries\nEntry ID                : db\n")
    );
    let requests: Vec<ListEntriesRequest> = server.requests();
    let tokens: Vec<_> = requests.iter().map(|r| r.page_token.as_str()).collect();
    assert_eq!(tokens, ["", "7", "9"]);
    assert!(
        requests
            .iter()
            .all(|r| r.page_size == 500 && r.filter == requests[0].filter)
    );
    let filter = requests[0].filter.as_ref().unwrap();
    assert_eq!(filter.by_parent_id, id("/node"));
    assert_eq!(filter.by_spiffe_id, None);
    let by_selectors = filter.by_selectors.as_ref().unwrap();
    assert_eq!((by_selectors.selectors.len(), by_selectors.r#match), (2, 3));
    assert_eq!(filter.by_federates_with.as_ref().unwrap().r#match, 2);
    assert_eq!(filter.by_hint.as_deref(), Some("h"));
    assert_eq!(filter.by_downstream, Some(true));
}

#[test]
fn show_in_json_is_one_line() {
    let listed = ListEntriesResponse {
        entries: vec![entry("/web")],
        next_page_token: String::new(),
    };
    let server = FakeServer::start([Answer::ok(LIST, &listed)]);
    let outcome = server.run("entry show -output json");
    assert_eq!(
        outcome.out,
        "{\"entries\":[{\"admin\":false,\"created_at\":\"0\",\"dns_names\":[],\
         \"downstream\":false,\"expires_at\":\"0\",\"federates_with\":[],\"hint\":\"\",\
         \"id\":\"web\",\"jwt_svid_ttl\":0,\
         \"parent_id\":{\"path\":\"/node\",\"trust_domain\":\"example.org\"},\
         \"revision_number\":\"0\",\
         \"selectors\":[{\"type\":\"unix\",\"value\":\"uid:1000\"}],\
         \"spiffe_id\":{\"path\":\"/web\",\"trust_domain\":\"example.org\"},\
         \"store_svid\":false,\"x509_svid_ttl\":0}],\"next_page_token\":\"\"}\n"
    );
}

#[test]
fn show_by_id_asks_for_that_entry() {
    let server = FakeServer::start([
        Answer::ok(GET, &entry("/web")),
        Answer::refusal(GET, 5, "entry not found"),
    ]);
    let outcome = server.run("entry show -entryID web");
    assert!(
        outcome
            .out
            .starts_with("Found 1 entry\nEntry ID                : web\n")
    );

    let outcome = server.run("entry show -entryID none");
    assert!(!outcome.success);
    assert_eq!(
        outcome.err,
        "Error: error fetching entry ID none: rpc error: code = NotFound desc = entry not found\n"
    );
    let requests: Vec<GetEntryRequest> = server.requests();
    assert_eq!(requests[1].id, "none");

    let outcome = server.run("entry show -entryID web -spiffeID spiffe://example.org/web");
    assert_eq!(
        outcome.err,
        "Error: the -entryID flag can't be combined with others\n"
    );
}

#[test]
fn a_failed_page_fails_the_listing() {
    let page = ListEntriesResponse {
        entries: vec![entry("/web")],
        next_page_token: "7".into(),
    };
    let refusal = Answer::refusal(LIST, 14, "no quorum");
    let server = FakeServer::start([Answer::ok(LIST, &page), refusal]);
    let outcome = server.run("entry show");
    assert!(!outcome.success);
    assert_eq!(outcome.out, "");
    assert_eq!(
        outcome.err,
        "Error: error fetching entries: rpc error: code = Unavailable desc = no quorum\n"
    );
}

#[test]
fn count_prints_a_number() {
    let counted = |count| Answer::ok(COUNT, &CountEntriesResponse { count });
    let server = FakeServer::start([counted(5), counted(5), counted(1)]);
    assert_eq!(
        server.run("entry count -output json").out,
        "{\"count\":5}\n"
    );
    assert_eq!(server.run("entry count").out, "5 registration entries\n");
    let line = "entry count -spiffeID spiffe://example.org/web -downstream=false";
    assert_eq!(server.run(line).out, "1 registration entry\n");
    let requests: Vec<CountEntriesRequest> = server.requests();
    let filter = requests[2].filter.as_ref().unwrap();
    assert_eq!(filter.by_spiffe_id, id("/web"));
    assert_eq!(filter.by_downstream, None);
}

#[test]
fn delete_takes_one_id_or_a_file() {
    let deleted = |ids: &[&str], code| {
        let result = |id: &&str| batch_delete_entry_response::Result {
            status: status(code, "entry not found"),
            id: (*id).into(),
        };
        let results = ids.iter().map(result).collect();
        Answer::ok(DELETE, &BatchDeleteEntryResponse { results })
    };
    let server = FakeServer::start([
        deleted(&["web"], 0),
        deleted(&["a", "b"], 0),
        deleted(&["web"], 5),
    ]);
    assert_eq!(
        server.run("entry delete -entryID web").out,
        "Deleted entry with ID: web\n\n\nDeleted 1 entries successfully"
    );
    let outcome = server.run_with_input("entry delete -file -", r#"{"ids": ["a", "b"]}"#);
    assert!(outcome.success, "{}", outcome.err);
    let outcome = server.run("entry delete -entryID web");
    assert!(!outcome.success);
    assert_eq!(
        outcome.err,
        "Failed to delete entry with ID web (code: NotFound, msg: \"entry not found\")\n\
         Error: failed to delete one or more entries\n"
    );
    let requests: Vec<BatchDeleteEntryRequest> = server.requests();
    assert_eq!(requests[0].ids, ["web"]);
    assert_eq!(requests[1].ids, ["a", "b"]);
    assert_eq!(
        server.run("entry delete").err,
        "Error: an entry ID is required\n"
    );
}
