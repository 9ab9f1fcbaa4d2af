#![allow(clippy::unwrap_used)]

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

fn time(tag: u8, text: &str) -> Result<Time, DerError> {
    let der = encode(tag, &[text.as_bytes()]);
    read_time(&mut Reader::new(&der))
}

#[test]
fn times_are_read_to_the_second() {
    for (tag, text, at) in [
        (tag::UTC_TIME, "700101000000Z", 0),
        (tag::UTC_TIME, "491231235959Z", 2_524_607_999),
        (tag::UTC_TIME, "500101000000Z", -631_152_000),
        (tag::UTC_TIME, "000229120000Z", 951_825_600),
        (tag::GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
        (tag::GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        (tag::GENERALIZED_TIME, "00010101000000Z", -62_135_596_800),
    ] {
        assert_eq!(time(tag, text).unwrap().at, at, "{text}");
    }
}

#[test]
fn times_have_one_form() {
    for text in [
        "7001010000Z",
        "700101000000+0000",
        "701301000000Z",
        "700100000000Z",
        "700230000000Z",
        "010229000000Z",
        "700101240000Z",
        "700101000060Z",
        "70010100000 Z",
    ] {
        assert_eq!(time(tag::UTC_TIME, text), Err(DerError::Time), "{text}");
    }
    assert_eq!(
        time(tag::GENERALIZED_TIME, "20500101000000.5Z"),
        Err(DerError::Time)
    );
}

#[test]
fn key_usage_bits_are_numbered_from_the_left() {
    let read = |contents: &[u8]| {
        let der = encode(tag::BIT_STRING, &[contents]);
        read_key_usage(&mut Reader::new(&der))
    };
    assert_eq!(
        read(&[3, 0b1010_1000]),
        Ok(KeyUsage(
            KeyUsage::DIGITAL_SIGNATURE | KeyUsage::KEY_ENCIPHERMENT | KeyUsage::KEY_AGREEMENT
        ))
    );
    assert_eq!(
        read(&[1, 0b0000_0110]),
        Ok(KeyUsage(KeyUsage::KEY_CERT_SIGN | KeyUsage::CRL_SIGN))
    );
    assert_eq!(read(&[7, 0, 0x80]), Ok(KeyUsage(1 << 8)));
    for contents in [&[][..], &[0], &[8, 0], &[1, 1], &[0, 1, 1, 1]] {
        assert_eq!(read(contents), Err(DerError::BitString));
    }
}

/// A certificate with every extension that is read here.
fn sample() -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["a.example.org".to_owned()]).unwrap();
    let id = "spiffe://example.org/a".try_into().unwrap();
    params.subject_alt_names.push(SanType::URI(id));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(3));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(0x7f01_0203_0405_0607u64.into());
    // The key of RFC 8032 §7.1, test 1: a damage that was found stays found.
    let pkcs8 = hex::decode(
        "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    )
    .unwrap();
    let pair = KeyPair::try_from(pkcs8).unwrap();
    params.self_signed(&pair).unwrap().der().to_vec()
}

/// Requires that a reader written by others sees in `der` what ours sees.
fn assert_read_alike(der: &[u8], ours: &Certificate<'_>) {
    let (rest, theirs) = X509Certificate::from_der(der).expect("what we read, they read");
    assert!(rest.is_empty());
    let tbs = &ours.tbs;
    assert_eq!(theirs.raw_serial(), tbs.serial);
    assert_eq!(theirs.issuer().as_raw(), tbs.issuer);
    assert_eq!(theirs.subject().as_raw(), tbs.subject);
    assert_eq!(theirs.public_key().raw, tbs.spki);
    assert_eq!(theirs.tbs_certificate.as_ref(), tbs.raw);
    assert_eq!(theirs.validity().not_before.timestamp(), tbs.not_before.at);
    assert_eq!(theirs.validity().not_after.timestamp(), tbs.not_after.at);
    let constraints = theirs.basic_constraints().ok().flatten();
    assert_eq!(
        constraints.map(|known| (known.value.ca, known.value.path_len_constraint)),
        tbs.extensions
            .basic_constraints
            .as_ref()
            .map(|known| (known.value.ca, known.value.path_len))
    );
    let usage = theirs.key_usage().ok().flatten();
    assert_eq!(
        usage.map(|known| known.value.flags),
        tbs.extensions.key_usage.as_ref().map(|known| known.value.0)
    );
}

#[test]
fn a_reader_written_by_others_reads_the_same() {
    let der = sample();
    let certificate = Certificate::parse(&der).unwrap();
    let extensions = &certificate.tbs.extensions;
    assert!(extensions.others.is_empty());
    assert_eq!(
        extensions.subject_alt_name.as_ref().unwrap().value,
        [
            GeneralName::Dns("a.example.org"),
            GeneralName::Uri("spiffe://example.org/a")
        ]
    );
    assert_read_alike(&der, &certificate);
}

#[test]
fn every_damage_of_one_byte_is_refused_or_read_as_others_read_it() {
    let der = sample();
    let mut read = 0;
    for at in 0..der.len() {
        let mut damaged = der.clone();
        for to in 0..=u8::MAX {
            damaged[at] = to;
            if to != der[at]
                && let Ok(certificate) = Certificate::parse(&damaged)
            {
                assert_read_alike(&damaged, &certificate);
                read += 1;
            }
        }
    }
    assert!(read > 10_000, "only {read} damaged certificates were read");
}
