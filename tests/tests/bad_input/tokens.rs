//! Join tokens that are spent, over, or none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use chancery_api::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest,
};
use chancery_api::spire::api::types::AttestationData;
use chancery_tests::agent::{attest_call, key_and_csr};
use chancery_tests::cluster::eventually;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::site::{Site, reason, refusal};

/// SPIRE's text, on which agents' operators search.
const SPENT: &str = "failed to attest: join token does not exist or has already been used";

async fn attest(site: &Site, token: &str) -> anyhow::Result<Result<(), Status>> {
    Ok(
        attest_call(site.anonymous().await?, token, key_and_csr()?.1)
            .await
            .map(drop),
    )
}

async fn refused_attestation(site: &Site, token: &str) -> anyhow::Result<(Code, String)> {
    let status = refusal(token, attest(site, token).await?)?;
    ensure!(
        reason(&status)?.is_none(),
        "a typed reason for an agent without an identity"
    );
    Ok((status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn a_replayed_token_attests_nobody_again() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let token = site.cluster.token(site.node()).await?;
    attest(&site, &token).await?.context("the first time")?;
    let watch = site.watch().await?;
    for _ in 0..3 {
        assert_eq!(
            refused_attestation(&site, &token).await?,
            (Code::InvalidArgument, SPENT.to_owned())
        );
        watch.unchanged("a replayed token").await?;
    }
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn an_expired_token_attests_nobody_and_is_gone_once_it_was_shown() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let request = CreateJoinTokenRequest {
        ttl: 1,
        ..Default::default()
    };
    let token = AgentClient::new(site.admin().await?)
        .create_join_token(request)
        .await?
        .into_inner();
    let watch = site.watch().await?;
    eventually("the token's end", Duration::from_secs(10), || async {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok((i64::try_from(now)? > token.expires_at).then_some(()))
    })
    .await?;
    let expired = (Code::InvalidArgument, "join token expired".to_owned());
    assert_eq!(refused_attestation(&site, &token.value).await?, expired);
    watch.unchanged("an expired token").await?;
    // Showing it has consumed it, as SPIRE does.
    assert_eq!(
        refused_attestation(&site, &token.value).await?,
        (Code::InvalidArgument, SPENT.to_owned())
    );
    watch.unchanged_for_administrators().await
}

async fn send(channel: Channel, step: Option<Step>) -> Result<(), Status> {
    let requests = tokio_stream::iter([AttestAgentRequest { step }]);
    let mut answers = AgentClient::new(channel)
        .attest_agent(requests)
        .await?
        .into_inner();
    answers.message().await.map(drop)
}

#[tokio::test]
async fn what_is_no_token_is_refused_by_name_and_not_made() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let watch = site.watch().await?;

    // Text that can be no token was never made one: the text is that of an unknown one.
    for token in ["unknown", "../../server", "a/b", "%2e%2e", "a b", " "] {
        assert_eq!(
            refused_attestation(&site, token).await?,
            (Code::InvalidArgument, SPENT.to_owned()),
            "{token:?}"
        );
        watch.unchanged(token).await?;
    }

    let data = |kind: &str, payload: Vec<u8>| AttestationData {
        r#type: kind.into(),
        payload,
    };
    let (_, csr) = key_and_csr()?;
    let params = |data| {
        Some(Step::Params(Params {
            data: Some(data),
            params: Some(AgentX509svidParams { csr: csr.clone() }),
        }))
    };
    let malformed = |what: &str| (Code::InvalidArgument, format!("malformed param: {what}"));
    let no_method = "error getting node attestor: could not find node attestor type \"x509pop\"";
    let messages = [
        (None, malformed("missing params")),
        (
            Some(Step::Params(Params::default())),
            malformed("missing attestation data"),
        ),
        (
            params(data("", b"x".to_vec())),
            malformed("missing attestation data type"),
        ),
        (
            params(data("join_token", Vec::new())),
            malformed("missing attestation data payload"),
        ),
        (
            params(data("join_token", vec![b'a'; 300 << 10])),
            malformed("attestation data payload is too large"),
        ),
        (
            params(data("join_token", vec![0xff, 0xfe])),
            (Code::InvalidArgument, SPENT.to_owned()),
        ),
        (
            params(data("x509pop", b"x".to_vec())),
            (Code::FailedPrecondition, no_method.to_owned()),
        ),
    ];
    for (step, (code, text)) in messages {
        let status = refusal(&text, send(site.anonymous().await?, step).await)?;
        assert_eq!((status.code(), status.message()), (code, text.as_str()));
        watch.unchanged(&text).await?;
    }

    // Made neither by the API nor by the command line.
    let mut agents = AgentClient::new(site.admin().await?);
    let characters =
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores";
    let unmakeable = [
        (0, "t", "ttl is required, you must provide one".to_owned()),
        (-1, "t", "ttl is required, you must provide one".to_owned()),
        (
            60,
            "a/b",
            format!("failed to create join token ID: {characters}"),
        ),
        (
            60,
            "..",
            "failed to create join token ID: path cannot contain dot segments".to_owned(),
        ),
        (
            60,
            "a%2fb",
            format!("failed to create join token ID: {characters}"),
        ),
        (
            60,
            &"a".repeat(2048),
            "failed to create join token ID: ID cannot be longer than 2048 bytes".to_owned(),
        ),
    ];
    for (ttl, token, text) in unmakeable {
        let request = CreateJoinTokenRequest {
            ttl,
            token: token.into(),
            agent_id: None,
        };
        let status = refusal(&text, agents.create_join_token(request).await)?;
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, text.as_str())
        );
        watch.unchanged(&text).await?;
    }
    let said = site.cli_refuses(&["token", "generate", "-ttl", "0"])?;
    ensure!(
        said.contains("ttl is required, you must provide one"),
        "{said}"
    );

    // Nor is one made twice: the first keeps its end.
    let request = CreateJoinTokenRequest {
        ttl: 60,
        token: "chosen".into(),
        agent_id: None,
    };
    agents.create_join_token(request.clone()).await?;
    let status = refusal(
        "a token made twice",
        agents.create_join_token(request).await,
    )?;
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::AlreadyExists,
            "failed to create token: join token already exists"
        )
    );
    watch.unchanged_for_administrators().await
}
