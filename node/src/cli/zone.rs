//! Dates in the local time zone, where SPIRE prints them so.
//!
//! The zone is found as Go finds it: the file that `TZ` names, `/etc/localtime` without `TZ`, and
//! UTC where `TZ` is empty or the file is not to be had.

use time::OffsetDateTime;
use tz::TimeZone;

use super::text;

/// A time zone; `None` is UTC.
pub(super) struct Zone(Option<TimeZone>);

impl Zone {
    /// UTC.
    pub(super) const UTC: Zone = Zone(None);

    /// The zone of a process whose variable `TZ` has the value `tz`.
    pub(super) fn local(tz: Option<&str>) -> Self {
        let zone = match tz {
            None => TimeZone::local(),
            Some("") => return Zone::UTC,
            // A colon in front: a file, and never a rule of POSIX's, which Go does not take.
            Some(name) => {
                TimeZone::from_posix_tz(&format!(":{}", name.strip_prefix(':').unwrap_or(name)))
            }
        };
        Zone(zone.ok())
    }

    /// A date in Go's form, like `2019-03-12 18:04:26 +0100 CET`.
    pub(super) fn date(&self, unix_s: i64) -> String {
        self.local_date(unix_s)
            .unwrap_or_else(|| text::date(unix_s))
    }

    fn local_date(&self, unix_s: i64) -> Option<String> {
        let zone = self.0.as_ref()?;
        let kind = zone.find_local_time_type(unix_s).ok()?;
        let offset_s = kind.ut_offset();
        let at = OffsetDateTime::from_unix_timestamp(unix_s.checked_add(offset_s.into())?).ok()?;
        let (sign, minutes) = match offset_s {
            ..0 => ('-', offset_s.unsigned_abs() / 60),
            0.. => ('+', offset_s.unsigned_abs() / 60),
        };
        Some(format!(
            "{} {sign}{:02}{:02} {}",
            text::clock(at),
            minutes / 60,
            minutes % 60,
            kind.time_zone_designation()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(rule: &str) -> Zone {
        Zone(Some(TimeZone::from_posix_tz(rule).unwrap()))
    }

    #[test]
    fn dates_have_the_zone_s_offset_and_name() {
        let berlin = zone("CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(berlin.date(1_552_410_266), "2019-03-12 18:04:26 +0100 CET");
        assert_eq!(berlin.date(1_562_410_266), "2019-07-06 12:51:06 +0200 CEST");
        let kathmandu = zone("<+0545>-5:45");
        assert_eq!(
            kathmandu.date(1_552_410_266),
            "2019-03-12 22:49:26 +0545 +0545"
        );
        let st_johns = zone("NST3:30NDT,M3.2.0,M11.1.0");
        assert_eq!(
            st_johns.date(1_552_410_266),
            "2019-03-12 14:34:26 -0230 NDT"
        );
    }

    #[test]
    fn a_date_beyond_the_calendar_is_still_told() {
        assert_eq!(zone("CET-1").date(i64::MAX), text::date(i64::MAX));
    }

    #[test]
    fn the_variable_names_a_file_or_it_is_utc() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("zone");
        // A file of version 1: one type, one hour east, by the name of CET.
        let mut bytes = b"TZif".to_vec();
        bytes.resize(20, 0);
        for count in [0_u32, 0, 0, 0, 1, 4] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(3_600_i32.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(b"CET\0");
        std::fs::write(&file, bytes).unwrap();
        let path = file.display().to_string();
        for value in [path.clone(), format!(":{path}")] {
            assert_eq!(
                Zone::local(Some(&value)).date(1_552_410_266),
                "2019-03-12 18:04:26 +0100 CET"
            );
        }
        for value in ["", "UTC0", "/nonexistent", "CET-1CEST,M3.5.0,M10.5.0/3"] {
            assert_eq!(
                Zone::local(Some(value)).date(1_552_410_266),
                "2019-03-12 17:04:26 +0000 UTC",
                "{value}"
            );
        }
    }
}
