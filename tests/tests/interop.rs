//! Other people's clients against a cluster of three nodes: a Go program on the
//! published spire-api-sdk and go-spiffe (`tests/interop/go`), crypto/x509 and the
//! openssl command line.
//!
//! What SPIRE's own server answers to the same calls is recorded in
//! `tests/vectors/spire-answers.json`; where Chancery answers otherwise on purpose
//! stands in `spire-answers-accepted.json` beside it, with the reason.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chancery_tests::cluster::{Cluster, Options, bin_dir, count, eventually, long, root, text};
use serde_json::Value;

/// Whether every method and x509pop are there to be judged. Where they are not, the
/// program tells what is missing, and compares the rest.
const WHOLE: bool = false;

/// Administrator of the cases; the configuration names it.
const ADMIN: &str = "admin_ids = [\"spiffe://example.org/interop/admin\"]\n";

/// The oldest Go that the module builds with: 1.23.
const GO_MINOR_MIN: u32 = 23;

/// The Go program, built once for all tests; go's own cache makes later runs quick.
fn program() -> anyhow::Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

/// `go` on the path, else the one that `scripts/setup` put into the cache.
fn go() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("CHANCERY_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("XDG_CACHE_HOME")?).join("chancery")))
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/chancery")));
    let candidates = [
        Some(PathBuf::from("go")),
        cache.map(|c| c.join("go/bin/go")),
    ];
    let mut found = Vec::new();
    for go in candidates.into_iter().flatten() {
        let Ok(output) = Command::new(&go).args(["env", "GOVERSION"]).output() else {
            continue;
        };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let minor = version
            .strip_prefix("go1.")
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|minor| minor.parse::<u32>().ok());
        if minor.is_some_and(|minor| minor >= GO_MINOR_MIN) {
            return Ok(go);
        }
        found.push(version);
    }
    bail!(
        "the interop tests need Go 1.{GO_MINOR_MIN} or newer (found: {found:?}); `make setup` brings it"
    )
}

fn build() -> anyhow::Result<PathBuf> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    let output = go_command(&["build", "-o"])?
        .arg(&program)
        .arg(".")
        .output()
        .context("cannot run go")?;
    ensure!(output.status.success(), "go build: {}", text(&output));
    Ok(program)
}

/// Runs go in the program's folder.
fn go_command(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(go()?);
    command
        .args(args)
        .current_dir(root().join("tests/interop/go"))
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false");
    Ok(command)
}

#[test]
fn the_go_program_is_formatted_vetted_and_tested() -> anyhow::Result<()> {
    for verb in ["vet", "test"] {
        let output = go_command(&[verb, "./..."])?.output()?;
        ensure!(output.status.success(), "go {verb}: {}", text(&output));
    }
    let home = go_command(&["env", "GOROOT"])?.output()?;
    let home = String::from_utf8(home.stdout)?;
    let output = Command::new(Path::new(home.trim()).join("bin/gofmt"))
        .args(["-l", "."])
        .current_dir(root().join("tests/interop/go"))
        .output()
        .context("cannot run gofmt")?;
    ensure!(
        output.status.success() && output.stdout.is_empty(),
        "gofmt: {}",
        text(&output)
    );
    Ok(())
}

/// A cluster that the program can judge, and the folder of its x509pop CA.
fn cluster() -> anyhow::Result<(Cluster, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    let made = Command::new(program()?)
        .args(["make-ca", "-dir"])
        .arg(dir.path())
        .output()?;
    ensure!(made.status.success(), "make-ca: {}", text(&made));
    let mut extra = "[issuance]\nca_ttl = \"24h\"\nserver_svid_ttl = \"1h\"\n".to_owned();
    if WHOLE {
        extra.push_str(&format!(
            "\n[ratelimit]\nattestation = false\n\n[node_attestors.x509pop]\nca_bundle_path = \"{}\"\n",
            dir.path().join("ca.pem").display()
        ));
    }
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
        .arg(cluster.dir().join("cluster.json"));
    if WHOLE {
        command.arg("-pop-ca").arg(ca);
    } else {
        command.arg("-missing-ok");
    }
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
#[allow(clippy::print_stdout, reason = "what is still missing is told")]
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
    let inputs = count(60, 10_000).to_string();
    // The short run is the same every time, a long one never; the seed repeats it.
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let fresh = if long() { fresh.as_micros() } else { 1 };
    let seed = std::env::var("CHANCERY_TEST_SEED").unwrap_or_else(|_| fresh.to_string());
    let args = ["-count", &inputs, "-seed", &seed];
    println!("{}", run(&cluster, ca.path(), "badinput", &args)?);
    undisturbed(&cluster).await
}
