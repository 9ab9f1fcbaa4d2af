//! `cluster init` and `cluster rejoin`: for a node that is stopped.

use std::path::PathBuf;

use clap::Args;

use crate::app;
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::config::Config;

/// `cluster init`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chancery cluster init -config /etc/chancery/chancery.toml")]
pub(in crate::cli) struct Init {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// `cluster rejoin`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    chancery cluster remove 3                      # on a member that runs\n  \
    chancery cluster rejoin -config /etc/chancery/chancery.toml -yes   # on node 3, stopped\n  \
    chancery server run -config /etc/chancery/chancery.toml            # joins as another node")]
pub(in crate::cli) struct Rejoin {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do it: without this the command only says what it would do
    #[arg(long)]
    yes: bool,
}

impl Init {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let config = Config::load(&self.config)?;
        let id = app::init_cluster(&config).map_err(CliError::Server)?;
        let text = format!(
            "Cluster {id} founded with this node as node 1. Start its server; other nodes join by `chancery cluster token`.\n"
        );
        host.stdout
            .write_all(text.as_bytes())
            .map_err(CliError::Output)
    }
}

impl Rejoin {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        let config = Config::load(&self.config)?;
        let dir = config.data_dir.display();
        let text = if self.yes {
            match app::set_aside(&config).map_err(CliError::Server)? {
                None => format!("{dir} belongs to no cluster: nothing to set aside.\n"),
                Some(aside) => {
                    let was = match aside.node_id {
                        0 => "What was there".to_owned(),
                        id => format!("What was node {id} of cluster {}", aside.cluster_id),
                    };
                    format!(
                        "{was} is in {} now: it holds keys and the state, remove it when nobody needs it.\n\
                         At its next start this node joins anew, by its token or the list of nodes, under a new id.\n",
                        aside.to.display()
                    )
                }
            }
        } else {
            format!(
                "Would set aside everything in {dir}: the node would forget what it is, and join anew under a new id.\n\
                 Take its old id out of the cluster first (chancery cluster remove), then repeat with -yes.\n"
            )
        };
        host.stdout
            .write_all(text.as_bytes())
            .map_err(CliError::Output)
    }
}
