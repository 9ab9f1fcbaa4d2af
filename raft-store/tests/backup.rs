//! A backup is of one log position and is refused when anything in it is wrong; a new
//! epoch keeps the state and none of the numbers, members and secrets of the one before.

use std::sync::Arc;

use chancery_raft_store::command::{
    AttestAgent, BeginKey, ClaimLogin, CreateEntries, CreateJoinToken, EntryFields, EntryUpdate,
    LoginEnd, RecordAuthority, SettleLogin, UpdateEntries,
};
use chancery_raft_store::epoch::{
    Beginning, Begun, GAP, begin_from_backup, begin_from_replay, replay, survivor,
};
use chancery_raft_store::log::LogStore;
use chancery_raft_store::machine::BackupMaker;
use chancery_raft_store::model::{
    Authority, AuthorityKind, AuthorityStatus, Cluster, EpochEnd, JoinToken, Member, PastEpoch,
};
use chancery_raft_store::snapshot::{self, Encoder, Header, Origin, Snapshots};
use chancery_raft_store::store::{Column, Store};
use chancery_raft_store::types::LogEntry;
use chancery_raft_store::view::{Table, meta};
use chancery_raft_store::{Command, Proposal, Registry, RequestId, StateMachine, codec};
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use proptest::prelude::*;
use prost::Message;
use tempfile::TempDir;

use crate::support::model_store::ModelStore;
use crate::support::{
    Rows, append, apply_all, at, commands, entry, found, log_id, machine, membership, normal,
    open_log, rows_of,
};

const SNAPSHOTS: &str = "snapshots";

/// A node over a store that forgets, in a folder for its snapshots.
struct Node {
    dir: TempDir,
    store: Arc<dyn Store>,
    machine: StateMachine,
    registry: Registry,
}

impl Node {
    fn over(store: Arc<dyn Store>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (machine, registry) = machine(&store, dir.path());
        Self {
            dir,
            store,
            machine,
            registry,
        }
    }

    fn new() -> Self {
        Self::over(Arc::new(ModelStore::default()))
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots::open(&self.dir.path().join(SNAPSHOTS)).unwrap()
    }

    fn rows(&self) -> Rows {
        rows_of(&*self.store)
    }

    fn backup(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.registry.write_backup(&mut bytes, &maker()).unwrap();
        bytes
    }
}

fn maker() -> BackupMaker {
    BackupMaker {
        created_at_ms: 1_800_000_000_000,
        node_id: 2,
        program_version: "0.1.0".into(),
        stale_ms: None,
    }
}

fn asked(sequence: u64, command: Command) -> Proposal {
    let request = RequestId {
        node: 1,
        boot: 1,
        sequence,
    };
    Proposal {
        time_ms: 5_000,
        ..Proposal::new(Some(request), command)
    }
}

fn key(slot: &str, epoch: u64, node_id: u64) -> Command {
    Command::BeginKey(BeginKey {
        slot: slot.into(),
        epoch,
        node_id,
        key_id: vec![7; 16],
        key_label: format!("chancery/c/{slot}/{epoch}"),
    })
}

fn authority(id: &str, slot: &str, node_id: u64) -> Command {
    Command::RecordAuthority(RecordAuthority {
        authority: Some(Authority {
            id: id.into(),
            kind: AuthorityKind::X509.into(),
            slot: slot.into(),
            epoch: 1,
            key_id: vec![7; 16],
            key_label: format!("chancery/c/{slot}/1"),
            public_key: vec![0x30],
            node_id,
            expires_at: 1_900_000_000,
            ..Authority::default()
        }),
    })
}

fn login(serial: &str, ordered: bool) -> Command {
    Command::ClaimLogin(ClaimLogin {
        serial: serial.into(),
        node_id: 1,
        boot: 1,
        sequence: 1 + u64::from(ordered),
        ordered,
    })
}

fn name(id: &str) -> chancery_raft_store::command::AuthorityName {
    chancery_raft_store::command::AuthorityName {
        kind: AuthorityKind::X509.into(),
        id: id.into(),
    }
}

/// A cluster in which something of most kinds stands.
fn history() -> Vec<LogEntry> {
    let create = |id: &str| {
        let entries = vec![entry(id, "/spire/agent/join_token/t", "/w", &[id])];
        Command::CreateEntries(CreateEntries { entries })
    };
    let update = |id: &str| {
        Command::UpdateEntries(UpdateEntries {
            updates: vec![EntryUpdate {
                id: id.into(),
                values: Some(entry(id, "", "/w2", &[id])),
                fields: Some(EntryFields {
                    spiffe_path: true,
                    ..EntryFields::default()
                }),
            }],
        })
    };
    let token = |byte: u8| {
        Command::CreateJoinToken(CreateJoinToken {
            token: Some(JoinToken {
                sha256: vec![byte; 32],
                expires_at: 0,
            }),
            ttl: 600,
            ..CreateJoinToken::default()
        })
    };
    let attest = Command::AttestAgent(AttestAgent {
        path: "/spire/agent/join_token/t".into(),
        attestation_type: "join_token".into(),
        serial: "1".into(),
        expires_at: 3_600,
        token_sha256: vec![1; 32],
        ..AttestAgent::default()
    });
    let commands = [
        found("c"),
        Command::AdmitMember(crate::support::admission(2)),
        create("a"),
        create("b"),
        update("a"),
        token(1),
        token(2),
        attest,
        // One authority that the nodes share, one of node 2 alone that signs, one that does not.
        key("x509", 1, 1),
        authority("shared", "x509", 0),
        Command::ActivateAuthority(name("shared")),
        key("x509/node-2", 1, 2),
        authority("own", "x509/node-2", 2),
        Command::ActivateAuthority(name("own")),
        key("x509/node-1", 1, 1),
        authority("prepared", "x509/node-1", 1),
        // An intent that nobody is left to finish.
        key("jwt", 1, 2),
        // Logins that nobody is left to finish, one after a refusal.
        login("open", false),
        login("refused", false),
        Command::SettleLogin(SettleLogin {
            serial: "refused".into(),
            node_id: 1,
            boot: 1,
            sequence: 1,
            end: LoginEnd::Refused.into(),
            why: "CKR_PIN_INCORRECT".into(),
        }),
        login("refused", true),
    ];
    let mut log = vec![membership(1, 0, &[1, 2])];
    for (index, command) in (1u64..).zip(commands) {
        log.push(normal(1, index, asked(index, command)));
    }
    log
}

fn beginning(end: EpochEnd) -> Beginning {
    Beginning {
        cluster_id: "next".into(),
        end,
        state_at_ms: Some(1_800_000_000_000),
        now_ms: 1_800_000_100_000,
        by: "uid 0 at host".into(),
        member: Member {
            peer_address: "new:8443".into(),
            api_address: "new:8081".into(),
            spki_sha256: vec![9; 32],
            version: "0.1.0".into(),
            ..Member::default()
        },
        founding_peers: vec!["new:8443".into(), "b:8443".into(), "c:8443".into()],
    }
}

fn restored(backup: &[u8]) -> (Node, Begun) {
    let store: Arc<dyn Store> = Arc::new(ModelStore::default());
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(&dir.path().join(SNAPSHOTS)).unwrap();
    let beginning = beginning(EpochEnd::Restored);
    let begun = begin_from_backup(&*store, &snapshots, backup, &beginning).unwrap();
    let (machine, registry) = machine(&store, dir.path());
    let node = Node {
        dir,
        store,
        machine,
        registry,
    };
    (node, begun)
}

async fn filled() -> Node {
    let mut node = Node::new();
    apply_all(&mut node.machine, history()).await.unwrap();
    node
}

/// A backup of [`history`], for the stored sample.
pub(crate) fn sample() -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(filled()).backup()
}

/// Whether an epoch begins from it.
pub(crate) fn restores(backup: &[u8]) {
    restored(backup);
}

fn of_table(rows: &Rows, table: Table) -> Rows {
    let of = |key: &[u8]| Table::of(key).unwrap().0 == table;
    rows.iter()
        .filter(|(key, _)| of(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[tokio::test]
async fn a_backup_says_what_it_is_of_and_holds_the_rows_of_that_moment() {
    let node = filled().await;
    let bytes = node.backup();
    let survey = snapshot::verify(bytes.as_slice()).unwrap();
    let last = history().len() as u64 - 1;
    assert_eq!(survey.applied, log_id(1, last));
    let origin = survey.header.origin.clone().unwrap();
    assert_eq!(origin.format, Origin::FORMAT);
    assert_eq!(origin.trust_domain, "example.org");
    assert_eq!((origin.node_id, origin.stale_ms), (2, None));
    assert_eq!(hex::encode(origin.state_digest), node.registry.digest().1);
    assert_eq!(survey.cluster.id, "c");
    for (table, rows) in [
        (Table::Entries, 2),
        (Table::Agents, 1),
        (Table::JoinTokens, 1),
        (Table::Authorities, 3),
        (Table::Members, 2),
        (Table::Requests, last),
        (Table::Relationships, 0),
    ] {
        assert_eq!(survey.count(table), rows, "{table:?}");
    }
    let mut rows = Rows::new();
    snapshot::decode(bytes.as_slice(), |_, part| {
        rows.extend(part.into_iter().map(|(k, v)| (k, v.unwrap())));
        Ok(())
    })
    .unwrap();
    assert_eq!(rows, node.rows());
}

#[tokio::test]
async fn every_flip_of_every_byte_and_every_cut_of_a_backup_is_refused() {
    let bytes = filled().await.backup();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x10, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= bit;
            snapshot::verify(bad.as_slice())
                .err()
                .unwrap_or_else(|| panic!("byte {at} flipped by {bit:#x} is not noticed"));
        }
        snapshot::verify(&bytes[..at])
            .err()
            .unwrap_or_else(|| panic!("a cut at {at} is not noticed"));
    }
    let longer = [bytes.as_slice(), b"\0"].concat();
    snapshot::verify(longer.as_slice()).unwrap_err();
    snapshot::verify(bytes.as_slice()).unwrap();
}

/// The backup with its header and rows changed, and right checksums.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Header, &mut Rows)) -> Vec<u8> {
    let mut rows = Rows::new();
    let mut header = snapshot::decode(bytes, |_, part| {
        rows.extend(part.into_iter().map(|(k, v)| (k, v.unwrap())));
        Ok(())
    })
    .unwrap();
    change(&mut header, &mut rows);
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (key, value) in rows {
        encoder.row(key, value).unwrap();
    }
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_backup_whose_rows_and_header_do_not_belong_together_is_refused() {
    type Change = Box<dyn FnOnce(&mut Header, &mut Rows)>;
    let bytes = filled().await.backup();
    let said = |change: Change| {
        snapshot::verify(changed(&bytes, change).as_slice())
            .unwrap_err()
            .to_string()
    };
    fn origin(header: &mut Header) -> &mut Origin {
        header.origin.as_mut().unwrap()
    }
    let cases: Vec<(&str, Change)> = vec![
        (
            "of another cluster",
            Box::new(|h, _| h.cluster_id = "d".into()),
        ),
        (
            "of another log position",
            Box::new(|h, _| h.applied = codec::encode_log_id(&log_id(1, 3))),
        ),
        (
            "of no log position",
            Box::new(|h, _| h.applied = Vec::new()),
        ),
        (
            "of another digest",
            Box::new(|h, _| origin(h).state_digest = vec![1; 32]),
        ),
        (
            "of another trust domain",
            Box::new(|h, _| origin(h).trust_domain = "other.org".into()),
        ),
        (
            "of a newer format",
            Box::new(|h, _| origin(h).format = Origin::FORMAT + 1),
        ),
        (
            "an entry under another id",
            Box::new(|_, rows| {
                let entry = rows.remove(&Table::Entries.key(b"a")).unwrap();
                rows.insert(Table::Entries.key(b"z"), entry);
            }),
        ),
        (
            "an entry that is gone from its table alone",
            Box::new(|_, rows| drop(rows.remove(&Table::Entries.key(b"a")))),
        ),
        (
            "an agent that does not decode",
            Box::new(|_, rows| {
                let path = b"/spire/agent/join_token/t";
                rows.insert(Table::Agents.key(path), vec![0xff; 3]);
            }),
        ),
        (
            "an unknown table",
            Box::new(|_, rows| drop(rows.insert(vec![200, 1], Vec::new()))),
        ),
        (
            "an unknown fact",
            Box::new(|_, rows| drop(rows.insert(Table::Meta.key(b"zz"), Vec::new()))),
        ),
    ];
    for (what, change) in cases {
        let said = said(change);
        assert!(said.starts_with("corrupt store: "), "{what}: {said}");
    }
    // Inspecting tells even what nobody should restore.
    let strange = changed(&bytes, |_, rows| {
        drop(rows.remove(&Table::Entries.key(b"a")))
    });
    assert_eq!(
        snapshot::inspect(strange.as_slice())
            .unwrap()
            .count(Table::Entries),
        1
    );
}

#[tokio::test]
async fn a_restored_state_is_that_of_the_backup_under_another_cluster() {
    let node = filled().await;
    let (before, bytes) = (node.rows(), node.backup());
    let (mut restored, begun) = restored(&bytes);
    let after = restored.rows();
    for table in [
        Table::Entries,
        Table::EntrySequence,
        Table::EntrySimilar,
        Table::EntryParent,
        Table::Agents,
        Table::AgentSequence,
        Table::JoinTokens,
    ] {
        assert_eq!(
            of_table(&before, table),
            of_table(&after, table),
            "{table:?}"
        );
        assert!(!of_table(&before, table).is_empty(), "{table:?}");
    }
    for table in [Table::Requests, Table::RequestOrder, Table::RequestFloor] {
        assert!(of_table(&after, table).is_empty(), "{table:?}");
    }
    assert!(!after.contains_key(&Table::Meta.key(meta::REQUESTS_FROM)));

    let last = history().len() as u64 - 1;
    says_what_it_was_made_from(&restored.registry, begun, last);

    // Raft finds a purged log, a vote for this node, and a snapshot that covers both.
    let at = log_id_of(3, 2, last + GAP);
    let (applied, membership) = restored.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(at));
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [3]);
    let mut log: LogStore = open_log(Arc::clone(&restored.store));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(at));
    assert_eq!(state.last_log_id, Some(at));
    assert_eq!(
        log.read_vote().await.unwrap().unwrap().leader_id,
        at.leader_id
    );
    let snapshot = restored.machine.get_current_snapshot().await.unwrap();
    let snapshot = snapshot.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(at));
    assert_eq!(snapshot.meta.last_membership, membership);
}

fn says_what_it_was_made_from(registry: &Registry, begun: Begun, last: u64) {
    let directory = registry.read();
    let members: Vec<_> = directory.members().map(|m| m.node_id).collect();
    assert_eq!(members, [3], "a node id that never was");
    let cluster = directory.cluster();
    assert_eq!((cluster.id.as_str(), cluster.last_node_id), ("next", 3));
    assert_eq!(cluster.trust_domain, "example.org");
    assert_eq!(cluster.clock_ms, 5_000, "the clock does not go back");
    assert_eq!(cluster.founding_peers.len(), 3);
    let past = PastEpoch {
        cluster_id: "c".into(),
        log_index: last,
        state_at_ms: 1_800_000_000_000,
        end: EpochEnd::Restored.into(),
        ended_at_ms: 1_800_000_100_000,
        ended_by: "uid 0 at host".into(),
        successor: 3,
        keys_adopted: false,
    };
    assert_eq!(cluster.past_epochs, std::slice::from_ref(&past));
    assert_eq!((begun.past, begun.node_id), (past, 3));
    let status = |id: &str| {
        let all = directory.authorities(AuthorityKind::X509);
        all.iter().find(|a| a.id == id).unwrap().status()
    };
    assert_eq!(status("shared"), AuthorityStatus::Active);
    assert_eq!(status("own"), AuthorityStatus::Old, "trusted, and no more");
    assert_eq!(status("prepared"), AuthorityStatus::Revoked);
    let intent = directory.intent("jwt").unwrap();
    assert_eq!((intent.node_id, intent.epoch), (0, 1), "nobody finishes it");
    assert_eq!(directory.token_login("open"), None);
    let refused = directory.token_login("refused").unwrap();
    assert!(refused.attempt.is_none() && refused.refusal.is_some());
}

fn log_id_of(node_id: u64, term: u64, index: u64) -> chancery_raft_store::types::LogId {
    let leader_id = openraft::impls::leader_id_adv::LeaderId { term, node_id };
    chancery_raft_store::types::LogId::new(leader_id, index)
}

#[tokio::test]
async fn no_number_that_anybody_may_have_seen_comes_again_after_a_restore() {
    let node = filled().await;
    let bytes = node.backup();
    let (mut restored, begun) = restored(&bytes);
    let next = begun.log_index + 1;
    let entries = vec![entry("later", "/p", "/later", &["later"])];
    let update = |id: &str| EntryUpdate {
        id: id.into(),
        values: Some(entry(id, "", "/again", &["x"])),
        fields: Some(EntryFields {
            spiffe_path: true,
            ..EntryFields::default()
        }),
    };
    let log = vec![
        normal(
            3,
            next,
            at(6_000, Command::CreateEntries(CreateEntries { entries })),
        ),
        normal(
            3,
            next + 1,
            at(
                6_000,
                Command::UpdateEntries(UpdateEntries {
                    updates: vec![update("a"), update("later"), update("a")],
                }),
            ),
        ),
    ];
    apply_all(&mut restored.machine, log).await.unwrap();
    let before = node.registry.read();
    let after = restored.registry.read();
    assert!(after.cluster().bundle_sequence >= before.cluster().bundle_sequence + GAP);
    let sequence = after.entry("later").unwrap().sequence;
    assert!(
        sequence > before.cluster().last_sequence + GAP,
        "{sequence}"
    );
    assert_eq!(
        after.entry("a").unwrap().sequence,
        before.entry("a").unwrap().sequence,
        "a page token of before names the same place"
    );
    // An agent may have seen revision 2 of what the backup has as revision 1.
    let (old, new) = (before.entry("a").unwrap(), after.entry("a").unwrap());
    assert_eq!(old.revision_number, 1);
    assert!(new.revision_number > old.revision_number + 1_000_000);
    assert_eq!(
        after.entry("b").unwrap().revision_number,
        0,
        "not changed yet"
    );
    drop((before, after));

    // And again from a backup of the restored one.
    let (twice, begun) = {
        let bytes = restored.backup();
        snapshot::verify(bytes.as_slice()).unwrap();
        self::restored(&bytes)
    };
    assert_eq!(begun.node_id, 4);
    let directory = twice.registry.read();
    let past: Vec<_> = directory.cluster().past_epochs.iter().collect();
    assert_eq!(
        (past[0].cluster_id.as_str(), past[1].cluster_id.as_str()),
        ("c", "next")
    );
    assert!(directory.cluster().revision_floor > new_floor(&restored));
}

fn new_floor(node: &Node) -> i64 {
    node.registry.read().cluster().revision_floor
}

#[tokio::test]
async fn a_survivor_s_log_is_applied_to_its_end_and_its_own_store_stays_as_it_is() {
    let mut node = Node::new();
    let history = history();
    let (applied, tail) = history.split_at(6);
    let mut log = open_log(Arc::clone(&node.store));
    append(&mut log, history.clone()).await.await.unwrap();
    apply_all(&mut node.machine, applied.to_vec())
        .await
        .unwrap();
    assert!(!tail.is_empty());

    let seen = survivor(&*node.store, &node.snapshots()).unwrap();
    assert_eq!((seen.applied, seen.last), (5, history.len() as u64 - 1));
    assert_eq!((seen.cluster.id.as_str(), seen.members.len()), ("c", 2));

    let before = (node.rows(), all_of(&node.store, Column::Log));
    let store: Arc<dyn Store> = Arc::new(ModelStore::default());
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(&dir.path().join(SNAPSHOTS)).unwrap();
    replay(
        &*node.store,
        &node.snapshots(),
        Arc::clone(&store),
        snapshots.clone(),
    )
    .await
    .unwrap();
    let begun = begin_from_replay(&*store, &snapshots, &beginning(EpochEnd::Recovered)).unwrap();
    assert_eq!((node.rows(), all_of(&node.store, Column::Log)), before);

    let whole = filled().await;
    let rows = rows_of(&*store);
    for table in [
        Table::Entries,
        Table::Agents,
        Table::JoinTokens,
        Table::EntrySimilar,
    ] {
        assert_eq!(
            of_table(&rows, table),
            of_table(&whole.rows(), table),
            "{table:?}"
        );
    }
    assert_eq!(begun.past.log_index, seen.last);
    assert_eq!(begun.past.end(), EpochEnd::Recovered);
    assert!(all_of(&store, Column::Log).is_empty());
    let other = store.scan(Column::StateA, &[], None, 1).unwrap();
    assert!(other.is_empty(), "what was copied first is gone");
}

#[tokio::test]
async fn a_survivor_with_a_hole_in_its_log_is_refused() {
    let mut node = Node::new();
    let history = history();
    let mut log = open_log(Arc::clone(&node.store));
    let holed: Vec<_> = history
        .iter()
        .filter(|e| e.log_id.index != 8)
        .cloned()
        .collect();
    append(&mut log, holed).await.await.unwrap();
    apply_all(&mut node.machine, history[..6].to_vec())
        .await
        .unwrap();
    let store: Arc<dyn Store> = Arc::new(ModelStore::default());
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(&dir.path().join(SNAPSHOTS)).unwrap();
    let error = replay(&*node.store, &node.snapshots(), store, snapshots)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("hole in front of entry 9"),
        "{error}"
    );
}

#[tokio::test]
async fn a_survivor_that_had_received_a_snapshot_and_not_installed_it_has_its_state() {
    let mut ahead = filled().await;
    let mut builder = ahead.machine.get_snapshot_builder().await;
    let built =
        openraft::RaftSnapshotBuilder::<chancery_raft_store::Types>::build_snapshot(&mut builder)
            .await
            .unwrap();
    let mut node = Node::new();
    apply_all(&mut node.machine, history()[..4].to_vec())
        .await
        .unwrap();
    let snapshots = node.snapshots();
    snapshots
        .keep(&built.snapshot, 1, built.meta.last_log_id.unwrap().index)
        .unwrap();

    let seen = survivor(&*node.store, &snapshots).unwrap();
    assert_eq!(seen.applied, history().len() as u64 - 1);
    let store: Arc<dyn Store> = Arc::new(ModelStore::default());
    let dir = tempfile::tempdir().unwrap();
    let target = Snapshots::open(&dir.path().join(SNAPSHOTS)).unwrap();
    replay(&*node.store, &snapshots, Arc::clone(&store), target)
        .await
        .unwrap();
    assert_eq!(rows_of(&*store), ahead.rows());
}

fn all_of(store: &Arc<dyn Store>, column: Column) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.scan(column, &[], None, usize::MAX).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_backup_of_any_state_is_whole_and_can_be_restored(
        proposals in prop::collection::vec(commands::proposal(), 0..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut node = Node::new();
        let mut log = vec![membership(1, 0, &[1]), normal(1, 1, at(1, found("c")))];
        log.extend((2u64..).zip(proposals).map(|(index, p)| normal(1, index, p)));
        runtime.block_on(apply_all(&mut node.machine, log)).unwrap();
        let bytes = node.backup();
        let survey = snapshot::verify(bytes.as_slice()).unwrap();
        prop_assert_eq!(survey.count(Table::Entries) as usize, node.registry.read().entry_count());
        let (restored, _) = restored(&bytes);
        prop_assert_eq!(
            of_table(&restored.rows(), Table::Entries),
            of_table(&node.rows(), Table::Entries)
        );
        snapshot::verify(restored.backup().as_slice()).unwrap();
    }
}

#[test]
fn what_is_no_state_of_a_founded_cluster_begins_no_epoch() {
    let store = ModelStore::default();
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(&dir.path().join(SNAPSHOTS)).unwrap();
    let header = Header {
        applied: codec::encode_log_id(&log_id(1, 1)),
        ..Header::default()
    };
    let empty = Encoder::new(Vec::new(), header.clone())
        .unwrap()
        .finish()
        .unwrap();
    let begin = |bytes: &[u8]| {
        begin_from_backup(&store, &snapshots, bytes, &beginning(EpochEnd::Restored))
            .unwrap_err()
            .to_string()
    };
    assert!(begin(&empty).contains("no cluster record"));
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    let cluster = Cluster {
        id: "c".into(),
        last_sequence: u64::MAX - 5,
        ..Cluster::default()
    };
    let at = codec::encode_log_id(&log_id(1, 1));
    encoder.row(Table::Meta.key(meta::APPLIED), at).unwrap();
    encoder
        .row(Table::Meta.key(meta::CLUSTER), cluster.encode_to_vec())
        .unwrap();
    let ended = begin(&encoder.finish().unwrap());
    assert!(ended.contains("too near to its end"), "{ended}");
    assert!(survivor(&store, &snapshots).is_err());
}
