//! A certificate taken apart, without judging it.
//!
//! Reads X.509 version 3 (RFC 5280 §4.1) strictly and borrows from the input. What
//! the parts must say is the business of `x509_svid`; whether the signature holds
//! is the business of whoever knows the issuer.

use crate::der::{DerError, Reader, encode, tag};

/// Most extensions a certificate may have; SVIDs have six.
const EXTENSIONS_MAX: usize = 32;
/// Most names in a subject alternative name, purposes in an extended key usage.
const LIST_MAX: usize = 1024;

pub(crate) mod oid {
    //! Contents of the object identifiers of RFC 5280 §4.2 and RFC 2985 §5.4.2.
    pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
    pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
    pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
    pub(crate) const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
}

/// `Certificate`.
#[derive(Debug, Clone)]
pub(crate) struct Certificate<'a> {
    pub(crate) tbs: Tbs<'a>,
    /// The outer algorithm identifier, header included.
    pub(crate) signature_algorithm: &'a [u8],
    pub(crate) signature: &'a [u8],
}

/// `TBSCertificate`. Names, key and algorithm keep their headers.
#[derive(Debug, Clone)]
pub(crate) struct Tbs<'a> {
    pub(crate) raw: &'a [u8],
    /// Content octets of the INTEGER, sign octet included.
    pub(crate) serial: &'a [u8],
    pub(crate) signature_algorithm: &'a [u8],
    pub(crate) issuer: &'a [u8],
    pub(crate) not_before: Time,
    pub(crate) not_after: Time,
    pub(crate) subject: &'a [u8],
    pub(crate) spki: &'a [u8],
    pub(crate) extensions: Extensions<'a>,
}

/// An instant and how it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    /// Unix seconds.
    pub(crate) at: i64,
    /// GeneralizedTime, which RFC 5280 §4.1.2.5 wants from 2050 on only.
    pub(crate) generalized: bool,
}

/// A known extension and whether it is critical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known<T> {
    pub(crate) critical: bool,
    pub(crate) value: T,
}

/// The extensions that SPIFFE speaks of, each at most once, and the rest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extensions<'a> {
    pub(crate) subject_key_id: Option<Known<&'a [u8]>>,
    pub(crate) authority_key_id: Option<Known<Option<&'a [u8]>>>,
    pub(crate) basic_constraints: Option<Known<BasicConstraints>>,
    pub(crate) key_usage: Option<Known<KeyUsage>>,
    pub(crate) extended_key_usage: Option<Known<Vec<&'a [u8]>>>,
    pub(crate) subject_alt_name: Option<Known<Vec<GeneralName<'a>>>>,
    /// Identifiers of all others.
    pub(crate) others: Vec<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BasicConstraints {
    pub(crate) ca: bool,
    pub(crate) path_len: Option<u32>,
}

/// Named bits of RFC 5280 §4.2.1.3, bit 0 being digitalSignature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUsage(pub(crate) u16);

impl KeyUsage {
    pub(crate) const DIGITAL_SIGNATURE: u16 = 1 << 0;
    pub(crate) const KEY_ENCIPHERMENT: u16 = 1 << 2;
    pub(crate) const KEY_AGREEMENT: u16 = 1 << 4;
    pub(crate) const KEY_CERT_SIGN: u16 = 1 << 5;
    pub(crate) const CRL_SIGN: u16 = 1 << 6;

    pub(crate) fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GeneralName<'a> {
    Uri(&'a str),
    Dns(&'a str),
    Other(u8),
}

impl<'a> Certificate<'a> {
    /// Reads exactly one certificate.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Reader::new(der);
        let mut fields = outer.nested(tag::SEQUENCE)?;
        outer.finish()?;
        let tbs = Tbs::parse(fields.value(tag::SEQUENCE)?.raw)?;
        let signature_algorithm = read_algorithm(&mut fields)?;
        let signature = fields.octet_aligned_bits()?;
        fields.finish()?;
        Ok(Certificate {
            tbs,
            signature_algorithm,
            signature,
        })
    }
}

impl<'a> Tbs<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Reader::new(der);
        let mut fields = outer.nested(tag::SEQUENCE)?;
        outer.finish()?;
        let mut version = fields.nested(tag::constructed(0))?;
        if version.integer()? != [2] {
            return Err(DerError::Version);
        }
        version.finish()?;
        let serial = fields.integer()?;
        let signature_algorithm = read_algorithm(&mut fields)?;
        let issuer = read_name(&mut fields)?;
        let mut validity = fields.nested(tag::SEQUENCE)?;
        let not_before = read_time(&mut validity)?;
        let not_after = read_time(&mut validity)?;
        validity.finish()?;
        let subject = read_name(&mut fields)?;
        let spki = read_spki(&mut fields)?;
        // issuerUniqueID [1] and subjectUniqueID [2] must not be used (RFC 5280
        // §4.1.2.8); they fail here as an unexpected tag.
        let mut wrapper = fields.nested(tag::constructed(3))?;
        let extensions = Extensions::parse(wrapper.value(tag::SEQUENCE)?.raw)?;
        wrapper.finish()?;
        fields.finish()?;
        Ok(Tbs {
            raw: der,
            serial,
            signature_algorithm,
            issuer,
            not_before,
            not_after,
            subject,
            spki,
            extensions,
        })
    }
}

impl<'a> Extensions<'a> {
    /// Reads `Extensions`, in a certificate or in a request for one.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Reader::new(der);
        let mut list = outer.nested(tag::SEQUENCE)?;
        outer.finish()?;
        let mut out = Extensions::default();
        let mut seen: Vec<&[u8]> = Vec::new();
        while !list.is_empty() {
            let mut extension = list.nested(tag::SEQUENCE)?;
            let id = extension.contents(tag::OID)?;
            let critical = extension.boolean_default_false()?;
            let value = extension.contents(tag::OCTET_STRING)?;
            extension.finish()?;
            if seen.contains(&id) {
                return Err(DerError::DuplicateExtension);
            }
            seen.push(id);
            if seen.len() > EXTENSIONS_MAX {
                return Err(DerError::ListLength);
            }
            out.insert(id, critical, Reader::new(value))?;
        }
        if seen.is_empty() {
            return Err(DerError::ListLength);
        }
        Ok(out)
    }

    fn insert(
        &mut self,
        id: &'a [u8],
        critical: bool,
        mut value: Reader<'a>,
    ) -> Result<(), DerError> {
        match id {
            oid::SUBJECT_KEY_ID => {
                self.subject_key_id = known(critical, value.contents(tag::OCTET_STRING)?);
            }
            oid::AUTHORITY_KEY_ID => {
                let mut fields = value.nested(tag::SEQUENCE)?;
                // authorityCertIssuer and its serial may follow; SPIFFE gives them
                // no meaning.
                self.authority_key_id = known(critical, fields.optional(tag::primitive(0))?);
            }
            oid::BASIC_CONSTRAINTS => {
                self.basic_constraints = known(critical, read_basic_constraints(&mut value)?);
            }
            oid::KEY_USAGE => self.key_usage = known(critical, read_key_usage(&mut value)?),
            oid::EXTENDED_KEY_USAGE => {
                let purposes = read_list(&mut value, |list| list.contents(tag::OID))?;
                self.extended_key_usage = known(critical, purposes);
            }
            oid::SUBJECT_ALT_NAME => {
                let names = read_list(&mut value, read_general_name)?;
                self.subject_alt_name = known(critical, names);
            }
            other => {
                self.others.push(other);
                return Ok(());
            }
        }
        value.finish()
    }
}

#[allow(clippy::unnecessary_wraps)] // the fields it fills are options
fn known<T>(critical: bool, value: T) -> Option<Known<T>> {
    Some(Known { critical, value })
}

fn read_list<'a, T>(
    value: &mut Reader<'a>,
    read: impl Fn(&mut Reader<'a>) -> Result<T, DerError>,
) -> Result<Vec<T>, DerError> {
    let mut list = value.nested(tag::SEQUENCE)?;
    let mut out = Vec::new();
    while !list.is_empty() {
        if out.len() == LIST_MAX {
            return Err(DerError::ListLength);
        }
        out.push(read(&mut list)?);
    }
    if out.is_empty() {
        return Err(DerError::ListLength);
    }
    Ok(out)
}

fn read_general_name<'a>(list: &mut Reader<'a>) -> Result<GeneralName<'a>, DerError> {
    const URI: u8 = tag::primitive(6);
    const DNS: u8 = tag::primitive(2);
    let value = list.any()?;
    Ok(match value.tag {
        URI => GeneralName::Uri(ia5(value.contents)?),
        DNS => GeneralName::Dns(ia5(value.contents)?),
        other => GeneralName::Other(other),
    })
}

fn ia5(contents: &[u8]) -> Result<&str, DerError> {
    match std::str::from_utf8(contents) {
        Ok(text) if text.is_ascii() => Ok(text),
        _ => Err(DerError::String),
    }
}

pub(crate) fn read_basic_constraints(value: &mut Reader<'_>) -> Result<BasicConstraints, DerError> {
    let mut fields = value.nested(tag::SEQUENCE)?;
    let ca = fields.boolean_default_false()?;
    let path_len = if fields.is_empty() {
        None
    } else {
        let octets = fields.unsigned()?;
        if octets.len() > 4 {
            return Err(DerError::Integer);
        }
        Some(
            octets
                .iter()
                .fold(0u32, |sum, octet| sum << 8 | u32::from(*octet)),
        )
    };
    fields.finish()?;
    Ok(BasicConstraints { ca, path_len })
}

pub(crate) fn read_key_usage(value: &mut Reader<'_>) -> Result<KeyUsage, DerError> {
    let (unused, octets) = value
        .contents(tag::BIT_STRING)?
        .split_first()
        .ok_or(DerError::BitString)?;
    if *unused > 7 || octets.is_empty() || octets.len() > 2 {
        return Err(DerError::BitString);
    }
    let last = octets[octets.len() - 1];
    if last & !(0xff << unused) != 0 {
        return Err(DerError::BitString);
    }
    let bits = octets.iter().enumerate().fold(0u16, |bits, (at, octet)| {
        bits | u16::from(octet.reverse_bits()) << (8 * at)
    });
    Ok(KeyUsage(bits))
}

/// `AlgorithmIdentifier`, header included.
fn read_algorithm<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], DerError> {
    let value = fields.value(tag::SEQUENCE)?;
    let mut parts = Reader::new(value.contents);
    parts.contents(tag::OID)?;
    if !parts.is_empty() {
        parts.any()?;
    }
    parts.finish()?;
    Ok(value.raw)
}

/// `SubjectPublicKeyInfo`, header included. What it means is for `key` to say.
fn read_spki<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], DerError> {
    let value = fields.value(tag::SEQUENCE)?;
    let mut parts = Reader::new(value.contents);
    read_algorithm(&mut parts)?;
    parts.octet_aligned_bits()?;
    parts.finish()?;
    Ok(value.raw)
}

/// `Name` (RFC 5280 §4.1.2.4), header included: its structure, not its values.
pub(crate) fn read_name<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], DerError> {
    let value = fields.value(tag::SEQUENCE)?;
    let mut names = Reader::new(value.contents);
    while !names.is_empty() {
        let mut attributes = names.nested(tag::SET)?;
        if attributes.is_empty() {
            return Err(DerError::ListLength);
        }
        while !attributes.is_empty() {
            let mut attribute = attributes.nested(tag::SEQUENCE)?;
            attribute.contents(tag::OID)?;
            attribute.any()?;
            attribute.finish()?;
        }
    }
    Ok(value.raw)
}

/// First and last second of the validity of a certificate, Unix, whatever else it says:
/// roots are read that keep none of the rules for SVIDs.
pub(crate) fn read_validity(der: &[u8]) -> Result<(i64, i64), DerError> {
    let mut certificate = Reader::new(der).nested(tag::SEQUENCE)?;
    let mut tbs = certificate.nested(tag::SEQUENCE)?;
    tbs.optional(tag::constructed(0))?;
    tbs.value(tag::INTEGER)?;
    tbs.value(tag::SEQUENCE)?;
    tbs.value(tag::SEQUENCE)?;
    let mut validity = tbs.nested(tag::SEQUENCE)?;
    let not_before = read_time(&mut validity)?.at;
    let not_after = read_time(&mut validity)?.at;
    Ok((not_before, not_after))
}

pub(crate) fn read_time(validity: &mut Reader<'_>) -> Result<Time, DerError> {
    let value = validity.any()?;
    let text = value.contents;
    let (year, rest, generalized) = match value.tag {
        tag::UTC_TIME if text.len() == 13 => {
            let short = digits(&text[..2])?;
            // RFC 5280 §4.1.2.5.1: 50 to 99 are the twentieth century.
            let year = if short >= 50 {
                1900 + short
            } else {
                2000 + short
            };
            (year, &text[2..], false)
        }
        tag::GENERALIZED_TIME if text.len() == 15 => (digits(&text[..4])?, &text[4..], true),
        _ => return Err(DerError::Time),
    };
    if rest[10] != b'Z' {
        return Err(DerError::Time);
    }
    let field = |at: usize| digits(&rest[at..at + 2]);
    let (month, day) = (field(0)?, field(2)?);
    let (hour, minute, second) = (field(4)?, field(6)?, field(8)?);
    let valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return Err(DerError::Time);
    }
    let at = days_from_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Ok(Time { at, generalized })
}

fn digits(text: &[u8]) -> Result<i64, DerError> {
    text.iter().try_fold(0i64, |sum, digit| {
        if digit.is_ascii_digit() {
            Ok(sum * 10 + i64::from(digit - b'0'))
        } else {
            Err(DerError::Time)
        }
    })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Leap days before 1 January of `year`, counted from year 1.
    let leaps = |year: i64| {
        let past = year - 1;
        past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400)
    };
    let months: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
    (year - 1970) * 365 + leaps(year) - leaps(1970) + months + day - 1
}

/// Puts a certificate together from its to-be-signed bytes and the signature over
/// them. The outer algorithm repeats the inner one, as RFC 5280 §4.1.1.2 demands.
pub(crate) fn assemble(tbs_der: &[u8], signature: &[u8]) -> Result<Vec<u8>, DerError> {
    let algorithm = Tbs::parse(tbs_der)?.signature_algorithm;
    let bits = encode(tag::BIT_STRING, &[&[0], signature]);
    Ok(encode(tag::SEQUENCE, &[tbs_der, algorithm, &bits]))
}

/// The same to-be-signed bytes with another issuer name, byte for byte.
pub(crate) fn with_issuer(tbs_der: &[u8], issuer: &[u8]) -> Result<Vec<u8>, DerError> {
    // version, serial, signature, issuer: RFC 5280 §4.1
    with_field(tbs_der, 3, issuer)
}

/// The same bytes with another subject.
pub(crate) fn with_subject(tbs_der: &[u8], subject: &[u8]) -> Result<Vec<u8>, DerError> {
    // ... issuer, validity, subject: RFC 5280 §4.1
    with_field(tbs_der, 5, subject)
}

fn with_field(tbs_der: &[u8], at: usize, field: &[u8]) -> Result<Vec<u8>, DerError> {
    // Read whole once, so that what follows cannot meet anything unexpected.
    Tbs::parse(tbs_der)?;
    Ok(replace_field(tbs_der, at, field)?.unwrap_or_default())
}

/// The SEQUENCE `der` with its field `at` replaced; none where it has fewer fields.
pub(crate) fn replace_field(
    der: &[u8],
    at: usize,
    field: &[u8],
) -> Result<Option<Vec<u8>>, DerError> {
    let mut fields = Reader::new(der).nested(tag::SEQUENCE)?;
    let mut parts: Vec<&[u8]> = Vec::with_capacity(8);
    while !fields.is_empty() {
        parts.push(fields.any()?.raw);
    }
    let Some(part) = parts.get_mut(at) else {
        return Ok(None);
    };
    *part = field;
    Ok(Some(encode(tag::SEQUENCE, &parts)))
}

#[cfg(test)]
mod tests;
