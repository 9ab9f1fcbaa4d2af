//! Secrets that the configuration names by file: the cluster secret, the PIN.
//!
//! Promises: a secret is read only from a regular file that nobody but its
//! owner can read, and the bytes are wiped when dropped. Checked and read are
//! the same open file, so a swap between the two is seen.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// No secret is longer; what is, is the wrong file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Why a secret file is not used. None of the messages holds its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Not there, or not readable by this user.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
    /// A directory, a pipe or a device.
    #[error("is not a regular file")]
    NotAFile,
    /// Others can read or change it.
    #[error("has mode {mode:04o}; it must be readable by its owner alone (chmod 600)")]
    Mode {
        /// Permission bits found.
        mode: u32,
    },
    /// Somebody else could change it.
    #[error(
        "belongs to user {owner}; it must belong to the user that runs the server ({user}) or to root"
    )]
    Owner {
        /// Owner of the file.
        owner: u32,
        /// Effective user of this process.
        user: u32,
    },
    /// Too short to be a secret.
    #[error("holds {bytes} bytes; it must hold at least {bytes_min}")]
    TooShort {
        /// Bytes found, without a trailing line end.
        bytes: usize,
        /// Bytes wanted.
        bytes_min: usize,
    },
    /// Longer than 64 KiB.
    #[error("is larger than {SECRET_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads a secret of at least `bytes_min` bytes. One line end at the end of the
/// file is not part of the secret, since editors and `echo` add one.
///
/// # Errors
/// See [`SecretFileError`].
pub fn read_secret_file(
    path: &Path,
    bytes_min: usize,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    // O_NONBLOCK: opening a pipe in place of the file must not hang the start.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(SecretFileError::Io)?;
    let metadata = file.metadata().map_err(SecretFileError::Io)?;
    judge(&metadata, rustix::process::geteuid().as_raw())?;
    let secret = read_bounded(&file, &metadata)?;
    if secret.len() < bytes_min {
        return Err(SecretFileError::TooShort {
            bytes: secret.len(),
            bytes_min,
        });
    }
    Ok(secret)
}

fn judge(metadata: &Metadata, user: u32) -> Result<(), SecretFileError> {
    if !metadata.is_file() {
        return Err(SecretFileError::NotAFile);
    }
    let owner = metadata.uid();
    if owner != user && owner != 0 {
        return Err(SecretFileError::Owner { owner, user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Mode { mode });
    }
    Ok(())
}

fn read_bounded(file: &File, metadata: &Metadata) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(SecretFileError::TooLong);
    }
    // One allocation that never grows: growing would leave copies behind.
    let capacity = usize::try_from(SECRET_BYTES_MAX).expect("64 KiB fit every usize") + 1;
    let mut secret = Zeroizing::new(vec![0; capacity]);
    let mut filled = 0;
    let mut file = file;
    while filled < secret.len() {
        match file.read(&mut secret[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(SecretFileError::Io(e)),
        }
    }
    if filled == secret.len() {
        return Err(SecretFileError::TooLong);
    }
    if secret[..filled].ends_with(b"\n") {
        filled -= 1;
        if secret[..filled].ends_with(b"\r") {
            filled -= 1;
        }
    }
    Ok(Zeroizing::new(secret[..filled].to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn file(dir: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join("secret");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn owner_only_files_are_read_without_their_line_end() {
        for mode in [0o600, 0o400] {
            for end in ["", "\n", "\r\n"] {
                let dir = tempfile::tempdir().unwrap();
                let path = file(&dir, format!("0123456789abcdef{end}").as_bytes(), mode);
                assert_eq!(
                    read_secret_file(&path, 16).unwrap().as_slice(),
                    b"0123456789abcdef"
                );
            }
        }
    }

    #[test]
    fn files_that_others_can_read_are_refused() {
        for mode in [0o640, 0o604, 0o644, 0o660, 0o610] {
            let dir = tempfile::tempdir().unwrap();
            let path = file(&dir, b"0123456789abcdef", mode);
            let error = read_secret_file(&path, 16).unwrap_err();
            assert!(
                matches!(error, SecretFileError::Mode { mode: found } if found == mode),
                "{error}"
            );
        }
    }

    #[test]
    fn short_long_and_strange_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir, b"0123456789abcde\n", 0o600);
        assert!(matches!(
            read_secret_file(&path, 16),
            Err(SecretFileError::TooShort {
                bytes: 15,
                bytes_min: 16
            })
        ));
        let path = file(&dir, &vec![b'x'; 70_000], 0o600);
        assert!(matches!(
            read_secret_file(&path, 16),
            Err(SecretFileError::TooLong)
        ));
        assert!(matches!(
            read_secret_file(dir.path(), 16),
            Err(SecretFileError::NotAFile)
        ));
        assert!(matches!(
            read_secret_file(&dir.path().join("absent"), 16),
            Err(SecretFileError::Io(_))
        ));
    }
}
