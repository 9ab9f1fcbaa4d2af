//! The same figures under SPIRE's names, for dashboards and alerts that exist.
//!
//! Only what is the same thing has SPIRE's name: calls, waiting for a rate limit,
//! signatures, what is held, when the authority ends. Labels are SPIRE's, and take
//! few values. Whether anybody gets to see them is the recorder's to say.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// How every such name begins: SPIRE's default prefix.
pub(super) const PREFIX: &str = "spire_server_";

const SIGNED_X509_SVID: &str = "spire_server_server_ca_sign_x509_svid";
const SIGNED_X509_CA: &str = "spire_server_server_ca_sign_x509_ca_svid";
const SIGNED_JWT_SVID: &str = "spire_server_server_ca_sign_jwt_svid";
const STARTED: &str = "spire_server_started";
const UPTIME: &str = "spire_server_uptime_in_ms";
const ENTRIES: &str = "spire_server_entry_entries_by_entryid_cache_count";
const AGENTS: &str = "spire_server_node_agents_by_id_cache_count";
const CA_EXPIRATION: &str = "spire_server_manager_x509_ca_rotate_expiration";
const CA_TTL: &str = "spire_server_manager_x509_ca_rotate_ttl";
const CA_PREPARE: &str = "spire_server_ca_manager_x509_ca_prepare";
const CA_PREPARE_TIME: &str = "spire_server_ca_manager_x509_ca_prepare_elapsed_time";
const KEY_PREPARE: &str = "spire_server_ca_manager_jwt_key_prepare";
const KEY_PREPARE_TIME: &str = "spire_server_ca_manager_jwt_key_prepare_elapsed_time";
const CA_ACTIVATE: &str = "spire_server_ca_manager_x509_ca_activate";
const KEY_ACTIVATE: &str = "spire_server_manager_jwt_key_activate";
const PRUNED: &str = "spire_server_ca_manager_bundle_pruned";

/// A name or a family of names, for the documentation.
#[cfg(test)]
pub(super) const DECLARED: &[(&str, &str, &str, &str)] = &[
    (
        "spire_server_rpc_<service>_<method>",
        "counter",
        "`status`",
        "Calls answered, as `chancery_rpc_total`: `spire_server_rpc_agent_v1_agent_attest_agent`, `spire_server_rpc_health_check`.",
    ),
    (
        "spire_server_rpc_<service>_<method>_elapsed_time",
        "summary",
        "`status`",
        "Their times in milliseconds.",
    ),
    (
        "spire_server_rateLimit_<service>_<method>",
        "counter",
        "`status`",
        "Calls that asked for their rate limit, as `chancery_rate_limit_total`.",
    ),
    (
        "spire_server_rateLimit_<service>_<method>_elapsed_time",
        "summary",
        "`status`",
        "The time that they waited, in milliseconds.",
    ),
    (
        SIGNED_X509_SVID,
        "counter",
        "",
        "X.509-SVIDs signed: agents', workloads' and this server's own.",
    ),
    (
        SIGNED_X509_CA,
        "counter",
        "",
        "Certificates of downstream authorities signed.",
    ),
    (SIGNED_JWT_SVID, "counter", "", "JWT-SVIDs signed."),
    (
        STARTED,
        "gauge",
        "`version`, `trust_domain_id`",
        "1 since the server started.",
    ),
    (UPTIME, "gauge", "", "Milliseconds since then."),
    (ENTRIES, "gauge", "", "Registration entries."),
    (AGENTS, "gauge", "", "Attested agents."),
    (
        CA_EXPIRATION,
        "gauge",
        "`trust_domain_id`",
        "When the X.509 authority that signs ends, in Unix seconds.",
    ),
    (CA_TTL, "gauge", "`trust_domain_id`", "Seconds until then."),
    (
        CA_PREPARE,
        "counter",
        "`status`",
        "X.509 authorities made on this node.",
    ),
    (
        CA_PREPARE_TIME,
        "summary",
        "`status`",
        "Their times in milliseconds.",
    ),
    (
        KEY_PREPARE,
        "counter",
        "`status`",
        "JWT authorities made on this node.",
    ),
    (
        KEY_PREPARE_TIME,
        "summary",
        "`status`",
        "Their times in milliseconds.",
    ),
    (
        CA_ACTIVATE,
        "counter",
        "",
        "X.509 authorities that this node let sign.",
    ),
    (
        KEY_ACTIVATE,
        "counter",
        "",
        "JWT authorities that this node let sign.",
    ),
    (
        PRUNED,
        "counter",
        "",
        "Ended authorities of the cluster that this node took out of the bundle.",
    ),
];

/// The names of one method.
struct Names {
    rpc: String,
    rpc_elapsed: String,
    limit: String,
    limit_elapsed: String,
}

/// By the path of the method: those of SPIRE's services that this server has.
static METHODS: LazyLock<BTreeMap<&'static str, Names>> = LazyLock::new(|| {
    let methods = chancery_api::METHODS.iter().copied();
    methods
        .filter_map(|path| {
            let key = method_key(path)?;
            let name = |what: &str, end: &str| format!("{PREFIX}{what}_{key}{end}");
            let names = Names {
                rpc: name("rpc", ""),
                rpc_elapsed: name("rpc", "_elapsed_time"),
                limit: name("rateLimit", ""),
                limit_elapsed: name("rateLimit", "_elapsed_time"),
            };
            Some((path, names))
        })
        .collect()
});

/// SPIRE's label for the machine, on everything.
static HOST: LazyLock<String> = LazyLock::new(|| {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
});

/// Service and method as SPIRE's metrics spell them; nothing for services that SPIRE
/// does not have.
fn method_key(path: &str) -> Option<String> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let service = match service {
        "grpc.health.v1.Health" => "Health",
        "spire.api.server.logger.v1.Logger" => "Logger",
        other => other.strip_prefix("spire.api.server.")?,
    };
    let words: Vec<String> = service.split('.').chain([method]).map(snake).collect();
    Some(words.join("_"))
}

/// An underscore goes before an upper-case letter that is neither first nor last and
/// has a lower-case neighbour, so that `BatchNewX509SVID` is `batch_new_x509svid`.
fn snake(word: &str) -> String {
    let bytes = word.as_bytes();
    let lower = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_lowercase);
    let mut text = String::with_capacity(word.len() + 4);
    for (at, letter) in word.char_indices() {
        let inside = at > 0 && at + 1 < bytes.len();
        if letter.is_ascii_uppercase() && inside && (lower(at - 1) || lower(at + 1)) {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn host() -> &'static str {
    HOST.as_str()
}

fn call(count: &'static str, elapsed_name: &'static str, status: &'static str, elapsed: Duration) {
    counter!(count, "status" => status, "host" => host()).increment(1);
    histogram!(elapsed_name, "status" => status, "host" => host())
        .record(elapsed.as_secs_f64() * 1_000.0);
}

/// A call ended.
pub(super) fn request(method: &'static str, status: &'static str, elapsed: Duration) {
    if let Some(names) = METHODS.get(method) {
        call(&names.rpc, &names.rpc_elapsed, status, elapsed);
    }
}

/// A call asked for its rate limit.
pub(super) fn rate_limit(method: &'static str, status: &'static str, elapsed: Duration) {
    if let Some(names) = METHODS.get(method) {
        call(&names.limit, &names.limit_elapsed, status, elapsed);
    }
}

/// A document of `kind` was signed.
pub(super) fn signed(kind: &'static str) {
    let name = match kind {
        "x509" => SIGNED_X509_SVID,
        "x509_ca" => SIGNED_X509_CA,
        "jwt" => SIGNED_JWT_SVID,
        _ => return,
    };
    counter!(name, "host" => host()).increment(1);
}

/// The server of `trust_domain` runs, since `uptime`.
pub fn running(version: &'static str, trust_domain: &str, uptime: Duration) {
    gauge!(STARTED, "version" => version, "trust_domain_id" => trust_domain.to_owned(), "host" => host())
        .set(1);
    gauge!(UPTIME, "host" => host()).set((uptime.as_secs_f64() * 1_000.0).floor());
}

/// What the registry holds.
pub fn held(entries: usize, agents: usize) {
    gauge!(ENTRIES, "host" => host()).set(super::approximate(entries as u64));
    gauge!(AGENTS, "host" => host()).set(super::approximate(agents as u64));
}

/// The authority that signs X.509-SVIDs ends at `expires_at`; both Unix seconds.
#[allow(clippy::cast_precision_loss, reason = "seconds are below 2^53")]
pub fn authority(trust_domain: &str, expires_at: i64, now: i64) {
    gauge!(CA_EXPIRATION, "trust_domain_id" => trust_domain.to_owned(), "host" => host())
        .set(expires_at as f64);
    gauge!(CA_TTL, "trust_domain_id" => trust_domain.to_owned(), "host" => host())
        .set(expires_at.saturating_sub(now) as f64);
}

/// The key and certificate of an authority were made here, or not.
pub fn prepared(jwt: bool, ok: bool, elapsed: Duration) {
    let (count, time) = if jwt {
        (KEY_PREPARE, KEY_PREPARE_TIME)
    } else {
        (CA_PREPARE, CA_PREPARE_TIME)
    };
    call(count, time, if ok { "OK" } else { "Unknown" }, elapsed);
}

/// An authority began to sign by this node's command.
pub fn activated(jwt: bool) {
    let name = if jwt { KEY_ACTIVATE } else { CA_ACTIVATE };
    counter!(name, "host" => host()).increment(1);
}

/// So many ended authorities left the bundle by this node's command.
pub fn pruned(authorities: usize) {
    if authorities > 0 {
        counter!(PRUNED, "host" => host()).increment(authorities as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn methods_are_named_as_spire_names_them() {
        for (path, key) in [
            (
                "/spire.api.server.agent.v1.Agent/AttestAgent",
                "agent_v1_agent_attest_agent",
            ),
            (
                "/spire.api.server.svid.v1.SVID/BatchNewX509SVID",
                "svid_v1_svid_batch_new_x509svid",
            ),
            (
                "/spire.api.server.svid.v1.SVID/NewJWTSVID",
                "svid_v1_svid_new_jwtsvid",
            ),
            (
                "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
                "svid_v1_svid_new_downstream_x509ca",
            ),
            (
                "/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",
                "bundle_v1_bundle_publish_jwt_authority",
            ),
            (
                "/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle",
                "trustdomain_v1_trust_domain_refresh_bundle",
            ),
            (
                "/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState",
                "localauthority_v1_local_authority_get_x509_authority_state",
            ),
            (
                "/spire.api.server.debug.v1.Debug/GetInfo",
                "debug_v1_debug_get_info",
            ),
            (
                "/spire.api.server.logger.v1.Logger/GetLogger",
                "logger_get_logger",
            ),
            ("/grpc.health.v1.Health/Check", "health_check"),
        ] {
            assert_eq!(method_key(path).as_deref(), Some(key));
        }
        assert_eq!(method_key("/chancery.cluster.v1.Cluster/Status"), None);
        assert_eq!(method_key("unknown"), None);
    }

    #[test]
    fn no_two_methods_share_a_name_and_all_are_fit_for_prometheus() {
        let mut seen = BTreeSet::new();
        for names in METHODS.values() {
            for name in [
                &names.rpc,
                &names.rpc_elapsed,
                &names.limit,
                &names.limit_elapsed,
            ] {
                assert!(seen.insert(name), "{name}");
                assert!(
                    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                    "{name}"
                );
            }
        }
        assert!(seen.len() > 4 * 60);
    }

    #[test]
    fn documentation_lists_the_names() {
        let mut table =
            String::from("| SPIRE's name | type | labels | meaning |\n| --- | --- | --- | --- |\n");
        for (name, kind, labels, meaning) in DECLARED {
            writeln!(table, "| `{name}` | {kind} | {labels} | {meaning} |").unwrap();
        }
        crate::golden::check_table("docs/telemetry.md", &table);
    }

    #[test]
    fn what_happens_is_told_under_spire_s_names() {
        let recorder = crate::telemetry::recorder::builder()
            .unwrap()
            .build_recorder();
        let attest = "/spire.api.server.agent.v1.Agent/AttestAgent";
        let a_while = Duration::from_millis(3);
        metrics::with_local_recorder(&recorder, || {
            request(attest, "OK", a_while);
            request(attest, "OK", a_while);
            request("unknown", "Unimplemented", a_while);
            rate_limit(attest, "ResourceExhausted", a_while);
            for kind in ["x509", "x509", "x509_ca", "jwt", "server_key"] {
                signed(kind);
            }
            running("1.2.3", "example.org", Duration::from_micros(1_999));
            held(3, 2);
            authority("example.org", 1_000, 900);
            prepared(false, true, a_while);
            prepared(true, false, a_while);
            activated(false);
            activated(true);
            pruned(2);
        });
        let text = recorder.handle().render();
        let has = |start: &str, label: &str, end: &str| {
            text.lines()
                .any(|l| l.starts_with(start) && l.contains(label) && l.ends_with(end))
        };
        for (name, label, value) in [
            (
                "spire_server_rpc_agent_v1_agent_attest_agent{",
                "status=\"OK\"",
                " 2",
            ),
            (
                "spire_server_rpc_agent_v1_agent_attest_agent_elapsed_time_sum{",
                "status=\"OK\"",
                " 6",
            ),
            (
                "spire_server_rpc_agent_v1_agent_attest_agent_elapsed_time_count{",
                "host=\"",
                " 2",
            ),
            (
                "spire_server_rateLimit_agent_v1_agent_attest_agent{",
                "status=\"ResourceExhausted\"",
                " 1",
            ),
            ("spire_server_server_ca_sign_x509_svid{", "host=", " 2"),
            (
                "spire_server_ca_manager_x509_ca_prepare{",
                "status=\"OK\"",
                " 1",
            ),
            (
                "spire_server_ca_manager_jwt_key_prepare{",
                "status=\"Unknown\"",
                " 1",
            ),
            ("spire_server_ca_manager_x509_ca_activate{", "host=", " 1"),
            ("spire_server_manager_jwt_key_activate{", "host=", " 1"),
            ("spire_server_ca_manager_bundle_pruned{", "host=", " 2"),
            ("spire_server_server_ca_sign_x509_ca_svid{", "host=", " 1"),
            ("spire_server_server_ca_sign_jwt_svid{", "host=", " 1"),
            (
                "spire_server_started{",
                "trust_domain_id=\"example.org\"",
                " 1",
            ),
            ("spire_server_started{", "version=\"1.2.3\"", " 1"),
            ("spire_server_uptime_in_ms{", "host=", " 1"),
            (
                "spire_server_entry_entries_by_entryid_cache_count{",
                "host=",
                " 3",
            ),
            ("spire_server_node_agents_by_id_cache_count{", "host=", " 2"),
            (
                "spire_server_manager_x509_ca_rotate_expiration{",
                "trust_domain_id=",
                " 1000",
            ),
            (
                "spire_server_manager_x509_ca_rotate_ttl{",
                "trust_domain_id=",
                " 100",
            ),
        ] {
            assert!(has(name, label, value), "{name}{label}{value} in\n{text}");
        }
        assert!(!text.contains("unknown"), "{text}");
        // Quantiles, as SPIRE's timers have, not buckets.
        assert!(
            text.contains(
                "# TYPE spire_server_rpc_agent_v1_agent_attest_agent_elapsed_time summary"
            ),
            "{text}"
        );
    }
}
