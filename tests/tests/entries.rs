//! Registration entries and agents through the API of real processes: lists however long,
//! filters, updates, what goes by itself, and what an agent hears once it may no longer
//! ask.

#[path = "entries/filters.rs"]
mod filters;
#[path = "entries/listing.rs"]
mod listing;
#[path = "entries/pruning.rs"]
mod pruning;
#[path = "entries/standing.rs"]
mod standing;
#[path = "entries/updates.rs"]
mod updates;

use anyhow::ensure;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, ListEntriesRequest, list_entries_request,
};
use chancery_api::spire::api::types;
use chancery_tests::cluster::{Cluster, Node};
use chancery_tests::tls::connect_admin;
use tonic::transport::Channel;

/// The entry service of a node, as its administrator reaches it.
async fn client(node: &Node) -> anyhow::Result<EntryClient<Channel>> {
    Ok(EntryClient::new(connect_admin(&node.admin_socket).await?))
}

fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    })
}

fn selector(kind: &str, value: &str) -> types::Selector {
    types::Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

/// Creates entries, 500 a call, in their order; their ids.
async fn create_all(node: &Node, entries: Vec<types::Entry>) -> anyhow::Result<Vec<String>> {
    let mut client = client(node).await?;
    let mut ids = Vec::with_capacity(entries.len());
    for part in entries.chunks(500) {
        let request = BatchCreateEntryRequest {
            entries: part.to_vec(),
            // The answer holds ids and statuses.
            output_mask: Some(types::EntryMask::default()),
        };
        let answer = client.batch_create_entry(request).await?.into_inner();
        for result in answer.results {
            let status = result.status.unwrap_or_default();
            ensure!(status.code == 0, "{}", status.message);
            ids.extend(result.entry.map(|entry| entry.id));
        }
    }
    Ok(ids)
}

/// A list being read page by page.
struct Cursor {
    filter: Option<list_entries_request::Filter>,
    page_size: i32,
    token: String,
    /// Ids so far, in the order in which they came.
    ids: Vec<String>,
    pages: usize,
    done: bool,
}

impl Cursor {
    fn new(filter: Option<list_entries_request::Filter>, page_size: i32) -> Self {
        Self {
            filter,
            page_size,
            token: String::new(),
            ids: Vec::new(),
            pages: 0,
            done: false,
        }
    }

    /// Reads the next page from `client`.
    async fn page(&mut self, client: &mut EntryClient<Channel>) -> Result<(), tonic::Status> {
        let request = ListEntriesRequest {
            filter: self.filter.clone(),
            output_mask: Some(types::EntryMask::default()),
            page_size: self.page_size,
            page_token: self.token.clone(),
        };
        let answer = client.list_entries(request).await?.into_inner();
        self.ids.extend(answer.entries.into_iter().map(|e| e.id));
        self.token = answer.next_page_token;
        self.pages += 1;
        self.done = self.token.is_empty();
        Ok(())
    }

    /// Reads on from `node` to the end.
    async fn finish(mut self, node: &Node) -> anyhow::Result<Vec<String>> {
        let mut client = client(node).await?;
        while !self.done {
            self.page(&mut client).await?;
        }
        Ok(self.ids)
    }
}

/// One node with keys in memory.
fn one_node(extra: &str, env: &[(&str, &str)]) -> anyhow::Result<Cluster> {
    Cluster::start(&chancery_tests::cluster::Options {
        nodes: 1,
        keys: "memory",
        extra,
        env,
        ..Default::default()
    })
}
