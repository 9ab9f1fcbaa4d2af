//! What a registration entry's own fields may say: its id and its hint.
//!
//! The text of each refusal is the part SPIRE gives after its prefixes
//! (`failed to convert entry: `, `datastore-validation: `), which belong to the
//! service that answers.

use std::fmt;

/// Longest hint, in bytes.
pub const HINT_BYTES_MAX: usize = 1024;

/// Longest entry id, in characters (all of them ASCII).
pub const ENTRY_ID_CHARS_MAX: usize = 255;

/// Why a field of an entry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFieldError {
    /// The hint is longer than [`HINT_BYTES_MAX`].
    #[error("hint is too long, max length is {HINT_BYTES_MAX} characters")]
    HintTooLong,
    /// The id is longer than [`ENTRY_ID_CHARS_MAX`].
    #[error("invalid registration entry: entry ID too long")]
    IdTooLong,
    /// The id has a character outside `[A-Za-z0-9._-]`.
    #[error("invalid registration entry: entry ID contains invalid characters")]
    IdInvalidCharacters,
    /// The id is empty; a caller that wants one chosen does not ask for a check.
    #[error("invalid registration entry: missing entry ID")]
    IdMissing,
}

/// The id of a registration entry: 1 to 255 of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(String);

impl EntryId {
    /// Checks an id given by a client or read back from storage.
    ///
    /// # Errors
    /// The id variants of [`EntryFieldError`].
    pub fn parse(id: impl Into<String>) -> Result<Self, EntryFieldError> {
        let id = id.into();
        if id.is_empty() {
            return Err(EntryFieldError::IdMissing);
        }
        if id.len() > ENTRY_ID_CHARS_MAX {
            return Err(EntryFieldError::IdTooLong);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !id.bytes().all(allowed) {
            return Err(EntryFieldError::IdInvalidCharacters);
        }
        Ok(EntryId(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the hint that tells a workload which of its identities to use.
///
/// # Errors
/// [`EntryFieldError::HintTooLong`].
pub fn validate_hint(hint: &str) -> Result<(), EntryFieldError> {
    if hint.len() > HINT_BYTES_MAX {
        return Err(EntryFieldError::HintTooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded_in_length_and_characters() {
        assert!(EntryId::parse("A-z_0.9").is_ok());
        assert!(EntryId::parse("a".repeat(255)).is_ok());
        assert_eq!(
            EntryId::parse("a".repeat(256)),
            Err(EntryFieldError::IdTooLong)
        );
        for id in ["a b", "a/b", "ä", "a\0"] {
            assert_eq!(
                EntryId::parse(id),
                Err(EntryFieldError::IdInvalidCharacters)
            );
        }
        assert_eq!(EntryId::parse(""), Err(EntryFieldError::IdMissing));
    }

    #[test]
    fn hints_are_bounded_in_bytes() {
        assert_eq!(validate_hint(&"é".repeat(512)), Ok(()));
        assert_eq!(
            validate_hint(&"é".repeat(513)).map_err(|error| error.to_string()),
            Err("hint is too long, max length is 1024 characters".to_owned())
        );
    }
}
