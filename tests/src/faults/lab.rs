//! Where the nodes live: namespaces of this run alone.
//!
//! The harness starts itself again below `unshare`, in a network, mount and process
//! namespace of its own. All that it makes in there, bridges, named network namespaces,
//! firewall rules, mounts and processes, the kernel removes when the harness ends,
//! however it ends; two runs cannot meet. Only the folder of a killed run stays, and the
//! next run removes it.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// Set inside the namespaces: the folder of the run.
const INSIDE: &str = "CHANCERY_FAULTS_DIR";
/// Beginning of the folders' names; the process id outside follows.
const PREFIX: &str = "chancery-faults-";
const BRIDGE: &str = "bridge";
/// Address of the harness.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// A program that the harness starts, and the Debian package that brings it.
const TOOLS: [(&str, &str); 8] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("prlimit", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("strace", "strace"),
    ("faketime", "faketime"),
];

/// Why the machine cannot run the faults.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A tool is missing.
    #[error("{tool} is missing: `make setup` installs it (Debian package {package})")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// What brings it.
        package: &'static str,
    },
    /// Namespaces cannot be made.
    #[error(
        "network namespaces cannot be made here: {why}. The fault harness needs root with CAP_SYS_ADMIN and \
         CAP_NET_ADMIN (in a container: --privileged)"
    )]
    NotPermitted {
        /// What the system said.
        why: String,
    },
}

/// Runs a program to its end; what it printed.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let shown = || format!("{program} {}", args.join(" "));
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("cannot run {}", shown()))?;
    ensure!(
        output.status.success(),
        "{}: {}{}",
        shown(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
}

/// Folder of the run, if this process is inside the namespaces.
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Starts this program again inside the namespaces, in the place of this process; comes
/// back only where that fails.
pub fn enter() -> anyhow::Error {
    match prepare() {
        Ok(mut command) => {
            let error = command.exec();
            anyhow::Error::new(error).context("cannot run unshare")
        }
        Err(error) => error,
    }
}

fn prepare() -> anyhow::Result<Command> {
    for (tool, package) in TOOLS {
        find(tool).ok_or(LabError::Tool { tool, package })?;
    }
    let wanted = [
        "--net",
        "--mount",
        "--propagation=private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    let trial = Command::new("unshare").args(wanted).arg("true").output()?;
    if !trial.status.success() {
        let why = String::from_utf8_lossy(&trial.stderr).trim().to_owned();
        bail!(LabError::NotPermitted { why });
    }
    sweep();
    let dir = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = Command::new("unshare");
    command
        .args(wanted)
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, &dir);
    Ok(command)
}

/// Removes the folders of runs that are no more.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else {
            continue;
        };
        let kept = entry.path().join(KEPT).exists();
        let lives = std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("chancery-faults"));
        if !lives && !kept {
            // Another run may be sweeping too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Marks a folder that is to stay.
const KEPT: &str = "kept";

/// Keeps the folder of a run for whoever looks for the cause.
pub fn keep(dir: &Path) -> anyhow::Result<()> {
    Ok(std::fs::write(dir.join(KEPT), "")?)
}

/// A bridge with the harness on it, and one network namespace a node.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
}

/// Which packets between two nodes are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Index of the node that does not hear.
    pub at: usize,
    /// Index of the node that it does not hear.
    pub from: usize,
}

impl Network {
    /// Makes the bridge; once in a run.
    pub fn prepare() -> anyhow::Result<()> {
        // Named namespaces are mounts, and those are this run's own.
        std::fs::create_dir_all("/run/netns").context("cannot make /run/netns")?;
        run("mount", &["-t", "tmpfs", "tmpfs", "/run/netns"])?;
        run("ip", &["link", "set", "lo", "up"])?;
        run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{HUB}/24"), "dev", BRIDGE])?;
        run("ip", &["link", "set", BRIDGE, "up"])?;
        Ok(())
    }

    /// A network of `nodes`, each on an address of its own.
    pub fn new(nodes: usize) -> anyhow::Result<Self> {
        let made = Self { nodes };
        for node in 0..nodes {
            let (name, link) = (Self::name(node), format!("link{node}"));
            run("ip", &["netns", "add", &name])?;
            let ends = ["type", "veth", "peer", "name", "eth0", "netns", &name];
            run("ip", &[&["link", "add", &link], ends.as_slice()].concat())?;
            run("ip", &["link", "set", &link, "master", BRIDGE])?;
            run("ip", &["link", "set", &link, "up"])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
            run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
            let address = format!("{}/24", Self::address(node));
            run("ip", &["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        }
        Ok(made)
    }

    /// Name of a node's namespace.
    pub fn name(node: usize) -> String {
        format!("node{node}")
    }

    /// Address of a node.
    pub fn address(node: usize) -> Ipv4Addr {
        let [a, b, c, _] = HUB.octets();
        // Seven nodes at the most: `[cluster] peers` takes no more.
        let last = u8::try_from(node).unwrap_or(u8::MAX - 11);
        Ipv4Addr::new(a, b, c, 11 + last)
    }

    /// A program in a node's namespace.
    pub fn command(node: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", Self::name(node)))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `iptables` in a node's namespace; what it printed.
    pub fn iptables(node: usize, args: &[&str]) -> anyhow::Result<String> {
        let output = Self::command(node, "iptables")
            .arg("-w")
            .args(args)
            .output()?;
        ensure!(
            output.status.success(),
            "iptables {} on node {node}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Drops what `drops` name, on the peer port only: clients go on.
    pub fn drop(&self, drops: &[Drop], peer_port: u16) -> anyhow::Result<()> {
        let port = peer_port.to_string();
        for Drop { at, from } in drops {
            let source = Self::address(*from).to_string();
            for side in ["--sport", "--dport"] {
                let rule = [
                    "-A", "INPUT", "-s", &source, "-p", "tcp", side, &port, "-j", "DROP",
                ];
                Self::iptables(*at, &rule)?;
            }
        }
        Ok(())
    }

    /// Drops a part of the packets that a node receives from its peers.
    pub fn lose(&self, at: usize, probability: f64, peer_port: u16) -> anyhow::Result<()> {
        let (port, probability) = (peer_port.to_string(), format!("{probability:.3}"));
        for side in ["--sport", "--dport"] {
            let random = [
                "-m",
                "statistic",
                "--mode",
                "random",
                "--probability",
                &probability,
            ];
            let rule = ["-A", "INPUT", "-p", "tcp", side, &port];
            Self::iptables(at, &[rule.as_slice(), &random, &["-j", "DROP"]].concat())?;
        }
        Ok(())
    }

    /// Packets that the rules of each node have dropped since they were made.
    pub fn dropped(&self) -> anyhow::Result<Vec<u64>> {
        (0..self.nodes)
            .map(|node| {
                let listed = Self::iptables(node, &["-nvxL", "INPUT"])?;
                let packets = listed.lines().filter_map(|line| {
                    let mut words = line.split_whitespace();
                    let packets = words.next()?.parse::<u64>().ok()?;
                    (words.nth(1)? == "DROP").then_some(packets)
                });
                Ok(packets.sum())
            })
            .collect()
    }

    /// Takes every rule away.
    pub fn heal(&self) -> anyhow::Result<()> {
        for node in 0..self.nodes {
            Self::iptables(node, &["-F", "INPUT"])?;
            Self::iptables(node, &["-t", "nat", "-F", "OUTPUT"])?;
        }
        Ok(())
    }
}

impl std::ops::Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            // What is left goes with the namespaces of the run.
            let _ = run("ip", &["link", "del", &format!("link{node}")]);
            let _ = run("ip", &["netns", "del", &Self::name(node)]);
        }
    }
}
