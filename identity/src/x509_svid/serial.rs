//! Serial numbers (RFC 5280 §4.1.2.2).

use std::fmt;

use crate::der::{Reader, encode, tag};

/// Most content octets of a serial, sign octet included (RFC 5280 §4.1.2.2).
const CONTENT_BYTES_MAX: usize = 20;

/// Why a number is not a serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// Zero, negative, or not in minimal form.
    #[error("serial number is not positive")]
    NotPositive,
    /// More than 20 octets.
    #[error("serial number has more than {CONTENT_BYTES_MAX} octets")]
    TooLong,
}

/// A positive serial number of at most 20 octets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// The serial with this big-endian magnitude, leading zeros allowed: 128 random
    /// bits become a serial of at most 17 octets, uniform as SPIRE's.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn from_magnitude(magnitude: &[u8]) -> Result<Self, SerialError> {
        let zeros = magnitude.iter().take_while(|octet| **octet == 0).count();
        let digits = &magnitude[zeros..];
        let first = *digits.first().ok_or(SerialError::NotPositive)?;
        if digits.len() + usize::from(first >> 7) > CONTENT_BYTES_MAX {
            return Err(SerialError::TooLong);
        }
        Ok(Serial(digits.to_vec()))
    }

    /// The serial with these content octets of an INTEGER.
    pub(crate) fn from_content(content: &[u8]) -> Result<Self, SerialError> {
        if content.len() > CONTENT_BYTES_MAX {
            return Err(SerialError::TooLong);
        }
        let der = encode(tag::INTEGER, &[content]);
        let magnitude = Reader::new(&der)
            .unsigned()
            .map_err(|_| SerialError::NotPositive)?;
        Self::from_magnitude(magnitude)
    }

    /// Big-endian, without leading zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bits the number has.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.0.len() * 8 - self.0[0].leading_zeros() as usize
    }
}

/// Decimal, as SPIRE's APIs and journals show serials.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHUNK: u64 = 1_000_000_000;
        // Long division by 10^9; at most six chunks come out.
        let mut number = self.0.clone();
        let mut chunks = Vec::new();
        while !number.is_empty() {
            let mut remainder = 0u64;
            for octet in &mut number {
                let value = remainder << 8 | u64::from(*octet);
                *octet = u8::try_from(value / CHUNK)
                    .expect("the remainder is below 10^9, so the quotient is below 256");
                remainder = value % CHUNK;
            }
            chunks.push(remainder);
            let zeros = number.iter().take_while(|octet| **octet == 0).count();
            number.drain(..zeros);
        }
        let mut chunks = chunks.iter().rev();
        if let Some(first) = chunks.next() {
            write!(f, "{first}")?;
        }
        chunks.try_for_each(|chunk| write!(f, "{chunk:09}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn serials_are_positive_and_at_most_twenty_octets() {
        assert_eq!(
            Serial::from_magnitude(&[0; 16]),
            Err(SerialError::NotPositive)
        );
        assert_eq!(Serial::from_content(&[0x80]), Err(SerialError::NotPositive));
        assert_eq!(Serial::from_content(&[]), Err(SerialError::NotPositive));
        assert_eq!(Serial::from_content(&[0, 1]), Err(SerialError::NotPositive));
        assert_eq!(
            Serial::from_magnitude(&[0x80; 20]),
            Err(SerialError::TooLong)
        );
        assert_eq!(Serial::from_content(&[1; 21]), Err(SerialError::TooLong));
        assert!(Serial::from_magnitude(&[0x7f; 20]).is_ok());
    }

    #[test]
    fn the_largest_serial_prints_in_decimal() {
        let serial = Serial::from_magnitude(&[0xff; 16]).unwrap();
        assert_eq!(
            serial.to_string(),
            "340282366920938463463374607431768211455"
        );
        assert_eq!(serial.bits(), 128);
        let round = Serial::from_magnitude(&1_000_000_000u64.to_be_bytes()).unwrap();
        assert_eq!(round.to_string(), "1000000000");
    }

    proptest! {
        #[test]
        fn decimal_agrees_with_arithmetic(number in 1u128..) {
            let serial = Serial::from_magnitude(&number.to_be_bytes()).unwrap();
            prop_assert_eq!(serial.to_string(), number.to_string());
            prop_assert_eq!(serial.bits() as u32, 128 - number.leading_zeros());
        }
    }
}
