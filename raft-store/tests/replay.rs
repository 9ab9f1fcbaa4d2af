//! The same log gives the same bytes: through the state machine, however its
//! entries are grouped, with restarts and snapshots in between, and through the
//! pure function over a plain map.

use std::path::Path;
use std::sync::Arc;

use chancery_raft_store::apply::{apply, fold_digest};
use chancery_raft_store::store::Store;
use chancery_raft_store::types::{LogEntry, StoredMembership};
use chancery_raft_store::view::{Table, Writes, meta};
use chancery_raft_store::{Proposal, Registry, StateMachine, codec};
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::commands::proposal;
use crate::support::model_store::ModelStore;
use crate::support::{
    Map, Rows, apply_all, at, blank, built, found, machine, membership, normal, rocks, rows_of,
    write_to,
};

#[derive(Clone, Debug)]
enum Step {
    Propose(Box<Proposal>),
    Blank,
    Membership(Vec<u64>),
    /// What is pending is applied as one group.
    EndGroup,
    Restart,
    /// A snapshot of the first node is installed in another, which follows from then on.
    Join,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => proposal().prop_map(|p| Step::Propose(Box::new(p))),
        1 => Just(Step::Blank),
        1 => prop::sample::subsequence(vec![1, 2, 3, 4], 1..4).prop_map(Step::Membership),
        6 => Just(Step::EndGroup),
        1 => Just(Step::Restart),
        1 => Just(Step::Join),
    ]
}

/// The plain-map model.
#[derive(Default)]
struct Model {
    rows: Rows,
    digest: Vec<u8>,
    membership: StoredMembership,
}

impl Model {
    fn apply(&mut self, entry: &LogEntry) {
        let index = entry.log_id.index;
        let mut writes = Writes::new();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(m) => {
                self.membership = StoredMembership::new(Some(entry.log_id), m.clone())
            }
            EntryPayload::Normal(p) => {
                writes = apply(&Map(&self.rows), &Writes::new(), index, p)
                    .unwrap()
                    .writes
            }
        }
        self.digest = fold_digest(&self.digest, index, &writes);
        write_to(&mut self.rows, writes);
        self.rows
            .insert(Table::Meta.key(meta::DIGEST), self.digest.clone());
        self.rows.insert(
            Table::Meta.key(meta::APPLIED),
            codec::encode_log_id(&entry.log_id),
        );
        self.rows.insert(
            Table::Meta.key(meta::MEMBERSHIP),
            codec::encode_membership(&self.membership),
        );
    }
}

type OpenStore = fn(&Path) -> Arc<dyn Store>;

/// A node over some store.
struct Node {
    dir: TempDir,
    open_store: OpenStore,
    /// Kept over restarts where the store has no files.
    in_memory: Option<Arc<dyn Store>>,
    running: Option<(Arc<dyn Store>, StateMachine, Registry)>,
}

impl Node {
    fn new(open_store: OpenStore, in_memory: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let in_memory = in_memory.then(|| open_store(dir.path()));
        let mut node = Self {
            dir,
            open_store,
            in_memory,
            running: None,
        };
        node.start();
        node
    }

    fn start(&mut self) {
        let store = self
            .in_memory
            .clone()
            .unwrap_or_else(|| (self.open_store)(self.dir.path()));
        let (machine, registry) = machine(&store, self.dir.path());
        self.running = Some((store, machine, registry));
    }

    fn machine(&mut self) -> &mut StateMachine {
        &mut self.running.as_mut().unwrap().1
    }

    fn registry(&self) -> &Registry {
        &self.running.as_ref().unwrap().2
    }

    fn rows(&self) -> Rows {
        rows_of(&*self.running.as_ref().unwrap().0)
    }

    fn memory(&self) -> String {
        format!("{:#?}", *self.registry().read())
    }

    /// Everything that is in memory must be what the tables say.
    async fn restart(&mut self) {
        let before = (
            self.memory(),
            self.registry().digest(),
            self.machine().applied_state().await.unwrap(),
        );
        self.running = None;
        self.start();
        let after = (
            self.memory(),
            self.registry().digest(),
            self.machine().applied_state().await.unwrap(),
        );
        assert_eq!(before, after);
    }
}

async fn replay(steps: Vec<Step>, open_store: OpenStore, in_memory: bool) {
    let mut model = Model::default();
    let mut nodes = vec![Node::new(open_store, in_memory)];
    let mut pending = vec![
        membership(1, 0, &[1]),
        normal(1, 1, at(1, found("cluster"))),
    ];
    let mut next = 2;
    for step in steps.into_iter().chain([Step::EndGroup, Step::Restart]) {
        let entry = match step {
            Step::Propose(proposal) => normal(1 + next / 20, next, *proposal),
            Step::Blank => blank(1 + next / 20, next),
            Step::Membership(ids) => membership(1 + next / 20, next, &ids),
            Step::EndGroup => {
                for node in &mut nodes {
                    apply_all(node.machine(), pending.clone()).await.unwrap();
                }
                pending.iter().for_each(|e| model.apply(e));
                pending.clear();
                continue;
            }
            Step::Restart => {
                for node in &mut nodes {
                    node.restart().await;
                }
                continue;
            }
            Step::Join if model.rows.is_empty() => continue,
            Step::Join => {
                let (meta, file) = built(nodes[0].machine().get_snapshot_builder().await).await;
                // The second time it replaces the state of a node that has one.
                if nodes.len() < 3 {
                    nodes.push(Node::new(open_store, in_memory));
                }
                let joining = nodes.len() - 1;
                nodes[joining]
                    .machine()
                    .install_snapshot(&meta, file)
                    .await
                    .unwrap();
                assert_eq!(nodes[joining].rows(), model.rows);
                continue;
            }
        };
        pending.push(entry);
        next += 1;
    }
    for node in &mut nodes {
        assert_eq!(node.rows(), model.rows);
        assert_eq!(node.registry().digest(), (next - 1, hex(&model.digest)));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn run(steps: Vec<Step>, open_store: OpenStore, in_memory: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(replay(steps, open_store, in_memory));
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn a_log_replayed_on_the_real_store_gives_the_bytes_of_the_model(
        steps in prop::collection::vec(step(), 20..120),
    ) {
        run(steps, rocks, false);
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn a_log_replayed_in_memory_gives_the_bytes_of_the_model(steps in prop::collection::vec(step(), 1..150)) {
        run(steps, |_| Arc::new(ModelStore::default()), true);
    }
}
