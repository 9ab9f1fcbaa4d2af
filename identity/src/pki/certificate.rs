//! A certificate taken apart as Go's `crypto/x509` takes it apart.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::constraints::Constraints;
use super::key::{SubjectKey, signature_algorithm};
use super::name::Name;
use super::uri::Uri;
use crate::certificate::{read_basic_constraints, read_key_usage, read_time};
use crate::der::{DerError, Reader, tag};
use crate::key::SignatureAlgorithm;

/// Largest certificate that is read, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;
/// Longest serial number, in octets: three times what RFC 5280 §4.1.2.2 allows. It is
/// told in selectors and messages.
const SERIAL_BYTES_MAX: usize = 64;
/// Most extensions of a certificate.
const EXTENSIONS_MAX: usize = 64;
/// Most subject alternative names.
const NAMES_MAX: usize = 1024;
/// Contents of 2.5.29, under which the extensions of RFC 5280 §4.2.1 stand.
const EXTENSION_ARC: [u8; 2] = [0x55, 0x1d];

/// Why bytes are not a certificate that is worked with. The texts are Go's where it
/// has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// More than [`CERTIFICATE_BYTES_MAX`].
    #[error("x509: certificate is larger than {CERTIFICATE_BYTES_MAX} bytes")]
    TooLarge,
    /// Not the DER of a certificate.
    #[error("x509: malformed certificate: {0}")]
    Malformed(#[from] DerError),
    /// A version after 3.
    #[error("x509: invalid version")]
    Version,
    /// A negative serial number.
    #[error("x509: negative serial number")]
    NegativeSerial,
    /// A serial number of more than [`SERIAL_BYTES_MAX`] octets.
    #[error("x509: serial number is longer than {SERIAL_BYTES_MAX} octets")]
    LongSerial,
    /// Two signature algorithms.
    #[error("x509: inner and outer signature algorithm identifiers don't match")]
    Algorithms,
    /// A name that is no name.
    #[error("x509: invalid RDNSequence: {0}")]
    Name(DerError),
    /// A key that its algorithm does not know.
    #[error("x509: invalid public key")]
    Key,
    /// A curve that is not supported.
    #[error("x509: unsupported elliptic curve")]
    Curve,
    /// An extension twice.
    #[error("x509: certificate contains duplicate extension")]
    DuplicateExtension,
    /// A key identifier that is critical, which RFC 5280 forbids.
    #[error("x509: key identifier incorrectly marked critical")]
    CriticalKeyId,
    /// A subject alternative name that is none.
    #[error("x509: invalid subject alternative name")]
    SubjectAltName,
    /// Name constraints that constrain nothing or cannot be read.
    #[error("x509: invalid NameConstraints extension")]
    NameConstraints,
}

/// A bit of the key usage (RFC 5280 §4.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBit {
    /// digitalSignature.
    DigitalSignature,
    /// keyCertSign.
    CertSign,
}

/// A certificate, read and not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    tbs: (usize, usize),
    pub(super) version: u8,
    serial: Vec<u8>,
    pub(super) algorithm: Option<SignatureAlgorithm>,
    pub(super) signature: Vec<u8>,
    pub(super) raw_issuer: Vec<u8>,
    pub(super) raw_subject: Vec<u8>,
    pub(super) raw_key: Vec<u8>,
    issuer: Name,
    subject: Name,
    not_before: i64,
    not_after: i64,
    key: SubjectKey,
    pub(super) extensions: Extensions,
}

/// What the extensions say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) subject_key_id: Vec<u8>,
    pub(super) authority_key_id: Vec<u8>,
    pub(super) key_usage: u16,
    /// Whether it is an authority, and of how long a path.
    pub(super) basic: Option<(bool, Option<u32>)>,
    pub(super) raw_alt_names: Option<Vec<u8>>,
    pub(super) dns_names: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) uris: Vec<Uri>,
    pub(super) constraints: Option<Constraints>,
    /// A critical one was not understood.
    pub(super) unhandled: bool,
}

impl Certificate {
    /// Reads exactly one certificate.
    ///
    /// # Errors
    /// Every variant of [`PkiError`].
    pub fn parse(der: &[u8]) -> Result<Self, PkiError> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(PkiError::TooLarge);
        }
        let mut outer = Reader::new(der);
        let mut parts = outer.nested(tag::SEQUENCE)?;
        outer.finish()?;
        let tbs = parts.value(tag::SEQUENCE)?;
        let outer_algorithm = parts.value(tag::SEQUENCE)?.raw;
        let signature = parts.octet_aligned_bits()?.to_vec();
        parts.finish()?;

        let mut fields = Reader::new(tbs.contents);
        let version = read_version(&mut fields)?;
        let serial = match fields.integer()? {
            [first, ..] if first & 0x80 != 0 => return Err(PkiError::NegativeSerial),
            [0, magnitude @ ..] if !magnitude.is_empty() => magnitude,
            magnitude => magnitude,
        };
        if serial.len() > SERIAL_BYTES_MAX {
            return Err(PkiError::LongSerial);
        }
        let algorithm = fields.value(tag::SEQUENCE)?.raw;
        if algorithm != outer_algorithm {
            return Err(PkiError::Algorithms);
        }
        let raw_issuer = fields.value(tag::SEQUENCE)?.raw;
        let mut validity = fields.nested(tag::SEQUENCE)?;
        let not_before = read_time(&mut validity)?.at;
        let not_after = read_time(&mut validity)?.at;
        validity.finish()?;
        let raw_subject = fields.value(tag::SEQUENCE)?.raw;
        let raw_key = fields.value(tag::SEQUENCE)?.raw;
        let mut extensions = Extensions::default();
        if version > 1 {
            fields.optional(tag::primitive(1))?;
            fields.optional(tag::primitive(2))?;
        }
        if version == 3
            && let Some(list) = fields.optional(tag::constructed(3))?
        {
            extensions = Extensions::parse(list)?;
        }
        fields.finish()?;
        // `tbs` borrows from `der`: where it begins is the length of what is before.
        let tbs_at = der.len() - tail_length(der, tbs.raw)?;
        Ok(Self {
            der: der.to_vec(),
            tbs: (tbs_at, tbs_at + tbs.raw.len()),
            version,
            serial: serial.to_vec(),
            algorithm: signature_algorithm(algorithm)?,
            signature,
            issuer: Name::parse(raw_issuer).map_err(PkiError::Name)?,
            subject: Name::parse(raw_subject).map_err(PkiError::Name)?,
            raw_issuer: raw_issuer.to_vec(),
            raw_subject: raw_subject.to_vec(),
            key: SubjectKey::parse(raw_key)?,
            raw_key: raw_key.to_vec(),
            not_before,
            not_after,
            extensions,
        })
    }

    /// The bytes it was read from.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn tbs(&self) -> &[u8] {
        &self.der[self.tbs.0..self.tbs.1]
    }

    /// Lower-case hex of the SHA-1 of its DER. A name, not a protection.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.der))
    }

    /// Magnitude of the serial number, big-endian without leading zeros; one zero
    /// for zero.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Who issued it.
    #[must_use]
    pub fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// Whom it is for.
    #[must_use]
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// First second of its validity, Unix.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Last second of its validity, Unix.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &SubjectKey {
        &self.key
    }

    /// Whether its key usage has a bit. Without the extension it has none.
    #[must_use]
    pub fn has_usage(&self, bit: UsageBit) -> bool {
        let mask = match bit {
            UsageBit::DigitalSignature => 1 << 0,
            UsageBit::CertSign => 1 << 5,
        };
        self.extensions.key_usage & mask != 0
    }

    /// DNS names of its subject alternative names, in order, unjudged.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.extensions.dns_names
    }

    /// Mail addresses, likewise.
    #[must_use]
    pub fn email_addresses(&self) -> &[String] {
        &self.extensions.emails
    }

    /// IP addresses, likewise.
    #[must_use]
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.extensions.addresses
    }

    /// URIs, likewise.
    #[must_use]
    pub fn uris(&self) -> &[Uri] {
        &self.extensions.uris
    }
}

/// How many bytes of `whole` there are from the beginning of its part on.
fn tail_length(whole: &[u8], part: &[u8]) -> Result<usize, DerError> {
    // The header of the outer SEQUENCE is what stands before the first field.
    let contents = Reader::new(whole).contents(tag::SEQUENCE)?;
    debug_assert!(contents.starts_with(part));
    Ok(contents.len())
}

fn read_version(fields: &mut Reader<'_>) -> Result<u8, PkiError> {
    let Some(contents) = fields.optional(tag::constructed(0))? else {
        return Ok(1);
    };
    let mut version = Reader::new(contents);
    let number = version.integer()?;
    version.finish()?;
    match number {
        [number @ 0..=2] => Ok(number + 1),
        _ => Err(PkiError::Version),
    }
}

impl Extensions {
    fn parse(list: &[u8]) -> Result<Self, PkiError> {
        let mut outer = Reader::new(list);
        let mut list = outer.nested(tag::SEQUENCE)?;
        outer.finish()?;
        let mut out = Self::default();
        let mut seen: Vec<&[u8]> = Vec::new();
        while !list.is_empty() {
            let mut extension = list.nested(tag::SEQUENCE)?;
            let id = extension.contents(tag::OID)?;
            let critical = extension.boolean_default_false()?;
            let value = extension.contents(tag::OCTET_STRING)?;
            extension.finish()?;
            if seen.contains(&id) {
                return Err(PkiError::DuplicateExtension);
            }
            if seen.len() == EXTENSIONS_MAX {
                return Err(DerError::ListLength.into());
            }
            seen.push(id);
            let understood = out.take(id, critical, value)?;
            out.unhandled |= critical && !understood;
        }
        Ok(out)
    }

    /// Takes one extension; whether all of it was understood.
    fn take(&mut self, id: &[u8], critical: bool, value: &[u8]) -> Result<bool, PkiError> {
        let [first, second, number] = id else {
            return Ok(false);
        };
        if [*first, *second] != EXTENSION_ARC {
            return Ok(false);
        }
        let mut value = Reader::new(value);
        match number {
            14 | 35 if critical => return Err(PkiError::CriticalKeyId),
            14 => self.subject_key_id = value.contents(tag::OCTET_STRING)?.to_vec(),
            35 => {
                let mut fields = value.nested(tag::SEQUENCE)?;
                let id = fields.optional(tag::primitive(0))?;
                self.authority_key_id = id.unwrap_or_default().to_vec();
            }
            15 => self.key_usage = read_key_usage(&mut value)?.0,
            19 => {
                let basic = read_basic_constraints(&mut value)?;
                self.basic = Some((basic.ca, basic.path_len));
            }
            17 => {
                let raw = value.clone().any()?.raw;
                self.take_names(&mut value)?;
                self.raw_alt_names = Some(raw.to_vec());
                value.finish()?;
                let none = self.dns_names.is_empty()
                    && self.emails.is_empty()
                    && self.addresses.is_empty()
                    && self.uris.is_empty();
                return Ok(!none);
            }
            30 => {
                let (constraints, understood) = Constraints::parse(&mut value)?;
                self.constraints = Some(constraints);
                value.finish()?;
                return Ok(understood);
            }
            // Distribution points, policies, purposes: read by nobody here, harmless.
            31 | 32 | 37 => return Ok(true),
            _ => return Ok(false),
        }
        value.finish()?;
        Ok(true)
    }

    fn take_names(&mut self, value: &mut Reader<'_>) -> Result<(), PkiError> {
        const EMAIL: u8 = tag::primitive(1);
        const DNS: u8 = tag::primitive(2);
        const URI: u8 = tag::primitive(6);
        const IP: u8 = tag::primitive(7);
        let mut names = value.nested(tag::SEQUENCE)?;
        let mut count = 0;
        while !names.is_empty() {
            let name = names.any()?;
            count += 1;
            if count > NAMES_MAX {
                return Err(DerError::ListLength.into());
            }
            let text = || match std::str::from_utf8(name.contents) {
                Ok(text) if text.is_ascii() => Ok(text),
                _ => Err(PkiError::SubjectAltName),
            };
            match name.tag {
                EMAIL => self.emails.push(text()?.to_owned()),
                DNS => self.dns_names.push(text()?.to_owned()),
                URI => {
                    let uri = Uri::parse(text()?).map_err(|_| PkiError::SubjectAltName)?;
                    if !super::constraints::is_domain(uri.host(), false) {
                        return Err(PkiError::SubjectAltName);
                    }
                    self.uris.push(uri);
                }
                IP => self
                    .addresses
                    .push(address(name.contents).ok_or(PkiError::SubjectAltName)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// An address of four or sixteen octets.
fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}
