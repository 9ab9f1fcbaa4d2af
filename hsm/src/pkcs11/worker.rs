//! What one thread has: a session, the handles found in it, and how to get both again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::Digest;
use cryptoki::session::Session;

use super::gate::{Inside, Restart};
use super::objects::{self, Found};
use super::token::{Token, discard, of_generation};
use crate::ckr::Loss;
use crate::error::SignerError;
use crate::lock;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{KeyId, KeyListing, KeyRef, KeySpec, SignatureAlgorithm};

/// Handles kept by one thread: more than the keys of any node in use at a time.
const HANDLES_MAX: usize = 64;

/// A call that takes longer, while the token is lost to others, is said to keep the module.
const HELD: Duration = Duration::from_secs(5);

/// How the token was when last used, for `health`.
#[derive(Debug)]
pub(super) struct Condition {
    usable: AtomicBool,
    last_error: Mutex<Option<SignerError>>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            usable: AtomicBool::new(true),
            last_error: Mutex::default(),
        }
    }
}

impl Condition {
    pub(super) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    pub(super) fn last_error(&self) -> Option<SignerError> {
        lock(&self.last_error).clone()
    }

    fn failed(&self, error: &SignerError) {
        let before = lock(&self.last_error).replace(error.clone());
        let is_held = |of: &SignerError| matches!(of, SignerError::ModuleHeld { .. });
        let is_new = is_held(error) && !before.as_ref().is_some_and(is_held);
        if self.usable.swap(false, Ordering::AcqRel) || is_new {
            tracing::error!(%error, "token is not usable");
        }
    }

    fn succeeded(&self) {
        if !self.usable.swap(true, Ordering::AcqRel) {
            *lock(&self.last_error) = None;
            tracing::info!("token is usable again");
        }
    }
}

/// What an error says about the session it happened in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Nothing is wrong with it.
    None,
    /// A new session may do better at once, and a module that was initialised anew after that.
    NewSession,
    /// A new session may do better, and nothing else would.
    NewSessionOnly,
    /// The token is away, or the module has lost sight of it.
    Restart,
    /// Nothing helps now: the next call begins anew.
    Later,
}

#[derive(Debug)]
pub(super) struct Worker {
    token: Arc<Token>,
    condition: Arc<Condition>,
    session: Option<Session>,
    /// Of the module when the session was opened.
    generation: u64,
    epoch: u64,
    handles: BTreeMap<KeyId, Found>,
}

impl Worker {
    /// Opens its session, so that a token which is short of them says so at the start.
    pub(super) fn open(token: Arc<Token>, condition: Arc<Condition>) -> Result<Self, SignerError> {
        let (session, generation) = {
            let inside = token.module().enter();
            (token.open_session(&inside)?, inside.generation())
        };
        let epoch = token.epoch();
        Ok(Self {
            token,
            condition,
            session: Some(session),
            generation,
            epoch,
            handles: BTreeMap::new(),
        })
    }

    /// Runs `work`, again with a new session and again with the module initialised anew where
    /// either may help, and notes how it went.
    pub(super) fn attempt<T>(
        &mut self,
        mut work: impl FnMut(&mut Self, &Inside<'_>) -> Result<T, SignerError>,
    ) -> Result<T, SignerError> {
        let token = Arc::clone(&self.token);
        let (mut fresh, mut restarted) = (self.session.is_none(), false);
        loop {
            let (error, remedy, generation) = {
                let inside = token.module().enter();
                self.follow(&inside);
                match work(self, &inside) {
                    Ok(done) => {
                        self.condition.succeeded();
                        return Ok(done);
                    }
                    Err(error) => {
                        let remedy = self.remedy(&error);
                        if remedy == Remedy::None {
                            return Err(error);
                        }
                        self.let_go(&error);
                        (error, remedy, inside.generation())
                    }
                }
            };
            if matches!(remedy, Remedy::NewSession | Remedy::NewSessionOnly) && !fresh {
                tracing::debug!(%error, "opening a new session");
                fresh = true;
                continue;
            }
            let may_restart = matches!(remedy, Remedy::NewSession | Remedy::Restart) && !restarted;
            let error = match may_restart.then(|| token.module().restart(generation)) {
                Some(Restart::Anew) => {
                    (fresh, restarted) = (true, true);
                    continue;
                }
                Some(Restart::Held(since)) if since >= HELD => SignerError::ModuleHeld {
                    lost: Box::new(error),
                    seconds: since.as_secs(),
                },
                _ => error,
            };
            // An absent key is absent; everything else says that the token is not well.
            if remedy != Remedy::NewSessionOnly {
                self.condition.failed(&error);
            }
            return Err(error);
        }
    }

    /// Lets go of what was opened before the module was restarted, and of handles of before a new
    /// login.
    fn follow(&mut self, inside: &Inside<'_>) {
        if self.generation != inside.generation() {
            let session = self.session.take();
            drop(session.and_then(|session| of_generation(session, self.generation, inside)));
            self.generation = inside.generation();
            self.handles.clear();
        }
        if self.epoch != self.token.epoch() {
            self.handles.clear();
            self.epoch = self.token.epoch();
        }
    }

    /// Signs with the key that was used last, or looks for the token where there is none: whether
    /// it is back.
    pub(super) fn probe(&mut self, inside: &Inside<'_>) -> Result<(), SignerError> {
        let Some((key, algorithm)) = self.token.last_used() else {
            return self.session(inside).map(drop);
        };
        self.handles.remove(&key.id);
        let digest = algorithm.digest(b"chancery: is the token back?");
        self.sign(&key, algorithm, &digest, inside).map(drop)
    }

    pub(super) fn generate(
        &mut self,
        spec: &KeySpec,
        inside: &Inside<'_>,
    ) -> Result<PublicKeyInfo, SignerError> {
        let token = Arc::clone(&self.token);
        let _alone = token.begin_change();
        let session = token.open_write_session(inside)?;
        let outcome = objects::generate(&session, spec);
        release(session, &outcome);
        outcome
    }

    pub(super) fn public_key(
        &mut self,
        key: &KeyRef,
        inside: &Inside<'_>,
    ) -> Result<PublicKeyInfo, SignerError> {
        // Asked for when a key is proved or checked: not from what this thread remembers.
        self.handles.remove(&key.id);
        Ok(self.find(key, inside)?.public.info())
    }

    pub(super) fn sign(
        &mut self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        digest: &Digest,
        inside: &Inside<'_>,
    ) -> Result<Signature, SignerError> {
        let found = self.find(key, inside)?;
        algorithm.require_for(found.public.key_type())?;
        let signature = sign_digest(self.session(inside)?, key, &found, algorithm, digest)?;
        self.token.used(key, algorithm);
        Ok(signature)
    }

    pub(super) fn delete(&mut self, key: &KeyRef, inside: &Inside<'_>) -> Result<(), SignerError> {
        let token = Arc::clone(&self.token);
        let _alone = token.begin_change();
        let session = token.open_write_session(inside)?;
        let outcome = objects::delete(&session, key);
        token.forget_handles();
        if outcome.is_ok() {
            token.unlearn(&key.id);
        }
        release(session, &outcome);
        outcome
    }

    pub(super) fn list(
        &mut self,
        prefix: &str,
        inside: &Inside<'_>,
    ) -> Result<Vec<KeyListing>, SignerError> {
        objects::list(self.session(inside)?, prefix)
    }

    fn session(&mut self, inside: &Inside<'_>) -> Result<&Session, SignerError> {
        if self.session.is_none() {
            self.session = Some(self.token.open_session(inside)?);
            self.generation = inside.generation();
        }
        self.session.as_ref().ok_or(SignerError::Closed)
    }

    fn find(&mut self, key: &KeyRef, inside: &Inside<'_>) -> Result<Found, SignerError> {
        if let Some(found) = self.handles.get(&key.id) {
            return Ok(found.clone());
        }
        let session = self.session(inside)?;
        let found = match objects::find(session, key) {
            // Where others are seen it is this one that is gone.
            Err(SignerError::NotFound { .. }) if objects::sees_any(session)? => {
                self.token.unlearn(&key.id);
                return Err(SignerError::NotFound { key: key.clone() });
            }
            found => found?,
        };
        self.token.know(key.id);
        if self.handles.len() >= HANDLES_MAX {
            self.handles.clear();
        }
        self.handles.insert(key.id, found.clone());
        Ok(found)
    }

    fn remedy(&self, error: &SignerError) -> Remedy {
        match error {
            SignerError::Call { ckr, .. } => match ckr.loss() {
                Loss::None => Remedy::None,
                Loss::Session => Remedy::NewSession,
                Loss::Device => Remedy::Restart,
            },
            SignerError::WrongSignature { .. } => Remedy::NewSession,
            // Some modules show keys made by another process in new sessions only; after a loss
            // some show none at all.
            SignerError::NotFound { key } if self.token.knows(&key.id) => Remedy::NewSession,
            SignerError::NotFound { .. } => Remedy::NewSessionOnly,
            SignerError::TokenNotFound { .. } | SignerError::TokenAmbiguous { .. } => {
                Remedy::Restart
            }
            SignerError::PinRefused { .. }
            | SignerError::PinGuarded { .. }
            | SignerError::PinFile { .. }
            | SignerError::PinRecord { .. }
            | SignerError::Login(_) => Remedy::Later,
            _ => Remedy::None,
        }
    }

    fn let_go(&mut self, error: &SignerError) {
        self.handles.clear();
        if let Some(session) = self.session.take() {
            discard(session, error);
        }
    }
}

fn release<T>(session: Session, outcome: &Result<T, SignerError>) {
    match outcome {
        Ok(_) => drop(session),
        Err(error) => discard(session, error),
    }
}

/// Signs with a key that was found; what comes out verifies.
fn sign_digest(
    session: &Session,
    key: &KeyRef,
    found: &Found,
    algorithm: SignatureAlgorithm,
    digest: &Digest,
) -> Result<Signature, SignerError> {
    let raw = objects::sign(session, found, algorithm, digest)?;
    // After a reconnection an old handle may name another key: nothing leaves unverified.
    if !found.public.verifies(digest, &raw) {
        return Err(SignerError::WrongSignature { id: key.id });
    }
    Ok(Signature::from_raw(algorithm, raw)?.verified_with_key(&found.public))
}

/// Signs a message in the way of the key's type.
pub(super) fn sign_found(
    session: &Session,
    key: &KeyRef,
    found: &Found,
    message: &[u8],
) -> Result<Signature, SignerError> {
    let algorithm = found.public.key_type().algorithm();
    sign_digest(session, key, found, algorithm, &algorithm.digest(message))
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let inside = self.token.module().enter();
            drop(of_generation(session, self.generation, &inside));
        }
    }
}
