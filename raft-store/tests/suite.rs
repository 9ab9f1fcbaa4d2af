//! openraft's own storage suite, over the real store.

use chancery_raft_store::StateMachine;
use chancery_raft_store::log::LogStore;
use chancery_raft_store::types::Types;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::support::{machine, open_log, rocks};

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let store = rocks(dir.path());
        let (state, _) = machine(&store, dir.path());
        Ok((dir, open_log(store), state))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_contract_of_openraft_is_kept() {
    Suite::test_all(Builder).await.unwrap();
}
