//! A strict reader and a small writer for DER (X.690 §8 and §10).
//!
//! The judge must see the one meaning that the bytes have: a reader that tolerates
//! BER lets two programs read two things into the same certificate. So this one
//! accepts definite, minimal lengths only, single-byte tags only, and every caller
//! says when a value must end. It borrows from its input, allocates nothing and
//! does not recurse, so the cost of any input is linear in its length.

/// Why bytes are not the DER that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DerError {
    /// The input ends inside a value.
    #[error("input ends inside a value")]
    Truncated,
    /// A length is indefinite, not minimal, or does not fit four octets.
    #[error("length is not in DER form")]
    Length,
    /// Another type was expected here.
    #[error("expected tag {expected:#04x}, found {found:#04x}")]
    Tag {
        /// The tag octet that belongs here.
        expected: u8,
        /// The tag octet found.
        found: u8,
    },
    /// Bytes are left over after the last value.
    #[error("trailing data")]
    Trailing,
    /// An INTEGER is empty or not minimal, or negative or large where that is not allowed.
    #[error("integer is not minimal or out of range")]
    Integer,
    /// A BOOLEAN is neither 0x00 nor 0xff.
    #[error("boolean is not in DER form")]
    Boolean,
    /// A BIT STRING has no or impossible unused bits.
    #[error("bit string is not in DER form")]
    BitString,
    /// A string has characters that its type does not allow.
    #[error("string has characters outside ASCII")]
    String,
    /// A time is not in the one form RFC 5280 §4.1.2.5 allows.
    #[error("time is not in the form of RFC 5280")]
    Time,
    /// The version is not the one that the structure requires.
    #[error("unsupported version")]
    Version,
    /// An extension appears twice (RFC 5280 §4.2).
    #[error("extension appears twice")]
    DuplicateExtension,
    /// A SEQUENCE that must not be empty is, or a list is longer than anyone needs.
    #[error("list is empty or too long")]
    ListLength,
}

pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// `[n]`, constructed.
    pub(crate) const fn constructed(n: u8) -> u8 {
        0xa0 | n
    }

    /// `[n]`, primitive.
    pub(crate) const fn primitive(n: u8) -> u8 {
        0x80 | n
    }
}

/// One value: its tag, its contents, and all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) contents: &'a [u8],
    pub(crate) raw: &'a [u8],
}

/// Reads values one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Reader { rest: input }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Requires that everything was read.
    pub(crate) fn finish(self) -> Result<(), DerError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DerError::Trailing)
        }
    }

    /// The next value, whatever its type.
    pub(crate) fn any(&mut self) -> Result<Value<'a>, DerError> {
        let input = self.rest;
        let (&tag, after_tag) = input.split_first().ok_or(DerError::Truncated)?;
        let (&first, mut rest) = after_tag.split_first().ok_or(DerError::Truncated)?;
        // High tag numbers take several octets; nothing in PKIX uses them.
        if tag & 0x1f == 0x1f {
            return Err(DerError::Tag {
                expected: 0,
                found: tag,
            });
        }
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let octets = usize::from(first & 0x7f);
            if !(1..=4).contains(&octets) {
                return Err(DerError::Length);
            }
            if rest.len() < octets {
                return Err(DerError::Truncated);
            }
            let (digits, after_length) = rest.split_at(octets);
            rest = after_length;
            let length = digits
                .iter()
                .fold(0usize, |sum, digit| sum << 8 | usize::from(*digit));
            if digits[0] == 0 || length < 0x80 {
                return Err(DerError::Length);
            }
            length
        };
        if rest.len() < length {
            return Err(DerError::Truncated);
        }
        let (contents, rest) = rest.split_at(length);
        self.rest = rest;
        Ok(Value {
            tag,
            contents,
            raw: &input[..input.len() - rest.len()],
        })
    }

    /// The next value, which must have this tag.
    pub(crate) fn value(&mut self, expected: u8) -> Result<Value<'a>, DerError> {
        let value = self.clone().any()?;
        if value.tag != expected {
            return Err(DerError::Tag {
                expected,
                found: value.tag,
            });
        }
        self.any()
    }

    /// The contents of the next value, which must have this tag.
    pub(crate) fn contents(&mut self, expected: u8) -> Result<&'a [u8], DerError> {
        self.value(expected).map(|value| value.contents)
    }

    /// A reader over the contents of the next value.
    pub(crate) fn nested(&mut self, expected: u8) -> Result<Reader<'a>, DerError> {
        self.contents(expected).map(Reader::new)
    }

    /// The contents of the next value if it has this tag.
    pub(crate) fn optional(&mut self, wanted: u8) -> Result<Option<&'a [u8]>, DerError> {
        if self.rest.first() == Some(&wanted) {
            self.contents(wanted).map(Some)
        } else {
            Ok(None)
        }
    }

    /// `BOOLEAN DEFAULT FALSE`. An encoded FALSE is tolerated: it is common, and
    /// means the same.
    pub(crate) fn boolean_default_false(&mut self) -> Result<bool, DerError> {
        match self.optional(tag::BOOLEAN)? {
            None | Some([0x00]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(DerError::Boolean),
        }
    }

    /// The content octets of an INTEGER in minimal two's complement.
    pub(crate) fn integer(&mut self) -> Result<&'a [u8], DerError> {
        let contents = self.contents(tag::INTEGER)?;
        match contents {
            [] => Err(DerError::Integer),
            [0x00, next, ..] if next & 0x80 == 0 => Err(DerError::Integer),
            [0xff, next, ..] if next & 0x80 != 0 => Err(DerError::Integer),
            _ => Ok(contents),
        }
    }

    /// The magnitude of a non-negative INTEGER, without its sign octet.
    pub(crate) fn unsigned(&mut self) -> Result<&'a [u8], DerError> {
        match self.integer()? {
            [0x00, magnitude @ ..] if !magnitude.is_empty() => Ok(magnitude),
            [first, ..] if first & 0x80 != 0 => Err(DerError::Integer),
            magnitude => Ok(magnitude),
        }
    }

    /// A BIT STRING of whole octets, which keys and signatures are.
    pub(crate) fn octet_aligned_bits(&mut self) -> Result<&'a [u8], DerError> {
        match self.contents(tag::BIT_STRING)? {
            [0, bits @ ..] => Ok(bits),
            _ => Err(DerError::BitString),
        }
    }
}

/// One value with its header.
pub(crate) fn encode(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length = contents.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(u8::try_from(length).expect("less than 0x80"));
    } else {
        let digits = length.to_be_bytes();
        let leading = digits.iter().take_while(|digit| **digit == 0).count();
        let significant = &digits[leading..];
        out.push(0x80 | u8::try_from(significant.len()).expect("at most eight octets"));
        out.extend_from_slice(significant);
    }
    for part in contents {
        out.extend_from_slice(part);
    }
    out
}

/// A non-negative INTEGER from its big-endian magnitude.
pub(crate) fn encode_unsigned(magnitude: &[u8]) -> Vec<u8> {
    let leading = magnitude.iter().take_while(|octet| **octet == 0).count();
    match &magnitude[leading..] {
        [] => encode(tag::INTEGER, &[&[0]]),
        digits if digits[0] & 0x80 != 0 => encode(tag::INTEGER, &[&[0], digits]),
        digits => encode(tag::INTEGER, &[digits]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(input: &[u8]) -> Result<Value<'_>, DerError> {
        Reader::new(input).any()
    }

    #[test]
    fn lengths_have_one_form() {
        assert_eq!(read(&[0x04, 0x01, 7]).unwrap().contents, [7]);
        for (input, error) in [
            (&[][..], DerError::Truncated),
            (&[0x04], DerError::Truncated),
            (&[0x04, 0x02, 7], DerError::Truncated),
            (&[0x04, 0x80, 0, 0], DerError::Length),
            (&[0x04, 0x81, 0x01, 7], DerError::Length),
            (&[0x04, 0x82, 0x00, 0x80], DerError::Length),
            (&[0x04, 0x85, 1, 1, 1, 1, 1], DerError::Length),
            (&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff], DerError::Truncated),
        ] {
            assert_eq!(read(input), Err(error), "{input:x?}");
        }
        assert!(matches!(read(&[0x1f, 0x01, 7]), Err(DerError::Tag { .. })));
    }

    #[test]
    fn integers_are_minimal_and_known_in_sign() {
        for (input, expected) in [
            (&[0x02, 1, 0][..], Ok(&[0u8][..])),
            (&[0x02, 1, 0x7f], Ok(&[0x7f])),
            (&[0x02, 2, 0, 0x80], Ok(&[0x80])),
            (&[0x02, 2, 0, 0x7f], Err(DerError::Integer)),
            (&[0x02, 1, 0x80], Err(DerError::Integer)),
            (&[0x02, 2, 0xff, 0x80], Err(DerError::Integer)),
            (&[0x02, 0], Err(DerError::Integer)),
        ] {
            assert_eq!(Reader::new(input).unsigned(), expected, "{input:x?}");
        }
    }

    #[test]
    fn booleans_are_all_or_nothing() {
        assert_eq!(Reader::new(&[1, 1, 0xff]).boolean_default_false(), Ok(true));
        assert_eq!(Reader::new(&[1, 1, 0]).boolean_default_false(), Ok(false));
        assert_eq!(Reader::new(&[4, 0]).boolean_default_false(), Ok(false));
        assert_eq!(
            Reader::new(&[1, 1, 1]).boolean_default_false(),
            Err(DerError::Boolean)
        );
    }

    #[test]
    fn a_failed_read_consumes_nothing() {
        let mut reader = Reader::new(&[0x04, 0x01, 7]);
        assert!(reader.value(tag::INTEGER).is_err());
        assert_eq!(reader.contents(tag::OCTET_STRING), Ok(&[7][..]));
        assert_eq!(reader.finish(), Ok(()));
        assert_eq!(Reader::new(&[0]).finish(), Err(DerError::Trailing));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(contents in proptest::collection::vec(any::<u8>(), 0..400)) {
            let bytes = encode(tag::OCTET_STRING, &[&contents]);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.contents(tag::OCTET_STRING).unwrap(), &contents[..]);
            prop_assert!(reader.finish().is_ok());

            let number = encode_unsigned(&contents);
            let magnitude = Reader::new(&number).unsigned().unwrap().to_vec();
            let stripped: Vec<u8> = contents.iter().copied().skip_while(|octet| *octet == 0).collect();
            prop_assert_eq!(magnitude, if stripped.is_empty() { vec![0] } else { stripped });
        }

        #[test]
        fn what_reads_is_what_would_be_written(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = Reader::new(&bytes).any() {
                prop_assert_eq!(encode(value.tag, &[value.contents]), value.raw);
            }
        }
    }
}
