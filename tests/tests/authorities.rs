//! Authorities rotated by hand and by themselves on clusters of real processes, keys in SoftHSM.

#[path = "authorities/restarts.rs"]
mod restarts;
#[path = "authorities/rotation.rs"]
mod rotation;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::bundle::v1::GetBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::localauthority::v1 as api;
use chancery_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use chancery_api::spire::api::types;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, count};
use chancery_tests::documents;
use chancery_tests::tls::{Trust, connect, connect_admin};
use tonic::transport::Channel;
use tonic::{Code, Status};

const KINDS: [&str; 2] = ["x509", "jwt"];
const STOP: i32 = 19;
const CONTINUE: i32 = 18;

async fn client(node: &Node) -> anyhow::Result<LocalAuthorityClient<Channel>> {
    Ok(LocalAuthorityClient::new(
        connect_admin(&node.admin_socket).await?,
    ))
}

async fn bundle(node: &Node) -> anyhow::Result<types::Bundle> {
    documents::bundle(&node.admin_socket).await
}

/// Ids of the active, the prepared and the old X.509 authority.
async fn show(node: &Node) -> anyhow::Result<[Option<String>; 3]> {
    let request = api::GetX509AuthorityStateRequest {};
    let state = client(node)
        .await?
        .get_x509_authority_state(request)
        .await?
        .into_inner();
    Ok([state.active, state.prepared, state.old].map(|s| s.map(|s| s.authority_id)))
}

async fn prepare(node: &Node) -> anyhow::Result<String> {
    let answer = client(node)
        .await?
        .prepare_x509_authority(api::PrepareX509AuthorityRequest {})
        .await?;
    let state = answer.into_inner().prepared_authority.context("a state")?;
    ensure!(state.expires_at > 0, "no expiry: {state:?}");
    Ok(state.authority_id)
}

async fn activate(node: &Node, id: &str) -> anyhow::Result<Result<(), Status>> {
    let request = api::ActivateX509AuthorityRequest {
        authority_id: id.into(),
    };
    Ok(client(node)
        .await?
        .activate_x509_authority(request)
        .await
        .map(drop))
}

async fn taint(node: &Node, id: &str) -> anyhow::Result<Result<(), Status>> {
    let request = api::TaintX509AuthorityRequest {
        authority_id: id.into(),
    };
    Ok(client(node)
        .await?
        .taint_x509_authority(request)
        .await
        .map(drop))
}

async fn revoke(node: &Node, id: &str) -> anyhow::Result<Result<(), Status>> {
    let request = api::RevokeX509AuthorityRequest {
        authority_id: id.into(),
    };
    Ok(client(node)
        .await?
        .revoke_x509_authority(request)
        .await
        .map(drop))
}

/// Connects to the nodes in turn all the time, and learns the bundle as a stock agent does:
/// every five seconds and over a connection that it trusts. A server that shows an SVID of a
/// root it has not learned yet would end it.
struct Learner {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<anyhow::Result<usize>>,
}

impl Learner {
    fn start(mut trust: Trust, addresses: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut learned = Instant::now();
            let mut connections = 0;
            while !stopped.load(Ordering::Relaxed) {
                let address = &addresses[connections % addresses.len()];
                let channel = connect(address, &trust, None, None)
                    .await
                    .with_context(|| format!("connection {connections} to {address}"))?;
                connections += 1;
                if learned.elapsed() >= Duration::from_secs(5) {
                    let request = GetBundleRequest { output_mask: None };
                    let bundle = BundleClient::new(channel).get_bundle(request).await?;
                    trust.roots = bundle
                        .into_inner()
                        .x509_authorities
                        .into_iter()
                        .map(|a| a.asn1)
                        .collect();
                    learned = Instant::now();
                }
            }
            Ok(connections)
        });
        Self { stop, task }
    }

    async fn end(self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

fn expect(answer: Result<(), Status>, code: Code, text: &str) -> anyhow::Result<()> {
    let status = answer.err().context("it was not refused")?;
    ensure!(
        status.code() == code && status.message() == text,
        "{status:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_four_steps_of_a_rotation_follow_each_other_at_once_through_any_node()
-> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    let token = cluster.token(&nodes[0]).await?;
    let agent = Agent::attest(&nodes[0].api, &cluster.trust()?, &token, None).await?;
    let entry = cluster.entry(agent.path(), "/rotated");
    cluster.create(&nodes[1], vec![entry]).await?;
    let addresses: Vec<String> = nodes.iter().map(|n| n.api.clone()).collect();
    let learner = Learner::start(cluster.trust()?, addresses);

    // A connection that outlives the authority which vouched for its caller.
    let open = agent.connect(&nodes[1].api).await?;
    agent.sync(open.clone()).await?;

    let mut active = show(&nodes[0]).await?[0].clone().context("an authority")?;
    let first = active.clone();
    let rounds = count(2, 20);
    let mut worst = Duration::ZERO;
    for round in 0..rounds {
        let node = |step: usize| &nodes[(round + step) % nodes.len()];
        let begun = Instant::now();
        let next = prepare(node(0)).await?;
        ensure!(
            show(node(1)).await? == [Some(active.clone()), Some(next.clone()), None],
            "what one node prepared is not what another shows"
        );
        activate(node(1), &next).await??;
        ensure!(
            show(node(2)).await? == [Some(next.clone()), None, Some(active.clone())],
            "what one node activated is not what another shows"
        );
        expect(
            revoke(node(2), &active).await?,
            Code::Internal,
            "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA",
        )?;
        taint(node(2), &active).await??;
        let told = bundle(node(0)).await?;
        ensure!(
            told.x509_authorities.iter().filter(|a| a.tainted).count() == 1,
            "the tainted root is not marked"
        );
        revoke(node(0), &active).await??;
        worst = worst.max(begun.elapsed());
        active = next;
        if round == 0 {
            // An agent keeps what it is: over the connection that it has it can renew.
            agent.renew(open.clone()).await?;
            // Nobody comes anew with what the revoked authority vouched for.
            ensure!(
                agent.round(&nodes[1].api).await.is_err(),
                "a new connection of a revoked authority was let in"
            );
        }
        for node in &nodes {
            let roots = bundle(node).await?.x509_authorities.len();
            ensure!(roots == 1, "node {} has {roots} roots", node.id);
        }
    }
    println!(
        "rotations by hand: {rounds}, worst {worst:?}; connections that met an unknown root: 0 of {}",
        learner.end().await?
    );

    // Another agent, with the bundle of today, is served by every node.
    let roots = bundle(&nodes[0]).await?.x509_authorities;
    let trust = Trust {
        roots: roots.into_iter().map(|a| a.asn1).collect(),
        ..cluster.trust()?
    };
    let token = cluster.token(&nodes[1]).await?;
    // The limiter admits one attestation a second from an address.
    let source = Some("127.9.9.9".parse()?);
    let agent = Agent::attest(&nodes[1].api, &trust, &token, source).await?;
    let entry = cluster.entry(agent.path(), "/after");
    cluster.create(&nodes[2], vec![entry]).await?;
    for node in &nodes {
        ensure!(!agent.round(&node.api).await?.is_empty(), "nothing signed");
    }

    expect(
        taint(&nodes[1], &active).await?,
        Code::InvalidArgument,
        "unable to taint current local authority",
    )?;
    expect(
        activate(&nodes[1], &first).await?,
        Code::InvalidArgument,
        "unexpected authority ID",
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_authority_signs_before_every_member_seen_lately_can() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    let leader = cluster.leader(&nodes[0]).await?;
    let away = nodes
        .iter()
        .find(|n| n.id != leader)
        .context("a follower")?;
    let here = nodes
        .iter()
        .find(|n| n.id != leader && n.id != away.id)
        .context("another one")?;
    cluster.signal(&away.id, STOP)?;
    // Whatever happens, it must be able to end.
    let outcome = async {
        let next = prepare(here).await?;
        let begun = Instant::now();
        expect(
            activate(here, &next).await?,
            Code::FailedPrecondition,
            &format!(
                "failed to activate X.509 authority: node {} has not signed with its key yet",
                away.id
            ),
        )?;
        ensure!(
            begun.elapsed() < Duration::from_secs(100),
            "it took {:?}",
            begun.elapsed()
        );
        anyhow::Ok(next)
    }
    .await;
    cluster.signal(&away.id, CONTINUE)?;
    let next = outcome?;
    activate(here, &next).await??;
    ensure!(
        show(away).await?[0].as_ref() == Some(&next),
        "the node that was away does not know"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jwt_keys_rotate_by_hand_too() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let nodes = cluster.nodes().to_vec();
    let token = cluster.token(&nodes[0]).await?;
    let agent = Agent::attest(&nodes[0].api, &cluster.trust()?, &token, None).await?;
    let entry = cluster.entry(agent.path(), "/jwt");
    let created = cluster.create(&nodes[1], vec![entry]).await?;
    let entry_id = created[0].1.clone().context("an entry")?.id;
    let kid = |token: &str| -> anyhow::Result<String> {
        use base64::Engine as _;
        let header = token.split('.').next().unwrap_or_default();
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header)?;
        let header: serde_json::Value = serde_json::from_slice(&header)?;
        Ok(header["kid"].as_str().context("a kid")?.to_owned())
    };

    let state = client(&nodes[0])
        .await?
        .get_jwt_authority_state(api::GetJwtAuthorityStateRequest {})
        .await?
        .into_inner();
    let active = state.active.context("an authority")?.authority_id;
    let prepared = client(&nodes[1])
        .await?
        .prepare_jwt_authority(api::PrepareJwtAuthorityRequest {})
        .await?
        .into_inner()
        .prepared_authority
        .context("a state")?
        .authority_id;
    // One that is prepared again takes its place.
    let next = client(&nodes[2])
        .await?
        .prepare_jwt_authority(api::PrepareJwtAuthorityRequest {})
        .await?
        .into_inner()
        .prepared_authority
        .context("a state")?
        .authority_id;
    let kids = |bundle: types::Bundle| {
        let mut kids: Vec<_> = bundle
            .jwt_authorities
            .into_iter()
            .map(|a| a.key_id)
            .collect();
        kids.sort();
        kids
    };
    let mut both = vec![active.clone(), next.clone()];
    both.sort();
    ensure!(kids(bundle(&nodes[0]).await?) == both);
    let superseded = client(&nodes[0])
        .await?
        .activate_jwt_authority(api::ActivateJwtAuthorityRequest {
            authority_id: prepared,
        })
        .await;
    expect(
        superseded.map(drop),
        Code::InvalidArgument,
        "unexpected authority ID",
    )?;
    client(&nodes[2])
        .await?
        .activate_jwt_authority(api::ActivateJwtAuthorityRequest {
            authority_id: next.clone(),
        })
        .await?;
    for node in &nodes {
        // Each has applied it before it answers an administrator.
        client(node)
            .await?
            .get_jwt_authority_state(api::GetJwtAuthorityStateRequest {})
            .await?;
        let channel = agent.connect(&node.api).await?;
        let token = agent.jwt(channel, &entry_id, "someone").await?;
        ensure!(kid(&token)? == next, "node {} signs with another", node.id);
    }
    let tainted = client(&nodes[0])
        .await?
        .taint_jwt_authority(api::TaintJwtAuthorityRequest {
            authority_id: active.clone(),
        })
        .await?
        .into_inner()
        .tainted_authority
        .context("a state")?;
    ensure!(tainted.expires_at == 0, "{tainted:?}");
    client(&nodes[1])
        .await?
        .revoke_jwt_authority(api::RevokeJwtAuthorityRequest {
            authority_id: active,
        })
        .await?;
    for node in &nodes {
        ensure!(kids(bundle(node).await?) == [next.as_str()]);
    }
    Ok(())
}
