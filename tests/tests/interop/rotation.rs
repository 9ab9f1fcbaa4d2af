//! Workloads that read their identities by go-spiffe from a Workload API, shake hands and validate
//! each other's tokens all the time, while authorities rotate in either issuance mode and the node
//! that leads is killed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chancery_tests::cluster::Node;

use super::*;

const KILL: i32 = 9;
const HOUR: Duration = Duration::from_secs(3_600);
/// A rotation by the calendar takes most of an authority's life.
const LIMIT: Duration = Duration::from_secs(600);

/// The two agents with their workloads, as a process, and what it has said.
struct Workloads {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Workloads {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut child = Command::new(program()?)
            .args(["rotation", "-cluster"])
            .arg(cluster.dir().join("cluster.json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(cluster.dir().join("workloads.log"))?)
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("its output")?;
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        Ok(Self {
            child,
            stdin,
            said,
            reader: Some(reader),
        })
    }

    fn said(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    /// The bundle of each agent, as it told last: ids of roots, with a star where tainted.
    fn bundles(&self) -> BTreeMap<String, String> {
        let said = self.said();
        let told = said.iter().filter_map(|line| {
            let (agent, roots) = line.strip_prefix("bundle ")?.split_once(' ')?;
            Some((agent.to_owned(), roots.to_owned()))
        });
        told.collect()
    }

    /// Ends them; what they counted.
    fn end(mut self) -> anyhow::Result<Value> {
        if let Some(mut stdin) = self.stdin.take() {
            // Closed, not written to, is what ends it.
            stdin.flush()?;
        }
        ensure!(self.child.wait()?.success(), "it failed: {:?}", self.said());
        if let Some(reader) = self.reader.take() {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        }
        let said = self.said();
        let counts = said.last().context("no counts")?;
        serde_json::from_str(counts).with_context(|| said.join("\n"))
    }
}

impl Drop for Workloads {
    fn drop(&mut self) {
        // It has ended by itself after a good run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ids of the active, the prepared and the old X.509 authority, as one of the nodes says.
fn shown(cluster: &Cluster) -> anyhow::Result<[Option<String>; 3]> {
    let words = ["localauthority", "x509", "show", "-output", "json"];
    let shown: Value = serde_json::from_str(&by_any(cluster, &words)?)?;
    let id = |part: &str| shown[part]["authority_id"].as_str().map(str::to_owned);
    Ok([id("active"), id("prepared"), id("old")])
}

/// A command at the first node that carries it out.
fn by_any(cluster: &Cluster, words: &[&str]) -> anyhow::Result<String> {
    let mut last = String::new();
    for node in cluster.nodes() {
        let done = cluster.cli(node, words)?;
        if done.status.success() {
            return Ok(String::from_utf8(done.stdout)?);
        }
        last = text(&done);
    }
    bail!("{words:?}: {last}")
}

fn leader(cluster: &Cluster) -> anyhow::Result<Node> {
    let status: Value =
        serde_json::from_str(&by_any(cluster, &["cluster", "status", "-output", "json"])?)?;
    let id = status["leader"].as_str().context("a leader")?;
    cluster.node(id).cloned()
}

/// One rotation by the calendar, the leader killed between preparing and activating.
async fn rotated(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (active, next) = eventually("a prepared authority", LIMIT, || async {
        let [active, next, _] = shown(cluster)?;
        Ok(active.zip(next))
    })
    .await?;
    let led = eventually("a leader", LIMIT, || async { leader(cluster).map(Some) }).await?;
    cluster.signal(&led.id, KILL)?;
    let others: Vec<_> = cluster
        .nodes()
        .iter()
        .filter(|n| n.id != led.id)
        .cloned()
        .collect();
    eventually("the next authority signs without it", LIMIT, || async {
        let shown = cluster.cli(
            &others[0],
            &["localauthority", "x509", "show", "-output", "json"],
        )?;
        let shown: Value = serde_json::from_slice(&shown.stdout)?;
        Ok((shown["active"]["authority_id"] == *next).then_some(()))
    })
    .await?;
    ensure!(active != next);
    cluster.restart(&led.id, &[])
}

/// Waits until both agents have a root in their bundles.
async fn knows(workloads: &Workloads, root: &str) -> anyhow::Result<()> {
    eventually(&format!("both agents know {root}"), LIMIT, || async {
        let bundles = workloads.bundles();
        let know = bundles.values().filter(|roots| roots.contains(root));
        Ok((know.count() == 2).then_some(()))
    })
    .await
}

/// A rotation by hand, as soon as agents know the next root: what signed until then is tainted while workloads hold its
/// documents, and revoked once nobody does.
async fn compromised(cluster: &Cluster, workloads: &Workloads) -> anyhow::Result<()> {
    let step = |words: &[&str]| by_any(cluster, &[&["localauthority", "x509"], words].concat());
    let [active, next, _] = shown(cluster)?;
    let old = active.context("an active authority")?;
    let next = match next {
        Some(next) => next,
        None => {
            step(&["prepare"])?;
            let [_, next, _] = shown(cluster)?;
            next.context("a prepared authority")?
        }
    };
    knows(workloads, &next).await?;
    eventually("the next authority can be activated", LIMIT, || async {
        step(&["activate", "-authorityID", &next]).map(Some)
    })
    .await?;
    step(&["taint", "-authorityID", &old])?;
    knows(workloads, &format!("{old}*")).await?;
    eventually("nobody holds anything of it", LIMIT, || async {
        step(&["revoke", "-authorityID", &old]).map(Some)
    })
    .await
    .map(drop)
}

#[allow(clippy::print_stdout, reason = "what was met is told")]
async fn rotates_in(mode: &str) -> anyhow::Result<()> {
    let ca_ttl = if long() { "3m" } else { "60s" };
    let extra = format!(
        "\n[issuance]\nmode = \"{mode}\"\nca_ttl = \"{ca_ttl}\"\nagent_ttl = \"30s\"\n\
         default_x509_svid_ttl = \"40s\"\ndefault_jwt_svid_ttl = \"10s\"\n"
    );
    let mut cluster = Cluster::start(&Options {
        extra: &extra,
        ..Options::default()
    })?;
    let workloads = Workloads::start(&cluster)?;
    eventually("two agents", LIMIT, || async {
        Ok((workloads.bundles().len() == 2).then_some(()))
    })
    .await?;
    let [first, ..] = shown(&cluster)?;
    let first = first.context("an active authority")?;
    let began = Instant::now();
    let lasts = if long() { HOUR } else { Duration::ZERO };
    let mut rotations = 0;
    while rotations == 0 || began.elapsed() < lasts {
        rotated(&mut cluster).await?;
        rotations += 1;
    }
    compromised(&cluster, &workloads).await?;
    let counts = workloads.end()?;
    for node in cluster.nodes() {
        let log = std::fs::read_to_string(&node.log)?;
        let waits = |line: &&str| line.contains("waiting for agents") && line.contains(&first);
        let waited = log.lines().find(waits);
        ensure!(waited.is_none(), "agents know it: {waited:?}");
    }
    println!(
        "{mode}: {rotations} rotations by the calendar, as many leaders killed, one by hand, tainted and revoked, \
         in {} s: {counts}",
        began.elapsed().as_secs()
    );
    for failures in ["handshakes_failed", "tokens_failed"] {
        ensure!(counts[failures] == 0, "{failures}: {counts}");
    }
    // Seen from outside: that JWT keys rotated too, and that the mode was the right one. That what was
    // tainted is replaced is seen by its revocation without force; whether a workload renewed for the
    // taint or for its age in the seconds before, is told and not asked for.
    let other = if mode == "direct" {
        "intermediate"
    } else {
        "direct"
    };
    ensure!(counts[other] == 0, "chains of mode {other}: {counts}");
    for (seen, least) in [
        ("handshakes", 1),
        ("tokens", 1),
        (mode, 1),
        // They live as long as roots, which are backdated, so a little less often.
        ("token_keys", 2.max(rotations * 3 / 4)),
    ] {
        let met = counts[seen].as_u64().unwrap_or_default();
        ensure!(met >= u64::try_from(least)?, "{seen}: {counts}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_spiffe_workloads_see_no_failure_while_authorities_rotate() -> anyhow::Result<()> {
    rotates_in("direct").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_while_they_rotate_above_intermediates() -> anyhow::Result<()> {
    rotates_in("intermediate").await
}
