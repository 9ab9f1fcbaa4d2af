//! `federation` against a server that answers as told.

use chancery_api::spire::api::server::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchCreateFederationRelationshipResponse,
    BatchDeleteFederationRelationshipRequest, BatchDeleteFederationRelationshipResponse,
    BatchUpdateFederationRelationshipRequest, BatchUpdateFederationRelationshipResponse,
    GetFederationRelationshipRequest, ListFederationRelationshipsRequest,
    ListFederationRelationshipsResponse, RefreshBundleRequest,
    batch_create_federation_relationship_response, batch_delete_federation_relationship_response,
    batch_update_federation_relationship_response,
};
use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use chancery_api::spire::api::types::{
    Bundle, FederationRelationship, HttpsWebProfile, HttpsspiffeProfile, X509Certificate,
};
use serde_json::json;

use super::{authority, refused, status};
use crate::cli::testing::{Answer, FakeServer};

const CREATE: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship";
const UPDATE: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship";
const DELETE: &str =
    "/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship";
const LIST: &str = "/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships";
const GET: &str = "/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship";
const REFRESH: &str = "/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle";

const WEB_LINE: &str = "-trustDomain td-1.org -bundleEndpointURL https://td-1.org/bundle \
                        -bundleEndpointProfile https_web";
const SPIFFE_LINE: &str = "-trustDomain td-2.org -bundleEndpointURL https://td-2.org/bundle \
                           -bundleEndpointProfile https_spiffe \
                           -endpointSpiffeID spiffe://other.org/bundle";
const WEB_TEXT: &str = "\
Trust domain              : td-1.org
Bundle endpoint URL       : https://td-1.org/bundle
Bundle endpoint profile   : https_web
";
const SPIFFE_TEXT: &str = "\
Trust domain              : td-2.org
Bundle endpoint URL       : https://td-2.org/bundle
Bundle endpoint profile   : https_spiffe
Endpoint SPIFFE ID        : spiffe://other.org/bundle
";

fn web() -> FederationRelationship {
    FederationRelationship {
        trust_domain: "td-1.org".into(),
        bundle_endpoint_url: "https://td-1.org/bundle".into(),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(HttpsWebProfile {})),
        trust_domain_bundle: None,
    }
}

fn spiffe() -> FederationRelationship {
    FederationRelationship {
        trust_domain: "td-2.org".into(),
        bundle_endpoint_url: "https://td-2.org/bundle".into(),
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
            endpoint_spiffe_id: "spiffe://other.org/bundle".into(),
        })),
        trust_domain_bundle: None,
    }
}

/// A bundle of `trust_domain` with that authority.
fn bundle(trust_domain: &str, der: &[u8]) -> Option<Bundle> {
    Some(Bundle {
        trust_domain: trust_domain.into(),
        x509_authorities: vec![X509Certificate {
            asn1: der.to_vec(),
            tainted: false,
        }],
        ..Bundle::default()
    })
}

fn created(results: &[(i32, &str, FederationRelationship)]) -> Answer {
    let result = |(code, message, relationship): &(i32, &str, FederationRelationship)| {
        batch_create_federation_relationship_response::Result {
            status: status(*code, message),
            federation_relationship: (*code == 0).then(|| relationship.clone()),
        }
    };
    let results = results.iter().map(result).collect();
    Answer::ok(
        CREATE,
        &BatchCreateFederationRelationshipResponse { results },
    )
}

#[test]
fn create_sends_both_profiles() {
    let ok = |relationship| created(&[(0, "OK", relationship)]);
    let server = FakeServer::start([ok(web()), ok(spiffe()), ok(web())]);
    let outcome = server.run(&format!("federation create {WEB_LINE}"));
    assert_eq!(outcome.out, format!("\n{WEB_TEXT}"), "{}", outcome.err);
    let outcome = server.run(&format!("federation create {SPIFFE_LINE}"));
    assert_eq!(outcome.out, format!("\n{SPIFFE_TEXT}"), "{}", outcome.err);
    assert_eq!(
        server
            .run(&format!("federation create {WEB_LINE} -output json"))
            .out,
        "{\"results\":[{\"federation_relationship\":{\
         \"bundle_endpoint_url\":\"https://td-1.org/bundle\",\"https_web\":{},\
         \"trust_domain\":\"td-1.org\"},\"status\":{\"code\":0,\"message\":\"OK\"}}]}\n"
    );
    let requests: Vec<BatchCreateFederationRelationshipRequest> = server.requests();
    assert_eq!(requests[0].federation_relationships, [web()]);
    assert_eq!(requests[1].federation_relationships, [spiffe()]);
}

#[test]
fn a_bundle_comes_from_a_file_and_is_of_the_endpoint_s_trust_domain() {
    let (der, pem) = authority();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let path = file.path().display();
    let server = FakeServer::start([created(&[]), created(&[])]);
    for line in [WEB_LINE, SPIFFE_LINE] {
        let outcome = server.run(&format!(
            "federation create {line} -trustDomainBundlePath {path}"
        ));
        assert!(outcome.success, "{}", outcome.err);
    }
    let requests: Vec<BatchCreateFederationRelationshipRequest> = server.requests();
    let sent = |at: usize| {
        let relationship = &requests[at].federation_relationships[0];
        relationship.trust_domain_bundle.clone()
    };
    assert_eq!(sent(0), bundle("td-1.org", &der));
    assert_eq!(sent(1), bundle("other.org", &der));
}

#[test]
fn failures_are_printed_as_asked_below_what_succeeded() {
    let (web, spiffe) = (web(), spiffe());
    let answer = || created(&[(6, "the message", web.clone()), (0, "OK", spiffe.clone())]);
    let json = json!({"federationRelationships": [
        {"trustDomain": "td-1.org", "bundleEndpointURL": "https://td-1.org/bundle",
         "bundleEndpointProfile": "https_web"},
        {"trustDomain": "td-2.org", "bundleEndpointURL": "https://td-2.org/bundle",
         "bundleEndpointProfile": "https_spiffe", "endpointSpiffeID": "spiffe://other.org/bundle"},
    ]})
    .to_string();
    let server = FakeServer::start([
        answer(),
        answer(),
        Answer::refusal(CREATE, 2, "server error"),
    ]);
    let outcome = server.run_with_input("federation create -data -", &json);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.out, format!("\n{SPIFFE_TEXT}\n"));
    assert_eq!(
        outcome.err,
        format!(
            "Failed to create the following federation relationship (code: AlreadyExists, msg: \
             \"the message\"):\n{WEB_TEXT}\
             Error: failed to create one or more federation relationships\n"
        )
    );
    let outcome = server.run_with_input("federation create -data - -output json", &json);
    assert!(outcome.success, "{}", outcome.err);
    assert!(
        outcome
            .out
            .starts_with("{\"results\":[{\"status\":{\"code\":6,\"message\":\"the message\"}},"),
        "{}",
        outcome.out
    );
    assert_eq!(
        server
            .run_with_input("federation create -data -", &json)
            .err,
        "Error: request failed: rpc error: code = Unknown desc = server error\n"
    );
    let requests: Vec<BatchCreateFederationRelationshipRequest> = server.requests();
    assert_eq!(requests[0].federation_relationships, [web, spiffe]);
}

#[test]
fn a_file_holds_bundles_whole() {
    let (der, pem) = authority();
    let document = crate::cli::bundle_file::written(
        &bundle("td-4.org", &der).unwrap(),
        crate::cli::bundle_file::Form::Spiffe,
    );
    let document: serde_json::Value = serde_json::from_str(&document.unwrap()).unwrap();
    let file = json!({"FEDERATIONRELATIONSHIPS": [
        {"trustDomain": "td-3.org", "bundleEndpointURL": "https://td-3.org/bundle",
         "bundleEndpointProfile": "https_web", "trustDomainBundleFormat": "pem",
         "trustDomainBundle": pem, "comment": "for people", "endpointSPIFFEID": null},
        {"trustDomain": "td-4.org", "bundleEndpointURL": "https://td-4.org/bundle",
         "bundleEndpointProfile": "https_spiffe", "endpointSPIFFEID": "spiffe://td-4.org/x",
         "trustDomainBundleFormat": "spiffe", "trustDomainBundle": document},
    ]});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relationships.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let server = FakeServer::start([created(&[])]);
    let outcome = server.run(&format!("federation create -data {}", path.display()));
    assert!(outcome.success, "{}", outcome.err);
    let request: BatchCreateFederationRelationshipRequest = server.request(0);
    let bundles: Vec<_> = request
        .federation_relationships
        .into_iter()
        .map(|relationship| relationship.trust_domain_bundle)
        .collect();
    assert_eq!(
        bundles,
        [bundle("td-3.org", &der), bundle("td-4.org", &der)]
    );
}

#[test]
fn wrong_files_are_refused_with_the_item() {
    let refused = |json: &str| {
        let server = FakeServer::start([]);
        let outcome = server.run_with_input("federation update -data -", json);
        assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
        outcome.err
    };
    let item = |members: &str| {
        refused(&format!(
            "{{\"federationRelationships\":[{{\"trustDomain\":\"td.org\",\
             \"bundleEndpointURL\":\"https://td.org\",\
             \"bundleEndpointProfile\":\"https_web\"{members}}}]}}"
        ))
    };
    for json in [
        "",
        "[]",
        "{\"federationRelationships\":[{\"trustDomain\":1}]}",
    ] {
        let error = refused(json);
        assert!(
            error.starts_with("Error: failed to parse JSON: "),
            "{error}"
        );
    }
    assert_eq!(
        refused("{\"federationRelationships\":[{\"trustDomain\":\"\"}]}"),
        "Error: could not parse item 0: trust domain is required\n"
    );
    assert_eq!(
        item(",\"trustDomainBundle\":\"x\",\"trustDomainBundleFormat\":\"pem\""),
        "Error: could not parse item 0: cannot parse bundle raw message: unable to parse bundle \
         data: no PEM blocks\n"
    );
    assert_eq!(
        item(",\"trustDomainBundle\":\"x\""),
        "Error: could not parse item 0: cannot parse bundle raw message: bundle format \"\" is \
         unsupported\n"
    );
    assert!(
        item(",\"trustDomainBundle\":{},\"trustDomainBundleFormat\":\"pem\"")
            .contains("failed to unmarshal json: ")
    );
}

#[test]
fn update_sends_and_prints_as_create_does() {
    let result = |code, relationship: Option<FederationRelationship>| {
        batch_update_federation_relationship_response::Result {
            status: status(code, "the message"),
            federation_relationship: relationship,
        }
    };
    let answer = |result| {
        let results = vec![result];
        Answer::ok(
            UPDATE,
            &BatchUpdateFederationRelationshipResponse { results },
        )
    };
    let server = FakeServer::start([
        answer(result(0, Some(web()))),
        answer(result(5, None)),
        Answer::refusal(UPDATE, 2, "server error"),
    ]);
    let line = format!("federation update {WEB_LINE}");
    assert_eq!(server.run(&line).out, format!("\n{WEB_TEXT}"));
    let outcome = server.run(&line);
    assert_eq!((outcome.code, outcome.out.as_str()), (1, "\n"));
    assert_eq!(
        outcome.err,
        format!(
            "Failed to update the following federation relationship (code: NotFound, msg: \
             \"the message\"):\n{WEB_TEXT}\
             Error: failed to update one or more federation relationships\n"
        )
    );
    assert_eq!(
        server.run(&line).err,
        "Error: request failed: rpc error: code = Unknown desc = server error\n"
    );
    let requests: Vec<BatchUpdateFederationRelationshipRequest> = server.requests();
    assert_eq!(requests[0].federation_relationships, [web()]);
    assert_eq!(requests[0].input_mask, None);
}

#[test]
fn relationships_are_listed_and_shown() {
    let page = |relationship, next: &str| {
        let response = ListFederationRelationshipsResponse {
            federation_relationships: vec![relationship],
            next_page_token: next.into(),
        };
        Answer::ok(LIST, &response)
    };
    let server = FakeServer::start([page(web(), "1"), page(spiffe(), "")]);
    assert_eq!(
        server.run("federation list").out,
        format!("Found 2 federation relationships\n\n{WEB_TEXT}\n{SPIFFE_TEXT}")
    );
    let requests: Vec<ListFederationRelationshipsRequest> = server.requests();
    assert_eq!(requests[1].page_token, "1");
    let empty = ListFederationRelationshipsResponse::default();
    let server = FakeServer::start([
        Answer::ok(LIST, &empty),
        Answer::refusal(LIST, 2, "server error"),
        Answer::ok(GET, &spiffe()),
        Answer::refusal(GET, 5, "federation relationship does not exist"),
    ]);
    assert_eq!(
        server.run("federation list -output json").out,
        "{\"federation_relationships\":[],\"next_page_token\":\"\"}\n"
    );
    assert_eq!(
        server.run("federation list").err,
        "Error: error listing federation relationship: rpc error: code = Unknown desc = server \
         error\n"
    );
    assert_eq!(
        server.run("federation show -trustDomain td-2.org").out,
        format!("Found a federation relationship with trust domain td-2.org:\n\n{SPIFFE_TEXT}")
    );
    assert_eq!(
        server.run("federation show -trustDomain td-9.org").err,
        "Error: error showing federation relationship: rpc error: code = NotFound desc = \
         federation relationship does not exist\n"
    );
    let request: GetFederationRelationshipRequest = server.request(2);
    assert_eq!(request.trust_domain, "td-2.org");
}

#[test]
fn a_relationship_is_deleted() {
    let result = |code| {
        let results = vec![batch_delete_federation_relationship_response::Result {
            status: status(code, "the message"),
            trust_domain: "td-1.org".into(),
        }];
        Answer::ok(
            DELETE,
            &BatchDeleteFederationRelationshipResponse { results },
        )
    };
    let server = FakeServer::start([
        result(0),
        result(5),
        result(5),
        Answer::refusal(DELETE, 2, "server error"),
    ]);
    let line = "federation delete -id spiffe://td-1.org";
    assert_eq!(server.run(line).out, "federation relationship deleted.\n");
    assert_eq!(
        server.run(line).err,
        "Error: failed to delete federation relationship \"td-1.org\": the message\n"
    );
    assert_eq!(
        server.run(&format!("{line} -output json")).out,
        "{\"results\":[{\"status\":{\"code\":5,\"message\":\"the message\"},\
         \"trust_domain\":\"td-1.org\"}]}\n"
    );
    assert_eq!(
        server.run(line).err,
        "Error: failed to delete federation relationship: rpc error: code = Unknown desc = server \
         error\n"
    );
    let requests: Vec<BatchDeleteFederationRelationshipRequest> = server.requests();
    assert_eq!(requests[0].trust_domains, ["spiffe://td-1.org"]);
}

#[test]
fn a_bundle_is_refreshed() {
    let server = FakeServer::start([
        Answer::ok(REFRESH, &()),
        Answer::ok(REFRESH, &()),
        Answer::refusal(REFRESH, 5, "no relationship"),
        Answer::refusal(REFRESH, 13, "oh no"),
    ]);
    let line = "federation refresh -id spiffe://td-1.org";
    assert_eq!(server.run(line).out, "Bundle refreshed\n");
    assert_eq!(
        server.run(&format!("{line} -output json")).out,
        "{\"code\":0,\"message\":\"OK\"}\n"
    );
    assert_eq!(
        server.run(line).err,
        "Error: there is no federation relationship with trust domain \"spiffe://td-1.org\"\n"
    );
    assert_eq!(
        server.run(line).err,
        "Error: failed to refresh bundle: rpc error: code = Internal desc = oh no\n"
    );
    let requests: Vec<RefreshBundleRequest> = server.requests();
    assert_eq!(requests[0].trust_domain, "spiffe://td-1.org");
}

#[test]
fn wrong_flags_are_refused_in_spire_s_words_without_a_server() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "corrupted-bundle").unwrap();
    let corrupted = format!(
        "{WEB_LINE} -trustDomainBundlePath {}",
        file.path().display()
    );
    for verb in ["create", "update"] {
        for (line, error) in [
            ("", "trust domain is required"),
            ("-trustDomain td.org", "bundle endpoint URL is required"),
            (
                "-trustDomain td.org -bundleEndpointURL https://td.org \
                 -bundleEndpointProfile bad-type",
                "unknown bundle endpoint profile type: \"bad-type\"",
            ),
            (
                "-trustDomain td.org -bundleEndpointURL https://td.org \
                 -bundleEndpointProfile https_spiffe",
                "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set",
            ),
            (
                "-trustDomain td.org -bundleEndpointURL https://td.org \
                 -bundleEndpointProfile https_spiffe -endpointSpiffeID invalid-id",
                "cannot parse bundle endpoint SPIFFE ID: scheme is missing or invalid",
            ),
            (
                &corrupted,
                "cannot parse bundle file: unable to parse bundle data: no PEM blocks",
            ),
            (
                "-data - -trustDomain td.org",
                "cannot use other flags to specify relationship fields when 'data' flag is set",
            ),
            (
                "-data - -trustDomainBundleFormat spiffe",
                "cannot use other flags to specify relationship fields when 'data' flag is set",
            ),
        ] {
            assert_eq!(
                refused(&format!("federation {verb} {line}")),
                format!("Error: {error}\n")
            );
        }
        let missing = refused(&format!(
            "federation {verb} {WEB_LINE} -trustDomainBundlePath /nonexistent/bundle"
        ));
        assert!(
            missing.starts_with("Error: cannot read bundle file: cannot read /nonexistent/bundle"),
            "{missing}"
        );
    }
    for (line, error) in [
        ("show", "a trust domain name is required"),
        ("delete", "id is required"),
        ("refresh", "id is required"),
    ] {
        assert_eq!(
            refused(&format!("federation {line}")),
            format!("Error: {error}\n")
        );
    }
}
