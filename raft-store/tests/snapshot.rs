//! A snapshot is of one moment, and installing one leaves the old state or the
//! new, whatever happens.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use chancery_raft_store::command::CreateEntries;
use chancery_raft_store::snapshot::{SnapshotFile, Snapshots};
use chancery_raft_store::store::Store;
use chancery_raft_store::types::{LogEntry, SnapshotMeta};
use chancery_raft_store::{ChangeKind, Command, Registry, StateMachine};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use tempfile::TempDir;

use crate::support::gate::Gate;
use crate::support::model_store::ModelStore;
use crate::support::{
    Rows, apply_all, at, built, entry, found, log_id, machine, membership, normal, open_log, rocks,
    rows_of,
};

fn create(index: u64) -> LogEntry {
    let entries = vec![entry(
        &format!("e{index}"),
        "/p",
        &format!("/w{index}"),
        &["a"],
    )];
    normal(
        1,
        index,
        at(1000, Command::CreateEntries(CreateEntries { entries })),
    )
}

struct Node {
    dir: TempDir,
    store: Arc<dyn Store>,
    machine: StateMachine,
    registry: Registry,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = rocks(dir.path());
        Self::over(dir, store)
    }

    fn over(dir: TempDir, store: Arc<dyn Store>) -> Self {
        let (machine, registry) = machine(&store, dir.path());
        Self {
            dir,
            store,
            machine,
            registry,
        }
    }

    /// A cluster with entries at the log positions 2 to `last`.
    async fn with_entries(mut self, cluster: &str, last: u64) -> Self {
        let mut log = vec![
            membership(1, 0, &[1, 2]),
            normal(1, 1, at(1, found(cluster))),
        ];
        log.extend((2..=last).map(create));
        apply_all(&mut self.machine, log).await.unwrap();
        self
    }

    fn rows(&self) -> Rows {
        rows_of(&*self.store)
    }

    async fn build(&mut self) -> (SnapshotMeta, SnapshotFile) {
        built(self.machine.get_snapshot_builder().await).await
    }

    fn restarted(self) -> Self {
        let Self {
            dir,
            store,
            machine,
            registry,
        } = self;
        drop((store, machine, registry));
        let store = rocks(dir.path());
        Self::over(dir, store)
    }

    fn snapshot_files(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path().join("snapshots")).unwrap();
        let mut names: Vec<_> = files
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn rows_in(file: &SnapshotFile) -> Rows {
    let mut rows = Rows::new();
    let whole = file.read(|_, part| {
        rows.extend(part.into_iter().map(|(k, v)| (k, v.unwrap())));
        Ok(())
    });
    whole.unwrap();
    rows
}

fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> SnapshotFile {
    let (file, _) = Snapshots::open(&dir.join("received"))
        .unwrap()
        .begin(name)
        .unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

#[tokio::test]
async fn a_snapshot_is_of_the_moment_it_was_asked_for_whatever_is_written_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::before(rocks(dir.path()));
    let mut node = Node::over(dir, gate.clone()).with_entries("c", 40).await;
    let rows = node.rows();

    gate.hold_moments(true);
    let came = gate.arrived();
    let builder = node.machine.get_snapshot_builder().await;
    gate.wait_arrived(came + 1);
    apply_all(&mut node.machine, (41..=60).map(create).collect())
        .await
        .unwrap();
    gate.hold_moments(false);
    let (meta, file) = built(builder).await;

    assert_eq!(node.registry.applied_index(), 60);
    assert_eq!(meta.last_log_id, Some(log_id(1, 40)));
    assert_eq!(meta.last_membership.log_id(), &Some(log_id(1, 0)));
    assert_eq!(rows_in(&file), rows, "data and position are of one moment");
    assert_ne!(node.rows(), rows);
}

#[tokio::test]
async fn builds_under_load_are_each_of_one_log_position() {
    let mut node = Node::new().with_entries("c", 1).await;
    for round in 0..10u64 {
        let first = 2 + round * 50;
        apply_all(&mut node.machine, (first..first + 25).map(create).collect())
            .await
            .unwrap();
        let builder = node.machine.get_snapshot_builder().await;
        let build = tokio::spawn(built(builder));
        for index in first + 25..first + 50 {
            apply_all(&mut node.machine, vec![create(index)])
                .await
                .unwrap();
        }
        let (meta, file) = build.await.unwrap();
        let position = first + 24;
        assert_eq!(meta.last_log_id, Some(log_id(1, position)));
        let entries = rows_in(&file).keys().filter(|k| k[0] == 2).count() as u64;
        assert_eq!(
            entries,
            position - 1,
            "one entry for each log position from 2 on"
        );
    }
    assert_eq!(node.snapshot_files().len(), 1, "older ones are gone");
}

#[tokio::test]
async fn an_installed_snapshot_is_the_state_at_once_and_after_a_restart() {
    let mut leader = Node::new().with_entries("c", 300).await;
    let (meta, file) = leader.build().await;
    let mut follower = Node::new().with_entries("c", 7).await;
    let mut feed = follower.registry.subscribe();
    let copy = write_file(follower.dir.path(), "r", &fs::read(file.path()).unwrap());
    follower
        .machine
        .install_snapshot(&meta, copy)
        .await
        .unwrap();

    assert_eq!(
        feed.try_recv().unwrap().kind,
        ChangeKind::StateReplaced,
        "readers are told"
    );
    for restart in [false, true] {
        if restart {
            follower = follower.restarted();
        }
        assert_eq!(follower.rows(), leader.rows());
        assert_eq!(follower.registry.digest(), leader.registry.digest());
        assert_eq!(
            follower.machine.applied_state().await.unwrap(),
            leader.machine.applied_state().await.unwrap()
        );
        let current = follower
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(current.meta, meta);
    }
    assert_eq!(follower.registry.read().entry_count(), 299);
    for node in [&mut leader, &mut follower] {
        apply_all(&mut node.machine, vec![create(301)])
            .await
            .unwrap();
    }
    assert_eq!(
        follower.rows(),
        leader.rows(),
        "and goes on as the leader does"
    );
    assert!(file.path().exists(), "another node's file is left alone");
}

#[tokio::test]
async fn a_snapshot_of_nothing_is_installed_as_nothing() {
    let mut pristine = Node::new();
    let (meta, file) = pristine.build().await;
    assert_eq!(meta.last_log_id, None);
    let mut other = Node::new();
    other.machine.install_snapshot(&meta, file).await.unwrap();
    assert_eq!(other.machine.applied_state().await.unwrap().0, None);
    assert!(
        other
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .is_none()
    );
}

async fn refuses(meta: &SnapshotMeta, bytes: &[u8], why: &str) {
    let mut node = Node::new().with_entries("c", 7).await;
    let mut before = (node.rows(), node.registry.digest());
    let file = write_file(node.dir.path(), "r", bytes);
    assert!(
        node.machine.install_snapshot(meta, file).await.is_err(),
        "{why}"
    );
    for next in [8, 9] {
        assert_eq!(
            (node.rows(), node.registry.digest()),
            before,
            "{why}: the old state stays"
        );
        apply_all(&mut node.machine, vec![create(next)])
            .await
            .unwrap();
        let undisturbed = Node::new().with_entries("c", next).await;
        assert_eq!(node.rows(), undisturbed.rows(), "{why}: and goes on");
        node = node.restarted();
        before = (undisturbed.rows(), undisturbed.registry.digest());
    }
    assert!(node.snapshot_files().is_empty());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_the_old_state_stays() {
    let mut leader = Node::new().with_entries("c", 50).await;
    let (meta, file) = leader.build().await;
    let good = fs::read(file.path()).unwrap();
    refuses(&meta, &good[..good.len() - 1], "cut by a byte").await;
    refuses(&meta, &good[..good.len() / 2], "cut in the middle").await;
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    refuses(&meta, &bad, "a flipped bit").await;
    refuses(&meta, &[], "empty").await;
}

#[tokio::test]
async fn a_snapshot_of_another_position_or_cluster_is_refused() {
    let mut leader = Node::new().with_entries("c", 50).await;
    let (meta, file) = leader.build().await;
    let good = fs::read(file.path()).unwrap();
    for announced in [Some(log_id(1, 49)), Some(log_id(2, 50)), None] {
        let wrong = SnapshotMeta {
            last_log_id: announced,
            ..meta.clone()
        };
        refuses(&wrong, &good, "not what was announced").await;
    }
    let mut stranger = Node::new().with_entries("stranger", 50).await;
    let (meta, file) = stranger.build().await;
    refuses(&meta, &fs::read(file.path()).unwrap(), "another cluster's").await;
}

#[tokio::test]
async fn a_build_that_an_install_overtook_does_not_take_the_newer_snapshot_away() {
    let mut leader = Node::new().with_entries("c", 90).await;
    let (meta, file) = leader.build().await;
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::before(rocks(dir.path()));
    let mut follower = Node::over(dir, gate.clone()).with_entries("c", 40).await;
    let older_rows = follower.rows();
    let builder = follower.machine.get_snapshot_builder().await;
    let copy = write_file(follower.dir.path(), "r", &fs::read(file.path()).unwrap());
    follower
        .machine
        .install_snapshot(&meta, copy)
        .await
        .unwrap();
    let (overtaken_meta, overtaken) = built(builder).await;
    assert_eq!(overtaken_meta.last_log_id, Some(log_id(1, 40)));
    assert_eq!(rows_in(&overtaken), older_rows);
    drop(overtaken);
    let current = follower
        .machine
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(current.meta, meta);
    assert_eq!(follower.snapshot_files().len(), 1);
}

#[test]
fn an_older_snapshot_never_takes_the_place_of_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    let make = |name: &str| {
        let (file, _) = snapshots.begin(name).unwrap();
        fs::write(file.path(), name).unwrap();
        file
    };
    let current = || fs::read_to_string(snapshots.current().unwrap().unwrap().path()).unwrap();
    let first = snapshots.keep(&make("100"), 1, 100).unwrap();
    let second = snapshots.keep(&make("200"), 1, 200).unwrap();
    assert_eq!(current(), "200");
    assert_eq!(
        fs::read_to_string(first.path()).unwrap(),
        "100",
        "who holds it can read it"
    );
    let overtaken = snapshots.keep(&make("150"), 1, 150).unwrap();
    assert_eq!(
        (
            current().as_str(),
            fs::read_to_string(overtaken.path()).unwrap().as_str()
        ),
        ("200", "150")
    );
    assert_eq!(
        snapshots.keep(&make("again"), 1, 200).unwrap().path(),
        second.path()
    );
    assert_eq!(current(), "again");
    drop((first, overtaken));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
    fs::write(dir.path().join("crash.part"), "").unwrap();
    fs::write(
        dir.path()
            .join("00000000000000000100-00000000000000000001.snapshot"),
        "",
    )
    .unwrap();
    let reopened = Snapshots::open(dir.path()).unwrap();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "and a crash's remains go at the next start"
    );
    assert_eq!(
        fs::read_to_string(reopened.current().unwrap().unwrap().path()).unwrap(),
        "again"
    );
}

/// Installs over the model and looks at what a power cut at every moment leaves.
#[tokio::test]
async fn no_power_cut_during_an_install_leaves_a_mixture() {
    let mut leader = Node::new().with_entries("c", 900).await;
    let (meta, file) = leader.build().await;
    let model = Arc::new(ModelStore::default());
    let mut follower = Node::over(tempfile::tempdir().unwrap(), model.clone())
        .with_entries("c", 7)
        .await;
    let old = follower.rows();
    let started = model.journal_len();
    let copy = write_file(follower.dir.path(), "r", &fs::read(file.path()).unwrap());
    follower
        .machine
        .install_snapshot(&meta, copy)
        .await
        .unwrap();
    let new = leader.rows();
    assert_eq!(follower.rows(), new);

    let mut seen_new = false;
    for cut in started..=model.journal_len() {
        let left: Arc<dyn Store> = Arc::new(model.after_crash(cut));
        let reopened = Node::over(tempfile::tempdir().unwrap(), left);
        let is_new = reopened.rows() == new;
        assert!(
            is_new || reopened.rows() == old,
            "a mixture after {cut} batches"
        );
        assert!(is_new || !seen_new, "the new state is not taken back");
        assert!(
            is_new || cut < model.durable_len(),
            "an acknowledged install is durable"
        );
        seen_new = is_new;
        assert_eq!(
            reopened.registry.applied_index(),
            if is_new { 900 } else { 7 }
        );
    }
    assert!(seen_new);
}

/// Between the snapshot file's rename and the flip of the state: the file is ahead
/// of the state, which is what Raft looks for at start and installs again.
#[tokio::test]
async fn an_install_cut_off_before_its_last_step_is_taken_up_again() {
    let mut leader = Node::new().with_entries("c", 90).await;
    let (meta, file) = leader.build().await;
    let bytes = fs::read(file.path()).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::before(rocks(dir.path()));
    let mut follower = Node::over(dir, gate.clone()).with_entries("c", 7).await;
    let old = follower.rows();
    let copy = write_file(follower.dir.path(), "r", &bytes);
    // Through: clearing the other column, its rows. Not: the flip.
    let came = gate.arrived();
    gate.close(2);
    let announced = meta.clone();
    let install = tokio::spawn(async move {
        let result = follower.machine.install_snapshot(&announced, copy).await;
        (follower, result)
    });
    let waiting = gate.clone();
    tokio::task::spawn_blocking(move || waiting.wait_arrived(came + 3))
        .await
        .unwrap();
    gate.set_broken(true);
    gate.open();
    let (follower, result) = install.await.unwrap();
    result.unwrap_err();
    drop(gate);

    let mut follower = follower.restarted();
    assert_eq!(follower.rows(), old);
    let current = follower
        .machine
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(current.meta, meta);
    assert!(current.meta.last_log_id > follower.machine.applied_state().await.unwrap().0);
    follower
        .machine
        .install_snapshot(&current.meta, current.snapshot)
        .await
        .unwrap();
    assert_eq!(follower.restarted().rows(), leader.rows());
}

/// openraft purges the log up to the state where a crash took log entries that were applied
/// before they were on the own disk. Raft must then be offered a snapshot up to there.
#[tokio::test]
async fn a_snapshot_that_is_older_than_what_is_purged_is_made_anew() {
    let mut node = Node::new().with_entries("c", 20).await;
    let (older, _) = node.build().await;
    apply_all(&mut node.machine, (21..=30).map(create).collect())
        .await
        .unwrap();
    let mut log = open_log(Arc::clone(&node.store));
    log.purge(log_id(1, 20)).await.unwrap();
    let current = node.machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, older, "it covers all that is purged");

    log.purge(log_id(1, 30)).await.unwrap();
    let current = node.machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id, Some(log_id(1, 30)));
    assert_eq!(rows_in(&current.snapshot), node.rows());

    drop((log, current));
    let mut node = node.restarted();
    let current = node.machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id, Some(log_id(1, 30)), "it is kept");
}
