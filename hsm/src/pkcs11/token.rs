//! One token: found by label and serial, logged in once, its login kept.
//!
//! Login belongs to the token and to the whole process: it ends with the last session, and private
//! handles die with it. So one session does nothing but keep it. A PIN is tried once ([`super::login`]
//! keeps that across processes and machines); while the token shows that attempts were lost none is
//! made at all. The only way past either is the operator's.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo as RawTokenInfo};

use super::Pkcs11Config;
use super::gate::Inside;
use super::login::{Council, Gatekeeper, LoginPolicy};
use super::module::Module;
use super::pin::Pin;
use crate::ckr::Ckr;
use crate::error::{PinWarning, SignerError, TokenName};
use crate::lock;
use crate::signer::{KeyId, KeyRef, SignatureAlgorithm};

/// Which token. Never by slot: modules number slots anew as they like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSelector {
    /// The one with this label.
    Label(String),
    /// The one with this serial number.
    Serial(String),
    /// The one with both.
    LabelAndSerial {
        /// The label.
        label: String,
        /// The serial number.
        serial: String,
    },
}

impl TokenSelector {
    fn fits(&self, token: &TokenName) -> bool {
        self.label().is_none_or(|label| same(label, &token.label))
            && self.fits_serial(&token.serial)
    }

    /// Whether a token with this serial number may be the one, whatever its label.
    pub(super) fn fits_serial(&self, found: &str) -> bool {
        match self {
            Self::Serial(serial) | Self::LabelAndSerial { serial, .. } => same(serial, found),
            Self::Label(_) => true,
        }
    }

    /// The label, where it matters.
    pub(super) fn label(&self) -> Option<&str> {
        match self {
            Self::Label(label) | Self::LabelAndSerial { label, .. } => Some(label),
            Self::Serial(_) => None,
        }
    }
}

/// Labels and serials are blank-padded in the standard; blanks at the end mean nothing.
fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches(' ') == b.trim_end_matches(' ')
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "label \"{label}\""),
            Self::Serial(serial) => write!(f, "serial {serial}"),
            Self::LabelAndSerial { label, serial } => {
                write!(f, "label \"{label}\" and serial {serial}")
            }
        }
    }
}

/// What a token says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its label, without padding.
    pub label: String,
    /// Its serial number, without padding.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// How many sessions it allows; `None` where it sets no limit.
    pub sessions_max: Option<u64>,
    /// What stands against a login.
    pub pin_warning: Option<PinWarning>,
}

impl TokenInfo {
    /// Label and serial.
    #[must_use]
    pub fn name(&self) -> TokenName {
        TokenName {
            label: self.label.clone(),
            serial: self.serial.clone(),
        }
    }

    pub(super) fn read(raw: &RawTokenInfo) -> Self {
        let pin_warning = if raw.user_pin_locked() {
            Some(PinWarning::Locked)
        } else if raw.user_pin_final_try() {
            Some(PinWarning::FinalTry)
        } else if raw.user_pin_count_low() {
            Some(PinWarning::CountLow)
        } else if raw.user_pin_to_be_changed() {
            Some(PinWarning::MustChange)
        } else if !raw.user_pin_initialized() {
            Some(PinWarning::NotSet)
        } else {
            None
        };
        let sessions_max = match raw.max_session_count() {
            Limit::Max(limit) => Some(limit),
            Limit::Unavailable | Limit::Infinite => None,
        };
        Self {
            label: raw.label().trim_end_matches(' ').to_owned(),
            serial: raw.serial_number().trim_end_matches(' ').to_owned(),
            manufacturer: raw.manufacturer_id().to_owned(),
            model: raw.model().to_owned(),
            sessions_max,
            pin_warning,
        }
    }
}

/// The token in a slot, initialised or not; `None` where there is none of this vendor.
pub(super) fn in_slot(
    module: &Module,
    slot: Slot,
    _: &Inside<'_>,
) -> Result<Option<RawTokenInfo>, SignerError> {
    match module.context().get_token_info(slot) {
        Ok(raw) => Ok(Some(raw)),
        Err(CryptokiError::Pkcs11(
            RvError::TokenNotPresent | RvError::TokenNotRecognized | RvError::DeviceRemoved,
            _,
        )) => Ok(None),
        Err(error) => Err(SignerError::from_cryptoki(error)),
    }
}

/// Finds the one initialised token that fits.
pub(super) fn find(
    module: &Module,
    selector: &TokenSelector,
    inside: &Inside<'_>,
) -> Result<(Slot, TokenInfo), SignerError> {
    let mut fitting = Vec::new();
    let mut others = Vec::new();
    for slot in module.slots().list(true, inside)? {
        // It may have been taken out since the slots were listed.
        let Some(raw) = in_slot(module, slot, inside)? else {
            continue;
        };
        if !raw.token_initialized() {
            continue;
        }
        let info = TokenInfo::read(&raw);
        if selector.fits(&info.name()) {
            fitting.push((slot, info));
        } else {
            others.push(info.name());
        }
    }
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        0 => Err(SignerError::TokenNotFound {
            wanted: selector.to_string(),
            found: others,
        }),
        _ => Err(SignerError::TokenAmbiguous {
            wanted: selector.to_string(),
            found: fitting.into_iter().map(|(_, info)| info.name()).collect(),
        }),
    }
}

/// One token and its login.
#[derive(Debug)]
pub(super) struct Token {
    module: Arc<Module>,
    info: TokenInfo,
    name: TokenName,
    /// Label and serial, so that another token with the same label never takes its place.
    selector: TokenSelector,
    pin_file: PathBuf,
    gatekeeper: Gatekeeper,
    /// The session that keeps the login, and the generation of the module in which it was opened.
    /// Held while logging in: one thread tries, others wait.
    login: Mutex<Option<(Session, u64)>>,
    /// Grows when handles found before must not be used any more.
    epoch: AtomicU64,
    /// Held while keys are made or destroyed: neither is atomic in a token.
    changing: Mutex<()>,
    /// Keys that were found once: where one is not any more, the module may have lost sight of it.
    known: Mutex<BTreeSet<KeyId>>,
    /// The key that signed last: it must be there when the token is back.
    last_used: Mutex<Option<(KeyRef, SignatureAlgorithm)>>,
}

impl Token {
    /// Finds the token and makes sure that its PIN can be read, even if no login needs it yet: the
    /// first one that does may come at the worst time.
    pub(super) fn new(
        module: Arc<Module>,
        config: &Pkcs11Config,
        council: Option<Arc<dyn Council>>,
        inside: &Inside<'_>,
    ) -> Result<Self, SignerError> {
        let (_, info) = find(&module, &config.token, inside)?;
        Pin::read(&config.pin_file)?;
        let name = info.name();
        let selector = TokenSelector::LabelAndSerial {
            label: name.label.clone(),
            serial: name.serial.clone(),
        };
        Ok(Self {
            module,
            info,
            name,
            selector,
            pin_file: config.pin_file.clone(),
            gatekeeper: Gatekeeper::new(config, council),
            login: Mutex::default(),
            epoch: AtomicU64::new(0),
            changing: Mutex::default(),
            known: Mutex::default(),
            last_used: Mutex::default(),
        })
    }

    /// As it was when found first.
    pub(super) fn info(&self) -> &TokenInfo {
        &self.info
    }

    pub(super) fn name(&self) -> &TokenName {
        &self.name
    }

    pub(super) fn module(&self) -> &Module {
        &self.module
    }

    pub(super) fn know(&self, key: KeyId) {
        lock(&self.known).insert(key);
    }

    pub(super) fn knows(&self, key: &KeyId) -> bool {
        lock(&self.known).contains(key)
    }

    /// A key is gone for good, or nobody can say any more that it is there.
    pub(super) fn unlearn(&self, key: &KeyId) {
        lock(&self.known).remove(key);
        lock(&self.last_used).take_if(|(last, _)| last.id == *key);
    }

    pub(super) fn last_used(&self) -> Option<(KeyRef, SignatureAlgorithm)> {
        lock(&self.last_used).clone()
    }

    pub(super) fn used(&self, key: &KeyRef, algorithm: SignatureAlgorithm) {
        let mut last = lock(&self.last_used);
        if last.as_ref().is_none_or(|(last, _)| last != key) {
            *last = Some((key.clone(), algorithm));
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn forget_handles(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn begin_change(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing)
    }

    /// A logged-in session that reads and signs.
    pub(super) fn open_session(&self, inside: &Inside<'_>) -> Result<Session, SignerError> {
        let slot = self.ensure_login(LoginPolicy::Guarded, inside)?;
        self.module
            .context()
            .open_ro_session(slot)
            .map_err(SignerError::from_cryptoki)
    }

    /// A logged-in session that makes and destroys objects.
    pub(super) fn open_write_session(&self, inside: &Inside<'_>) -> Result<Session, SignerError> {
        let slot = self.ensure_login(LoginPolicy::Guarded, inside)?;
        self.module
            .context()
            .open_rw_session(slot)
            .map_err(SignerError::from_cryptoki)
    }

    /// Makes sure that the token is logged in, and says in which slot it is now.
    pub(super) fn ensure_login(
        &self,
        policy: LoginPolicy,
        inside: &Inside<'_>,
    ) -> Result<Slot, SignerError> {
        let mut login = lock(&self.login);
        if let Some((session, generation)) = login.take()
            && let Some(session) = of_generation(session, generation, inside)
        {
            match session.get_session_info() {
                Ok(info) if is_user(info.session_state()) => {
                    *login = Some((session, generation));
                    return Ok(info.slot_id());
                }
                Ok(_) => {}
                Err(error) => discard(session, &SignerError::from_cryptoki(error)),
            }
        }
        let (slot, info) = find(&self.module, &self.selector, inside)?;
        let session = self
            .module
            .context()
            .open_ro_session(slot)
            .map_err(SignerError::from_cryptoki)?;
        self.log_in(&session, &info, policy)?;
        self.forget_handles();
        *login = Some((session, inside.generation()));
        Ok(slot)
    }

    fn log_in(
        &self,
        session: &Session,
        info: &TokenInfo,
        policy: LoginPolicy,
    ) -> Result<(), SignerError> {
        let _alone = self.module.begin_login();
        // Another signer of this process may have logged in: login is the token's, not ours.
        let now = session
            .get_session_info()
            .map_err(SignerError::from_cryptoki)?;
        if is_user(now.session_state()) {
            return Ok(());
        }
        let refused = |ckr| SignerError::PinRefused {
            token: self.name.clone(),
            ckr,
        };
        let stopped = |warning| SignerError::PinGuarded {
            token: self.name.clone(),
            warning,
        };
        match (policy, info.pin_warning) {
            (LoginPolicy::Guarded, warning) => {
                if let Some(ckr) = self.module.refusal(&self.name.serial) {
                    return Err(refused(ckr));
                }
                if let Some(warning) = warning {
                    return Err(stopped(warning));
                }
            }
            (LoginPolicy::Operator { .. }, Some(PinWarning::Locked)) => {
                return Err(stopped(PinWarning::Locked));
            }
            (LoginPolicy::Operator { .. }, _) => {}
        }
        // Read for this login only, and wiped when this function ends.
        let pin = Pin::read(&self.pin_file)?;
        let taken_before = self.module.has_taken(&self.name.serial, &pin);
        let attempt = self
            .gatekeeper
            .leave(&self.name, &pin, policy, taken_before)?;
        self.module.count_login();
        let outcome = session.login_with_raw(UserType::User, &pin.for_login());
        match outcome.map_err(SignerError::from_cryptoki) {
            Ok(()) => tracing::info!(token = %self.name, "logged in"),
            Err(SignerError::Call { ckr, .. }) if ckr.code() == RvError::UserAlreadyLoggedIn => {
                // The token did not look at the PIN.
                attempt.not_tried();
                return Ok(());
            }
            Err(SignerError::Call { ckr, .. }) if !never_reached_the_pin(ckr) => {
                tracing::error!(token = %self.name, %ckr, "login refused; not tried again");
                self.module.remember_refusal(&self.name.serial, ckr);
                attempt.refused(ckr);
                return Err(refused(ckr));
            }
            Err(error) => {
                attempt.not_tried();
                return Err(error);
            }
        }
        self.module.remember_taken(&self.name.serial, &pin);
        attempt.accepted();
        Ok(())
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let login = lock(&self.login).take();
        if let Some((session, generation)) = login {
            let inside = self.module.enter();
            drop(of_generation(session, generation, &inside));
        }
    }
}

/// A session, unless the module was restarted since it was opened: then it is gone, and closing
/// it could only hit another that has its handle now.
pub(super) fn of_generation(
    session: Session,
    generation: u64,
    inside: &Inside<'_>,
) -> Option<Session> {
    if generation == inside.generation() {
        return Some(session);
    }
    std::mem::forget(session);
    None
}

fn is_user(state: SessionState) -> bool {
    matches!(state, SessionState::RoUser | SessionState::RwUser)
}

/// Whether `C_Login` failed before the token looked at the PIN. Every other answer counts as a
/// refusal, those of vendors and those too vague to tell: trying once more could lock the token.
fn never_reached_the_pin(ckr: Ckr) -> bool {
    matches!(
        ckr.code(),
        RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::DeviceError
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::CryptokiNotInitialized
    )
}

/// Lets go of a session after an error. One that is gone is not closed: its handle may belong to
/// another thread's new session by now, and that would be closed instead.
pub(super) fn discard(session: Session, error: &SignerError) {
    match error {
        SignerError::Call { ckr, .. } if ckr.session_is_gone() => std::mem::forget(session),
        _ => drop(session),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_at_the_end_of_a_label_mean_nothing() {
        let token = TokenName {
            label: "ca".into(),
            serial: "01".into(),
        };
        for fits in [
            TokenSelector::Label("ca".into()),
            TokenSelector::Label("ca   ".into()),
            TokenSelector::Serial("01 ".into()),
            TokenSelector::LabelAndSerial {
                label: "ca".into(),
                serial: "01".into(),
            },
        ] {
            assert!(fits.fits(&token), "{fits}");
        }
        for other in [
            TokenSelector::Label(" ca".into()),
            TokenSelector::Label("c".into()),
            TokenSelector::Serial("1".into()),
            TokenSelector::LabelAndSerial {
                label: "ca".into(),
                serial: "02".into(),
            },
        ] {
            assert!(!other.fits(&token), "{other}");
        }
    }

    #[test]
    fn login_errors_that_are_vague_count_as_refusals() {
        for code in [
            RvError::PinIncorrect,
            RvError::PinLocked,
            RvError::GeneralError,
            RvError::FunctionFailed,
            RvError::VendorDefined(0x8000_0001),
        ] {
            assert!(!never_reached_the_pin(Ckr::new(code)), "{code:?}");
        }
        assert!(never_reached_the_pin(Ckr::new(RvError::DeviceError)));
    }
}
