//! What one thread has: a session, the handles found in it, and how to get both again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::Digest;
use cryptoki::session::Session;

use super::objects::{self, Found};
use super::token::{Token, discard};
use crate::ckr::Loss;
use crate::error::SignerError;
use crate::lock;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{KeyId, KeyListing, KeyRef, KeySpec, SignatureAlgorithm};

/// Handles kept by one thread: more than the keys of any node in use at a time.
const HANDLES_MAX: usize = 64;

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
        *lock(&self.last_error) = Some(error.clone());
        if self.usable.swap(false, Ordering::AcqRel) {
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
    /// A new session may do better at once.
    NewSession,
    /// The token is away: the next call begins anew.
    Later,
}

#[derive(Debug)]
pub(super) struct Worker {
    token: Arc<Token>,
    condition: Arc<Condition>,
    session: Option<Session>,
    epoch: u64,
    handles: BTreeMap<KeyId, Found>,
}

impl Worker {
    /// Opens its session, so that a token which is short of them says so at the start.
    pub(super) fn open(token: Arc<Token>, condition: Arc<Condition>) -> Result<Self, SignerError> {
        let session = Some(token.open_session()?);
        let epoch = token.epoch();
        Ok(Self {
            token,
            condition,
            session,
            epoch,
            handles: BTreeMap::new(),
        })
    }

    /// Runs `work`, once more with a new session where that may help, and notes how it went.
    pub(super) fn attempt<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<T, SignerError>,
    ) -> Result<T, SignerError> {
        let mut fresh = self.session.is_none();
        loop {
            if self.epoch != self.token.epoch() {
                self.handles.clear();
                self.epoch = self.token.epoch();
            }
            let error = match work(self) {
                Ok(done) => {
                    self.condition.succeeded();
                    return Ok(done);
                }
                Err(error) => error,
            };
            let remedy = remedy(&error);
            if remedy == Remedy::None {
                return Err(error);
            }
            self.let_go(&error);
            if remedy == Remedy::NewSession && !fresh {
                tracing::debug!(%error, "opening a new session");
                fresh = true;
                continue;
            }
            // An absent key is absent; everything else says that the token is not well.
            if !matches!(error, SignerError::NotFound { .. }) {
                self.condition.failed(&error);
            }
            return Err(error);
        }
    }

    pub(super) fn generate(&mut self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        let token = Arc::clone(&self.token);
        let _alone = token.begin_change();
        let session = token.open_write_session()?;
        let outcome = objects::generate(&session, spec);
        release(session, &outcome);
        outcome
    }

    pub(super) fn public_key(&mut self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        // Asked for when a key is proved or checked: not from what this thread remembers.
        self.handles.remove(&key.id);
        Ok(self.find(key)?.public.info())
    }

    pub(super) fn sign(
        &mut self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        digest: &Digest,
    ) -> Result<Signature, SignerError> {
        let found = self.find(key)?;
        algorithm.require_for(found.public.key_type())?;
        let raw = objects::sign(self.session()?, &found, algorithm, digest)?;
        // After a reconnection an old handle may name another key: nothing leaves unverified.
        if !found.public.verifies(digest, &raw) {
            return Err(SignerError::WrongSignature { id: key.id });
        }
        Ok(Signature::from_raw(algorithm, raw)?.verified_with_key(&found.public))
    }

    pub(super) fn delete(&mut self, key: &KeyRef) -> Result<(), SignerError> {
        let token = Arc::clone(&self.token);
        let _alone = token.begin_change();
        let session = token.open_write_session()?;
        let outcome = objects::delete(&session, key);
        token.forget_handles();
        release(session, &outcome);
        outcome
    }

    pub(super) fn list(&mut self, prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        objects::list(self.session()?, prefix)
    }

    fn session(&mut self) -> Result<&Session, SignerError> {
        if self.session.is_none() {
            self.session = Some(self.token.open_session()?);
        }
        self.session.as_ref().ok_or(SignerError::Closed)
    }

    fn find(&mut self, key: &KeyRef) -> Result<Found, SignerError> {
        if let Some(found) = self.handles.get(&key.id) {
            return Ok(found.clone());
        }
        let found = objects::find(self.session()?, key)?;
        if self.handles.len() >= HANDLES_MAX {
            self.handles.clear();
        }
        self.handles.insert(key.id, found.clone());
        Ok(found)
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

fn remedy(error: &SignerError) -> Remedy {
    match error {
        SignerError::Call { ckr, .. } => match ckr.loss() {
            Loss::None => Remedy::None,
            Loss::Session => Remedy::NewSession,
            Loss::Device => Remedy::Later,
        },
        // Some modules show keys made by another process in new sessions only.
        SignerError::WrongSignature { .. } | SignerError::NotFound { .. } => Remedy::NewSession,
        SignerError::TokenNotFound { .. }
        | SignerError::TokenAmbiguous { .. }
        | SignerError::PinRefused { .. }
        | SignerError::PinGuarded { .. }
        | SignerError::PinFile { .. } => Remedy::Later,
        _ => Remedy::None,
    }
}
