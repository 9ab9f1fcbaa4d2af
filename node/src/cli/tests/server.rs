//! `bundle`, `healthcheck`, `cluster` and the server's own verbs.

use chancery_api::chancery::cluster::v1::StatusResponse;
use chancery_api::grpc::health::v1::HealthCheckResponse;
use chancery_api::spire::api::types::{Bundle, X509Certificate};

use crate::cli::testing::{Answer, FakeServer, cluster_status, run};

const BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const STATUS: &str = "/chancery.cluster.v1.Cluster/Status";

#[test]
fn a_bundle_is_pem_or_a_document() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let der = certificate.der().as_ref();
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
