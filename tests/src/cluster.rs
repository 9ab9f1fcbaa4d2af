//! A cluster of real processes, started by `deploy/local/up` in a folder of its
//! own and stopped when the handle goes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::{BatchCreateEntryRequest, ListEntriesRequest};
use chancery_api::spire::api::types;
use serde::Deserialize;
use serde_json::Value;

use crate::tls::{Trust, connect_admin};

/// One node, as `cluster.json` has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Id, as in `cluster status`.
    pub id: String,
    /// Process.
    pub pid: u32,
    /// host:port for agents.
    pub api: String,
    /// host:port for peers.
    pub peer: String,
    /// Admin socket.
    pub admin_socket: PathBuf,
    /// host:port of `/metrics`.
    pub metrics: String,
    /// host:port of `/ready`.
    pub health: String,
    /// Configuration.
    pub config: PathBuf,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Log.
    pub log: PathBuf,
}

/// `cluster.json`.
#[derive(Clone, Debug, Deserialize)]
struct ClusterFile {
    trust_domain: String,
    bundle: PathBuf,
    nodes: Vec<Node>,
}

/// A running cluster.
pub struct Cluster {
    dir: tempfile::TempDir,
    file: ClusterFile,
}

/// Folder of the binaries: `CHANCERY_BIN_DIR`, else the one of this test's build.
pub fn bin_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CHANCERY_BIN_DIR") {
        return Ok(dir.into());
    }
    let exe = std::env::current_exe()?;
    let dir = exe.ancestors().find(|d| d.join("chancery").is_file());
    dir.map(Path::to_path_buf)
        .with_context(|| format!("no chancery binary above {}", exe.display()))
}

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(1)
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// SoftHSM's PKCS#11 module, where distributions put it.
pub fn softhsm_module() -> anyhow::Result<PathBuf> {
    let fixed = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
    ];
    let mut candidates: Vec<_> = fixed.iter().map(PathBuf::from).collect();
    let folders = std::fs::read_dir("/usr/lib")?.flatten();
    candidates.extend(folders.map(|e| e.path().join("softhsm/libsofthsm2.so")));
    let module = candidates.into_iter().find(|p| p.is_file());
    module.context("libsofthsm2.so is missing: `make setup` installs it")
}

/// Whether the full counts are wanted.
pub fn long() -> bool {
    std::env::var_os("CHANCERY_TEST_LONG").is_some()
}

/// `short` in `make test`, `long` in `make test-long`.
pub fn count(short: usize, full: usize) -> usize {
    if long() { full } else { short }
}

/// A block of 50 ports that no other test of this machine uses at the moment.
fn base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 200).unwrap_or(0);
    loop {
        let block = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 200;
        let port = 20_000 + block * 50;
        let free = (port..port + 50).all(|p| std::net::TcpListener::bind(("127.0.0.1", p)).is_ok());
        if free {
            return port;
        }
    }
}

/// Calls `check` until it gives a value, at most for `limit`.
pub async fn eventually<T, F: Future<Output = anyhow::Result<Option<T>>>>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = None;
    while Instant::now() < deadline {
        match check().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match last {
        Some(error) => Err(error.context(format!("{what} did not come to be within {limit:?}"))),
        None => bail!("{what} did not come to be within {limit:?}"),
    }
}

/// Settings of a cluster.
pub struct Options<'a> {
    /// Nodes.
    pub nodes: usize,
    /// `softhsm`, `disk` or `memory`.
    pub keys: &'a str,
    /// Environment of the nodes.
    pub env: &'a [(&'a str, &'a str)],
    /// Put before the sections of every node's configuration.
    pub head: &'a str,
    /// Appended to every node's configuration.
    pub extra: &'a str,
    /// Its trust domain.
    pub trust_domain: &'a str,
    /// PKCS#11 module to load in the place of SoftHSM's own.
    pub module: Option<&'a Path>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            nodes: 3,
            keys: "softhsm",
            env: &[],
            head: "",
            extra: "",
            trust_domain: "example.org",
            module: None,
        }
    }
}

impl Cluster {
    /// Starts a cluster and waits until it serves.
    pub fn start(options: &Options<'_>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("chancery-test-")
            .tempdir()?;
        let (nodes, port) = (options.nodes.to_string(), base_port().to_string());
        let extra = dir.path().join("extra.toml");
        // Every agent of a test comes from one address: one a second is not what most
        // tests are about.
        let limits = match options.extra.contains("[ratelimit]") {
            true => "",
            false => "\n[ratelimit]\nattestation = false\n",
        };
        std::fs::write(&extra, format!("{}{limits}", options.extra))?;
        let extra = extra.display().to_string();
        let head = dir.path().join("head.toml");
        std::fs::write(&head, options.head)?;
        let head = head.display().to_string();
        let (keys, trust_domain) = (options.keys, options.trust_domain);
        let args = [
            "--nodes",
            &nodes,
            "--keys",
            keys,
            "--base-port",
            &port,
            "--extra",
            &extra,
            "--head",
            &head,
        ];
        let mut args = [args.as_slice(), &["--trust-domain", trust_domain]].concat();
        let module = options.module.map(|module| module.display().to_string());
        if let Some(module) = &module {
            args.extend(["--module", module]);
        }
        let output = up(dir.path(), options.env, &args)?;
        ensure!(
            output.status.success(),
            "deploy/local/up: {}",
            text(&output)
        );
        let file = read(dir.path())?;
        Ok(Self { dir, file })
    }

    /// Folder with state and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Nodes in the order of their addresses.
    pub fn nodes(&self) -> &[Node] {
        &self.file.nodes
    }

    /// A node by id.
    pub fn node(&self, id: &str) -> anyhow::Result<&Node> {
        self.file
            .nodes
            .iter()
            .find(|n| n.id == id)
            .with_context(|| format!("no node {id}"))
    }

    /// Trust domain and bundle, as written when the cluster came up.
    pub fn trust(&self) -> anyhow::Result<Trust> {
        Ok(Trust::from_pem(
            &self.file.trust_domain,
            &std::fs::read_to_string(&self.file.bundle)?,
        )?)
    }

    /// Trust domain and bundle, as a node tells them now.
    pub fn trust_of(&self, node: &Node) -> anyhow::Result<Trust> {
        let shown = self.cli(node, &["bundle", "show"])?;
        ensure!(shown.status.success(), "bundle show: {}", text(&shown));
        let pem = String::from_utf8(shown.stdout)?;
        Ok(Trust::from_pem(&self.file.trust_domain, &pem)?)
    }

    /// Runs the `chancery` command against a node's admin socket.
    pub fn cli(&self, node: &Node, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(bin_dir()?.join("chancery"));
        command
            .args(args)
            .arg("-socketPath")
            .arg(&node.admin_socket);
        Ok(command.output()?)
    }

    /// What a command that succeeds prints for programs.
    pub fn json(&self, node: &Node, args: &[&str]) -> anyhow::Result<Value> {
        let output = self.cli(node, &[args, &["-output", "json"]].concat())?;
        ensure!(output.status.success(), "{args:?}: {}", text(&output));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// `cluster status` of a node.
    pub fn status(&self, node: &Node) -> anyhow::Result<Value> {
        self.json(node, &["cluster", "status"])
    }

    /// A step in the life of an authority, x509 or jwt, by `chancery localauthority`: that of `id`,
    /// or a new one where that is empty; its id.
    pub fn authority(
        &self,
        node: &Node,
        kind: &str,
        step: &str,
        id: &str,
    ) -> anyhow::Result<String> {
        let args = ["localauthority", kind, step, "-authorityID", id];
        let answer = self.json(node, if id.is_empty() { &args[..3] } else { &args })?;
        let mut states = answer.as_object().context("an object")?.values();
        let id = states.find_map(|state| state["authority_id"].as_str());
        Ok(id.context("an id")?.to_owned())
    }

    /// Waits until `node` names a leader; its id.
    pub async fn leader(&self, node: &Node) -> anyhow::Result<String> {
        eventually("a leader", Duration::from_secs(30), || async {
            Ok(self.status(node)?["leader"].as_str().map(str::to_owned))
        })
        .await
    }

    /// Sends a signal to a node.
    pub fn signal(&self, id: &str, signal: i32) -> anyhow::Result<()> {
        let pid = self.node(id)?.pid.to_string();
        let output = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid)
            .output()?;
        ensure!(output.status.success(), "kill: {}", text(&output));
        Ok(())
    }

    /// Starts a node again (`all`: every node), with `env`, and waits until it serves.
    pub fn restart(&mut self, id: &str, env: &[(&str, &str)]) -> anyhow::Result<()> {
        let output = up(self.dir.path(), env, &["--restart", id])?;
        ensure!(
            output.status.success(),
            "deploy/local/up --restart: {}",
            text(&output)
        );
        self.file = read(self.dir.path())?;
        Ok(())
    }

    /// Starts a node more by a node token, waits until it serves, and returns its id.
    /// `flags` are more flags of `deploy/local/up --add`.
    pub fn add(&mut self, flags: &[&str]) -> anyhow::Result<String> {
        let output = up(self.dir.path(), &[], &[&["--add"], flags].concat())?;
        ensure!(
            output.status.success(),
            "deploy/local/up --add: {}",
            text(&output)
        );
        self.file = read(self.dir.path())?;
        let added = self.file.nodes.last();
        Ok(added.context("no node")?.id.clone())
    }

    /// Makes a join token through a node.
    pub async fn token(&self, node: &Node) -> anyhow::Result<String> {
        let mut client = AgentClient::new(connect_admin(&node.admin_socket).await?);
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        Ok(client.create_join_token(request).await?.into_inner().value)
    }

    /// [`create`], through one of this cluster's nodes.
    pub async fn create(
        &self,
        node: &Node,
        entries: Vec<types::Entry>,
    ) -> anyhow::Result<Vec<(types::Status, Option<types::Entry>)>> {
        create(node, entries).await
    }

    /// An entry for a workload below an agent.
    pub fn entry(&self, parent_path: &str, path: &str) -> types::Entry {
        let id = |path: &str| {
            Some(types::Spiffeid {
                trust_domain: self.file.trust_domain.clone(),
                path: path.into(),
            })
        };
        types::Entry {
            parent_id: id(parent_path),
            spiffe_id: id(path),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:1000".into(),
            }],
            ..Default::default()
        }
    }

    /// The last lines of every node's log, for a failing test's message.
    pub fn logs(&self) -> String {
        let tail = |node: &Node| {
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(15).collect();
            format!(
                "--- node {}\n{}\n",
                node.id,
                lines.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        };
        self.file.nodes.iter().map(tail).collect()
    }
}

/// Creates entries through a node; the statuses and entries that came back.
pub async fn create(
    node: &Node,
    entries: Vec<types::Entry>,
) -> anyhow::Result<Vec<(types::Status, Option<types::Entry>)>> {
    let mut client = EntryClient::new(connect_admin(&node.admin_socket).await?);
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = client
        .batch_create_entry(request)
        .await?
        .into_inner()
        .results;
    Ok(results
        .into_iter()
        .map(|r| (r.status.unwrap_or_default(), r.entry))
        .collect())
}

/// Ids of every entry, as `node` tells an administrator.
///
/// # Errors
/// Also where the answer may be old although a quorum is there.
pub async fn entry_ids(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let mut client = EntryClient::new(connect_admin(&node.admin_socket).await?);
    let mut ids = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest {
            page_size: 500,
            page_token,
            ..Default::default()
        };
        let response = client.list_entries(request).await?;
        ensure!(
            response.metadata().get("chancery-stale").is_none(),
            "a stale answer with a quorum there"
        );
        let page = response.into_inner();
        ids.extend(page.entries.into_iter().map(|e| e.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ids);
        }
    }
}

#[allow(
    clippy::print_stdout,
    reason = "a failing test must say what did not stop"
)]
impl Drop for Cluster {
    fn drop(&mut self) {
        // A stopped process cannot be asked to end.
        for node in &self.file.nodes {
            let _ = Command::new("kill")
                .arg("-CONT")
                .arg(node.pid.to_string())
                .output();
        }
        let down = Command::new(root().join("deploy/local/down"))
            .arg("--dir")
            .arg(self.dir.path())
            .output();
        if let Ok(output) = down
            && !output.status.success()
        {
            println!("deploy/local/down: {}", text(&output));
        }
    }
}

fn up(dir: &Path, env: &[(&str, &str)], args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(root().join("deploy/local/up"));
    command
        .arg("--dir")
        .arg(dir)
        .args(args)
        .env("CHANCERY_BIN_DIR", bin_dir()?);
    command.envs(env.iter().copied());
    command.output().context("cannot run deploy/local/up")
}

fn read(dir: &Path) -> anyhow::Result<ClusterFile> {
    Ok(serde_json::from_slice(&std::fs::read(
        dir.join("cluster.json"),
    )?)?)
}

/// What a command printed.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
