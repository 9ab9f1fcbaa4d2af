//! The token away in mode `intermediate`: what goes on, for how long, and what is said of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use chancery_api::spire::api::server::svid::v1::MintX509svidRequest;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_pkcs11_shim::{Control, Steering, module_path};
use chancery_tests::cluster::softhsm_module;
use tonic::Code;

use super::*;

/// A cluster behind the shim, and the hand on its token.
struct Scene {
    cluster: Cluster,
    steering: Steering,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn start(issuance: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let steering = Steering::new(directory.path())?;
        let softhsm = softhsm_module()?;
        let environment = steering.environment(&softhsm);
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (*name, value.to_str().unwrap_or_default()))
            .collect();
        let shim: PathBuf = module_path().context("the shim is not built")?;
        let extra = format!("\n[issuance]\nmode = \"intermediate\"\n{issuance}");
        let cluster = Cluster::start(&Options {
            env: &environment,
            extra: &extra,
            module: Some(&shim),
            ..Options::default()
        })?;
        Ok(Self {
            cluster,
            steering,
            _directory: directory,
        })
    }

    fn token_is_away(&self, away: bool) -> anyhow::Result<()> {
        Ok(self.steering.set(&Control {
            token_absent: away,
            ..Control::default()
        })?)
    }
}

/// `/ready` of a node: the status code.
async fn ready(node: &Node) -> anyhow::Result<u16> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(&node.health).await?;
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).context("a status line")?;
    Ok(code.parse()?)
}

/// An X.509-SVID by an administrator's word.
async fn mint(node: &Node) -> anyhow::Result<Result<Svid, tonic::Status>> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    let id = format!("spiffe://example.org{WORKLOAD}");
    params.subject_alt_names = vec![rcgen::SanType::URI(id.as_str().try_into()?)];
    let csr = params.serialize_request(&key)?.der().to_vec();
    let mut client = SvidClient::new(connect_admin(&node.admin_socket).await?);
    let minted = client.mint_x509svid(MintX509svidRequest { csr, ttl: 0 });
    let svid = match minted.await {
        Ok(answer) => answer.into_inner().svid.context("an SVID")?,
        Err(status) => return Ok(Err(status)),
    };
    Ok(Ok(Svid {
        id,
        chain: svid.cert_chain,
        key: key.serialize_der(),
        expires_at: svid.expires_at,
    }))
}

async fn jwt(agent: &Agent, node: &Node, entry: &str) -> anyhow::Result<Result<(), tonic::Status>> {
    let channel = agent.connect(&node.api).await?;
    Ok(agent.jwt(channel, entry, "someone").await.map(drop))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x509_svids_go_on_at_every_node_while_the_token_is_away() -> anyhow::Result<()> {
    let scene = Scene::start("")?;
    let cluster = &scene.cluster;
    let nodes = cluster.nodes();
    let (agent, entry) = agent_with_entry(cluster).await?;
    for node in nodes {
        ensure!(jwt(&agent, node, &entry).await?.is_ok());
    }

    scene.token_is_away(true)?;
    for node in nodes {
        eventually("the node notices", LIMIT, || async {
            let refused = jwt(&agent, node, &entry).await?.err();
            Ok(refused.map(|_| ()))
        })
        .await?;
    }
    let mut issued = 0;
    for _ in 0..count(10, 100) {
        for node in nodes {
            connect(&node.api, &agent.trust, None, None).await?;
            let svid = issue(&agent, node, &entry).await?;
            ensure!(svid.chain.len() == 2);
            issued += 1;
            let refused = jwt(&agent, node, &entry).await?.err();
            let refused = refused.context("a JWT-SVID without the token")?;
            ensure!(refused.code() == Code::Unavailable, "{refused:?}");
            let reason = refused.message();
            ensure!(
                reason.contains("the signing key cannot be used on this node now"),
                "{reason}"
            );
        }
    }
    // Agents renew, too.
    let renewed = agent.renew(agent.connect(&nodes[1].api).await?).await?;
    verify(&renewed.svid, &renewed.trust)?;
    for node in nodes {
        ensure!(ready(node).await? == 200, "node {} is not ready", node.id);
        let status = cluster.status(node)?;
        ensure!(status["ready"] == true, "{status}");
        for member in status["members"].as_array().context("members")? {
            let shortfall = member["shortfall"].as_str().unwrap_or_default();
            ensure!(shortfall.contains("JWT-SVIDs"), "{member}");
        }
        let parts = status["outage_parts"].as_array().context("parts")?;
        ensure!(parts[0]["part"] == "freshness", "{status}");
        let left = parts.iter().find(|p| p["part"] == "intermediate");
        let left = left.and_then(|p| p["seconds"].as_i64()).context("a part")?;
        ensure!(left > 23 * 3_600 && left <= 24 * 3_600, "{left}");
        ensure!(status["outage_budget_seconds"] == parts[0]["seconds"]);
        let page = cluster.cli(node, &["cluster", "status"])?;
        ensure!(
            text(&page).contains(" without the token"),
            "{}",
            text(&page)
        );
    }

    scene.token_is_away(false)?;
    for node in nodes {
        eventually("JWT-SVIDs are signed again", LIMIT, || async {
            Ok(jwt(&agent, node, &entry).await?.ok())
        })
        .await?;
        issue(&agent, node, &entry).await?;
    }
    println!("{issued} X.509-SVIDs without the token, 0 failed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x509_svids_end_with_the_intermediate_and_come_back_with_the_token() -> anyhow::Result<()> {
    let scene = Scene::start("intermediate_ttl = \"10s\"\nca_ttl = \"1h\"\n")?;
    let cluster = &scene.cluster;
    let node = &cluster.nodes()[0];
    let trust = cluster.trust()?;
    // Several lives of an intermediate, and no document outlives the one that signed it.
    let mut seen = BTreeSet::new();
    let deadline = Instant::now() + LIMIT;
    while seen.len() < 3 {
        ensure!(Instant::now() < deadline, "{} intermediates", seen.len());
        let svid = mint(node).await??;
        verify(&svid, &trust)?;
        let above = svid.chain.get(1).context("an intermediate")?;
        let (_, parsed) = X509Certificate::from_der(above)?;
        ensure!(svid.expires_at <= parsed.validity.not_after.timestamp());
        seen.insert(above.clone());
    }

    scene.token_is_away(true)?;
    eventually("the intermediate has ended", LIMIT, || async {
        Ok((ready(node).await? == 500).then_some(()))
    })
    .await?;
    let status = cluster.status(node)?;
    let why = status["members"].to_string();
    ensure!(why.contains("it holds no intermediate"), "{why}");
    ensure!(status["outage_budget_seconds"] == 0, "{status}");
    let refused = mint(node).await?.err().context("an SVID without any key")?;
    ensure!(refused.code() == Code::Unavailable, "{refused:?}");
    ensure!(
        refused.message().contains("holds no intermediate"),
        "{refused:?}"
    );

    scene.token_is_away(false)?;
    let back = eventually("it signs again", LIMIT, || async {
        Ok(mint(node).await?.ok())
    })
    .await?;
    verify(&back, &trust)?;
    eventually("it is ready", LIMIT, || async {
        Ok((ready(node).await? == 200).then_some(()))
    })
    .await?;
    Ok(())
}
