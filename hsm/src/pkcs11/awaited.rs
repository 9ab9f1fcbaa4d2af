//! The signer of a token that need not be there when the server starts.
//!
//! Promises: it is there at once and waits for nobody; until the token is open every call is
//! answered with the reason; the token is looked for five times a second, so it is used within a
//! second of its return; a module that does not come back from a call blocks one thread of its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::login::{Council, LoginBarred};
use super::token::{Token, TokenInfo};
use super::{LOOK_INTERVAL, Pkcs11Config, Pkcs11Signer, module, operators_login, pool};
use crate::ckr::Loss;
use crate::environment;
use crate::error::SignerError;
use crate::lock;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{BackendKind, Health, KeyListing, KeyRef, KeySpec, SignatureAlgorithm, Signer};

/// A module that has not come back after this time is said not to answer.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// How long dropping it waits for the thread that opens the token.
const END_SECONDS_MAX: u64 = 2;
/// How long an ordered login may take before whoever ordered it is told that it hangs.
const RETRY_LIMIT: Duration = Duration::from_secs(20);

/// Signs with the keys of a token once it can be opened.
#[derive(Debug)]
pub struct AwaitedSigner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Pkcs11Config,
    signer: OnceLock<Pkcs11Signer>,
    council: OnceLock<Arc<dyn Council>>,
    opening: Mutex<Opening>,
    changed: Condvar,
    /// The login that the operator ordered, until the token is open.
    ordered: Mutex<Option<Token>>,
    /// One is under way, perhaps hanging in the module. Never two: each may spend a try.
    ordering: AtomicBool,
}

#[derive(Debug, Default)]
struct Opening {
    /// When the try that is under way began.
    began: Option<Instant>,
    /// Why the last one failed.
    error: Option<SignerError>,
    /// A thread tries.
    runs: bool,
    /// Nobody waits for it any more.
    closed: bool,
}

impl AwaitedSigner {
    /// A signer that knows nothing of its token yet; [`AwaitedSigner::start`] looks for it.
    ///
    /// # Errors
    /// A bound of the configuration is not kept.
    pub fn new(config: Pkcs11Config) -> Result<Self, SignerError> {
        config.check()?;
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                signer: OnceLock::new(),
                council: OnceLock::new(),
                opening: Mutex::default(),
                changed: Condvar::new(),
                ordered: Mutex::default(),
                ordering: AtomicBool::new(false),
            }),
        })
    }

    /// Begins to look for the token, among those who share it. Called once, inside a runtime.
    ///
    /// # Errors
    /// [`SignerError::Thread`].
    pub fn start(&self, council: Arc<dyn Council>) -> Result<(), SignerError> {
        let shared = Arc::clone(&self.shared);
        let runtime = Handle::current();
        // Set once; whoever comes second changes nothing.
        let _ = shared.council.set(council);
        lock(&shared.opening).runs = true;
        let spawned = pool::spawn("hsm-await".into(), move || {
            shared.open(&runtime);
            lock(&shared.opening).runs = false;
            shared.changed.notify_all();
        });
        if spawned.is_err() {
            lock(&self.shared.opening).runs = false;
        }
        spawned
    }

    /// The operator's way out after a refused PIN: one login, whatever was refused before and
    /// however many attempts the token says are left (unless it is locked). Success clears what was
    /// remembered here and by those who share the token.
    ///
    /// # Errors
    /// [`SignerError::PinRefused`] where the token refuses again; [`super::LoginBarred`] where
    /// another try is under way, or the PIN is the one that was refused and `same_pin` is not set;
    /// what is wrong with module, token and PIN file; [`SignerError::Deadline`] after 20 s, when
    /// the try may still be under way.
    pub async fn retry(&self, same_pin: bool) -> Result<Retried, SignerError> {
        if self.health().usable {
            let shared = &self.shared;
            let name = shared.signer.get().map(|signer| signer.name.clone());
            return name.map(Retried::NotNeeded).ok_or(SignerError::Closed);
        }
        if self.shared.ordering.swap(true, Ordering::AcqRel) {
            return Err(LoginBarred::OrderUnderWay.into());
        }
        let ordering = Ordered(Arc::clone(&self.shared));
        let (reply, answer) = oneshot::channel();
        pool::spawn("hsm-retry".into(), move || {
            let shared = &ordering.0;
            let council = shared.council.get().cloned();
            let outcome = operators_login(&shared.config, council, same_pin).map(|token| {
                let info = token.info().clone();
                // Kept, so that the sessions that are opened next find the token logged in.
                *lock(&shared.ordered) = Some(token);
                info
            });
            // Over before it is told: whoever hears of it may order the next one.
            drop(ordering);
            // Whoever asked may be gone; the outcome is in the log and in the record.
            let _ = reply.send(outcome);
        })?;
        let after = RETRY_LIMIT;
        let token = match tokio::time::timeout(after, answer).await {
            Ok(answered) => answered.unwrap_or(Err(SignerError::Closed))?,
            Err(_) => return Err(SignerError::Deadline { after }),
        };
        self.shared.changed.notify_all();
        if let Some(signer) = self.shared.signer.get() {
            let looked = signer.look().await;
            lock(&self.shared.ordered).take();
            looked?;
        }
        Ok(Retried::LoggedIn(token))
    }

    fn signer(&self) -> Result<&Pkcs11Signer, SignerError> {
        let signer = self.shared.signer.get();
        signer.ok_or_else(|| self.shared.why_not())
    }
}

/// An ordered login that is under way; the next one may begin once it is gone.
struct Ordered(Arc<Shared>);

impl Drop for Ordered {
    fn drop(&mut self) {
        self.0.ordering.store(false, Ordering::Release);
    }
}

/// What came of an ordered login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// The token took the PIN.
    LoggedIn(TokenInfo),
    /// The token is in use with the PIN that it took before; nothing was tried.
    NotNeeded(crate::error::TokenName),
}

impl Shared {
    /// Tries to open the token until it is open or nobody waits for it any more.
    fn open(&self, runtime: &Handle) {
        let mut told = String::new();
        loop {
            lock(&self.opening).began = Some(environment::now());
            let opened = Pkcs11Signer::open_blocking(&self.config, self.council.get().cloned());
            let error = match opened {
                Ok(signer) => {
                    runtime.spawn(signer.look_for_token());
                    // Nobody else sets it.
                    let _ = self.signer.set(signer);
                    lock(&self.ordered).take();
                    return;
                }
                Err(error) => error,
            };
            let text = error.to_string();
            if text != told {
                tracing::error!(%error, "the token cannot be used; looking for it on");
                told = text;
            }
            restart_if_lost(&self.config.module, &error);
            let mut opening = lock(&self.opening);
            opening.began = None;
            opening.error = Some(error);
            if opening.closed {
                return;
            }
            let waited = self.changed.wait_timeout(opening, LOOK_INTERVAL);
            let (opening, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if opening.closed {
                return;
            }
        }
    }

    fn why_not(&self) -> SignerError {
        let opening = lock(&self.opening);
        let now = environment::now();
        let silent = opening
            .began
            .is_some_and(|began| now.saturating_duration_since(began) >= SILENT_AFTER);
        match &opening.error {
            Some(error) if !silent => error.clone(),
            _ => SignerError::NoAnswerYet {
                module: self.config.module.clone(),
            },
        }
    }
}

/// Some modules see a token that came back, or its keys, only once they are initialised anew.
fn restart_if_lost(path: &Path, error: &SignerError) {
    let lost = match error {
        SignerError::TokenNotFound { .. } => true,
        SignerError::Call { ckr, .. } => ckr.loss() != Loss::None,
        _ => false,
    };
    if lost && let Some(module) = module::loaded(path) {
        let generation = module.enter().generation();
        module.restart(generation);
    }
}

impl Drop for AwaitedSigner {
    /// Waits, for a bounded time: a process that exits while a thread is inside the module runs the
    /// module's destructors under that thread's feet.
    fn drop(&mut self) {
        let mut opening = lock(&self.shared.opening);
        opening.closed = true;
        self.shared.changed.notify_all();
        let limit = Duration::from_secs(END_SECONDS_MAX);
        let waited = self
            .shared
            .changed
            .wait_timeout_while(opening, limit, |opening| opening.runs);
        drop(waited);
    }
}

#[async_trait]
impl Signer for AwaitedSigner {
    fn kind(&self) -> BackendKind {
        BackendKind::Pkcs11
    }

    fn token_serials(&self) -> Vec<String> {
        let signer = self.shared.signer.get();
        signer.map(Signer::token_serials).unwrap_or_default()
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        self.signer()?.generate(spec).await
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        self.signer()?.public_key(key).await
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.signer()?.sign(key, algorithm, message).await
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        self.signer()?.delete(key).await
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        self.signer()?.list(label_prefix).await
    }

    fn health(&self) -> Health {
        match self.shared.signer.get() {
            Some(signer) => signer.health(),
            None => Health {
                usable: false,
                last_error: Some(self.shared.why_not()),
                sessions: 0,
                sessions_free: 0,
                queued: 0,
            },
        }
    }
}
