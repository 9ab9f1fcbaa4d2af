//! What the control file may say, and how a test says it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::calls::Call;
use crate::state::{Counts, State};

/// Variable with the path of the module behind the shim.
pub(crate) const MODULE: &str = "CHANCERY_SHIM_MODULE";
/// Variable with the path of the control file.
pub(crate) const CONTROL: &str = "CHANCERY_SHIM_CONTROL";

/// How the shim behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Rate and latency of an HSM that can be bought.
    pub profile: Option<Profile>,
    /// Signatures per second of all processes together, in the place of the profile's.
    pub signatures_per_second: Option<u32>,
    /// How long a signature takes at least, in microseconds, in the place of the profile's.
    pub sign_latency_us: Option<u64>,
    /// What happens on which calls; the first that fits counts.
    pub rules: Vec<Rule>,
    /// Another number than before: every session that is open is lost, and with them the login.
    pub session_epoch: u64,
    /// The token is not there; what was opened on it is lost.
    pub token_absent: bool,
    /// Once the token was away, keys are found again only by a module that was finalised and
    /// initialised since.
    pub keys_hidden_until_initialised: bool,
    /// Wrong PINs until the user PIN is locked; none: never.
    pub pin_tries: Option<u32>,
    /// The token's flags tell of wrong PINs.
    pub pin_flags: bool,
    /// The token's flags tell nothing of wrong PINs, as those of some tokens.
    pub pin_flags_hidden: bool,
    /// Another key of the same type signs than the one that was asked for, if there is one.
    pub swapped_keys: bool,
}

/// HSMs by what they sign, ECDSA P-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// 500 a second, 6 ms each: a card or USB device, or the smallest model of a maker.
    Small,
    /// 3,000 a second, 2 ms each: a network HSM of the middle.
    Medium,
    /// 10,000 a second, 1 ms each: the largest network HSMs.
    Large,
}

impl Profile {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// Signatures per second, and microseconds for one.
    #[must_use]
    pub const fn speed(self) -> (u32, u64) {
        match self {
            Self::Small => (500, 6_000),
            Self::Medium => (3_000, 2_000),
            Self::Large => (10_000, 1_000),
        }
    }
}

/// When something happens to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// In its place: the module behind never hears of it.
    #[default]
    Instead,
    /// After the module behind has done it: its answer is lost.
    After,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The call.
    pub call: Call,
    /// The return code's name, such as `CKR_DEVICE_ERROR`.
    #[serde(default)]
    pub code: Option<String>,
    /// Instead of the call or after it.
    #[serde(default)]
    pub when: When,
    /// Sleeps until this process has made that other call since the file came.
    #[serde(default)]
    pub since: Option<Call>,
    /// Calls of this process that pass before the rule begins.
    #[serde(default)]
    pub skip: u64,
    /// Calls of this process that it meets; none: all.
    #[serde(default)]
    pub times: Option<u64>,
    /// The call waits for so long first, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
    /// The call waits for as long as the rule is there.
    #[serde(default)]
    pub hang: bool,
    /// The process kills itself with SIGKILL.
    #[serde(default)]
    pub kill: bool,
}

impl Rule {
    /// A call that answers with a code.
    #[must_use]
    pub fn fails(call: Call, code: &str) -> Self {
        Self {
            call,
            code: Some(code.to_owned()),
            when: When::Instead,
            since: None,
            skip: 0,
            times: None,
            wait_ms: 0,
            hang: false,
            kill: false,
        }
    }

    /// A call that does not come back while the rule is there.
    #[must_use]
    pub fn hangs(call: Call) -> Self {
        Self {
            code: None,
            hang: true,
            ..Self::fails(call, "")
        }
    }

    /// A call in which the process dies.
    #[must_use]
    pub fn kills(call: Call, when: When) -> Self {
        Self {
            code: None,
            kill: true,
            when,
            ..Self::fails(call, "")
        }
    }

    /// The same for calls that come after one of another kind.
    #[must_use]
    pub fn since(self, call: Call) -> Self {
        Self {
            since: Some(call),
            ..self
        }
    }

    /// The same after `skip` calls that pass.
    #[must_use]
    pub fn skipping(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// The same for `times` calls only.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }
}

impl Control {
    /// Reads a control file; an empty or missing one changes nothing.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) if bytes.is_empty() => Ok(Self::default()),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Signatures per second and microseconds for one, zero for no bound.
    pub(crate) fn speed(&self) -> (u32, u64) {
        let (rate, latency) = self.profile.map_or((0, 0), Profile::speed);
        (
            self.signatures_per_second.unwrap_or(rate),
            self.sign_latency_us.unwrap_or(latency),
        )
    }
}

/// A test's hand on the shims of the processes that share a control file.
#[derive(Clone, Debug)]
pub struct Steering {
    path: PathBuf,
}

impl Steering {
    /// Steers by a control file in `directory`; it is there from now on and changes nothing.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let steering = Self {
            path: directory.join("shim.json"),
        };
        steering.set(&Control::default())?;
        Ok(steering)
    }

    /// Says how the shims behave from the next call on, and while a call hangs.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set(&self, control: &Control) -> io::Result<()> {
        let next = self.path.with_extension("next");
        fs::write(&next, serde_json::to_vec_pretty(control)?)?;
        fs::rename(&next, &self.path)
    }

    /// Variables for a process that loads the shim in front of `module`.
    #[must_use]
    pub fn environment(&self, module: &Path) -> [(&'static str, OsString); 2] {
        [
            (MODULE, module.as_os_str().to_owned()),
            (CONTROL, self.path.as_os_str().to_owned()),
        ]
    }

    /// Calls so far, of all processes.
    ///
    /// # Errors
    /// The state file cannot be read.
    pub fn counts(&self) -> io::Result<Counts> {
        State::open(&state_path(&self.path))?.counts()
    }
}

/// Where the state that processes share is.
pub(crate) fn state_path(control: &Path) -> PathBuf {
    control.with_extension("state")
}

/// The shim that was built with the running program: beside it, or one directory up where the
/// program is a test.
#[must_use]
pub fn module_path() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let name = "libchancery_pkcs11_shim.so";
    let beside = program.parent()?;
    [beside, beside.parent()?]
        .into_iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_reads_back_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let steering = Steering::new(directory.path()).expect("writes");
        let control = Control {
            profile: Some(Profile::Medium),
            rules: vec![
                Rule::fails(Call::Sign, "CKR_DEVICE_ERROR").times(3),
                Rule::kills(Call::GenerateKeyPair, When::After),
            ],
            pin_tries: Some(3),
            ..Control::default()
        };
        steering.set(&control).expect("writes");
        assert_eq!(Control::read(&steering.path).expect("reads"), control);
    }

    #[test]
    fn a_mistake_in_a_control_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("shim.json");
        fs::write(&path, r#"{"token_absnt": true}"#).expect("writes");
        assert!(Control::read(&path).is_err());
        fs::write(&path, "").expect("writes");
        assert_eq!(Control::read(&path).expect("empty"), Control::default());
    }
}
