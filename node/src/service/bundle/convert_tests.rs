//! Bundles on their way in and out.

#![allow(clippy::unwrap_used)]

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData};

use super::*;

fn full() -> bundle::Bundle {
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&pair).unwrap();
    let spki = pair.subject_public_key_info();
    let mut bundle = bundle::Bundle::new(TrustDomain::parse("example.org").unwrap());
    bundle.x509_authorities =
        vec![bundle::X509Authority::new(certificate.der().to_vec(), true).unwrap()];
    bundle.jwt_authorities =
        vec![bundle::JwtAuthority::new(&spki, "kid".into(), 99, false).unwrap()];
    bundle.sequence = 5;
    bundle.refresh_hint = 60;
    bundle
}

#[test]
fn a_bundle_is_told_as_it_is() {
    let bundle = full();
    let told = own_message(&bundle, None).unwrap();
    assert_eq!(told.trust_domain, "example.org");
    assert_eq!((told.sequence_number, told.refresh_hint), (5, 60));
    assert_eq!(
        told.x509_authorities[0].asn1,
        bundle.x509_authorities[0].der()
    );
    assert!(told.x509_authorities[0].tainted);
    let key = &told.jwt_authorities[0];
    assert_eq!(
        (key.key_id.as_str(), key.expires_at, key.tainted),
        ("kid", 99, false)
    );
    assert!(told.wit_authorities.is_empty());
}

#[test]
fn the_mask_hides_everything_but_the_trust_domain() {
    let bundle = full();
    let all = own_message(&bundle, None).unwrap();
    let none = types::Bundle {
        trust_domain: "example.org".into(),
        ..Default::default()
    };
    assert_eq!(
        own_message(&bundle, Some(&types::BundleMask::default())),
        Some(none.clone())
    );
    let only = |mask| own_message(&bundle, Some(&mask)).unwrap();
    let mask = types::BundleMask::default();
    assert_eq!(
        only(types::BundleMask {
            x509_authorities: true,
            ..mask
        }),
        types::Bundle {
            x509_authorities: all.x509_authorities,
            ..none.clone()
        }
    );
    assert_eq!(
        only(types::BundleMask {
            jwt_authorities: true,
            ..mask
        }),
        types::Bundle {
            jwt_authorities: all.jwt_authorities,
            ..none.clone()
        }
    );
    assert_eq!(
        only(types::BundleMask {
            refresh_hint: true,
            ..mask
        }),
        types::Bundle {
            refresh_hint: 60,
            ..none.clone()
        }
    );
    assert_eq!(
        only(types::BundleMask {
            sequence_number: true,
            ..mask
        }),
        types::Bundle {
            sequence_number: 5,
            ..none
        }
    );
}

#[test]
fn a_bundle_without_a_root_is_not_there() {
    let mut bundle = full();
    bundle.x509_authorities.clear();
    assert_eq!(own_message(&bundle, None), None);
}

fn certificate() -> Vec<u8> {
    full().x509_authorities[0].der().to_vec()
}

fn spki() -> Vec<u8> {
    KeyPair::generate().unwrap().subject_public_key_info()
}

fn given() -> types::Bundle {
    types::Bundle {
        trust_domain: "other.test".into(),
        x509_authorities: vec![types::X509Certificate {
            asn1: certificate(),
            tainted: false,
        }],
        jwt_authorities: vec![types::JwtKey {
            public_key: spki(),
            key_id: "kid".into(),
            expires_at: 7,
            tainted: false,
        }],
        refresh_hint: 60,
        sequence_number: 9,
        ..Default::default()
    }
}

#[test]
fn a_federated_bundle_is_told_as_it_was_given() {
    let given = given();
    let stored = federated(&given).unwrap();
    assert_eq!(federated_message(&stored, None), given);
    let none = federated_message(&stored, Some(&types::BundleMask::default()));
    let only_name = types::Bundle {
        trust_domain: "other.test".into(),
        ..Default::default()
    };
    assert_eq!(none, only_name);
}

#[test]
fn taints_and_wit_keys_of_a_caller_are_ignored() {
    let clean = given();
    let mut marked = clean.clone();
    marked.x509_authorities[0].tainted = true;
    marked.jwt_authorities[0].tainted = true;
    marked.wit_authorities = vec![types::WitKey::default()];
    assert_eq!(federated(&marked), federated(&clean));
}

#[test]
fn certificates_written_one_after_the_other_are_taken_apart() {
    let parts = [certificate(), certificate(), certificate()];
    let mut bundle = given();
    bundle.x509_authorities = vec![
        types::X509Certificate {
            asn1: parts[..2].concat(),
            tainted: false,
        },
        types::X509Certificate {
            asn1: parts[2].clone(),
            tainted: false,
        },
    ];
    let stored = federated(&bundle).unwrap();
    let told = federated_message(&stored, None).x509_authorities;
    let told: Vec<_> = told.into_iter().map(|item| item.asn1).collect();
    assert_eq!(told, parts);
}

#[test]
fn what_agents_could_not_read_is_refused() {
    type Break = fn(&mut types::Bundle);
    let table: [(Break, &str); 8] = [
        (
            |b| b.trust_domain = "Other".into(),
            "invalid trust domain: trust domain characters are limited to lowercase letters, \
             numbers, dots, dashes, and underscores",
        ),
        (
            |b| b.x509_authorities[0].asn1.clear(),
            "unable to parse X.509 authority: x509: malformed certificate",
        ),
        (
            |b| b.x509_authorities[0].asn1 = b"malformed".to_vec(),
            "unable to parse X.509 authority: x509: malformed certificate",
        ),
        (
            |b| b.x509_authorities[0].asn1.push(0),
            "unable to parse X.509 authority: x509: malformed certificate",
        ),
        (
            |b| b.x509_authorities[0].asn1 = vec![0x30, 0],
            "unable to parse X.509 authority: x509: malformed certificate: ",
        ),
        (
            |b| b.jwt_authorities[0].key_id.clear(),
            "unable to parse JWT authority: missing key ID",
        ),
        (
            |b| b.jwt_authorities[0].public_key.truncate(20),
            "unable to parse JWT authority: malformed public key: ",
        ),
        (
            // secp256k1 instead of P-256.
            |b| {
                let key = &mut b.jwt_authorities[0].public_key;
                let curve = key.windows(8).position(|w| w == P256_OID).unwrap();
                key.splice(curve - 2..curve + 8, [6, 5, 0x2b, 0x81, 4, 0, 10]);
                (key[1], key[3]) = (key[1] - 3, key[3] - 3);
            },
            "unable to parse JWT authority: unsupported public key algorithm",
        ),
    ];
    const P256_OID: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    for (break_it, text) in table {
        let mut bundle = given();
        break_it(&mut bundle);
        let refused = federated(&bundle).unwrap_err().to_string();
        // A detail that Go words differently may follow.
        let exact = !text.ends_with(": ");
        let as_expected = if exact {
            refused == text
        } else {
            refused.starts_with(text)
        };
        assert!(as_expected, "{refused:?} instead of {text:?}");
    }
}

#[test]
fn bundles_have_bounds() {
    let mut bundle = given();
    let item = bundle.jwt_authorities[0].clone();
    bundle.jwt_authorities = vec![item.clone(); KEYS_MAX];
    assert!(federated(&bundle).is_ok());
    bundle.jwt_authorities.push(item);
    assert_eq!(
        federated(&bundle),
        Err(BundleError::Jwt(AuthoritiesError::TooMany))
    );
    let mut bundle = given();
    bundle.jwt_authorities[0].key_id = "x".repeat(255);
    assert!(federated(&bundle).is_ok());
    // Keys and roots in number, each as large as it may be.
    bundle.jwt_authorities = vec![bundle.jwt_authorities[0].clone(); KEYS_MAX];
    bundle.x509_authorities[0].asn1 = certificate().repeat(KEYS_MAX);
    assert_eq!(federated(&bundle), Err(BundleError::TooLarge));
    let mut bundle = given();
    bundle.jwt_authorities[0].key_id = "x".repeat(256);
    assert_eq!(
        federated(&bundle).unwrap_err().to_string(),
        "unable to parse JWT authority: key ID is longer than 255 bytes"
    );
    let mut bundle = given();
    bundle.x509_authorities[0].asn1 = certificate().repeat(KEYS_MAX + 1);
    assert!(federated(&bundle).is_err());
}

#[test]
fn a_published_key_has_an_end_and_it_lies_ahead() {
    let now = 1_800_000_000;
    let ending = |expires_at| {
        let key = types::JwtKey {
            expires_at,
            ..given().jwt_authorities[0].clone()
        };
        let key = jwt_authorities(&[key]).unwrap().remove(0);
        check_end(&key, now).map_err(|error| error.to_string())
    };
    assert_eq!(ending(now + 1), Ok(()));
    assert_eq!(ending(i64::MAX), Ok(()));
    assert_eq!(ending(0), Err("missing expiration".into()));
    for past in [now, now - 1, -1, i64::MIN] {
        assert_eq!(ending(past), Err("expired already".into()));
    }
}

#[test]
fn records_of_the_own_bundle_name_what_they_are_of() {
    let item = types::X509Certificate {
        asn1: certificate(),
        tainted: true,
    };
    let root = x509_authorities(&[item]).unwrap().remove(0);
    let record = root_record(root.clone());
    assert_eq!(record.id, root.authority_id());
    assert_eq!(
        (record.kind(), record.tainted),
        (AuthorityKind::X509, false)
    );
    // rcgen's default end: 4096-01-01.
    assert_eq!(record.expires_at, 67_090_118_400);
    let key = jwt_authorities(&given().jwt_authorities).unwrap().remove(0);
    let published = published_record(key.clone(), "/nested");
    let record = key_record(key);
    assert_eq!(
        (record.publisher.as_str(), published.publisher.as_str()),
        ("", "/nested")
    );
    assert_eq!(
        (record.kind(), record.id.as_str(), record.expires_at),
        (AuthorityKind::Jwt, "kid", 7)
    );
}

#[test]
fn only_agents_and_the_unknown_are_answered_from_what_is_here() {
    use crate::transport::caller_testing as testing;
    let own = TrustDomain::parse("example.org").unwrap();
    let exact = |caller: &Caller| may_administer(&own, Some(caller));
    assert!(exact(&testing::local()));
    assert!(!exact(&testing::anonymous()));
    let certificate = |id: &str| testing::certificate(id, "1", 9);
    assert!(!exact(&certificate("spiffe://example.org/spire/agent/a")));
    assert!(exact(&certificate("spiffe://example.org/operator")));
    assert!(exact(&certificate("spiffe://other.org/spire/agent/a")));
    assert!(!may_administer(&own, None));
}
