//! What was acknowledged to Raft is there after a restart, and nothing is
//! acknowledged early.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chancery_raft_store::log::LogStore;
use chancery_raft_store::store::rocks::RocksStore;
use chancery_raft_store::store::{Batch, Column, Durability, Reader, Store};
use chancery_raft_store::types::{LogEntry, Vote};
use futures::{FutureExt, TryStreamExt};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, RaftLogReader};

use crate::support::gate::Gate;
use crate::support::model_store::ModelStore;
use crate::support::{
    append, apply_all, at, blank, found, log_id, machine, membership, newest_wal, normal, open_log,
    rocks, vote,
};

async fn indexes(log: &mut LogStore) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries
        .iter()
        .map(|e| (e.log_id.leader_id.term, e.log_id.index))
        .collect()
}

fn run_of(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<LogEntry> {
    indexes.map(|i| blank(term, i)).collect()
}

#[tokio::test]
async fn a_restart_keeps_vote_log_and_purge_marker() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut log = open_log(rocks(dir.path()));
        log.save_vote(&vote(3, 7)).await.unwrap();
        append(&mut log, run_of(2, 0..=9)).await.await.unwrap();
        log.purge(log_id(2, 3)).await.unwrap();
        log.save_committed(Some(log_id(2, 8))).await.unwrap();
        log.save_vote(&Vote {
            committed: true,
            ..vote(3, 7)
        })
        .await
        .unwrap();
    }
    let mut log = open_log(rocks(dir.path()));
    assert_eq!(
        log.read_vote().await.unwrap(),
        Some(Vote {
            committed: true,
            ..vote(3, 7)
        })
    );
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(2, 3)));
    assert_eq!(state.last_log_id, Some(log_id(2, 9)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 8)));
    assert_eq!(
        indexes(&mut log).await,
        (4..=9).map(|i| (2, i)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_log_purged_to_its_end_keeps_its_last_position() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut log = open_log(rocks(dir.path()));
        append(&mut log, run_of(2, 0..=4)).await.await.unwrap();
        log.purge(log_id(2, 4)).await.unwrap();
    }
    let state = open_log(rocks(dir.path())).get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(log_id(2, 4)), Some(log_id(2, 4)))
    );
}

#[tokio::test]
async fn a_restart_keeps_applied_state_and_membership() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let store = rocks(dir.path());
        let (mut machine, registry) = machine(&store, dir.path());
        let entries = vec![
            membership(1, 0, &[1]),
            normal(1, 1, at(5, found("c"))),
            membership(1, 2, &[1, 2, 3]),
        ];
        apply_all(&mut machine, entries).await.unwrap();
        assert_eq!(registry.applied_index(), 2);
        (machine.applied_state().await.unwrap(), registry.digest())
    };
    let (mut machine, registry) = machine(&rocks(dir.path()), dir.path());
    assert_eq!(machine.applied_state().await.unwrap(), before.0);
    assert_eq!(registry.digest(), before.1);
    assert_eq!(registry.read().cluster().id, "c");
}

#[tokio::test]
async fn an_append_is_readable_at_once_and_reported_only_after_the_synced_write() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = open_log(gate.clone());
    append(&mut log, run_of(1, 0..=2)).await.await.unwrap();

    gate.close(0);
    let mut flushed = append(&mut log, run_of(1, 3..=5)).await;
    gate.wait_arrived(2);
    assert!(
        (&mut flushed).now_or_never().is_none(),
        "reported before it was written"
    );
    assert_eq!(
        indexes(&mut log).await.len(),
        6,
        "stored and queued ones read as one log"
    );
    assert_eq!(
        log.try_get_log_entries(4..5).await.unwrap(),
        vec![blank(1, 4)]
    );
    assert_eq!(
        log.try_get_log_entries(1..=1).await.unwrap(),
        vec![blank(1, 1)]
    );
    assert_eq!(
        log.get_log_state().await.unwrap().last_log_id,
        Some(log_id(1, 5))
    );
    assert_eq!(gate.passed().len(), 1);

    gate.open();
    flushed.await.unwrap();
    assert_eq!(
        gate.passed(),
        [(3, Durability::Synced), (3, Durability::Synced)]
    );
    assert_eq!(indexes(&mut log).await.len(), 6);
}

#[tokio::test]
async fn a_vote_is_answered_only_after_the_synced_write() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = open_log(gate.clone());
    gate.close(0);
    let mut writer = log.clone();
    let ballot = vote(4, 2);
    let mut saved = Box::pin(writer.save_vote(&ballot));
    assert!((&mut saved).now_or_never().is_none());
    gate.wait_arrived(1);
    assert!((&mut saved).now_or_never().is_none());
    assert_eq!(log.read_vote().await.unwrap(), None);
    gate.open();
    saved.await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote(4, 2)));
    assert_eq!(gate.passed(), [(1, Durability::Synced)]);
}

#[tokio::test]
async fn what_queues_up_behind_a_write_shares_one_sync() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = open_log(gate.clone());
    gate.close(0);
    let mut flushed = vec![append(&mut log, vec![blank(1, 0)]).await];
    gate.wait_arrived(1);
    for i in 1..=50 {
        flushed.push(append(&mut log, vec![blank(1, i)]).await);
    }
    gate.open();
    for wait in flushed {
        wait.await.unwrap();
    }
    assert_eq!(
        gate.passed(),
        [(1, Durability::Synced), (50, Durability::Synced)]
    );
}

#[tokio::test]
async fn completions_come_in_the_order_of_the_appends() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = open_log(gate.clone());
    let mut next = 0;
    for round in 0..20 {
        let came = gate.arrived();
        gate.close(0);
        let mut flushed = Vec::new();
        for _ in 0..8 {
            flushed.push(append(&mut log, vec![blank(1, next)]).await);
            next += 1;
            gate.wait_arrived(came + 1);
        }
        gate.open();
        let awaited = round % 8;
        flushed.remove(awaited).await.unwrap();
        for (place, wait) in flushed.drain(..awaited).enumerate() {
            assert!(
                wait.now_or_never().is_some_and(|r| r.is_ok()),
                "append {place} was reported after {awaited}"
            );
        }
        for wait in flushed {
            wait.await.unwrap();
        }
    }
    assert!(gate.passed().len() >= 40, "there were several groups");
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_ever_reported_as_written() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = open_log(gate.clone());
    append(&mut log, vec![blank(1, 0)]).await.await.unwrap();
    gate.set_broken(true);
    append(&mut log, vec![blank(1, 1)]).await.await.unwrap_err();
    gate.set_broken(false);
    append(&mut log, vec![blank(1, 2)]).await.await.unwrap_err();
    log.save_vote(&vote(9, 1)).await.unwrap_err();
    assert_eq!(log.read_vote().await.unwrap(), None);
    log.truncate_after(Some(log_id(1, 0))).await.unwrap_err();
    log.purge(log_id(1, 0)).await.unwrap_err();
    assert_eq!(
        gate.passed().len(),
        1,
        "an fsync that failed is not tried again"
    );
}

#[tokio::test]
async fn truncate_and_append_leave_no_hole_behind() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut log = open_log(rocks(dir.path()));
        append(&mut log, run_of(1, 0..=9)).await.await.unwrap();
        log.truncate_after(Some(log_id(1, 4))).await.unwrap();
        assert_eq!(
            log.get_log_state().await.unwrap().last_log_id,
            Some(log_id(1, 4))
        );
        assert_eq!(indexes(&mut log).await.len(), 5);
        append(&mut log, run_of(2, 5..=6)).await.await.unwrap();
    }
    let mut log = open_log(rocks(dir.path()));
    let expected: Vec<_> = (0..=4).map(|i| (1, i)).chain([(2, 5), (2, 6)]).collect();
    assert_eq!(indexes(&mut log).await, expected);
}

/// Runs a life of a log against the model and looks at it after a power cut at
/// every moment that the promises of a store allow.
#[tokio::test]
async fn no_power_cut_leaves_a_hole_or_takes_an_acknowledged_write() {
    let model = Arc::new(ModelStore::default());
    let mut log = open_log(model.clone());
    // Batches written when it was acknowledged, last index, vote's term.
    let mut acknowledged = vec![(0, None, 0)];
    let mut note =
        |log: &ModelStore, last, term| acknowledged.push((log.journal_len(), last, term));

    log.save_vote(&vote(1, 1)).await.unwrap();
    note(&model, None, 1);
    append(&mut log, run_of(1, 0..=3)).await.await.unwrap();
    note(&model, Some((1, 3)), 1);
    log.save_committed(Some(log_id(1, 2))).await.unwrap();
    append(&mut log, run_of(1, 4..=7)).await.await.unwrap();
    note(&model, Some((1, 7)), 1);
    log.purge(log_id(1, 2)).await.unwrap();
    log.save_vote(&vote(2, 3)).await.unwrap();
    note(&model, Some((1, 7)), 2);
    log.truncate_after(Some(log_id(1, 5))).await.unwrap();
    note(&model, Some((1, 5)), 2);
    append(&mut log, run_of(2, 6..=8)).await.await.unwrap();
    note(&model, Some((2, 8)), 2);
    log.purge(log_id(2, 8)).await.unwrap();
    append(&mut log, run_of(2, 9..=9)).await.await.unwrap();
    note(&model, Some((2, 9)), 2);
    drop(log);

    for cut in 0..=model.journal_len() {
        let mut log = open_log(Arc::new(model.after_crash(cut)));
        let state = log.get_log_state().await.unwrap();
        let found = indexes(&mut log).await;
        let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
        let expected: Vec<u64> = state
            .last_log_id
            .map_or(Vec::new(), |last| (first..=last.index).collect());
        assert_eq!(
            found.iter().map(|(_, i)| *i).collect::<Vec<_>>(),
            expected,
            "cut after {cut} batches"
        );

        let (_, last, term) = acknowledged
            .iter()
            .rfind(|(batches, ..)| *batches <= cut)
            .unwrap();
        let voted = log
            .read_vote()
            .await
            .unwrap()
            .map_or(0, |v| v.leader_id.term);
        assert!(
            voted >= *term,
            "cut after {cut} batches: the vote of term {term} is forgotten"
        );
        if acknowledged.iter().any(|(batches, ..)| *batches == cut) {
            let end = state.last_log_id.map(|id| (id.leader_id.term, id.index));
            assert_eq!(end, *last, "cut after {cut} batches");
        }
        assert!(
            found.iter().all(|(t, _)| *t <= voted),
            "cut after {cut}: an entry of a term before its vote"
        );
    }
}

/// Reads while the log is cut and grown again see one log, never parts of two.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_never_mixes_the_log_before_and_after_a_truncation() {
    let mut log = open_log(Arc::new(ModelStore::default()));
    append(&mut log, run_of(1, 0..=599)).await.await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (mut reader, stopped) = (log.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while !*stopped.borrow() {
                    let entries = reader.try_get_log_entries(100..).await.unwrap();
                    let terms: Vec<u64> = entries.iter().map(|e| e.log_id.leader_id.term).collect();
                    let cut = terms.iter().position(|t| *t != 1).unwrap_or(terms.len());
                    assert!(terms[cut..].iter().all(|t| *t == terms[cut]), "{terms:?}");
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    for term in 2..80 {
        log.truncate_after(Some(log_id(1, 200))).await.unwrap();
        let first = append(&mut log, run_of(term, 201..=400)).await;
        append(&mut log, run_of(term, 401..=599))
            .await
            .await
            .unwrap();
        first.await.unwrap();
    }
    stop.send(true).unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_read_over_a_purge_starts_behind_it_and_never_fails() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = open_log(gate.clone());
    append(&mut log, run_of(1, 0..=9)).await.await.unwrap();
    gate.close(0);
    let mut purger = log.clone();
    let mut purged = Box::pin(purger.purge(log_id(1, 5)));
    assert!((&mut purged).now_or_never().is_none());
    gate.wait_arrived(2);
    assert_eq!(
        indexes(&mut log).await,
        (6..=9).map(|i| (1, i)).collect::<Vec<_>>()
    );
    gate.open();
    purged.await.unwrap();
    assert_eq!(
        indexes(&mut log).await,
        (6..=9).map(|i| (1, i)).collect::<Vec<_>>()
    );
}

fn large(index: u64, bytes: usize) -> LogEntry {
    normal(1, index, at(0, found(&"x".repeat(bytes))))
}

#[tokio::test]
async fn a_limited_read_fits_a_message_whether_stored_or_queued() {
    let gate = Gate::before(Arc::new(ModelStore::default()));
    let mut log = open_log(gate.clone());
    let entries: Vec<_> = (0..40).map(|i| large(i, 100_000)).collect();
    append(&mut log, entries.clone()).await.await.unwrap();
    let stored = log.limited_get_log_entries(0, 40).await.unwrap();
    assert!(
        (10..=12).contains(&stored.len()),
        "{} entries of 100 kB",
        stored.len()
    );
    assert_eq!(log.limited_get_log_entries(39, 40).await.unwrap().len(), 1);

    gate.close(0);
    let queued = (40..80).map(|i| large(i, 100_000)).collect();
    let flushed = append(&mut log, queued).await;
    let read = log.limited_get_log_entries(40, 80).await.unwrap();
    assert!(
        (10..=12).contains(&read.len()),
        "{} queued entries of 100 kB",
        read.len()
    );
    let across = log.limited_get_log_entries(35, 80).await.unwrap();
    assert!(
        (10..=12).contains(&across.len()),
        "{} entries across the seam",
        across.len()
    );
    gate.open();
    flushed.await.unwrap();

    append(&mut log, vec![large(80, 3_000_000)])
        .await
        .await
        .unwrap();
    assert_eq!(
        log.limited_get_log_entries(80, 81).await.unwrap().len(),
        1,
        "a single one is never withheld"
    );
}

#[tokio::test]
async fn a_stream_of_log_entries_is_whole_and_in_order() {
    let mut log = open_log(Arc::new(ModelStore::default()));
    let entries: Vec<_> = (0..30).map(|i| large(i, 200_000)).collect();
    append(&mut log, entries).await.await.unwrap();
    let stream = log.entries_stream(3..28).await;
    let read: Vec<LogEntry> = stream.try_collect().await.unwrap();
    assert_eq!(
        read.iter().map(|e| e.log_id.index).collect::<Vec<_>>(),
        (3..28).collect::<Vec<_>>()
    );
    assert!(
        read.iter()
            .all(|e| matches!(e.payload, EntryPayload::Normal(_)))
    );
}

#[tokio::test]
async fn an_entry_under_a_wrong_index_is_corruption() {
    let model = Arc::new(ModelStore::default());
    let mut log = open_log(model.clone());
    append(&mut log, run_of(1, 0..=3)).await.await.unwrap();
    let (_, second) = model.scan(Column::Log, &[], None, 2).unwrap().remove(1);
    let mut batch = Batch::default();
    batch.put(Column::Log, 2u64.to_be_bytes(), second);
    model.write(batch, Durability::Synced).unwrap();
    log.try_get_log_entries(0..4).await.unwrap_err();

    let mut batch = Batch::default();
    batch.delete(Column::Log, 2u64.to_be_bytes());
    model.write(batch, Durability::Synced).unwrap();
    log.try_get_log_entries(0..4).await.unwrap_err();
}

#[test]
fn only_an_existing_store_is_opened_and_only_a_new_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(RocksStore::open(&path).is_err(), "there is none");
    assert!(!path.exists(), "and none came to be");
    drop(RocksStore::create(&path).unwrap());
    assert!(RocksStore::create(&path).is_err(), "there is one");
    drop(RocksStore::open(&path).unwrap());
    fs::remove_file(path.join("CURRENT")).unwrap();
    assert!(RocksStore::open(&path).is_err(), "it is no store any more");
    assert!(
        RocksStore::create(&path).is_err(),
        "and no place for a new one"
    );
}

/// A store whose write-ahead log holds 400 synced rows.
fn store_with_a_log(dir: &Path) -> (PathBuf, PathBuf) {
    let path = dir.join("store");
    {
        let store = RocksStore::create(&path).unwrap();
        for i in 0..400u64 {
            let mut batch = Batch::default();
            batch.put(Column::Log, i.to_be_bytes(), vec![i.to_be_bytes()[7]; 500]);
            store.write(batch, Durability::Synced).unwrap();
        }
    }
    let wal = newest_wal(&path);
    assert!(
        wal.metadata().unwrap().len() > 200_000,
        "the rows are in the log"
    );
    (path, wal)
}

#[test]
fn a_flipped_byte_inside_the_write_ahead_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, wal) = store_with_a_log(dir.path());
    let good = fs::read(&wal).unwrap();
    for tenth in [1, 3, 5, 8] {
        let mut bad = good.clone();
        let at = good.len() / 10 * tenth;
        bad[at] ^= 0x04;
        fs::write(&wal, &bad).unwrap();
        assert!(
            RocksStore::open(&path).is_err(),
            "byte {at} of {}",
            good.len()
        );
    }
    fs::write(&wal, &good).unwrap();
    let store = RocksStore::open(&path).unwrap();
    assert_eq!(store.scan(Column::Log, &[], None, 1000).unwrap().len(), 400);
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_loses_only_the_torn_row() {
    let dir = tempfile::tempdir().unwrap();
    let (path, wal) = store_with_a_log(dir.path());
    let good = fs::read(&wal).unwrap();
    fs::write(&wal, &good[..good.len() - 100]).unwrap();
    let store = RocksStore::open(&path).unwrap();
    assert_eq!(store.scan(Column::Log, &[], None, 1000).unwrap().len(), 399);
}

#[test]
fn a_scan_is_bounded_and_ordered_on_every_store() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Store>; 2] = [rocks(dir.path()), Arc::new(ModelStore::default())];
    for store in stores {
        let mut batch = Batch::default();
        for i in 0..10u8 {
            batch.put(Column::StateA, vec![i], vec![i]);
        }
        batch.delete(Column::StateA, vec![4]);
        batch.delete_range(Column::StateA, vec![7], vec![9]);
        batch.put(Column::StateB, vec![5], vec![99]);
        store.write(batch, Durability::Buffered).unwrap();
        let keys = |from: &[u8], until: Option<&[u8]>, limit| {
            let rows = store.scan(Column::StateA, from, until, limit).unwrap();
            rows.into_iter().map(|(k, _)| k[0]).collect::<Vec<_>>()
        };
        assert_eq!(keys(&[], None, 100), [0, 1, 2, 3, 5, 6, 9]);
        assert_eq!(keys(&[2], Some(&[6]), 100), [2, 3, 5]);
        assert_eq!(keys(&[2], None, 2), [2, 3]);
        assert_eq!(keys(&[6], Some(&[6]), 2), [0u8; 0]);
        assert_eq!(
            store.last(Column::StateA).unwrap(),
            Some((vec![9], vec![9]))
        );
        assert_eq!(store.last(Column::Log).unwrap(), None);
        store
            .at_this_moment(
                &mut || {
                    let mut batch = Batch::default();
                    batch.put(Column::StateA, vec![20], vec![20]);
                    store.write(batch, Durability::Buffered).unwrap();
                },
                &mut |moment| {
                    assert_eq!(
                        moment.last(Column::StateA)?,
                        Some((vec![9], vec![9])),
                        "what came later is not seen"
                    );
                    assert_eq!(moment.get(Column::StateA, &[20])?, None);
                    assert_eq!(moment.scan(Column::StateA, &[6], None, 9)?.len(), 2);
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(store.get(Column::StateA, &[20]).unwrap(), Some(vec![20]));
    }
}
