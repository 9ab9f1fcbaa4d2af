#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn root(algorithm: &'static rcgen::SignatureAlgorithm) -> X509Authority {
    let pair = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let der = params.self_signed(&pair).unwrap().der().to_vec();
    X509Authority::new(der, false).unwrap()
}

fn jwt(algorithm: &'static rcgen::SignatureAlgorithm, kid: &str) -> JwtAuthority {
    let pair = KeyPair::generate_for(algorithm).unwrap();
    JwtAuthority::new(&pair.subject_public_key_info(), kid.into(), 0, false).unwrap()
}

fn bundle() -> Bundle {
    Bundle {
        x509_authorities: vec![
            root(&rcgen::PKCS_ECDSA_P256_SHA256),
            root(&rcgen::PKCS_RSA_SHA256),
            root(&rcgen::PKCS_ED25519),
        ],
        jwt_authorities: vec![
            jwt(&rcgen::PKCS_ECDSA_P384_SHA384, "b"),
            jwt(&rcgen::PKCS_ECDSA_P521_SHA512, "a"),
            jwt(&rcgen::PKCS_RSA_SHA256, "<c>&"),
        ],
        sequence: 7,
        refresh_hint: 300,
        ..Bundle::new(domain())
    }
}

fn parse(document: &str, strictness: Strictness) -> Result<Bundle, ReadError> {
    Bundle::parse_spiffe_json(domain(), document.as_bytes(), strictness)
}

#[test]
fn the_document_is_written_byte_for_byte_as_spire_prints_it() {
    // RFC 8032 §7.1, test 1, as a JWT key: everything here can be checked by hand.
    let spki = hex::decode(
        "302a300506032b6570032100d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    )
    .unwrap();
    let mut bundle = Bundle::new(domain());
    bundle
        .jwt_authorities
        .push(JwtAuthority::new(&spki, "a&b".into(), 99, true).unwrap());
    bundle.sequence = 3;
    bundle.refresh_hint = 300;
    assert_eq!(
        bundle.to_spiffe_json(),
        r#"{
    "keys": [
        {
            "use": "jwt-svid",
            "kty": "OKP",
            "kid": "a\u0026b",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
        }
    ],
    "spiffe_sequence": 3,
    "spiffe_refresh_hint": 300
}"#
    );
    assert_eq!(
        bundle.to_jwks(),
        r#"{
    "keys": [
        {
            "kty": "OKP",
            "kid": "a\u0026b",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
        }
    ]
}"#
    );
}

#[test]
fn x509_authorities_have_a_certificate_and_no_key_id() {
    let bundle = bundle();
    let document: Value = serde_json::from_str(&bundle.to_spiffe_json()).unwrap();
    let keys = document["keys"].as_array().unwrap();
    for (key, authority) in keys.iter().zip(&bundle.x509_authorities) {
        assert_eq!(key["use"], "x509-svid");
        assert_eq!(key["x5c"], json!([STANDARD.encode(authority.der())]));
        assert!(key.get("kid").is_none());
    }
    let text = bundle.to_spiffe_json();
    let places: Vec<_> = ["\"use\"", "\"kty\"", "\"crv\"", "\"x\"", "\"y\"", "\"x5c\""]
        .map(|member| text.find(member).unwrap())
        .into();
    assert!(places.is_sorted());
    assert_eq!(keys[1]["e"], "AQAB");
    assert_eq!(keys[3]["kid"], "b");
}

#[test]
fn zero_members_are_left_out_and_keys_are_always_there() {
    assert_eq!(
        Bundle::new(domain()).to_spiffe_json(),
        "{\n    \"keys\": []\n}"
    );
}

#[test]
fn what_is_written_reads_back_under_both_rules() {
    let bundle = bundle();
    for strictness in [Strictness::Strict, Strictness::Lenient] {
        assert_eq!(
            parse(&bundle.to_spiffe_json(), strictness),
            Ok(bundle.clone())
        );
    }
}

/// The document of `bundle` with its first key changed.
fn spoiled(bundle: &Bundle, spoil: impl FnOnce(&mut Value)) -> String {
    let mut document: Value = serde_json::from_str(&bundle.to_spiffe_json()).unwrap();
    spoil(&mut document["keys"][0]);
    document.to_string()
}

#[test]
fn one_bad_key_is_fatal_or_passed_over() {
    let x509 = Bundle {
        jwt_authorities: vec![],
        ..bundle()
    };
    let tokens = Bundle {
        x509_authorities: vec![],
        ..bundle()
    };
    let other = STANDARD.encode(root(&rcgen::PKCS_ECDSA_P256_SHA256).der());
    let unknown = |found: &str| ReadError::UnknownUse {
        found: found.into(),
        at: 0,
    };
    let count = |count| ReadError::CertificateCount { at: 0, count };
    type Spoil = Box<dyn FnOnce(&mut Value)>;
    let set = |member: &'static str, value: Value| -> Spoil {
        Box::new(move |key: &mut Value| key[member] = value)
    };
    let cases: Vec<(&Bundle, Spoil, ReadError)> = vec![
        (&x509, set("use", json!("")), ReadError::NoUse(0)),
        (&x509, set("use", json!("sig")), unknown("sig")),
        (&x509, set("x5c", json!([])), count(0)),
        (&x509, set("x5c", json!(["a", "b"])), count(2)),
        (&x509, set("x5c", json!(["AAAA"])), ReadError::BadKey(0)),
        (&x509, set("x5c", json!([other])), ReadError::BadKey(0)),
        (&x509, set("kty", json!("oct")), ReadError::BadKey(0)),
        (&x509, set("x", json!("AAAA")), ReadError::BadKey(0)),
        (&tokens, set("kid", json!("")), ReadError::NoKeyId(0)),
        (&tokens, set("kid", json!(7)), ReadError::BadKey(0)),
        (
            &tokens,
            set("crv", json!("secp256k1")),
            ReadError::BadKey(0),
        ),
    ];
    for (bundle, spoil, error) in cases {
        let document = spoiled(bundle, spoil);
        assert_eq!(parse(&document, Strictness::Strict), Err(error));
        let mut rest = bundle.clone();
        if rest.x509_authorities.is_empty() {
            rest.jwt_authorities.remove(0);
        } else {
            rest.x509_authorities.remove(0);
        }
        assert_eq!(parse(&document, Strictness::Lenient), Ok(rest));
    }
}

#[test]
fn a_document_that_is_none_is_refused_under_both_rules() {
    let keys = vec!["{}"; KEYS_MAX + 1].join(",");
    for strictness in [Strictness::Strict, Strictness::Lenient] {
        assert_eq!(parse("{}", strictness), Err(ReadError::NoKeys));
        assert_eq!(
            parse(r#"{"keys": null}"#, strictness),
            Err(ReadError::NoKeys)
        );
        assert!(matches!(parse("[]", strictness), Err(ReadError::Json(_))));
        assert_eq!(
            parse(&format!(r#"{{"keys": [{keys}]}}"#), strictness),
            Err(ReadError::TooManyKeys)
        );
        assert_eq!(
            parse(&" ".repeat(DOCUMENT_BYTES_MAX + 1), strictness),
            Err(ReadError::TooLarge)
        );
    }
}

#[test]
fn wit_keys_are_passed_over_and_repeated_keys_kept_once() {
    let bundle = bundle();
    let mut document: Value = serde_json::from_str(&bundle.to_spiffe_json()).unwrap();
    let keys = document["keys"].as_array_mut().unwrap();
    keys.push(keys[0].clone());
    keys.push(json!({"use": "wit-svid", "kty": "EC", "kid": "w"}));
    assert_eq!(parse(&document.to_string(), Strictness::Strict), Ok(bundle));
}

#[test]
fn authorities_that_clients_cannot_read_never_get_in() {
    assert!(matches!(
        X509Authority::new(vec![0x30, 0], false),
        Err(AuthorityError::Certificate(_))
    ));
    let two = [bundle().x509_authorities[0].der(), &[0x30, 0]].concat();
    assert_eq!(
        X509Authority::new(two.clone(), false),
        Err(AuthorityError::Certificate(DerError::Trailing))
    );
    assert_eq!(split_certificates(&two).unwrap().len(), 2);
    assert_eq!(split_certificates(&[]), Err(DerError::ListLength));
    assert_eq!(
        JwtAuthority::new(&[], String::new(), 0, false),
        Err(AuthorityError::NoKeyId)
    );
    let known = bundle().jwt_authorities.remove(0);
    let named = |bytes| JwtAuthority::new(known.spki_der(), "k".repeat(bytes), 0, false);
    assert!(named(ID_BYTES_MAX).is_ok());
    assert_eq!(named(ID_BYTES_MAX + 1), Err(AuthorityError::IdTooLong));
    assert!(matches!(
        JwtAuthority::new(&[0x30, 0], "k".into(), 0, false),
        Err(AuthorityError::Key(_))
    ));
}

#[test]
fn pem_has_lines_of_64_characters() {
    let bundle = bundle();
    let pem = bundle.to_pem();
    assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----\n").count(), 3);
    let lines: Vec<&str> = pem_certificate(&[0; 49])
        .lines()
        .map(str::len)
        .map(|length| match length {
            64 => "full",
            4 => "rest",
            27 | 25 => "mark",
            _ => "wrong",
        })
        .collect();
    assert_eq!(lines, ["mark", "full", "rest", "mark"]);
    assert!(pem_certificate(&[0; 48]).ends_with("A\n-----END CERTIFICATE-----\n"));
}

#[test]
fn authorities_are_named_by_their_key_identifier() {
    assert_eq!(authority_id(&[0x0a, 0xff]), "0aff");
    let authority = root(&rcgen::PKCS_ECDSA_P256_SHA256);
    assert_eq!(authority.authority_id().len(), 40);
}

proptest! {
    #[test]
    fn no_document_makes_the_reader_panic(text in r#"[{}\[\]",:a-z0-9 ]{0,64}"#) {
        let _ = parse(&text, Strictness::Strict);
        let _ = parse(&text, Strictness::Lenient);
    }

    #[test]
    fn any_key_id_survives_the_round_trip(kid in "\\PC{1,20}") {
        let mut bundle = Bundle::new(domain());
        bundle.jwt_authorities.push(jwt(&rcgen::PKCS_ED25519, &kid));
        prop_assert_eq!(parse(&bundle.to_spiffe_json(), Strictness::Strict), Ok(bundle));
    }
}
