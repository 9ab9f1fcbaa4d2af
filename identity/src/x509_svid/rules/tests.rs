//! Each rule has a vector that breaks only it; each profile has one that breaks none.

#![allow(clippy::unwrap_used)]

mod sample;
mod vectors;

use std::collections::BTreeSet;

use sample::*;
use vectors::{envelope_vectors, name_vectors, usage_vectors};

use super::*;
use crate::certificate::oid;
use crate::der::{encode, tag};
use crate::x509_svid::{
    CaError, CaFacts, Profile, assemble_certificate, judge_certificate, judge_tbs,
};

/// Every violation, not only the first.
fn violations(sample: &Sample) -> Vec<(&'static str, ProfileViolation)> {
    let certificate = sample.certificate();
    let certificate = crate::certificate::Certificate::parse(&certificate).unwrap();
    let expected = sample.expected();
    let judged = Judged {
        tbs: &certificate.tbs,
        outer_algorithm: Some(certificate.signature_algorithm),
        expected: &expected,
    };
    RULES
        .iter()
        .filter_map(|rule| Some((rule.clause, (rule.check)(&judged).err()?)))
        .collect()
}

#[test]
fn a_sound_certificate_of_every_profile_breaks_no_rule() {
    for profile in [
        Profile::SelfSignedCa,
        Profile::DownstreamCa,
        Profile::Intermediate,
        Profile::Server,
        Profile::Agent,
        Profile::Workload { dns_names: vec![] },
    ] {
        let sample = of(profile.clone());
        assert_eq!(violations(&sample), [], "{profile:?}");
        let facts = judge_certificate(&sample.certificate(), &sample.expected()).unwrap();
        assert_eq!(
            judge_tbs(&sample.tbs(), &sample.expected()),
            Ok(facts.clone())
        );
        assert_eq!(facts.id, sample.id);
        assert_eq!(facts.not_before, NOW - 10);
        assert_eq!(facts.not_after, NOW + 3600);
        assert_eq!(facts.serial.bits(), 127);
    }
    assert_eq!(violations(&workload()), []);
}

#[test]
fn every_vector_breaks_its_rule_and_no_other() {
    let vectors = [envelope_vectors(), usage_vectors(), name_vectors()].concat();
    let mut covered = BTreeSet::new();
    for (clause, violation, sample) in &vectors {
        assert_eq!(violations(sample), [(*clause, violation.clone())]);
        assert_eq!(
            judge_certificate(&sample.certificate(), &sample.expected()),
            Err(violation.clone())
        );
        covered.insert(*clause);
    }
    let clauses: BTreeSet<_> = RULES.iter().map(|rule| rule.clause).collect();
    assert_eq!(
        clauses.len(),
        RULES.len(),
        "each rule has a name of its own"
    );
    // Naming the wrong kind of issuer is our own mistake; it breaks several rules.
    covered.insert("RFC 5280 §3.2 (self-issued)");
    assert_eq!(covered, clauses);
}

#[test]
fn an_issuer_is_named_exactly_where_the_profile_has_one() {
    let mut without = workload();
    without.issuer = None;
    let mut with = of(Profile::SelfSignedCa);
    with.issuer = Some(issuer());
    for sample in [without, with] {
        assert_eq!(
            judge_tbs(&sample.tbs(), &sample.expected()),
            Err(ProfileViolation::IssuerPresence)
        );
    }
}

#[test]
fn an_extension_given_twice_is_malformed() {
    let mut sample = workload();
    let again = sample.extension(oid::KEY_USAGE).clone();
    sample.extensions.push(again);
    assert_eq!(
        judge_tbs(&sample.tbs(), &sample.expected()),
        Err(ProfileViolation::Malformed(
            crate::der::DerError::DuplicateExtension
        ))
    );
}

#[test]
fn the_boundaries_of_validity_are_inclusive() {
    let mut sample = workload();
    sample.not_before.1 = "251231000000Z";
    sample.not_after.1 = "260102000000Z";
    assert_eq!(violations(&sample), []);
    sample.not_before.1 = "260101000000Z";
    sample.not_after.1 = "260101000000Z";
    assert_eq!(violations(&sample), []);
}

#[test]
fn assembling_repeats_the_signed_algorithm() {
    let sample = workload();
    let certificate = assemble_certificate(&sample.tbs(), &[1, 2, 3]).unwrap();
    assert_eq!(certificate, sample.certificate());
    assert!(assemble_certificate(b"x", &[1]).is_err());
}

#[test]
fn an_issuer_name_is_replaced_byte_for_byte() {
    let mut sample = workload();
    let right = sample.tbs();
    sample.issuer_name = name("placeholder");
    let replaced = crate::x509_svid::with_issuer(&sample.tbs(), issuer().subject_der());
    assert_eq!(replaced, Ok(right));
}

#[test]
fn a_subject_is_replaced_byte_for_byte() {
    let mut sample = workload();
    let right = sample.tbs();
    let subject = std::mem::replace(&mut sample.subject, name("placeholder"));
    let replaced = crate::x509_svid::with_subject(&sample.tbs(), &subject);
    assert_eq!(replaced, Ok(right));
    assert!(crate::x509_svid::with_subject(b"x", &subject).is_err());
}

#[test]
fn only_signing_certificates_are_issuers() {
    let read = |spoil: &dyn Fn(&mut Sample)| {
        let mut sample = issuer_sample();
        spoil(&mut sample);
        CaFacts::read_for(&domain(), &sample.certificate()).map(|_| ())
    };
    let bits = |bits: &[u8]| encode(tag::BIT_STRING, &[bits]);
    assert_eq!(read(&|_| ()), Ok(()));
    // What SPIRE admits of an upstream authority.
    assert_eq!(read(&|s| s.remove(oid::SUBJECT_ALT_NAME)), Ok(()));
    assert_eq!(
        read(&|s| s.extension(oid::KEY_USAGE).2 = bits(&[1, 0b1000_0110])),
        Ok(())
    );
    assert_eq!(
        read(&|s| s.extension(oid::BASIC_CONSTRAINTS).2 = sequence(&[])),
        Err(CaError::NotCa)
    );
    assert_eq!(
        read(&|s| s.remove(oid::BASIC_CONSTRAINTS)),
        Err(CaError::NotCa)
    );
    assert_eq!(
        read(&|s| s.remove(oid::KEY_USAGE)),
        Err(CaError::CannotSign)
    );
    assert_eq!(
        read(&|s| s.extension(oid::KEY_USAGE).2 = bits(&[1, 0b0000_0010])),
        Err(CaError::CannotSign)
    );
    assert_eq!(
        read(&|s| s.extension(oid::KEY_USAGE).2 = bits(&[1, 0b0010_0110])),
        Err(CaError::KeyUsage)
    );
    assert_eq!(
        read(&|s| s.remove(oid::SUBJECT_KEY_ID)),
        Err(CaError::NoKeyId)
    );
    assert_eq!(
        read(&|s| s.subject = sequence(&[])),
        Err(CaError::EmptySubject)
    );
    let td = "spiffe://example.org";
    assert_eq!(
        read(&|s| s.names(&[uri(td), uri(td)])),
        Err(CaError::UriCount(2))
    );
    assert!(matches!(
        read(&|s| s.names(&[uri("spiffe://example.org/a")])),
        Err(CaError::Path(_))
    ));
    assert!(matches!(
        read(&|s| s.names(&[uri("https://example.org")])),
        Err(CaError::Id(_))
    ));
    assert!(matches!(
        read(&|s| s.names(&[uri("spiffe://example.com")])),
        Err(CaError::TrustDomain { .. })
    ));
}
