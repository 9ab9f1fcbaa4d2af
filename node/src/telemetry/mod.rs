//! Metrics and the log.
//!
//! Why it exists: names, units and labels are decided in one place, so that the
//! documentation, the dashboards and the code cannot disagree; everybody else
//! calls a function that says what happened.
//!
//! Promises: every metric is in [`names::DECLARED`]; labels take few values;
//! recording never fails, waits or allocates without bound, and does nothing
//! before [`install`]. What SPIRE measures too is told under its names as well
//! ([`spire`]). Refuses to know: who reads the figures, and what any of them means
//! for readiness.

mod log_file;
mod logging;
pub mod names;
mod recorder;
pub mod spire;
mod store;

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tonic::Code;

pub use metrics_exporter_prometheus::PrometheusHandle;

pub use log_file::LogFile;
pub use logging::{LogLevels, LoggingError, logging, rfc3339};
pub use recorder::{InstallError, install};
pub use store::MeteredStore;

/// A call of `method` (a path of the authorization table, or `unknown`) ended.
pub fn request(method: &'static str, code: Code, elapsed: Duration) {
    let code = code_name(code);
    counter!(names::RPCS, "method" => method, "code" => code).increment(1);
    histogram!(names::RPC_SECONDS, "method" => method, "code" => code).record(elapsed);
    spire::request(method, code, elapsed);
}

/// A call of `method` asked for its rate limit and was let through or refused after
/// `waited`.
pub fn rate_limit(method: &'static str, code: Code, waited: Duration) {
    let code = code_name(code);
    counter!(names::RATE_LIMIT, "method" => method, "code" => code).increment(1);
    histogram!(names::RATE_LIMIT_SECONDS, "method" => method).record(waited);
    spire::rate_limit(method, code, waited);
}

/// A command was proposed and `result` became of it.
pub fn proposal(command: &'static str, result: &'static str, elapsed: Duration) {
    counter!(names::PROPOSALS, "command" => command, "result" => result).increment(1);
    histogram!(names::PROPOSAL_SECONDS, "command" => command).record(elapsed);
}

/// A quorum confirmed this node's state.
pub fn quorum_round_trip(elapsed: Duration) {
    histogram!(names::QUORUM_ROUND_TRIP_SECONDS).record(elapsed);
}

/// A write was synced.
pub fn fsync(elapsed: Duration) {
    histogram!(names::FSYNC_SECONDS).record(elapsed);
}

/// A document of `kind` (`x509`, `x509_ca` or `jwt`) was signed by `backend`, or not.
pub fn signature(
    kind: &'static str,
    authority: &str,
    backend: &'static str,
    ok: bool,
    elapsed: Duration,
) {
    let result = if ok { "ok" } else { "error" };
    counter!(names::SIGNATURES, "kind" => kind, "authority" => authority.to_owned(), "backend" => backend, "result" => result)
        .increment(1);
    histogram!(names::SIGNATURE_SECONDS, "kind" => kind, "backend" => backend).record(elapsed);
    if ok {
        spire::signed(kind);
    }
}

/// Log entries committed and not applied.
pub fn apply_lag(log_entries: u64) {
    gauge!(names::APPLY_LAG).set(approximate(log_entries));
}

/// Age of the state; `None` while no quorum confirmed it. Infinite then, so that
/// an alert on "older than" needs no second condition.
pub fn freshness(age: Option<Duration>) {
    gauge!(names::FRESHNESS_SECONDS).set(age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
}

/// Age of the write under way; zero when none is.
pub fn oldest_write(age: Duration) {
    gauge!(names::OLDEST_WRITE_SECONDS).set(age.as_secs_f64());
}

/// Free space under the data directory, and whether it is short.
pub fn disk(free_bytes: u64, short: bool) {
    // Exact up to 2^53 bytes, which is 8 PiB.
    gauge!(names::DISK_FREE).set(free_bytes as f64);
    gauge!(names::DISK_SHORT).set(if short { 1.0 } else { 0.0 });
}

/// The authority of `kind` (`x509` or `jwt`) that signs here ends in so many seconds, 0 where
/// there is none; whether it should have been followed by another one.
pub fn authority(kind: &'static str, seconds_left: i64, overdue: bool) {
    let left = approximate(u64::try_from(seconds_left).unwrap_or(0));
    gauge!(names::AUTHORITY_SECONDS, "kind" => kind).set(left);
    gauge!(names::AUTHORITY_OVERDUE, "kind" => kind).set(u8::from(overdue));
}

/// Rows of the ledger of holders, and pairs that this node follows.
pub fn ledger(rows: usize, pairs: usize) {
    gauge!(names::LEDGER_ROWS).set(approximate(rows as u64));
    gauge!(names::LEDGER_PAIRS).set(approximate(pairs as u64));
}

/// Holders left of documents of an authority of `kind` that signs no more.
pub fn old_authority_holders(kind: &'static str, holders: u64) {
    gauge!(names::OLD_AUTHORITY_HOLDERS, "kind" => kind).set(approximate(holders));
}

/// A new leader was seen.
pub fn leader_change() {
    counter!(names::LEADER_CHANGES).increment(1);
}

/// Whether this node leads.
pub fn leader(is_leader: bool) {
    gauge!(names::LEADER).set(u8::from(is_leader));
}

/// Members that answer, of all; this node counts in both.
pub fn members(reachable: usize, total: usize) {
    gauge!(names::MEMBERS_REACHABLE).set(approximate(reachable as u64));
    gauge!(names::MEMBERS).set(approximate(total as u64));
}

/// Time until issuing ends if all else is lost now, and what it ends by, the first to come first.
pub fn outage_budget(parts: &[(&'static str, Duration)]) {
    let budget = parts.first().map_or(Duration::ZERO, |(_, left)| *left);
    gauge!(names::OUTAGE_BUDGET_SECONDS).set(budget.as_secs_f64());
    for part in OUTAGE_PARTS {
        let found = parts.iter().find(|(name, _)| name == part);
        let left = found.map_or(f64::INFINITY, |(_, left)| left.as_secs_f64());
        gauge!(names::OUTAGE_PART_SECONDS, "part" => *part).set(left);
    }
}

/// What issuing may end by; those that the mode has nothing to do with are infinitely far.
const OUTAGE_PARTS: &[&str] = &["freshness", "authority", "server_svid", "intermediate"];

/// What the voters' clocks are ahead of this node's.
pub fn clock_offset(offset_ms: i64) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    gauge!(names::CLOCK_OFFSET_SECONDS).set(offset_ms as f64 / 1000.0);
}

/// Whether this node can issue.
pub fn ready(is_ready: bool) {
    gauge!(names::READY).set(u8::from(is_ready));
}

/// A gRPC code as SPIRE's metrics and logs name it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Gauges are floating point; past 2^53 the last digits are of no interest.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn approximate(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::telemetry::names::{CONNECTIONS, CONNECTIONS_REFUSED, DECLARED};

    /// Label names by metric, as rendered.
    fn rendered(text: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .fold(name, |n, s| n.strip_suffix(s).unwrap_or(n));
            let labels = labels
                .trim_end_matches('}')
                .split(',')
                .filter_map(|l| l.split_once('='));
            let labels = labels.map(|(l, _)| l.to_owned()).filter(|l| l != "le");
            found.entry(name.to_owned()).or_default().extend(labels);
        }
        found
    }

    #[test]
    fn what_is_recorded_is_what_is_declared() {
        let recorder = recorder::builder().unwrap().build_recorder();
        let a_while = Duration::from_millis(3);
        metrics::with_local_recorder(&recorder, || {
            names::describe();
            request("/a.B/C", Code::Ok, a_while);
            rate_limit("/a.B/C", Code::Ok, a_while);
            proposal("ban", "applied", a_while);
            quorum_round_trip(a_while);
            fsync(a_while);
            oldest_write(a_while);
            disk(1 << 30, true);
            signature("x509", "a1b2", "memory", true, a_while);
            apply_lag(3);
            freshness(None);
            leader_change();
            leader(true);
            members(2, 3);
            outage_budget(&[("freshness", a_while)]);
            clock_offset(-3);
            ready(true);
            authority("x509", 60, false);
            ledger(1, 1);
            old_authority_holders("x509", 1);
        });
        let text = recorder.handle().render();
        // Recorded where it happens: by the transport and by the signer's decorator.
        let elsewhere = |name: &str| {
            [CONNECTIONS, CONNECTIONS_REFUSED].contains(&name)
                || name.starts_with("chancery_signer_")
        };
        let declared: BTreeMap<_, BTreeSet<_>> = DECLARED
            .iter()
            .filter(|metric| !elsewhere(metric.name))
            .map(|metric| {
                (
                    metric.name.to_owned(),
                    metric.labels.iter().map(|l| (*l).to_owned()).collect(),
                )
            })
            .collect();
        let mut found = rendered(&text);
        found.retain(|name, _| !name.starts_with(spire::PREFIX));
        assert_eq!(found, declared, "{text}");
        for metric in DECLARED.iter().filter(|metric| !elsewhere(metric.name)) {
            assert!(
                text.contains(&format!(
                    "# TYPE {} {}\n",
                    metric.name,
                    metric.kind.as_str()
                )),
                "{text}"
            );
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{text}");
        }
    }

    #[test]
    fn unconfirmed_state_is_older_than_any_limit() {
        let recorder = recorder::builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || freshness(None));
        assert!(
            recorder
                .handle()
                .render()
                .contains("chancery_freshness_seconds inf")
        );
        metrics::with_local_recorder(&recorder, || freshness(Some(Duration::from_millis(250))));
        assert!(
            recorder
                .handle()
                .render()
                .contains("chancery_freshness_seconds 0.25")
        );
    }

    #[test]
    fn codes_are_named_as_spire_names_them() {
        assert_eq!(code_name(Code::Ok), "OK");
        assert_eq!(code_name(Code::Cancelled), "Canceled");
        let names: BTreeSet<_> = (0..17).map(|n| code_name(Code::from_i32(n))).collect();
        assert_eq!(names.len(), 17);
    }
}
