//! What a command line sees of its process: three streams, environment variables and the date.
//!
//! It exists so that every verb can be tested in process, without touching the environment.

use std::io::{self, IsTerminal as _, Read, Write};

use crate::environment::{Clock as _, SystemClock};

/// The surroundings of one command line.
pub(super) struct Host<'a> {
    /// For `-data -` and `-file -`.
    pub(super) stdin: &'a mut dyn Read,
    /// Results.
    pub(super) stdout: &'a mut dyn Write,
    /// Whether a person sees the results as they are written.
    pub(super) stdout_is_terminal: bool,
    /// Errors and warnings.
    pub(super) stderr: &'a mut dyn Write,
    /// Value of an environment variable; absent also where it is no UTF-8.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// Seconds since the Unix epoch, for ages in words.
    pub(super) now_unix_s: i64,
}

/// Whether a person sees what is written to standard error. Outside tests that is the
/// process's.
pub(super) fn stderr_is_watched() -> bool {
    !cfg!(test) && io::stderr().is_terminal()
}

impl Host<'_> {
    /// Who runs the command, as the machine knows it, for records of what was done.
    pub(super) fn who(&self) -> String {
        let uid = rustix::process::getuid().as_raw();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let sudo = (self.variable)("SUDO_USER").filter(|user| !user.is_empty());
        let sudo = sudo.map_or_else(String::new, |user| format!(", sudo by {user}"));
        format!("uid {uid} at {}{sudo}", host.trim())
    }

    /// Hands the process's own surroundings to `body`.
    pub(super) fn with_process<T>(body: impl FnOnce(&mut Host<'_>) -> T) -> T {
        // None is locked: a server that runs in `body` writes its log there.
        let mut host = Host {
            stdin: &mut io::stdin(),
            stdout: &mut io::stdout(),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr: &mut io::stderr(),
            variable: &|name| std::env::var(name).ok(),
            now_unix_s: SystemClock.now_unix_ms().div_euclid(1_000),
        };
        body(&mut host)
    }
}
