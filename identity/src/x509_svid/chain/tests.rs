#![allow(clippy::unwrap_used)]

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::*;
use crate::x509_svid::{CaFacts, verify_certificate_signature};

/// 2026-06-01T00:00:00Z, inside the validity of everything made here.
const NOW: i64 = 1_780_272_000;
const ID: &str = "spiffe://example.org/a";

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

fn leaf_params() -> CertificateParams {
    let mut params = params();
    params.subject_alt_names = vec![uri(ID)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, name);
    params.subject_alt_names = vec![uri("spiffe://example.org")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

struct Authority {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Authority {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Authority {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

fn verify(
    chain: &[&[u8]],
    roots: &[&Authority],
    purpose: Purpose,
    now: i64,
) -> Result<Facts, VerifyError> {
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| (*der).into()).collect();
    let roots: Vec<Vec<u8>> = roots.iter().map(|root| root.der.clone()).collect();
    verify_chain(&chain, &domain(), &roots, purpose, now)
}

/// The verdict about one leaf under a good root.
fn verify_leaf(params: &CertificateParams) -> Result<SpiffeId, VerifyError> {
    let root = Authority::root(ca_params("root"));
    let leaf = root.sign(params);
    verify(&[&leaf], &[&root], Purpose::Either, NOW).map(|facts| facts.id)
}

#[test]
fn a_sound_chain_proves_its_id() {
    let root = Authority::root(ca_params("root"));
    let intermediate = root.below(ca_params("intermediate"));
    let leaf = intermediate.sign(&leaf_params());
    let unrelated = Authority::root(ca_params("unrelated"));
    let facts = verify(
        &[&leaf, &intermediate.der],
        &[&unrelated, &root],
        Purpose::Client,
        NOW,
    )
    .unwrap();
    assert_eq!(facts.id.as_str(), ID);
    assert_eq!(facts.not_before, 1_767_225_600);
    assert_eq!(facts.not_after, 1_798_761_600);
    assert!(facts.aki.is_some());
}

#[test]
fn a_certificate_verifies_under_its_issuers_key_only() {
    let root = Authority::root(ca_params("root"));
    let other = Authority::root(ca_params("root"));
    let key = |authority: &Authority| CaFacts::read(&authority.der).unwrap().public_key().clone();
    let mut leaf = root.sign(&leaf_params());
    assert_eq!(verify_certificate_signature(&leaf, &key(&root)), Ok(()));
    let refused = Err(KeyError::BadSignature);
    assert_eq!(verify_certificate_signature(&leaf, &key(&other)), refused);
    let uri = leaf
        .windows(9)
        .position(|bytes| bytes == b"spiffe://")
        .unwrap();
    leaf[uri + 9] ^= 1;
    assert_eq!(verify_certificate_signature(&leaf, &key(&root)), refused);
}

#[test]
fn unknown_roots_prove_nothing_and_are_not_named_as_go_does() {
    let root = Authority::root(ca_params("root"));
    let same_name = Authority::root(ca_params("root"));
    let other_name = Authority::root(ca_params("other"));
    let leaf = root.sign(&leaf_params());
    for roots in [&[][..], &[&same_name], &[&other_name]] {
        let error = verify(&[&leaf], roots, Purpose::Client, NOW).unwrap_err();
        assert!(matches!(
            error,
            VerifyError::UnknownIssuer(_)
                | VerifyError::Path(webpki::Error::InvalidSignatureForPublicKey)
        ));
        assert!(
            !error
                .to_string()
                .contains("certificate signed by unknown authority")
        );
    }
}

#[test]
fn an_unreadable_root_does_not_hide_the_others() {
    let root = Authority::root(ca_params("root"));
    let leaf = root.sign(&leaf_params());
    let roots = [b"junk".to_vec(), root.der.clone()];
    let chain = [leaf.as_slice().into()];
    assert!(verify_chain(&chain, &domain(), &roots, Purpose::Either, NOW).is_ok());
}

#[test]
fn validity_ends_are_inclusive() {
    let root = Authority::root(ca_params("root"));
    let mut params = leaf_params();
    params.not_after = date_time_ymd(2026, 6, 1);
    let leaf = root.sign(&params);
    let at = |now| verify(&[&leaf], &[&root], Purpose::Either, now).map(|facts| facts.not_after);
    assert_eq!(at(NOW), Ok(NOW));
    assert_eq!(at(NOW + 1), Err(VerifyError::Expired));
    assert_eq!(at(1_767_225_600), Ok(NOW));
    assert_eq!(at(1_767_225_599), Err(VerifyError::NotYetValid));
    assert_eq!(at(-1), Err(VerifyError::Clock));
}

#[test]
fn leaves_that_could_sign_prove_nothing() {
    let mut ca = leaf_params();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(verify_leaf(&ca), Err(VerifyError::LeafIsCa));
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let mut params = leaf_params();
        params.key_usages.push(usage);
        assert_eq!(verify_leaf(&params), Err(VerifyError::LeafSigns));
    }
}

#[test]
fn exactly_one_uri_that_is_a_leafs_id_of_the_trust_domain() {
    let with = |names: &[&str]| {
        let mut params = leaf_params();
        params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
        verify_leaf(&params)
    };
    assert_eq!(with(&[]), Err(VerifyError::UriCount(0)));
    assert_eq!(with(&[ID, ID]), Err(VerifyError::UriCount(2)));
    assert!(matches!(
        with(&["https://example.org/a"]),
        Err(VerifyError::Id(_))
    ));
    assert!(matches!(
        with(&["spiffe://example.org"]),
        Err(VerifyError::EmptyPath(_))
    ));
    let error = with(&["spiffe://example.com/a"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#""spiffe://example.com/a" is not a member of trust domain "example.org""#
    );
    let mut beside = leaf_params();
    beside
        .subject_alt_names
        .push(SanType::DnsName("a.example.org".try_into().unwrap()));
    assert!(verify_leaf(&beside).is_ok());
}

#[test]
fn extended_key_usage_binds_only_where_it_is_present() {
    let root = Authority::root(ca_params("root"));
    let mut params = leaf_params();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client_only = root.sign(&params);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let neither = root.sign(&params);
    params.extended_key_usages = vec![];
    let absent = root.sign(&params);
    let good = |leaf: &[u8], purpose| verify(&[leaf], &[&root], purpose, NOW).is_ok();
    for (purpose, client_only_fits) in [
        (Purpose::Client, true),
        (Purpose::Either, true),
        (Purpose::Server, false),
    ] {
        assert_eq!(good(&client_only, purpose), client_only_fits);
        assert!(!good(&neither, purpose));
        assert!(good(&absent, purpose));
    }
}

#[test]
fn intermediates_must_be_allowed_to_sign() {
    let root = Authority::root(ca_params("root"));
    let mut params = ca_params("intermediate");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let intermediate = root.below(params);
    let leaf = intermediate.sign(&leaf_params());
    assert_eq!(
        verify(&[&leaf, &intermediate.der], &[&root], Purpose::Either, NOW),
        Err(VerifyError::Intermediate(CaError::CannotSign))
    );

    let mut params = ca_params("leaf as issuer");
    params.is_ca = IsCa::ExplicitNoCa;
    let not_ca = root.below(params);
    let leaf = not_ca.sign(&leaf_params());
    let verdict = verify(&[&leaf, &not_ca.der], &[&root], Purpose::Either, NOW);
    assert!(matches!(verdict, Err(VerifyError::Path(_))));
}

#[test]
fn size_is_bounded_before_anything_is_parsed() {
    let junk: &[u8] = b"x";
    assert_eq!(
        verify(&[], &[], Purpose::Either, NOW),
        Err(VerifyError::EmptyChain)
    );
    assert_eq!(
        verify(
            &[junk; CHAIN_CERTIFICATES_MAX + 1],
            &[],
            Purpose::Either,
            NOW
        ),
        Err(VerifyError::TooLarge)
    );
    let large = vec![0; CERTIFICATE_BYTES_MAX + 1];
    assert_eq!(
        verify(&[&large], &[], Purpose::Either, NOW),
        Err(VerifyError::TooLarge)
    );
    assert_eq!(read_svid(&large), Err(VerifyError::TooLarge));
}

#[test]
fn uri_name_constraints_are_refused_rather_than_ignored() {
    use crate::der::{encode, tag};
    // permittedSubtrees [0] { { uniformResourceIdentifier "example.org" } }
    let subtree = encode(
        tag::SEQUENCE,
        &[&encode(tag::primitive(6), &[b"example.org"])],
    );
    let constraint = encode(tag::SEQUENCE, &[&encode(tag::constructed(0), &[&subtree])]);
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraint);
    extension.set_criticality(true);
    let root = Authority::root(ca_params("root"));
    let mut params = ca_params("constrained");
    params.custom_extensions = vec![extension];
    let constrained = root.below(params);
    let leaf = constrained.sign(&leaf_params());
    let verdict = verify(&[&leaf, &constrained.der], &[&root], Purpose::Either, NOW);
    assert!(matches!(verdict, Err(VerifyError::Path(_))), "{verdict:?}");
}

#[test]
fn reading_an_svid_applies_the_rules_for_leaves() {
    let root = Authority::root(ca_params("root"));
    assert_eq!(read_svid(&root.der), Err(VerifyError::LeafIsCa));
    let facts = read_svid(&root.sign(&leaf_params())).unwrap();
    assert_eq!(facts.id.as_str(), ID);
    assert!(matches!(read_svid(b""), Err(VerifyError::Malformed(_))));
}

#[test]
fn a_root_outside_its_own_validity_vouches_for_nobody() {
    let aged = |from: i32, to: i32| {
        let mut params = ca_params("root");
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        Authority::root(params)
    };
    let (expired, early, good) = (aged(2020, 2026), aged(2027, 2030), aged(2020, 2030));
    let verdict = |signed_by: &Authority, roots: &[&Authority]| {
        let leaf = signed_by.sign(&leaf_params());
        verify(&[&leaf], roots, Purpose::Client, NOW).map(|facts| facts.id.to_string())
    };
    assert_eq!(
        verdict(&expired, &[&good, &expired]),
        Err(VerifyError::Expired)
    );
    assert_eq!(
        verdict(&early, &[&early, &good]),
        Err(VerifyError::NotYetValid)
    );
    // Beside them the others are as good as ever, and strangers as strange.
    assert_eq!(
        verdict(&good, &[&expired, &early, &good]).as_deref(),
        Ok(ID)
    );
    let stranger = Authority::root(ca_params("stranger"));
    assert_eq!(
        verdict(&stranger, &[&expired, &early, &good]),
        Err(VerifyError::UnknownIssuer(domain()))
    );
    // The last second counts.
    let last = 1_767_225_600;
    let mut params = leaf_params();
    params.not_before = date_time_ymd(2025, 1, 1);
    let leaf = expired.sign(&params);
    let at = |now| verify(&[&leaf], &[&expired], Purpose::Client, now).map(drop);
    assert_eq!(at(last), Ok(()));
    assert_eq!(at(last + 1), Err(VerifyError::Expired));
}
