//! Whether this node can issue now, and if not, why not and what to do.
//!
//! One judgement, told to three: peers and `cluster status`, the `/ready`
//! listener, and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::command::FEATURE_LEVEL;

use crate::authority::Issuer;
use crate::cluster::formation::VERSION;
use crate::cluster::status::{Members, SelfStatus};
use crate::environment::Stopwatch;
use crate::http_status::{Findings, StatusSource};
use crate::ledger::Ledger;
use crate::registry::Doors;
use crate::transport::TlsState;

/// A write counts as possible when a quorum answered within this time.
const QUORUM_WITHIN: Duration = Duration::from_secs(2);

/// The subsystems that SPIRE's health pages name.
mod subsystem {
    /// The replicated state.
    pub(super) const DATASTORE: &str = "catalog.datastore";
    /// The server as agents meet it.
    pub(super) const SERVER: &str = "server";
    /// Signing.
    pub(super) const CA: &str = "server.ca";
    /// Making of authorities.
    pub(super) const ROTATOR: &str = "server.ca.rotator";
}

/// The judgement of one node. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    doors: Doors,
    issuer: Issuer,
    tls: Arc<TlsState>,
    members: Members,
    ledger: Ledger,
}

impl Health {
    /// Health of the node that has these parts.
    pub fn new(
        doors: Doors,
        issuer: Issuer,
        tls: Arc<TlsState>,
        members: Members,
        ledger: Ledger,
    ) -> Self {
        Self {
            doors,
            issuer,
            tls,
            members,
            ledger,
        }
    }

    /// What keeps this node from issuing, one sentence each.
    pub fn obstacles(&self) -> Vec<String> {
        let found = self.findings().into_values();
        found.flat_map(BTreeMap::into_values).collect()
    }

    /// The same by subsystem, in SPIRE's names where it has one for it.
    fn findings(&self) -> Findings {
        let mut found = unremarkable();
        let mut note = |subsystem, detail, why: String| {
            found.entry(subsystem).or_default().insert(detail, why);
        };
        let limit = self.doors.stale_limit().max(Duration::from_secs(1));
        match self.doors.age() {
            None => note(
                subsystem::DATASTORE,
                "freshness_err",
                "no quorum has confirmed its state since it started".to_owned(),
            ),
            Some(age) if age >= limit => note(
                subsystem::DATASTORE,
                "freshness_err",
                format!(
                    "its state was last confirmed {} s ago, the limit is {} s: bring a majority of the voters back",
                    age.as_secs(),
                    limit.as_secs()
                ),
            ),
            Some(_) => {}
        }
        if let Some(why) = self.members.objection() {
            note(subsystem::DATASTORE, "state_err", why);
        }
        if let Some(why) = self.issuer.obstacle() {
            note(subsystem::CA, "sign_x509_svid_err", why);
        }
        if !self.tls.has_identity() {
            note(
                subsystem::SERVER,
                "server_svid_err",
                "it has no server SVID yet, so its agent port is closed".to_owned(),
            );
        }
        found
    }

    /// What this node stops issuing by if everything outside of it is lost now, the first to
    /// come first: the freshness limit, and its authority's and its server SVID's end, or its
    /// intermediate's.
    pub fn outage_parts(&self) -> Vec<(&'static str, Duration)> {
        let fresh_for = self
            .doors
            .stale_limit()
            .saturating_sub(self.doors.age().unwrap_or(Duration::MAX));
        let ends = self.issuer.ends().into_iter();
        let mut parts: Vec<_> = ends
            .map(|(part, seconds)| (part, Duration::from_secs(seconds)))
            .chain([("freshness", fresh_for)])
            .collect();
        parts.sort_by_key(|(_, left)| *left);
        parts
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
            crate::telemetry::outage_budget(&self.outage_parts());
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
            shortfall: self.issuer.shortfall().unwrap_or_default(),
            key_backend: self.issuer.key_backend().as_str().into(),
            no_room: consensus.disk().short().unwrap_or_default(),
            feature_level: FEATURE_LEVEL,
            members: consensus.pins(),
            checkpoints: consensus.checkpoints(),
            owes_ledger: self.ledger.owes(),
        }
    }

    fn outage_parts(&self) -> Vec<(&'static str, i64)> {
        let parts = Self::outage_parts(self).into_iter();
        parts
            .map(|(part, left)| (part, i64::try_from(left.as_secs()).unwrap_or(i64::MAX)))
            .collect()
    }

    fn stale_limit(&self) -> Duration {
        self.doors.stale_limit()
    }
}

impl StatusSource for Health {
    /// The process answers: whatever would make it useless ends it instead.
    fn live(&self) -> Findings {
        unremarkable()
    }

    fn ready(&self, for_write: bool) -> Findings {
        let mut found = self.findings();
        if for_write && self.doors.age().is_none_or(|age| age > QUORUM_WITHIN) {
            let datastore = found.entry(subsystem::DATASTORE).or_default();
            datastore.insert("write_err", "no quorum answers: writes wait".to_owned());
        } else if for_write && let Some(why) = self.doors.consensus().disk().no_room() {
            let datastore = found.entry(subsystem::DATASTORE).or_default();
            datastore.insert("write_err", format!("writes are refused: {why}"));
        }
        found
    }
}

/// Every subsystem, with nothing to say of it.
fn unremarkable() -> Findings {
    [
        subsystem::DATASTORE,
        subsystem::SERVER,
        subsystem::CA,
        subsystem::ROTATOR,
    ]
    .into_iter()
    .map(|name| (name, BTreeMap::new()))
    .collect()
}
