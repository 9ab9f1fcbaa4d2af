//! Keys on a PKCS#11 token.
//!
//! Promises: a module is initialised once in a process; a token and a key are found by name and
//! never by position; a PIN is tried once, by one of all who share the token; each session belongs to one thread; callers wait no
//! longer than their deadline; what a lost session breaks is found anew; no signature leaves that
//! the key's public half does not verify.
//!
//! Refuses to make or use keys that could leave the token, and to initialise a token that is
//! initialised already.
//!
//! What a loss breaks is repaired in steps: a new session, a new login, the module finalised and
//! initialised anew with no thread inside. While the token is away it is looked for five times a
//! second, so that it is used again within a second of its return.

mod awaited;
mod bench;
mod check;
mod gate;
mod init;
mod login;
mod module;
mod objects;
mod pin;
mod pool;
mod queue;
mod record;
mod slots;
mod token;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::environment;
use crate::error::{SignerError, TokenName};
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{BackendKind, Health, KeyListing, KeyRef, KeySpec, SignatureAlgorithm, Signer};
pub use awaited::{AwaitedSigner, Retried};
pub use bench::{Pace, pace};
pub use check::{KeySeen, Survey, survey};
use gate::Inside;
pub use init::InitOutcome;
use login::LoginPolicy;
pub use login::{ClaimRefused, Council, LoginBarred, LoginEnd};
use pool::{Caller, Pool};
use queue::Lane;
pub use record::{PinRecordProblem, Tried, parse as parse_record};
use token::Token;
pub use token::{TokenInfo, TokenSelector};
use worker::{Condition, Worker};

/// How long loading, initialising and the first login may take together.
const OPEN_SECONDS_MAX: u64 = 30;
/// How often a token that is away is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long such a look may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Sessions besides those that sign: one that keeps the login, one for making and destroying keys.
const SESSIONS_BESIDES: u64 = 2;

/// Where the keys are and how to reach them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The vendor's library.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenSelector,
    /// A file with the user PIN, readable by its owner only.
    pub pin_file: PathBuf,
    /// Directory for the record of PINs that were tried, where none can be beside the PIN file.
    pub record_dir: Option<PathBuf>,
    /// Sessions that sign, each with a thread: 1 to 64.
    pub sessions: u32,
    /// Calls that may wait for a session: 1 to 65,536.
    pub queue_max: u32,
    /// How long a caller waits, the time in the queue included: 1 ms to 10 minutes.
    pub deadline: Duration,
    /// The same for making a key, which takes an RSA token long.
    pub generate_deadline: Duration,
}

impl Pkcs11Config {
    /// The defaults: 4 sessions, 1,024 waiting calls, 5 s, and 60 s for making a key.
    pub fn new(
        module: impl Into<PathBuf>,
        token: TokenSelector,
        pin_file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            module: module.into(),
            token,
            pin_file: pin_file.into(),
            record_dir: None,
            sessions: 4,
            queue_max: 1024,
            deadline: Duration::from_secs(5),
            generate_deadline: Duration::from_secs(60),
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// [`SignerError::Config`] with the first field that is outside its bounds.
    pub fn check(&self) -> Result<(), SignerError> {
        let refuse = |field, bounds| Err(SignerError::Config { field, bounds });
        let deadlines = Duration::from_millis(1)..=Duration::from_secs(600);
        if !(1..=64).contains(&self.sessions) {
            return refuse("sessions", "1 to 64");
        }
        if !(1..=65_536).contains(&self.queue_max) {
            return refuse("queue_max", "1 to 65536");
        }
        if !deadlines.contains(&self.deadline) {
            return refuse("deadline", "1 ms to 10 minutes");
        }
        if !deadlines.contains(&self.generate_deadline) {
            return refuse("generate_deadline", "1 ms to 10 minutes");
        }
        Ok(())
    }
}

/// Checks a configuration as far as that is possible without a login: bounds, module, token and
/// the PIN file (which is read and forgotten). Blocks; the module decides for how long.
///
/// # Errors
/// Whatever [`Pkcs11Signer::open`] would say before its login.
pub fn probe(config: &Pkcs11Config) -> Result<TokenInfo, SignerError> {
    config.check()?;
    let module = module::load(&config.module)?;
    let token = Token::new(Arc::clone(&module), config, None, &module.enter())?;
    Ok(token.info().clone())
}

/// The operator's way out after a refused PIN, where nobody else shares the token: one login,
/// whatever was refused before and however many attempts the token says are left (unless it is
/// locked). Success clears what was remembered. The login ends with this call, unless this process
/// has others on the token. Blocks; the module decides for how long.
///
/// # Errors
/// [`SignerError::PinRefused`] where the token refuses again; [`LoginBarred::SamePin`] for the PIN
/// that was refused, without `same_pin`; and as [`probe`].
pub fn retry_login(config: &Pkcs11Config, same_pin: bool) -> Result<TokenInfo, SignerError> {
    let token = operators_login(config, None, same_pin)?;
    Ok(token.info().clone())
}

/// The same among those who share the token; the login lasts as long as what is returned.
fn operators_login(
    config: &Pkcs11Config,
    council: Option<Arc<dyn Council>>,
    same_pin: bool,
) -> Result<Token, SignerError> {
    config.check()?;
    let module = module::load(&config.module)?;
    let token = Token::new(Arc::clone(&module), config, council, &module.enter())?;
    token.ensure_login(LoginPolicy::Operator { same_pin }, &token.module().enter())?;
    Ok(token)
}

/// Makes a token ready for [`Pkcs11Signer::open`]: initialises the first blank one under the
/// selector's label (1 to 32 bytes) and sets its user PIN from `config.pin_file`. The security
/// officer's PIN, in a file with the same rules, becomes the new token's.
///
/// A token with that label is left alone, no login tried and neither PIN file read, unless its user
/// PIN was never set: then that is what is done, with one login. So it may be called again whatever
/// became of the call before. Two processes that do it at once may make two tokens; both hear of it
/// ([`SignerError::TokenAmbiguous`]). Blocks; the module decides for how long.
///
/// # Errors
/// [`SignerError::LabelNeeded`] for a selector by serial alone; [`SignerError::NoBlankToken`];
/// [`SignerError::PinFile`] before anything was changed; [`SignerError::SoPinRefused`] and
/// [`SignerError::SoPinAtRisk`] where only the user PIN was missing.
pub fn init_token(config: &Pkcs11Config, so_pin_file: &Path) -> Result<InitOutcome, SignerError> {
    config.check()?;
    let label = init::new_label(&config.token)?;
    let module = module::load(&config.module)?;
    init::init(&module, config, label, so_pin_file)
}

/// How often this process asked `module` to log in (calls of `C_Login`); 0 where it is not loaded.
#[must_use]
pub fn logins_tried(module: &Path) -> u64 {
    module::loaded(module).map_or(0, |module| module.logins_tried())
}

/// How often this process initialised `module` anew after a loss; 0 where it is not loaded.
#[must_use]
pub fn restarts(module: &Path) -> u64 {
    module::loaded(module).map_or(0, |module| module.restarts())
}

/// Signs with the keys of one token.
///
/// Dropping it closes the queue and waits up to 2 s for the threads to close their sessions (not
/// for one that hangs in the module); the last of them logs out. Drop it before the process exits.
#[derive(Debug)]
pub struct Pkcs11Signer {
    pool: Pool<Worker>,
    condition: Arc<Condition>,
    name: TokenName,
    deadline: Duration,
    generate_deadline: Duration,
}

impl Pkcs11Signer {
    /// Loads the module, finds the token, logs in once and opens the sessions.
    ///
    /// May be called again after an error; a refused PIN is remembered by the process and answered
    /// without another attempt.
    ///
    /// # Errors
    /// What is wrong with configuration, module, token or PIN; [`SignerError::Deadline`] where the
    /// module does not answer within 30 s.
    pub async fn open(config: Pkcs11Config) -> Result<Self, SignerError> {
        config.check()?;
        let (reply, answer) = oneshot::channel();
        // A thread of its own: a module may hang, and must not take a runtime's thread with it.
        pool::spawn("hsm-open".into(), move || {
            // Nobody waits any more: the signer just opened is dropped, which closes it.
            let _ = reply.send(Self::open_blocking(&config, None));
        })?;
        let after = Duration::from_secs(OPEN_SECONDS_MAX);
        let signer: Self = match tokio::time::timeout(after, answer).await {
            Ok(answered) => answered.unwrap_or(Err(SignerError::Closed))?,
            Err(_) => return Err(SignerError::Deadline { after }),
        };
        tokio::spawn(signer.look_for_token());
        Ok(signer)
    }

    /// Asks the token whether it is back while it is not usable. Ends with the signer.
    fn look_for_token(&self) -> impl Future<Output = ()> + Send + use<> {
        look_for_token(self.pool.caller(), Arc::clone(&self.condition))
    }

    fn open_blocking(
        config: &Pkcs11Config,
        council: Option<Arc<dyn Council>>,
    ) -> Result<Self, SignerError> {
        let module = module::load(&config.module)?;
        let token = Token::new(Arc::clone(&module), config, council, &module.enter())?;
        let token = Arc::new(token);
        token.ensure_login(LoginPolicy::Guarded, &token.module().enter())?;

        let wanted = allowed_sessions(token.info(), u64::from(config.sessions))?;
        let condition = Arc::new(Condition::default());
        let mut workers = Vec::new();
        for _ in 0..wanted {
            match Worker::open(Arc::clone(&token), Arc::clone(&condition)) {
                Ok(worker) => workers.push(worker),
                // Other applications share the token's limit; fewer sessions still sign.
                Err(error) if !workers.is_empty() => {
                    tracing::warn!(%error, opened = workers.len(), wanted, "fewer sessions");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let name = token.name().clone();
        let queue_max = usize::try_from(config.queue_max).unwrap_or(usize::MAX);
        tracing::info!(token = %name, sessions = workers.len(), "token opened");
        Ok(Self {
            pool: Pool::start("hsm", workers, queue_max)?,
            condition,
            name,
            deadline: config.deadline,
            generate_deadline: config.generate_deadline,
        })
    }

    /// Asks the token now whether it is usable; one that needs a login gets one by the rules of any.
    async fn look(&self) -> Result<(), SignerError> {
        let look = |worker: &mut Worker| worker.attempt(Worker::probe);
        self.pool.run(Lane::Probe, LOOK_DEADLINE, look).await
    }

    /// Signs, and says how long that took in the session's thread: the wait for one is not in it.
    async fn time_signature(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
    ) -> Result<Duration, SignerError> {
        let (lane, key) = (Lane::Key(key.id), key.clone());
        let digest = algorithm.digest(b"chancery: how fast is the token?");
        let work = move |worker: &mut Worker, inside: &Inside<'_>| {
            let began = environment::now();
            worker.sign(&key, algorithm, &digest, inside)?;
            Ok(environment::now().saturating_duration_since(began))
        };
        self.run(lane, self.deadline, work).await
    }

    async fn sign_in(
        &self,
        lane: Lane,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        let key = key.clone();
        // Hashed here: tokens sign any length given to them without protest, and messages are long.
        let digest = algorithm.digest(message);
        let work = move |worker: &mut Worker, inside: &Inside<'_>| {
            worker.sign(&key, algorithm, &digest, inside)
        };
        self.run(lane, self.deadline, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        deadline: Duration,
        mut work: impl FnMut(&mut Worker, &Inside<'_>) -> Result<T, SignerError> + Send + 'static,
    ) -> Result<T, SignerError> {
        self.pool
            .run(lane, deadline, move |worker| worker.attempt(&mut work))
            .await
    }
}

/// Asks the token whether it is back while it is not usable. Ends with the pool.
async fn look_for_token(pool: Caller<Worker>, condition: Arc<Condition>) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !pool.is_closed() {
        looks.tick().await;
        if condition.is_usable() {
            continue;
        }
        let look = |worker: &mut Worker| worker.attempt(Worker::probe);
        let outcome = pool.run(Lane::Probe, LOOK_DEADLINE, look).await;
        if let Err(error) = outcome {
            tracing::debug!(%error, "the token is not back");
        }
    }
}

/// How many sessions may sign under the token's own limit.
fn allowed_sessions(info: &TokenInfo, wanted: u64) -> Result<u64, SignerError> {
    let Some(limit) = info.sessions_max else {
        return Ok(wanted);
    };
    match limit.checked_sub(SESSIONS_BESIDES) {
        None | Some(0) => Err(SignerError::TooFewSessions {
            token: info.name(),
            limit,
            needed: SESSIONS_BESIDES + 1,
        }),
        Some(allowed) if allowed < wanted => {
            tracing::warn!(token = %info.name(), limit, allowed, wanted, "token limits sessions");
            Ok(allowed)
        }
        Some(_) => Ok(wanted),
    }
}

#[async_trait]
impl Signer for Pkcs11Signer {
    fn kind(&self) -> BackendKind {
        BackendKind::Pkcs11
    }

    fn token_serials(&self) -> Vec<String> {
        vec![self.name.serial.clone()]
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        spec.key.check_label()?;
        let spec = spec.clone();
        let lane = Lane::Key(spec.key.id);
        self.run(lane, self.generate_deadline, move |worker, inside| {
            worker.generate(&spec, inside)
        })
        .await
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        let key = key.clone();
        self.run(Lane::Key(key.id), self.deadline, move |worker, inside| {
            worker.public_key(&key, inside)
        })
        .await
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.sign_in(Lane::Key(key.id), key, algorithm, message)
            .await
    }

    async fn sign_first(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.sign_in(Lane::First, key, algorithm, message).await
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        let key = key.clone();
        self.run(Lane::Key(key.id), self.deadline, move |worker, inside| {
            worker.delete(&key, inside)
        })
        .await
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        let prefix = label_prefix.to_owned();
        self.run(Lane::Listing, self.deadline, move |worker, inside| {
            worker.list(&prefix, inside)
        })
        .await
    }

    fn health(&self) -> Health {
        let load = self.pool.load();
        let last_error = self.condition.last_error();
        Health {
            usable: self.condition.is_usable() && load.stuck < load.workers,
            last_error,
            sessions: load.workers,
            sessions_free: load.idle,
            queued: load.queued,
        }
    }
}
