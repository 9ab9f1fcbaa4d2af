//! `x509 mint` and `jwt mint` against a server that answers as told.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chancery_api::spire::api::server::svid::v1::{
    MintJwtsvidRequest, MintJwtsvidResponse, MintX509svidRequest, MintX509svidResponse,
};
use chancery_api::spire::api::types::{Bundle, Jwtsvid, X509Certificate, X509svid};
use chancery_identity::bundle::pem;
use chancery_identity::csr::Csr;

use super::{authority, id, refused};
use crate::cli::testing::{Answer, FakeServer};

const X509: &str = "/spire.api.server.svid.v1.SVID/MintX509SVID";
const JWT: &str = "/spire.api.server.svid.v1.SVID/MintJWTSVID";
const BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";

/// What the tests' clock shows.
const NOW: i64 = 1_552_410_266;

fn x509(chain: &[Vec<u8>], expires_at: i64) -> Answer {
    let svid = X509svid {
        cert_chain: chain.to_vec(),
        id: id("/web"),
        expires_at,
        hint: String::new(),
    };
    Answer::ok(X509, &MintX509svidResponse { svid: Some(svid) })
}

fn bundle(roots: &[&Vec<u8>]) -> Answer {
    let x509_authorities = roots
        .iter()
        .map(|der| X509Certificate {
            asn1: (*der).clone(),
            tainted: false,
        })
        .collect();
    let bundle = Bundle {
        x509_authorities,
        ..Bundle::default()
    };
    Answer::ok(BUNDLE, &bundle)
}

#[test]
fn x509_mint_prints_chain_key_and_roots() {
    let ((leaf, leaf_pem), (root, root_pem)) = (authority(), authority());
    let chain = [leaf.clone(), root.clone()];
    let server = FakeServer::start([
        x509(&chain, NOW + 3_600),
        bundle(&[&root]),
        x509(&chain, NOW + 3_600),
        bundle(&[&root]),
    ]);
    let line = "x509 mint -spiffeID spiffe://example.org/web -ttl 59m59.5s -dns web -dns www";
    let outcome = server.run(line);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    let (before, rest) = outcome
        .out
        .split_once("-----BEGIN PRIVATE KEY-----\n")
        .unwrap();
    let (key, after) = rest.split_once("-----END PRIVATE KEY-----\n").unwrap();
    assert_eq!(
        before,
        format!("X509-SVID:\n{leaf_pem}{root_pem}\nPrivate key:\n")
    );
    assert_eq!(after, format!("\nRoot CAs:\n{root_pem}\n"));

    let json = server.run(&format!("{line} -output json")).out;
    assert!(
        json.starts_with(&format!(
            "{{\"x509_svid\":[\"{}\",\"{}\"],\"private_key\":\"",
            STANDARD.encode(&leaf),
            STANDARD.encode(&root)
        )),
        "{json}"
    );
    assert!(
        json.ends_with(&format!(
            "\",\"root_cas\":[\"{}\"]}}\n",
            STANDARD.encode(&root)
        )),
        "{json}"
    );

    let request: MintX509svidRequest = server.request(0);
    assert_eq!(request.ttl, 3_600);
    let csr = Csr::parse(&request.csr).unwrap();
    csr.verify_signature().unwrap();
    assert!(csr.subject_is_empty());
    let names = csr.requested_names().unwrap();
    assert_eq!(names.uris, ["spiffe://example.org/web"]);
    assert_eq!(names.dns_names, ["web", "www"]);
    // The key that is printed is the one that was certified.
    let der = STANDARD.decode(key.replace('\n', "")).unwrap();
    let pair = rcgen::KeyPair::try_from(der).unwrap();
    assert_eq!(
        rcgen::PublicKeyData::subject_public_key_info(&pair),
        csr.public_key().spki_der()
    );
}

#[test]
fn x509_mint_writes_files_and_tells_a_shorter_lifetime() {
    let ((leaf, leaf_pem), (root, root_pem)) = (authority(), authority());
    let server = FakeServer::start([x509(&[leaf], NOW + 30), bundle(&[&root])]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let outcome = server.run(&format!(
        "x509 mint -spiffeID spiffe://example.org/web -ttl 1m -write {path}/ -output json"
    ));
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert_eq!(
        outcome.err,
        "X509-SVID lifetime was capped shorter than specified ttl; expires \
         \"2019-03-12T17:04:56Z\"\n"
    );
    assert_eq!(
        outcome.out,
        format!(
            "X509-SVID written to {path}/svid.pem\n\
             Private key written to {path}/key.pem\n\
             Root CAs written to {path}/bundle.pem\n"
        )
    );
    let file = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(file("svid.pem"), leaf_pem);
    assert_eq!(file("bundle.pem"), root_pem);
    let block = x509_parser::pem::Pem::iter_from_buffer(file("key.pem").as_bytes())
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(block.label, "PRIVATE KEY");
    assert_eq!(file("key.pem"), pem("PRIVATE KEY", &block.contents));
    let key = std::fs::metadata(folder.path().join("key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[test]
fn x509_mint_tells_what_went_wrong_in_spire_s_words() {
    let (leaf, _) = authority();
    let line = "x509 mint -spiffeID spiffe://example.org/web";
    let failed = |answers: Vec<Answer>, line: &str| {
        let server = FakeServer::start(answers);
        let outcome = server.run(line);
        assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
        outcome.err
    };
    assert_eq!(
        failed(vec![Answer::refusal(X509, 2, "no")], line),
        "Error: unable to mint SVID: rpc error: code = Unknown desc = no\n"
    );
    assert_eq!(
        failed(vec![x509(&[], 0)], line),
        "Error: server response missing SVID chain\n"
    );
    assert_eq!(
        failed(
            vec![
                x509(std::slice::from_ref(&leaf), 0),
                Answer::refusal(BUNDLE, 2, "no")
            ],
            line
        ),
        "Error: unable to get bundle: rpc error: code = Unknown desc = no\n"
    );
    assert_eq!(
        failed(
            vec![x509(std::slice::from_ref(&leaf), 0), bundle(&[])],
            line
        ),
        "Error: server response missing X509 Authorities\n"
    );
    let unwritable = failed(
        vec![
            x509(std::slice::from_ref(&leaf), NOW + 60),
            bundle(&[&leaf]),
        ],
        &format!("{line} -write /nonexistent"),
    );
    assert!(
        unwritable.starts_with("Error: unable to write SVID: cannot write /nonexistent/svid.pem: "),
        "{unwritable}"
    );
    assert_eq!(refused("x509 mint"), "Error: spiffeID must be specified\n");
    assert_eq!(
        refused("x509 mint -spiffeID nope"),
        "Error: scheme is missing or invalid\n"
    );
    assert!(
        refused("x509 mint -spiffeID spiffe://example.org/web -dns é")
            .starts_with("Error: unable to generate CSR: ")
    );
    assert_eq!(
        refused("x509 mint -spiffeID spiffe://example.org/web -ttl 600000h"),
        "Error: invalid value for TTL: overflow converting int(2160000000) to int32\n"
    );
}

fn token(claims: &str) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

fn jwt(token: &str) -> Answer {
    let svid = Jwtsvid {
        token: token.into(),
        id: id("/web"),
        expires_at: 1_628_600_000,
        issued_at: 1_628_500_000,
        hint: String::new(),
    };
    Answer::ok(JWT, &MintJwtsvidResponse { svid: Some(svid) })
}

const JWT_LINE: &str = "jwt mint -spiffeID spiffe://example.org/web -audience db -audience cache";

#[test]
fn jwt_mint_prints_the_token() {
    let token = token(&format!("{{\"exp\":{}}}", NOW + 60));
    let server = FakeServer::start([jwt(&token), jwt(&token)]);
    let outcome = server.run(&format!("{JWT_LINE} -ttl 1m"));
    assert_eq!(
        (outcome.out, outcome.err.as_str()),
        (format!("{token}\n"), "")
    );
    assert_eq!(
        server.run(&format!("{JWT_LINE} -output json")).out,
        format!(
            "{{\"svid\":{{\"expires_at\":\"1628600000\",\"hint\":\"\",\
             \"id\":{{\"path\":\"/web\",\"trust_domain\":\"example.org\"}},\
             \"issued_at\":\"1628500000\",\"token\":\"{token}\"}}}}\n"
        )
    );
    let requests: Vec<MintJwtsvidRequest> = server.requests();
    assert_eq!(requests[0].id, id("/web"));
    assert_eq!(requests[0].audience, ["db", "cache"]);
    assert_eq!((requests[0].ttl, requests[1].ttl), (60, 0));
}

#[test]
fn jwt_mint_writes_a_file_and_tells_a_shorter_lifetime() {
    let token = token(&format!("{{\"exp\":{}}}", NOW + 30));
    let server = FakeServer::start([jwt(&token)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let outcome = server.run(&format!("{JWT_LINE} -ttl 1m -write {}", path.display()));
    assert_eq!(
        outcome.out,
        format!("JWT-SVID written to {}\n", path.display())
    );
    assert_eq!(
        outcome.err,
        "JWT-SVID lifetime was capped shorter than specified ttl; expires \
         \"2019-03-12T17:04:56Z\"\n"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), token);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn jwt_mint_tells_what_went_wrong_in_spire_s_words() {
    let server = FakeServer::start([
        jwt("malformed token"),
        jwt(""),
        Answer::refusal(JWT, 2, "no"),
        jwt("malformed token"),
    ]);
    let outcome = server.run(JWT_LINE);
    assert_eq!(
        (outcome.code, outcome.out.as_str()),
        (0, "malformed token\n")
    );
    assert_eq!(
        outcome.err,
        "Unable to determine JWT-SVID lifetime: go-jose/go-jose: compact JWS format must have \
         three parts\n"
    );
    assert_eq!(
        server.run(JWT_LINE).err,
        "Error: server response missing token\n"
    );
    assert_eq!(
        server.run(JWT_LINE).err,
        "Error: unable to mint SVID: rpc error: code = Unknown desc = no\n"
    );
    let unwritable = server.run(&format!("{JWT_LINE} -write /")).err;
    assert!(
        unwritable.contains("Error: unable to write token: cannot write /: "),
        "{unwritable}"
    );
    for (line, error) in [
        ("", "spiffeID must be specified"),
        (
            "-spiffeID spiffe://example.org/web",
            "at least one audience must be specified",
        ),
        (
            "-spiffeID nope -audience db",
            "scheme is missing or invalid",
        ),
    ] {
        assert_eq!(
            refused(&format!("jwt mint {line}")),
            format!("Error: {error}\n")
        );
    }
}
