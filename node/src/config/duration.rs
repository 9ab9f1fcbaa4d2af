//! Durations as Go writes them (`10m`, `1h30m`, `1.5s`), because that is what
//! every SPIRE configuration, manual and operator writes.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing there.
    #[error("is empty; write a number with a unit, like \"10m\"")]
    Empty,
    /// A sign: no setting is a negative time.
    #[error("must not be negative")]
    Negative,
    /// A number is missing or malformed at this place.
    #[error("has no number before {0:?}")]
    Number(String),
    /// A number without a unit.
    #[error("has no unit; write one of ns, us, ms, s, m, h, like \"10m\"")]
    NoUnit,
    /// A unit Go does not know (there is no day: it is not always 24 hours).
    #[error("has the unknown unit {0:?}; known are ns, us, ms, s, m, h")]
    Unit(String),
    /// More nanoseconds than 64 bits hold (about 584 years).
    #[error("is too long")]
    TooLong,
}

/// Parses a duration in Go's notation.
///
/// # Errors
/// What is wrong, worded to follow the name of the key.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        if number.is_empty() {
            return Err(DurationError::Number(unit.to_owned()));
        }
        let scale = scale_of(unit)?;
        let part = nanoseconds(number, scale)
            .ok_or_else(|| DurationError::Number(unit.to_owned()))?
            .ok_or(DurationError::TooLong)?;
        total = total.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = tail;
    }
    Ok(Duration::from_nanos(total))
}

/// Writes a duration so that [`parse_duration`] reads it back, in the largest
/// whole units: `1h30m`, `70ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for unit in ["h", "m", "s", "ms", "us", "ns"] {
        let scale = u128::from(scale_of(unit).expect("the list above holds known units only"));
        if rest >= scale {
            text.push_str(&format!("{}{unit}", rest / scale));
            rest %= scale;
        }
    }
    text
}

fn scale_of(unit: &str) -> Result<u64, DurationError> {
    Ok(match unit {
        "ns" => 1,
        // Both code points that look like a micro sign.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        "" => return Err(DurationError::NoUnit),
        other => return Err(DurationError::Unit(other.to_owned())),
    })
}

/// `None`: not a number. `Some(None)`: a number beyond 64 bits.
fn nanoseconds(number: &str, scale: u64) -> Option<Option<u64>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mut total = if whole.is_empty() {
        0
    } else {
        match whole.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)) {
            Some(total) => total,
            None => return Some(None),
        }
    };
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        // A digit past the nanosecond has no value.
        match u64::from(digit - b'0')
            .checked_mul(place)
            .and_then(|part| total.checked_add(part))
        {
            Some(next) => total = next,
            None => return Some(None),
        }
    }
    Some(Some(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_accepts_is_read_as_go_reads_it() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("10m", 600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("70ms", 70_000_000),
            (".5s", 500_000_000),
            ("1m0.25s", 60_250_000_000),
            ("3us", 3_000),
            ("3\u{b5}s", 3_000),
            ("7ns", 7),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_says_why() {
        use DurationError as E;
        for (text, error) in [
            ("", E::Empty),
            ("-1s", E::Negative),
            ("10", E::NoUnit),
            ("1h30", E::NoUnit),
            ("1d", E::Unit("d".into())),
            ("m", E::Number("m".into())),
            (".s", E::Number("s".into())),
            ("1.2.3s", E::Number("s".into())),
            ("ten minutes", E::Number("ten minutes".into())),
            ("1 h", E::Unit(" h".into())),
            ("99999999999999999999s", E::TooLong),
            ("6000000h", E::TooLong),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn written_durations_read_back(nanos in 0..u64::MAX) {
            let duration = Duration::from_nanos(nanos);
            proptest::prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[0-9.hmsnu\u{b5} -]{0,24}") {
            let _ = parse_duration(&text);
        }
    }
}
