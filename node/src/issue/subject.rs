//! Subject names.
//!
//! A subject says nothing that a SPIFFE verifier reads; it is kept as SPIRE writes it, for people
//! and for tools that show it: the attributes that Go's names know, in Go's order, PrintableString
//! where the characters allow it and UTF8String otherwise.
//!
//! Names also come from outside, in the requests of administrators; so everything is bounded, and
//! what is no text is refused rather than dropped.

use std::fmt;

use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::error::IssueError;

/// Longest value of an attribute, in bytes.
const VALUE_BYTES_MAX: usize = 1024;
/// Values of a subject at most.
const VALUES_MAX: usize = 64;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const PRINTABLE_STRING: u8 = 0x13;
const UTF8_STRING: u8 = 0x0c;

/// A subject of the attributes that SPIRE's configuration and requests know. Of those with several
/// values each is kept, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// `C`
    pub country: Vec<String>,
    /// `O`
    pub organization: Vec<String>,
    /// `OU`
    pub organizational_unit: Vec<String>,
    /// `L`
    pub locality: Vec<String>,
    /// `ST`
    pub state: Vec<String>,
    /// `STREET`
    pub street: Vec<String>,
    /// `POSTALCODE`
    pub postal_code: Vec<String>,
    /// `CN`
    pub common_name: Option<String>,
    /// The attribute serialNumber, which is not the certificate's.
    pub serial_number: Option<String>,
}

/// Last octet of the attribute's object identifier, which is 2.5.4 and this (X.520), and the name
/// that people know it by.
struct Kind(u8, &'static str);

const COUNTRY: Kind = Kind(6, "C");
const SERIAL_NUMBER: Kind = Kind(5, "SERIALNUMBER");

impl Subject {
    /// SPIRE's default for authorities: `C=US, O=SPIFFE`.
    #[must_use]
    pub fn of_authorities() -> Self {
        Subject {
            country: vec!["US".into()],
            organization: vec!["SPIFFE".into()],
            ..Subject::default()
        }
    }

    /// SPIRE's default for SVIDs: `C=US, O=SPIRE`.
    #[must_use]
    pub fn of_svids() -> Self {
        Subject {
            country: vec!["US".into()],
            organization: vec!["SPIRE".into()],
            ..Subject::default()
        }
    }

    /// Takes the known attributes of a name that someone else encoded; others and empty values
    /// are left out. Of common names and serial numbers the last one counts, as in Go.
    ///
    /// # Errors
    /// [`IssueError::Subject`] when the bytes are no Name, a value is no text or too long, or
    /// there are too many.
    pub fn from_name_der(der: &[u8]) -> Result<Self, IssueError> {
        let (rest, name) =
            X509Name::from_der(der).map_err(|_| IssueError::Subject("malformed name"))?;
        if !rest.is_empty() {
            return Err(IssueError::Subject("trailing data after the name"));
        }
        let mut subject = Subject::default();
        for attribute in name.iter_attributes() {
            let [0x55, 0x04, kind] = attribute.attr_type().as_bytes() else {
                continue;
            };
            let list = match kind {
                6 => Some(&mut subject.country),
                10 => Some(&mut subject.organization),
                11 => Some(&mut subject.organizational_unit),
                7 => Some(&mut subject.locality),
                8 => Some(&mut subject.state),
                9 => Some(&mut subject.street),
                17 => Some(&mut subject.postal_code),
                3 | 5 => None,
                _ => continue,
            };
            let value = attribute.as_str();
            let value = value.map_err(|_| IssueError::Subject("value is not text"))?;
            if value.is_empty() {
                continue;
            }
            match list {
                Some(list) => list.push(value.to_owned()),
                None if *kind == 3 => subject.common_name = Some(value.to_owned()),
                None => subject.serial_number = Some(value.to_owned()),
            }
        }
        subject.check()?;
        Ok(subject)
    }

    /// Whether there is no attribute.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Subject::default()
    }

    /// Every attribute with its values, in the order in which Go writes them.
    fn attributes(&self) -> [(Kind, &[String]); 9] {
        [
            (COUNTRY, &self.country),
            (Kind(8, "ST"), &self.state),
            (Kind(7, "L"), &self.locality),
            (Kind(9, "STREET"), &self.street),
            (Kind(17, "POSTALCODE"), &self.postal_code),
            (Kind(10, "O"), &self.organization),
            (Kind(11, "OU"), &self.organizational_unit),
            (Kind(3, "CN"), self.common_name.as_slice()),
            (SERIAL_NUMBER, self.serial_number.as_slice()),
        ]
    }

    fn check(&self) -> Result<(), IssueError> {
        let mut count = 0;
        for (kind, values) in self.attributes() {
            count += values.len();
            for value in values {
                if value.is_empty() || value.len() > VALUE_BYTES_MAX {
                    return Err(IssueError::Subject("value is empty or too long"));
                }
                // X.520 §6.3.1 and §6.2.9: these two are PrintableString or nothing.
                if [COUNTRY.0, SERIAL_NUMBER.0].contains(&kind.0) && !is_printable(value) {
                    return Err(IssueError::Subject(
                        "country or serial number is not printable",
                    ));
                }
            }
        }
        if count > VALUES_MAX {
            return Err(IssueError::Subject("too many values"));
        }
        Ok(())
    }

    /// The DER of the Name: the values of one attribute stand in one SET, as Go writes them.
    ///
    /// # Errors
    /// [`IssueError::Subject`] for values that their type cannot hold.
    pub fn to_name_der(&self) -> Result<Vec<u8>, IssueError> {
        self.check()?;
        let mut sets = Vec::new();
        for (Kind(kind, _), values) in self.attributes() {
            if values.is_empty() {
                continue;
            }
            let oid = tlv(OID, &[0x55, 0x04, kind]);
            let one = |value: &String| {
                let tag = if is_printable(value) {
                    PRINTABLE_STRING
                } else {
                    UTF8_STRING
                };
                tlv(
                    SEQUENCE,
                    &[oid.clone(), tlv(tag, value.as_bytes())].concat(),
                )
            };
            let mut set: Vec<Vec<u8>> = values.iter().map(one).collect();
            // X.690 §11.6: the components of a SET OF in ascending order.
            set.sort();
            sets.push(tlv(SET, &set.concat()));
        }
        Ok(tlv(SEQUENCE, &sets.concat()))
    }
}

/// As Go's names read (RFC 2253): the last attribute first, `SERIALNUMBER=1,O=SPIFFE,C=US`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (Kind(_, label), values) in self.attributes().into_iter().rev() {
            for value in values {
                write!(f, "{separator}{label}=")?;
                let last = value.chars().count().saturating_sub(1);
                for (at, c) in value.chars().enumerate() {
                    let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
                        || (c == ' ' && (at == 0 || at == last))
                        || (c == '#' && at == 0);
                    write!(f, "{}{c}", if special { "\\" } else { "" })?;
                }
                separator = "+";
            }
            if !values.is_empty() {
                separator = ",";
            }
        }
        Ok(())
    }
}

/// X.680 §41.4.
fn is_printable(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b))
}

/// One DER value. What stands in a subject is bounded, so two octets of length do.
fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u32::try_from(contents.len()).expect("the values of a subject are bounded");
    let [_, second, third, fourth] = length.to_be_bytes();
    let mut der = vec![tag];
    match length {
        0..0x80 => der.push(fourth),
        0x80..0x100 => der.extend([0x81, fourth]),
        0x100..0x1_0000 => der.extend([0x82, third, fourth]),
        _ => der.extend([0x83, second, third, fourth]),
    }
    der.extend_from_slice(contents);
    der
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn full() -> Subject {
        let list = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
        Subject {
            country: list(&["US", "DE"]),
            organization: list(&["Zulu", "Alfa"]),
            organizational_unit: list(&["überall"]),
            locality: list(&["L"]),
            state: list(&["S"]),
            street: list(&["1, Main St"]),
            postal_code: list(&["12345"]),
            common_name: Some("name".into()),
            serial_number: Some("7".into()),
        }
    }

    #[test]
    fn a_name_that_is_written_reads_back() {
        for subject in [
            Subject::default(),
            Subject::of_svids(),
            Subject::of_authorities(),
            Subject {
                common_name: Some("x".repeat(300)),
                ..Subject::default()
            },
        ] {
            let der = subject.to_name_der().unwrap();
            assert_eq!(Subject::from_name_der(&der).unwrap(), subject);
        }
        // The values of one attribute are a set.
        let mut sorted = full();
        sorted.country.sort();
        sorted.organization.sort();
        let der = full().to_name_der().unwrap();
        assert_eq!(Subject::from_name_der(&der).unwrap(), sorted);
    }

    #[test]
    fn names_are_encoded_as_go_encodes_them() {
        // pkix.Name{Country: {"US"}, Organization: {"b", "a"}, CommonName: "ü"}
        let subject = Subject {
            country: vec!["US".into()],
            organization: vec!["b".into(), "a".into()],
            common_name: Some("ü".into()),
            ..Subject::default()
        };
        assert_eq!(
            hex::encode(subject.to_name_der().unwrap()),
            concat!(
                "3030",
                "310b3009060355040613025553",
                "31143008060355040a1301613008060355040a130162",
                "310b300906035504030c02c3bc"
            )
        );
    }

    #[test]
    fn names_read_as_go_shows_them() {
        assert_eq!(Subject::of_svids().to_string(), "O=SPIRE,C=US");
        assert_eq!(
            full().to_string(),
            "SERIALNUMBER=7,CN=name,OU=überall,O=Zulu+O=Alfa,POSTALCODE=12345,STREET=1\\, Main St,\
             L=L,ST=S,C=US+C=DE"
        );
        let odd = |name: &str| {
            let subject = Subject {
                common_name: Some(name.into()),
                ..Subject::default()
            };
            subject.to_string()
        };
        assert_eq!(odd(" a b "), "CN=\\ a b\\ ");
        assert_eq!(odd("#a#<b>"), "CN=\\#a#\\<b\\>");
        assert_eq!(Subject::default().to_string(), "");
    }

    #[test]
    fn of_single_attributes_the_last_counts_and_unknown_ones_are_left_out() {
        let attribute = |oid: &[u8], value: &str| {
            let inner = [tlv(OID, oid), tlv(UTF8_STRING, value.as_bytes())].concat();
            tlv(SET, &tlv(SEQUENCE, &inner))
        };
        let name = tlv(
            SEQUENCE,
            &[
                attribute(&[0x55, 4, 3], "first"),
                attribute(&[0x55, 4, 3], "second"),
                attribute(&[0x55, 4, 10], "a"),
                attribute(&[0x55, 4, 10], ""),
                attribute(&[0x55, 4, 10], "b"),
                // givenName, and an attribute outside of X.520.
                attribute(&[0x55, 4, 42], "x"),
                attribute(&[0x2a, 3], "y"),
            ]
            .concat(),
        );
        let wanted = Subject {
            organization: vec!["a".into(), "b".into()],
            common_name: Some("second".into()),
            ..Subject::default()
        };
        assert_eq!(Subject::from_name_der(&name).unwrap(), wanted);
    }

    #[test]
    fn what_a_name_cannot_hold_is_refused() {
        let refused = |change: fn(&mut Subject)| {
            let mut subject = Subject::of_svids();
            change(&mut subject);
            subject.to_name_der().unwrap_err().to_string()
        };
        for text in [
            refused(|s| s.country = vec!["Ü".into()]),
            refused(|s| s.serial_number = Some("1_2".into())),
        ] {
            assert_eq!(
                text,
                "subject is not possible: country or serial number is not printable"
            );
        }
        for text in [
            refused(|s| s.organization = vec![String::new()]),
            refused(|s| s.common_name = Some("x".repeat(VALUE_BYTES_MAX + 1))),
        ] {
            assert_eq!(text, "subject is not possible: value is empty or too long");
        }
        assert_eq!(
            refused(|s| s.street = vec!["x".into(); VALUES_MAX]),
            "subject is not possible: too many values"
        );
        for der in [&b""[..], b"x", &[SEQUENCE, 0, 0]] {
            assert!(Subject::from_name_der(der).is_err());
        }
        // A value that is no text: INTEGER.
        let inner = [tlv(OID, &[0x55, 4, 3]), tlv(2, &[1])].concat();
        let number = tlv(SEQUENCE, &tlv(SET, &tlv(SEQUENCE, &inner)));
        assert!(Subject::from_name_der(&number).is_err());
    }
}
