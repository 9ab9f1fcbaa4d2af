//! What happens to a call, by the control file and by what happened before in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::calls::Call;
use crate::codes::code;
use crate::control::{Control, Rule, When, state_path};
use crate::state::State;

/// How often a call that hangs looks whether it still has to.
const HANG_LOOK: Duration = Duration::from_millis(5);

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Pass,
    /// It is answered with this code and not made.
    Answer(u64),
    /// It is made, and answered with this code.
    AnswerAfter(u64),
    /// It is made, and the process dies.
    KillAfter,
}

/// The faults of one process.
#[derive(Debug)]
pub(crate) struct Faults {
    path: PathBuf,
    state: State,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Inode, size and time of the file that was read last.
    version: Option<(u64, u64, i64, i64)>,
    control: Arc<Control>,
    /// Calls since that file came, by rule.
    met: BTreeMap<usize, u64>,
    /// What was called since that file came.
    made: BTreeSet<Call>,
}

impl Faults {
    pub(crate) fn new(control: &Path) -> io::Result<Self> {
        Control::read(control)?;
        Ok(Self {
            path: control.to_owned(),
            state: State::open(&state_path(control))?,
            held: Mutex::default(),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// What the file says now. One that is no control file any more leaves what was read before:
    /// a test that writes nonsense is told by its own reading of it.
    pub(crate) fn control(&self) -> Arc<Control> {
        self.refreshed().control.clone()
    }

    fn refreshed(&self) -> MutexGuard<'_, Held> {
        let version = fs::metadata(&self.path).ok();
        let version = version.map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        let mut held = self.held();
        if held.version != version
            && let Ok(control) = Control::read(&self.path)
        {
            *held = Held {
                version,
                control: Arc::new(control),
                ..Held::default()
            };
        }
        held
    }

    /// The rule that meets a call now, if one does. Counts it.
    fn meets(&self, call: Call) -> Option<Rule> {
        let mut held = self.refreshed();
        let control = Arc::clone(&held.control);
        let earlier = held.made.clone();
        held.made.insert(call);
        for (n, rule) in control.rules.iter().enumerate() {
            if rule.call != call || rule.since.is_some_and(|other| !earlier.contains(&other)) {
                continue;
            }
            let met = held.met.entry(n).or_default();
            *met += 1;
            let behind = met.checked_sub(rule.skip + 1);
            if behind.is_some_and(|behind| rule.times.is_none_or(|times| behind < times)) {
                return Some(rule.clone());
            }
        }
        None
    }

    fn hangs(&self, call: Call) -> bool {
        let control = self.control();
        let mut rules = control.rules.iter();
        rules.any(|rule| rule.call == call && rule.hang)
    }

    /// Lets the call wait as it must, and says what becomes of it.
    pub(crate) fn judge(&self, call: Call) -> Verdict {
        let Some(rule) = self.meets(call) else {
            return Verdict::Pass;
        };
        thread::sleep(Duration::from_millis(rule.wait_ms));
        if rule.hang {
            while self.hangs(call) {
                thread::sleep(HANG_LOOK);
            }
        }
        if rule.kill {
            match rule.when {
                When::Instead => die(),
                When::After => return Verdict::KillAfter,
            }
        }
        let code = rule.code.as_deref().and_then(code);
        match (code, rule.when) {
            (None, _) => Verdict::Pass,
            (Some(code), When::Instead) => Verdict::Answer(code),
            (Some(code), When::After) => Verdict::AnswerAfter(code),
        }
    }

    /// Waits as long as the token needs for a signature, which is counted.
    pub(crate) fn wait_for_signature(&self) {
        let (rate, latency_us) = self.control().speed();
        let busy = self.state.sign(rate).unwrap_or_default();
        let wait = busy.max(Duration::from_micros(latency_us));
        if !wait.is_zero() {
            thread::sleep(wait);
        }
    }
}

/// Ends the process at once, as power loss would.
pub(crate) fn die() {
    let own = rustix::process::getpid();
    // Nothing else to do where the signal cannot be sent.
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Steering;

    #[test]
    fn a_rule_meets_the_calls_that_it_says_and_begins_anew_with_a_new_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let steering = Steering::new(directory.path()).expect("writes");
        let faults = Faults::new(&directory.path().join("shim.json")).expect("opens");
        let rule = Rule {
            skip: 1,
            ..Rule::fails(Call::Sign, "CKR_DEVICE_ERROR").times(2)
        };
        let control = Control {
            rules: vec![rule],
            ..Control::default()
        };
        assert_eq!(faults.judge(Call::Sign), Verdict::Pass);
        for _ in 0..2 {
            steering.set(&control).expect("writes");
            let verdicts: Vec<_> = (0..4).map(|_| faults.judge(Call::Sign)).collect();
            let error = Verdict::Answer(0x30);
            assert_eq!(verdicts, [Verdict::Pass, error, error, Verdict::Pass]);
            assert_eq!(faults.judge(Call::Login), Verdict::Pass);
        }
    }

    #[test]
    fn a_rule_sleeps_until_the_call_that_it_waits_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let steering = Steering::new(directory.path()).expect("writes");
        let faults = Faults::new(&directory.path().join("shim.json")).expect("opens");
        let rule = Rule::fails(Call::Sign, "CKR_DEVICE_ERROR")
            .since(Call::GenerateKeyPair)
            .skipping(1);
        let control = Control {
            rules: vec![rule],
            ..Control::default()
        };
        for _ in 0..2 {
            steering.set(&control).expect("writes");
            for _ in 0..3 {
                assert_eq!(faults.judge(Call::Sign), Verdict::Pass, "too early");
            }
            assert_eq!(faults.judge(Call::GenerateKeyPair), Verdict::Pass);
            let verdicts: Vec<_> = (0..3).map(|_| faults.judge(Call::Sign)).collect();
            let error = Verdict::Answer(0x30);
            assert_eq!(verdicts, [Verdict::Pass, error, error]);
        }
    }
}
