//! What failed, in which call, and whether it may be tried again.
//!
//! Errors are plain values (cloneable, comparable, without secrets), because one of them is often
//! shown twice: to the caller it failed and in [`Health`](crate::Health).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use cryptoki::error::{Error as CryptokiError, RvError};

use crate::ckr::{Ckr, Loss};
use crate::disk::{KeyDirectoryProblem, KeyFileProblem};
use crate::pkcs11::{LoginBarred, PinRecordProblem};
use crate::signer::{KeyId, KeyRef, KeyType, SignatureAlgorithm};

/// Why a signer did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// No key has this id.
    #[error("no key {key}")]
    NotFound {
        /// The key asked for.
        key: KeyRef,
    },
    /// Two or more objects have this id; choosing one would be a guess.
    #[error("more than one {half} object has the id of key {key}; remove the wrong one")]
    Ambiguous {
        /// The key asked for.
        key: KeyRef,
        /// `private` or `public`.
        half: &'static str,
    },
    /// The private object is there, its public one is not.
    #[error("key {key} has no public object on the token")]
    PublicHalfMissing {
        /// The key asked for.
        key: KeyRef,
    },
    /// A key has this id already.
    #[error("a key with id {id} exists already")]
    AlreadyExists {
        /// The id.
        id: KeyId,
    },
    /// The id belongs to a key with another label; it was left alone.
    #[error("key {id} is labelled \"{found}\", not \"{wanted}\"")]
    LabelMismatch {
        /// The id.
        id: KeyId,
        /// The label given.
        wanted: String,
        /// The label that the key has.
        found: String,
    },
    /// The label is empty or too long.
    #[error("a key label has 1 to {max} bytes, this one {bytes}", max = KeyRef::LABEL_BYTES_MAX)]
    LabelLength {
        /// Its length.
        bytes: usize,
    },
    /// The key cannot sign with this algorithm.
    #[error("a key of type {key_type} does not sign with {algorithm}")]
    AlgorithmMismatch {
        /// What the key is.
        key_type: KeyType,
        /// What was asked for.
        algorithm: SignatureAlgorithm,
    },
    /// The key is not one of ours: another curve, size or exponent, or a malformed public half.
    #[error("key {id} is not usable here: {reason}")]
    UnsupportedKey {
        /// The id.
        id: KeyId,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token does not vouch that the private half was made inside and never could leave.
    #[error("key {key} is refused: {}", .attributes.join(", "))]
    UnsafeKey {
        /// The key.
        key: KeyRef,
        /// Each attribute that is missing or not as it must be.
        attributes: Vec<&'static str>,
    },
    /// The backend returned a signature that the key's public half does not verify. It was thrown
    /// away.
    #[error("the signature made for key {id} does not verify with its public key")]
    WrongSignature {
        /// The id.
        id: KeyId,
    },
    /// A signature of another width than its algorithm has.
    #[error("a signature of {bytes} bytes is not one of {algorithm}")]
    SignatureWidth {
        /// The algorithm.
        algorithm: SignatureAlgorithm,
        /// The width seen.
        bytes: usize,
    },
    /// The queue in front of the sessions is full; the call was not started.
    #[error("signer queue is full; there is room in {} ms", .retry_after.as_millis())]
    Busy {
        /// What waits is done after this time, at the pace of late.
        retry_after: Duration,
    },
    /// Every session is inside a call that outlived its caller; the call was not started.
    #[error("all {sessions} sessions hang inside the module")]
    Stalled {
        /// How many.
        sessions: u32,
    },
    /// No answer in time. The call may still happen.
    #[error("no answer from the signer within {after:?}")]
    Deadline {
        /// How long the caller waited.
        after: Duration,
    },
    /// The signer was shut down.
    #[error("signer is closed")]
    Closed,
    /// A PKCS#11 call failed.
    #[error("{call} failed: {ckr}")]
    Call {
        /// The function, such as `C_Sign`.
        call: String,
        /// What it returned.
        ckr: Ckr,
    },
    /// A PKCS#11 call succeeded with an answer that makes no sense.
    #[error("answer of the PKCS#11 module makes no sense: {problem}")]
    Answer {
        /// What could not be understood.
        problem: String,
    },
    /// aws-lc-rs could not do it.
    #[error("{operation} failed in the crypto library")]
    Crypto {
        /// What was tried.
        operation: &'static str,
    },
    /// The module file is not there.
    #[error("no PKCS#11 module at {}: install the vendor's library or correct the path", .path.display())]
    ModuleMissing {
        /// The path as configured.
        path: PathBuf,
    },
    /// The file is not a PKCS#11 module that this process can load.
    #[error("{} is not a usable PKCS#11 module: {reason}", .path.display())]
    ModuleUnusable {
        /// The path as configured.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// Another thread began to initialise this module and has not come back.
    #[error("PKCS#11 module {} does not finish initialising", .path.display())]
    ModuleStuck {
        /// The path as configured.
        path: PathBuf,
    },
    /// The token is lost, and a call that does not come back keeps the module from being
    /// initialised anew.
    #[error(
        "{lost}; a call has not come back from the PKCS#11 module for {seconds} s, so that it \
         cannot be initialised anew: if that lasts, restart this node"
    )]
    ModuleHeld {
        /// What is wrong with the token.
        lost: Box<SignerError>,
        /// How long that call has taken.
        seconds: u64,
    },
    /// No token fits.
    #[error("no token with {wanted}; {}", TokenName::list(.found))]
    TokenNotFound {
        /// What was looked for.
        wanted: String,
        /// The tokens that the module shows.
        found: Vec<TokenName>,
    },
    /// Several tokens fit.
    #[error("several tokens with {wanted}: {}; choose one by its serial", TokenName::list(.found))]
    TokenAmbiguous {
        /// What was looked for.
        wanted: String,
        /// Those that fit.
        found: Vec<TokenName>,
    },
    /// The token's session limit leaves no room for even one signing session.
    #[error("token {token} allows {limit} sessions, at least {needed} are needed")]
    TooFewSessions {
        /// The token.
        token: TokenName,
        /// What it allows.
        limit: u64,
        /// What is needed.
        needed: u64,
    },
    /// The PIN file cannot be used.
    #[error("PIN file {}: {problem}", .path.display())]
    PinFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: SecretFileProblem,
    },
    /// The passphrase file cannot be used.
    #[error("passphrase file {}: {problem}", .path.display())]
    PassphraseFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: SecretFileProblem,
    },
    /// The directory of the keys cannot be used.
    #[error("key directory {}: {problem}", .path.display())]
    KeyDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        problem: KeyDirectoryProblem,
    },
    /// A file in the directory of the keys is refused, or could not be written or removed.
    #[error("key file {}: {problem}", .path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: KeyFileProblem,
    },
    /// The token refused the PIN, now or earlier in this process. Tried once, never again.
    #[error("{} for token {token}; not tried again ({ckr}): {}", pin_refusal(*.ckr), pin_remedy(*.ckr))]
    PinRefused {
        /// The token.
        token: TokenName,
        /// What it answered.
        ckr: Ckr,
    },
    /// The token warns that failed logins have cost it attempts; no login was tried.
    #[error("token {token} shows {warning}; no login tried: {}", .warning.remedy())]
    PinGuarded {
        /// The token.
        token: TokenName,
        /// What it shows.
        warning: PinWarning,
    },
    /// No login was tried, because of one that was or is.
    #[error(transparent)]
    Login(#[from] LoginBarred),
    /// The record of PINs that were tried cannot be used; no login was tried.
    #[error("no login tried: the record of PIN attempts {} {problem}", .path.display())]
    PinRecord {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: PinRecordProblem,
    },
    /// Since this start the module has not come back from a call.
    #[error("PKCS#11 module {} has not answered since this server started", .module.display())]
    NoAnswerYet {
        /// The path as configured.
        module: PathBuf,
    },
    /// A token to be initialised is named by its serial alone.
    #[error("a new token needs a label: a serial is the token's own choice")]
    LabelNeeded,
    /// No token is left to be initialised.
    #[error("no uninitialised token to become the one with {wanted}; {}", SlotSeen::list(.found))]
    NoBlankToken {
        /// What was to be made.
        wanted: String,
        /// Every slot of the module.
        found: Vec<SlotSeen>,
    },
    /// The token refused the security officer's PIN. Tried once.
    #[error(
        "token {token} refused the security officer's PIN; not tried again ({ckr}): correct its file first"
    )]
    SoPinRefused {
        /// The token.
        token: TokenName,
        /// What it answered.
        ckr: Ckr,
    },
    /// One more wrong PIN of the security officer's would lock it, or has; no login was tried.
    #[error(
        "the security officer's PIN of token {token} is locked or has one attempt left; no login tried: \
         set the user PIN with the vendor's tool"
    )]
    SoPinAtRisk {
        /// The token.
        token: TokenName,
    },
    /// A configured value is outside its bounds.
    #[error("{field} must be {bounds}")]
    Config {
        /// The field.
        field: &'static str,
        /// What it may be.
        bounds: &'static str,
    },
    /// The backend holds as many keys as it may, or lists more objects than can be read.
    #[error("more than {limit} keys")]
    TooManyKeys {
        /// The limit.
        limit: usize,
    },
    /// The system gave no thread.
    #[error("no thread for the signer: {kind}")]
    Thread {
        /// Why.
        kind: std::io::ErrorKind,
    },
}

/// What may be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same call may succeed a little later.
    Retry,
    /// Session, login or device was lost. The signer opens it anew by itself at the next call.
    Reopen,
    /// The same call will fail again until somebody changes something.
    GiveUp,
}

impl SignerError {
    /// Whether, and how, the call may be tried again. PIN errors never may.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Busy { .. }
            | Self::Stalled { .. }
            | Self::Deadline { .. }
            | Self::ModuleStuck { .. } => Retry::Retry,
            Self::Call { ckr, .. } => match ckr.loss() {
                Loss::Session | Loss::Device => Retry::Reopen,
                Loss::None if ckr.is_passing() => Retry::Retry,
                Loss::None => Retry::GiveUp,
            },
            Self::WrongSignature { .. } | Self::TokenNotFound { .. } | Self::ModuleHeld { .. } => {
                Retry::Reopen
            }
            Self::Thread { .. } | Self::NoAnswerYet { .. } => Retry::Retry,
            Self::Login(barred) if barred.passes() => Retry::Retry,
            Self::NotFound { .. }
            | Self::Ambiguous { .. }
            | Self::PublicHalfMissing { .. }
            | Self::AlreadyExists { .. }
            | Self::LabelMismatch { .. }
            | Self::LabelLength { .. }
            | Self::AlgorithmMismatch { .. }
            | Self::UnsupportedKey { .. }
            | Self::UnsafeKey { .. }
            | Self::SignatureWidth { .. }
            | Self::Closed
            | Self::Answer { .. }
            | Self::Crypto { .. }
            | Self::ModuleMissing { .. }
            | Self::ModuleUnusable { .. }
            | Self::TokenAmbiguous { .. }
            | Self::TooFewSessions { .. }
            | Self::PinFile { .. }
            | Self::PassphraseFile { .. }
            | Self::KeyDirectory { .. }
            | Self::KeyFile { .. }
            | Self::PinRefused { .. }
            | Self::PinGuarded { .. }
            | Self::Login(_)
            | Self::PinRecord { .. }
            | Self::LabelNeeded
            | Self::NoBlankToken { .. }
            | Self::SoPinRefused { .. }
            | Self::SoPinAtRisk { .. }
            | Self::Config { .. }
            | Self::TooManyKeys { .. } => Retry::GiveUp,
        }
    }

    /// A short, fixed name: the `result` label of the metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Ambiguous { .. } => "ambiguous",
            Self::PublicHalfMissing { .. } => "public_half_missing",
            Self::AlreadyExists { .. } => "already_exists",
            Self::LabelMismatch { .. } => "label_mismatch",
            Self::LabelLength { .. } => "label_length",
            Self::AlgorithmMismatch { .. } => "algorithm_mismatch",
            Self::UnsupportedKey { .. } => "unsupported_key",
            Self::UnsafeKey { .. } => "unsafe_key",
            Self::WrongSignature { .. } => "wrong_signature",
            Self::SignatureWidth { .. } => "signature_width",
            Self::Busy { .. } => "busy",
            Self::Stalled { .. } => "stalled",
            Self::Deadline { .. } => "deadline",
            Self::Closed => "closed",
            Self::Call { ckr, .. } => match ckr.loss() {
                Loss::Session => "session_lost",
                Loss::Device => "device_lost",
                Loss::None => "call_failed",
            },
            Self::Answer { .. } => "answer",
            Self::Crypto { .. } => "crypto",
            Self::ModuleMissing { .. }
            | Self::ModuleUnusable { .. }
            | Self::ModuleStuck { .. }
            | Self::NoAnswerYet { .. } => "module",
            Self::ModuleHeld { .. } => "module_held",
            Self::TokenNotFound { .. } => "token_not_found",
            Self::TokenAmbiguous { .. } => "token_ambiguous",
            Self::TooFewSessions { .. } => "too_few_sessions",
            Self::PinFile { .. } => "pin_file",
            Self::PassphraseFile { .. } => "passphrase_file",
            Self::KeyDirectory { .. } => "key_directory",
            Self::KeyFile { .. } => "key_file",
            Self::PinRefused { .. } => "pin_refused",
            Self::PinGuarded { .. } => "pin_guarded",
            Self::Login(barred) => barred.kind(),
            Self::PinRecord { .. } => "pin_record",
            Self::LabelNeeded => "label_needed",
            Self::NoBlankToken { .. } => "no_blank_token",
            Self::SoPinRefused { .. } => "so_pin_refused",
            Self::SoPinAtRisk { .. } => "so_pin_at_risk",
            Self::Config { .. } => "config",
            Self::TooManyKeys { .. } => "too_many_keys",
            Self::Thread { .. } => "thread",
        }
    }

    /// Keeps the call and the return code; other errors of the wrapper are answers that it could
    /// not read.
    pub(crate) fn from_cryptoki(error: CryptokiError) -> Self {
        match error {
            CryptokiError::Pkcs11(code, function) => Self::Call {
                call: format!("C_{function:?}"),
                ckr: Ckr::new(code),
            },
            other => Self::Answer {
                problem: other.to_string(),
            },
        }
    }
}

/// A token as people know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenName {
    /// `CK_TOKEN_INFO.label` without its padding.
    pub label: String,
    /// `CK_TOKEN_INFO.serialNumber` without its padding.
    pub serial: String,
}

impl TokenName {
    fn list(tokens: &[Self]) -> String {
        if tokens.is_empty() {
            return "the module shows no initialised token".into();
        }
        let names: Vec<String> = tokens.iter().map(Self::to_string).collect();
        format!("found {}", names.join(", "))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" (serial {})", self.label, self.serial)
    }
}

/// A slot, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSeen {
    /// Its number, good until the module numbers its slots anew.
    pub slot: u64,
    /// What is in it.
    pub content: SlotContent,
}

/// What is in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotContent {
    /// Nothing.
    Empty,
    /// A token that was never initialised.
    Blank {
        /// Its serial number; empty where it gets one only when it is initialised.
        serial: String,
    },
    /// An initialised token.
    Token(TokenName),
}

impl SlotSeen {
    fn list(slots: &[Self]) -> String {
        if slots.is_empty() {
            return "the module shows no slot".into();
        }
        let slots: Vec<String> = slots.iter().map(Self::to_string).collect();
        format!("found {}", slots.join(", "))
    }
}

impl fmt::Display for SlotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}: ", self.slot)?;
        match &self.content {
            SlotContent::Empty => f.write_str("empty"),
            SlotContent::Blank { serial } if serial.is_empty() => {
                f.write_str("uninitialised, without a serial")
            }
            SlotContent::Blank { serial } => write!(f, "uninitialised (serial {serial})"),
            SlotContent::Token(token) => write!(f, "token {token}"),
        }
    }
}

/// Why a PIN or passphrase file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFileProblem {
    /// It is not there.
    #[error("not found; write the secret into it, mode 0600")]
    Missing,
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(std::io::ErrorKind),
    /// It is a directory, a device, a pipe.
    #[error("not a regular file")]
    NotRegular,
    /// Others than its owner have some right to it.
    #[error("mode {0:04o} lets others than its owner at it; chmod 0600 it")]
    Mode(u32),
    /// Nothing is in it.
    #[error("empty")]
    Empty,
    /// A passphrase that could be guessed.
    #[error("holds {bytes} bytes; a passphrase has at least {min}")]
    TooShort {
        /// Bytes found, without a line ending.
        bytes: usize,
        /// Fewest bytes.
        min: usize,
    },
    /// More than a secret of its kind is in it.
    #[error("longer than it may be")]
    TooLong,
    /// A new PIN that is not UTF-8.
    #[error("not UTF-8 text, which a new PIN must be")]
    NotText,
    /// A new PIN that the token would not take.
    #[error("not of a length that the token takes, which is {min} to {max} bytes")]
    Length {
        /// Fewest bytes.
        min: usize,
        /// Most bytes.
        max: usize,
    },
}

/// What a token shows about failed logins (`CKF_USER_PIN_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinWarning {
    /// At least one wrong PIN since the last login.
    CountLow,
    /// One more wrong PIN locks it.
    FinalTry,
    /// It is locked.
    Locked,
    /// The PIN must be changed first.
    MustChange,
    /// No user PIN was ever set.
    NotSet,
}

impl PinWarning {
    fn remedy(self) -> &'static str {
        match self {
            Self::CountLow | Self::FinalTry => {
                "make sure that the PIN file is right, then allow one attempt with `chancery hsm retry`"
            }
            Self::Locked => "unlock it with the security officer's PIN",
            Self::MustChange => {
                "change the PIN with the vendor's tool and write the new one into the PIN file"
            }
            Self::NotSet => "set the user PIN with `chancery hsm init`",
        }
    }
}

impl fmt::Display for PinWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CountLow => "an earlier wrong PIN (USER_PIN_COUNT_LOW)",
            Self::FinalTry => "one attempt left (USER_PIN_FINAL_TRY)",
            Self::Locked => "a locked PIN (USER_PIN_LOCKED)",
            Self::MustChange => "a PIN to be changed (USER_PIN_TO_BE_CHANGED)",
            Self::NotSet => "no user PIN",
        })
    }
}

fn pin_refusal(ckr: Ckr) -> &'static str {
    match ckr.code() {
        RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid => "wrong PIN",
        RvError::PinLocked => "locked PIN",
        RvError::PinExpired => "expired PIN",
        _ => "login refused",
    }
}

fn pin_remedy(ckr: Ckr) -> &'static str {
    match ckr.code() {
        RvError::PinLocked => {
            "unlock it with the security officer's PIN, then run `chancery hsm retry`"
        }
        RvError::PinExpired => {
            "change it with the vendor's tool, correct the PIN file, then run `chancery hsm retry`"
        }
        _ => "correct the PIN file, then run `chancery hsm retry`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(code: RvError) -> SignerError {
        SignerError::Call {
            call: "C_Sign".into(),
            ckr: Ckr::new(code),
        }
    }

    #[test]
    fn every_known_sign_of_a_lost_token_asks_for_reopening() {
        for code in [
            RvError::SessionHandleInvalid,
            RvError::ObjectHandleInvalid,
            RvError::KeyHandleInvalid,
            RvError::UserNotLoggedIn,
            RvError::DeviceError,
            RvError::DeviceRemoved,
            RvError::TokenNotPresent,
            RvError::GeneralError,
            RvError::CryptokiNotInitialized,
        ] {
            assert_eq!(call(code).retry(), Retry::Reopen, "{code:?}");
        }
        assert_eq!(
            call(RvError::DeviceError).to_string(),
            "C_Sign failed: CKR_DEVICE_ERROR"
        );
        assert_eq!(call(RvError::SessionCount).retry(), Retry::Retry);
        assert_eq!(call(RvError::MechanismInvalid).retry(), Retry::GiveUp);
    }

    #[test]
    fn pin_errors_are_never_retryable() {
        let token = TokenName {
            label: "ca".into(),
            serial: "1".into(),
        };
        for code in [
            RvError::PinIncorrect,
            RvError::PinLocked,
            RvError::PinExpired,
            RvError::VendorDefined(1),
        ] {
            let refused = SignerError::PinRefused {
                token: token.clone(),
                ckr: Ckr::new(code),
            };
            assert_eq!(refused.retry(), Retry::GiveUp);
            // A vendor's own code means nothing certain but from a login.
            let vague = matches!(code, RvError::VendorDefined(_));
            assert!(vague || call(code).retry() == Retry::GiveUp, "{code:?}");
        }
        let guarded = SignerError::PinGuarded {
            token,
            warning: PinWarning::CountLow,
        };
        assert_eq!(guarded.retry(), Retry::GiveUp);
    }

    #[test]
    fn a_module_without_a_blank_token_is_described_slot_by_slot() {
        let token = TokenName {
            label: "ca".into(),
            serial: "42".into(),
        };
        let slots = [
            SlotContent::Token(token),
            SlotContent::Empty,
            SlotContent::Blank {
                serial: String::new(),
            },
            SlotContent::Blank {
                serial: "43".into(),
            },
        ];
        let found = slots.into_iter().zip(7..);
        let error = SignerError::NoBlankToken {
            wanted: "label \"new\" and serial 44".into(),
            found: found
                .map(|(content, slot)| SlotSeen { slot, content })
                .collect(),
        };
        assert_eq!(
            error.to_string(),
            "no uninitialised token to become the one with label \"new\" and serial 44; found \
             slot 7: token \"ca\" (serial 42), slot 8: empty, \
             slot 9: uninitialised, without a serial, slot 10: uninitialised (serial 43)"
        );
    }

    #[test]
    fn wrong_pin_says_that_it_was_not_tried_again_and_what_to_do() {
        let error = SignerError::PinRefused {
            token: TokenName {
                label: "ca".into(),
                serial: "42".into(),
            },
            ckr: Ckr::new(RvError::PinIncorrect),
        };
        assert_eq!(
            error.to_string(),
            "wrong PIN for token \"ca\" (serial 42); not tried again (CKR_PIN_INCORRECT): \
             correct the PIN file, then run `chancery hsm retry`"
        );
    }
}
