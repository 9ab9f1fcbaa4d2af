//! `bundle` against a server that answers as told.

use chancery_api::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse,
    BatchSetFederatedBundleRequest, BatchSetFederatedBundleResponse, CountBundlesResponse,
    GetFederatedBundleRequest, ListFederatedBundlesRequest, ListFederatedBundlesResponse,
    batch_delete_federated_bundle_response, batch_set_federated_bundle_response,
};
use chancery_api::spire::api::types::{Bundle, X509Certificate};

use super::{authority, refused, status};
use crate::cli::testing::{Answer, FakeServer};

const BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
const FEDERATED: &str = "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle";
const LIST: &str = "/spire.api.server.bundle.v1.Bundle/ListFederatedBundles";
const SET: &str = "/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle";
const DELETE: &str = "/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle";
const COUNT: &str = "/spire.api.server.bundle.v1.Bundle/CountBundles";

/// A bundle with one authority, and that as PEM.
fn bundle(trust_domain: &str) -> (Bundle, String) {
    let (asn1, pem) = authority();
    let bundle = Bundle {
        trust_domain: trust_domain.into(),
        x509_authorities: vec![X509Certificate {
            asn1,
            tainted: false,
        }],
        ..Bundle::default()
    };
    (bundle, pem)
}

#[test]
fn a_bundle_is_pem_or_a_document() {
    let (der, _) = authority();
    let der = der.as_slice();
    let bundle = Bundle {
        trust_domain: "example.org".into(),
        x509_authorities: vec![
            X509Certificate {
                asn1: der.to_vec(),
                tainted: false,
            },
            X509Certificate {
                asn1: [der, der].concat(),
                tainted: false,
            },
        ],
        refresh_hint: 300,
        sequence_number: 7,
        ..Bundle::default()
    };
    let server = FakeServer::start((0..3).map(|_| Answer::ok(BUNDLE, &bundle)));
    let pem = server.run("bundle show").out;
    let blocks: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .map(|block| block.unwrap().contents)
        .collect();
    assert_eq!(blocks, [der, der, der]);
    assert!(pem.lines().all(|line| line.len() <= 64));

    // JSON has one form; the flag is for people.
    let json = server.run("bundle show -output json -format jwks").out;
    assert!(
        json.starts_with("{\"jwt_authorities\":[],\"refresh_hint\":\"300\","),
        "{json}"
    );

    let outcome = server.run("bundle show -format SPIFFE");
    assert!(outcome.success, "{}", outcome.err);
    let document: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(document["spiffe_sequence"], 7);
    assert_eq!(document["spiffe_refresh_hint"], 300);
    assert_eq!(document["keys"].as_array().unwrap().len(), 3);

    let outcome = server.run("bundle show -format jwks");
    assert_eq!(outcome.err, "Error: invalid format: \"jwks\"\n");
}

#[test]
fn a_bundle_that_is_no_certificate_is_not_printed() {
    let bundle = Bundle {
        x509_authorities: vec![X509Certificate {
            asn1: b"no DER".to_vec(),
            tainted: false,
        }],
        ..Bundle::default()
    };
    let server = FakeServer::start([Answer::ok(BUNDLE, &bundle)]);
    let outcome = server.run("bundle show");
    assert!(!outcome.success);
    assert_eq!(outcome.out, "");
    assert!(
        outcome
            .err
            .starts_with("Error: the server's answer cannot be used: ")
    );
}

#[test]
fn federated_bundles_stand_under_their_trust_domains() {
    let ((one, one_pem), (two, two_pem)) = (bundle("one.org"), bundle("two.org"));
    let page = |bundle: &Bundle, next: &str| {
        let response = ListFederatedBundlesResponse {
            bundles: vec![bundle.clone()],
            next_page_token: next.into(),
        };
        Answer::ok(LIST, &response)
    };
    let server = FakeServer::start([page(&one, "1"), page(&two, "")]);
    assert_eq!(
        server.run("bundle list").out,
        format!(
            "****************************************\n\
             * one.org\n\
             ****************************************\n\
             {one_pem}\n\
             ****************************************\n\
             * two.org\n\
             ****************************************\n\
             {two_pem}"
        )
    );
    let requests: Vec<ListFederatedBundlesRequest> = server.requests();
    assert_eq!(requests[1].page_token, "1");

    let server = FakeServer::start([page(&one, ""), page(&one, "")]);
    let json = server.run("bundle list -output json").out;
    assert!(
        json.starts_with("{\"bundles\":[{\"jwt_authorities\":[],"),
        "{json}"
    );
    assert!(json.ends_with("}],\"next_page_token\":\"\"}\n"), "{json}");
    let document = server.run("bundle list -format spiffe").out;
    assert!(
        document.starts_with(
            "****************************************\n* one.org\n\
             ****************************************\n{\n    \"keys\": [\n"
        ),
        "{document}"
    );

    let server = FakeServer::start([Answer::ok(LIST, &ListFederatedBundlesResponse::default())]);
    assert_eq!(server.run("bundle list").out, "");
}

#[test]
fn one_federated_bundle_has_no_heading() {
    let (one, pem) = bundle("one.org");
    let server = FakeServer::start([
        Answer::ok(FEDERATED, &one),
        Answer::refusal(FEDERATED, 5, "bundle not found"),
    ]);
    assert_eq!(server.run("bundle list -id spiffe://one.org").out, pem);
    assert_eq!(
        server.run("bundle list -id spiffe://one.org").err,
        "Error: rpc error: code = NotFound desc = bundle not found\n"
    );
    let request: GetFederatedBundleRequest = server.request(0);
    assert_eq!(request.trust_domain, "spiffe://one.org");
}

#[test]
fn set_takes_pem_or_a_document_from_a_file_or_standard_input() {
    let (one, pem) = bundle("one.org");
    let set = || {
        let response = BatchSetFederatedBundleResponse {
            results: vec![batch_set_federated_bundle_response::Result {
                status: status(0, ""),
                bundle: Some(Bundle {
                    trust_domain: "one.org".into(),
                    ..Bundle::default()
                }),
            }],
        };
        Answer::ok(SET, &response)
    };
    let document = crate::cli::bundle_file::written(&one, crate::cli::bundle_file::Form::Spiffe);
    let document = document.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &pem).unwrap();
    let path = file.path().display();

    let server = FakeServer::start([set(), set(), set(), set()]);
    let id = "bundle set -id spiffe://one.org";
    let outcome = server.run_with_input(id, &pem);
    assert_eq!(outcome.out, "bundle set.\n", "{}", outcome.err);
    let outcome = server.run_with_input(&format!("{id} -format SPIFFE"), &document);
    assert_eq!(outcome.out, "bundle set.\n", "{}", outcome.err);
    let outcome = server.run(&format!("{id} -path {path} -format pem"));
    assert_eq!(outcome.out, "bundle set.\n", "{}", outcome.err);
    assert_eq!(
        server
            .run_with_input(&format!("{id} -output json"), &pem)
            .out,
        "{\"results\":[{\"bundle\":{\"jwt_authorities\":[],\"refresh_hint\":\"0\",\
         \"sequence_number\":\"0\",\"trust_domain\":\"one.org\",\"wit_authorities\":[],\
         \"x509_authorities\":[]},\"status\":{\"code\":0,\"message\":\"\"}}]}\n"
    );
    let requests: Vec<BatchSetFederatedBundleRequest> = server.requests();
    // PEM says nothing of a trust domain, so that the text goes as it was given.
    let as_given = Bundle {
        trust_domain: "spiffe://one.org".into(),
        ..one.clone()
    };
    for (request, sent) in requests.iter().zip([&as_given, &one, &as_given]) {
        assert_eq!(request.bundle, std::slice::from_ref(sent));
    }
}

#[test]
fn a_bundle_that_is_not_set_is_told() {
    let (_, pem) = bundle("one.org");
    let failed = || {
        let response = BatchSetFederatedBundleResponse {
            results: vec![batch_set_federated_bundle_response::Result {
                status: status(13, "failed to set"),
                bundle: None,
            }],
        };
        Answer::ok(SET, &response)
    };
    let server = FakeServer::start([
        failed(),
        failed(),
        Answer::refusal(SET, 13, "some error"),
        Answer::ok(SET, &BatchSetFederatedBundleResponse::default()),
    ]);
    let run = |flags: &str| server.run_with_input(&format!("bundle set -id one.org{flags}"), &pem);
    let outcome = run("");
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert_eq!(
        outcome.err,
        "Error: failed to set federated bundle: failed to set\n"
    );
    // In JSON the outcome is in the object and the call did not fail, as with SPIRE.
    let outcome = run(" -output json");
    assert!(outcome.success);
    assert_eq!(
        outcome.out,
        "{\"results\":[{\"status\":{\"code\":13,\"message\":\"failed to set\"}}]}\n"
    );
    assert_eq!(
        run("").err,
        "Error: failed to set federated bundle: rpc error: code = Internal desc = some error\n"
    );
    assert_eq!(
        run("").err,
        "Error: the server's answer cannot be used: it has no result\n"
    );
}

#[test]
fn delete_sends_its_mode() {
    let result = |code, message| {
        let response = BatchDeleteFederatedBundleResponse {
            results: vec![batch_delete_federated_bundle_response::Result {
                status: status(code, message),
                trust_domain: "one.org".into(),
            }],
        };
        Answer::ok(DELETE, &response)
    };
    let server = FakeServer::start([
        result(0, "ok"),
        result(0, "ok"),
        result(0, "ok"),
        result(0, "ok"),
        result(13, "some error"),
        result(13, "some error"),
    ]);
    let id = "bundle delete -id spiffe://one.org";
    for mode in ["", " -mode restrict", " -mode dissociate", " -mode delete"] {
        let outcome = server.run(&format!("{id}{mode}"));
        assert_eq!(outcome.out, "bundle deleted.\n", "{}", outcome.err);
    }
    assert_eq!(
        server.run(id).err,
        "Error: failed to delete federated bundle \"one.org\": some error\n"
    );
    assert_eq!(
        server.run(&format!("{id} -output json")).out,
        "{\"results\":[{\"status\":{\"code\":13,\"message\":\"some error\"},\
         \"trust_domain\":\"one.org\"}]}\n"
    );
    let requests: Vec<BatchDeleteFederatedBundleRequest> = server.requests();
    let modes: Vec<i32> = requests.iter().map(|request| request.mode).collect();
    // As the contract numbers them: restrict, delete, dissociate.
    assert_eq!(modes, [0, 0, 2, 1, 0, 0]);
    assert_eq!(requests[0].trust_domains, ["spiffe://one.org"]);

    let server = FakeServer::start([Answer::refusal(DELETE, 13, "some error")]);
    assert_eq!(
        server.run(id).err,
        "Error: failed to delete federated bundle: rpc error: code = Internal desc = some error\n"
    );
}

#[test]
fn bundles_are_counted() {
    let counted = |count| Answer::ok(COUNT, &CountBundlesResponse { count });
    let server = FakeServer::start([counted(2), counted(1), counted(0)]);
    assert_eq!(server.run("bundle count").out, "2 bundles\n");
    assert_eq!(server.run("bundle count").out, "1 bundle\n");
    assert_eq!(
        server.run("bundle count -output json").out,
        "{\"count\":0}\n"
    );
}

#[test]
fn wrong_flags_are_refused_in_spire_s_words_without_a_server() {
    for (line, error) in [
        ("set", "id flag is required"),
        ("set -id one.org -format JWKS", "invalid format: \"jwks\""),
        (
            "set -id one.org",
            "unable to parse bundle data: no PEM blocks",
        ),
        ("delete", "id is required"),
        (
            "delete -id one.org -mode invalid",
            "unsupported mode \"invalid\"",
        ),
        ("list -format jwks", "invalid format: \"jwks\""),
    ] {
        assert_eq!(
            refused(&format!("bundle {line}")),
            format!("Error: {error}\n")
        );
    }
    let missing = refused("bundle set -id one.org -path /nonexistent/bundle");
    assert!(
        missing.starts_with("Error: unable to load bundle data: cannot read /nonexistent/bundle: "),
        "{missing}"
    );
}
