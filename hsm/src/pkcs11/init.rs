//! A token made ready: initialised under its label, its user PIN set.
//!
//! Promises: an initialised token is never initialised again, which would destroy its keys; nothing
//! is changed before both PINs are known to be such as the token takes; what a crash left between
//! the two steps is finished and not begun anew, for two tokens with one label are of use to nobody;
//! the security officer's PIN is tried once, and not where that could lock it.

use std::ops::RangeInclusive;
use std::path::Path;

use cryptoki::error::RvError;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo as RawTokenInfo};

use super::Pkcs11Config;
use super::gate::Inside;
use super::module::Module;
use super::pin::NewPin;
use super::token::{self, TokenInfo, TokenSelector, discard};
use crate::ckr::Ckr;
use crate::error::{PinWarning, SignerError, SlotContent, SlotSeen};

/// `CK_TOKEN_INFO.label` has room for no more; the wrapper would cut what is beyond.
const LABEL_BYTES_MAX: usize = 32;

/// How a token came to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitOutcome {
    /// It was made ready now.
    Initialised(TokenInfo),
    /// It was ready before; nothing was changed, no login tried.
    AlreadyThere(TokenInfo),
}

/// The label that a new token would have.
pub(super) fn new_label(selector: &TokenSelector) -> Result<&str, SignerError> {
    let label = selector.label().ok_or(SignerError::LabelNeeded)?;
    let label = label.trim_end_matches(' ');
    if (1..=LABEL_BYTES_MAX).contains(&label.len()) {
        Ok(label)
    } else {
        Err(SignerError::Config {
            field: "token label",
            bounds: "1 to 32 bytes",
        })
    }
}

/// See [`super::init_token`].
pub(super) fn init(
    module: &Module,
    config: &Pkcs11Config,
    label: &str,
    so_pin_file: &Path,
) -> Result<InitOutcome, SignerError> {
    let selector = &config.token;
    let inside = module.enter();
    // Of two at once in this process the second finds what the first has made.
    let _alone = module.begin_login();
    let unfinished = match token::find(module, selector, &inside) {
        Ok((slot, info)) if info.pin_warning == Some(PinWarning::NotSet) => Some(slot),
        Ok((_, info)) => return Ok(InitOutcome::AlreadyThere(info)),
        Err(SignerError::TokenNotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let slot = match unfinished {
        Some(slot) => slot,
        None => blank_slot(module, selector, &inside)?,
    };
    let raw = module
        .context()
        .get_token_info(slot)
        .map_err(SignerError::from_cryptoki)?;
    let so_pin = NewPin::read(so_pin_file, pin_lengths(&raw))?;
    let user_pin = NewPin::read(&config.pin_file, pin_lengths(&raw))?;
    if unfinished.is_none() {
        module
            .context()
            .init_token(slot, so_pin.for_token(), label)
            .map_err(SignerError::from_cryptoki)?;
    }
    // Anew, because the module may have moved the token to another slot.
    let (slot, info) = token::find(module, selector, &inside)?;
    set_user_pin(module, slot, &info, &so_pin, &user_pin)?;
    let (_, info) = token::find(module, selector, &inside)?;
    tracing::info!(token = %info.name(), "token initialised");
    Ok(InitOutcome::Initialised(info))
}

/// The first slot with a token that was never initialised and may become the one selected: one that
/// has its serial from its maker must have the right one.
fn blank_slot(
    module: &Module,
    selector: &TokenSelector,
    inside: &Inside<'_>,
) -> Result<Slot, SignerError> {
    let mut found = Vec::new();
    for slot in module.slots().list(false, inside)? {
        let content = match token::in_slot(module, slot, inside)? {
            None => SlotContent::Empty,
            Some(raw) => {
                let name = TokenInfo::read(&raw).name();
                if raw.token_initialized() {
                    SlotContent::Token(name)
                } else if selector.fits_serial(&name.serial) {
                    return Ok(slot);
                } else {
                    SlotContent::Blank {
                        serial: name.serial,
                    }
                }
            }
        };
        let slot = slot.id();
        found.push(SlotSeen { slot, content });
    }
    Err(SignerError::NoBlankToken {
        wanted: selector.to_string(),
        found,
    })
}

/// What the token says it takes; any length where it says nothing.
fn pin_lengths(raw: &RawTokenInfo) -> RangeInclusive<usize> {
    match (raw.min_pin_length(), raw.max_pin_length()) {
        (min, max) if max > 0 && min <= max => min..=max,
        _ => 0..=usize::MAX,
    }
}

fn set_user_pin(
    module: &Module,
    slot: Slot,
    info: &TokenInfo,
    so_pin: &NewPin,
    user_pin: &NewPin,
) -> Result<(), SignerError> {
    let context = module.context();
    let raw = context
        .get_token_info(slot)
        .map_err(SignerError::from_cryptoki)?;
    if raw.so_pin_locked() || raw.so_pin_final_try() {
        return Err(SignerError::SoPinAtRisk { token: info.name() });
    }
    let session = context
        .open_rw_session(slot)
        .map_err(SignerError::from_cryptoki)?;
    module.count_login();
    let outcome = with_so_login(&session, info, so_pin, || {
        session
            .init_pin(user_pin.for_token())
            .map_err(SignerError::from_cryptoki)
    });
    outcome.inspect_err(|error| discard(session, error))
}

fn with_so_login(
    session: &Session,
    info: &TokenInfo,
    so_pin: &NewPin,
    work: impl FnOnce() -> Result<(), SignerError>,
) -> Result<(), SignerError> {
    let login = session.login(UserType::So, Some(so_pin.for_token()));
    login.map_err(|error| match SignerError::from_cryptoki(error) {
        SignerError::Call { ckr, .. } if refuses_the_pin(ckr) => SignerError::SoPinRefused {
            token: info.name(),
            ckr,
        },
        other => other,
    })?;
    let outcome = work();
    if let Err(error) = session.logout() {
        // Closing the session, which comes next, ends the login as well.
        tracing::debug!(%error, "no logout of the security officer");
    }
    outcome
}

fn refuses_the_pin(ckr: Ckr) -> bool {
    matches!(
        ckr.code(),
        RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinLocked
            | RvError::PinExpired
    )
}
