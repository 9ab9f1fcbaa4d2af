//! One certificate for each way to break a rule, with the clause and what the judge says.

use super::sample::*;
use crate::certificate::oid;
use crate::der::{encode, tag};
use crate::id::SpiffeId;
use crate::key::SignatureAlgorithm;
use crate::x509_svid::{CaFacts, Profile, ProfileViolation, SerialError};

pub(super) type Vector = (&'static str, ProfileViolation, Sample);

fn vector(
    clause: &'static str,
    violation: ProfileViolation,
    mut sample: Sample,
    spoil: impl FnOnce(&mut Sample),
) -> Vector {
    spoil(&mut sample);
    (clause, violation, sample)
}

pub(super) fn envelope_vectors() -> Vec<Vector> {
    use ProfileViolation as V;
    let ecdsa_sha384 = SignatureAlgorithm::EcdsaSha384.identifier_der();
    let outer = ecdsa_sha384.clone();
    vec![
        vector(
            "RFC 5280 §4.1.2.2",
            V::Serial(SerialError::NotPositive),
            workload(),
            |s| s.serial[0] = 0x80,
        ),
        vector(
            "RFC 5280 §4.1.2.2",
            V::Serial(SerialError::TooLong),
            workload(),
            |s| s.serial = vec![1; 21],
        ),
        vector(
            "CA/Browser Forum BR §7.1",
            V::SerialShort(63),
            workload(),
            |s| s.serial = vec![0x7f; 8],
        ),
        vector(
            "RFC 5280 §4.1.1.2 (key)",
            V::SignatureAlgorithm,
            workload(),
            |s| s.algorithm = ecdsa_sha384,
        ),
        vector(
            "RFC 5280 §4.1.1.2 (repeat)",
            V::OuterAlgorithm,
            workload(),
            |s| s.outer_algorithm = Some(outer),
        ),
        vector("RFC 5280 §6.1.3 (a)(4)", V::IssuerName, workload(), |s| {
            s.issuer_name = name("other")
        }),
        vector(
            "RFC 5280 §6.1.3 (a)(4)",
            V::IssuerName,
            of(Profile::SelfSignedCa),
            |s| s.issuer_name = name("other"),
        ),
        vector("RFC 5280 §4.1.2.5", V::TimeEncoding, workload(), |s| {
            s.not_after = (tag::GENERALIZED_TIME, "20260101010000Z")
        }),
        vector(
            "RFC 5280 §6.1.3 (a)(2) (begin)",
            V::NotYetValid {
                not_before: NOW + 1,
                now: NOW,
            },
            workload(),
            |s| s.not_before.1 = "260101000001Z",
        ),
        vector(
            "RFC 5280 §6.1.3 (a)(2) (end)",
            V::Expired {
                not_after: NOW - 1,
                now: NOW,
            },
            workload(),
            |s| s.not_after.1 = "251231235959Z",
        ),
        vector(
            "RFC 5280 §4.1.2.5 (begin in issuer's)",
            V::BeforeIssuer {
                not_before: NOW - 86_401,
                issuer: NOW - 86_400,
            },
            workload(),
            |s| s.not_before.1 = "251230235959Z",
        ),
        vector(
            "RFC 5280 §4.1.2.5 (end in issuer's)",
            V::OutlivesIssuer {
                not_after: NOW + 86_401,
                issuer: NOW + 86_400,
            },
            workload(),
            |s| s.not_after.1 = "260102000001Z",
        ),
        vector("RFC 5280 §4.1.2.6", V::EmptySubject, workload(), |s| {
            s.subject = sequence(&[])
        }),
        vector("RFC 2986 §4.2", V::KeyDiffers, workload(), |s| {
            s.spki = keys().other.spki_der().to_vec()
        }),
    ]
}

pub(super) fn usage_vectors() -> Vec<Vector> {
    use ProfileViolation as V;
    let name_constraints = vec![0x55, 0x1d, 0x1e];
    let critical = |id: &'static [u8], to: bool| move |s: &mut Sample| s.extension(id).1 = to;
    let bits = |bits: &[u8]| encode(tag::BIT_STRING, &[bits]);
    let purposes = |ids: &[&[u8]]| {
        sequence(
            &ids.iter()
                .map(|id| encode(tag::OID, &[id]))
                .collect::<Vec<_>>(),
        )
    };
    let (server_only, reversed, any) = (
        purposes(&[oid::SERVER_AUTH]),
        purposes(&[oid::CLIENT_AUTH, oid::SERVER_AUTH]),
        purposes(&[oid::SERVER_AUTH, oid::CLIENT_AUTH, &[0x55, 0x1d, 0x25, 0]]),
    );
    let (leaf_signs, leaf_lists, ca_more, intermediate_lists) = (
        bits(&[2, 0b1010_1100]),
        bits(&[1, 0b1010_1010]),
        bits(&[1, 0b1000_0110]),
        bits(CERT_SIGN_AND_CRL_SIGN),
    );
    let other_key_id = encode(tag::OCTET_STRING, &[&keys().other.ski()]);
    let other_authority = sequence(&[encode(tag::primitive(0), &[&keys().other.ski()])]);
    let own_authority = sequence(&[encode(tag::primitive(0), &[&keys().subject.ski()])]);
    vec![
        vector(
            "RFC 5280 §4.2 (closed set)",
            V::UnexpectedExtension,
            of(Profile::DownstreamCa),
            |s| s.extensions.push((name_constraints, true, sequence(&[]))),
        ),
        vector(
            "RFC 5280 §4.2.1.9 (presence)",
            V::Missing("basicConstraints"),
            workload(),
            |s| s.remove(oid::BASIC_CONSTRAINTS),
        ),
        vector(
            "RFC 5280 §4.2.1.9 (critical)",
            V::Criticality("basicConstraints"),
            workload(),
            critical(oid::BASIC_CONSTRAINTS, false),
        ),
        vector("X509-SVID §4.2", V::CaFlag, workload(), |s| {
            s.extension(oid::BASIC_CONSTRAINTS).2 = sequence(&[vec![1, 1, 0xff]])
        }),
        vector(
            "X509-SVID §4.2",
            V::CaFlag,
            of(Profile::SelfSignedCa),
            |s| s.extension(oid::BASIC_CONSTRAINTS).2 = sequence(&[]),
        ),
        vector(
            "RFC 5280 §4.2.1.9 (pathLen)",
            V::PathLength,
            of(Profile::SelfSignedCa),
            |s| {
                s.extension(oid::BASIC_CONSTRAINTS).2 = sequence(&[vec![1, 1, 0xff], vec![2, 1, 0]])
            },
        ),
        vector(
            "RFC 5280 §4.2.1.9 (pathLen)",
            V::PathLength,
            of(Profile::Intermediate),
            |s| s.extension(oid::BASIC_CONSTRAINTS).2 = sequence(&[vec![1, 1, 0xff]]),
        ),
        vector(
            "RFC 5280 §6.1.4 (l)",
            V::IssuerPathLength,
            of(Profile::DownstreamCa),
            |s| {
                let mut issuer = issuer_sample();
                issuer.extension(oid::BASIC_CONSTRAINTS).2 =
                    sequence(&[vec![1, 1, 0xff], vec![2, 1, 0]]);
                s.issuer = Some(CaFacts::read(&issuer.certificate()).unwrap());
            },
        ),
        vector(
            "X509-SVID §4.3 (presence)",
            V::Missing("keyUsage"),
            workload(),
            |s| s.remove(oid::KEY_USAGE),
        ),
        vector(
            "X509-SVID §4.3 (critical)",
            V::Criticality("keyUsage"),
            workload(),
            critical(oid::KEY_USAGE, false),
        ),
        vector("X509-SVID §4.3", V::KeyUsage, workload(), |s| {
            s.extension(oid::KEY_USAGE).2 = leaf_signs
        }),
        vector("X509-SVID §4.3", V::KeyUsage, workload(), |s| {
            s.extension(oid::KEY_USAGE).2 = leaf_lists
        }),
        vector(
            "X509-SVID §4.3",
            V::KeyUsage,
            of(Profile::SelfSignedCa),
            |s| s.extension(oid::KEY_USAGE).2 = ca_more,
        ),
        vector(
            "X509-SVID §4.3",
            V::KeyUsage,
            of(Profile::Intermediate),
            |s| s.extension(oid::KEY_USAGE).2 = intermediate_lists,
        ),
        vector("X509-SVID §4.4", V::ExtendedKeyUsage, workload(), |s| {
            s.remove(oid::EXTENDED_KEY_USAGE)
        }),
        vector("X509-SVID §4.4", V::ExtendedKeyUsage, workload(), |s| {
            s.extension(oid::EXTENDED_KEY_USAGE).2 = server_only
        }),
        vector("X509-SVID §4.4", V::ExtendedKeyUsage, workload(), |s| {
            s.extension(oid::EXTENDED_KEY_USAGE).2 = reversed
        }),
        vector(
            "X509-SVID §4.4",
            V::ExtendedKeyUsage,
            of(Profile::SelfSignedCa),
            |s| {
                s.extensions
                    .push((oid::EXTENDED_KEY_USAGE.to_vec(), false, any))
            },
        ),
        vector(
            "RFC 5280 §4.2.1.12",
            V::Criticality("extendedKeyUsage"),
            workload(),
            critical(oid::EXTENDED_KEY_USAGE, true),
        ),
        vector(
            "RFC 5280 §4.2.1.2",
            V::Missing("subjectKeyIdentifier"),
            workload(),
            |s| s.remove(oid::SUBJECT_KEY_ID),
        ),
        vector("RFC 5280 §4.2.1.2", V::SubjectKeyId, workload(), |s| {
            s.extension(oid::SUBJECT_KEY_ID).2 = other_key_id
        }),
        vector(
            "RFC 5280 §4.2.1.2 (critical)",
            V::Criticality("subjectKeyIdentifier"),
            workload(),
            critical(oid::SUBJECT_KEY_ID, true),
        ),
        vector(
            "RFC 5280 §4.2.1.1",
            V::Missing("authorityKeyIdentifier"),
            workload(),
            |s| s.remove(oid::AUTHORITY_KEY_ID),
        ),
        vector("RFC 5280 §4.2.1.1", V::AuthorityKeyId, workload(), |s| {
            s.extension(oid::AUTHORITY_KEY_ID).2 = other_authority
        }),
        vector(
            "RFC 5280 §4.2.1.1",
            V::AuthorityKeyId,
            of(Profile::SelfSignedCa),
            |s| {
                s.extensions
                    .push((oid::AUTHORITY_KEY_ID.to_vec(), false, own_authority))
            },
        ),
        vector(
            "RFC 5280 §4.2.1.1 (critical)",
            V::Criticality("authorityKeyIdentifier"),
            workload(),
            critical(oid::AUTHORITY_KEY_ID, true),
        ),
    ]
}

pub(super) fn name_vectors() -> Vec<Vector> {
    use ProfileViolation as V;
    let id = "spiffe://example.org/workload";
    let (a, b) = ("a.example.org", "*.b.example.org");
    let ip = encode(tag::primitive(7), &[&[127, 0, 0, 1]]);
    let reserved = SpiffeId::server(&domain());
    let foreign = SpiffeId::parse("spiffe://example.com/workload").unwrap();
    let workload_id = SpiffeId::parse(id).unwrap();
    let mut invalid = workload();
    invalid.profile = Profile::Workload {
        dns_names: vec!["-a".into()],
    };
    invalid.names(&[uri(id), dns("-a")]);
    // Renames a sample throughout, so that only rules about the ID itself can object.
    let rename = |to: &SpiffeId| {
        let to = to.clone();
        move |s: &mut Sample| {
            let mut names = vec![uri(to.as_str())];
            names.extend(s.profile.dns_names().iter().map(|name| dns(name)));
            s.names(&names);
            s.id = to;
        }
    };
    vec![
        vector(
            "X509-SVID §2 (presence)",
            V::Missing("subjectAltName"),
            of(Profile::Server),
            |s| s.remove(oid::SUBJECT_ALT_NAME),
        ),
        vector(
            "RFC 5280 §4.2.1.6 (critical)",
            V::Criticality("subjectAltName"),
            workload(),
            |s| s.extension(oid::SUBJECT_ALT_NAME).1 = true,
        ),
        vector("X509-SVID §2 (one)", V::UriCount(2), workload(), |s| {
            s.names(&[uri(id), uri(id), dns(a), dns(b)])
        }),
        vector("X509-SVID §2 (one)", V::UriCount(0), workload(), |s| {
            s.names(&[dns(a), dns(b)])
        }),
        vector("X509-SVID §2 (ID)", V::UriDiffers, workload(), |s| {
            s.names(&[uri("spiffe://example.org/Workload"), dns(a), dns(b)])
        }),
        vector("X509-SVID §2 (others)", V::OtherName, workload(), |s| {
            s.names(&[uri(id), dns(a), dns(b), ip])
        }),
        vector("RFC 5280 §4.2.1.6 (DNS)", V::DnsNames, workload(), |s| {
            s.names(&[uri(id), dns(b), dns(a)])
        }),
        vector("RFC 5280 §4.2.1.6 (DNS)", V::DnsNames, workload(), |s| {
            s.names(&[uri(id), dns(a)])
        }),
        vector(
            "RFC 5280 §4.2.1.6 (DNS)",
            V::DnsNames,
            of(Profile::Server),
            |s| s.names(&[uri("spiffe://example.org/spire/server"), dns(a)]),
        ),
        vector("RFC 1123 §2.1", V::DnsNameInvalid, invalid, |_| ()),
        vector(
            "X509-SVID §4.1",
            V::IdPath,
            of(Profile::SelfSignedCa),
            rename(&workload_id),
        ),
        vector(
            "X509-SVID §4.1",
            V::IdPath,
            of(Profile::Server),
            rename(&workload_id),
        ),
        vector(
            "SPIFFE-ID §2.2 (namespace)",
            V::IdKind(reserved.require_workload(&domain()).unwrap_err()),
            workload(),
            rename(&reserved),
        ),
        vector(
            "SPIFFE-ID §2.2 (namespace)",
            V::IdKind(workload_id.require_agent(&domain()).unwrap_err()),
            of(Profile::Agent),
            rename(&workload_id),
        ),
        vector(
            "X509-SVID §5.1",
            V::TrustDomain,
            workload(),
            rename(&foreign),
        ),
    ]
}
