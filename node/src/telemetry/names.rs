//! Every metric this server has: one list, from which the recorder's help texts
//! and the table in `docs/telemetry.md` come.
//!
//! Labels take few values: methods come from the authorization table, commands,
//! results, kinds and reasons from the code, never from a request.

use chancery_hsm::metered as signer;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Calls answered.
pub const RPCS: &str = "chancery_rpc_total";
/// Time to the end of a call's response.
pub const RPC_SECONDS: &str = "chancery_rpc_seconds";
/// Calls that asked for their rate limit.
pub const RATE_LIMIT: &str = "chancery_rate_limit_total";
/// Time that they waited.
pub const RATE_LIMIT_SECONDS: &str = "chancery_rate_limit_seconds";
/// Connections open now.
pub const CONNECTIONS: &str = "chancery_connections";
/// Connections that were turned away.
pub const CONNECTIONS_REFUSED: &str = "chancery_connections_refused_total";
/// Commands proposed here.
pub const PROPOSALS: &str = "chancery_proposals_total";
/// Time from a proposal to its outcome.
pub const PROPOSAL_SECONDS: &str = "chancery_proposal_seconds";
/// Time a confirmation by a quorum takes.
pub const QUORUM_ROUND_TRIP_SECONDS: &str = "chancery_quorum_round_trip_seconds";
/// Time a synced write takes.
pub const FSYNC_SECONDS: &str = "chancery_fsync_seconds";
/// Age of the write under way.
pub const OLDEST_WRITE_SECONDS: &str = "chancery_oldest_write_seconds";
/// Free space.
pub const DISK_FREE: &str = "chancery_disk_free_bytes";
/// Whether it is short.
pub const DISK_SHORT: &str = "chancery_disk_short";
/// Log entries that are committed and not applied.
pub const APPLY_LAG: &str = "chancery_apply_lag_entries";
/// Age of the state.
pub const FRESHNESS_SECONDS: &str = "chancery_freshness_seconds";
/// Changes of leader.
pub const LEADER_CHANGES: &str = "chancery_leader_changes_total";
/// Whether this node leads.
pub const LEADER: &str = "chancery_leader";
/// Members of the cluster.
pub const MEMBERS: &str = "chancery_members";
/// Members that answer.
pub const MEMBERS_REACHABLE: &str = "chancery_members_reachable";
/// Time until issuing ends without a quorum.
pub const OUTAGE_BUDGET_SECONDS: &str = "chancery_outage_budget_seconds";
/// Time until each thing by which it may end.
pub const OUTAGE_PART_SECONDS: &str = "chancery_outage_part_seconds";
/// What the voters' clocks are ahead of this node's.
pub const CLOCK_OFFSET_SECONDS: &str = "chancery_clock_offset_seconds";
/// Whether this node issues.
pub const READY: &str = "chancery_ready";
/// Documents signed.
pub const SIGNATURES: &str = "chancery_signatures_total";
/// Time to sign a document.
pub const SIGNATURE_SECONDS: &str = "chancery_signature_seconds";

/// Time until the authority that signs ends.
pub const AUTHORITY_SECONDS: &str = "chancery_authority_seconds";
/// Whether another one should have taken over.
pub const AUTHORITY_OVERDUE: &str = "chancery_authority_overdue";
/// Holders of documents of one that signs no more.
pub const OLD_AUTHORITY_HOLDERS: &str = "chancery_old_authority_holders";
/// Rows of the ledger of holders.
pub const LEDGER_ROWS: &str = "chancery_ledger_rows";
/// Pairs of a holder and an authority that this node follows.
pub const LEDGER_PAIRS: &str = "chancery_ledger_pairs";

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A value of this moment.
    Gauge,
    /// A distribution, in buckets.
    Histogram,
}

impl Kind {
    /// Prometheus' word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Of its values.
    pub unit: Unit,
    /// In the order of the documentation.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        unit: Unit::Count,
        labels,
        help,
    }
}

const fn gauge(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        unit,
        labels,
        help,
    }
}

const fn seconds(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels,
        help,
    }
}

/// Every metric, in the order of the documentation.
pub const DECLARED: &[Metric] = &[
    counter(
        RPCS,
        &["method", "code"],
        "Calls answered on the agent port and the admin socket, by gRPC code",
    ),
    seconds(
        RPC_SECONDS,
        &["method", "code"],
        "Time from a call's headers to the end of its response; for streams their whole life",
    ),
    counter(
        RATE_LIMIT,
        &["method", "code"],
        "Calls that asked for their rate limit: code OK or ResourceExhausted",
    ),
    seconds(
        RATE_LIMIT_SECONDS,
        &["method"],
        "Time such a call waited for its turn",
    ),
    gauge(
        CONNECTIONS,
        Unit::Count,
        &["port"],
        "Connections open now (port agent, peer or admin)",
    ),
    counter(
        CONNECTIONS_REFUSED,
        &["port", "reason"],
        "Connections turned away (reason limit, descriptors, timeout, proxy, handshake, protocol or certificate)",
    ),
    counter(
        PROPOSALS,
        &["command", "result"],
        "Commands that this node proposed, by what became of them",
    ),
    seconds(
        PROPOSAL_SECONDS,
        &["command"],
        "Time from a proposal to its outcome, applied on this node; forwarding and elections included",
    ),
    seconds(
        QUORUM_ROUND_TRIP_SECONDS,
        &[],
        "Time until a quorum confirmed the state of this node, when it did",
    ),
    seconds(
        FSYNC_SECONDS,
        &[],
        "Time a synced write of the Raft log or vote took",
    ),
    gauge(
        OLDEST_WRITE_SECONDS,
        Unit::Seconds,
        &[],
        "Time for which the write of the Raft log or vote that is under way has been so; 0 when none is",
    ),
    gauge(
        DISK_FREE,
        Unit::Bytes,
        &[],
        "Space that this server may still use on the disk of its data directory",
    ),
    gauge(
        DISK_SHORT,
        Unit::Count,
        &[],
        "1 while that is less than `storage.min_free_mib` and a missing reserve: this node refuses writes",
    ),
    gauge(
        APPLY_LAG,
        Unit::Count,
        &[],
        "Log entries committed and not yet applied on this node",
    ),
    gauge(
        FRESHNESS_SECONDS,
        Unit::Seconds,
        &[],
        "Age of the last confirmation of this node's state by a quorum; infinite before the first",
    ),
    counter(LEADER_CHANGES, &[], "Times that this node saw a new leader"),
    gauge(LEADER, Unit::Count, &[], "1 while this node leads"),
    gauge(
        MEMBERS,
        Unit::Count,
        &[],
        "Members of the cluster, this node included",
    ),
    gauge(
        MEMBERS_REACHABLE,
        Unit::Count,
        &[],
        "Members that answered within two seconds, this node included",
    ),
    gauge(
        OUTAGE_BUDGET_SECONDS,
        Unit::Seconds,
        &[],
        "Time until this node stops issuing X.509-SVIDs if the quorum, and in mode `intermediate` the token, is lost now; 0 once it has stopped",
    ),
    gauge(
        OUTAGE_PART_SECONDS,
        Unit::Seconds,
        &["part"],
        "Time until each part of that: the state's limit (freshness), the ends of authority and server_svid (mode `direct`) or of this node's intermediate; infinite for what has no part in the mode",
    ),
    gauge(
        CLOCK_OFFSET_SECONDS,
        Unit::Seconds,
        &[],
        "What the median clock of a majority of the voters is ahead of this node's; it signs up to 10 s, leads up to 5 s",
    ),
    gauge(READY, Unit::Count, &[], "1 while this node can issue"),
    counter(
        SIGNATURES,
        &["kind", "authority", "backend", "result"],
        "Documents signed (kind x509, x509_intermediate, x509_ca or jwt), by result ok or error; authorities are a handful, by their ids",
    ),
    seconds(
        SIGNATURE_SECONDS,
        &["kind", "backend"],
        "Time to sign a document, waiting and verification included",
    ),
    gauge(
        AUTHORITY_SECONDS,
        Unit::Seconds,
        &["kind"],
        "Time until the authority that signs on this node ends (kind x509 or jwt); 0 while none signs",
    ),
    gauge(
        AUTHORITY_OVERDUE,
        Unit::Count,
        &["kind"],
        "1 while that authority should have been followed by another one and cannot be; told by the leader, and by each node of its own keys",
    ),
    gauge(
        OLD_AUTHORITY_HOLDERS,
        Unit::Count,
        &["kind"],
        "Holders left of documents of an authority that signs no more, of several authorities of the most; looked at each minute",
    ),
    gauge(
        LEDGER_ROWS,
        Unit::Count,
        &[],
        "Rows of the ledger of holders, 250,000 at most; looked at each minute",
    ),
    gauge(
        LEDGER_PAIRS,
        Unit::Count,
        &[],
        "Holders and authorities of which this node follows what it handed out; looked at each minute",
    ),
    counter(
        signer::CALLS,
        &["backend", "operation", "result"],
        "Calls to the keys' backend, by result ok or the kind of error",
    ),
    seconds(
        signer::SECONDS,
        &["backend", "operation"],
        "Time such a call took, waiting for a session included",
    ),
    gauge(
        signer::SESSIONS_FREE,
        Unit::Count,
        &["backend"],
        "Token sessions that wait for work",
    ),
    gauge(
        signer::USABLE,
        Unit::Count,
        &["backend"],
        "1 while the keys' backend can be used",
    ),
];

/// Tells the installed recorder what every metric means.
pub(super) fn describe() {
    for metric in DECLARED {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn documentation_lists_exactly_the_declared_metrics() {
        let mut table =
            String::from("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
        for metric in DECLARED {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            writeln!(
                table,
                "| `{}` | {} | {} | {}. |",
                metric.name,
                metric.kind.as_str(),
                labels.join(", "),
                metric.help
            )
            .unwrap();
        }
        crate::golden::check_table("docs/telemetry.md", &table);
    }

    #[test]
    fn names_follow_prometheus_rules() {
        for metric in DECLARED {
            let name = metric.name;
            assert!(name.starts_with("chancery_"), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            assert_eq!(
                name.ends_with("_seconds"),
                metric.unit == Unit::Seconds,
                "{name}"
            );
        }
    }

    #[test]
    fn no_name_is_declared_twice() {
        for (at, metric) in DECLARED.iter().enumerate() {
            assert!(
                DECLARED[..at].iter().all(|other| other.name != metric.name),
                "{}",
                metric.name
            );
        }
    }
}
