//! SoftHSM in processes of its own, which can be stopped and killed: `p11-kit server` with the
//! token behind it. It starts one child for each connection, so signals go to its process group.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::cluster::softhsm_module;

/// User PIN of the token.
pub const PIN: &str = "4711-token-server";
/// Label of the token.
const LABEL: &str = "chancery";
/// Where distributions put the module that speaks to the server.
const CLIENT: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib64/pkcs11/p11-kit-client.so",
];

fn client_module() -> anyhow::Result<PathBuf> {
    let found = CLIENT.iter().map(PathBuf::from).find(|path| path.exists());
    found.context("p11-kit-modules is missing: run make setup")
}

/// A token and the processes that serve it.
pub struct TokenServer {
    dir: tempfile::TempDir,
    serving: Option<Child>,
}

impl TokenServer {
    /// Makes a token and serves it.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub fn start() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("chancery-token-")
            .tempdir()?;
        std::fs::create_dir(dir.path().join("tokens"))?;
        let conf = format!(
            "directories.tokendir = {}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("softhsm2.conf"), conf)?;
        let mut server = Self { dir, serving: None };
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", LABEL])
            .args(["--pin", PIN, "--so-pin", "so-12345678"])
            .env("SOFTHSM2_CONF", server.conf())
            .output()
            .context("softhsm2-util")?;
        ensure!(
            made.status.success(),
            "softhsm2-util: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut pin = std::fs::OpenOptions::new();
        let mut pin = pin
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(server.pin_file())?;
        std::io::Write::write_all(&mut pin, PIN.as_bytes())?;
        server.serve()?;
        Ok(server)
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("softhsm2.conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.dir.path().join("pin")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("token.sock")
    }

    /// SoftHSM's files of the token.
    pub fn tokens(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    /// `[keys]` of a node that uses the token.
    ///
    /// # Errors
    /// The module is not installed.
    pub fn keys(&self) -> anyhow::Result<String> {
        Ok(format!(
            "\n[keys]\nbackend = \"pkcs11\"\n\n[keys.pkcs11]\nmodule = \"{}\"\n\
             token_label = \"{LABEL}\"\npin_file = \"{}\"\n",
            client_module()?.display(),
            self.pin_file().display()
        ))
    }

    /// Variable that tells the module where the server is.
    pub fn environment(&self) -> (&'static str, String) {
        let address = format!("unix:path={}", self.socket().display());
        ("P11_KIT_SERVER_ADDRESS", address)
    }

    /// Starts to serve, and waits until clients can connect.
    ///
    /// # Errors
    /// It serves already, or cannot.
    pub fn serve(&mut self) -> anyhow::Result<()> {
        self.serve_token(LABEL)
    }

    /// The same for the token of a label, or none where there is no such token.
    ///
    /// # Errors
    /// It serves already, or cannot.
    pub fn serve_token(&mut self, label: &str) -> anyhow::Result<()> {
        ensure!(self.serving.is_none(), "it serves already");
        remove(&self.socket())?;
        let mut child = Command::new("p11-kit")
            .args(["server", "-f", "-n"])
            .arg(self.socket())
            .arg("--provider")
            .arg(softhsm_module()?)
            .arg(format!("pkcs11:token={label}"))
            .env("SOFTHSM2_CONF", self.conf())
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .context("p11-kit is missing: run make setup")?;
        let told = child.stdout.take().context("its output")?;
        self.serving = Some(child);
        // It says where it listens once it does.
        for line in BufReader::new(told).lines() {
            if line?.contains("P11_KIT_SERVER_PID") {
                return Ok(());
            }
        }
        bail!("p11-kit server ended at once")
    }

    fn group(&self) -> anyhow::Result<Pid> {
        let child = self.serving.as_ref().context("nothing serves")?;
        Pid::from_raw(i32::try_from(child.id())?).context("a process id")
    }

    /// Stops every process of the server: calls hang.
    ///
    /// # Errors
    /// Nothing serves.
    pub fn pause(&self) -> anyhow::Result<()> {
        Ok(kill_process_group(self.group()?, Signal::STOP)?)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Nothing serves.
    pub fn resume(&self) -> anyhow::Result<()> {
        Ok(kill_process_group(self.group()?, Signal::CONT)?)
    }

    /// Kills every process of the server: calls fail, and so do connections.
    ///
    /// # Errors
    /// Nothing serves.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        kill_process_group(self.group()?, Signal::KILL)?;
        let mut child = self.serving.take().context("nothing serves")?;
        child.wait()?;
        remove(&self.socket())
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        // A token that was killed is gone already.
        let _ = self.kill();
    }
}

fn remove(socket: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
