//! What has expired goes by itself, and is told of in SPIRE's words.

use std::time::Duration;

use anyhow::ensure;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, CreateJoinTokenRequest, GetAgentRequest,
};
use chancery_api::spire::api::types;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::eventually;
use chancery_tests::tls::connect_admin;
use tonic::Code;

use super::{Cursor, create_all, id, one_node, selector};

const PACE: (&str, &str) = ("CHANCERY_FAULT_PRUNE_EVERY_MS", "100");

fn entry(name: &str, expires_at: i64) -> types::Entry {
    types::Entry {
        id: name.into(),
        parent_id: id("/p"),
        spiffe_id: id(&format!("/{name}")),
        selectors: vec![selector("unix", "uid:1")],
        expires_at,
        ..Default::default()
    }
}

#[tokio::test]
async fn expired_entries_go_and_others_stay() -> anyhow::Result<()> {
    let cluster = one_node("", &[PACE])?;
    let node = &cluster.nodes()[0];
    // More than one command takes.
    let expired = (0..300).map(|n| entry(&format!("expired-{n}"), 1_000 + n));
    let stay = [entry("never", 0), entry("future", 4_000_000_000)];
    create_all(node, stay.into_iter().chain(expired).collect()).await?;
    eventually(
        "the end of expired entries",
        Duration::from_secs(30),
        || async {
            let left = Cursor::new(None, 500).finish(node).await?;
            Ok((left == ["never", "future"]).then_some(()))
        },
    )
    .await?;
    let log = std::fs::read_to_string(&node.log)?;
    let line = "Pruned an expired registration spiffe_id=\"spiffe://example.org/expired-0\" \
                parent_id=\"spiffe://example.org/p\" entry_id=\"expired-0\"";
    ensure!(log.contains(line), "no {line:?} in\n{log}");
    Ok(())
}

#[tokio::test]
async fn agents_that_stay_away_are_evicted_and_banned_ones_kept() -> anyhow::Result<()> {
    let extra =
        "[issuance]\nagent_ttl = \"5s\"\n[agents]\nprune_expired_for = \"1s\"\nprune_tofu = true\n";
    let cluster = one_node(extra, &[PACE])?;
    let node = &cluster.nodes()[0];
    let mut agents = AgentClient::new(connect_admin(&node.admin_socket).await?);
    let request = CreateJoinTokenRequest {
        ttl: 600,
        agent_id: id("/host"),
        ..Default::default()
    };
    let token = agents.create_join_token(request).await?.into_inner().value;
    let away = Agent::attest(&node.api, &cluster.trust()?, &token, None).await?;
    let token = cluster.token(node).await?;
    let banned = Agent::attest(&node.api, &cluster.trust()?, &token, None).await?;
    let ban = BanAgentRequest {
        id: id(banned.path()),
    };
    agents.ban_agent(ban).await?;

    let get = |agent: &Agent| GetAgentRequest {
        id: id(agent.path()),
        output_mask: None,
    };
    eventually("the eviction", Duration::from_secs(40), || async {
        match agents.clone().get_agent(get(&away)).await {
            Err(status) if status.code() == Code::NotFound => Ok(Some(())),
            answer => answer.map(|_| None).map_err(Into::into),
        }
    })
    .await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    ensure!(
        i64::try_from(now.as_secs())? > away.svid.expires_at,
        "it was evicted before its SVID ended"
    );
    ensure!(
        Cursor::new(None, 500).finish(node).await?.is_empty(),
        "its second name did not go with it"
    );
    let left = agents.get_agent(get(&banned)).await?.into_inner();
    ensure!(left.banned, "the record is the ban: {left:?}");
    let count = agents.count_agents(CountAgentsRequest::default()).await?;
    ensure!(count.into_inner().count == 1);

    let log = std::fs::read_to_string(&node.log)?;
    let banned = format!(
        "Agent banned spiffe_id=spiffe://example.org{}",
        banned.path()
    );
    let alias = format!(
        "Cascade-deleted registration entry on attested node deletion \
         spiffe_id=\"spiffe://example.org/host\" parent_id=\"spiffe://example.org{}\"",
        away.path()
    );
    for line in [
        "Periodic prune of expired nodes started retry_interval=\"100ms\" expired_for=\"1s\" include_tofu=true",
        "Pruned expired agents count=1",
        &banned,
        &alias,
    ] {
        ensure!(log.contains(line), "no {line:?} in\n{log}");
    }
    Ok(())
}
