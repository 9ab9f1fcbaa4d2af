//! Whether this node can issue now, and if not, why not and what to do.
//!
//! One judgement, told to three: peers and `cluster status`, the `/ready`
//! listener, and metrics.

use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;

use crate::authority::Issuer;
use crate::cluster::formation::VERSION;
use crate::cluster::status::SelfStatus;
use crate::environment::Stopwatch;
use crate::http_status::StatusSource;
use crate::registry::Doors;
use crate::transport::TlsState;

/// A write counts as possible when a quorum answered within this time.
const QUORUM_WITHIN: Duration = Duration::from_secs(2);

/// The judgement of one node. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    doors: Doors,
    issuer: Issuer,
    tls: Arc<TlsState>,
}

impl Health {
    /// Health of the node that has these parts.
    pub fn new(doors: Doors, issuer: Issuer, tls: Arc<TlsState>) -> Self {
        Self { doors, issuer, tls }
    }

    /// What keeps this node from issuing, one sentence each.
    pub fn obstacles(&self) -> Vec<String> {
        let mut found = Vec::new();
        let limit = self.doors.stale_limit().max(Duration::from_secs(1));
        match self.doors.age() {
            None => found.push("no quorum has confirmed its state since it started".to_owned()),
            Some(age) if age >= limit => found.push(format!(
                "its state was last confirmed {} s ago, the limit is {} s: bring a majority of the voters back",
                age.as_secs(),
                limit.as_secs()
            )),
            Some(_) => {}
        }
        found.extend(self.issuer.obstacle());
        if !self.tls.has_identity() {
            found.push("it has no server SVID yet, so its agent port is closed".to_owned());
        }
        found
    }

    /// Seconds until this node stops issuing if the quorum is lost now: the
    /// earliest of the freshness limit, its authorities' and its server SVID's end.
    pub fn outage_budget(&self) -> Duration {
        let left = self
            .doors
            .stale_limit()
            .saturating_sub(self.doors.age().unwrap_or(Duration::MAX));
        self.issuer
            .seconds_left()
            .map_or(Duration::ZERO, |s| left.min(Duration::from_secs(s)))
    }

    /// Keeps the gauges up to date. Has no end.
    pub async fn measure(self) {
        let start = Stopwatch::start();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            crate::telemetry::freshness(self.doors.age());
            crate::telemetry::ready(self.obstacles().is_empty());
            crate::telemetry::outage_budget(self.outage_budget());
            self.measure_as_spire(start.elapsed());
        }
    }
}

impl Health {
    /// What SPIRE has gauges for.
    fn measure_as_spire(&self, uptime: Duration) {
        use crate::telemetry::spire;
        let trust_domain = self.issuer.trust_domain().as_str();
        spire::running(VERSION, trust_domain, uptime);
        let (entries, agents) = {
            let directory = self.doors.local();
            (directory.entry_count(), directory.agent_count())
        };
        spire::held(entries, agents);
        if let Some(expires_at) = self.issuer.x509_authority_expires_at() {
            let now_ms = self.doors.consensus().clock().now_unix_ms();
            spire::authority(trust_domain, expires_at, now_ms.div_euclid(1_000));
        }
    }
}

impl SelfStatus for Health {
    fn node_status(&self) -> wire::NodeStatusResponse {
        let consensus = self.doors.consensus();
        let (applied_index, state_digest) = consensus.registry().digest();
        wire::NodeStatusResponse {
            applied_index,
            state_digest,
            version: VERSION.into(),
            clock_unix_ms: consensus.clock().now_unix_ms(),
            freshness_ms: self
                .doors
                .age()
                .map(|a| u64::try_from(a.as_millis()).unwrap_or(u64::MAX)),
            not_ready: self.obstacles().join("; "),
        }
    }

    fn outage_budget_seconds(&self) -> i64 {
        i64::try_from(self.outage_budget().as_secs()).unwrap_or(i64::MAX)
    }

    fn stale_limit(&self) -> Duration {
        self.doors.stale_limit()
    }
}

impl StatusSource for Health {
    /// The process answers: whatever would make it useless ends it instead.
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self, for_write: bool) -> Result<(), Vec<String>> {
        let mut obstacles = self.obstacles();
        if for_write && self.doors.age().is_none_or(|age| age > QUORUM_WITHIN) {
            obstacles.push("no quorum answers: writes wait".to_owned());
        }
        if obstacles.is_empty() {
            Ok(())
        } else {
            Err(obstacles)
        }
    }
}
