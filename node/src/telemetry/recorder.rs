//! The recorder behind the `metrics` facade: Prometheus text, on demand.

use std::time::Duration;

use metrics::counter;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use super::names;

/// Upper bounds of histogram buckets in seconds: a memory key signs in 50 µs, a
/// write gives up after 10 s.
const BUCKETS_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Histograms keep every value until somebody sums them up; if nobody scrapes,
/// this does.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// This process has a recorder already, or the settings are no good.
    #[error("cannot install the metrics recorder")]
    Recorder(#[source] BuildError),
    /// The upkeep thread could not be started.
    #[error("cannot start the metrics thread")]
    Upkeep(#[source] std::io::Error),
}

pub(super) fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new().set_buckets(&BUCKETS_SECONDS)
}

/// Installs the process's recorder; the handle renders what was recorded.
///
/// # Errors
/// [`InstallError`]; also on a second call in one process.
pub fn install() -> Result<PrometheusHandle, InstallError> {
    let handle = builder()
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(InstallError::Recorder)?;
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
        let handle = install().unwrap();
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
        assert!(matches!(install(), Err(InstallError::Recorder(_))));
    }
}
