//! Times and counts the calls of any signer.
//!
//! A decorator, so that no backend knows of metrics and every backend is measured alike. Labels are
//! bounded: backend, operation, and the fixed names of [`SignerError::kind`].

use std::time::Instant;

use async_trait::async_trait;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::environment;
use crate::error::SignerError;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{BackendKind, Health, KeyListing, KeyRef, KeySpec, SignatureAlgorithm, Signer};

/// Seconds a call took, by `backend` and `operation`, waiting for a session included.
pub const SECONDS: &str = "chancery_signer_seconds";
/// Calls by `backend`, `operation` and `result` (`ok`, or the kind of error).
pub const CALLS: &str = "chancery_signer_calls_total";
/// Sessions that waited for work when the last call ended, by `backend`.
pub const SESSIONS_FREE: &str = "chancery_signer_sessions_free";
/// 1 while the backend is usable, by `backend`.
pub const USABLE: &str = "chancery_signer_usable";

/// Tells the recorder what the metrics of this module mean. Called once, after a recorder is
/// installed.
pub fn describe() {
    describe_histogram!(
        SECONDS,
        Unit::Seconds,
        "Time a signer call took, waiting for a session included"
    );
    describe_counter!(CALLS, Unit::Count, "Signer calls by result");
    describe_gauge!(
        SESSIONS_FREE,
        Unit::Count,
        "Token sessions that wait for work"
    );
    describe_gauge!(
        USABLE,
        Unit::Count,
        "1 while the signer's backend is usable"
    );
}

/// A signer whose calls are measured.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
}

impl<S: Signer> Metered<S> {
    /// Measures the calls of `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }

    fn record<T>(&self, operation: &'static str, began: Instant, outcome: &Result<T, SignerError>) {
        let backend = self.inner.kind().as_str();
        let result = outcome.as_ref().map_or_else(SignerError::kind, |_| "ok");
        let seconds = environment::now()
            .saturating_duration_since(began)
            .as_secs_f64();
        histogram!(SECONDS, "backend" => backend, "operation" => operation).record(seconds);
        counter!(CALLS, "backend" => backend, "operation" => operation, "result" => result)
            .increment(1);
        let health = self.inner.health();
        gauge!(SESSIONS_FREE, "backend" => backend).set(health.sessions_free);
        gauge!(USABLE, "backend" => backend).set(u8::from(health.usable));
    }
}

#[async_trait]
impl<S: Signer> Signer for Metered<S> {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn token_serials(&self) -> Vec<String> {
        self.inner.token_serials()
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        let began = environment::now();
        let outcome = self.inner.generate(spec).await;
        self.record("generate", began, &outcome);
        outcome
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        let began = environment::now();
        let outcome = self.inner.public_key(key).await;
        self.record("public_key", began, &outcome);
        outcome
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        let began = environment::now();
        let outcome = self.inner.sign(key, algorithm, message).await;
        self.record("sign", began, &outcome);
        outcome
    }

    async fn sign_first(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        let began = environment::now();
        let outcome = self.inner.sign_first(key, algorithm, message).await;
        self.record("sign_first", began, &outcome);
        outcome
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        let began = environment::now();
        let outcome = self.inner.delete(key).await;
        self.record("delete", began, &outcome);
        outcome
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        let began = environment::now();
        let outcome = self.inner.list(label_prefix).await;
        self.record("list", began, &outcome);
        outcome
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
        SharedString,
    };

    use super::*;
    use crate::{KeyType, MemorySigner, lock};

    /// Keeps what a thread recorded, as text.
    #[derive(Default, Clone)]
    struct Tape(Arc<Mutex<Vec<String>>>);

    struct Line(Tape, String);

    impl CounterFn for Line {
        fn increment(&self, value: u64) {
            lock(&self.0.0).push(format!("{} +{value}", self.1));
        }
        fn absolute(&self, _: u64) {}
    }

    impl HistogramFn for Line {
        fn record(&self, value: f64) {
            assert!((0.0..60.0).contains(&value), "{value} seconds");
            lock(&self.0.0).push(self.1.clone());
        }
    }

    fn name(key: &Key) -> String {
        key.labels().fold(key.name().to_owned(), |name, label| {
            format!("{name} {}={}", label.key(), label.value())
        })
    }

    impl Recorder for Tape {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(Line(self.clone(), name(key))))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Arc::new(Line(self.clone(), name(key))))
        }
    }

    #[test]
    fn each_call_is_timed_and_counted_by_its_result() {
        let tape = Tape::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        metrics::with_local_recorder(&tape, || {
            runtime.block_on(async {
                let signer = Metered::new(MemorySigner::new());
                let key = KeyRef {
                    id: [1; 16].into(),
                    label: "k".into(),
                };
                signer.public_key(&key).await.expect_err("no key yet");
                signer
                    .generate(&KeySpec {
                        key: key.clone(),
                        key_type: KeyType::EcP256,
                    })
                    .await
                    .expect("generates");
            });
        });
        assert_eq!(
            *lock(&tape.0),
            [
                "chancery_signer_seconds backend=memory operation=public_key",
                "chancery_signer_calls_total backend=memory operation=public_key result=not_found +1",
                "chancery_signer_seconds backend=memory operation=generate",
                "chancery_signer_calls_total backend=memory operation=generate result=ok +1",
            ]
        );
    }
}
