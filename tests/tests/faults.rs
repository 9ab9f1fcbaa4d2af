//! The fault harness: that it finds what is wrong, leaves nothing behind, and finds
//! nothing wrong in a few rounds. All faults, and longer: `make faults`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::{bin_dir, text};
use chancery_tests::faults::history::{self, History, Model, Outcome};
use chancery_tests::go;

/// `make test-long` runs `full`, through `make reliability`.
const COUNTS: &str = "partition=1,pause=1,one-way=1,kill-leader=1,power-loss=1,bans=16,signing=2";

/// Folder that a run named in its first line.
fn folder(output: &str) -> anyhow::Result<PathBuf> {
    let named = output
        .lines()
        .find_map(|line| line.split(", folder ").nth(1));
    Ok(named.context("no folder is named")?.into())
}

#[test]
fn the_checker_of_histories_is_formatted_vetted_and_tested() -> anyhow::Result<()> {
    go::check("tests/linearizability")
}

#[test]
fn a_stale_read_among_concurrent_calls_is_found() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let checker = history::build_checker(dir.path())?;
    for (answer, verdict) in [("b@1", "legal"), ("a@0", "illegal")] {
        let history = History::new();
        let entry = ("entry", Model::Entry);
        let call = |op, arg: &str| history.call(history.client(), entry, 0, op, arg);
        call("create", "a").end(&Outcome::of("a@0"));
        let (unanswered, refused) = (call("update", "c"), call("update", "d"));
        let beside = call("read", "");
        call("update", "b").end(&Outcome::of("b@1"));
        beside.end(&Outcome::of("a@0"));
        // Begun when the update had been acknowledged.
        call("read", "").end(&Outcome::of(answer));
        unanswered.end(&Outcome::Unknown);
        refused.end(&Outcome::Nothing);
        let verdicts = history.judge(&checker, &dir.path().join("history.jsonl"))?;
        ensure!(
            verdicts.len() == 1 && verdicts[0].verdict == verdict && verdicts[0].operations == 5,
            "{answer}: {verdicts:?}"
        );
    }
    Ok(())
}

#[test]
fn a_few_counted_rounds_find_nothing_and_are_not_run_again() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let record = dir.path().join("record");
    let run = |seed: &str| {
        Command::new(bin_dir()?.join("chancery-faults"))
            .args(["--counts", COUNTS, "--seed", seed, "--record"])
            .arg(&record)
            .output()
            .map_err(anyhow::Error::from)
    };
    let output = run("1")?;
    let said = text(&output);
    println!("{said}");
    ensure!(output.status.success(), "{said}");
    ensure!(said.lines().last() == Some("faults: ok"), "{said}");
    ensure!(!folder(&said)?.exists(), "its folder is still there");
    let again = text(&run("1")?);
    ensure!(again.contains("goes on behind"), "{again}");
    ensure!(again.contains("0 rounds in"), "{again}");
    ensure!(again.lines().last() == Some("faults: ok"), "{again}");
    let other = run("2")?;
    ensure!(!other.status.success(), "{other:?}");
    ensure!(
        text(&other).contains("go on there, or remove the file"),
        "{other:?}"
    );
    Ok(())
}

#[test]
fn a_machine_without_the_tools_or_the_rights_is_told_what_to_do() -> anyhow::Result<()> {
    let program = bin_dir()?.join("chancery-faults");
    let without_tools = Command::new(&program).env("PATH", "/nowhere").output()?;
    let without_rights = Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"])
        .arg(&program)
        .output()?;
    for (output, told) in [
        (
            without_tools,
            "unshare is missing: `make setup` installs it",
        ),
        (without_rights, "needs root with CAP_SYS_ADMIN"),
    ] {
        ensure!(!output.status.success(), "{output:?}");
        ensure!(text(&output).contains(told), "{output:?}");
    }
    Ok(())
}

/// Processes whose command line names the folder.
fn processes(folder: &Path) -> anyhow::Result<usize> {
    let name = folder.display().to_string();
    let mut found = 0;
    for process in std::fs::read_dir("/proc")?.flatten() {
        // One that ends in this moment is none.
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        found += usize::from(String::from_utf8_lossy(&line).contains(&name));
    }
    Ok(found)
}

#[test]
fn a_killed_harness_takes_its_nodes_along_and_the_next_run_its_folder() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let said = dir.path().join("said");
    let mut harness = Command::new(bin_dir()?.join("chancery-faults"))
        .args(["--only", "pause", "--seed", "1", "--duration", "60"])
        .stdout(Stdio::from(std::fs::File::create(&said)?))
        .spawn()?;
    let wait = |what: &str, done: &dyn Fn() -> anyhow::Result<bool>| -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !done()? {
            ensure!(Instant::now() < deadline, "{what} did not come to be");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    wait("a cluster", &|| {
        Ok(std::fs::read_to_string(&said)?.contains("nodes serve"))
    })?;
    let folder = folder(&std::fs::read_to_string(&said)?)?;
    ensure!(processes(&folder)? >= 3, "the nodes are not seen");
    harness.kill()?;
    harness.wait()?;
    wait("the end of the nodes", &|| Ok(processes(&folder)? == 0))?;
    ensure!(folder.exists(), "who removed it?");
    let next = Command::new(bin_dir()?.join("chancery-faults"))
        .args(["--only", "no-such-fault"])
        .output()?;
    ensure!(!next.status.success(), "{next:?}");
    ensure!(
        text(&next).contains("no fault is called \"no-such-fault\""),
        "{next:?}"
    );
    ensure!(!folder.exists(), "{} is still there", folder.display());
    Ok(())
}
