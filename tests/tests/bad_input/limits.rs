//! Who asks too often, from where, and who says so.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1 as agent_api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::bundle::v1::PublishJwtAuthorityRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::svid::v1 as svid_api;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_tests::agent::attest_call;
use chancery_tests::cluster::eventually;
use chancery_tests::tls::{connect, connect_behind};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::running::Running;
use crate::site::refusal;

const PROXY: &str = "proxy_protocol_trusted_cidrs = [\"127.0.0.8/30\"]";

fn loopback(last: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(127, 0, 0, last).into())
}

/// An attestation without a token, inside `deadline`: it is refused for that, or before.
async fn attest(channel: Channel, deadline: Duration) -> Status {
    let mut request = Request::new(tokio_stream::iter([
        agent_api::AttestAgentRequest::default(),
    ]));
    request.set_timeout(deadline);
    let answer = AgentClient::new(channel).attest_agent(request).await;
    answer.err().unwrap_or_else(|| Status::ok("attested"))
}

const MALFORMED: &str = "malformed param: missing params";
const TOO_LATE: &str = "rejecting request due to attest agent rate limiting: \
                        rate: Wait(n=1) would exceed context deadline";

#[tokio::test]
async fn one_address_attests_once_a_second_and_the_next_one_is_not_in_its_way() -> anyhow::Result<()>
{
    let node = Running::start("", "", "").await?;
    let api = node.api();
    let from = |source| connect(&api, &node.trust, None, source);
    let (patient, hasty) = (Duration::from_secs(30), Duration::from_millis(200));
    let channel = from(loopback(2)).await?;
    let first = attest(channel.clone(), patient).await;
    assert_eq!(first.message(), MALFORMED);
    // The next turn is a second later: after this call's deadline, which is told at once.
    let watch = Instant::now();
    let second = attest(channel.clone(), hasty).await;
    assert_eq!(
        (second.code(), second.message()),
        (Code::ResourceExhausted, TOO_LATE)
    );
    ensure!(watch.elapsed() < hasty, "it waited {:?}", watch.elapsed());
    let other = attest(from(loopback(3)).await?, hasty).await;
    assert_eq!(other.message(), MALFORMED, "another address");
    // On a new connection from the first: it waits, and gets its turn.
    let waited = attest(from(loopback(2)).await?, patient).await;
    assert_eq!(waited.message(), MALFORMED);
    ensure!(
        watch.elapsed() > Duration::from_millis(500),
        "it had its turn after {:?}",
        watch.elapsed()
    );
    // Administrators of this machine are not held up.
    for _ in 0..3 {
        let status = attest(node.admin().await?, hasty).await;
        assert_eq!(status.message(), MALFORMED);
    }
    Ok(())
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_turn() -> anyhow::Result<()> {
    const ONE: &[u8] = b"PROXY TCP4 198.51.100.1 192.0.2.1 1024 8081\r\n";
    // The same client by version 2.
    const ONE_V2: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x01\xc0\0\x02\x01\x04\0\x1f\x91";
    const TWO: &[u8] = b"PROXY TCP4 198.51.100.2 192.0.2.1 1024 8081\r\n";
    let node = Running::start("", PROXY, "").await?;
    let hasty = Duration::from_millis(200);
    let api = node.api();
    let by = |source, header| connect_behind(&api, &node.trust, None, source, header);
    let (proxy, other_proxy, stranger) = (loopback(9), loopback(10), loopback(2));
    let answers = [
        (proxy, ONE, MALFORMED),
        (proxy, TWO, MALFORMED),
        (other_proxy, ONE_V2, TOO_LATE),
        // The proxy itself, without a header.
        (proxy, b"".as_slice(), MALFORMED),
    ];
    for (source, header, wanted) in answers {
        let status = attest(by(source, header).await?, hasty).await;
        assert_eq!(status.message(), wanted, "{}", header.escape_ascii());
    }
    // Who is no proxy does not get to say who it is, and can still come as itself.
    ensure!(by(stranger, ONE).await.is_err(), "a header was believed");
    let status = attest(by(stranger, b"").await?, hasty).await;
    assert_eq!(status.message(), MALFORMED);
    let metrics = node.metrics()?;
    let refused = "chancery_connections_refused_total{port=\"agent\",reason=\"proxy\"}";
    ensure!(metrics.contains(refused), "{metrics}");
    Ok(())
}

/// Fails if `answer` came without the method asking for its limit. A method that the
/// server does not have has nothing to ask for.
fn asked<T>(node: &Running, method: &str, answer: Result<T, Status>) -> anyhow::Result<()> {
    if answer.is_err_and(|status| status.code() == Code::Unimplemented) {
        return Ok(());
    }
    let metrics = node.metrics()?;
    let wanted = format!("chancery_rate_limit_total{{method=\"{method}\"");
    ensure!(
        metrics.contains(&wanted),
        "{method} has not asked for its limit"
    );
    Ok(())
}

#[tokio::test]
async fn every_limited_method_asks_for_its_limit() -> anyhow::Result<()> {
    const AGENT: &str = "/spire.api.server.agent.v1.Agent";
    const BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle";
    const SVID: &str = "/spire.api.server.svid.v1.SVID";
    let node = Running::start("", "", "").await?;
    let agent = node.agent().await?;
    asked(&node, &format!("{AGENT}/AttestAgent"), Ok(()))?;
    let server = node
        .workload(&agent, "/server", |e| e.downstream = true)
        .await?;
    let (child, channel) = (
        node.caller(&server).await?,
        agent.connect(&node.api()).await?,
    );

    let renewed = agent.renew(channel.clone()).await;
    asked(&node, &format!("{AGENT}/RenewAgent"), renewed)?;
    let posted = agent.post_status(channel.clone()).await;
    asked(&node, &format!("{AGENT}/PostStatus"), posted)?;
    let signed = agent.sign(channel.clone(), &["x".to_owned()]).await;
    asked(&node, &format!("{SVID}/BatchNewX509SVID"), signed)?;
    let signed = agent.jwt(channel.clone(), "x", "y").await;
    asked(&node, &format!("{SVID}/NewJWTSVID"), signed)?;
    let params = vec![svid_api::NewWitsvidParams::default()];
    let request = svid_api::BatchNewWitsvidRequest { params };
    let signed = SvidClient::new(channel).batch_new_witsvid(request).await;
    asked(&node, &format!("{SVID}/BatchNewWITSVID"), signed)?;
    let request = svid_api::NewDownstreamX509caRequest::default();
    let signed = SvidClient::new(child.clone())
        .new_downstream_x509ca(request)
        .await;
    asked(&node, &format!("{SVID}/NewDownstreamX509CA"), signed)?;
    let request = PublishJwtAuthorityRequest::default();
    let published = BundleClient::new(child)
        .publish_jwt_authority(request)
        .await;
    asked(&node, &format!("{BUNDLE}/PublishJWTAuthority"), published)?;

    // Under SPIRE's names too, gauges from their next turn on; and what is not limited is
    // not told of.
    let told = || async {
        let metrics = node.metrics()?;
        for name in [
            "spire_server_rateLimit_agent_v1_agent_attest_agent{",
            "spire_server_rpc_svid_v1_svid_batch_new_x509svid{",
            "spire_server_rpc_agent_v1_agent_post_status_elapsed_time_count{",
            "spire_server_server_ca_sign_x509_svid{",
            "spire_server_started{",
            "spire_server_uptime_in_ms{",
            "spire_server_node_agents_by_id_cache_count{",
            "spire_server_manager_x509_ca_rotate_ttl{",
        ] {
            ensure!(metrics.contains(name), "{name} is missing in\n{metrics}");
        }
        Ok(Some(metrics))
    };
    let metrics = eventually("SPIRE's names", Duration::from_secs(20), told).await?;
    ensure!(
        !metrics.contains("rate_limit_total{method=\"/spire.api.server.entry."),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test]
async fn limits_and_names_that_are_switched_off_are_off() -> anyhow::Result<()> {
    let off = "[ratelimit]\nattestation = false\nsigning = false\n";
    let node = Running::start("", "", off).await?;
    for _ in 0..3 {
        let status = attest(node.anonymous().await?, Duration::from_millis(500)).await;
        assert_eq!(status.message(), MALFORMED);
    }
    let agent = node.agent().await?;
    let channel = agent.connect(&node.api()).await?;
    // More than a bucket holds: each item gets its own answer.
    let params = vec![svid_api::NewX509svidParams::default(); 501];
    let request = svid_api::BatchNewX509svidRequest { params };
    let mut client = SvidClient::new(channel.clone());
    let results = client
        .batch_new_x509svid(request)
        .await?
        .into_inner()
        .results;
    ensure!(results.len() == 501, "{} results", results.len());
    // PostStatus has no switch: forty at once take three seconds.
    let posts = (0..40).map(|_| {
        let channel = channel.clone();
        async move {
            let mut request = Request::new(agent_api::PostStatusRequest::default());
            request.set_timeout(Duration::from_millis(50));
            AgentClient::new(channel).post_status(request).await
        }
    });
    let posted = futures::future::join_all(posts).await;
    let refused = posted.into_iter().filter_map(Result::err).next();
    let refused = refused.context("all forty went through")?;
    ensure!(
        refused
            .message()
            .starts_with("rejecting request due to post status rate limiting: "),
        "{refused:?}"
    );
    // A first attestation without a token is still refused for what it is.
    let (_, csr) = chancery_tests::agent::key_and_csr()?;
    refusal(
        "a token",
        attest_call(node.anonymous().await?, "unknown", csr).await,
    )?;
    Ok(())
}
