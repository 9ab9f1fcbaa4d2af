//! `cluster recover`: going on from one survivor.

use std::fmt::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::backup::{BackupError, Recovery};
use crate::cli::backup::say_renewed;
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::session::Format;
use crate::cli::text;
use crate::config::Config;

/// How long a member's peer port is tried.
const KNOCK: Duration = Duration::from_secs(1);

/// `cluster recover`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery cluster recover -config /etc/chancery/chancery.toml\n  \
    chancery cluster recover -config /etc/chancery/chancery.toml -yes")]
pub(in crate::cli) struct Recover {
    /// Configuration file of the node
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Does it, instead of saying what would be done
    #[arg(long)]
    yes: bool,
    /// Goes on although the store lacks what it had once: it is an older copy, or its end is gone
    #[arg(long = "shortStore")]
    short_store: bool,
    /// Output format
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Pretty)]
    output: Format,
}

impl Recover {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let config = Config::load(&self.config)?;
        let recovery = Recovery::look(&config)?;
        let plan = plan(&recovery, &config, host.now_unix_s);
        // Loud also where programs read the result.
        host.stderr
            .write_all(plan.as_bytes())
            .map_err(CliError::Output)?;
        if !self.yes {
            return Err(CliError::Flags(
                "nothing was changed: give -yes to go on from this node alone",
            ));
        }
        if let Some(short) = recovery.short().filter(|_| !self.short_store) {
            return Err(BackupError::Short {
                why: short.to_owned(),
            }
            .into());
        }
        let by = host.who();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(CliError::Runtime)?;
        let renewed = runtime.block_on(recovery.run(&config, by))?;
        say_renewed(&renewed, &config, self.output, host)
    }
}

/// What will be done, and what may be lost by it.
fn plan(recovery: &Recovery, config: &Config, now_unix_s: i64) -> String {
    let survivor = recovery.survivor();
    let me = recovery.node_id();
    let state_s = survivor.cluster.clock_ms.div_euclid(1000);
    let others: Vec<_> = survivor
        .members
        .iter()
        .filter(|m| m.node_id != me)
        .collect();
    let mut page = format!(
        "RECOVERY FROM ONE SURVIVOR: node {me} of cluster {} in {}\n\n\
         - It goes on alone, as the first node of a new cluster with the state that it holds: log entries 1 to {}, \
         the last of {} ({}).\n",
        survivor.cluster.id,
        config.data_dir.display(),
        survivor.applied,
        text::date(state_s),
        text::relative(state_s, now_unix_s),
    );
    if survivor.last > survivor.applied {
        let _ = writeln!(
            page,
            "- Log entries {} to {} are on its disk and not applied yet. They are applied, whether they were \
             acknowledged or not.",
            survivor.applied + 1,
            survivor.last
        );
    }
    if let Some(short) = recovery.short() {
        let _ = writeln!(
            page,
            "- LOST: part of what this node had on its disk: {short}."
        );
    }
    page.push_str(
        "- LOST: whatever the other nodes acknowledged and this one never saw, bans and deletions among it. Nobody \
         can tell from here whether there is any.\n",
    );
    for member in &others {
        let _ = writeln!(
            page,
            "- Node {} ({}) is no member any more and can never come back with its data directory.",
            member.node_id, member.peer_address
        );
        if answers(&member.peer_address) {
            let _ = writeln!(
                page,
                "  WARNING: something answers at {}: if it is that node, a majority may still be there; start the \
                 nodes and look at chancery cluster status instead.",
                member.peer_address
            );
        }
    }
    page.push_str("- What is in the data directory now is kept there, in a folder of its own.\n\n");
    page
}

fn answers(address: &str) -> bool {
    let Ok(mut addresses) = address.to_socket_addrs() else {
        return false;
    };
    addresses.any(|address| TcpStream::connect_timeout(&address, KNOCK).is_ok())
}
