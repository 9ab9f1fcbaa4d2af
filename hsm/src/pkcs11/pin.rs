//! PINs: read from files that only their owner can read, held for one use, wiped.

use std::ops::RangeInclusive;
use std::path::Path;

use cryptoki::types::{AuthPin, RawAuthPin};
use zeroize::Zeroizing;

use crate::error::{SecretFileProblem, SignerError};
use crate::secret_file;

/// Longer than the PIN of any token (`CK_TOKEN_INFO.ulMaxPinLen` is 255 at most where known).
const PIN_BYTES_MAX: usize = 255;

/// A PIN. Cannot be shown, cloned or compared; wiped when dropped.
pub(super) struct Pin(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin")
    }
}

impl Pin {
    /// Reads the PIN anew: an operator may have corrected the file. One line ending is cut off.
    pub(super) fn read(path: &Path) -> Result<Self, SignerError> {
        let bytes = secret_file::read(path, PIN_BYTES_MAX);
        Ok(Self(bytes.map_err(|problem| unusable(path, problem))?))
    }

    /// For the module, wiped when dropped as well.
    pub(super) fn for_login(&self) -> RawAuthPin {
        RawAuthPin::new(Box::new(self.0.to_vec()))
    }

    /// To know it again by.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A PIN that a token is to have. It must be text, as the standard wants a PIN (PKCS#11 §2.3), and
/// not only bytes that a token once took.
#[derive(Debug)]
pub(super) struct NewPin(AuthPin);

impl NewPin {
    /// Reads it and refuses one that is not of a length the token takes.
    pub(super) fn read(path: &Path, lengths: RangeInclusive<usize>) -> Result<Self, SignerError> {
        let refuse = |problem| unusable(path, problem);
        let bytes = secret_file::read(path, PIN_BYTES_MAX).map_err(refuse)?;
        if !lengths.contains(&bytes.len()) {
            return Err(refuse(SecretFileProblem::Length {
                min: *lengths.start(),
                max: *lengths.end(),
            }));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| refuse(SecretFileProblem::NotText))?;
        // Of its final size at once: growing would leave a copy that nobody wipes.
        Ok(Self(AuthPin::new(Box::from(text))))
    }

    pub(super) fn for_token(&self) -> &AuthPin {
        &self.0
    }
}

fn unusable(path: &Path, problem: SecretFileProblem) -> SignerError {
    SignerError::PinFile {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pin");
        fs::write(&path, content).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("sets the mode");
        (dir, path)
    }

    fn problem(content: &[u8], mode: u32) -> SecretFileProblem {
        let (_dir, path) = file(content, mode);
        match Pin::read(&path) {
            Err(SignerError::PinFile {
                path: named,
                problem,
            }) => {
                assert_eq!(named, path);
                problem
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_open_to_others_are_refused_with_their_mode() {
        for mode in [0o644, 0o640, 0o604, 0o610] {
            assert_eq!(problem(b"1234", mode), SecretFileProblem::Mode(mode));
        }
        let (_dir, path) = file(b"1234", 0o644);
        let text = Pin::read(&path).expect_err("mode").to_string();
        assert!(
            text.contains("mode 0644") && text.contains("chmod 0600"),
            "{text}"
        );
    }

    #[test]
    fn missing_empty_long_and_irregular_files_are_told_apart() {
        assert_eq!(problem(b"", 0o600), SecretFileProblem::Empty);
        assert_eq!(problem(b"\n", 0o600), SecretFileProblem::Empty);
        assert_eq!(problem(&[b'1'; 256], 0o600), SecretFileProblem::TooLong);
        assert_eq!(problem(&[b'1'; 5000], 0o600), SecretFileProblem::TooLong);
        let dir = tempfile::tempdir().expect("a directory");
        for (path, wanted) in [
            (dir.path().join("none"), SecretFileProblem::Missing),
            (dir.path().to_owned(), SecretFileProblem::NotRegular),
        ] {
            let error = Pin::read(&path).expect_err("refused");
            assert_eq!(
                error,
                SignerError::PinFile {
                    path,
                    problem: wanted
                }
            );
        }
    }

    #[test]
    fn the_longest_pin_is_read_with_and_without_its_line_ending() {
        for ending in [&b""[..], b"\n", b"\r\n"] {
            let (_dir, path) = file(&[&[b'1'; PIN_BYTES_MAX][..], ending].concat(), 0o600);
            assert!(Pin::read(&path).is_ok());
        }
    }

    #[test]
    fn a_new_pin_is_text_of_a_length_that_the_token_takes() {
        for (content, wanted) in [
            (
                &b"123"[..],
                Some(SecretFileProblem::Length { min: 4, max: 8 }),
            ),
            (b"1234\n", None),
            (b"12345678\n", None),
            (
                b"123456789\n",
                Some(SecretFileProblem::Length { min: 4, max: 8 }),
            ),
            (b"\xff\xfe\xfd\xfc", Some(SecretFileProblem::NotText)),
            (b"", Some(SecretFileProblem::Empty)),
        ] {
            let (_dir, path) = file(content, 0o600);
            let problem = match NewPin::read(&path, 4..=8) {
                Ok(_) => None,
                Err(SignerError::PinFile { problem, .. }) => Some(problem),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(problem, wanted, "{content:?}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_the_pin() {
        let (_dir, path) = file(b"canary-4711\n", 0o600);
        let shown = format!(
            "{:?} {:?}",
            Pin::read(&path).expect("reads"),
            NewPin::read(&path, 4..=255).expect("reads")
        );
        assert!(!shown.contains("4711"), "{shown}");
        let as_numbers = format!("{:?}", b"canary-4711");
        assert!(
            !shown.contains(&as_numbers[1..as_numbers.len() - 1]),
            "{shown}"
        );
    }
}
