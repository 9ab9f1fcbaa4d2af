//! Files with a PIN or a passphrase.
//!
//! Promises: a secret is read only from a regular file that nobody but its owner has a right to,
//! and is wiped when dropped. Checked and read are the same open file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::SecretFileProblem;

/// Reads a secret of 1 to `bytes_max` bytes anew: an operator may have corrected the file. One line
/// ending is cut off.
pub(crate) fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, SecretFileProblem> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => SecretFileProblem::Missing,
        kind => SecretFileProblem::Unreadable(kind),
    };
    // Not blocking, so that a pipe put in its place cannot hold the thread.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    // Asked of the open file: what is checked is what is read.
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretFileProblem::NotRegular);
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileProblem::Mode(mode));
    }
    // Room for a line ending, and for one byte too many.
    let mut buffer = Zeroizing::new(vec![0; bytes_max + 3]);
    let length = fill(&mut file, &mut buffer[..]).map_err(unreadable)?;
    let secret = without_line_ending(&buffer[..length]);
    match secret.len() {
        0 => Err(SecretFileProblem::Empty),
        bytes if bytes <= bytes_max => Ok(Zeroizing::new(secret.to_vec())),
        _ => Err(SecretFileProblem::TooLong),
    }
}

/// Cuts one LF or CRLF, as editors leave it; anything else may be part of the secret.
fn without_line_ending(content: &[u8]) -> &[u8] {
    let line = content.strip_suffix(b"\n").unwrap_or(content);
    if line.len() < content.len() {
        line.strip_suffix(b"\r").unwrap_or(line)
    } else {
        line
    }
}

/// Fills the buffer or reaches the end, without a second buffer that nobody would wipe.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_ending_is_cut_and_nothing_else() {
        for (content, pin) in [
            (&b"1234"[..], &b"1234"[..]),
            (b"1234\n", b"1234"),
            (b"1234\r\n", b"1234"),
            (b"1234\n\n", b"1234\n"),
            (b"1234\r", b"1234\r"),
            (b" 1234 \n", b" 1234 "),
        ] {
            assert_eq!(without_line_ending(content), pin);
        }
    }
}
