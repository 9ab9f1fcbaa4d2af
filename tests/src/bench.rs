//! Three real processes in front of one SoftHSM token, each behind a shim that is steered alone.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chancery_pkcs11_shim::{Call, Control, Steering, module_path};
use serde_json::Value;

use crate::cluster::{bin_dir, eventually, softhsm_module, text};

/// What a node needs to form, elect and answer: a machine under load is no fault of it.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Ten times what a node may take to open its agent port once its token is back.
pub const BACK_LIMIT: Duration = Duration::from_secs(10);
/// The PIN that the token takes.
pub const RIGHT: &str = "canary-4711";

/// The nodes and their token.
pub struct Bench {
    /// Folder of everything.
    pub dir: tempfile::TempDir,
    /// In the order of their numbers.
    pub nodes: Vec<Node>,
    softhsm: PathBuf,
    /// Appended to every node's configuration.
    extra: String,
    /// Logins of the security officer, who made the token.
    logins_before: u64,
}

/// One node.
pub struct Node {
    /// Its folder.
    pub home: PathBuf,
    /// The hand on its way to the token.
    pub steering: Steering,
    ports: [u16; 3],
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn private(file: &Path, content: &str) -> anyhow::Result<()> {
    fs::write(file, content)?;
    Ok(fs::set_permissions(file, Permissions::from_mode(0o600))?)
}

impl Bench {
    /// A token, and `count` nodes that have not been started; the PIN file of each says `pin`.
    pub fn new(count: usize, pin: &str) -> anyhow::Result<Self> {
        Self::configured(count, pin, "")
    }

    /// The same with `extra` at the end of every node's configuration.
    pub fn configured(count: usize, pin: &str, extra: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("chancery-test-")
            .tempdir()?;
        let root = dir.path();
        fs::create_dir(root.join("tokens"))?;
        let softhsm = root.join("softhsm2.conf");
        let conf = format!(
            "directories.tokendir = {}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
            root.display()
        );
        fs::write(&softhsm, conf)?;
        private(&root.join("secret"), "a secret that nodes share")?;
        private(&root.join("so-pin"), "canary-so")?;
        // All held at once, so that they differ.
        let held: Vec<_> = (0..count * 3)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let mut ports = Vec::new();
        for listener in &held {
            ports.push(listener.local_addr()?.port());
        }
        drop(held);
        let mut nodes = Vec::new();
        for ports in ports.chunks_exact(3) {
            let home = root.join(format!("node-{}", nodes.len() + 1));
            fs::create_dir(&home)?;
            nodes.push(Node {
                steering: Steering::new(&home)?,
                home,
                ports: [ports[0], ports[1], ports[2]],
                process: None,
            });
        }
        let mut bench = Self {
            dir,
            nodes,
            softhsm,
            extra: extra.to_owned(),
            logins_before: 0,
        };
        for index in 0..count {
            bench.configure(index, &module_path().context("the shim is not built")?)?;
        }
        bench.nodes[0].write_pin(RIGHT)?;
        let made = bench.init()?;
        ensure!(made.status.success(), "{}", text(&made));
        for node in &bench.nodes {
            node.write_pin(pin)?;
        }
        bench.logins_before = bench.all_logins()?;
        Ok(bench)
    }

    /// Writes a node's configuration.
    pub fn configure(&self, index: usize, module: &Path) -> anyhow::Result<()> {
        let node = &self.nodes[index];
        let peers: Vec<_> = self
            .nodes
            .iter()
            .map(|n| format!("\"127.0.0.1:{}\"", n.ports[1]))
            .collect();
        let [api, peer, health] = node.ports;
        let (home, root) = (node.home.display(), self.dir.path().display());
        let cluster = match self.nodes.len() {
            1 => format!("peers = [{}]", peers.join(", ")),
            _ => format!(
                "peers = [{}]\nsecret_file = \"{root}/secret\"",
                peers.join(", ")
            ),
        };
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{home}/data\"\n\
             [api]\naddress = \"127.0.0.1:{api}\"\nadmin_socket = \"{home}/api.sock\"\n\
             [peer]\naddress = \"127.0.0.1:{peer}\"\n[health]\naddress = \"127.0.0.1:{health}\"\n\
             [cluster]\n{cluster}\n\
             [keys]\nbackend = \"pkcs11\"\n[keys.pkcs11]\nmodule = \"{}\"\ntoken_label = \"shared\"\n\
             pin_file = \"{home}/pin\"\n{}",
            module.display(),
            self.extra
        );
        Ok(fs::write(node.config(), text)?)
    }

    fn command(&self, index: usize) -> anyhow::Result<Command> {
        let module = softhsm_module()?;
        let mut command = Command::new(bin_dir()?.join("chancery"));
        command
            .env("SOFTHSM2_CONF", &self.softhsm)
            .envs(self.nodes[index].steering.environment(&module))
            .stdin(Stdio::null());
        Ok(command)
    }

    fn run(&self, index: usize, args: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(index)?.args(args).output()?)
    }

    /// `hsm init` by the first node's configuration.
    pub fn init(&self) -> anyhow::Result<Output> {
        let so_pin = self.dir.path().join("so-pin");
        let config = self.nodes[0].config();
        self.run(
            0,
            &[
                "hsm",
                "init",
                "-config",
                path(&config)?,
                "-soPinFile",
                path(&so_pin)?,
            ],
        )
    }

    /// The configuration of somebody else with a PIN of his own; its file.
    pub fn stranger(&self, pin: &str) -> anyhow::Result<PathBuf> {
        let home = self.dir.path().join("stranger");
        fs::create_dir(&home)?;
        private(&home.join("pin"), pin)?;
        let text = fs::read_to_string(self.nodes[0].config())?;
        let node = self.nodes[0].home.join("pin");
        let text = text.replace(path(&node)?, path(&home.join("pin"))?);
        let config = home.join("chancery.toml");
        fs::write(&config, text)?;
        Ok(config)
    }

    /// `hsm check` by a configuration, through the first node's shim.
    pub fn check(&self, config: &Path) -> anyhow::Result<Output> {
        self.run(0, &["hsm", "check", "-config", path(config)?])
    }

    /// Runs a command against a node's admin socket.
    pub fn cli(&self, index: usize, args: &[&str]) -> anyhow::Result<Output> {
        let socket = self.nodes[index].admin_socket();
        self.run(index, &[args, &["-socketPath", path(&socket)?]].concat())
    }

    /// Begins a command against a node's admin socket, for as long as it takes.
    pub fn spawn(&self, index: usize, args: &[&str]) -> anyhow::Result<Child> {
        let socket = self.nodes[index].admin_socket();
        let mut command = self.command(index)?;
        command.args(args).args(["-socketPath", path(&socket)?]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// Starts a node and does not wait for it.
    pub fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let log = self.nodes[index].home.join("log");
        let log = File::options().create(true).append(true).open(log)?;
        let config = self.nodes[index].config();
        let mut command = self.command(index)?;
        command
            .args(["server", "run", "--config", path(&config)?])
            .env("CHANCERY_FAULT_POINTS", "1")
            .stdout(log.try_clone()?)
            .stderr(log);
        self.nodes[index].process = Some(command.spawn()?);
        Ok(())
    }

    /// Starts every node.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.nodes.len()).try_for_each(|index| self.start(index))
    }

    /// Says the same of every node's way to the token.
    pub fn set_all(&self, control: &Control) -> anyhow::Result<()> {
        self.nodes
            .iter()
            .try_for_each(|node| Ok(node.steering.set(control)?))
    }

    fn all_logins(&self) -> anyhow::Result<u64> {
        let mut all = 0;
        for node in &self.nodes {
            all += node.steering.counts()?[&Call::Login];
        }
        Ok(all)
    }

    /// How often the token was asked to log somebody in since it was made, by all nodes together.
    pub fn logins(&self) -> anyhow::Result<u64> {
        Ok(self.all_logins()? - self.logins_before)
    }

    /// `cluster status` of a node.
    pub fn status(&self, index: usize) -> anyhow::Result<Value> {
        let output = self.cli(index, &["cluster", "status", "-output", "json"])?;
        ensure!(output.status.success(), "cluster status: {}", text(&output));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Why a node cannot issue, as it tells itself; nothing where it can.
    pub fn not_ready(&self, index: usize) -> anyhow::Result<String> {
        let status = self.status(index)?;
        let members = status["members"].as_array().context("no members")?;
        let own = members.iter().find(|m| m["id"] == status["node_id"]);
        let said = own.context("not a member")?["not_ready"].as_str();
        Ok(said.unwrap_or_default().to_owned())
    }

    /// Waits until a node is a voter that knows a leader and says `why` it cannot issue.
    pub async fn until_says(&self, index: usize, why: &str) -> anyhow::Result<()> {
        let what = format!("node {} saying {why:?}", index + 1);
        let mut last = String::new();
        let said = eventually(&what, LIMIT, || {
            let found = self.says(index, why);
            if let Ok(Err(said)) = &found {
                last.clone_from(said);
            }
            async { Ok(found?.ok()) }
        })
        .await;
        said.with_context(|| format!("it said {last:?}\n{}", self.logs()))
    }

    fn says(&self, index: usize, why: &str) -> anyhow::Result<Result<(), String>> {
        let status = self.status(index)?;
        let not_ready = self.not_ready(index)?;
        let members = status["members"].as_array().context("no members")?;
        let own = members.iter().find(|m| m["id"] == status["node_id"]);
        let role = own.context("not a member")?["role"].as_str();
        let votes = matches!(role, Some("leader" | "voter")) && status["leader"].is_string();
        Ok(if votes && not_ready.contains(why) {
            Ok(())
        } else {
            Err(format!("{role:?}: {not_ready}"))
        })
    }

    /// Waits until the agent port of a node is open; how long that took.
    pub async fn until_open(&self, index: usize, limit: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let what = format!("the agent port of node {}", index + 1);
        let open = eventually(&what, limit, || async {
            Ok(self.nodes[index].is_open().then_some(()))
        });
        open.await.with_context(|| self.logs())?;
        Ok(began.elapsed())
    }

    /// Makes an entry through a node: the cluster takes writes, elections of a machine under load
    /// aside.
    pub async fn write(&self, index: usize, name: &str) -> anyhow::Result<()> {
        let id = format!("spiffe://example.org/{name}");
        let args = [
            "entry",
            "create",
            "-parentID",
            "spiffe://example.org/agent",
            "-spiffeID",
            &id,
            "-selector",
            "unix:uid:1",
        ];
        eventually("a write", LIMIT, || {
            let made = self.cli(index, &args);
            async {
                let made = made?;
                // One that was not confirmed may have been made.
                let done = made.status.success() || text(&made).contains("AlreadyExists");
                ensure!(done, "{}", text(&made));
                Ok(Some(()))
            }
        })
        .await
    }

    /// The last lines of every log, for a failing test's message.
    pub fn logs(&self) -> String {
        let tail = |node: &Node| {
            let log = fs::read_to_string(node.home.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(25).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("--- {}\n{}\n", node.home.display(), lines.join("\n"))
        };
        self.nodes.iter().map(tail).collect()
    }
}

impl Node {
    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.home.join("chancery.toml")
    }

    /// host:port for agents.
    pub fn api(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Its admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.home.join("api.sock")
    }

    /// Writes its PIN file.
    pub fn write_pin(&self, pin: &str) -> anyhow::Result<()> {
        private(&self.home.join("pin"), pin)
    }

    /// All of its log.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.home.join("log"))?)
    }

    /// Whether the agent port takes connections.
    pub fn is_open(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.ports[0])).is_ok()
    }

    /// Kills its process, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // One that has ended already is as good.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks it to stop; it must end well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let ended = process.wait()?;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(())
    }

    /// Waits until its process has died of itself; how.
    pub async fn until_dead(&mut self) -> anyhow::Result<ExitStatus> {
        let Some(mut process) = self.process.take() else {
            bail!("it does not run");
        };
        let ended = eventually("the end of the process", LIMIT, || {
            let ended = process.try_wait();
            async move { Ok(ended?) }
        })
        .await;
        if ended.is_err() {
            // One that lives on must end with the test.
            self.process = Some(process);
        }
        ended
    }
}
