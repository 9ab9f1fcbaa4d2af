//! The key ceremony's runbook, command by command as it stands there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Options, bin_dir, eventually, root, softhsm_module, text};

const RUNBOOK: &str = "docs/runbooks/key-ceremony.md";
const KILL: i32 = 9;
const LIMIT: Duration = Duration::from_secs(120);

/// A section of the runbook and its commands.
struct Section {
    title: String,
    blocks: Vec<String>,
}

fn runbook() -> anyhow::Result<Vec<Section>> {
    let text = std::fs::read_to_string(root().join(RUNBOOK))?;
    let mut sections: Vec<Section> = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(_), "```") => {
                let section = sections.last_mut().context("commands before a section")?;
                section.blocks.extend(block.take());
            }
            (Some(block), line) => *block = format!("{block}{line}\n"),
            (None, line) => {
                if let Some(title) = line.strip_prefix("## ") {
                    let (title, blocks) = (title.to_owned(), Vec::new());
                    sections.push(Section { title, blocks });
                }
            }
        }
    }
    Ok(sections)
}

/// The room in which it is held.
struct Room {
    dir: tempfile::TempDir,
    sections: Vec<Section>,
    /// Admin socket of the node that is asked.
    socket: PathBuf,
    /// The shell's memory between the blocks of a section.
    variables: PathBuf,
}

impl Room {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("chancery-ceremony-")
            .tempdir()?;
        for folder in ["etc", "root", "backups", "tokens"] {
            std::fs::create_dir(dir.path().join(folder))?;
        }
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            dir.path().join("tokens").display()
        );
        std::fs::write(dir.path().join("softhsm2.conf"), conf)?;
        let room = Self {
            socket: dir.path().join("none.sock"),
            variables: dir.path().join("variables"),
            sections: runbook()?,
            dir,
        };
        let config = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{}/data\"\n\n[api]\naddress = \"127.0.0.1:8081\"\n{}",
            room.path("").display(),
            room.keys()?
        );
        std::fs::write(room.path("etc/chancery.toml"), config)?;
        Ok(room)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn keys(&self) -> anyhow::Result<String> {
        let module = softhsm_module()?;
        Ok(format!(
            "\n[keys]\nbackend = \"pkcs11\"\n\n[keys.pkcs11]\nmodule = \"{}\"\ntoken_label = \"chancery\"\n\
             pin_file = \"{}\"\n",
            module.display(),
            self.path("etc/pin").display()
        ))
    }

    /// Runs the commands of a section, all or one block; what they printed.
    fn hold(&self, section: &str, blocks: std::ops::Range<usize>) -> anyhow::Result<String> {
        let found = self.sections.iter().find(|s| s.title.starts_with(section));
        let found = found.with_context(|| format!("{RUNBOOK} has no section {section}"))?;
        let commands = found.blocks.get(blocks.clone());
        let commands = commands.with_context(|| format!("{section} has no blocks {blocks:?}"))?;
        let folder = |name: &str| format!("{}/", self.path(name).display());
        let script = commands
            .concat()
            .replace("/etc/chancery/", &folder("etc"))
            .replace("/root/", &folder("root"))
            .replace("/var/backups/", &folder("backups"));
        let search = std::env::var("PATH")?;
        let variables = self.variables.display();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c"])
            .arg(format!(
                "[ ! -e {variables} ] || . {variables}\n{script}\ndeclare -p OLD NEW 2>/dev/null >{variables} || true"
            ))
            .env("PATH", format!("{}:{search}", bin_dir()?.display()))
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("SPIRE_SERVER_PRIVATE_SOCKET", &self.socket)
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{section}: {}", text(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Every section that has commands, with how many blocks.
    fn blocks(&self) -> Vec<(&str, usize)> {
        let of = |s: &'_ Section| s.blocks.len();
        let sections = self.sections.iter().filter(|s| !s.blocks.is_empty());
        sections.map(|s| (&s.title[..2], of(s))).collect()
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).output()?;
    ensure!(copied.status.success(), "cp: {}", text(&copied));
    Ok(())
}

/// An agent that trusts what the bundle has now gets documents from every node.
async fn signs_everywhere(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let first = cluster.nodes().first().context("a node")?;
    let trust = cluster.trust_of(first)?;
    let token = cluster.token(first).await?;
    let agent = Agent::attest(&first.api, &trust, &token, None).await?;
    let entry = cluster.entry(agent.path(), &format!("/{name}"));
    cluster.create(first, vec![entry]).await?;
    for node in cluster.nodes() {
        let signed = agent.round(&node.api).await;
        let signed = signed.with_context(|| format!("{name}: node {}", node.id))?;
        ensure!(!signed.is_empty(), "{name}: node {} signs nothing", node.id);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ceremony_is_held_as_it_is_written() -> anyhow::Result<()> {
    let mut room = Room::new()?;
    ensure!(
        room.blocks()
            == [
                ("1.", 1),
                ("2.", 1),
                ("3.", 1),
                ("4.", 1),
                ("5.", 1),
                ("6.", 1),
                ("7.", 2)
            ],
        "{RUNBOOK} has commands that are not rehearsed: {:?}",
        room.blocks()
    );
    room.hold("1.", 0..1)?;
    let made = room.hold("2.", 0..1)?;
    ensure!(
        made.contains("initialised") && made.contains("none made"),
        "{made}"
    );
    ensure!(
        std::fs::read_dir(room.path("root"))?.next().is_none(),
        "a PIN is left"
    );

    let conf = room.path("softhsm2.conf").display().to_string();
    let env = [("SOFTHSM2_CONF", conf.as_str())];
    let mut cluster = Cluster::start(&Options {
        keys: "extra",
        env: &env,
        extra: &room.keys()?,
        ..Options::default()
    })?;
    room.socket = cluster.nodes()[0].admin_socket.clone();
    let witnessed = room.hold("3.", 0..1)?;
    for wanted in [
        "active X.509 authority",
        "active JWT authority",
        "Fingerprint=",
    ] {
        ensure!(witnessed.contains(wanted), "no {wanted}: {witnessed}");
    }
    signs_everywhere(&cluster, "first").await?;
    room.hold("4.", 0..1)?;
    let keys = std::fs::read_to_string(room.path("backups/chancery-keys.json"))?;
    ensure!(keys.contains("\"owner\":\"authority\""), "{keys}");

    // What the vendor's tool keeps.
    copy(&room.path("tokens"), &room.path("vendor"))?;
    for node in cluster.nodes().to_vec() {
        cluster.signal(&node.id, KILL)?;
    }
    std::fs::remove_dir_all(room.path("tokens"))?;
    copy(&room.path("vendor"), &room.path("tokens"))?;
    cluster.restart("all", &env)?;
    let found = room.hold("5.", 0..1)?;
    ensure!(!found.contains("Missing"), "{found}");
    signs_everywhere(&cluster, "moved").await?;

    // Its keys are lost: a new token, and nodes that have no authority until one is made.
    for node in cluster.nodes().to_vec() {
        cluster.signal(&node.id, KILL)?;
    }
    std::fs::remove_dir_all(room.path("tokens"))?;
    std::fs::create_dir(room.path("tokens"))?;
    room.hold("1.", 0..1)?;
    room.hold("2.", 0..1)?;
    let anew = {
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        std::thread::spawn(move || -> anyhow::Result<Cluster> {
            let env = env
                .each_ref()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            cluster.restart("all", &env)?;
            Ok(cluster)
        })
    };
    let lost = eventually("authorities in the new token", LIMIT, || async {
        room.hold("6.", 0..1).map(Some)
    })
    .await?;
    ensure!(lost.matches("Missing").count() == 2, "{lost}");
    let Ok(cluster) = anew.join() else {
        bail!("the restart panicked");
    };
    let cluster = cluster?;
    signs_everywhere(&cluster, "lost").await?;

    let replaced = room.hold("7.", 0..1)?;
    ensure!(replaced.contains("Tainted X.509 authority"), "{replaced}");
    let swept = room.hold("7.", 1..2)?;
    ensure!(swept.contains("left, until"), "nobody is counted: {swept}");
    ensure!(swept.contains("Would destroy 1 key"), "{swept}");
    ensure!(swept.contains("Destroyed"), "{swept}");
    signs_everywhere(&cluster, "compromised").await
}
