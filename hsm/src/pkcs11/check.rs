//! What a module, a token and the keys in it are fit for, in words for an operator.
//!
//! Promises: nothing on the token is changed; one login, by the rules of any other.

use std::time::{Duration, Instant};

use cryptoki::mechanism::MechanismType;
use cryptoki::slot::Slot;

use super::login::LoginPolicy;
use super::module::{self, Module};
use super::objects;
use super::token::{Token, TokenInfo};
use super::{Pkcs11Config, worker};
use crate::environment;
use crate::error::SignerError;
use crate::signer::{KeyListing, KeyType};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The module by its own words.
    pub library: String,
    /// The token.
    pub token: TokenInfo,
    /// What is missing for keys of each type: nothing where they can be made and used.
    pub key_types: Vec<(KeyType, Vec<String>)>,
    /// Whether the token took the PIN.
    pub login: Result<(), SignerError>,
    /// Keys with the prefix that was asked for; empty without a login.
    pub keys: Vec<KeySeen>,
    /// A signature by the first sound key, made and verified, and how long it took; none where
    /// there is no such key.
    pub signature: Option<Result<Duration, SignerError>>,
}

/// A key on the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySeen {
    /// What it is called, and how many objects it has.
    pub listing: KeyListing,
    /// Its type, or why it would be refused.
    pub key_type: Result<KeyType, SignerError>,
}

/// Looks at module and token, logs in, looks at every key whose label starts with `prefix`, and
/// signs once. Blocks; the module decides for how long.
///
/// # Errors
/// What is wrong with configuration, module, token or PIN file before a login.
pub fn survey(config: &Pkcs11Config, prefix: &str) -> Result<Survey, SignerError> {
    config.check()?;
    let module = module::load(&config.module)?;
    let token = Token::new(
        std::sync::Arc::clone(&module),
        config,
        None,
        &module.enter(),
    )?;
    // After the token, which goes inside itself when it is dropped: nobody may be there twice.
    let inside = module.enter();
    let library = library(&module)?;
    let mut survey = Survey {
        library,
        token: token.info().clone(),
        key_types: Vec::new(),
        login: Ok(()),
        keys: Vec::new(),
        signature: None,
    };
    let (slot, _) = super::token::find(&module, &config.token, &inside)?;
    for key_type in KeyType::ALL {
        let missing = missing(&module, slot, key_type)?;
        survey.key_types.push((key_type, missing));
    }
    if let Err(error) = token.ensure_login(LoginPolicy::Guarded, &inside) {
        survey.login = Err(error);
    } else {
        let session = token.open_session(&inside)?;
        for listing in objects::list(&session, prefix)? {
            let found = objects::find(&session, &listing.key);
            if let Ok(found) = &found
                && survey.signature.is_none()
            {
                let began = environment::now();
                let signed = worker::sign_found(
                    &session,
                    &listing.key,
                    found,
                    b"chancery: a signature to check the token",
                );
                survey.signature = Some(signed.map(|_| since(began)));
            }
            survey.keys.push(KeySeen {
                listing,
                key_type: found.map(|found| found.public.key_type()),
            });
        }
    }
    drop(inside);
    Ok(survey)
}

fn since(began: Instant) -> Duration {
    environment::now().saturating_duration_since(began)
}

fn library(module: &Module) -> Result<String, SignerError> {
    let info = module
        .context()
        .get_library_info()
        .map_err(SignerError::from_cryptoki)?;
    Ok(format!(
        "{} {} of {}, Cryptoki {}",
        info.library_description().trim(),
        info.library_version(),
        info.manufacturer_id().trim(),
        info.cryptoki_version()
    ))
}

/// Mechanisms that keys of a type need, and the size that each must allow, in bits.
fn needed(key_type: KeyType) -> ([(MechanismType, &'static str); 2], usize) {
    let ec = [
        (MechanismType::ECC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN"),
        (MechanismType::ECDSA, "CKM_ECDSA"),
    ];
    let rsa = [
        (
            MechanismType::RSA_PKCS_KEY_PAIR_GEN,
            "CKM_RSA_PKCS_KEY_PAIR_GEN",
        ),
        (MechanismType::RSA_PKCS, "CKM_RSA_PKCS"),
    ];
    match key_type {
        KeyType::EcP256 => (ec, 256),
        KeyType::EcP384 => (ec, 384),
        KeyType::Rsa2048 => (rsa, 2048),
        KeyType::Rsa4096 => (rsa, 4096),
    }
}

fn missing(module: &Module, slot: Slot, key_type: KeyType) -> Result<Vec<String>, SignerError> {
    let context = module.context();
    let known = context
        .get_mechanism_list(slot)
        .map_err(SignerError::from_cryptoki)?;
    let (mechanisms, bits) = needed(key_type);
    let mut missing = Vec::new();
    for (n, (mechanism, name)) in mechanisms.into_iter().enumerate() {
        if !known.contains(&mechanism) {
            missing.push(format!("{name} is not there"));
            continue;
        }
        let info = context
            .get_mechanism_info(slot, mechanism)
            .map_err(SignerError::from_cryptoki)?;
        let does = if n == 0 {
            info.generate_key_pair()
        } else {
            info.sign()
        };
        if !does {
            let what = if n == 0 { "make key pairs" } else { "sign" };
            missing.push(format!("{name} does not {what}"));
        }
        let (min, max) = (info.min_key_size(), info.max_key_size());
        // Zero where a token does not say.
        if max > 0 && !(min..=max).contains(&bits) {
            missing.push(format!("{name} takes keys of {min} to {max} bits"));
        }
    }
    Ok(missing)
}
