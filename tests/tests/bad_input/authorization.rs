//! The reviewed table of who may call what, held against a real node: every method by
//! every kind of caller that can be made here, and what those who may call reach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1 as agent_api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::svid::v1 as svid_api;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::types::permission_denied_details::Reason;
use chancery_tests::agent::{Agent, attest_call};
use chancery_tests::cluster::{eventually, root};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::running::Running;
use crate::site::{call, reason};

/// What is answered at all is answered by then.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// A stream that stays open is none of that.
const STREAM_LIMIT: Duration = Duration::from_secs(1);
const UNLIMITED: &str = "[ratelimit]\nattestation = false\n";

/// `node/src/authz/golden.txt`: the cells of each method by the names of the columns.
fn golden() -> anyhow::Result<BTreeMap<String, BTreeMap<String, String>>> {
    let text = std::fs::read_to_string(root().join("node/src/authz/golden.txt"))?;
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let words =
        |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    let columns = words(lines.next().context("no header")?);
    let mut table = BTreeMap::new();
    for line in lines {
        let cells = words(line);
        ensure!(cells.len() == columns.len(), "{line}");
        let method = cells[0].clone();
        table.insert(method, columns.iter().cloned().zip(cells).skip(1).collect());
    }
    ensure!(table.len() > 60, "only {} methods", table.len());
    Ok(table)
}

/// Holds the answer to `method` against a cell of the table.
fn judge(method: &str, caller: &str, cell: &str, answer: Option<Status>) -> anyhow::Result<()> {
    let what = || format!("{method} by {caller}: the table says {cell}, the answer is {answer:?}");
    let denied = format!("authorization denied for method {method}");
    let is_denied = answer.as_ref().is_some_and(|s| s.message() == denied);
    let is_unknown = answer
        .as_ref()
        .is_some_and(|s| s.message().starts_with("unknown service "));
    // What newer state could change was checked against it before it was said.
    let cell = cell.trim_end_matches('?');
    if !cell.starts_with(|c: char| c == '-' || c.is_ascii_uppercase()) {
        ensure!(!is_denied && !is_unknown, what());
        return Ok(());
    }
    let status = answer.as_ref().with_context(what)?;
    if is_unknown {
        // A service that is not on the network at all: as SPIRE's is not.
        ensure!(cell == "-" && status.code() == Code::Unimplemented, what());
        return Ok(());
    }
    ensure!(is_denied && status.code() == Code::PermissionDenied, what());
    let wanted = match cell {
        "-" => None,
        "EXPIRED" => Some(Reason::AgentExpired),
        "NOTATTEST" => Some(Reason::AgentNotAttested),
        "NOTACTIVE" => Some(Reason::AgentNotActive),
        "BANNED" => Some(Reason::AgentBanned),
        _ => anyhow::bail!("what is {cell}?"),
    };
    ensure!(reason(status)? == wanted, what());
    Ok(())
}

/// Calls every method of the table as `caller`.
async fn every_method(channel: &Channel, caller: &str) -> anyhow::Result<()> {
    for (method, cells) in golden()? {
        let cell = cells
            .get(caller)
            .with_context(|| format!("no column {caller}"))?;
        let limit = match method.ends_with("/Watch") {
            true => STREAM_LIMIT,
            false => ANSWER_LIMIT,
        };
        let answer = tokio::time::timeout(limit, call(channel, &method)).await;
        judge(&method, caller, cell, answer.ok().and_then(Result::err))?;
    }
    Ok(())
}

/// Renews and uses what came of it; what is left is the old SVID.
async fn superseded(node: &Running) -> anyhow::Result<Agent> {
    let old = node.agent().await?;
    let channel = old.connect(&node.api()).await?;
    let new = old.renew(channel.clone()).await?;
    new.post_status(new.connect(&node.api()).await?).await?;
    let over = || async { Ok(old.post_status(channel.clone()).await.err()) };
    eventually("the end of the old SVID", Duration::from_secs(10), over).await?;
    Ok(old)
}

#[tokio::test]
async fn every_method_by_every_kind_of_caller_is_answered_as_reviewed() -> anyhow::Result<()> {
    let top = "admin_ids = [\"spiffe://example.org/boss\"]";
    let node = Running::start(top, "", UNLIMITED).await?;
    let api = node.api();
    let (agent, other) = (node.agent().await?, node.agent().await?);
    let renewing = node.agent().await?;
    let pending = renewing.renew(renewing.connect(&api).await?).await?;
    let (banned, evicted) = (node.agent().await?, node.agent().await?);
    let id = |agent: &Agent| chancery_api::spire::api::types::Spiffeid {
        trust_domain: "example.org".into(),
        path: agent.path().into(),
    };
    let mut agents = AgentClient::new(node.admin().await?);
    let ban = agent_api::BanAgentRequest {
        id: Some(id(&banned)),
    };
    agents.ban_agent(ban).await?;
    let evict = agent_api::DeleteAgentRequest {
        id: Some(id(&evicted)),
    };
    agents.delete_agent(evict).await?;

    let downstream = node
        .workload(&agent, "/server", |e| e.downstream = true)
        .await?;
    let operator = node
        .workload(&agent, "/operator", |e| e.admin = true)
        .await?;
    let boss = node.workload(&agent, "/boss", |_| {}).await?;
    let workload = node.workload(&agent, "/shop", |_| {}).await?;
    let agent_like = node.workload(&agent, "/agent/spire/shop", |_| {}).await?;
    let callers = [
        ("none", node.anonymous().await?),
        ("agent", agent.connect(&api).await?),
        ("other-agent", other.connect(&api).await?),
        ("pending", pending.connect(&api).await?),
        ("old-serial", superseded(&node).await?.connect(&api).await?),
        ("banned", banned.connect(&api).await?),
        ("evicted", evicted.connect(&api).await?),
        ("downstream", node.caller(&downstream).await?),
        ("workload", node.caller(&workload).await?),
        ("agent-like", node.caller(&agent_like).await?),
        // Those who may change something come last.
        ("adm-config", node.caller(&boss).await?),
        ("adm-entry", node.caller(&operator).await?),
        ("local", node.admin().await?),
    ];
    let mut seen = BTreeSet::from(["expired", "adm-expired"]);
    for (caller, channel) in callers {
        every_method(&channel, caller).await?;
        seen.insert(caller);
    }
    // Nobody of another trust domain gets past the handshake without its bundle; the
    // tests of the agent port and of the table itself are about them.
    seen.extend(["foreign", "frn-agent", "frn-admin", "own", "other"]);
    for (_, cells) in golden()? {
        let columns: BTreeSet<&str> = cells.keys().map(String::as_str).collect();
        ensure!(columns == seen, "columns {columns:?}, callers {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_is_worth_no_more_than_its_svid_once_that_has_ended() -> anyhow::Result<()> {
    let top = "admin_ids = [\"spiffe://example.org/boss\"]";
    let short = format!("[issuance]\nagent_ttl = \"5s\"\n{UNLIMITED}");
    let node = Running::start(top, "", &short).await?;
    let agent = node.agent().await?;
    let boss = node
        .workload(&agent, "/boss", |e| e.x509_svid_ttl = 5)
        .await?;
    let (channel, admin) = (agent.connect(&node.api()).await?, node.caller(&boss).await?);
    agent.post_status(channel.clone()).await?;
    let method = "/spire.api.server.entry.v1.Entry/CountEntries";
    call(&admin, method).await?;
    let over = || async {
        let both = (
            agent.post_status(channel.clone()).await,
            call(&admin, method).await,
        );
        Ok((both.0.is_err() && both.1.is_err()).then_some(()))
    };
    eventually("the end of both SVIDs", Duration::from_secs(30), over).await?;
    every_method(&channel, "expired").await?;
    every_method(&admin, "adm-expired").await
}

/// A CSR that asks for somebody else's name.
fn csr_in_the_name_of(id: &str) -> anyhow::Result<Vec<u8>> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into()?)];
    Ok(params.serialize_request(&key)?.der().to_vec())
}

fn has_missed(status: &Status) -> bool {
    status.code() == Code::Unimplemented
}

#[tokio::test]
async fn who_may_call_reaches_its_own_things_and_nobody_elses() -> anyhow::Result<()> {
    const AGENT: &str = "/spire.api.server.agent.v1.Agent";
    const ENTRY: &str = "/spire.api.server.entry.v1.Entry";
    const SVID: &str = "/spire.api.server.svid.v1.SVID";
    let node = Running::start("", "", UNLIMITED).await?;
    let (agent, other) = (node.agent().await?, node.agent().await?);
    let own = node.entry(&agent, "/own", |_| {}).await?;
    let theirs = node.entry(&other, "/theirs", |_| {}).await?;
    let channel = agent.connect(&node.api()).await?;
    let mut tried = BTreeSet::new();
    let mut is = |method: String| tried.insert(method);

    // proved: the token's agent, whatever name the CSR asks for.
    let csr = csr_in_the_name_of(&other.svid.id)?;
    let token = node.token().await?;
    let svid = attest_call(node.anonymous().await?, &token, csr.clone()).await?;
    let path = svid.id.context("no ID")?.path;
    assert_eq!(path, format!("/spire/agent/join_token/{token}"));
    is(format!("{AGENT}/AttestAgent"));

    // self: the caller, whatever name the CSR asks for.
    let mut agents = AgentClient::new(channel.clone());
    let params = Some(agent_api::AgentX509svidParams { csr: csr.clone() });
    let renewed = agents
        .renew_agent(agent_api::RenewAgentRequest { params })
        .await?;
    let svid = renewed.into_inner().svid.context("no SVID")?;
    assert_eq!(svid.id.context("no ID")?.path, agent.path());
    other.post_status(other.connect(&node.api()).await?).await?;
    is(format!("{AGENT}/RenewAgent"));
    let status = agent_api::PostStatusRequest {
        agent_version: "mine".into(),
        ..Default::default()
    };
    agents.post_status(status).await?;
    let told = || async {
        let mut admin = AgentClient::new(node.admin().await?);
        let list = admin
            .list_agents(agent_api::ListAgentsRequest::default())
            .await?;
        let version = |of: &Agent| {
            let mut agents = list.get_ref().agents.iter();
            let found = agents.find(|a| a.id.as_ref().is_some_and(|id| id.path == of.path()));
            found.map(|a| a.agent_version.clone()).unwrap_or_default()
        };
        ensure!(version(&other) != "mine", "another agent's version changed");
        Ok((version(&agent) == "mine").then_some(()))
    };
    eventually("the agent's version", Duration::from_secs(30), told).await?;
    is(format!("{AGENT}/PostStatus"));
    let mut entries = EntryClient::new(channel.clone());
    let request = GetAuthorizedEntriesRequest::default();
    let got = entries.get_authorized_entries(request).await?.into_inner();
    let ids: Vec<&String> = got.entries.iter().map(|e| &e.id).collect();
    assert_eq!(ids, [&own]);
    is(format!("{ENTRY}/GetAuthorizedEntries"));
    let synced = agent.sync(channel.clone()).await?;
    let ids: Vec<&String> = synced.iter().map(|e| &e.id).collect();
    assert_eq!(ids, [&own]);
    is(format!("{ENTRY}/SyncAuthorizedEntries"));
    // A downstream server has no name to ask for: the request has none, and of the CSR
    // only the key is used.
    let server = node
        .workload(&agent, "/server", |e| e.downstream = true)
        .await?;
    let request = svid_api::NewDownstreamX509caRequest {
        csr: csr.clone(),
        ..Default::default()
    };
    let mut child = SvidClient::new(node.caller(&server).await?);
    match child.new_downstream_x509ca(request).await {
        Ok(signed) => {
            let chain = signed.into_inner().ca_cert_chain;
            let (ours, others) = (b"spiffe://example.org", other.svid.id.as_bytes());
            let leaf = chain.first().context("an empty chain")?;
            let has = |text: &[u8]| leaf.windows(text.len()).any(|w| w == text);
            ensure!(has(ours) && !has(others), "the CSR's name was taken over");
        }
        Err(status) => ensure!(
            has_missed(&status) || status.code() == Code::InvalidArgument,
            "{status:?}"
        ),
    }
    is(format!("{SVID}/NewDownstreamX509CA"));

    // entry: what hangs below the caller, and the rest is not there.
    let signed = agent
        .sign(channel.clone(), &[own.clone(), theirs.clone()])
        .await?;
    ensure!(signed[0].is_ok(), "its own entry was refused");
    let refused = signed[1]
        .as_ref()
        .err()
        .context("another's entry was signed")?;
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (5, "entry not found or not authorized")
    );
    is(format!("{SVID}/BatchNewX509SVID"));
    agent.jwt(channel.clone(), &own, "x").await?;
    let refused = agent.jwt(channel.clone(), &theirs, "x").await;
    let refused = refused.err().context("another's JWT-SVID was signed")?;
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "entry not found or not authorized")
    );
    is(format!("{SVID}/NewJWTSVID"));
    let params = vec![svid_api::NewWitsvidParams {
        entry_id: theirs,
        ..Default::default()
    }];
    let request = svid_api::BatchNewWitsvidRequest { params };
    match SvidClient::new(channel).batch_new_witsvid(request).await {
        Err(status) => ensure!(has_missed(&status), "{status:?}"),
        Ok(signed) => ensure!(
            signed.get_ref().results.iter().all(|r| r.svid.is_none()),
            "another's WIT-SVID was signed"
        ),
    }
    is(format!("{SVID}/BatchNewWITSVID"));

    let wanted: BTreeSet<String> = golden()?
        .into_iter()
        .filter(|(_, cells)| ["self", "entry", "proved"].contains(&cells["own"].as_str()))
        .map(|(method, _)| method)
        .collect();
    ensure!(tried == wanted, "tried {tried:?}, the table has {wanted:?}");
    Ok(())
}
