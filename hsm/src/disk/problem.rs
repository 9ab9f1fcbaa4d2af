//! What may be wrong with the directory of the keys, and with a file in it.

use std::io;

use crate::signer::KeyId;

/// Why a directory of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyDirectoryProblem {
    /// A call failed.
    #[error("cannot be {what}: {kind}")]
    Io {
        /// What was tried, as `made`.
        what: &'static str,
        /// Why it failed.
        kind: io::ErrorKind,
    },
    /// It is a file, a device, a pipe.
    #[error("not a directory")]
    NotADirectory,
    /// Others than its owner have some right to it.
    #[error("mode {0:04o} lets others than its owner at it; chmod 0700 it")]
    Mode(u32),
    /// It is somebody else's.
    #[error("belongs to user {owner}; it must belong to the user that runs the server ({user})")]
    Owner {
        /// Owner of the directory.
        owner: u32,
        /// Effective user of this process.
        user: u32,
    },
    /// Another process has its lock.
    #[error("another process uses it; stop that first, or give each server a directory of its own")]
    InUse,
}

/// What is wrong with a file in a directory of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileProblem {
    /// A call failed.
    #[error("cannot be {what}: {kind}")]
    Io {
        /// What was tried, as `written`.
        what: &'static str,
        /// Why it failed.
        kind: io::ErrorKind,
    },
    /// No key of ours has such a name.
    #[error("not a key file, and nothing else may be in this directory; move it elsewhere")]
    Foreign,
    /// It points to another file.
    #[error("a symbolic link; a key file must be in the directory itself")]
    Symlink,
    /// It is a directory, a device, a pipe.
    #[error("not a regular file")]
    NotRegular,
    /// Others than its owner have some right to it.
    #[error("mode {0:04o} lets others than its owner at it; chmod 0600 it")]
    Mode(u32),
    /// It is somebody else's.
    #[error("belongs to user {owner}; it must belong to the user that runs the server ({user})")]
    Owner {
        /// Owner of the file.
        owner: u32,
        /// Effective user of this process.
        user: u32,
    },
    /// It was put there since the directory was read.
    #[error("came into the directory while this process used it; start anew to have it read")]
    Appeared,
    /// It ends too early.
    #[error("torn: it ends after {bytes} bytes, before the end of what it begins")]
    Torn {
        /// Its length.
        bytes: usize,
    },
    /// It goes on behind its end.
    #[error("{bytes} bytes too long")]
    Trailing {
        /// How much is behind the end.
        bytes: usize,
    },
    /// It is longer than any key file.
    #[error("longer than any key file")]
    TooLong,
    /// It is something else.
    #[error("does not begin as a key file does")]
    Magic,
    /// It was written by another program.
    #[error("of format version {0}, which this program does not know")]
    Version(u16),
    /// It is protected in a way that is not known.
    #[error("protected in way {0}, which this program does not know")]
    Protection(u8),
    /// It is not as it was written.
    #[error("damaged: its checksum is not the one of its content")]
    Checksum,
    /// It is of a key type that is not known.
    #[error("of key type {0}, which this program does not know")]
    KeyType(u8),
    /// Its label is no text, or not of a length that labels have.
    #[error("its label is no label")]
    Label,
    /// Its public key is none, or of another type than the file says.
    #[error("its public key is refused: {0}")]
    PublicKey(&'static str),
    /// It was renamed, or copied over another.
    #[error("holds key {found}, not the one that it is named after")]
    OtherKey {
        /// The key in it.
        found: KeyId,
    },
    /// A passphrase is needed, and none is there.
    #[error("sealed, and no passphrase file is configured")]
    Sealed,
    /// The passphrase does not open it.
    #[error(
        "the passphrase does not open it: it was sealed with another one, or changed on purpose"
    )]
    Unsealing,
    /// The private key does not belong to the public one.
    #[error("its private key is malformed, or not the one of its public key")]
    PrivateKey,
}
