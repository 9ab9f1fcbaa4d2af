//! Callers that may not do what they ask for, each method by each.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::METHODS;
use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::types::permission_denied_details::Reason;
use chancery_tests::agent::{Agent, attest_call, key_and_csr};
use chancery_tests::cluster::{eventually, text};
use chancery_tests::tls::{ClientIdentity, connect};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::site::{Site, call, reason, refusal};

/// What anybody may call, without a certificate.
const OPEN: [&str; 2] = [
    "/spire.api.server.agent.v1.Agent/AttestAgent",
    "/spire.api.server.bundle.v1.Bundle/GetBundle",
];

/// What an agent calls for itself.
const AGENTS: [&str; 8] = [
    "/spire.api.server.agent.v1.Agent/PostStatus",
    "/spire.api.server.agent.v1.Agent/RenewAgent",
    "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle",
    "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries",
    "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
    "/spire.api.server.svid.v1.SVID/BatchNewWITSVID",
    "/spire.api.server.svid.v1.SVID/BatchNewX509SVID",
    "/spire.api.server.svid.v1.SVID/NewJWTSVID",
];

/// Services that the agent port has.
const ON_THE_NETWORK: [&str; 9] = [
    "/chancery.cluster.v1.Cluster/",
    "/chancery.ledger.v1.Ledger/",
    "/chancery.migrate.v1.Migration/",
    "/spire.api.server.agent.v1.Agent/",
    "/spire.api.server.bundle.v1.Bundle/",
    "/spire.api.server.entry.v1.Entry/",
    "/spire.api.server.localauthority.v1.LocalAuthority/",
    "/spire.api.server.svid.v1.SVID/",
    "/spire.api.server.trustdomain.v1.TrustDomain/",
];

/// Services that only the admin socket has beside them.
const ON_THE_SOCKET: [&str; 5] = [
    "/chancery.backup.v1.Backup/",
    "/chancery.keys.v1.Keys/",
    "/grpc.health.v1.Health/",
    "/spire.api.server.debug.v1.Debug/",
    "/spire.api.server.logger.v1.Logger/",
];

/// A method that the agent port answers as if its service were not there: it spends tries of a PIN.
const LOCAL_ONLY: &str = "/chancery.cluster.v1.Cluster/RetryLogin";

/// Whether a method is of one of these services.
fn is_of(method: &str, services: &[&str]) -> bool {
    services.iter().any(|service| method.starts_with(service))
}

/// The answer to a method of a service that is not there: it names the service.
fn no_such_service(method: &str, status: &Status) -> anyhow::Result<()> {
    let service = method.split('/').nth(1).unwrap_or_default();
    let wanted = (Code::Unimplemented, format!("unknown service {service}"));
    ensure!(
        (status.code(), status.message().to_owned()) == wanted,
        "{method}: {:?} {}",
        status.code(),
        status.message()
    );
    Ok(())
}

/// The one answer to who may not: it names the method and nothing more.
fn denied(method: &str, status: &Status, wanted: Option<Reason>) -> anyhow::Result<()> {
    let text = format!("authorization denied for method {method}");
    ensure!(
        status.code() == Code::PermissionDenied && status.message() == text,
        "{method}: {:?} {}",
        status.code(),
        status.message()
    );
    let found = reason(status)?;
    ensure!(
        found == wanted,
        "{method}: the typed reason is {found:?}, not {wanted:?}"
    );
    Ok(())
}

async fn every_method_denied(channel: &Channel, except: &[&str]) -> anyhow::Result<usize> {
    let mut count = 0;
    for method in METHODS.iter().filter(|m| !except.contains(m)) {
        let status = refusal(method, call(channel, method).await)?;
        if is_of(method, &ON_THE_NETWORK) && *method != LOCAL_ONLY {
            denied(method, &status, None)?;
            count += 1;
        } else {
            no_such_service(method, &status)?;
        }
    }
    Ok(count)
}

/// What an agent is told, by every method that is an agent's.
async fn every_agent_method_denied(channel: &Channel, wanted: Reason) -> anyhow::Result<()> {
    for method in AGENTS {
        denied(
            method,
            &refusal(method, call(channel, method).await)?,
            Some(wanted),
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_nothing_is_open_but_attestation_and_the_bundle() -> anyhow::Result<()>
{
    let site = Site::shared().await?;
    let anonymous = site.anonymous().await?;
    let watch = site.watch().await?;
    let count = every_method_denied(&anonymous, &OPEN).await?;
    ensure!(count >= 50, "only {count} methods were tried");
    call(&anonymous, OPEN[1]).await.context("GetBundle")?;
    // A path that is no method at all.
    let method = "/spire.api.server.entry.v1.Entry/DropEverything";
    let status = refusal(method, call(&anonymous, method).await)?;
    let text = "unknown method DropEverything for service spire.api.server.entry.v1.Entry";
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, text)
    );
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn an_agent_or_a_workload_administers_nothing() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    let entry_id = site.entry_of(&agent, "/web").await?;
    let channel = agent.connect(&site.node().api).await?;
    let watch = site.watch().await?;

    let own: Vec<&str> = OPEN.iter().chain(&AGENTS).copied().collect();
    let count = every_method_denied(&channel, &own).await?;
    ensure!(count >= 42, "only {count} methods were tried");
    watch
        .unchanged("an agent's calls of an administrator's methods")
        .await?;

    // An SVID of this very trust domain, but a workload's.
    let svid = agent
        .sign(channel, &[entry_id])
        .await?
        .pop()
        .context("no result")?;
    let svid = svid.map_err(|status| anyhow::anyhow!("{status:?}"))?;
    let identity = ClientIdentity {
        chain: svid.chain,
        key: svid.key,
    };
    let workload = connect(&site.node().api, &site.trust()?, Some(&identity), None).await?;
    every_method_denied(&workload, &own).await?;
    every_agent_method_denied(&workload, Reason::AgentNotAttested).await?;
    watch.unchanged_for_administrators().await
}

/// Bans or evicts by the command line.
fn take_away(site: &Site, verb: &str, agent: &Agent) -> anyhow::Result<()> {
    let output = site
        .cluster
        .cli(site.node(), &["agent", verb, "-spiffeID", &agent.svid.id])?;
    ensure!(output.status.success(), "agent {verb}: {}", text(&output));
    Ok(())
}

#[tokio::test]
async fn banned_and_evicted_agents_are_told_why_in_the_typed_detail() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let (banned, evicted) = (site.agent().await?, site.agent().await?);
    let api = &site.node().api;
    let (open_banned, open_evicted) = (banned.connect(api).await?, evicted.connect(api).await?);
    banned.post_status(open_banned.clone()).await?;
    evicted.post_status(open_evicted.clone()).await?;

    take_away(&site, "ban", &banned)?;
    take_away(&site, "evict", &evicted)?;
    let watch = site.watch().await?;
    // On connections from before, and on new ones.
    for channel in [open_banned, banned.connect(api).await?] {
        every_agent_method_denied(&channel, Reason::AgentBanned).await?;
    }
    for channel in [open_evicted, evicted.connect(api).await?] {
        every_agent_method_denied(&channel, Reason::AgentNotAttested).await?;
    }
    watch
        .unchanged("calls of banned and evicted agents")
        .await?;

    // A new token for the same agent does not lift the ban. No typed detail here: the
    // agent has no identity to drop.
    let token = banned
        .path()
        .rsplit('/')
        .next()
        .context("an agent without a path")?;
    let request = CreateJoinTokenRequest {
        ttl: 60,
        token: token.into(),
        agent_id: None,
    };
    AgentClient::new(site.admin().await?)
        .create_join_token(request)
        .await?;
    let status = refusal(
        "a banned agent",
        attest_call(site.anonymous().await?, token, key_and_csr()?.1).await,
    )?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "failed to attest: agent is banned")
    );
    assert_eq!(reason(&status)?, None);
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn an_svid_is_over_once_its_successor_was_used() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    let api = &site.node().api;
    let old = agent.connect(api).await?;
    let renewed = agent.renew(old.clone()).await?;
    agent
        .post_status(old.clone())
        .await
        .context("the old SVID before the new one was used")?;
    let new = renewed.connect(api).await?;
    renewed.post_status(new.clone()).await?;
    let method = AGENTS[0];
    // The new one is activated behind its first call's back.
    let status = eventually(
        "the end of the old SVID",
        Duration::from_secs(10),
        || async { Ok(agent.post_status(old.clone()).await.err()) },
    )
    .await?;
    denied(method, &status, Some(Reason::AgentNotActive))?;
    let watch = site.watch().await?;
    for channel in [old, agent.connect(api).await?] {
        every_agent_method_denied(&channel, Reason::AgentNotActive).await?;
    }
    renewed.post_status(new).await.context("the new SVID")?;
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn every_method_is_there_and_answers_an_empty_request_cleanly() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    site.entry_of(&agent, "/web").await?;
    let admin = site.admin().await?;
    let watch = site.watch().await?;

    for method in METHODS
        .iter()
        .filter(|m| !OPEN.contains(m) && !m.ends_with("/Watch"))
    {
        let answer = call(&admin, method).await;
        if !is_of(method, &ON_THE_NETWORK) && !is_of(method, &ON_THE_SOCKET) {
            no_such_service(method, &refusal(method, answer)?)?;
            continue;
        }
        // An empty request to a method that is there may well be good.
        let Err(status) = answer else { continue };
        match status.code() {
            // What SPIRE does not have either is said in its words.
            Code::Unimplemented
                if [
                    "WIT functionality is disabled",
                    "WIT-SVID functionality is not yet implemented",
                    "method List not implemented",
                ]
                .contains(&status.message()) => {}
            Code::FailedPrecondition
                if [
                    "upstream authority is not configured",
                    "there is no other voter",
                    "this node keeps no keys in a PKCS#11 token",
                ]
                .contains(&status.message()) => {}
            // Not for administrators, or not on this socket.
            Code::PermissionDenied => denied(method, &status, None)?,
            // An empty request is not what it wants.
            Code::InvalidArgument | Code::NotFound => {}
            code => anyhow::bail!("{method}: {code:?} {}", status.message()),
        }
    }
    // To an agent an empty batch is no batch, of WIT-SVIDs as well.
    let method = "/spire.api.server.svid.v1.SVID/BatchNewWITSVID";
    let status = refusal(
        method,
        call(&agent.connect(&site.node().api).await?, method).await,
    )?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "missing parameters")
    );
    watch.unchanged_for_administrators().await
}
