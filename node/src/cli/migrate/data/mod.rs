//! `migrate data`.
//!
//! Promises: nothing is deleted, and nothing that is at the target already is changed without
//! `--update`; a second run changes nothing; an interrupted run is gone on with by running again.
//! Bans come first, and where one could not be copied no entry is: an agent that is banned at the
//! source must find nothing to be served at the target. Memory grows with the number of entries at
//! the target, by about 200 bytes each, and not with their size.

mod compare;
mod copy;
mod entries;
mod progress;
mod report;

use std::path::PathBuf;

use clap::Args;

use self::copy::Copy;
use super::peer;
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::session::{Common, Session};

/// `migrate data`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery migrate data --from-socket /tmp/spire-server/private/api.sock -socketPath /run/chancery/api.sock --dry-run\n  \
    chancery migrate data --from-socket /run/old/api.sock -socketPath /run/chancery/api.sock --update")]
pub(in crate::cli) struct Data {
    /// Admin socket of the server to copy from, SPIRE's or ours
    #[arg(long = "from-socket", value_name = "PATH")]
    from_socket: PathBuf,
    /// Reads both servers and says what a run would do, without doing it
    #[arg(long = "dry-run")]
    dry_run: bool,
    /// Overwrites what the target has under the same name with other contents
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    common: Common,
}

impl Data {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        Session::run(&self.common, host, async |session| self.copy(session).await)
    }

    async fn copy(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let to_socket = session.socket().to_owned();
        let (source, target, from) = peer::two(session, &self.from_socket, &to_socket).await?;
        let mut copy = Copy::new(source, target, from, self.dry_run, self.update);
        let result = copy.all(session).await;
        // What was done until then is told in any case.
        copy.print(session)?;
        result?;
        copy.verdict()
    }
}
