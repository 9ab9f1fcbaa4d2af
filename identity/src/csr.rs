//! Certificate signing requests (RFC 2986), of which only the public key is used.
//!
//! What a request asks for (subject, names, extensions) never enters a certificate
//! by itself: an entry decides that. Two callers differ in what they demand, and so
//! do two methods: attestation only parses, signing for a workload also requires
//! proof that the requester holds the key. `MintX509SVID` alone reads the requested
//! names, and judges each one before it uses it.

use crate::certificate::{Extensions, GeneralName, oid, read_name, replace_field};
use crate::der::{DerError, Reader, encode, tag};
use crate::key::{KeyError, PublicKey, SignatureAlgorithm};

/// Largest request read, in bytes; one for an 8192-bit RSA key has under 4 KiB.
pub const CSR_BYTES_MAX: usize = 64 * 1024;

/// Why a request is refused. The text is SPIRE's up to the detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// The request is larger than [`CSR_BYTES_MAX`].
    #[error("malformed CSR: larger than {CSR_BYTES_MAX} bytes")]
    TooLarge,
    /// The request is not the DER of a certification request.
    #[error("malformed CSR: {0}")]
    Malformed(DerError),
    /// The public key is none that we certify.
    #[error("malformed CSR: {0}")]
    Key(KeyError),
    /// The requester did not prove possession of the private key.
    #[error("invalid CSR signature: {0}")]
    Signature(KeyError),
}

/// A request whose structure and key are sound. Its signature is checked by
/// [`Csr::verify_signature`] and by nothing else.
#[derive(Debug, Clone)]
pub struct Csr {
    /// CertificationRequestInfo, the signed bytes.
    info: Vec<u8>,
    subject: Vec<u8>,
    public_key: PublicKey,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
    /// Contents of the requested Extensions, header included, if any.
    requested: Option<Vec<u8>>,
}

/// The subject alternative names that a request asks for, unjudged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedNames {
    /// URIs, in order.
    pub uris: Vec<String>,
    /// DNS names, in order.
    pub dns_names: Vec<String>,
    /// How many names of other types there are.
    pub others: usize,
}

impl Csr {
    /// Reads a DER certification request; the whole input is consumed.
    ///
    /// # Errors
    /// Every variant of [`CsrError`] but the signature.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLarge);
        }
        let parts = Parts::read(der).map_err(CsrError::Malformed)?;
        Ok(Csr {
            public_key: PublicKey::from_spki_der(parts.spki).map_err(CsrError::Key)?,
            info: parts.info.to_vec(),
            subject: parts.subject.to_vec(),
            algorithm: parts.algorithm.to_vec(),
            signature: parts.signature.to_vec(),
            requested: parts.requested.map(<[u8]>::to_vec),
        })
    }

    /// The key to certify.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Checks proof of possession: the signature over the exact request
    /// information by the key in it (RFC 2986 §4.2).
    ///
    /// # Errors
    /// [`CsrError::Signature`].
    pub fn verify_signature(&self) -> Result<(), CsrError> {
        let algorithm = SignatureAlgorithm::from_identifier_der(&self.algorithm)
            .map_err(CsrError::Signature)?;
        self.public_key
            .verify(algorithm, &self.info, &self.signature)
            .map_err(CsrError::Signature)
    }

    /// The requested subject, as the DER of a Name.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// Whether the requested subject has no attributes.
    #[must_use]
    pub fn subject_is_empty(&self) -> bool {
        self.subject == [tag::SEQUENCE, 0]
    }

    /// The requested subject alternative names.
    ///
    /// # Errors
    /// [`CsrError::Malformed`] when the requested extensions are.
    pub fn requested_names(&self) -> Result<RequestedNames, CsrError> {
        let Some(requested) = &self.requested else {
            return Ok(RequestedNames::default());
        };
        let extensions = Extensions::parse(requested).map_err(CsrError::Malformed)?;
        let mut names = RequestedNames::default();
        for name in extensions
            .subject_alt_name
            .iter()
            .flat_map(|san| &san.value)
        {
            match name {
                GeneralName::Uri(uri) => names.uris.push((*uri).to_owned()),
                GeneralName::Dns(dns) => names.dns_names.push((*dns).to_owned()),
                GeneralName::Other(_) => names.others += 1,
            }
        }
        Ok(names)
    }
}

/// Puts a request together from its information and the signature over it, DER for
/// ECDSA (RFC 2986 §4.2).
#[must_use]
pub fn assemble_csr(info_der: &[u8], algorithm: SignatureAlgorithm, signature: &[u8]) -> Vec<u8> {
    let bits = encode(tag::BIT_STRING, &[&[0], signature]);
    let identifier = algorithm.identifier_der();
    encode(tag::SEQUENCE, &[info_der, &identifier, &bits])
}

/// The same request information with another subject, given as the DER of a Name.
///
/// # Errors
/// [`DerError`] when the bytes are not a CertificationRequestInfo.
pub fn with_subject(info_der: &[u8], subject_name_der: &[u8]) -> Result<Vec<u8>, DerError> {
    // version, subject: RFC 2986 §4.1
    replace_field(info_der, 1, subject_name_der)?.ok_or(DerError::Truncated)
}

struct Parts<'a> {
    info: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    requested: Option<&'a [u8]>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Reader::new(der);
        let mut request = outer.nested(tag::SEQUENCE)?;
        outer.finish()?;
        let info = request.value(tag::SEQUENCE)?;
        let algorithm = request.value(tag::SEQUENCE)?.raw;
        let signature = request.octet_aligned_bits()?;
        request.finish()?;

        let mut fields = Reader::new(info.contents);
        if fields.integer()? != [0] {
            return Err(DerError::Version);
        }
        let subject = read_name(&mut fields)?;
        let spki = fields.value(tag::SEQUENCE)?.raw;
        // RFC 2986 §4.1 makes the attributes mandatory; some writers leave out an
        // empty set, and Go reads that.
        let requested = match fields.optional(tag::constructed(0))? {
            Some(attributes) => find_extension_request(Reader::new(attributes))?,
            None => None,
        };
        fields.finish()?;
        Ok(Parts {
            info: info.raw,
            subject,
            spki,
            requested,
            algorithm,
            signature,
        })
    }
}

fn find_extension_request(mut attributes: Reader<'_>) -> Result<Option<&[u8]>, DerError> {
    let mut found = None;
    while !attributes.is_empty() {
        let mut attribute = attributes.nested(tag::SEQUENCE)?;
        let id = attribute.contents(tag::OID)?;
        let mut values = attribute.nested(tag::SET)?;
        attribute.finish()?;
        if id == oid::EXTENSION_REQUEST {
            let extensions = values.value(tag::SEQUENCE)?.raw;
            values.finish()?;
            if found.replace(extensions).is_some() {
                return Err(DerError::DuplicateExtension);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData, SanType};

    use super::*;

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> (KeyPair, Vec<u8>) {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI("spiffe://example.org/a".try_into().unwrap()),
            SanType::DnsName("a.example.org".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        let der = params.serialize_request(&pair).unwrap().der().to_vec();
        (pair, der)
    }

    /// The same request with `edit` applied to the parts of its information.
    fn edited(der: &[u8], edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
        let mut outer = Reader::new(der).nested(tag::SEQUENCE).unwrap();
        let mut info = outer.nested(tag::SEQUENCE).unwrap();
        let mut parts = Vec::new();
        while !info.is_empty() {
            parts.push(info.any().unwrap().raw.to_vec());
        }
        edit(&mut parts);
        let info = encode(tag::SEQUENCE, &[&parts.concat()]);
        let mut rest = Vec::new();
        while !outer.is_empty() {
            rest.extend_from_slice(outer.any().unwrap().raw);
        }
        encode(tag::SEQUENCE, &[&info, &rest])
    }

    #[test]
    fn proof_of_possession_holds_for_every_kind_of_key() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let (pair, der) = request(algorithm);
            let csr = Csr::parse(&der).unwrap();
            assert_eq!(csr.public_key().spki_der(), pair.subject_public_key_info());
            assert_eq!(csr.verify_signature(), Ok(()));
        }
    }

    #[test]
    fn a_request_changed_after_signing_parses_but_does_not_verify() {
        let (_, der) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let (other, _) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let swapped = edited(&der, |parts| parts[2] = other.subject_public_key_info());
        let csr = Csr::parse(&swapped).unwrap();
        let error = csr.verify_signature().unwrap_err();
        assert_eq!(error, CsrError::Signature(KeyError::BadSignature));
        assert!(error.to_string().starts_with("invalid CSR signature: "));
    }

    #[test]
    fn requested_names_are_readable_but_separate() {
        let (_, der) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let names = Csr::parse(&der).unwrap().requested_names().unwrap();
        assert_eq!(names.uris, ["spiffe://example.org/a"]);
        assert_eq!(names.dns_names, ["a.example.org"]);
        assert_eq!(names.others, 1);
    }

    #[test]
    fn a_request_taken_apart_and_assembled_is_the_same() {
        let (_, der) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let csr = Csr::parse(&der).unwrap();
        let algorithm = csr.public_key().certificate_algorithm();
        assert_eq!(assemble_csr(&csr.info, algorithm, &csr.signature), der);
    }

    #[test]
    fn a_subject_is_replaced_and_nothing_else() {
        let (_, der) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let csr = Csr::parse(&der).unwrap();
        let empty = [tag::SEQUENCE, 0];
        let info = with_subject(&csr.info, &empty).unwrap();
        let algorithm = csr.public_key().certificate_algorithm();
        let changed = Csr::parse(&assemble_csr(&info, algorithm, &csr.signature)).unwrap();
        assert!(changed.subject_is_empty() && !csr.subject_is_empty());
        assert_eq!(changed.public_key(), csr.public_key());
        assert_eq!(changed.requested_names(), csr.requested_names());
        let again = with_subject(&info, csr.subject_der());
        assert_eq!(again.as_ref(), Ok(&csr.info));
        assert!(with_subject(&[tag::SEQUENCE, 0], &empty).is_err());
        assert!(with_subject(b"x", &empty).is_err());
    }

    #[test]
    fn attributes_may_be_absent() {
        let (_, der) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let without = edited(&der, |parts| {
            parts.pop();
        });
        let csr = Csr::parse(&without).unwrap();
        assert_eq!(csr.requested_names(), Ok(RequestedNames::default()));
    }

    #[test]
    fn size_is_checked_before_structure() {
        let error = Csr::parse(&vec![0; CSR_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(error, CsrError::TooLarge);
        assert!(error.to_string().starts_with("malformed CSR: "));
    }

    #[test]
    fn malformed_requests_are_named_so() {
        let (_, der) = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let trailing = [&der[..], &[0]].concat();
        let version = edited(&der, |parts| parts[0] = vec![2, 1, 1]);
        let extra = edited(&der, |parts| parts.push(vec![5, 0]));
        let twice = edited(&der, |parts| {
            let contents = Reader::new(&parts[3]).any().unwrap().contents.to_vec();
            parts[3] = encode(tag::constructed(0), &[&contents, &contents]);
        });
        for (der, error) in [
            (&b""[..], DerError::Truncated),
            (&trailing, DerError::Trailing),
            (&version, DerError::Version),
            (&extra, DerError::Trailing),
            (&twice, DerError::DuplicateExtension),
        ] {
            assert_eq!(Csr::parse(der).map(|_| ()), Err(CsrError::Malformed(error)));
        }
        let weak = edited(&der, |parts| parts[2] = encode(tag::SEQUENCE, &[]));
        let error = Csr::parse(&weak).unwrap_err();
        assert!(matches!(error, CsrError::Key(_)));
        assert!(error.to_string().starts_with("malformed CSR: "));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Csr::parse(&bytes);
        }

        #[test]
        fn no_change_of_one_byte_verifies(at in 0usize..1 << 16, to in any::<u8>()) {
            let (_, der) = request(&rcgen::PKCS_ED25519);
            let mut changed = der.clone();
            let at = at % der.len();
            changed[at] = to;
            if changed != der && let Ok(csr) = Csr::parse(&changed) {
                prop_assert!(csr.verify_signature().is_err());
            }
        }
    }
}
