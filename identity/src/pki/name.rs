//! Distinguished names as text: every string type that certificates still use.

use std::fmt;

use crate::der::{DerError, Reader, encode, tag};

/// Most attributes of a name.
const ATTRIBUTES_MAX: usize = 128;

/// Contents of 2.5.4, under which all attributes read here stand (X.520).
const ATTRIBUTE_ARC: [u8; 2] = [0x55, 0x04];

/// A distinguished name: its attributes in the order of the certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name {
    attributes: Vec<(Vec<u8>, String)>,
}

impl Name {
    /// Reads a Name, header included.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, DerError> {
        let mut sets = Reader::new(raw).nested(tag::SEQUENCE)?;
        let mut attributes = Vec::new();
        while !sets.is_empty() {
            let mut set = sets.nested(tag::SET)?;
            while !set.is_empty() {
                let mut attribute = set.nested(tag::SEQUENCE)?;
                let id = attribute.contents(tag::OID)?.to_vec();
                let value = attribute.any()?;
                attribute.finish()?;
                if attributes.len() == ATTRIBUTES_MAX {
                    return Err(DerError::ListLength);
                }
                attributes.push((id, text(value.tag, value.contents).ok_or(DerError::String)?));
            }
        }
        Ok(Self { attributes })
    }

    /// Every value of an attribute of X.520, by the last number of its identifier.
    fn all(&self, attribute: u8) -> Vec<String> {
        let values = self.attributes.iter();
        values
            .filter(|(id, _)| **id == [ATTRIBUTE_ARC[0], ATTRIBUTE_ARC[1], attribute])
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// The last value of an attribute; empty where there is none.
    fn last(&self, attribute: u8) -> String {
        self.all(attribute).pop().unwrap_or_default()
    }

    /// Common name; the last one where there are several, as Go has it.
    #[must_use]
    pub fn common_name(&self) -> String {
        self.last(3)
    }

    /// Serial number of the subject, not of the certificate.
    #[must_use]
    pub fn serial_number(&self) -> String {
        self.last(5)
    }

    /// Countries.
    #[must_use]
    pub fn country(&self) -> Vec<String> {
        self.all(6)
    }

    /// Localities.
    #[must_use]
    pub fn locality(&self) -> Vec<String> {
        self.all(7)
    }

    /// States or provinces.
    #[must_use]
    pub fn province(&self) -> Vec<String> {
        self.all(8)
    }

    /// Street addresses.
    #[must_use]
    pub fn street_address(&self) -> Vec<String> {
        self.all(9)
    }

    /// Organizations.
    #[must_use]
    pub fn organization(&self) -> Vec<String> {
        self.all(10)
    }

    /// Organizational units.
    #[must_use]
    pub fn organizational_unit(&self) -> Vec<String> {
        self.all(11)
    }

    /// Postal codes.
    #[must_use]
    pub fn postal_code(&self) -> Vec<String> {
        self.all(17)
    }
}

/// RFC 2253 as Go writes it: the attributes it knows sorted by kind, those of one kind
/// joined by `+`, unknown ones by their numbers; all of it from the last to the first.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |(id, _): &&(Vec<u8>, String)| {
            let [first, second, number] = id.as_slice() else {
                return false;
            };
            [*first, *second] == ATTRIBUTE_ARC && ORDER.iter().any(|(n, _)| n == number)
        };
        let others = self.attributes.iter().filter(|a| !known(a));
        let mut parts: Vec<String> = others
            .map(|(id, value)| {
                let printable = value.bytes().all(is_printable);
                let kind = if printable { 0x13 } else { 0x0c };
                let der = encode(kind, &[value.as_bytes()]);
                format!("{}=#{}", dotted(id), hex::encode(der))
            })
            .collect();
        for (number, label) in ORDER {
            let mut values = self.all(number);
            // Of these Go keeps one.
            if matches!(number, 3 | 5) {
                values = values.pop().into_iter().filter(|v| !v.is_empty()).collect();
            }
            if !values.is_empty() {
                let values = values.iter().map(|v| format!("{label}={}", escaped(v)));
                parts.push(values.collect::<Vec<_>>().join("+"));
            }
        }
        parts.reverse();
        f.write_str(&parts.join(","))
    }
}

/// Attributes by their last number, in the order in which Go collects them.
const ORDER: [(u8, &str); 9] = [
    (6, "C"),
    (8, "ST"),
    (7, "L"),
    (9, "STREET"),
    (17, "POSTALCODE"),
    (10, "O"),
    (11, "OU"),
    (3, "CN"),
    (5, "SERIALNUMBER"),
];

fn is_printable(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b)
}

/// RFC 2253 §2.4.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let special = ",+\"\\<>;".contains(c)
            || (c == ' ' && (at == 0 || at == last))
            || (c == '#' && at == 0);
        if special {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// An object identifier in numbers.
fn dotted(id: &[u8]) -> String {
    let mut numbers: Vec<u128> = Vec::new();
    let mut number = 0u128;
    for octet in id {
        number = number.wrapping_shl(7) | u128::from(octet & 0x7f);
        if octet & 0x80 != 0 {
            continue;
        }
        if numbers.is_empty() {
            let first = (number / 40).min(2);
            numbers.push(first);
            number -= first * 40;
        }
        numbers.push(number);
        number = 0;
    }
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(".")
}

/// A string of one of the types of X.520 and its ancestors.
fn text(kind: u8, bytes: &[u8]) -> Option<String> {
    const UTF8: u8 = 0x0c;
    const NUMERIC: u8 = 0x12;
    const PRINTABLE: u8 = 0x13;
    const T61: u8 = 0x14;
    const IA5: u8 = 0x16;
    const BMP: u8 = 0x1e;
    let ascii = |allowed: fn(u8) -> bool| {
        let all = bytes.iter().all(|b| b.is_ascii() && allowed(*b));
        all.then(|| bytes.iter().map(|b| char::from(*b)).collect())
    };
    match kind {
        UTF8 => String::from_utf8(bytes.to_vec()).ok(),
        NUMERIC => ascii(|b| b.is_ascii_digit() || b == b' '),
        // The asterisk and the ampersand are common mistakes of issuers.
        PRINTABLE => ascii(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(&b)),
        IA5 => ascii(|_| true),
        // Practice, not X.690: eight bits are Latin-1.
        T61 => Some(bytes.iter().map(|b| char::from(*b)).collect()),
        BMP => bmp(bytes),
        _ => None,
    }
}

/// UCS-2: no surrogates, no noncharacters; a terminator is dropped.
fn bmp(bytes: &[u8]) -> Option<String> {
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    let bytes = bytes.strip_suffix(&[0, 0]).unwrap_or(bytes);
    let points = bytes.chunks_exact(2);
    points
        .map(|pair| {
            let point = u32::from(pair[0]) << 8 | u32::from(pair[1]);
            match point {
                0xfffe | 0xffff | 0xfdd0..=0xfdef => None,
                point => char::from_u32(point),
            }
        })
        .collect()
}
