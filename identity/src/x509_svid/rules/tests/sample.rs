//! Certificates in parts, so that a vector can spoil exactly one of them.

use std::sync::OnceLock;

use rcgen::PublicKeyData;

use crate::certificate::oid;
use crate::der::{encode, tag};
use crate::id::{SpiffeId, TrustDomain};
use crate::key::PublicKey;
use crate::x509_svid::{CaFacts, Expected, Profile};

/// 2026-01-01T00:00:00Z.
pub(super) const NOW: i64 = 1_767_225_600;
pub(super) const DIGITAL_SIGNATURE_AND_FRIENDS: &[u8] = &[3, 0b1010_1000];
pub(super) const CERT_SIGN_AND_CRL_SIGN: &[u8] = &[1, 0b0000_0110];
pub(super) const CERT_SIGN: &[u8] = &[2, 0b0000_0100];

pub(super) struct Keys {
    pub(super) issuer: PublicKey,
    pub(super) subject: PublicKey,
    pub(super) other: PublicKey,
}

pub(super) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let generate = || {
            let pair = rcgen::KeyPair::generate().unwrap();
            PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap()
        };
        Keys {
            issuer: generate(),
            subject: generate(),
            other: generate(),
        }
    })
}

pub(super) fn name(common_name: &str) -> Vec<u8> {
    let attribute = encode(
        tag::SEQUENCE,
        &[
            &encode(tag::OID, &[&[0x55, 4, 3]]),
            &encode(0x0c, &[common_name.as_bytes()]),
        ],
    );
    encode(tag::SEQUENCE, &[&encode(tag::SET, &[&attribute])])
}

pub(super) fn uri(text: &str) -> Vec<u8> {
    encode(tag::primitive(6), &[text.as_bytes()])
}

pub(super) fn dns(text: &str) -> Vec<u8> {
    encode(tag::primitive(2), &[text.as_bytes()])
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    encode(tag::SEQUENCE, &[&parts.concat()])
}

/// A certificate in parts, any of which a vector may spoil.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) profile: Profile,
    pub(super) id: SpiffeId,
    pub(super) serial: Vec<u8>,
    pub(super) algorithm: Vec<u8>,
    pub(super) outer_algorithm: Option<Vec<u8>>,
    pub(super) issuer_name: Vec<u8>,
    pub(super) not_before: (u8, &'static str),
    pub(super) not_after: (u8, &'static str),
    pub(super) subject: Vec<u8>,
    pub(super) spki: Vec<u8>,
    /// Identifier, critical, value.
    pub(super) extensions: Vec<(Vec<u8>, bool, Vec<u8>)>,
    pub(super) issuer: Option<CaFacts>,
}

impl Sample {
    pub(super) fn tbs(&self) -> Vec<u8> {
        let extensions: Vec<Vec<u8>> = self
            .extensions
            .iter()
            .map(|(id, critical, value)| {
                let mut parts = vec![encode(tag::OID, &[id])];
                if *critical {
                    parts.push(encode(tag::BOOLEAN, &[&[0xff]]));
                }
                parts.push(encode(tag::OCTET_STRING, &[value]));
                sequence(&parts)
            })
            .collect();
        let time = |(tag, text): (u8, &str)| encode(tag, &[text.as_bytes()]);
        sequence(&[
            encode(tag::constructed(0), &[&[2, 1, 2]]),
            encode(tag::INTEGER, &[&self.serial]),
            self.algorithm.clone(),
            self.issuer_name.clone(),
            sequence(&[time(self.not_before), time(self.not_after)]),
            self.subject.clone(),
            self.spki.clone(),
            encode(tag::constructed(3), &[&sequence(&extensions)]),
        ])
    }

    pub(super) fn certificate(&self) -> Vec<u8> {
        let outer = self.outer_algorithm.as_ref().unwrap_or(&self.algorithm);
        let signature = encode(tag::BIT_STRING, &[&[0, 1, 2, 3]]);
        sequence(&[self.tbs(), outer.clone(), signature])
    }

    pub(super) fn expected(&self) -> Expected<'_> {
        Expected {
            profile: &self.profile,
            id: &self.id,
            public_key: &keys().subject,
            issuer: self.issuer.as_ref(),
            now: NOW,
        }
    }

    pub(super) fn extension(&mut self, id: &[u8]) -> &mut (Vec<u8>, bool, Vec<u8>) {
        self.extensions
            .iter_mut()
            .find(|(found, ..)| found == id)
            .unwrap()
    }

    pub(super) fn remove(&mut self, id: &[u8]) {
        self.extensions.retain(|(found, ..)| found != id);
    }

    pub(super) fn names(&mut self, names: &[Vec<u8>]) {
        self.extension(oid::SUBJECT_ALT_NAME).2 = sequence(names);
    }
}

pub(super) fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// A sound certificate of `profile`, under the issuer made by `issuer`.
pub(super) fn sample(profile: Profile, id: &SpiffeId, issuer: Option<CaFacts>) -> Sample {
    let keys = keys();
    let subject = name("subject");
    let mut names = vec![uri(id.as_str())];
    names.extend(profile.dns_names().iter().map(|name| dns(name)));
    let constraints = match profile {
        Profile::Intermediate => sequence(&[vec![1, 1, 0xff], vec![2, 1, 0]]),
        _ if profile.is_ca() => sequence(&[vec![1, 1, 0xff]]),
        _ => sequence(&[]),
    };
    let usage = match profile {
        Profile::Intermediate => CERT_SIGN,
        _ if profile.is_ca() => CERT_SIGN_AND_CRL_SIGN,
        _ => DIGITAL_SIGNATURE_AND_FRIENDS,
    };
    let mut extensions = vec![
        (oid::SUBJECT_ALT_NAME.to_vec(), false, sequence(&names)),
        (
            oid::KEY_USAGE.to_vec(),
            true,
            encode(tag::BIT_STRING, &[usage]),
        ),
        (
            oid::SUBJECT_KEY_ID.to_vec(),
            false,
            encode(tag::OCTET_STRING, &[&keys.subject.ski()]),
        ),
        (oid::BASIC_CONSTRAINTS.to_vec(), true, constraints),
    ];
    if !profile.is_ca() {
        let purposes = [oid::SERVER_AUTH, oid::CLIENT_AUTH].map(|id| encode(tag::OID, &[id]));
        extensions.push((oid::EXTENDED_KEY_USAGE.to_vec(), false, sequence(&purposes)));
    }
    if let Some(issuer) = &issuer {
        let key_id = encode(tag::primitive(0), &[issuer.ski()]);
        extensions.push((oid::AUTHORITY_KEY_ID.to_vec(), false, sequence(&[key_id])));
    }
    let signer = issuer.as_ref().map_or(&keys.subject, CaFacts::public_key);
    Sample {
        id: id.clone(),
        serial: [&[0x7f][..], &[1; 15]].concat(),
        algorithm: signer.certificate_algorithm().identifier_der(),
        outer_algorithm: None,
        issuer_name: match &issuer {
            Some(issuer) => issuer.subject_der().to_vec(),
            None => subject.clone(),
        },
        not_before: (tag::UTC_TIME, "251231235950Z"),
        not_after: (tag::UTC_TIME, "260101010000Z"),
        subject,
        spki: keys.subject.spki_der().to_vec(),
        extensions,
        profile,
        issuer,
    }
}

/// The certificate of the issuer, before it is read.
pub(super) fn issuer_sample() -> Sample {
    let mut root = sample(
        Profile::SelfSignedCa,
        &SpiffeId::of_trust_domain(&domain()),
        None,
    );
    root.subject = name("issuer");
    root.issuer_name = name("issuer");
    root.spki = keys().issuer.spki_der().to_vec();
    root.extension(oid::SUBJECT_KEY_ID).2 = encode(tag::OCTET_STRING, &[&keys().issuer.ski()]);
    root.not_before = (tag::UTC_TIME, "251231000000Z");
    root.not_after = (tag::UTC_TIME, "260102000000Z");
    root
}

pub(super) fn issuer() -> CaFacts {
    CaFacts::read(&issuer_sample().certificate()).unwrap()
}

pub(super) fn of(profile: Profile) -> Sample {
    let path = match profile {
        Profile::Server => "/spire/server",
        Profile::Agent => "/spire/agent/join_token/a",
        Profile::Workload { .. } => "/workload",
        _ => "",
    };
    let id = SpiffeId::new(&domain(), path).unwrap();
    let issuer = (profile != Profile::SelfSignedCa).then(issuer);
    sample(profile, &id, issuer)
}

pub(super) fn workload() -> Sample {
    of(Profile::Workload {
        dns_names: vec!["a.example.org".into(), "*.b.example.org".into()],
    })
}
