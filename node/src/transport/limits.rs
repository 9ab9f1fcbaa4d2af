//! Bounds of a port: how much of everything a client may have.

use std::time::Duration;

use super::descriptors::Descriptors;
use crate::config;
use crate::environment::random;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes in flight towards one call and towards one connection, where the other end is
/// trusted.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// The same where anybody connects: what a connection makes this node keep is little, and
/// agents send little.
const OPEN_STREAM_WINDOW_BYTES: u32 = 64 << 10;
const OPEN_CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// Descriptors for what is no agent's connection: the store, peers, administrators,
/// the token.
const DESCRIPTORS_RESERVED: u64 = 512;
/// One source has this part of the handshakes at most, so that so many sources are needed
/// to keep all others waiting.
const SOURCES_AT_ONCE: u32 = 8;
/// Connections that are taken however few descriptors there are.
const CONNECTIONS_MIN: u32 = 64;

/// Bounds of one port.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: u32,
    /// Connections at once from one source: an IPv4 address, or a /64 of IPv6.
    pub connections_per_source_max: u32,
    /// How many of these may be anonymous: without a client certificate, on the peer port
    /// with a key that is no member's.
    pub anonymous_per_source_max: u32,
    /// Anonymous connections at once, of all sources.
    pub anonymous_max: u32,
    /// Age at which an anonymous connection is asked to go, if earlier than `age_max`.
    pub anonymous_age_max: Option<Duration>,
    /// Handshakes at once.
    pub handshakes_max: u32,
    /// Handshakes at once from one source; others of it wait.
    pub handshakes_per_source_max: u32,
    /// Calls at once on one connection.
    pub streams_max: u32,
    /// Bytes on their way to one call that nobody has read yet (HTTP/2 flow control).
    pub stream_window_bytes: u32,
    /// The same of one connection.
    pub connection_window_bytes: u32,
    /// Time from accept to the end of the handshake, and from there to what an
    /// HTTP/2 client says first.
    pub handshake_timeout: Duration,
    /// Age at which a connection is asked to go, varied by a tenth; none for
    /// connections that may stay.
    pub age_max: Option<Duration>,
    /// Time its calls then have.
    pub drain: Duration,
    /// How often a silent client is asked whether it is still there.
    pub keep_alive_interval: Duration,
    /// Time in which it must answer.
    pub keep_alive_timeout: Duration,
    /// What connections must leave of the process's descriptors.
    pub descriptors: Descriptors,
}

impl Limits {
    /// Most time calls have when the whole server stops, so that its exit
    /// stays inside ten seconds.
    pub const SHUTDOWN_DRAIN: Duration = Duration::from_secs(8);

    /// Of the agent port, as configured.
    pub fn of_agents(api: &config::Api) -> Self {
        Self {
            connections_max: api.max_connections,
            connections_per_source_max: api.max_connections_per_source,
            anonymous_per_source_max: api.max_anonymous_connections_per_source,
            anonymous_max: api.max_connections,
            anonymous_age_max: None,
            handshakes_max: api.max_handshakes,
            handshakes_per_source_max: api.max_handshakes.div_ceil(SOURCES_AT_ONCE),
            streams_max: api.max_streams_per_connection,
            stream_window_bytes: OPEN_STREAM_WINDOW_BYTES,
            connection_window_bytes: OPEN_CONNECTION_WINDOW_BYTES,
            handshake_timeout: api.handshake_timeout,
            age_max: Some(api.max_connection_age),
            drain: api.connection_drain,
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            descriptors: Descriptors::default(),
        }
    }

    /// The same with no more connections than `descriptors`, this process's limit of
    /// open files, leaves: at that limit accepting fails for everybody, and so does
    /// opening the store's files.
    #[must_use]
    pub fn within(mut self, descriptors: u64) -> Self {
        let left = descriptors.saturating_sub(DESCRIPTORS_RESERVED);
        let left = u32::try_from(left).unwrap_or(u32::MAX).max(CONNECTIONS_MIN);
        if left < self.connections_max {
            tracing::warn!(
                configured = self.connections_max,
                connections = left,
                descriptors,
                "api.max_connections is more than the limit of open files allows: raise that limit"
            );
            self.connections_max = left;
            self.connections_per_source_max = self.connections_per_source_max.min(left);
        }
        self
    }

    /// The same beside what else this process has open.
    #[must_use]
    pub fn beside(mut self, descriptors: &Descriptors) -> Self {
        self.descriptors = descriptors.clone();
        self
    }

    /// Of the peer port: few members, each with a few long connections. Whoever else
    /// connects has something to ask of formation, or wants to be in the way.
    pub fn of_peers() -> Self {
        Self {
            connections_max: 1_024,
            connections_per_source_max: 64,
            anonymous_per_source_max: 16,
            anonymous_max: 128,
            anonymous_age_max: Some(Duration::from_secs(30)),
            handshakes_max: 64,
            handshakes_per_source_max: 4,
            streams_max: 256,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            handshake_timeout: Duration::from_secs(5),
            age_max: None,
            drain: Duration::from_secs(2),
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            descriptors: Descriptors::default(),
        }
    }

    /// Of the admin socket: people and scripts of this machine.
    pub fn of_admins() -> Self {
        Self {
            connections_max: 128,
            connections_per_source_max: 128,
            anonymous_per_source_max: 128,
            anonymous_max: 128,
            anonymous_age_max: None,
            handshakes_max: 1,
            handshakes_per_source_max: 1,
            streams_max: 100,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            handshake_timeout: Duration::from_secs(5),
            age_max: None,
            drain: Duration::from_secs(8),
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            descriptors: Descriptors::default(),
        }
    }

    /// The age of one connection: within a tenth of what it may be, at random, so
    /// that clients which came together do not come back together.
    pub(super) fn age(&self, anonymous: bool) -> Option<Duration> {
        let short = self.anonymous_age_max.filter(|_| anonymous);
        let age = match (self.age_max, short) {
            (Some(age), Some(short)) => age.min(short),
            (age, short) => age.or(short)?,
        };
        let unit = f64::from(u32::from_be_bytes(random())) / f64::from(u32::MAX);
        Some(age.mul_f64(0.9 + 0.2 * unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_within_a_tenth() {
        let limits = Limits {
            age_max: Some(Duration::from_secs(180)),
            ..Limits::of_peers()
        };
        let ages: Vec<_> = (0..100).filter_map(|_| limits.age(false)).collect();
        assert!(
            ages.iter().all(|a| (162..=198).contains(&a.as_secs())),
            "{ages:?}"
        );
        assert!(ages.iter().any(|a| a.as_secs() < 175) && ages.iter().any(|a| a.as_secs() > 185));
        assert_eq!(Limits::of_peers().age(false), None);
        for limits in [limits, Limits::of_peers()] {
            let age = limits.age(true).unwrap().as_secs();
            assert!((27..=33).contains(&age), "{age} s");
        }
    }

    #[test]
    fn connections_stay_below_the_limit_of_open_files() {
        let limits = |configured, per_source| Limits {
            connections_max: configured,
            connections_per_source_max: per_source,
            ..Limits::of_peers()
        };
        let within = |configured, per_source, descriptors| {
            let limits = limits(configured, per_source).within(descriptors);
            (limits.connections_max, limits.connections_per_source_max)
        };
        assert_eq!(within(10_000, 2_000, 10_512), (10_000, 2_000));
        assert_eq!(within(10_000, 2_000, 10_511), (9_999, 2_000));
        assert_eq!(within(10_000, 2_000, 1_024), (512, 512));
        assert_eq!(within(10_000, 2_000, 100), (64, 64));
        assert_eq!(within(10_000, 2_000, u64::MAX), (10_000, 2_000));
    }
}
