//! PKCS#11 modules of this process: each loaded and initialised once, whoever asks.
//!
//! A second `C_Initialize` from another thread has crashed modules, and unloading one while its
//! threads live crashes all of them; so modules stay in a registry until the process ends. A module
//! is finalised only to be initialised again at once, with no thread inside: after some losses
//! nothing less shows the token's keys again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as CryptokiError, RvError};

use super::gate::{Gate, Inside, Restart, Width};
use super::pin::Pin;
use super::slots::Slots;
use crate::ckr::Ckr;
use crate::environment;
use crate::error::SignerError;
use crate::lock;

/// A module that takes one thread at a time, whatever it says. Its threads share a connection, and
/// where the server dies while several wait for answers, some wait for ever: who fails to read keeps
/// a lock, or closes what the others wait at (p11-kit 0.24, `rpc-transport.c`). The server takes one
/// call of a connection at a time, so nothing is lost.
const TAKES_ONE: &str = "p11-kit-client.so";
/// How long to wait for another thread that is initialising the same module.
const LOADING_SECONDS_MAX: u64 = 10;

/// A loaded, initialised module, and what this process remembers of its tokens.
#[derive(Debug)]
pub(super) struct Module {
    context: Pkcs11,
    slots: Slots,
    gate: Gate,
    restarts: AtomicU64,
    logins_tried: AtomicU64,
    /// Held from the question whether a login is allowed to its outcome, so that of two signers of
    /// one token the second hears of the first one's refusal.
    logging_in: Mutex<()>,
    /// Tokens (by serial) that refused their PIN, and how.
    refusals: Mutex<BTreeMap<String, Ckr>>,
    /// The PIN that each token took last, under a key that nobody else has.
    taken: Mutex<BTreeMap<String, hmac::Tag>>,
    known_by: hmac::Key,
}

impl Module {
    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Passes into the module; held by a thread for as long as it calls it.
    pub(super) fn enter(&self) -> Inside<'_> {
        self.gate.enter()
    }

    /// Finalises the module and initialises it again, unless somebody has since `generation`, or
    /// it was tried a moment ago. Not to be called from inside.
    pub(super) fn restart(&self, generation: u64) -> Restart {
        self.gate.alone(generation, || {
            if let Err(error) = self.context.clone().finalize() {
                tracing::debug!(%error, "the module is not finalised");
            }
            self.restarts.fetch_add(1, Ordering::Relaxed);
            match start(&self.context) {
                Ok(_) => tracing::info!("PKCS#11 module initialised anew"),
                // Whoever calls it next hears so as well, and it is tried again.
                Err(error) => tracing::warn!(%error, "PKCS#11 module not initialised anew"),
            }
        })
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(super) fn logins_tried(&self) -> u64 {
        self.logins_tried.load(Ordering::Relaxed)
    }

    pub(super) fn begin_login(&self) -> MutexGuard<'_, ()> {
        lock(&self.logging_in)
    }

    pub(super) fn count_login(&self) {
        self.logins_tried.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refusal(&self, serial: &str) -> Option<Ckr> {
        lock(&self.refusals).get(serial).copied()
    }

    pub(super) fn remember_refusal(&self, serial: &str, ckr: Ckr) {
        lock(&self.refusals).insert(serial.to_owned(), ckr);
    }

    /// The token took a PIN: what it refused before does not matter any more.
    pub(super) fn remember_taken(&self, serial: &str, pin: &Pin) {
        let tag = hmac::sign(&self.known_by, pin.bytes());
        lock(&self.taken).insert(serial.to_owned(), tag);
        lock(&self.refusals).remove(serial);
    }

    /// Whether this is the PIN that the token took last from this process.
    pub(super) fn has_taken(&self, serial: &str, pin: &Pin) -> bool {
        let taken = lock(&self.taken);
        // Compared in constant time.
        taken
            .get(serial)
            .is_some_and(|tag| hmac::verify(&self.known_by, pin.bytes(), tag.as_ref()).is_ok())
    }
}

enum Entry {
    Loading,
    Ready(Arc<Module>),
}

static MODULES: Mutex<BTreeMap<PathBuf, Entry>> = Mutex::new(BTreeMap::new());
static LOADED: Condvar = Condvar::new();

/// The module at `path`, loaded and initialised at the first call in this process.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, SignerError> {
    let real = resolve(path)?;
    {
        let limit = Duration::from_secs(LOADING_SECONDS_MAX);
        let is_loading = |modules: &mut BTreeMap<PathBuf, Entry>| {
            matches!(modules.get(&real), Some(Entry::Loading))
        };
        // The lock is not held while a module initialises: one that hangs blocks its own only.
        let (mut modules, _) = LOADED
            .wait_timeout_while(lock(&MODULES), limit, is_loading)
            .unwrap_or_else(PoisonError::into_inner);
        match modules.get(&real) {
            Some(Entry::Ready(module)) => return Ok(Arc::clone(module)),
            Some(Entry::Loading) => return Err(SignerError::ModuleStuck { path: path.into() }),
            None => modules.insert(real.clone(), Entry::Loading),
        };
    }
    let module = initialise(&real, path).map(Arc::new);
    let mut modules = lock(&MODULES);
    match &module {
        Ok(module) => modules.insert(real, Entry::Ready(Arc::clone(module))),
        Err(_) => modules.remove(&real),
    };
    LOADED.notify_all();
    module
}

/// The module at `path`, if it is loaded.
pub(super) fn loaded(path: &Path) -> Option<Arc<Module>> {
    match lock(&MODULES).get(&resolve(path).ok()?) {
        Some(Entry::Ready(module)) => Some(Arc::clone(module)),
        _ => None,
    }
}

/// The real file, so that one module under two names is initialised once.
fn resolve(path: &Path) -> Result<PathBuf, SignerError> {
    let unusable = |reason: String| SignerError::ModuleUnusable {
        path: path.to_owned(),
        reason,
    };
    let real = path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SignerError::ModuleMissing {
            path: path.to_owned(),
        },
        _ => unusable(error.to_string()),
    })?;
    if real.is_file() {
        Ok(real)
    } else {
        Err(unusable("not a file".into()))
    }
}

fn initialise(real: &Path, path: &Path) -> Result<Module, SignerError> {
    let context = Pkcs11::new(real).map_err(|error| match error {
        CryptokiError::LibraryLoading(_) | CryptokiError::MissingSymbol(_) => {
            SignerError::ModuleUnusable {
                path: path.to_owned(),
                reason: error.to_string(),
            }
        }
        other => SignerError::from_cryptoki(other),
    })?;
    let mut width = start(&context)?;
    if real.file_name().is_some_and(|name| name == TAKES_ONE) {
        width = Width::One;
    }
    Ok(Module {
        context,
        slots: Slots::of(real)?,
        gate: Gate::new(width),
        restarts: AtomicU64::new(0),
        logins_tried: AtomicU64::new(0),
        logging_in: Mutex::default(),
        refusals: Mutex::default(),
        taken: Mutex::default(),
        known_by: hmac::Key::new(hmac::HMAC_SHA256, &environment::random::<32>()?),
    })
}

/// How many threads the module takes: many, if it can lock as the system does (PKCS#11 v3.1 §5.4).
fn start(context: &Pkcs11) -> Result<Width, SignerError> {
    let initialise = |flags| match context.initialize(CInitializeArgs::new(flags)) {
        // Already done by another library in this process, or under a hard link of this file.
        Err(CryptokiError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        done => done,
    };
    match initialise(CInitializeFlags::OS_LOCKING_OK) {
        Ok(()) => Ok(Width::Many),
        Err(CryptokiError::Pkcs11(RvError::CantLock, _)) => {
            let alone = initialise(CInitializeFlags::empty());
            alone.map_err(SignerError::from_cryptoki)?;
            Ok(Width::One)
        }
        Err(error) => Err(SignerError::from_cryptoki(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_named_with_what_to_do() {
        let error = load(Path::new("/nowhere/libvendor.so")).expect_err("no such file");
        assert_eq!(
            error.to_string(),
            "no PKCS#11 module at /nowhere/libvendor.so: \
             install the vendor's library or correct the path"
        );
    }

    #[test]
    fn files_that_are_no_module_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = dir.path().join("module.so");
        std::fs::write(&text, "not a library").expect("writes");
        for path in [text.as_path(), dir.path()] {
            let error = load(path).expect_err("no module");
            assert!(
                matches!(error, SignerError::ModuleUnusable { .. }),
                "{error}"
            );
            assert!(
                error.to_string().contains(&path.display().to_string()),
                "{error}"
            );
        }
    }
}
