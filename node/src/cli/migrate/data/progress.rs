//! How far a run is, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::fmt::Write as _;

use crate::cli::error::CliError;
use crate::cli::host::stderr_is_watched;
use crate::cli::session::Session;

/// Without a terminal a line is written behind so many items.
const LINE_EVERY: u64 = 5_000;
const BAR_WIDTH: u64 = 30;

/// Progress of one kind of items.
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    told: u64,
    terminal: bool,
}

impl Progress {
    /// `total` is what the source counted before; more may come.
    pub(super) fn start(what: &'static str, total: u64) -> Self {
        Self {
            what,
            total,
            done: 0,
            told: 0,
            terminal: stderr_is_watched(),
        }
    }

    /// `count` more are done.
    pub(super) fn add(
        &mut self,
        count: usize,
        session: &mut Session<'_, '_>,
    ) -> Result<(), CliError> {
        self.done += count as u64;
        if self.terminal {
            return session.err(&format!("\r{}", self.bar()));
        }
        if self.done / LINE_EVERY > self.told / LINE_EVERY {
            self.told = self.done;
            return session.err(&self.line());
        }
        Ok(())
    }

    /// All are done.
    pub(super) fn finish(mut self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        self.total = self.total.max(self.done);
        if self.terminal {
            session.err(&format!("\r{}\n", self.bar()))
        } else if self.told < self.done || self.done == 0 {
            session.err(&self.line())
        } else {
            Ok(())
        }
    }

    fn line(&self) -> String {
        format!(
            "{}: {} of {}\n",
            self.what,
            self.done,
            self.total.max(self.done)
        )
    }

    fn bar(&self) -> String {
        let total = self.total.max(self.done).max(1);
        let done = if self.total == 0 { total } else { self.done };
        let filled = usize::try_from(done * BAR_WIDTH / total).unwrap_or(0);
        let width = usize::try_from(BAR_WIDTH).unwrap_or(0);
        let mut bar = String::new();
        let _ = write!(
            bar,
            "{:<26} [{:.<width$}] {} of {}",
            self.what,
            "#".repeat(filled),
            self.done,
            self.total.max(self.done)
        );
        bar
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_never_overflows() {
        let bar = |done, total| {
            Progress {
                what: "entries",
                total,
                done,
                told: 0,
                terminal: true,
            }
            .bar()
        };
        let head = format!("{:<26} ", "entries");
        assert_eq!(
            bar(50, 100),
            format!("{head}[###############...............] 50 of 100")
        );
        assert_eq!(bar(0, 3), format!("{head}[{}] 0 of 3", ".".repeat(30)));
        assert_eq!(bar(5, 3), format!("{head}[{}] 5 of 5", "#".repeat(30)));
        assert_eq!(bar(0, 0), format!("{head}[{}] 0 of 0", "#".repeat(30)));
    }
}
