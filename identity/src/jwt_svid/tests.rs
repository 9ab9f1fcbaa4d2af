#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // keys for tests come from the system's generator

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::*;
use crate::id::TrustDomain;
use crate::key::{KeyError, KeyKind, PublicKey};

const NOW: i64 = 1_767_225_600;
const KID: &str = "kid-1";

enum Signer {
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    fn new(algorithm: JwtAlgorithm) -> (Self, PublicKey) {
        match algorithm {
            JwtAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
                let key = PublicKey::from_point(KeyKind::EcP256, pair.public_key().as_ref());
                (Signer::Ec(pair), key.unwrap())
            }
            JwtAlgorithm::Es384 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
                let key = PublicKey::from_point(KeyKind::EcP384, pair.public_key().as_ref());
                (Signer::Ec(pair), key.unwrap())
            }
            JwtAlgorithm::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let public = pair.public_key();
                let key = PublicKey::from_rsa_components(
                    public.modulus().big_endian_without_leading_zero(),
                    public.exponent().big_endian_without_leading_zero(),
                );
                (Signer::Rsa(Box::new(pair)), key.unwrap())
            }
        }
    }

    fn sign(&self, message: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Ec(pair) => pair
                .sign(&random, message.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &random,
                    message.as_bytes(),
                    &mut signature,
                )
                .unwrap();
                signature
            }
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let input = format!("{}.{}", encode_part(header), encode_part(claims));
        let signature = self.sign(&input);
        assemble(&input, &signature)
    }
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/a").unwrap()
}

fn domain() -> TrustDomain {
    id().trust_domain()
}

fn claims() -> Claims {
    Claims::new(
        id(),
        vec!["x".into(), String::new(), "y".into()],
        NOW,
        NOW + 300,
    )
    .unwrap()
}

fn expected(claims: &Claims) -> Expected<'_> {
    Expected {
        algorithm: JwtAlgorithm::Es256,
        kid: KID,
        claims,
        authority_not_after: NOW + 300,
        now: NOW,
    }
}

#[test]
fn the_written_form_is_spires() {
    let claims = claims()
        .with_issuer(Some("https://issuer".into()))
        .with_jwt_id(Some([0xff; 16]));
    let input = signing_input(JwtAlgorithm::Es256, KID, &claims);
    let parts: Vec<String> = input
        .split('.')
        .map(|part| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        .collect();
    assert_eq!(parts[0], r#"{"alg":"ES256","kid":"kid-1","typ":"JWT"}"#);
    assert_eq!(
        parts[1],
        r#"{"aud":["x","y"],"exp":1767225900,"iat":1767225600,"iss":"https://issuer","jti":"_____________________w","sub":"spiffe://example.org/a"}"#
    );
}

#[test]
fn a_single_audience_is_still_a_list_and_absent_claims_are_absent() {
    let claims = Claims::new(id(), vec!["x".into()], NOW, NOW + 1).unwrap();
    let input = signing_input(JwtAlgorithm::Es256, KID, &claims);
    let body = URL_SAFE_NO_PAD
        .decode(input.split_once('.').unwrap().1)
        .unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body,
        json!({"aud": ["x"], "exp": NOW + 1, "iat": NOW, "sub": id().as_str()})
    );
}

#[test]
fn claims_need_an_audience_and_a_lifetime() {
    let new = |audience: &[&str], iat, exp| {
        let audience = audience.iter().map(|aud| (*aud).to_owned()).collect();
        Claims::new(id(), audience, iat, exp).map(|_| ())
    };
    assert_eq!(new(&[], NOW, NOW + 1), Err(ClaimsError::NoAudience));
    assert_eq!(new(&["", ""], NOW, NOW + 1), Err(ClaimsError::NoAudience));
    assert_eq!(
        new(&["a"; AUDIENCES_MAX + 1], NOW, NOW + 1),
        Err(ClaimsError::TooManyAudiences)
    );
    assert_eq!(new(&["a"], NOW, NOW), Err(ClaimsError::Lifetime));
    assert_eq!(new(&["a"], 0, NOW), Err(ClaimsError::Lifetime));
}

#[test]
fn tokens_of_every_algorithm_pass_judge_and_validator() {
    for algorithm in [
        JwtAlgorithm::Es256,
        JwtAlgorithm::Es384,
        JwtAlgorithm::Rs256,
    ] {
        let (signer, key) = Signer::new(algorithm);
        assert_eq!(JwtAlgorithm::for_key(key.kind()), Some(algorithm));
        let claims = claims();
        let expected = Expected {
            algorithm,
            ..expected(&claims)
        };
        let input = signing_input(algorithm, KID, &claims);
        assert_eq!(judge_signing_input(&input, &expected), Ok(()));
        let signature = signer.sign(&input);
        assert_eq!(algorithm.verify(&key, input.as_bytes(), &signature), Ok(()));
        let token = assemble(&input, &signature);
        assert_eq!(judge(&token, &expected), Ok(()));
        let keys = BTreeMap::from([(KID.to_owned(), key)]);
        let validated = validate(&token, &keys, &domain(), "y", NOW).unwrap();
        assert_eq!(validated.id, id());
        assert_eq!(validated.audience, ["x", "y"]);
        assert_eq!(validated.expires_at, NOW + 300);
    }
}

#[test]
fn each_rule_of_the_judge_refuses_what_breaks_it() {
    let claims = claims();
    let header = json!({"alg": "ES256", "kid": KID, "typ": "JWT"});
    let body = json!({"aud": ["x", "y"], "exp": NOW + 300, "iat": NOW, "sub": id().as_str()});
    let with = |base: &Value, field: &str, value: Value| {
        let mut changed = base.clone();
        changed[field] = value;
        changed
    };
    let verdict = |header: &Value, body: &Value| {
        let input = format!("{}.{}", encode_part(header), encode_part(body));
        judge_signing_input(&input, &expected(&claims))
    };
    assert_eq!(verdict(&header, &body), Ok(()));
    for (field, value, violation) in [
        ("alg", json!("ES384"), JwtViolation::Algorithm),
        ("alg", json!("none"), JwtViolation::Algorithm),
        ("kid", json!("other"), JwtViolation::KeyId),
        ("typ", json!("JOSE"), JwtViolation::Type),
        ("crit", json!([]), JwtViolation::Header),
        ("jku", json!("https://x"), JwtViolation::Header),
    ] {
        assert_eq!(verdict(&with(&header, field, value), &body), Err(violation));
    }
    for (field, value, violation) in [
        (
            "sub",
            json!("spiffe://example.org/b"),
            JwtViolation::Subject,
        ),
        ("aud", json!("x"), JwtViolation::Claims),
        ("aud", json!(["x"]), JwtViolation::Audience),
        ("exp", json!(NOW + 301), JwtViolation::Times),
        ("iat", json!(NOW - 1), JwtViolation::Times),
        ("exp", json!(1.5), JwtViolation::Claims),
        ("nbf", json!(NOW), JwtViolation::Claims),
        ("admin", json!(true), JwtViolation::Claims),
        ("iss", json!("x"), JwtViolation::Optional),
        ("jti", json!("x"), JwtViolation::Optional),
    ] {
        assert_eq!(verdict(&header, &with(&body, field, value)), Err(violation));
    }
}

#[test]
fn the_judge_knows_the_time_and_the_authoritys_end() {
    let claims = claims();
    let input = signing_input(JwtAlgorithm::Es256, KID, &claims);
    let verdict = |now, authority_not_after| {
        let expected = Expected {
            now,
            authority_not_after,
            ..expected(&claims)
        };
        judge_signing_input(&input, &expected)
    };
    assert_eq!(verdict(NOW + 299, NOW + 300), Ok(()));
    assert_eq!(verdict(NOW + 300, NOW + 300), Err(JwtViolation::Expired));
    assert_eq!(
        verdict(NOW, NOW + 299),
        Err(JwtViolation::OutlivesAuthority)
    );
}

#[test]
fn a_trust_domains_own_id_gets_no_token() {
    let own = SpiffeId::of_trust_domain(&domain());
    let claims = Claims::new(own, vec!["x".into()], NOW, NOW + 300).unwrap();
    let input = signing_input(JwtAlgorithm::Es256, KID, &claims);
    assert_eq!(
        judge_signing_input(&input, &expected(&claims)),
        Err(JwtViolation::SubjectPath)
    );
}

#[test]
fn the_form_of_the_token_and_its_signature_is_judged() {
    let claims = claims();
    let input = signing_input(JwtAlgorithm::Es256, KID, &claims);
    let verdict = |token: &str| judge(token, &expected(&claims));
    assert_eq!(verdict(&assemble(&input, &[1; 64])), Ok(()));
    assert_eq!(
        verdict(&assemble(&input, &[1; 63])),
        Err(JwtViolation::Signature)
    );
    assert_eq!(
        verdict(&assemble(&input, &[1; 70])),
        Err(JwtViolation::Signature)
    );
    assert_eq!(verdict(&format!("{input}.=")), Err(JwtViolation::Signature));
    assert_eq!(verdict(&input), Err(JwtViolation::Parts));
    assert_eq!(verdict(&format!("{input}.a.b")), Err(JwtViolation::Parts));
    assert_eq!(verdict("x"), Err(JwtViolation::Parts));
    assert_eq!(
        verdict(&"a".repeat(TOKEN_BYTES_MAX + 1)),
        Err(JwtViolation::TooLarge)
    );
}

/// Verdict of the validator on what an arbitrary issuer wrote and signed.
fn validate_foreign(header: &Value, body: &Value) -> Result<Validated, ValidateError> {
    let (signer, key) = Signer::new(JwtAlgorithm::Es256);
    let keys = BTreeMap::from([(KID.to_owned(), key)]);
    validate(&signer.token(header, body), &keys, &domain(), "x", NOW)
}

fn good_header() -> Value {
    json!({"alg": "ES256", "kid": KID, "typ": "JWT"})
}

fn good_body() -> Value {
    json!({"aud": ["x"], "exp": NOW + 300, "iat": NOW, "sub": id().as_str()})
}

#[test]
fn the_validator_reads_what_foreign_issuers_may_write() {
    for (field, value) in [
        ("aud", json!("x")),
        ("exp", json!(1_767_225_900.5)),
        ("iss", json!("https://issuer")),
        ("custom", json!({"nested": [1, 2]})),
    ] {
        let mut body = good_body();
        body[field] = value;
        assert!(validate_foreign(&good_header(), &body).is_ok(), "{field}");
    }
    assert!(validate_foreign(&json!({"alg": "ES256", "kid": KID}), &good_body()).is_ok());
    let jose = json!({"alg": "ES256", "kid": KID, "typ": "JOSE", "x": 1});
    assert!(validate_foreign(&jose, &good_body()).is_ok());
}

#[test]
fn the_validator_refuses_bad_headers() {
    for (header, error) in [
        (json!({"alg": "none", "kid": KID}), ValidateError::Algorithm),
        (
            json!({"alg": "HS256", "kid": KID}),
            ValidateError::Algorithm,
        ),
        (json!({"alg": "ES256"}), ValidateError::NoKeyId),
        (json!({"alg": "ES256", "kid": ""}), ValidateError::NoKeyId),
        (
            json!({"alg": "ES256", "kid": "other"}),
            ValidateError::UnknownKey(domain()),
        ),
        (
            json!({"alg": "ES256", "kid": KID, "typ": "at+jwt"}),
            ValidateError::Type,
        ),
        (
            json!({"alg": "ES256", "kid": KID, "crit": ["b64"]}),
            ValidateError::Critical,
        ),
        (json!({"kid": KID}), ValidateError::Malformed),
        (
            json!({"alg": "RS256", "kid": KID}),
            ValidateError::Signature(KeyError::AlgorithmMismatch),
        ),
    ] {
        assert_eq!(
            validate_foreign(&header, &good_body()),
            Err(error),
            "{header}"
        );
    }
}

#[test]
fn the_validator_refuses_bad_claims() {
    let without = |field: &str| {
        let mut body = good_body();
        body.as_object_mut().unwrap().remove(field);
        validate_foreign(&good_header(), &body).map(|_| ())
    };
    assert_eq!(without("exp"), Err(ValidateError::NoExpiry));
    assert_eq!(without("aud"), Err(ValidateError::Audience));
    assert_eq!(without("sub"), Err(ValidateError::NoSubject));
    assert_eq!(without("iat"), Ok(()));
    let with = |field: &str, value: Value| {
        let mut body = good_body();
        body[field] = value;
        validate_foreign(&good_header(), &body).map(|_| ())
    };
    assert_eq!(with("exp", json!(NOW - 60)), Ok(()));
    assert_eq!(with("exp", json!(NOW - 61)), Err(ValidateError::Expired));
    assert_eq!(with("exp", json!("soon")), Err(ValidateError::Malformed));
    assert_eq!(with("exp", json!(1e300)), Err(ValidateError::Malformed));
    assert_eq!(
        with("nbf", json!(NOW + 61)),
        Err(ValidateError::NotYetValid)
    );
    assert_eq!(
        with("iat", json!(NOW + 61)),
        Err(ValidateError::NotYetValid)
    );
    assert_eq!(with("aud", json!(["y"])), Err(ValidateError::Audience));
    assert_eq!(with("aud", json!([1])), Err(ValidateError::Malformed));
    assert_eq!(
        with("sub", json!("alice")),
        Err(ValidateError::Subject(crate::id::IdError::WrongScheme))
    );
    assert!(matches!(
        with("sub", json!("spiffe://example.org")),
        Err(ValidateError::Subject(_))
    ));
    assert_eq!(
        with("sub", json!("spiffe://example.com/a")),
        Err(ValidateError::ForeignTrustDomain(domain()))
    );
}

#[test]
fn a_changed_token_is_refused() {
    let (signer, key) = Signer::new(JwtAlgorithm::Es256);
    let token = signer.token(&good_header(), &good_body());
    let keys = BTreeMap::from([(KID.to_owned(), key)]);
    let verdict = |token: &str| validate(token, &keys, &domain(), "x", NOW).map(|_| ());
    assert_eq!(verdict(&token), Ok(()));
    let mut more = good_body();
    more["exp"] = json!(NOW + 301);
    let parts: Vec<&str> = token.split('.').collect();
    let changed = format!("{}.{}.{}", parts[0], encode_part(&more), parts[2]);
    assert_eq!(
        verdict(&changed),
        Err(ValidateError::Signature(KeyError::BadSignature))
    );
    assert_eq!(verdict(parts[0]), Err(ValidateError::Malformed));
    assert_eq!(verdict(""), Err(ValidateError::Malformed));
    assert_eq!(
        verdict(&"a".repeat(TOKEN_BYTES_MAX + 1)),
        Err(ValidateError::TooLarge)
    );
    let repeated = br#"{"alg":"none","alg":"ES256","kid":"kid-1"}"#;
    let repeated = format!(
        "{}.{}.{}",
        URL_SAFE_NO_PAD.encode(repeated),
        parts[1],
        parts[2]
    );
    assert_eq!(verdict(&repeated), Err(ValidateError::Malformed));
}
