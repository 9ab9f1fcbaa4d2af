//! The recorder behind the `metrics` facade: Prometheus text, on demand.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SetRecorderError, SharedString,
    Unit, counter,
};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::{names, spire};

/// Upper bounds of histogram buckets in seconds: a memory key signs in 50 µs, a
/// write gives up after 10 s.
const BUCKETS_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// What SPIRE's summaries show.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// Histograms keep every value until somebody sums them up; if nobody scrapes,
/// this does.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The settings are no good.
    #[error("cannot make the metrics recorder")]
    Build(#[source] BuildError),
    /// This process has a recorder already.
    #[error("this process has a metrics recorder already")]
    Recorder,
    /// The upkeep thread could not be started.
    #[error("cannot start the metrics thread")]
    Upkeep(#[source] std::io::Error),
}

pub(super) fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_quantiles(&QUANTILES)?
        .set_buckets_for_metric(Matcher::Prefix("chancery_".into()), &BUCKETS_SECONDS)
}

/// Keeps SPIRE's names away from a recorder where nobody wants them.
struct Chosen {
    inner: PrometheusRecorder,
    spire_names: bool,
}

impl Chosen {
    fn wants(&self, name: &str) -> bool {
        self.spire_names || !name.starts_with(spire::PREFIX)
    }
}

impl Recorder for Chosen {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.inner.describe_counter(name, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.inner.describe_gauge(name, unit, help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.inner.describe_histogram(name, unit, help);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if self.wants(key.name()) {
            self.inner.register_counter(key, metadata)
        } else {
            Counter::noop()
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        if self.wants(key.name()) {
            self.inner.register_gauge(key, metadata)
        } else {
            Gauge::noop()
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        if self.wants(key.name()) {
            self.inner.register_histogram(key, metadata)
        } else {
            Histogram::noop()
        }
    }
}

/// Installs the process's recorder, with SPIRE's names beside ours if they are
/// wanted; the handle renders what was recorded.
///
/// # Errors
/// [`InstallError`]; also on a second call in one process.
pub fn install(spire_names: bool) -> Result<PrometheusHandle, InstallError> {
    let inner = builder().map_err(InstallError::Build)?.build_recorder();
    let handle = inner.handle();
    metrics::set_global_recorder(Chosen { inner, spire_names })
        .map_err(|SetRecorderError(_)| InstallError::Recorder)?;
    names::describe();
    // Present from the first scrape on, with values that are true at this moment.
    counter!(names::LEADER_CHANGES).increment(0);
    super::leader(false);
    super::ready(false);
    super::freshness(None);
    let upkeep = handle.clone();
    // A thread, so that it needs no runtime and competes with none.
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || {
            loop {
                std::thread::sleep(UPKEEP_INTERVAL);
                upkeep.run_upkeep();
            }
        })
        .map_err(InstallError::Upkeep)?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_recorder_and_it_tells_at_once_what_is_so() {
        let handle = install(true).unwrap();
        let text = handle.render();
        for metric in [
            "chancery_ready",
            "chancery_leader",
            "chancery_leader_changes_total",
            "chancery_freshness_seconds",
        ] {
            assert!(
                text.lines().any(|l| l.starts_with(&format!("{metric} "))),
                "{metric} is missing in\n{text}"
            );
        }
        assert!(matches!(install(true), Err(InstallError::Recorder)));
    }

    #[test]
    fn spire_s_names_are_there_only_where_they_are_wanted() {
        for spire_names in [true, false] {
            let inner = builder().unwrap().build_recorder();
            let handle = inner.handle();
            metrics::with_local_recorder(&Chosen { inner, spire_names }, || {
                super::super::leader(true);
                spire::held(1, 1);
                spire::signed("jwt");
            });
            let text = handle.render();
            assert_eq!(text.contains(spire::PREFIX), spire_names, "{text}");
            assert!(text.contains("chancery_leader 1"), "{text}");
        }
    }
}
