//! Subject names.
//!
//! A subject says nothing that a SPIFFE verifier reads; it is kept as SPIRE writes it, for people
//! and for tools that show it: attribute types in Go's order, PrintableString where the characters
//! allow it and UTF8String otherwise.

use rcgen::string::PrintableString;
use rcgen::{DistinguishedName, DnType, DnValue};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::error::IssueError;

/// Longest value of an attribute, in bytes; names come from requests too.
const VALUE_BYTES_MAX: usize = 1024;

/// A subject of the attributes that SPIRE's configuration and requests know, each at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// `C`
    pub country: Option<String>,
    /// `O`
    pub organization: Option<String>,
    /// `OU`
    pub organizational_unit: Option<String>,
    /// `L`
    pub locality: Option<String>,
    /// `ST`
    pub state: Option<String>,
    /// `CN`
    pub common_name: Option<String>,
    /// The attribute serialNumber, which is not the certificate's.
    pub serial_number: Option<String>,
}

impl Subject {
    /// SPIRE's default for authorities: `C=US, O=SPIFFE`.
    #[must_use]
    pub fn of_authorities() -> Self {
        Subject {
            country: Some("US".into()),
            organization: Some("SPIFFE".into()),
            ..Subject::default()
        }
    }

    /// SPIRE's default for SVIDs: `C=US, O=SPIRE`.
    #[must_use]
    pub fn of_svids() -> Self {
        Subject {
            country: Some("US".into()),
            organization: Some("SPIRE".into()),
            ..Subject::default()
        }
    }

    /// Takes the known attributes of a name that someone else encoded, the first of each type;
    /// others are left out.
    ///
    /// # Errors
    /// [`IssueError::Subject`] when the bytes are no Name, or a value is no text or too long.
    pub fn from_name_der(der: &[u8]) -> Result<Self, IssueError> {
        let (rest, name) =
            X509Name::from_der(der).map_err(|_| IssueError::Subject("malformed name"))?;
        if !rest.is_empty() {
            return Err(IssueError::Subject("trailing data after the name"));
        }
        let mut subject = Subject::default();
        for attribute in name.iter_attributes() {
            let field = match attribute.attr_type().as_bytes() {
                [0x55, 0x04, 6] => &mut subject.country,
                [0x55, 0x04, 10] => &mut subject.organization,
                [0x55, 0x04, 11] => &mut subject.organizational_unit,
                [0x55, 0x04, 7] => &mut subject.locality,
                [0x55, 0x04, 8] => &mut subject.state,
                [0x55, 0x04, 3] => &mut subject.common_name,
                [0x55, 0x04, 5] => &mut subject.serial_number,
                _ => continue,
            };
            if field.is_none() {
                let value = attribute.as_str();
                let value = value.map_err(|_| IssueError::Subject("value is not text"))?;
                *field = Some(value.to_owned());
            }
        }
        Ok(subject)
    }

    /// Whether there is no attribute.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Subject::default()
    }

    /// The subject as rcgen takes it, in the order in which Go writes it.
    pub(super) fn to_distinguished_name(&self) -> Result<DistinguishedName, IssueError> {
        let mut name = DistinguishedName::new();
        for (kind, value) in [
            (DnType::CountryName, &self.country),
            (DnType::OrganizationName, &self.organization),
            (DnType::OrganizationalUnitName, &self.organizational_unit),
            (DnType::LocalityName, &self.locality),
            (DnType::StateOrProvinceName, &self.state),
            (DnType::CommonName, &self.common_name),
            (DnType::CustomDnType(vec![2, 5, 4, 5]), &self.serial_number),
        ] {
            let Some(value) = value else { continue };
            if value.is_empty() || value.len() > VALUE_BYTES_MAX {
                return Err(IssueError::Subject("value is empty or too long"));
            }
            let value = match PrintableString::try_from(value.as_str()) {
                Ok(printable) => DnValue::PrintableString(printable),
                // X.520 §6.3.1 and §6.2.9: these two are PrintableString or nothing.
                Err(_) if matches!(kind, DnType::CountryName | DnType::CustomDnType(_)) => {
                    return Err(IssueError::Subject(
                        "country or serial number is not printable",
                    ));
                }
                Err(_) => DnValue::Utf8String(value.clone()),
            };
            name.push(kind, value);
        }
        Ok(name)
    }
}
