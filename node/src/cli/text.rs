//! Words: dates, durations, codes, plurals, IDs and tables.

use std::fmt::Write as _;

use chancery_api::spire::api::types::Spiffeid;
use time::OffsetDateTime;

/// Go's name of a gRPC status code; SPIRE's messages carry it.
pub(super) fn code_name(code: i32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let name = usize::try_from(code).ok().and_then(|at| NAMES.get(at));
    name.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

/// `1 entry`, `2 entries`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// An ID as text; empty where there is none.
pub(super) fn id(id: Option<&Spiffeid>) -> String {
    id.map_or_else(String::new, |id| {
        format!("spiffe://{}{}", id.trust_domain, id.path)
    })
}

/// A date in Go's form, in UTC.
pub(super) fn date(unix_s: i64) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(unix_s) else {
        return format!("{unix_s} s after 1970");
    };
    format!("{} +0000 UTC", clock(at))
}

/// What calendar and clock show, without a zone.
pub(super) fn clock(at: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// A date as RFC 3339 writes it, in UTC.
pub(super) fn rfc3339(unix_s: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(unix_s) {
        Ok(at) => format!("{}Z", clock(at).replace(' ', "T")),
        Err(_) => date(unix_s),
    }
}

/// A duration by its two largest units: `2 d 3 h`, `45 s`.
pub(super) fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return "0 s".to_owned();
    };
    let (unit, name) = UNITS[first];
    let mut text = format!("{} {name}", seconds / unit);
    if let Some((next, name)) = UNITS.get(first + 1) {
        let rest = seconds % unit / next;
        if rest > 0 {
            let _ = write!(text, " {rest} {name}");
        }
    }
    text
}

/// A duration that may be shorter than seconds tell.
pub(super) fn age(milliseconds: u64) -> String {
    if milliseconds < 10_000 {
        format!("{milliseconds} ms")
    } else {
        duration(milliseconds / 1_000)
    }
}

/// How far off a date is: `in 23 h`, `3 min ago`.
pub(super) fn relative(unix_s: i64, now_unix_s: i64) -> String {
    let distance = duration(unix_s.abs_diff(now_unix_s));
    if unix_s >= now_unix_s {
        format!("in {distance}")
    } else {
        format!("{distance} ago")
    }
}

/// Columns as wide as their widest cell, two spaces apart, none at the end of a line.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    painted_table(rows, |_, _, cell| cell.to_owned())
}

/// [`table`], with each cell of a row and a column, both from 0, painted.
pub(super) fn painted_table(
    rows: &[Vec<String>],
    paint: impl Fn(usize, usize, &str) -> String,
) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let missing = width - cell.chars().count();
            line.push_str(&paint(at, column, cell));
            line.extend(std::iter::repeat_n(' ', missing + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_go_s_names() {
        assert_eq!(code_name(0), "OK");
        assert_eq!(code_name(1), "Canceled");
        assert_eq!(code_name(6), "AlreadyExists");
        assert_eq!(code_name(16), "Unauthenticated");
        assert_eq!(code_name(17), "Code(17)");
        assert_eq!(code_name(-1), "Code(-1)");
    }

    #[test]
    fn dates_have_go_s_form() {
        assert_eq!(date(0), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(date(1_552_410_266), "2019-03-12 17:04:26 +0000 UTC");
        assert_eq!(date(i64::MAX), "9223372036854775807 s after 1970");
        assert_eq!(rfc3339(1_552_410_266), "2019-03-12T17:04:26Z");
        assert_eq!(rfc3339(i64::MAX), "9223372036854775807 s after 1970");
    }

    #[test]
    fn durations_show_two_units() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min 59 s"),
            (3_600, "1 h"),
            (86_399, "23 h 59 min"),
            (86_460, "1 d"),
            (31_536_000, "365 d"),
        ] {
            assert_eq!(duration(seconds), words);
        }
        assert_eq!(age(9_999), "9999 ms");
        assert_eq!(age(10_000), "10 s");
        assert_eq!(relative(100, 40), "in 1 min");
        assert_eq!(relative(40, 100), "1 min ago");
        assert_eq!(relative(i64::MIN, i64::MAX), "213503982334601 d 7 h ago");
    }

    #[test]
    fn tables_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows: [Vec<String>; 3] = [row(&["A", "BB"]), row(&["ccc", ""]), row(&["é", "d"])];
        assert_eq!(table(&rows), "A    BB\nccc\né    d\n");
    }
}
