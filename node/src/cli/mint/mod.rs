//! `x509 mint` and `jwt mint`: documents for somebody who cannot attest.
//!
//! What both have in common: lifetimes in Go's notation, and files that are readable by whom they
//! are for.

mod jwt;
mod x509;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

pub(super) use jwt::{Verb as JwtVerb, read_as_token};
pub(super) use x509::Verb as X509Verb;

use super::error::CliError;
use crate::environment::random;

/// A lifetime for the wire: seconds, a started one counts whole.
fn ttl_seconds(ttl: Duration) -> Result<i32, CliError> {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i32::try_from(seconds).map_err(|_| CliError::Range {
        what: "TTL",
        value: i64::try_from(seconds).unwrap_or(i64::MAX),
    })
}

/// Whether a document ends earlier than asked for. The clock may stand anywhere in its second.
fn is_capped(expires_at: i64, ttl: Duration, now_unix_s: i64) -> bool {
    let ttl_s = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    expires_at.saturating_sub(now_unix_s) < ttl_s
}

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
enum Readers {
    /// Its owner: it holds a secret.
    Owner,
    /// Everyone, as far as the process's mask lets.
    Everyone,
}

/// Writes a file, in place of what stood there, whole or not at all. A secret never stands in a
/// file that others can read or have open: it is written into one of its own, which then takes the
/// name. What is no file, like a terminal, is written to.
fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), CliError> {
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::Everyone => 0o644,
    };
    let write = || {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return OpenOptions::new().write(true).open(path)?.write_all(bytes);
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let temporary = folder.join(format!(".{}", hex::encode(random::<8>())));
        let put = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(folder)?.sync_all()
        };
        put().inspect_err(|_| {
            // Gone already, if it has its name or was never made.
            let _ = fs::remove_file(&temporary);
        })
    };
    write().map_err(|source: io::Error| CliError::Write {
        path: path.to_owned(),
        source,
    })
}

/// `path` as Go's `filepath.Join` prints it: without what says nothing.
fn cleaned(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match cleaned.components().next_back() {
                Some(Component::Normal(_)) => {
                    cleaned.pop();
                }
                Some(Component::RootDir) => {}
                _ => cleaned.push(".."),
            },
            component => cleaned.push(component),
        }
    }
    if cleaned.as_os_str().is_empty() {
        cleaned.push(".");
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_started_second_counts_whole() {
        for (ttl, seconds) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_secs(1), 1),
            (Duration::from_millis(1_500), 2),
        ] {
            assert_eq!(ttl_seconds(ttl).unwrap(), seconds);
        }
        let error = ttl_seconds(Duration::from_secs(1 << 31)).unwrap_err();
        assert_eq!(
            error.with_causes(),
            "invalid value for TTL: overflow converting int(2147483648) to int32"
        );
    }

    #[test]
    fn only_what_ends_earlier_is_capped() {
        let minute = Duration::from_secs(60);
        assert!(is_capped(1_059, minute, 1_000));
        assert!(!is_capped(1_060, minute, 1_000));
        assert!(!is_capped(1_000, Duration::ZERO, 1_000));
        assert!(is_capped(999, Duration::ZERO, 1_000));
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, clean) in [
            ("./svid.pem", "svid.pem"),
            ("/tmp//x/./svid.pem", "/tmp/x/svid.pem"),
            ("a/../svid.pem", "svid.pem"),
            ("../svid.pem", "../svid.pem"),
            ("../../svid.pem", "../../svid.pem"),
            ("/../svid.pem", "/svid.pem"),
            ("", "."),
        ] {
            assert_eq!(cleaned(Path::new(path)), Path::new(clean), "{path}");
        }
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "old and longer").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut opened = std::fs::File::open(&path).unwrap();
        write(&path, b"secret", Readers::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        // Whoever had the old file open reads what was in it.
        let mut before = String::new();
        std::io::Read::read_to_string(&mut opened, &mut before).unwrap();
        assert_eq!(before, "old and longer");
        let aside = folder.path().join("elsewhere.pem");
        std::os::unix::fs::symlink(&aside, folder.path().join("link.pem")).unwrap();
        write(&folder.path().join("link.pem"), b"secret", Readers::Owner).unwrap();
        assert!(!aside.exists(), "no link leads a secret elsewhere");
        write(Path::new("/dev/null"), b"secret", Readers::Owner).unwrap();
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2, "nothing is left aside");

        let path = folder.path().join("svid.pem");
        write(&path, b"public", Readers::Everyone).unwrap();
        assert_eq!(
            mode(&path) & 0o711,
            0o600,
            "others may read it, none runs it"
        );

        let error = write(Path::new("/nonexistent/key.pem"), b"", Readers::Owner).unwrap_err();
        assert!(
            error
                .with_causes()
                .starts_with("cannot write /nonexistent/key.pem: ")
        );
    }
}
