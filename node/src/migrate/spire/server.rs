//! The `server` section.

use std::net::{IpAddr, SocketAddr};

use chancery_identity::id::TrustDomain;
use toml::Value;

use super::section::{Found, Section};
use super::{Work, federation};

const BIND_ADDRESS: &str = "0.0.0.0";
const BIND_PORT: i64 = 8081;

/// Keys without a counterpart: name, and why and what to do.
#[rustfmt::skip]
const WITHOUT_COUNTERPART: &[(&str, &str)] = &[
    ("audit_log_enabled", "not needed: issuance is always audited, under the log target chancery::audit"),
    ("max_attested_node_info_staleness", "not needed: an agent's standing is read from the node's own memory"),
    ("profiling_enabled", "not carried over: there is no profiling listener"),
    ("profiling_port", "not carried over: there is no profiling listener"),
    ("profiling_freq", "not carried over: there is no profiling listener"),
    ("profiling_names", "not carried over: there is no profiling listener"),
];

/// The same below `experimental`.
#[rustfmt::skip]
const EXPERIMENTAL: &[(&str, &str)] = &[
    ("agent_spiffe_id_as_selector", "not carried over: there is no such setting; register with the parent's SPIFFE ID instead"),
    ("auth_opa_policy_engine", "not carried over: authorization is SPIRE's default policy; a policy of your own cannot be loaded"),
    ("cache_reload_interval", "not needed: every node is told of each change at once"),
    ("full_cache_reload_interval", "not needed: every node is told of each change at once"),
    ("events_based_cache", "not needed: every node is told of each change at once"),
    ("prune_events_older_than", "not needed: there is no table of events"),
    ("event_timeout", "not needed: there is no table of events"),
    ("sql_transaction_timeout", "not needed: there is no database"),
    ("require_pq_kem", "not carried over: there is no such setting"),
    ("wit_key_type", "not carried over: WIT-SVIDs are not issued"),
    ("wit_issuer", "not carried over: WIT-SVIDs are not issued"),
    ("feature_flags", "not carried over: there are no feature flags"),
    ("named_pipe_name", "not carried over: it is for Windows"),
];

pub(super) fn carry(work: &mut Work, section: Option<Section<'_>>) {
    let Some(mut section) = section else {
        work.remark(None, "server", "the file has no section of this name");
        return;
    };
    let section = &mut section;
    trust_domain(work, section);
    data_dir(work, section);
    logging(work, section);
    address(work, section);
    lifetimes(work, section);
    key_types(work, section);
    subject(work, section);
    work.texts(section, "admin_ids", "admin_ids");
    work.text(section, "socket_path", "api.admin_socket");
    work.text(section, "jwt_issuer", "issuance.jwt_issuer");
    limits(work, section);
    pruning(work, section);
    work.boolean(section, "disable_jwt_svids", "issuance.disable_jwt_svids");
    federation::carry(work, section);
    experimental(work, section);
    without_counterpart(work, section, WITHOUT_COUNTERPART);
    work.unknown(section);
}

fn without_counterpart(work: &mut Work, section: &mut Section<'_>, keys: &[(&str, &str)]) {
    for (key, why) in keys {
        if let Some(found) = section.take(key) {
            work.not(&found, *why);
        }
    }
}

fn trust_domain(work: &mut Work, section: &mut Section<'_>) {
    let found = section.take("trust_domain");
    let (Some(text), Some(found)) = (work.of(found.as_ref(), Found::text), found) else {
        let example = Value::String("example.org".to_owned());
        work.draft.leave_open("trust_domain", &example);
        return;
    };
    // SPIRE takes an ID for the name.
    let name = match TrustDomain::parse_name_or_id(&text) {
        Ok(trust_domain) => trust_domain.to_string(),
        Err(error) => {
            work.not(&found, format!("is wrong: {error}"));
            let example = Value::String("example.org".to_owned());
            work.draft.leave_open("trust_domain", &example);
            return;
        }
    };
    work.set(&found, "trust_domain", Value::String(name));
}

/// A folder of its own inside SPIRE's: neither touches the other's files, so that one can go back.
fn data_dir(work: &mut Work, section: &mut Section<'_>) {
    let found = section.take("data_dir");
    let Some(text) = work.of(found.as_ref(), Found::text) else {
        let example = Value::String("/var/lib/chancery".to_owned());
        work.draft.leave_open("data_dir", &example);
        return;
    };
    let Some(found) = found else { return };
    let own = format!("{}/chancery", text.trim_end_matches('/'));
    work.set(&found, "data_dir", Value::String(own.clone()));
    if work.draft.has("data_dir") {
        let mut remark = format!(
            "carried over as data_dir = \"{own}\", a folder of its own; SPIRE's files stay as they are"
        );
        if !text.starts_with('/') {
            remark.push_str("; it is relative to where the server is started");
        }
        work.not(&found, remark);
    }
}

fn logging(work: &mut Work, section: &mut Section<'_>) {
    let found = section.take("log_level");
    if let (Some(text), Some(found)) = (work.of(found.as_ref(), Found::text), found) {
        let level = match text.to_lowercase().as_str() {
            "warning" => "warn".to_owned(),
            level => level.to_owned(),
        };
        if !level.is_empty() {
            work.set(&found, "log_level", Value::String(level));
        }
    }
    let found = section.take("log_format");
    if let (Some(text), Some(found)) = (work.of(found.as_ref(), Found::text), found)
        && !text.is_empty()
    {
        work.set(&found, "log_format", Value::String(text.to_lowercase()));
    }
    work.text(section, "log_file", "log_file");
    work.boolean(section, "log_source_location", "log_source_location");
}

/// An IP address from a file that may also name a host.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    match text.trim_matches(['[', ']']) {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        text => text.parse().ok(),
    }
}

fn address(work: &mut Work, section: &mut Section<'_>) {
    let host = section.take("bind_address");
    let port = section.take("bind_port");
    let text = work
        .of(host.as_ref(), Found::text)
        .filter(|t| !t.is_empty());
    let number = work.of(port.as_ref(), Found::integer).unwrap_or(BIND_PORT);
    let text = text.unwrap_or_else(|| BIND_ADDRESS.to_owned());
    let written = match (ip(&text), u16::try_from(number)) {
        (Some(ip), Ok(number)) => SocketAddr::new(ip, number).to_string(),
        _ => format!("{text}:{number}"),
    };
    match (host.as_ref().or(port.as_ref()), ip(&text)) {
        (Some(found), Some(ip)) => {
            work.set(found, "api.address", Value::String(written));
            advertise(work, ip, number);
        }
        (Some(found), None) => {
            let why = "not carried over: api.address is an IP address and a port; name the address to \
                       listen on";
            work.not(found, why);
            let example = Value::String(format!("{BIND_ADDRESS}:{number}"));
            work.draft.leave_open("api.address", &example);
            advertise(work, IpAddr::from([0, 0, 0, 0]), number);
        }
        // Both have the same default.
        (None, _) => advertise(work, IpAddr::from([0, 0, 0, 0]), number),
    }
}

/// Nobody connects to a wildcard.
fn advertise(work: &mut Work, ip: IpAddr, port: i64) {
    if ip.is_unspecified() {
        let example = Value::String(format!("node-1.example.org:{port}"));
        work.draft.leave_open("api.advertise", &example);
        work.remark(
            None,
            "api.advertise",
            "to fill in: the name or address under which others reach api.address; SPIRE has no such \
             setting",
        );
    }
}

fn lifetimes(work: &mut Work, section: &mut Section<'_>) {
    let x509 = section.take("default_x509_svid_ttl");
    let ttl = work
        .of(x509.as_ref(), Found::text)
        .filter(|t| !t.is_empty());
    if let (Some(ttl), Some(found)) = (&ttl, &x509) {
        work.set(
            found,
            "issuance.default_x509_svid_ttl",
            Value::String(ttl.clone()),
        );
    }
    work.text(section, "agent_ttl", "issuance.agent_ttl");
    // SPIRE's agents live as long as workloads where the file says nothing else.
    if let (Some(ttl), Some(found)) = (ttl, x509)
        && !work.draft.has("issuance.agent_ttl")
    {
        work.set(&found, "issuance.agent_ttl", Value::String(ttl));
    }
    work.text(
        section,
        "default_jwt_svid_ttl",
        "issuance.default_jwt_svid_ttl",
    );
    work.text(section, "ca_ttl", "issuance.ca_ttl");
}

fn key_types(work: &mut Work, section: &mut Section<'_>) {
    let jwt = section.take("jwt_key_type");
    let ca = section.take("ca_key_type");
    let ca_type = work.of(ca.as_ref(), Found::text).filter(|t| !t.is_empty());
    let jwt_type = work.of(jwt.as_ref(), Found::text).filter(|t| !t.is_empty());
    if let (Some(text), Some(found)) = (&ca_type, &ca) {
        work.set(
            found,
            "issuance.ca_key_type",
            Value::String(text.to_lowercase()),
        );
    }
    let ca_type = ca_type.unwrap_or_else(|| "ec-p256".to_owned());
    if let (Some(text), Some(found)) = (jwt_type, jwt)
        && !text.eq_ignore_ascii_case(&ca_type)
    {
        let why =
            "not carried over: JWT-SVIDs are signed with the type of key that X.509-SVIDs are";
        work.not(&found, why);
    }
}

fn subject(work: &mut Work, section: &mut Section<'_>) {
    let mut subject = match section.take_section("ca_subject") {
        None => return,
        Some(Err(found)) => return work.not(&found, "is no section; it was left out"),
        Some(Ok(subject)) => subject,
    };
    work.texts(&mut subject, "country", "issuance.ca_subject.country");
    work.texts(
        &mut subject,
        "organization",
        "issuance.ca_subject.organization",
    );
    work.text(
        &mut subject,
        "common_name",
        "issuance.ca_subject.common_name",
    );
    work.unknown(&subject);
}

fn limits(work: &mut Work, section: &mut Section<'_>) {
    work.texts(
        section,
        "proxy_protocol_trusted_cidrs",
        "api.proxy_protocol_trusted_cidrs",
    );
    let mut ratelimit = match section.take_section("ratelimit") {
        None => return,
        Some(Err(found)) => return work.not(&found, "is no section; it was left out"),
        Some(Ok(ratelimit)) => ratelimit,
    };
    for (key, path) in [
        ("attestation", "ratelimit.attestation"),
        ("signing", "ratelimit.signing"),
    ] {
        work.boolean(&mut ratelimit, key, path);
    }
    work.unknown(&ratelimit);
}

fn pruning(work: &mut Work, section: &mut Section<'_>) {
    work.text(
        section,
        "prune_attested_nodes_expired_for",
        "agents.prune_expired_for",
    );
    let found = section.take("prune_attested_nodes_batch_size");
    if let (Some(number), Some(found)) = (work.of(found.as_ref(), Found::integer), found) {
        work.set(&found, "agents.prune_batch_size", Value::Integer(number));
    }
    work.boolean(section, "prune_tofu_nodes", "agents.prune_tofu");
}

fn experimental(work: &mut Work, section: &mut Section<'_>) {
    let mut experimental = match section.take_section("experimental") {
        None => return,
        Some(Err(found)) => return work.not(&found, "is no section; it was left out"),
        Some(Ok(experimental)) => experimental,
    };
    without_counterpart(work, &mut experimental, EXPERIMENTAL);
    work.unknown(&experimental);
}
