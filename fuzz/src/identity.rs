//! Targets over `chancery-identity`: names, requests, certificates, tokens, bundles.

use std::collections::BTreeMap;
use std::str::from_utf8;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chancery_identity::bundle::{
    Bundle, JwtAuthority, Strictness, X509Authority, split_certificates,
};
use chancery_identity::csr::Csr;
use chancery_identity::entry::{EntryId, validate_hint};
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::jwt_svid::{self, JwtAlgorithm};
use chancery_identity::key::{KeyError, PublicKey, SignatureAlgorithm};
use chancery_identity::pki;
use chancery_identity::selector::{Selector, SelectorSet};
use chancery_identity::{dns, x509_svid};

use x509_svid::{CaFacts, Expected, Profile, Purpose};

/// The targets of this module.
pub const TARGETS: &[super::Target] = &[
    ("spiffe_id", spiffe_id),
    ("selector", selector),
    ("dns", dns),
    ("entry", entry),
    ("csr", csr),
    ("x509", x509),
    ("x509_tbs", x509_tbs),
    ("pki_certificate", pki_certificate),
    ("public_key", public_key),
    ("jwt_svid", jwt_svid),
    ("jwt_claims", jwt_claims),
    ("bundle", bundle),
];

/// Inside the validity of the corpus's certificates and tokens.
const NOW: i64 = 1_800_000_000;
const KEY_ID: &str = "key-1";
const AUDIENCE: &str = "audience";

/// The generator of P-256, which is the public key of the private key 1.
static POINT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    hex::decode(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    )
    .expect("the constant is hex")
});

static SIGNER: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let mut one = [0; 32];
    one[31] = 1;
    EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &one, &POINT)
        .expect("1 is a private key and the generator its public key")
});

static KEY: LazyLock<PublicKey> = LazyLock::new(|| {
    let head = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
    let head = hex::decode(head).expect("the constant is hex");
    PublicKey::from_spki_der(&[head, POINT.clone()].concat()).expect("the generator is a key")
});

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("the constant is a name")
}

/// Text that parses is kept byte for byte, is made of allowed characters, and comes
/// out of its parts again.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let named = TrustDomain::parse_name_or_id(text);
    if let Ok(name) = TrustDomain::parse(text) {
        assert_eq!(name.as_str(), text);
        assert_eq!(named, Ok(name.clone()));
        assert_eq!(TrustDomain::parse_name_or_id(&name.id_string()), Ok(name));
    }
    let Ok(id) = SpiffeId::parse(text) else {
        return;
    };
    assert_eq!(id.as_str(), text);
    assert_eq!(named, Ok(id.trust_domain()));
    assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()), Ok(id.clone()));
    assert!(id.is_member_of(&id.trust_domain()));
    // SPIFFE-ID §2.1, §2.2, said once more and in other words.
    assert!(text.len() <= 2048 && text.starts_with("spiffe://"));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    for segment in id.path().split('/').skip(1) {
        assert!(!matches!(segment, "" | "." | ".."), "{text}");
        assert!(segment.bytes().all(allowed), "{text}");
    }
    let workload = id.require_workload(&id.trust_domain()).is_ok();
    assert!(!workload || !id.path().is_empty() && !id.is_reserved());
    assert!(id.require_agent(&id.trust_domain()).is_err() || id.is_reserved());
}

/// One selector a line: text form and parts agree; the set is sorted, free of
/// repetition and equal for every order.
pub fn selector(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let mut all = Vec::new();
    for line in text.split('\n') {
        let Ok(selector) = Selector::parse(line) else {
            continue;
        };
        assert_eq!(selector.to_string(), line);
        assert_eq!(
            Selector::new(selector.kind(), selector.value()).as_ref(),
            Ok(&selector)
        );
        all.push(selector);
    }
    let set = SelectorSet::from(all.clone());
    all.reverse();
    assert_eq!(set, all.iter().cloned().collect());
    assert!(set.as_slice().windows(2).all(|pair| pair[0] < pair[1]));
    assert!(set.is_subset_of(&set) && set.intersects(&set) != set.is_empty());
    assert!(all.iter().all(|selector| set.contains(selector)));
}

/// One name a line. An accepted name is ASCII and within RFC 1035's lengths.
pub fn dns(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let names: Vec<String> = text.split('\n').map(str::to_owned).collect();
    for name in names.iter().filter(|name| dns::validate(name).is_ok()) {
        assert!(name.is_ascii() && name.len() <= 253);
        assert!(name.split('.').all(|label| (1..=63).contains(&label.len())));
        assert!(!name[1..].contains('*'));
    }
    let overlap = dns::check_wildcard_overlap(&names).is_err();
    let mut reversed = names;
    reversed.reverse();
    assert_eq!(overlap, dns::check_wildcard_overlap(&reversed).is_err());
}

/// The fields that a registration entry has of its own.
pub fn entry(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Ok(id) = EntryId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert!(text.is_ascii() && (1..=255).contains(&text.len()));
    }
    assert_eq!(validate_hint(text).is_ok(), text.len() <= 1024);
}

/// A request that parses has a key that parses by itself, and names that can be read.
pub fn csr(data: &[u8]) {
    let Ok(csr) = Csr::parse(data) else { return };
    let key = csr.public_key();
    assert_eq!(PublicKey::from_spki_der(key.spki_der()).as_ref(), Ok(key));
    let _ = csr.verify_signature();
    assert_eq!(csr.subject_is_empty(), csr.subject_der() == [0x30, 0]);
    if let Ok(names) = csr.requested_names() {
        assert!(names.uris.iter().all(|uri| uri.is_ascii()));
        assert!(names.dns_names.iter().all(|name| name.is_ascii()));
    }
}

/// A certificate, or several one after the other, from a peer, a file or an upstream.
/// No certificate is both a leaf and an authority.
pub fn x509(data: &[u8]) {
    let facts = x509_svid::read_svid(data).ok();
    let authority = CaFacts::read(data).ok();
    assert!(facts.is_none() || authority.is_none());
    let known = X509Authority::new(data.to_vec(), false);
    let key = match (&facts, &authority) {
        (Some(facts), _) => {
            assert!(!facts.id.path().is_empty());
            assert!(facts.serial.as_bytes().len() <= 20 && facts.serial.to_string() != "0");
            facts.public_key.clone()
        }
        (_, Some(authority)) => {
            assert!(known.is_ok());
            assert!(!authority.ski().is_empty());
            if let Some(named) = authority.trust_domain() {
                assert!(CaFacts::read_for(named, data).is_ok());
            }
            authority.public_key().clone()
        }
        _ => KEY.clone(),
    };
    let id = facts.map_or_else(|| SpiffeId::server(&trust_domain()), |facts| facts.id);
    for profile in profiles() {
        let issuer = authority
            .as_ref()
            .filter(|_| profile != Profile::SelfSignedCa);
        let expected = Expected {
            profile: &profile,
            id: &id,
            public_key: &key,
            issuer,
            now: NOW,
        };
        if let Ok(judged) = x509_svid::judge_certificate(data, &expected) {
            assert_eq!(profile.is_ca(), authority.is_some());
            assert_eq!((&judged.id, &judged.public_key), (&id, &key));
        }
    }
    let _ = x509_svid::verify_certificate_signature(data, &key);

    let chain = split_certificates(data).unwrap_or_default();
    assert!(chain.is_empty() || chain.concat() == data);
    let presented: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
    let roots = chain.last().cloned().into_iter().collect::<Vec<_>>();
    for purpose in [Purpose::Client, Purpose::Server, Purpose::Either] {
        let proved = x509_svid::verify_chain(&presented, &trust_domain(), &roots, purpose, NOW);
        if let Ok(facts) = proved {
            assert!(facts.id.is_member_of(&trust_domain()));
            assert!((facts.not_before..=facts.not_after).contains(&NOW));
            assert_eq!(Ok(facts), x509_svid::read_svid(&chain[0]));
        }
    }
}

/// To-be-signed bytes: what is assembled from them is a certificate, under any
/// issuer's name, and is judged as they were.
pub fn x509_tbs(data: &[u8]) {
    const EMPTY_NAME: &[u8] = &[0x30, 0];
    let Ok(der) = x509_svid::assemble_certificate(data, &[0; 64]) else {
        assert!(x509_svid::with_issuer(data, EMPTY_NAME).is_err());
        return;
    };
    assert_whole(&der);
    let renamed = x509_svid::with_issuer(data, EMPTY_NAME).expect("it is a TBSCertificate");
    let renamed = x509_svid::assemble_certificate(&renamed, &[0; 64]);
    assert_whole(&renamed.expect("only the issuer changed"));
    let id = x509_svid::read_svid(&der).map(|facts| facts.id);
    let id = id.unwrap_or_else(|_| SpiffeId::of_trust_domain(&trust_domain()));
    for profile in profiles() {
        let expected = Expected {
            profile: &profile,
            id: &id,
            public_key: &KEY,
            issuer: None,
            now: NOW,
        };
        assert_eq!(
            x509_svid::judge_tbs(data, &expected),
            x509_svid::judge_certificate(&der, &expected)
        );
    }
}

fn assert_whole(der: &[u8]) {
    let verified = x509_svid::verify_certificate_signature(der, &KEY);
    assert!(!matches!(verified, Err(KeyError::Malformed(_))));
}

fn profiles() -> [Profile; 6] {
    [
        Profile::SelfSignedCa,
        Profile::DownstreamCa,
        Profile::Intermediate,
        Profile::Server,
        Profile::Agent,
        Profile::Workload {
            dns_names: vec!["a.example.org".into()],
        },
    ]
}

/// A key that parses is kept byte for byte, and survives a bundle document.
pub fn public_key(data: &[u8]) {
    let Ok(key) = PublicKey::from_spki_der(data) else {
        return;
    };
    assert_eq!(key.spki_der(), data);
    assert!(data.ends_with(key.bits()));
    for algorithm in [
        key.certificate_algorithm(),
        SignatureAlgorithm::RsaPssSha384,
        SignatureAlgorithm::EcdsaSha256,
    ] {
        assert!(key.verify(algorithm, b"message", &[1; 64]).is_err());
    }
    let authority = JwtAuthority::new(data, KEY_ID.into(), 0, false);
    let mut bundle = Bundle::new(trust_domain());
    bundle
        .jwt_authorities
        .push(authority.expect("the key parses"));
    assert_reads_back(&bundle);
}

/// A token from anybody, against one known key.
pub fn jwt_svid(data: &[u8]) {
    let Ok(token) = from_utf8(data) else { return };
    validate(token);
}

/// Claims from somebody who holds the key, which is what reaches the reader of claims.
pub fn jwt_claims(data: &[u8]) {
    let header = br#"{"alg":"ES256","kid":"key-1","typ":"JWT"}"#;
    let parts = [&header[..], data].map(|part| URL_SAFE_NO_PAD.encode(part));
    let input = parts.join(".");
    let signature = SIGNER
        .sign(&SystemRandom::new(), input.as_bytes())
        .expect("the key signs");
    validate(&jwt_svid::assemble(&input, signature.as_ref()));
}

fn validate(token: &str) {
    let keys = BTreeMap::from([(KEY_ID.to_owned(), KEY.clone())]);
    let Ok(valid) = jwt_svid::validate(token, &keys, &trust_domain(), AUDIENCE, NOW) else {
        return;
    };
    assert!(valid.id.is_member_of(&trust_domain()) && !valid.id.path().is_empty());
    assert!(valid.audience.iter().any(|audience| audience == AUDIENCE));
    assert!(valid.expires_at.saturating_add(jwt_svid::LEEWAY_SECONDS) >= NOW);
    // What was believed for this key must not be believed for another trust domain
    // or another audience.
    let other = TrustDomain::parse("example.com").expect("the constant is a name");
    assert!(jwt_svid::validate(token, &keys, &other, AUDIENCE, NOW).is_err());
    assert!(jwt_svid::validate(token, &keys, &trust_domain(), "", NOW).is_err());
    let issued = valid
        .claims
        .get("iat")
        .and_then(|at| at.as_i64())
        .unwrap_or_default();
    let Ok(claims) = jwt_svid::Claims::new(valid.id, valid.audience, issued, valid.expires_at)
    else {
        return;
    };
    let ours = jwt_svid::signing_input(JwtAlgorithm::Es256, KEY_ID, &claims);
    let expected = jwt_svid::Expected {
        algorithm: JwtAlgorithm::Es256,
        kid: KEY_ID,
        claims: &claims,
        authority_not_after: i64::MAX,
        now: NOW - jwt_svid::LEEWAY_SECONDS - 1,
    };
    let _ = jwt_svid::judge(token, &expected);
    assert_eq!(jwt_svid::judge_signing_input(&ours, &expected), Ok(()));
}

/// A bundle document: what a strict reader takes, a lenient one takes alike, and what
/// we write of it says the same.
pub fn bundle(data: &[u8]) {
    let read = |strictness| Bundle::parse_spiffe_json(trust_domain(), data, strictness);
    let (strict, lenient) = (read(Strictness::Strict), read(Strictness::Lenient));
    if let Ok(bundle) = strict {
        assert_eq!(lenient.as_ref(), Ok(&bundle));
    }
    if let Ok(bundle) = lenient {
        assert_reads_back(&bundle);
        let _ = (bundle.to_pem(), bundle.to_jwks(), bundle.roots());
    }
}

fn assert_reads_back(bundle: &Bundle) {
    let written = bundle.to_spiffe_json();
    let read = Bundle::parse_spiffe_json(trust_domain(), written.as_bytes(), Strictness::Strict);
    assert_eq!(read.as_ref(), Ok(bundle), "{written}");
}

/// Certificates of a node, one behind the other: whatever reads is kept byte for byte, and a
/// chain begins at the leaf, ends at a root, and names each issuer in turn.
pub fn pki_certificate(data: &[u8]) {
    let Ok(ders) = split_certificates(data) else {
        let _ = pki::Certificate::parse(data);
        return;
    };
    let read = ders.iter().take(6).map(|der| pki::Certificate::parse(der));
    let Ok(certificates) = read.collect::<Result<Vec<_>, _>>() else {
        return;
    };
    let Some((leaf, others)) = certificates.split_first() else {
        return;
    };
    assert_eq!(leaf.der(), ders[0]);
    let _ = leaf.subject().to_string();
    if let Ok(chains) = pki::chains(leaf, others, others, NOW) {
        assert!(!chains.is_empty());
        for chain in chains {
            assert_eq!(chain[0].der(), leaf.der());
            let root = chain.last().expect("a chain has a leaf");
            assert!(chain.len() == 1 || others.iter().any(|other| other == *root));
        }
    }
    // Nobody signed this.
    assert!(!leaf.key().verify_pss_sha256(b"message", &[1; 256]));
    assert!(!leaf.key().verify_ecdsa_sha256(b"message", &[1], &[1]));
}
