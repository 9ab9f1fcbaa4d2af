//! Backups under load, restores, and going on from one survivor, on clusters of real
//! processes; an epoch that ended does not come back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1 as agent_api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::entry::v1::ListEntriesRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::types;
use chancery_raft_store::high_water::HighWater;
use chancery_raft_store::model;
use chancery_raft_store::snapshot;
use chancery_raft_store::view::Table;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, bin_dir, eventually, text};
use chancery_tests::tls::connect_admin;
use prost::Message as _;
use serde_json::Value;

const KILL: i32 = 9;

/// An offline verb.
fn chancery(args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = Command::new(bin_dir()?.join("chancery"));
    command.args(args).envs(env.iter().copied());
    Ok(command.output()?)
}

/// What it prints as JSON.
fn json(args: &[&str]) -> anyhow::Result<Value> {
    let output = chancery(&[args, &["-output", "json"]].concat(), &[])?;
    ensure!(output.status.success(), "{args:?}: {}", text(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What it says when it fails.
fn refused(args: &[&str]) -> anyhow::Result<String> {
    let output = chancery(args, &[])?;
    ensure!(!output.status.success(), "{args:?}: {}", text(&output));
    Ok(text(&output))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}

/// Every entry as `node` tells an administrator, by id.
async fn entries(node: &Node) -> anyhow::Result<BTreeMap<String, types::Entry>> {
    let mut client = EntryClient::new(connect_admin(&node.admin_socket).await?);
    let request = ListEntriesRequest::default();
    let response = client.list_entries(request).await?.into_inner();
    ensure!(response.next_page_token.is_empty(), "more than a page");
    Ok(response
        .entries
        .into_iter()
        .map(|e| (e.id.clone(), e))
        .collect())
}

/// The entries in a backup file, by id.
fn entries_in(file: &Path) -> anyhow::Result<BTreeMap<String, model::Entry>> {
    let mut entries = BTreeMap::new();
    snapshot::decode(fs::File::open(file)?, |_, rows| {
        for (key, value) in rows {
            if matches!(Table::of(&key), Some((Table::Entries, _))) {
                let entry = model::Entry::decode(value.unwrap_or_default().as_slice())
                    .expect("an entry decodes");
                entries.insert(entry.id.clone(), entry);
            }
        }
        Ok(())
    })?;
    Ok(entries)
}

/// Whether what the API tells is what the backup has.
fn same(told: &types::Entry, stored: &model::Entry) -> bool {
    let path = |id: &Option<types::Spiffeid>| id.clone().unwrap_or_default().path;
    path(&told.spiffe_id) == stored.spiffe_path
        && path(&told.parent_id) == stored.parent_path
        && told.revision_number == stored.revision_number
        && told.created_at == stored.created_at
        && told.selectors.len() == stored.selectors.len()
}

fn string<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name]
        .as_str()
        .with_context(|| format!("no {name} in {value}"))
}

/// Creates entries one after the other until told to stop; who was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    fn start(node: &Node, entry: types::Entry) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let socket = node.admin_socket.clone();
        let task = tokio::spawn(async move {
            let mut client = EntryClient::new(connect_admin(&socket).await?);
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let mut next = entry.clone();
                next.id = format!("written-{n}");
                next.selectors[0].value = format!("uid:{n}");
                let request =
                    chancery_api::spire::api::server::entry::v1::BatchCreateEntryRequest {
                        entries: vec![next],
                        output_mask: None,
                    };
                let results = client
                    .batch_create_entry(request)
                    .await?
                    .into_inner()
                    .results;
                let created = results.into_iter().find_map(|r| r.entry);
                let id = created.context("a created entry")?.id;
                noted.lock().expect("no holder panics").insert(id);
            }
            Ok(())
        });
        Self {
            stop,
            acknowledged,
            task,
        }
    }

    fn acknowledged(&self) -> BTreeSet<String> {
        self.acknowledged.lock().expect("no holder panics").clone()
    }

    async fn reach(&self, count: usize) -> anyhow::Result<()> {
        eventually("writes", Duration::from_secs(30), || async {
            ensure!(!self.task.is_finished(), "the writer ended");
            Ok((self.acknowledged().len() >= count).then_some(()))
        })
        .await
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Saves a backup through `node`.
fn save(cluster: &Cluster, node: &Node, file: &Path) -> anyhow::Result<Value> {
    let output = cluster.cli(
        node,
        &["backup", "save", "-file", path(file), "-output", "json"],
    )?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Moves a node's data directory away; where it is now.
fn wipe(node: &Node) -> anyhow::Result<PathBuf> {
    let away = node.data_dir.with_extension("away");
    fs::rename(&node.data_dir, &away)?;
    Ok(away)
}

fn kill_all(cluster: &Cluster) -> anyhow::Result<()> {
    for node in cluster.nodes() {
        cluster.signal(&node.id, KILL)?;
    }
    Ok(())
}

/// Waits until `count` nodes vote and every member has the same state.
async fn whole(cluster: &Cluster, node: &Node, count: usize) -> anyhow::Result<Vec<String>> {
    eventually("a whole cluster", Duration::from_secs(30), || async {
        let status = cluster.status(node)?;
        let members = status["members"].as_array().context("members")?;
        let voters = members.iter().filter(|m| m["role"] != "learner").count();
        let digests: BTreeSet<_> = members
            .iter()
            .map(|m| {
                (
                    m["applied_index"].to_string(),
                    m["state_digest"].to_string(),
                )
            })
            .collect();
        let ids = members.iter().map(|m| string(m, "id").map(str::to_owned));
        let ids = ids.collect::<anyhow::Result<Vec<_>>>()?;
        Ok((voters == count && members.len() == count && digests.len() == 1).then_some(ids))
    })
    .await
}

async fn ban(node: &Node, agent: &Agent) -> anyhow::Result<()> {
    let id = types::Spiffeid {
        trust_domain: "example.org".into(),
        path: agent.path().into(),
    };
    let mut agents = AgentClient::new(connect_admin(&node.admin_socket).await?);
    agents
        .ban_agent(agent_api::BanAgentRequest { id: Some(id) })
        .await?;
    Ok(())
}

/// What an offline verb says when it fails, once the killed node has let go of its data.
async fn once_free(args: &[&str]) -> anyhow::Result<String> {
    eventually(
        "the end of a killed node",
        Duration::from_secs(10),
        || async {
            let said = refused(args)?;
            Ok((!said.contains("another process")).then_some(said))
        },
    )
    .await
}

/// What a server with this node's configuration says when it does not stay.
async fn ends(cluster: &Cluster, node: &Node) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(bin_dir()?.join("chancery"));
    command
        .args(["server", "run", "-config", path(&node.config)])
        .env("SOFTHSM2_CONF", cluster.dir().join("softhsm2.conf"))
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output())
        .await
        .context("the server goes on")??;
    ensure!(!output.status.success(), "{}", text(&output));
    Ok(text(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_makes_a_new_cluster_that_the_old_nodes_cannot_join()
-> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    let trust = cluster.trust()?;
    let agent = Agent::attest(
        &nodes[0].api,
        &trust,
        &cluster.token(&nodes[0]).await?,
        None,
    )
    .await?;
    let banned = Agent::attest(
        &nodes[1].api,
        &trust,
        &cluster.token(&nodes[1]).await?,
        None,
    )
    .await?;
    ban(&nodes[0], &banned).await?;
    let unredeemed = cluster.token(&nodes[2]).await?;
    let roots = cluster.dir().join("bundle.pem");
    let federate = [
        "bundle",
        "set",
        "-id",
        "spiffe://other.org",
        "-path",
        path(&roots),
    ];
    let output = cluster.cli(&nodes[1], &federate)?;
    ensure!(output.status.success(), "{}", text(&output));
    let old_status = cluster.status(&nodes[0])?;
    let old_cluster = string(&old_status, "cluster_id")?.to_owned();

    // From a follower, while another node is written to.
    let leader = cluster.leader(&nodes[0]).await?;
    let follower = nodes
        .iter()
        .find(|n| n.id != leader)
        .context("a follower")?;
    let writer = Writer::start(&nodes[0], cluster.entry(agent.path(), "/written"));
    writer.reach(30).await?;
    let before = writer.acknowledged();
    let file = cluster.dir().join("chancery.backup");
    let saved = save(&cluster, follower, &file)?;
    let so_far = writer.acknowledged().len();
    writer.reach(so_far + 5).await?;
    writer.end().await?;

    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file)?.permissions());
    ensure!(mode & 0o777 == 0o600, "mode {mode:o}");
    let stored = entries_in(&file)?;
    let ids: BTreeSet<_> = stored.keys().cloned().collect();
    ensure!(ids.is_superset(&before), "an acknowledged write is missing");
    ensure!(
        entries(&nodes[0]).await?.len() > stored.len(),
        "the load did not outlast the backup"
    );
    ensure!(saved["counts"]["entries"] == stored.len(), "{saved}");
    ensure!(saved["node_id"] == follower.id.as_str() && saved["verified"] == true);
    let again = cluster.cli(follower, &["backup", "save", "-file", path(&file)])?;
    ensure!(
        !again.status.success() && text(&again).contains("-force"),
        "{}",
        text(&again)
    );
    let inspected = json(&["backup", "inspect", "-file", path(&file)])?;
    ensure!(inspected["log_index"] == saved["log_index"], "{inspected}");

    // Everything is lost, and node 1 made anew.
    kill_all(&cluster)?;
    let config = path(&nodes[0].config);
    let restore = ["backup", "restore", "-config", config, "-file", path(&file)];
    let said = once_free(&restore).await?;
    ensure!(said.contains("is not empty, it holds "), "{said}");
    let away: Vec<PathBuf> = nodes.iter().map(wipe).collect::<Result<_, _>>()?;
    let cut = cluster.dir().join("cut.backup");
    let bytes = fs::read(&file)?;
    fs::write(&cut, &bytes[..bytes.len() - 7])?;
    for verb in ["verify", "inspect"] {
        let said = refused(&["backup", verb, "-file", path(&cut)])?;
        ensure!(said.contains("cut.backup is no whole backup"), "{said}");
    }
    let from_cut = ["backup", "restore", "-config", config, "-file", path(&cut)];
    let said = refused(&from_cut)?;
    ensure!(said.contains("cut.backup is no whole backup"), "{said}");

    let renewed = json(&restore)?;
    let new_cluster = string(&renewed, "cluster_id")?.to_owned();
    ensure!(new_cluster != old_cluster && renewed["from_cluster_id"] == old_cluster.as_str());
    ensure!(renewed["from_log_index"] == saved["log_index"], "{renewed}");
    ensure!(renewed["node_id"] == "4", "{renewed}");
    let said = refused(&restore)?;
    ensure!(said.contains("is not empty"), "{said}");

    cluster.restart(&nodes[0].id, &[])?;
    let first = cluster.node("4")?.clone();
    let told = entries(&first).await?;
    let differing: Vec<_> = told
        .iter()
        .filter(|(id, entry)| !stored.get(*id).is_some_and(|stored| same(entry, stored)))
        .collect();
    ensure!(
        told.len() == stored.len() && differing.is_empty(),
        "{differing:?}"
    );
    for node in &nodes[1..] {
        cluster.restart(&node.id, &[])?;
    }
    let ids = whole(&cluster, &first, 3).await?;
    ensure!(ids == ["4", "5", "6"], "{ids:?}");

    // The same authority goes on, for agents of before and new ones.
    let status = cluster.status(&first)?;
    let active = |status: &Value| -> Vec<String> {
        let all = status["authorities"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let active = all.iter().filter(|a| a["status"] == "active");
        active.map(|a| a["authority_id"].to_string()).collect()
    };
    ensure!(active(&status) == active(&old_status), "{status}");
    let nodes = cluster.nodes().to_vec();
    for node in &nodes {
        ensure!(!agent.round(&node.api).await?.is_empty(), "no SVID");
        let denied = banned.round(&node.api).await;
        ensure!(denied.is_err(), "the ban is forgotten");
    }
    Agent::attest(&nodes[2].api, &trust, &unredeemed, None).await?;
    let federated = text(&cluster.cli(&nodes[1], &["bundle", "list"])?);
    ensure!(federated.contains("other.org"), "{federated}");
    let log = fs::read_to_string(&first.log)?;
    ensure!(
        log.contains("cluster_epoch") && log.contains(&old_cluster),
        "not audited"
    );

    // A node of the old cluster, with its old data: it is told, and disturbs nobody.
    let new = nodes[1].clone();
    cluster.signal(&new.id, KILL)?;
    let aside = wipe_to(&new, "new")?;
    fs::rename(&away[1], &new.data_dir)?;
    let term = cluster.status(&first)?["term"].clone();
    let said = ends(&cluster, &new).await?;
    ensure!(
        said.contains("whose epoch has ended") && said.contains(&new_cluster),
        "{said}"
    );
    ensure!(
        cluster.status(&first)?["term"] == term,
        "it disturbed the election"
    );
    fs::remove_dir_all(&new.data_dir)?;
    fs::rename(aside, &new.data_dir)?;
    cluster.restart(&new.id, &[])?;
    whole(&cluster, &first, 3).await?;
    println!(
        "backup: {} entries at log position {} of {} acknowledged; restored as cluster {new_cluster}",
        stored.len(),
        saved["log_index"],
        before.len()
    );
    Ok(())
}

fn wipe_to(node: &Node, extension: &str) -> anyhow::Result<PathBuf> {
    let away = node.data_dir.with_extension(extension);
    fs::rename(&node.data_dir, &away)?;
    Ok(away)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_survivor_of_three_goes_on_and_the_others_join_it_anew() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        keys: "memory",
        ..Options::default()
    })?;
    let nodes = cluster.nodes().to_vec();
    let survivor = nodes[2].clone();
    let entry = cluster.entry("/spire/agent/x", "/kept");
    let created = cluster.create(&survivor, vec![entry]).await?;
    let kept = created[0].1.clone().context("an entry")?;
    let old_cluster = string(&cluster.status(&survivor)?, "cluster_id")?.to_owned();

    let recover = ["cluster", "recover", "-config", path(&survivor.config)];
    let said = refused(&recover)?;
    ensure!(
        said.contains("another process uses the data directory"),
        "{said}"
    );
    for node in &nodes[..2] {
        cluster.signal(&node.id, KILL)?;
    }

    // Without a quorum a backup is refused, or says how old it is.
    let file = cluster.dir().join("stale.backup");
    let unconfirmed = eventually(
        "the loss of the quorum",
        Duration::from_secs(20),
        || async {
            fs::remove_file(&file).ok();
            let output = cluster.cli(&survivor, &["backup", "save", "-file", path(&file)])?;
            Ok((!output.status.success()).then(|| text(&output)))
        },
    )
    .await?;
    ensure!(unconfirmed.contains("-staleOK"), "{unconfirmed}");
    ensure!(!file.exists(), "a refused backup left a file");
    let stale = ["backup", "save", "-file", path(&file), "-staleOK"];
    let output = cluster.cli(
        &survivor,
        &[stale.as_slice(), &["-output", "json"]].concat(),
    )?;
    ensure!(output.status.success(), "{}", text(&output));
    let saved: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(saved["stale_ms"].is_i64() && text(&output).contains("without a quorum"));

    cluster.signal(&survivor.id, KILL)?;
    once_free(&recover).await?;
    // The mark beside the store says that there was more.
    let mark = HighWater::load(&survivor.data_dir)?.context("a high-water mark")?;
    let mut further = mark.clone();
    let last = further.position.last.as_mut().context("a last log entry")?;
    last.index += 1_000;
    further.save(&survivor.data_dir)?;
    let short = refused(&[recover.as_slice(), &["-yes"]].concat())?;
    ensure!(
        short.contains("- LOST: part of what this node had on its disk: its log ends"),
        "{short}"
    );
    ensure!(short.contains("give -shortStore to go on"), "{short}");
    mark.save(&survivor.data_dir)?;
    let said = refused(&recover)?;
    for part in [
        format!("RECOVERY FROM ONE SURVIVOR: node {}", survivor.id).as_str(),
        "LOST:",
        &format!("Node {} (", nodes[0].id),
        &format!("Node {} (", nodes[1].id),
        "nothing was changed: give -yes",
    ] {
        ensure!(said.contains(part), "{part:?} is not in {said}");
    }
    let renewed = json(&[recover.as_slice(), &["-yes"]].concat())?;
    ensure!(
        renewed["how"] == "recovered" && renewed["node_id"] == "4",
        "{renewed}"
    );
    let kept_in = string(&renewed, "kept_in")?;
    ensure!(Path::new(kept_in).join("identity").exists(), "{kept_in}");

    cluster.restart(&survivor.id, &[])?;
    let first = cluster.node("4")?.clone();
    let told = entries(&first).await?;
    ensure!(told.len() == 1 && told[&kept.id] == kept, "{told:?}");
    ensure!(string(&cluster.status(&first)?, "cluster_id")? != old_cluster);
    // Node 1, the first of the list, still has its old data.
    let said = ends(&cluster, &nodes[0]).await?;
    ensure!(said.contains("whose epoch has ended"), "{said}");
    for node in &nodes[..2] {
        wipe(node)?;
        cluster.restart(&node.id, &[])?;
    }
    let ids = whole(&cluster, &first, 3).await?;
    ensure!(ids == ["4", "5", "6"], "{ids:?}");

    // Keys in memory are gone with the process; it has made others.
    let trust = {
        let output = cluster.cli(&first, &["bundle", "show"])?;
        chancery_tests::tls::Trust::from_pem("example.org", &text(&output))?
    };
    let agent = Agent::attest(&first.api, &trust, &cluster.token(&first).await?, None).await?;
    let entry = cluster.entry(agent.path(), "/after");
    cluster.create(&first, vec![entry]).await?;
    ensure!(!agent.round(&first.api).await?.is_empty(), "no SVID");
    Ok(())
}

/// A copy of a directory.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output()?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(())
}

#[tokio::test]
async fn a_recovery_that_is_killed_at_any_step_leaves_the_old_state_or_the_new()
-> anyhow::Result<()> {
    const ABORT: &str = "CHANCERY_FAULT_ABORT_AT_STEP";
    let cluster = Cluster::start(&Options {
        nodes: 1,
        keys: "memory",
        ..Options::default()
    })?;
    let node = cluster.nodes()[0].clone();
    let entry = cluster.entry("/spire/agent/x", "/kept");
    cluster.create(&node, vec![entry]).await?;
    let old_cluster = string(&cluster.status(&node)?, "cluster_id")?.to_owned();
    cluster.signal(&node.id, KILL)?;
    let recover = ["cluster", "recover", "-config", path(&node.config)];
    once_free(&recover).await?;
    let original = node.data_dir.with_extension("original");
    fs::rename(&node.data_dir, &original)?;

    let (mut old, mut new) = (0, 0);
    for step in 1u32.. {
        if node.data_dir.exists() {
            fs::remove_dir_all(&node.data_dir)?;
        }
        copy(&original, &node.data_dir)?;
        let killed = chancery(
            &[recover.as_slice(), &["-yes"]].concat(),
            &[(ABORT, &step.to_string())],
        )?;
        if killed.status.success() {
            ensure!(step > 15, "only {step} steps");
            break;
        }
        ensure!(
            killed.status.code().is_none(),
            "step {step}: {}",
            text(&killed)
        );
        // Whoever comes next finds one or the other, complete.
        let said = refused(&recover)?;
        let is_old = said.contains(&format!("node 1 of cluster {old_cluster}"));
        ensure!(
            is_old || said.contains("SURVIVOR: node 2 of cluster"),
            "step {step}: {said}"
        );
        ensure!(said.contains("log entries 1 to"), "step {step}: {said}");
        ensure!(!is_old || new == 0, "step {step}: the old state came back");
        if is_old {
            old += 1;
        } else {
            new += 1;
        }
        let left: Vec<_> = fs::read_dir(&node.data_dir)?
            .map(|item| item.map(|i| i.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()?;
        ensure!(
            is_old || !left.iter().any(|name| name.starts_with("epoch.")),
            "step {step}: {left:?}"
        );
    }
    ensure!(
        old > 3 && new > 3,
        "killed {old} times before and {new} times behind the exchange"
    );
    println!(
        "recovery killed at {} steps: old state {old}, new state {new}",
        old + new
    );

    // A server carries on where the exchange was cut off, and serves what came of it.
    fs::remove_dir_all(&node.data_dir)?;
    copy(&original, &node.data_dir)?;
    let cut_off = (old + 4).to_string();
    let killed = chancery(
        &[recover.as_slice(), &["-yes"]].concat(),
        &[(ABORT, &cut_off)],
    )?;
    ensure!(killed.status.code().is_none(), "{}", text(&killed));
    let unsettled = ["epoch.new", "epoch.in"].map(|name| node.data_dir.join(name).exists());
    ensure!(unsettled.contains(&true), "nothing was cut off");
    let mut cluster = cluster;
    cluster.restart("1", &[])?;
    let told = entries(cluster.node("2")?).await?;
    ensure!(told.len() == 1, "{told:?}");
    Ok(())
}
