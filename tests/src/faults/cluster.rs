//! A cluster of real processes in namespaces of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_identity::id::TrustDomain;

use super::lab::{self, Network};
use super::node::{API_PORT, Node, PEER_PORT, write_private};
use crate::cluster::{bin_dir, eventually};
use crate::tls::{Trust, connect_admin};

/// Trust domain of every cluster.
pub const TRUST_DOMAIN: &str = "faults.test";
/// The first start makes the cluster and its keys.
const FORM_LIMIT: Duration = Duration::from_secs(90);

/// What sets a cluster apart from the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Nodes: 3 or 5.
    pub nodes: usize,
    /// Nodes stop issuing after so many seconds without a quorum; the default otherwise.
    pub stale_limit_s: Option<u64>,
    /// Data directories are small file systems of their own.
    pub small_disks: bool,
    /// The clocks of each node can be set.
    pub own_clocks: bool,
}

impl Shape {
    /// Nodes on ordinary disks and clocks.
    pub fn usual(nodes: usize) -> Self {
        Self {
            nodes,
            stale_limit_s: None,
            small_disks: false,
            own_clocks: false,
        }
    }
}

/// A running cluster.
pub struct Cluster {
    /// What it is like.
    pub shape: Shape,
    /// Nodes in the order of the list of peers.
    pub nodes: Vec<Node>,
    /// Their network.
    pub network: Network,
    /// Whom clients trust.
    pub trust: Trust,
    ids: BTreeMap<String, usize>,
    dir: PathBuf,
}

/// Size of a small disk: above what a node wants free before it takes writes.
pub const SMALL_DISK: &str = "768m";

impl Cluster {
    /// Starts a cluster in `dir` and waits until every node votes and serves.
    pub async fn start(dir: PathBuf, shape: Shape) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let network = Network::new(shape.nodes)?;
        write_private(&dir.join("secret"), &hex(32)?)?;
        let softhsm = soft_hsm(&dir)?;
        let mut nodes = Vec::new();
        for index in 0..shape.nodes {
            let home = dir.join(format!("node{index}"));
            // The parent of the data directory may be a mount.
            std::fs::create_dir_all(home.join("data"))?;
            if shape.small_disks {
                let mount = home.join("data").display().to_string();
                let size = format!("size={SMALL_DISK},mode=0700");
                lab::run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &mount])?;
            }
            let mut env = vec![("SOFTHSM2_CONF".to_owned(), softhsm.conf.clone())];
            if shape.own_clocks {
                env.extend(super::clock::environment(&home)?);
            }
            let text = configuration(&dir, index, &home, shape, &softhsm.module);
            write_private(&home.join("chancery.toml"), &text)?;
            nodes.push(Node::new(index, home, env));
        }
        let first = nodes.first().context("a cluster has nodes")?;
        softhsm.initialise(&dir, first)?;
        let mut cluster = Self {
            shape,
            nodes,
            network,
            trust: Trust {
                trust_domain: TrustDomain::parse(TRUST_DOMAIN)?,
                roots: Vec::new(),
            },
            ids: BTreeMap::new(),
            dir,
        };
        for index in 0..cluster.nodes.len() {
            cluster.start_node(index).await?;
        }
        cluster.formed().await.with_context(|| cluster.logs())?;
        Ok(cluster)
    }

    /// Folder of everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a node and waits until it has opened its keys: SoftHSM writes a token's
    /// file at a login, and a process that reads it in that moment finds no token.
    pub async fn start_node(&mut self, index: usize) -> anyhow::Result<()> {
        let node = self.nodes.get_mut(index).context("no such node")?;
        let before = std::fs::metadata(node.log()).map_or(0, |m| m.len());
        node.start()?;
        // It is no error if the line does not come: what waits for the node says so.
        let _ = eventually("the node's keys", Duration::from_secs(5), || async {
            let log = std::fs::read(self.nodes[index].log())?;
            let new = log.get(usize::try_from(before)?..).unwrap_or_default();
            let new = String::from_utf8_lossy(new);
            let open = ["looking for its peers", "app: started"];
            Ok(open.iter().any(|line| new.contains(line)).then_some(()))
        })
        .await;
        Ok(())
    }

    async fn formed(&mut self) -> anyhow::Result<()> {
        let ids = eventually("a cluster", FORM_LIMIT, || async {
            let mut ids = BTreeMap::new();
            for node in &self.nodes {
                let status = node.status().await?;
                let voters = status.members.iter().filter(|m| m.role != "learner");
                if !status.ready || voters.count() != self.nodes.len() || status.leader.is_none() {
                    return Ok(None);
                }
                ids.insert(status.node_id, node.index);
            }
            Ok((ids.len() == self.nodes.len()).then_some(ids))
        })
        .await?;
        self.ids = ids;
        let first = self.nodes.first().context("a cluster has nodes")?;
        let mut client = BundleClient::new(connect_admin(&first.admin_socket()).await?);
        let bundle = client
            .get_bundle(GetBundleRequest { output_mask: None })
            .await?;
        let roots = bundle.into_inner().x509_authorities.into_iter();
        self.trust.roots = roots.map(|authority| authority.asn1).collect();
        Ok(())
    }

    /// Index of the node that most nodes which answer call the leader.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        eventually("a leader", Duration::from_secs(30), || async {
            let mut votes = BTreeMap::new();
            for node in &self.nodes {
                if let Ok(status) = node.status().await
                    && let Some(leader) = status.leader.and_then(|id| self.ids.get(&id).copied())
                {
                    *votes.entry(leader).or_insert(0) += 1;
                }
            }
            let most = votes.into_iter().max_by_key(|(_, count)| *count);
            let most = most.filter(|(_, count)| *count > self.nodes.len() / 2);
            Ok(most.map(|(leader, _)| leader))
        })
        .await
    }

    /// Waits until every node is ready and all have one state at one place of the log.
    pub async fn converged(&self, limit: Duration) -> anyhow::Result<()> {
        let all = eventually("one state on every node, all ready", limit, || async {
            let mut digests = Vec::new();
            for node in &self.nodes {
                let status = node.status().await?;
                ensure!(status.ready, "node {} is not ready", node.index);
                let own = status.members.into_iter().find(|m| m.id == status.node_id);
                let own = own.with_context(|| format!("node {} is no member", node.index))?;
                digests.push((own.applied_index, own.state_digest));
            }
            let first = digests.first().cloned().context("no node")?;
            let same = digests.iter().all(|d| *d == first);
            let differs = digests.iter().any(|d| d.0 == first.0 && d.1 != first.1);
            ensure!(
                !differs,
                "the digests differ at index {}: {digests:?}",
                first.0
            );
            ensure!(same, "not at one index: {digests:?}");
            Ok(Some(()))
        });
        all.await
    }

    /// Makes a join token at a node.
    pub async fn token(&self, node: usize) -> anyhow::Result<String> {
        let mut client = AgentClient::new(connect_admin(&self.nodes[node].admin_socket()).await?);
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        Ok(client.create_join_token(request).await?.into_inner().value)
    }

    /// The ends of the nodes' logs.
    pub fn logs(&self) -> String {
        self.nodes.iter().map(Node::log_tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.shape.small_disks {
            let mounts: Vec<_> = self.nodes.iter().map(|n| n.home.join("data")).collect();
            self.nodes.clear();
            for mount in mounts {
                // What is left goes with the namespaces of the run.
                let _ = lab::run("umount", &["-l", &mount.display().to_string()]);
            }
        }
    }
}

fn hex(bytes: usize) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut random = vec![0; bytes];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(hex::encode(random))
}

fn configuration(dir: &Path, index: usize, home: &Path, shape: Shape, module: &str) -> String {
    let peers: Vec<String> = (0..shape.nodes)
        .map(|n| format!("\"{}:{PEER_PORT}\"", Network::address(n)))
        .collect();
    let (peers, address) = (peers.join(", "), Network::address(index));
    let (dir, home) = (dir.display(), home.display());
    let limit = shape.stale_limit_s.map_or(String::new(), |s| {
        format!("[issuance]\nstale_issuance_limit = \"{s}s\"\n\n")
    });
    format!(
        "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"{home}/data/node\"\n\n\
         [api]\naddress = \"{address}:{API_PORT}\"\nadmin_socket = \"{home}/api.sock\"\n\n\
         [peer]\naddress = \"{address}:{PEER_PORT}\"\n\n\
         [cluster]\npeers = [{peers}]\nsecret_file = \"{dir}/secret\"\n\n\
         [ratelimit]\nattestation = false\n\n{limit}\
         [keys]\nbackend = \"pkcs11\"\n\n\
         [keys.pkcs11]\nmodule = \"{module}\"\ntoken_label = \"chancery\"\npin_file = \"{dir}/pin\"\n"
    )
}

/// The token that the nodes share.
struct SoftHsm {
    module: String,
    conf: String,
}

fn soft_hsm(dir: &Path) -> anyhow::Result<SoftHsm> {
    let module = crate::cluster::softhsm_module()?;
    let conf = dir.join("softhsm2.conf");
    std::fs::create_dir_all(dir.join("tokens"))?;
    let text = format!(
        "directories.tokendir = {}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
        dir.display()
    );
    std::fs::write(&conf, text)?;
    write_private(&dir.join("pin"), &hex(8)?)?;
    write_private(&dir.join("so-pin"), &hex(8)?)?;
    Ok(SoftHsm {
        module: module.display().to_string(),
        conf: conf.display().to_string(),
    })
}

impl SoftHsm {
    fn initialise(&self, dir: &Path, node: &Node) -> anyhow::Result<()> {
        let output = std::process::Command::new(bin_dir()?.join("chancery"))
            .args(["hsm", "init", "-config"])
            .arg(node.home.join("chancery.toml"))
            .arg("-soPinFile")
            .arg(dir.join("so-pin"))
            .env("SOFTHSM2_CONF", &self.conf)
            .output()?;
        ensure!(
            output.status.success(),
            "the SoftHSM token could not be made: {}",
            crate::cluster::text(&output)
        );
        Ok(())
    }
}
