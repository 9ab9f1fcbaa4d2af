//! Data and nodes of an earlier version.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_raft_store::command::FEATURE_LEVEL;
use chancery_tests::cluster::{Cluster, Options, bin_dir, eventually, long, root, text};
use chancery_tests::load::{Load, nothing_is_lost};
use chancery_tests::tls::connect_admin;

const LIMIT: Duration = Duration::from_secs(60);

/// A server that is killed with its handle.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `tests/samples/data-dir-level-0.tar.gz` holds: a node of its own at this address, with
/// keys in memory, written by the last version without feature levels.
mod sample {
    pub(super) const PEER: &str = "127.0.0.1:19732";
    pub(super) const CLUSTER: &str = "0ac801ca-692f-46e7-be17-eec835bb60d6";
    pub(super) const APPLIED: u64 = 17;
    pub(super) const ENTRIES: [&str; 4] = ["stored-1", "stored-2", "stored-4", "stored-5"];
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_an_earlier_version_goes_on() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let home = dir.path();
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(root().join("tests/samples/data-dir-level-0.tar.gz"))
        .arg("-C")
        .arg(home)
        .output()?;
    ensure!(unpacked.status.success(), "{}", text(&unpacked));
    let config = home.join("chancery.toml");
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (here, peer) = (home.display(), sample::PEER);
    std::fs::write(
        &config,
        format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{here}/data\"\n\
             [api]\naddress = \"{free}\"\nadmin_socket = \"{here}/api.sock\"\n\
             [peer]\naddress = \"{peer}\"\n[cluster]\npeers = [\"{peer}\"]\n\
             [keys]\nbackend = \"memory\"\n"
        ),
    )?;
    let log = std::fs::File::create(home.join("log"))?;
    let _server = Server(
        Command::new(bin_dir()?.join("chancery"))
            .args(["server", "run", "-config"])
            .arg(&config)
            .env("CHANCERY_FAULT_LEVEL_OFFERED_MS", "1000")
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()?,
    );
    let socket = home.join("api.sock");
    let chancery = |words: &[&str]| -> anyhow::Result<serde_json::Value> {
        let output = Command::new(bin_dir()?.join("chancery"))
            .args(words)
            .args(["-output", "json", "-socketPath"])
            .arg(&socket)
            .output()?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let said = || std::fs::read_to_string(home.join("log")).unwrap_or_default();
    let status = eventually("a leader", LIMIT, || async {
        let status = chancery(&["cluster", "status"])?;
        Ok((!status["leader"].is_null()).then_some(status))
    })
    .await
    .with_context(said)?;
    ensure!(status["cluster_id"] == sample::CLUSTER, "{status}");
    ensure!(
        status["members"][0]["applied_index"].as_u64() > Some(sample::APPLIED),
        "{status}"
    );
    let shown = chancery(&["entry", "show"])?;
    let entries = shown["entries"].as_array().context("entries")?;
    let ids: Vec<_> = entries.iter().filter_map(|e| e["id"].as_str()).collect();
    // Beside them the second name of a join token.
    let kept: Vec<_> = ids.iter().filter(|id| id.starts_with("stored-")).collect();
    ensure!(kept.into_iter().eq(&sample::ENTRIES), "{ids:?}");
    ensure!(ids.len() == sample::ENTRIES.len() + 1, "{ids:?}");
    // It writes, and takes the commands of this version once every member has offered them.
    let mut agents = AgentClient::new(connect_admin(&socket).await?);
    let request = CreateJoinTokenRequest {
        ttl: 600,
        ..Default::default()
    };
    agents.create_join_token(request).await?;
    eventually("the feature level", LIMIT, || async {
        let level = chancery(&["cluster", "status"])?["feature_level"].as_u64();
        Ok((level == Some(u64::from(FEATURE_LEVEL))).then_some(()))
    })
    .await?;
    chancery(&["cluster", "token"])?;
    Ok(())
}

/// Binaries of an earlier commit, built in a target folder of their own.
fn earlier(commit: &str) -> anyhow::Result<PathBuf> {
    let run = |command: &mut Command| -> anyhow::Result<String> {
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {}", text(&output));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let git = |words: &[&str]| run(Command::new("git").current_dir(root()).args(words));
    let hash = git(&["rev-parse", "--verify", &format!("{commit}^{{commit}}")])?;
    let cache = bin_dir()?
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .context("a cache")?;
    let (tree, target) = (cache.join("earlier"), cache.join("earlier-target"));
    if tree.exists() {
        git(&["worktree", "remove", "--force", &tree.display().to_string()])?;
    }
    git(&[
        "worktree",
        "add",
        "--detach",
        &tree.display().to_string(),
        &hash,
    ])?;
    run(Command::new("cargo")
        .current_dir(&tree)
        .args([
            "build",
            "-p",
            "chancery-node",
            "--features",
            "faults",
            "--bin",
            "chancery",
        ])
        .arg("--config")
        .arg(root().join(".cargo/config.toml"))
        .env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("debug"))
}

/// One node after the other gets the other binaries, with all versions at work in between.
async fn roll(
    cluster: &mut Cluster,
    load: &Load,
    bin: &Path,
    mixed: Duration,
) -> anyhow::Result<()> {
    let bin = bin.display().to_string();
    for id in ["1", "2", "3"] {
        cluster.restart(id, &[("CHANCERY_BIN_DIR", &bin)])?;
        load.knows(cluster.nodes().to_vec());
        tokio::time::sleep(mixed).await;
    }
    Ok(())
}

/// In `make test-long`, from the commit before, or that of `CHANCERY_UPGRADE_FROM`; in
/// `make test` between two runs of the same version, so that the way itself is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_node_by_node_and_taken_back() -> anyhow::Result<()> {
    let now = bin_dir()?;
    let (before, mixed) = match (std::env::var("CHANCERY_UPGRADE_BIN"), long()) {
        (Ok(bin), _) => (PathBuf::from(bin), Duration::from_secs(40)),
        (Err(_), true) => {
            let commit = std::env::var("CHANCERY_UPGRADE_FROM");
            let bin = earlier(commit.as_deref().unwrap_or("HEAD^"))?;
            (bin, Duration::from_secs(40))
        }
        (Err(_), false) => (now.clone(), Duration::ZERO),
    };
    let bin = before.display().to_string();
    let mut cluster = Cluster::start(&Options {
        env: &[("CHANCERY_BIN_DIR", &bin)],
        ..Options::default()
    })?;
    let load = Load::start(&cluster).await?;
    roll(&mut cluster, &load, &now, mixed).await?;
    roll(&mut cluster, &load, &before, mixed).await?;
    roll(&mut cluster, &load, &now, Duration::ZERO).await?;
    let done = load.end().await?;
    nothing_is_lost(&cluster, cluster.nodes(), &done).await?;
    println!(
        "rolling upgrade from {}, back, and again: {} writes and {} signatures, failed after retries 0",
        before.display(),
        done.written.len(),
        done.signed
    );
    Ok(())
}
