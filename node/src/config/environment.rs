//! What only the machine can tell about a configuration: directories, files
//! and their modes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::Problem;
use super::checked::{Config, Keys, PinSource};
use super::secret::read_secret_file;

/// Shortest cluster secret, in bytes: 128 bits, were they random.
const CLUSTER_SECRET_BYTES_MIN: usize = 16;
const PIN_BYTES_MIN: usize = 1;
/// Variable in which systemd says where a service's credentials are.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// As the custody room wants it.
const PASSPHRASE_BYTES_MIN: usize = 16;

pub(super) fn check(config: &Config) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut report = |path: &str, outcome: Result<(), String>| {
        if let Err(message) = outcome {
            problems.push(Problem::new(path, message));
        }
    };
    report("data_dir", check_data_dir(&config.data_dir));
    if let Some(path) = &config.log_file {
        report("log_file", check_log_file(path));
    }
    report(
        "api.admin_socket",
        check_socket_dir(&config.api.admin_socket),
    );
    if let Some(path) = &config.cluster.secret_file {
        report(
            "cluster.secret_file",
            check_secret(path, CLUSTER_SECRET_BYTES_MIN),
        );
    }
    match &config.keys {
        Keys::Memory => {}
        Keys::Disk(disk) => {
            report("keys.disk.directory", check_key_dir(&disk.directory));
            if let Some(path) = &disk.passphrase_file {
                report(
                    "keys.disk.passphrase_file",
                    check_secret(path, PASSPHRASE_BYTES_MIN),
                );
            }
        }
        Keys::Pkcs11(token) => {
            report("keys.pkcs11.module", check_module(&token.module));
            let key = match &token.pin {
                PinSource::File(_) => "keys.pkcs11.pin_file",
                PinSource::Credential(_) => "keys.pkcs11.pin_credential",
            };
            let file = pin_file(&token.pin);
            report(
                key,
                file.and_then(|file| check_secret(&file, PIN_BYTES_MIN)),
            );
        }
    }
    if let Some(x509pop) = &config.node_attestors.x509pop {
        problems.extend(x509pop.check_files());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// The file with the PIN.
pub(super) fn pin_file(pin: &PinSource) -> Result<PathBuf, String> {
    match pin {
        PinSource::File(file) => Ok(file.clone()),
        PinSource::Credential(name) => {
            credential(name, std::env::var_os(CREDENTIALS_DIRECTORY).as_deref())
        }
    }
}

/// Where systemd puts the credential `name` (systemd.exec(5), `LoadCredential=`).
fn credential(name: &str, directory: Option<&OsStr>) -> Result<PathBuf, String> {
    match directory.map(Path::new) {
        Some(directory) if directory.is_absolute() => Ok(directory.join(name)),
        Some(directory) => Err(format!(
            "{CREDENTIALS_DIRECTORY} is {}, which is no absolute path",
            directory.display()
        )),
        None => Err(format!(
            "{CREDENTIALS_DIRECTORY} is not set, so there is no credential {name:?}: run the server as a systemd service \
             with LoadCredential={name}:FILE, or name the file in keys.pkcs11.pin_file"
        )),
    }
}

fn check_data_dir(path: &Path) -> Result<(), String> {
    check_own_dir(path, 0o022, "may write there")
}

/// What is in it is judged when it is opened.
fn check_key_dir(path: &Path) -> Result<(), String> {
    check_own_dir(path, 0o077, "may have a right to it")
}

/// A directory, or the place of one, on which others do not have the rights `not`.
fn check_own_dir(path: &Path, not: u32, said: &str) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => Err(format!("{} is not a directory", path.display())),
        Ok(found) => {
            let mode = found.mode() & 0o7777;
            if mode & not != 0 {
                return Err(format!(
                    "{} has mode {mode:04o}; nobody but its owner {said} (chmod 700)",
                    path.display()
                ));
            }
            writable(path)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match parent(path) {
            Some(parent) if parent.is_dir() => writable(parent),
            _ => Err(format!(
                "neither {} nor its parent directory exists",
                path.display()
            )),
        },
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Whether it can be appended to or made; it need not be a regular file.
fn check_log_file(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(format!("{} is a directory", path.display())),
        Ok(_) => allowed(path, Access::WRITE_OK),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match parent(path) {
            Some(parent) if parent.is_dir() => writable(parent),
            _ => Err(format!(
                "the directory of {} does not exist",
                path.display()
            )),
        },
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// The socket's directory is made if missing, so its nearest existing ancestor
/// is what counts.
fn check_socket_dir(path: &Path) -> Result<(), String> {
    let existing = path.ancestors().skip(1).find(|ancestor| ancestor.exists());
    match existing {
        Some(directory) if directory.is_dir() => writable(directory),
        Some(other) => Err(format!("{} is not a directory", other.display())),
        None => Err(format!("no directory above {} exists", path.display())),
    }
}

fn check_module(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(format!("{} is not a regular file", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(format!(
            "there is no {}; install the vendor's library or correct the path",
            path.display()
        )),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn check_secret(path: &Path, bytes_min: usize) -> Result<(), String> {
    read_secret_file(path, bytes_min)
        .map(drop)
        .map_err(|e| format!("{} {e}", path.display()))
}

fn parent(path: &Path) -> Option<&Path> {
    // The parent of a bare name is the current directory.
    path.parent().map(|p| {
        if p.as_os_str().is_empty() {
            Path::new(".")
        } else {
            p
        }
    })
}

/// Whether files can be made in the directory.
fn writable(path: &Path) -> Result<(), String> {
    allowed(path, Access::WRITE_OK | Access::EXEC_OK)
}

fn allowed(path: &Path, how: Access) -> Result<(), String> {
    access(path, how).map_err(|e| format!("{} is not writable by this user: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_looked_for_where_systemd_says() {
        let at = |directory: Option<&str>| credential("pin", directory.map(OsStr::new));
        assert_eq!(
            at(Some("/run/credentials/chancery.service")),
            Ok("/run/credentials/chancery.service/pin".into())
        );
        let missing = at(None).unwrap_err();
        assert!(missing.contains("LoadCredential=pin:FILE"), "{missing}");
        for wrong in ["", "credentials"] {
            assert!(at(Some(wrong)).unwrap_err().contains("no absolute path"));
        }
    }
}
