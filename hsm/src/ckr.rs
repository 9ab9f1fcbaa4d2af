//! PKCS#11 return codes: their standard names, and what each says is gone.
//!
//! The one table of what vendors return after a token was lost; nothing else looks at codes, except
//! the login, which has a stricter rule of its own.

use std::fmt;

use cryptoki::error::RvError;

/// What a return code says is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing.
    None,
    /// The session, its login or its handles; a new session may do.
    Session,
    /// The token or the module's connection to it.
    Device,
}

/// A PKCS#11 return code (`CK_RV`), shown by the name that the standard gives it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ckr(RvError);

impl Ckr {
    pub(crate) const fn new(code: RvError) -> Self {
        Self(code)
    }

    pub(crate) const fn code(self) -> RvError {
        self.0
    }

    /// Vendors differ in what they return after a token was lost; this one table knows all the ways
    /// seen.
    pub(crate) fn loss(self) -> Loss {
        match self.0 {
            RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::KeyTypeInconsistent
            | RvError::UserNotLoggedIn
            | RvError::OperationActive
            | RvError::OperationNotInitialized
            | RvError::SessionReadOnly
            | RvError::BufferTooSmall => Loss::Session,
            RvError::DeviceError
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::MutexBad
            | RvError::CryptokiNotInitialized
            // A vendor's own: what is tried after a loss does no harm where there was none.
            | RvError::VendorDefined(_)
            | RvError::UnknownErrorCode(_) => Loss::Device,
            _ => Loss::None,
        }
    }

    /// Whether the session itself is gone for certain, so that closing it could only hit one that
    /// was given its handle since.
    pub(crate) fn session_is_gone(self) -> bool {
        matches!(
            self.0,
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::CryptokiNotInitialized
        )
    }

    /// A shortage that passes.
    pub(crate) fn is_passing(self) -> bool {
        matches!(
            self.0,
            RvError::HostMemory
                | RvError::DeviceMemory
                | RvError::SessionCount
                | RvError::FunctionCanceled
                | RvError::FunctionRejected
                | RvError::Cancel
        )
    }
}

impl fmt::Display for Ckr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => {
                write!(f, "CK_RV {code:#010x}")
            }
            // The wrapper's variants are the standard's names in another case, without exception.
            named => {
                f.write_str("CKR")?;
                for c in format!("{named:?}").chars() {
                    if c.is_ascii_uppercase() {
                        f.write_str("_")?;
                    }
                    write!(f, "{}", c.to_ascii_uppercase())?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Ckr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_codes_are_shown_by_their_standard_names() {
        for (code, name) in [
            (RvError::PinIncorrect, "CKR_PIN_INCORRECT"),
            (RvError::SessionHandleInvalid, "CKR_SESSION_HANDLE_INVALID"),
            (RvError::UserAlreadyLoggedIn, "CKR_USER_ALREADY_LOGGED_IN"),
            (RvError::SlotIdInvalid, "CKR_SLOT_ID_INVALID"),
            (RvError::VendorDefined(0x8000_0001), "CK_RV 0x80000001"),
        ] {
            assert_eq!(Ckr::new(code).to_string(), name);
        }
    }
}
