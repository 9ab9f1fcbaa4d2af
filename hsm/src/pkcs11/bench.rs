//! How many signatures a token makes in a second, and how long each takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Pkcs11Config, Pkcs11Signer};
use crate::environment;
use crate::error::SignerError;
use crate::signer::{KeyRef, KeySpec, KeyType, Signer};

/// Callers for each session: enough that a session never waits for one.
const CALLERS: u32 = 2;

/// What one key and one number of sessions came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Sessions that the token allowed.
    pub sessions: u32,
    /// Signatures, all verified.
    pub signatures: u64,
    /// In this time.
    pub elapsed: Duration,
    /// How long a signature took in the module, the verification included; sorted.
    sorted: Vec<Duration>,
}

impl Pace {
    /// Signatures per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.signatures as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The time within which `percent` of 100 signatures were made.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        let at = (self.sorted.len() * percent / 100).min(last);
        self.sorted.get(at).copied().unwrap_or_default()
    }
}

/// Makes a key on the token, signs with it for `lasts` by as many sessions as `config` has, and
/// destroys it.
///
/// # Errors
/// As [`Pkcs11Signer::open`], and the first call that failed; the key is destroyed all the same
/// where that is possible.
pub async fn pace(
    config: &Pkcs11Config,
    key: &KeyRef,
    key_type: KeyType,
    lasts: Duration,
) -> Result<Pace, SignerError> {
    let signer = Arc::new(Pkcs11Signer::open(config.clone()).await?);
    let spec = KeySpec {
        key: key.clone(),
        key_type,
    };
    signer.generate(&spec).await?;
    let measured = measure(&signer, key, key_type, lasts).await;
    let destroyed = signer.delete(key).await;
    let pace = measured?;
    destroyed?;
    Ok(pace)
}

async fn measure(
    signer: &Arc<Pkcs11Signer>,
    key: &KeyRef,
    key_type: KeyType,
    lasts: Duration,
) -> Result<Pace, SignerError> {
    let sessions = signer.health().sessions;
    let over = Arc::new(AtomicBool::new(false));
    let began = environment::now();
    let callers = (0..sessions * CALLERS).map(|_| {
        let (signer, key, over) = (Arc::clone(signer), key.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                times.push(signer.time_signature(&key, key_type.algorithm()).await?);
            }
            Ok::<_, SignerError>(times)
        })
    });
    let callers: Vec<_> = callers.collect();
    tokio::time::sleep(lasts).await;
    over.store(true, Ordering::Relaxed);
    let mut sorted = Vec::new();
    let mut failed = None;
    for caller in callers {
        match caller.await {
            Ok(Ok(times)) => sorted.extend(times),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => failed = Some(SignerError::Closed),
        }
    }
    let elapsed = environment::now().saturating_duration_since(began);
    if let Some(error) = failed {
        return Err(error);
    }
    sorted.sort_unstable();
    Ok(Pace {
        sessions,
        signatures: sorted.len() as u64,
        elapsed,
        sorted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let pace = Pace {
            sessions: 1,
            signatures: 100,
            elapsed: Duration::from_secs(2),
            sorted: (1..=100).map(Duration::from_millis).collect(),
        };
        assert!((pace.per_second() - 50.0).abs() < 1e-9);
        assert_eq!(pace.percentile(50), Duration::from_millis(51));
        assert_eq!(pace.percentile(99), Duration::from_millis(100));
        assert_eq!(pace.percentile(100), Duration::from_millis(100));
        let none = Pace {
            sorted: Vec::new(),
            ..pace
        };
        assert_eq!(none.percentile(99), Duration::ZERO);
    }
}
