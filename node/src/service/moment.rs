//! Moments as `agent list -expiresBefore` writes them: `2006-01-02 15:04:05 -0700 -07`
//! in Go's notation.
//!
//! Read as Go reads that layout: the last of the two zones decides, an hour may have
//! one digit, a run of spaces counts as one, and a fraction may follow the seconds.

use time::{Date, Month};

/// The Unix second of `text`, rounded up if it has a fraction, so that "before" stays
/// true for every whole second before it; nothing for anything else.
pub fn parse(text: &str) -> Option<i64> {
    let mut rest = text;
    let year = digits(&mut rest, 4, 4)?;
    literal(&mut rest, '-')?;
    let month = digits(&mut rest, 2, 2)?;
    literal(&mut rest, '-')?;
    let day = digits(&mut rest, 2, 2)?;
    spaces(&mut rest);
    let hour = digits(&mut rest, 1, 2).filter(|h| *h < 24)?;
    literal(&mut rest, ':')?;
    let minute = digits(&mut rest, 2, 2).filter(|m| *m < 60)?;
    literal(&mut rest, ':')?;
    let second = digits(&mut rest, 2, 2).filter(|s| *s < 60)?;
    let fraction = fraction(&mut rest);
    spaces(&mut rest);
    let _ = zone(&mut rest, true)?;
    spaces(&mut rest);
    let offset = zone(&mut rest, false)?;
    if !rest.is_empty() {
        return None;
    }
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let year = i32::try_from(year).ok()?;
    let date = Date::from_calendar_date(year, month, u8::try_from(day).ok()?).ok()?;
    let midnight = date.midnight().assume_utc().unix_timestamp();
    Some(midnight + hour * 3600 + minute * 60 + second - offset + i64::from(fraction))
}

fn literal(rest: &mut &str, expected: char) -> Option<()> {
    *rest = rest.strip_prefix(expected)?;
    Some(())
}

fn spaces(rest: &mut &str) {
    *rest = rest.trim_start_matches(' ');
}

/// A number of `min` to `max` digits; takes as many as there are.
fn digits(rest: &mut &str, min: usize, max: usize) -> Option<i64> {
    let length = rest
        .bytes()
        .take(max)
        .take_while(u8::is_ascii_digit)
        .count();
    if length < min {
        return None;
    }
    let (number, after) = rest.split_at(length);
    *rest = after;
    number.parse().ok()
}

/// Whether a fraction of a second that is not zero follows.
fn fraction(rest: &mut &str) -> bool {
    let Some(after) = rest.strip_prefix(['.', ',']) else {
        return false;
    };
    let length = after.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return false;
    }
    let (number, after) = after.split_at(length);
    *rest = after;
    number.bytes().any(|digit| digit != b'0')
}

/// Seconds east of Greenwich.
fn zone(rest: &mut &str, minutes: bool) -> Option<i64> {
    let sign = match rest.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    *rest = &rest[1..];
    // Go takes 24 and 60 as well: people write them.
    let hours = digits(rest, 2, 2).filter(|h| *h <= 24)?;
    let minutes = if minutes {
        digits(rest, 2, 2).filter(|m| *m <= 60)?
    } else {
        0
    };
    Some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_go_reads_them() {
        for (text, second) in [
            ("1970-01-01 00:00:00 +0000 +00", 0),
            ("2006-01-02 15:04:05 -0700 -07", 1_136_239_445),
            ("2024-02-29 23:59:59 +0000 +00", 1_709_251_199),
            ("1969-12-31 23:59:59 +0000 +00", -1),
            // The last zone decides.
            ("1970-01-01 01:00:00 +0000 +01", 0),
            ("1970-01-01 5:00:00 +0500 +05", 0),
            ("1970-01-01  00:00:00   +0000  +00", 0),
            ("1970-01-01 00:00:00.000 +0000 +00", 0),
            ("1970-01-01 00:00:00.001 +0000 +00", 1),
        ] {
            assert_eq!(parse(text), Some(second), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_moment() {
        for text in [
            "",
            "2006-01-02",
            "2006-01-02 15:04:05",
            "2006-01-02 15:04:05 -0700",
            "2006-01-02T15:04:05 -0700 -07",
            "2006-01-02 15:04:05 -0700 MST",
            "2006-01-02 15:04:05 -0700 -07 ",
            "2006-13-02 15:04:05 -0700 -07",
            "2006-02-30 15:04:05 -0700 -07",
            "2023-02-29 15:04:05 -0700 -07",
            "2006-01-02 24:04:05 -0700 -07",
            "2006-01-02 15:60:05 -0700 -07",
            "2006-01-02 15:04:60 -0700 -07",
            "2006-1-2 15:04:05 -0700 -07",
            "06-01-02 15:04:05 -0700 -07",
            "2006-01-02 15:04:05 0700 07",
            "2006-01-02 15:04:05 -07:00 -07",
            "2006-01-02 15:04:05 ä0700 -07",
            "２006-01-02 15:04:05 -0700 -07",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
