//! `telemetry` and `health_checks`: where the server is watched.

use std::net::SocketAddr;

use toml::Value;

use super::Work;
use super::section::{Found, Section};
use super::server::ip;

/// What else `telemetry` may hold.
#[rustfmt::skip]
const NOT_PROMETHEUS: &[(&str, &str)] = &[
    ("DogStatsd", "not carried over: metrics are served for Prometheus only"),
    ("Statsd", "not carried over: metrics are served for Prometheus only"),
    ("M3", "not carried over: metrics are served for Prometheus only"),
    ("InMem", "not needed: metrics are served for Prometheus, see metrics.address"),
    ("MetricPrefix", "not carried over: names of metrics are fixed, see docs/telemetry.md"),
    ("EnableTrustDomainLabel", "not carried over: labels are fixed, see docs/telemetry.md"),
    ("EnableHostnameLabel", "not carried over: labels are fixed, see docs/telemetry.md"),
    ("AllowedPrefixes", "not carried over: let the scraper drop what it does not want"),
    ("BlockedPrefixes", "not carried over: let the scraper drop what it does not want"),
    ("AllowedLabels", "not carried over: let the scraper drop what it does not want"),
    ("BlockedLabels", "not carried over: let the scraper drop what it does not want"),
];

/// Writes `host:port` under `path`, where the host is an address.
fn listener(work: &mut Work, at: &Found<'_>, path: &'static str, host: &str, port: i64) {
    let address = ip(host).zip(u16::try_from(port).ok());
    match address {
        Some((ip, port)) => {
            let address = SocketAddr::new(ip, port).to_string();
            work.set(at, path, Value::String(address));
        }
        None => {
            let why = format!("not carried over: {path} is an IP address and a port");
            work.not(at, why);
        }
    }
}

pub(super) fn telemetry(work: &mut Work, section: Option<Section<'_>>) {
    let Some(mut section) = section else { return };
    match section.take_section("Prometheus") {
        None => {}
        Some(Err(found)) => work.not(&found, "is no section; it was left out"),
        Some(Ok(mut prometheus)) => {
            let host = prometheus.take("host");
            let host_text = work.of(host.as_ref(), Found::text).unwrap_or_default();
            let host_text = if host_text.is_empty() {
                "localhost".to_owned()
            } else {
                host_text
            };
            let port = prometheus.take("port");
            if let (Some(number), Some(port)) = (work.of(port.as_ref(), Found::integer), port) {
                let at = host.unwrap_or(port);
                listener(work, &at, "metrics.address", &host_text, number);
            }
            if let Some(found) = prometheus.take("tls") {
                let why = "not carried over: /metrics is served without TLS; keep metrics.address on a \
                           private address";
                work.not(&found, why);
            }
            work.unknown(&prometheus);
        }
    }
    for (key, why) in NOT_PROMETHEUS {
        if let Some(found) = section.take(key) {
            work.not(&found, *why);
        }
    }
    work.unknown(&section);
}

pub(super) fn health_checks(work: &mut Work, section: Option<Section<'_>>) {
    let Some(mut section) = section else { return };
    let enabled = section.take("listener_enabled");
    let host = section.take("bind_address");
    let port = section.take("bind_port");
    if work.of(enabled.as_ref(), Found::boolean) == Some(true)
        && let Some(enabled) = enabled
    {
        let host_text = work
            .of(host.as_ref(), Found::text)
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "localhost".to_owned());
        let number = work.of(port.as_ref(), Found::integer).unwrap_or(80);
        let at = host.or(port).unwrap_or(enabled);
        listener(work, &at, "health.address", &host_text, number);
    }
    work.text(&mut section, "ready_path", "health.ready_path");
    work.text(&mut section, "live_path", "health.live_path");
    work.unknown(&section);
}
