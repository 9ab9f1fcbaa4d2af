//! Other people's clients against a cluster of three nodes: a Go program on the
//! published spire-api-sdk and go-spiffe (`tests/interop/go`), crypto/x509 and the
//! openssl command line.
//!
//! What SPIRE's own server answers to the same calls is recorded in
//! `tests/vectors/spire-answers.json`; where Chancery answers otherwise on purpose
//! stands in `spire-answers-accepted.json` beside it, with the reason.

#[path = "interop/rotation.rs"]
mod rotation;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chancery_tests::cluster::{Cluster, Options, bin_dir, count, eventually, long, root, text};
use chancery_tests::go;
use serde_json::Value;

/// Administrator of the cases; the configuration names it.
const ADMIN: &str = "admin_ids = [\"spiffe://example.org/interop/admin\"]\n";

/// Folder of the Go program.
const MODULE: &str = "tests/interop/go";

/// The Go program, built once for all tests; go's own cache makes later runs quick.
fn program() -> anyhow::Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

fn build() -> anyhow::Result<PathBuf> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    go::build(MODULE, &program)?;
    Ok(program)
}

#[test]
fn the_go_program_is_formatted_vetted_and_tested() -> anyhow::Result<()> {
    go::check(MODULE)
}

/// A cluster that the program can judge, and the folder of its x509pop CA.
fn cluster() -> anyhow::Result<(Cluster, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    let made = Command::new(program()?)
        .args(["make-ca", "-dir"])
        .arg(dir.path())
        .output()?;
    ensure!(made.status.success(), "make-ca: {}", text(&made));
    let extra = format!(
        "[issuance]\nca_ttl = \"24h\"\nserver_svid_ttl = \"1h\"\n\n[ratelimit]\nattestation = false\n\n\
         [node_attestors.x509pop]\nca_bundle_path = \"{}\"\n",
        dir.path().join("ca.pem").display()
    );
    let cluster = Cluster::start(&Options {
        head: ADMIN,
        extra: &extra,
        ..Options::default()
    })?;
    Ok((cluster, dir))
}

/// Runs the program against a cluster; what it printed.
fn run(cluster: &Cluster, ca: &Path, verb: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program()?);
    command
        .arg(verb)
        .arg("-cluster")
        .arg(cluster.dir().join("cluster.json"))
        .arg("-pop-ca")
        .arg(ca);
    let output: Output = command.args(args).output()?;
    ensure!(
        output.status.success(),
        "interop {verb}: {}\n{}",
        text(&output),
        cluster.logs()
    );
    Ok(text(&output))
}

/// Nothing panicked, and every member has the same state at the same place of the log.
async fn undisturbed(cluster: &Cluster) -> anyhow::Result<()> {
    for node in cluster.nodes() {
        let log = std::fs::read_to_string(&node.log)?;
        let panic = log.lines().find(|line| line.contains("panicked at"));
        ensure!(panic.is_none(), "node {}: {panic:?}", node.id);
    }
    let node = cluster.nodes().first().context("no node")?;
    eventually(
        "one state on every member",
        Duration::from_secs(10),
        || async {
            let status = cluster.status(node)?;
            let members = status["members"].as_array().context("members")?;
            let at = |member: &Value| {
                (
                    member["applied_index"].clone(),
                    member["state_digest"].clone(),
                )
            };
            let first = members.first().map(at);
            let same = members.len() == cluster.nodes().len()
                && members.iter().all(|member| Some(at(member)) == first);
            Ok(same.then_some(()))
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "what was compared is told")]
async fn every_method_answers_as_spire_does() -> anyhow::Result<()> {
    let (cluster, ca) = cluster()?;
    let vectors = root().join("tests/vectors");
    let answers = vectors.join("spire-answers.json").display().to_string();
    let accepted = vectors
        .join("spire-answers-accepted.json")
        .display()
        .to_string();
    // A follower may lag a moment behind what another node acknowledged.
    let args = [
        "-answers",
        &answers,
        "-accepted",
        &accepted,
        "-settle",
        "500ms",
    ];
    println!("{}", run(&cluster, ca.path(), "compare", &args)?);
    undisturbed(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "what was judged is told")]
async fn a_stock_agents_protocol_goes_round_three_nodes_and_every_document_is_judged()
-> anyhow::Result<()> {
    let (cluster, ca) = cluster()?;
    let command = bin_dir()?.join("chancery").display().to_string();
    let (entries, rounds) = (count(20, 1_200).to_string(), count(3, 20).to_string());
    let args = [
        "-command", &command, "-entries", &entries, "-rounds", &rounds,
    ];
    println!("{}", run(&cluster, ca.path(), "agent", &args)?);
    undisturbed(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "counts and the seed are told")]
async fn no_bad_input_changes_the_state_or_is_answered_wrongly() -> anyhow::Result<()> {
    let (cluster, ca) = cluster()?;
    let inputs = count(45, 10_000).to_string();
    // The short run is the same every time, a long one never; the seed repeats it.
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let fresh = if long() { fresh.as_micros() } else { 1 };
    let seed = std::env::var("CHANCERY_TEST_SEED").unwrap_or_else(|_| fresh.to_string());
    let args = ["-count", &inputs, "-seed", &seed];
    println!("{}", run(&cluster, ca.path(), "badinput", &args)?);
    undisturbed(&cluster).await
}
