//! SoftHSM tokens that last as long as a test, each in a process of its own.
//!
//! A module is initialised once in a process and reads its configuration then; so a test that needs
//! a token of its own runs itself again as a child with `SOFTHSM2_CONF` set. No SoftHSM, no pass:
//! a test that cannot find it fails.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::pkcs11::{Pkcs11Config, TokenSelector};

/// Where distributions put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];
/// Tells a child which test it is.
const CHILD: &str = "CHANCERY_HSM_TEST";
/// Tells a child where its tokens are.
const DIRECTORY: &str = "CHANCERY_HSM_TEST_DIR";

/// A set of SoftHSM tokens in a directory.
#[derive(Debug, Clone)]
pub struct SoftHsm {
    dir: PathBuf,
}

impl SoftHsm {
    /// Makes an empty set of tokens below `dir`.
    ///
    /// # Panics
    /// Where the directory cannot be written.
    #[must_use]
    pub fn create(dir: &Path) -> Self {
        let tokens = dir.join("tokens");
        fs::create_dir_all(&tokens).expect("a directory for tokens");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(dir.join("softhsm2.conf"), conf).expect("a configuration");
        Self {
            dir: dir.to_owned(),
        }
    }

    /// What `SOFTHSM2_CONF` must be in a process that uses these tokens.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    /// The directory everything is in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The module.
    ///
    /// # Panics
    /// Where SoftHSM is not installed.
    #[must_use]
    pub fn module() -> PathBuf {
        MODULES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .expect("SoftHSM 2 is installed: apt-get install softhsm2")
    }

    /// Makes a token.
    ///
    /// # Panics
    /// Where `softhsm2-util` fails.
    pub fn init_token(&self, label: &str, pin: &str) {
        self.util(&[
            "--init-token",
            "--free",
            "--label",
            label,
            "--pin",
            pin,
            "--so-pin",
            "so-12345678",
        ]);
    }

    /// Runs `softhsm2-util` on these tokens, in a process of its own.
    ///
    /// # Panics
    /// Where it fails.
    pub fn util(&self, arguments: &[&str]) {
        let mut command = Command::new("softhsm2-util");
        run(command.args(arguments).env("SOFTHSM2_CONF", self.conf()));
    }

    /// Writes a PIN file that only its owner can read.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn write_pin(&self, name: &str, pin: &str) -> PathBuf {
        let path = self.dir.join(name);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .expect("a PIN file");
        writeln!(file, "{pin}").expect("a PIN");
        path
    }

    /// Makes a token with a PIN file, and a configuration for both.
    ///
    /// # Panics
    /// Where either cannot be made.
    #[must_use]
    pub fn token(&self, label: &str, pin: &str) -> Pkcs11Config {
        self.init_token(label, pin);
        let pin_file = self.write_pin(&format!("{label}.pin"), pin);
        let mut config =
            Pkcs11Config::new(Self::module(), TokenSelector::Label(label.into()), pin_file);
        // Slow machines that run many tests at once are no fault of a token.
        config.deadline = Duration::from_secs(60);
        config.generate_deadline = Duration::from_secs(600);
        config
    }
}

/// Runs `body` with an empty set of tokens in a child process of this test binary.
///
/// `test` is the full name of the calling test as `cargo test` prints it.
///
/// # Panics
/// Where `body` does, with all that the child said.
pub fn in_own_process(test: &str, body: impl FnOnce(SoftHsm)) {
    in_own_process_with(test, |_| Vec::new(), body);
}

/// The same, with further variables for the child, made by the parent from the child's directory:
/// for modules that read them when they are loaded.
///
/// # Panics
/// As [`in_own_process`].
pub fn in_own_process_with(
    test: &str,
    environment: impl FnOnce(&Path) -> Vec<(&'static str, OsString)>,
    body: impl FnOnce(SoftHsm),
) {
    if env::var(CHILD).is_ok_and(|child| child == test) {
        let dir = PathBuf::from(env::var_os(DIRECTORY).expect("set by the parent"));
        return body(SoftHsm { dir });
    }
    let dir = tempfile::tempdir().expect("a directory");
    let hsm = SoftHsm::create(dir.path());
    let mut command = Command::new(env::current_exe().expect("this test"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env(DIRECTORY, dir.path())
        .env("SOFTHSM2_CONF", hsm.conf())
        .envs(environment(dir.path()));
    let said = run(&mut command);
    assert!(
        said.contains("1 passed"),
        "no test is named {test}:\n{said}"
    );
    show(&said);
}

/// The child's figures are the test's.
#[expect(clippy::print_stdout, reason = "tests print what they measured")]
fn show(said: &str) {
    println!("{said}");
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}",
        output.status
    );
    said
}
