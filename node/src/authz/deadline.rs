//! When the caller of a call stops waiting.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// Time of a call that names no deadline: no work is done for ever.
const DEFAULT: Duration = Duration::from_secs(60);
/// Longest deadline that is believed.
const MAX: Duration = Duration::from_secs(600);

/// The end of a call's time, in the extensions of every request that passed
/// authorization. Retries on a caller's behalf end by it; a response that has not
/// begun by then is `DeadlineExceeded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallDeadline(Instant);

impl CallDeadline {
    /// The deadline of a call that begins now with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(Instant::now() + grpc_timeout(headers).unwrap_or(DEFAULT).min(MAX))
    }

    /// That far from now, for tests of what waits.
    #[cfg(test)]
    pub(crate) fn in_time(left: Duration) -> Self {
        Self(Instant::now() + left)
    }

    /// The instant.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Time left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
/// A value that is none of these is as good as none.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", value.parse().unwrap());
        grpc_timeout(&headers)
    }

    #[test]
    fn every_unit_of_grpc_is_read() {
        let cases = [
            ("2H", Duration::from_secs(7_200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
        ];
        for (value, expected) in cases {
            assert_eq!(timeout(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for value in [
            "",
            "S",
            "5",
            "-5S",
            "+5S",
            "100000000S",
            "5 S",
            "5s",
            "5\u{e9}",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                "grpc-timeout",
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
            assert_eq!(grpc_timeout(&headers), None, "{value:?}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn no_deadline_is_further_than_the_bound() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", "99999999H".parse().unwrap());
        assert!(CallDeadline::of(&headers).remaining() <= MAX);
        assert!(CallDeadline::of(&HeaderMap::new()).remaining() <= DEFAULT);
    }
}
