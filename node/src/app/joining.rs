//! How a node without a cluster comes to one: by the static list, or by a token.

use anyhow::{Context as _, bail};

use crate::cluster::formation::{self, Formed, Plan};
use crate::cluster::token::{NodeToken, TEXT_BYTES_MAX};
use crate::config::{Config, read_secret_file};
use crate::environment::uuid_v4;
use crate::transport::{PeerTls, TcpPort};

/// The way that the configuration gives.
pub(super) enum WayIn {
    /// The nodes of the list find each other.
    List,
    /// A member admits whoever has the token.
    Token(NodeToken),
}

/// The way for a node without a cluster.
///
/// # Errors
/// There is none: such a node must not found a cluster of its own by mistake. Or the
/// token cannot be read.
pub(super) fn way_in(config: &Config) -> anyhow::Result<WayIn> {
    if let Some(path) = &config.cluster.join_token_file {
        let key = || format!("[cluster] join_token_file {}", path.display());
        let bytes = read_secret_file(path, 1).with_context(key)?;
        if bytes.len() > TEXT_BYTES_MAX {
            bail!("{}: longer than any token", key());
        }
        let text =
            std::str::from_utf8(&bytes).map_err(|_| anyhow::anyhow!("{}: not text", key()))?;
        let token = NodeToken::decode(text).with_context(key)?;
        tracing::info!(cluster = %token.cluster_id, "this node has no cluster yet: joining by its token");
        return Ok(WayIn::Token(token));
    }
    if config.cluster.peers.is_empty() {
        bail!(
            "this node belongs to no cluster and is told of none: found one with `chancery cluster init`, join one \
             with [cluster] join_token_file (from `chancery cluster token` on a member), or list its nodes in \
             [cluster] peers"
        );
    }
    tracing::info!(peers = ?config.cluster.peers, "this node has no cluster yet: looking for its peers");
    Ok(WayIn::List)
}

impl WayIn {
    /// Goes it to the end. The port answers peers of the list meanwhile, and is closed
    /// afterwards.
    pub(super) async fn take(
        self,
        plan: &Plan,
        tls: &PeerTls,
        port: TcpPort,
    ) -> Result<Formed, formation::FormationError> {
        match self {
            Self::List => formation::form(plan, tls, port, uuid_v4()).await,
            Self::Token(token) => formation::join_by_token(plan, tls, &token).await,
        }
    }
}
