//! A store that holds less than it did, or is another one, is recognised when it
//! is opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chancery_raft_store::high_water::{HighWater, HighWaterError, Owner};
use chancery_raft_store::log::{Claim, LogStore, Position};
use chancery_raft_store::store::Store;
use chancery_raft_store::types::Vote;
use openraft::storage::RaftLogStorage;

use crate::support::gate::Gate;
use crate::support::home::copy;
use crate::support::model_store::ModelStore;
use crate::support::{append, blank, log_id, newest_wal, rocks, vote};

fn node(node_id: u64, boot: u64) -> Owner {
    Owner {
        cluster_id: "c".into(),
        node_id,
        boot,
    }
}

fn open(dir: &Path, boot: u64) -> Result<LogStore, HighWaterError> {
    LogStore::open_marked(rocks(dir), dir, &node(1, boot))
}

/// A store at boot 1 with a vote of term 3, log entries 0 to 19 of which 0 to 4 are
/// purged, closed cleanly.
async fn lived(dir: &Path) {
    let mut log = open(dir, 1).unwrap();
    log.save_vote(&vote(3, 2)).await.unwrap();
    for index in 0..20 {
        append(&mut log, vec![blank(3, index)]).await.await.unwrap();
    }
    log.purge(log_id(3, 4)).await.unwrap();
}

/// What `open` says against the store, which must name the directory and the way out.
fn refused(dir: &Path, boot: u64) -> String {
    let error = open(dir, boot).map(|_| ()).unwrap_err().to_string();
    for part in [
        &*dir.display().to_string(),
        "join again under a new id",
        "docs/runbooks/a-node-with-a-damaged-or-full-disk.md",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    error
}

fn image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    copy(dir, image.path());
    image
}

fn store_of(dir: &Path) -> PathBuf {
    dir.join("store")
}

#[tokio::test]
async fn a_store_that_holds_all_it_did_is_opened_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    for boot in 2..5 {
        let log = open(dir.path(), boot).unwrap();
        let position = log.durable();
        let expected = Position {
            vote: Some(vote(3, 2)),
            last: Some(log_id(3, 19)),
            purged: Some(log_id(3, 4)),
        };
        assert_eq!(position, expected);
        let mark = HighWater::load(dir.path()).unwrap().unwrap();
        assert_eq!((mark.owner, mark.position), (node(1, boot), expected));
    }
}

#[tokio::test]
async fn a_write_ahead_log_without_its_tail_or_none_at_all_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    let wal = newest_wal(&store_of(dir.path()));
    let good = fs::read(&wal).unwrap();
    let mut said = Vec::new();
    for cut in (0..good.len()).step_by(64) {
        let image = image(dir.path());
        fs::write(newest_wal(&store_of(image.path())), &good[..cut]).unwrap();
        said.push(refused(image.path(), 2));
    }
    let has = |part: &str| said.iter().any(|s| s.contains(part));
    assert!(has(
        "its log ends at entry 12 of term 3, and had come to at entry 19 of term 3"
    ));
    assert!(has("no vote, and had the vote for node 2 in term 3"));
    fs::remove_file(&wal).unwrap();
    refused(dir.path(), 2);
}

#[tokio::test]
async fn an_older_image_of_the_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    let older = image(dir.path());
    // Nothing but a start: by its contents the older image is as good.
    drop(open(dir.path(), 2).unwrap());
    fs::remove_dir_all(store_of(dir.path())).unwrap();
    copy(&store_of(older.path()), &store_of(dir.path()));
    let said = refused(dir.path(), 3);
    assert!(
        said.contains("last opened by start 1 of the node, and start 2 had it open since"),
        "{said}"
    );
}

#[tokio::test]
async fn a_store_of_another_node_or_of_nobody_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    lived(dir.path()).await;
    let mut log = LogStore::<chancery_raft_store::runtime::Runtime>::open_marked(
        rocks(other.path()),
        other.path(),
        &node(2, 1),
    )
    .unwrap();
    log.save_vote(&vote(4, 2)).await.unwrap();
    let entries = (0..30).map(|i| blank(3, i)).collect();
    append(&mut log, entries).await.await.unwrap();
    log.purge(log_id(3, 4)).await.unwrap();
    drop(log);
    fs::remove_dir_all(store_of(dir.path())).unwrap();
    copy(&store_of(other.path()), &store_of(dir.path()));
    let said = refused(dir.path(), 2);
    assert!(
        said.contains("it is of node 2 of cluster c, not of node 1"),
        "{said}"
    );

    fs::remove_dir_all(store_of(dir.path())).unwrap();
    drop(rocks(dir.path()));
    let said = refused(dir.path(), 2);
    assert!(said.contains("it names no owner"), "{said}");
}

#[tokio::test]
async fn an_older_identity_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    drop(open(dir.path(), 2).unwrap());
    let mark = HighWater::load(dir.path()).unwrap().unwrap();
    mark.check_identity(&node(1, 2), dir.path()).unwrap();
    for older in [node(1, 1), node(2, 2), node(0, 0)] {
        let said = mark
            .check_identity(&older, dir.path())
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("high-water does not fit the identity record"),
            "{said}"
        );
    }
    // Both of record and mark older: the store knows its last start.
    let said = refused(dir.path(), 2);
    assert!(said.contains("the record is an older copy"), "{said}");
}

#[tokio::test]
async fn a_torn_flipped_or_missing_mark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    let path = HighWater::path(dir.path());
    let good = fs::read(&path).unwrap();
    for end in 0..good.len() {
        fs::write(&path, &good[..end]).unwrap();
        refused(dir.path(), 2);
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        refused(dir.path(), 2);
    }
    fs::remove_file(&path).unwrap();
    assert!(refused(dir.path(), 2).contains("high-water is missing"));
    fs::write(&path, &good).unwrap();
    drop(open(dir.path(), 2).unwrap());
}

#[tokio::test]
async fn a_vote_is_in_the_mark_before_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), 1).unwrap();
    for term in 1..5 {
        log.save_vote(&vote(term, 2)).await.unwrap();
        let mark = HighWater::load(dir.path()).unwrap().unwrap();
        assert_eq!(mark.position.vote, Some(vote(term, 2)));
    }
}

#[tokio::test]
async fn the_mark_is_lowered_before_log_entries_are_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::before(rocks(dir.path()));
    let store: Arc<dyn Store> = gate.clone();
    let mut log = LogStore::<chancery_raft_store::runtime::Runtime>::open_marked(
        store,
        dir.path(),
        &node(1, 1),
    )
    .unwrap();
    let entries = (0..10).map(|i| blank(1, i)).collect();
    append(&mut log, entries).await.await.unwrap();
    log.save_vote(&vote(2, 3)).await.unwrap();
    // The disk dies with the truncation.
    gate.set_broken(true);
    log.truncate_after(Some(log_id(1, 4))).await.unwrap_err();
    let mark = HighWater::load(dir.path()).unwrap().unwrap();
    assert_eq!(mark.position.last, Some(log_id(1, 4)));
    drop((log, gate));
    let log = open(dir.path(), 2).unwrap();
    assert_eq!(
        log.durable().last,
        Some(log_id(1, 9)),
        "what was there is there"
    );
}

#[tokio::test]
async fn log_entries_come_into_the_mark_without_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), 1).unwrap();
    append(&mut log, vec![blank(1, 0)]).await.await.unwrap();
    append(&mut log, vec![blank(1, 1)]).await.await.unwrap();
    let seen = async {
        while HighWater::load(dir.path()).unwrap().unwrap().position.last != Some(log_id(1, 1)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), seen)
        .await
        .unwrap();
}

#[tokio::test]
async fn another_log_entry_at_the_place_of_the_mark_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, term) in [(&dir, 3), (&other, 4)] {
        let mut log = open(dir.path(), 1).unwrap();
        log.save_vote(&vote(4, 2)).await.unwrap();
        append(&mut log, vec![blank(term, 0)]).await.await.unwrap();
    }
    fs::copy(HighWater::path(other.path()), HighWater::path(dir.path())).unwrap();
    let said = refused(dir.path(), 2);
    assert!(
        said.contains("its log entry 0 is of term 3, and was of term 4"),
        "{said}"
    );
}

#[tokio::test]
async fn what_was_seen_of_a_peer_is_durable_with_the_vote_that_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let store = rocks(dir.path());
    let claim = Claim {
        boot: 4,
        vote: Some(vote(7, 2)),
        last: Some(30),
        firm: Some(30),
        committed: Some(28),
    };
    {
        let mut log =
            LogStore::<chancery_raft_store::runtime::Runtime>::open(Arc::clone(&store)).unwrap();
        log.witness().meet(2, &claim).unwrap();
        log.save_vote(&vote(7, 2)).await.unwrap();
        // This came after the vote.
        log.witness().meet(2, &Claim { boot: 9, ..claim }).unwrap();
    }
    let log = LogStore::<chancery_raft_store::runtime::Runtime>::open(store).unwrap();
    let seen = log.witness().seen_of(2).unwrap();
    assert_eq!((seen.boot, seen.firm), (4, Some(30)));
    let less = Claim {
        last: Some(29),
        ..claim
    };
    log.witness().meet(2, &less).unwrap();
    log.witness().vouch(2, &less).unwrap_err();
    log.witness().vouch(2, &claim).unwrap();
    log.witness()
        .meet(2, &Claim { boot: 5, ..less })
        .unwrap_err();
    log.witness()
        .meet(2, &Claim { boot: 3, ..claim })
        .unwrap_err();
    log.witness().meet(2, &Claim { boot: 5, ..claim }).unwrap();
    assert_eq!(log.witness().seen_of(3), None);
}

#[tokio::test]
async fn a_node_says_of_itself_only_what_is_durable_and_stays() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = LogStore::<chancery_raft_store::runtime::Runtime>::open(gate.clone()).unwrap();
    let elected = Vote {
        committed: true,
        ..vote(1, 1)
    };
    log.save_vote(&elected).await.unwrap();
    append(&mut log, (0..=5).map(|i| blank(1, i)).collect())
        .await
        .await
        .unwrap();
    let came = gate.arrived();
    gate.close(0);
    let flushed = append(&mut log, vec![blank(1, 6)]).await;
    gate.wait_arrived(came + 1);
    let claim = log.witness().claim(3, 6);
    assert_eq!(
        (claim.last, claim.firm, claim.committed),
        (Some(5), Some(5), Some(5))
    );
    gate.open();
    flushed.await.unwrap();
    assert_eq!(log.witness().claim(3, 4).committed, Some(4));
    // A new leader may truncate what the one before has left uncommitted.
    log.save_vote(&Vote {
        committed: true,
        ..vote(2, 2)
    })
    .await
    .unwrap();
    let claim = log.witness().claim(3, 4);
    assert_eq!((claim.last, claim.firm), (Some(6), Some(4)));
}
