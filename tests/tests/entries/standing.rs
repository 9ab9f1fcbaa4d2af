//! An agent's standing is looked at again when its entries are.

use anyhow::{Context as _, ensure};
use chancery_api::google::rpc;
use chancery_api::spire::api::server::agent::v1::BanAgentRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::{
    GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest,
};
use chancery_api::spire::api::types::PermissionDeniedDetails;
use chancery_api::spire::api::types::permission_denied_details::Reason;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, eventually};
use chancery_tests::tls::connect_admin;
use prost::Message as _;
use tonic::{Code, Status};

use super::{create_all, id};

async fn attest(cluster: &Cluster, node: &Node) -> anyhow::Result<Agent> {
    let token = cluster.token(node).await?;
    Agent::attest(&node.api, &cluster.trust()?, &token, None).await
}

async fn ban(node: &Node, agent: &Agent) -> anyhow::Result<()> {
    let mut client = AgentClient::new(connect_admin(&node.admin_socket).await?);
    let request = BanAgentRequest {
        id: id(agent.path()),
    };
    client.ban_agent(request).await?;
    Ok(())
}

/// Fails unless the answer is the denial that makes a banned agent drop its identity.
fn heard_of_the_ban<T: std::fmt::Debug>(
    what: &str,
    answer: Result<T, Status>,
) -> anyhow::Result<()> {
    let status = match answer {
        Err(status) => status,
        Ok(answer) => anyhow::bail!("{what}: a banned agent was answered {answer:?}"),
    };
    ensure!(
        status.code() == Code::PermissionDenied,
        "{what}: {status:?}"
    );
    let details = rpc::Status::decode(status.details())?.details;
    let detail = details.first().context("no typed detail")?;
    let detail = PermissionDeniedDetails::decode(detail.value.as_slice())?;
    ensure!(detail.reason() == Reason::AgentBanned, "{what}: {detail:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_that_arrives_during_the_barrier_is_heard() -> anyhow::Result<()> {
    // Strict: every answer waits for a barrier, behind the gate that has let the call in.
    let mut cluster = Cluster::start(&Options {
        extra: "[issuance]\nstale_issuance_limit = \"0s\"\n",
        ..Options::default()
    })?;
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let slow = cluster.nodes().iter().find(|n| n.id != leader);
    let slow = slow.context("a follower")?.id.clone();
    cluster.restart(&slow, &[("CHANCERY_FAULT_HOLD_APPLY_MS", "2500")])?;
    let (leader, slow) = (cluster.node(&leader)?.clone(), cluster.node(&slow)?.clone());
    let (one, other) = (
        attest(&cluster, &leader).await?,
        attest(&cluster, &leader).await?,
    );
    let entries = [&one, &other].map(|agent| cluster.entry(agent.path(), "/w"));
    create_all(&leader, entries.into()).await?;
    // Both are known at the slow node, over connections that stay.
    let mut channels = Vec::new();
    for agent in [&one, &other] {
        let limit = std::time::Duration::from_secs(60);
        let channel = eventually("the agent at the slow node", limit, || async {
            let channel = agent.connect(&slow.api).await?;
            let entries = agent.sync(channel.clone()).await?;
            Ok((entries.len() == 1).then_some(channel))
        });
        channels.push(channel.await?);
    }

    // Each answers after a second, by when the slow node has not applied it.
    let (a, b) = tokio::join!(ban(&leader, &one), ban(&leader, &other));
    a?;
    b?;
    let mut entries = EntryClient::new(channels[0].clone());
    let (whole, synced) = tokio::join!(
        entries.get_authorized_entries(GetAuthorizedEntriesRequest::default()),
        other.sync(channels[1].clone()),
    );
    heard_of_the_ban("GetAuthorizedEntries", whole)?;
    heard_of_the_ban("SyncAuthorizedEntries", synced)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_in_the_middle_of_a_sync_is_heard() -> anyhow::Result<()> {
    let cluster = super::one_node("", &[])?;
    let node = &cluster.nodes()[0];
    let agent = attest(&cluster, node).await?;
    let entries = (0..501).map(|n| cluster.entry(agent.path(), &format!("/w/{n}")));
    let ids = create_all(node, entries.collect()).await?;

    let (requests, outgoing) = tokio::sync::mpsc::channel(4);
    let ask = |ids: Vec<String>| {
        requests.send(SyncAuthorizedEntriesRequest {
            output_mask: None,
            ids,
        })
    };
    ask(Vec::new()).await?;
    let stream = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut client = EntryClient::new(agent.connect(&node.api).await?);
    let mut answers = client.sync_authorized_entries(stream).await?.into_inner();
    let mut revisions = 0;
    while revisions < ids.len() {
        let page = answers.message().await?.context("a page of revisions")?;
        revisions += page.entry_revisions.len();
    }
    ask(ids[..1].to_vec()).await?;
    let page = answers.message().await?.context("an entry")?;
    ensure!(page.entries.len() == 1, "{page:?}");

    ban(node, &agent).await?;
    ask(ids[1..2].to_vec()).await?;
    heard_of_the_ban("the next entry of a sync", answers.message().await)
}
