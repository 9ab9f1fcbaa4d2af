//! A process that ends at any persisted step leaves a directory that opens: no hole,
//! no vote taken back, the old state or the new.

use std::fs;
use std::path::Path;
use std::process::Command;

use chancery_raft_store::faults;
use chancery_raft_store::snapshot::Snapshots;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};

use crate::support::home::{Home, copy, identity, script, state_at};
use crate::support::{append, log_id, rows_of, vote};

/// Names the directory of the process that is to end.
const CHILD: &str = "CHANCERY_CRASH_DIR";
/// Where the other node's snapshot ends, which is installed at the end.
const FOREIGN: u64 = 90;

/// What was acknowledged, one word after another: `vote T`, `last I`, `cut I`.
fn acknowledge(dir: &Path, what: &str) {
    use std::io::Write as _;
    let file = fs::File::options()
        .append(true)
        .create(true)
        .open(dir.join("acknowledged"));
    writeln!(file.unwrap(), "{what}").unwrap();
}

/// A life with every persisted step in it.
async fn live(dir: &Path) {
    let mut home = Home::open(dir).unwrap();
    home.log.save_vote(&vote(1, 1)).await.unwrap();
    acknowledge(dir, "vote 1");
    for index in 0..=40 {
        home.take(index..=index).await.unwrap();
        acknowledge(dir, &format!("last {index}"));
    }
    home.snapshot(20).await.unwrap();
    // Another leader's log entries, which the next leader cuts off again.
    let stray = (41..=45).map(|i| crate::support::blank(1, i)).collect();
    append(&mut home.log, stray).await.await.unwrap();
    home.log.save_vote(&vote(2, 2)).await.unwrap();
    acknowledge(dir, "vote 2");
    home.log.truncate_after(Some(log_id(1, 40))).await.unwrap();
    for index in 41..=60 {
        home.take(index..=index).await.unwrap();
        acknowledge(dir, &format!("last {index}"));
    }
    let foreign = Snapshots::open(&dir.join("foreign"))
        .unwrap()
        .current()
        .unwrap()
        .unwrap();
    let header = foreign.read(|_, _| Ok(())).unwrap();
    let snapshot = chancery_raft_store::types::SnapshotMeta {
        last_log_id: Some(chancery_raft_store::codec::decode_log_id(&header.applied).unwrap()),
        last_membership: chancery_raft_store::codec::decode_membership(&header.membership).unwrap(),
    };
    home.machine
        .install_snapshot(&snapshot, foreign)
        .await
        .unwrap();
    home.log.purge(script(FOREIGN).log_id).await.unwrap();
    acknowledge(dir, &format!("last {FOREIGN}"));
}

/// Not a test of its own: the process that `every_step` starts and lets end.
#[tokio::test]
async fn the_process_that_ends() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let dir = Path::new(&dir);
        faults::arm(&dir.join("faults"));
        live(dir).await;
    }
}

async fn foreign_snapshot(dir: &Path) {
    let made = tempfile::tempdir().unwrap();
    identity(2).save(made.path()).unwrap();
    let mut home = Home::open(made.path()).unwrap();
    home.take(0..=FOREIGN).await.unwrap();
    home.snapshot(0).await.unwrap();
    drop(home);
    copy(&made.path().join("snapshots"), &dir.join("foreign"));
}

/// Runs the life in a process of its own, which shall end at a place when it comes there
/// for the given time; whether it came to its own end.
fn run(dir: &Path, point: Option<(&str, u64)>) -> bool {
    fs::create_dir_all(dir.join("faults")).unwrap();
    if let Some((point, time)) = point {
        fs::write(dir.join("faults").join(point), format!("crash {time}")).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::the_process_that_ends", "--nocapture"])
        .env(CHILD, dir)
        .output()
        .unwrap();
    if output.status.code() == Some(101) {
        panic!("{point:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
    output.status.success()
}

async fn check(dir: &Path, point: &str) {
    let lines = fs::read_to_string(dir.join("acknowledged")).unwrap_or_default();
    let last_of = |word: &str| {
        let numbers = lines
            .lines()
            .filter_map(|l| l.strip_prefix(word)?.trim().parse::<u64>().ok());
        numbers.max()
    };
    let mut home = Home::open(dir).unwrap_or_else(|e| panic!("{point}: {e}"));
    let voted = home
        .log
        .read_vote()
        .await
        .unwrap()
        .map_or(0, |v| v.leader_id.term);
    assert!(
        Some(voted) >= last_of("vote"),
        "{point}: vote of term {voted}"
    );
    let state = home.log.get_log_state().await.unwrap();
    // Raft installs a kept snapshot that is ahead, and purges up to it.
    let end = state.last_log_id.map(|id| id.index);
    let applied = home
        .machine
        .applied_state()
        .await
        .unwrap()
        .0
        .map(|id| id.index);
    assert!(
        end.max(applied) >= last_of("last"),
        "{point}: the log ends at {end:?}, the state at {applied:?}, acknowledged was {lines}"
    );
    let expected = match applied {
        Some(index) => state_at(index).await,
        None => Default::default(),
    };
    assert!(
        rows_of(&*home.store) == expected,
        "{point}: a mixture at {applied:?}"
    );
    let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
    if let Some(end) = end.filter(|end| *end >= first) {
        let indexes: Vec<u64> = home
            .log
            .try_get_log_entries(first..=end)
            .await
            .unwrap()
            .iter()
            .map(|e| e.log_id.index)
            .collect();
        assert_eq!(indexes, (first..=end).collect::<Vec<_>>(), "{point}");
    }
}

fn start() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    identity(1).save(dir.path()).unwrap();
    dir
}

#[tokio::test]
async fn a_process_that_ends_at_any_persisted_step_leaves_what_opens() {
    let foreign = tempfile::tempdir().unwrap();
    foreign_snapshot(foreign.path()).await;
    // Once with nothing in its way: how often does it come to each place?
    let whole = start();
    copy(foreign.path(), whole.path());
    assert!(run(whole.path(), None));
    check(whole.path(), "no place").await;
    let times_of = |point: &str| {
        let file = whole.path().join("faults").join(format!("hit.{point}"));
        fs::read_to_string(file).map_or(0, |text| text.parse::<u64>().unwrap())
    };
    let full = std::env::var_os("CHANCERY_TEST_LONG").is_some();
    let (mut hit, mut ends) = (0, 0);
    for point in faults::POINTS {
        let all = times_of(point);
        assert!(all > 0, "{point} was not come to");
        hit += 1;
        let chosen: Vec<u64> = match full || all <= 4 {
            true => (1..=all).collect(),
            false => vec![1, all / 2, all],
        };
        for time in chosen {
            let dir = start();
            copy(foreign.path(), dir.path());
            let ended = !run(dir.path(), Some((point, time)));
            // The mark is saved by the second too, so its last times may not come again.
            assert!(ended || time > 2, "{point}, time {time}: it went on");
            ends += u64::from(ended);
            check(dir.path(), &format!("{point}, time {time}")).await;
        }
    }
    println!(
        "points hit: {hit} of {}; processes ended there: {ends}",
        faults::POINTS.len()
    );
}
