//! Entries that are not there, or not the agent's.

use anyhow::ensure;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::{BatchDeleteEntryRequest, GetEntryRequest};
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use chancery_tests::agent::key_and_csr;
use tonic::Code;

use crate::site::{Site, refusal};

#[tokio::test]
async fn an_agent_gets_nothing_for_an_entry_that_is_not_its_own() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let (agent, other) = (site.agent().await?, site.agent().await?);
    let own = site.entry_of(&agent, "/web").await?;
    let others = site.entry_of(&other, "/db").await?;
    let channel = agent.connect(&site.node().api).await?;
    let watch = site.watch().await?;

    // Whether an entry is there is none of the agent's business: one text for all.
    let unknown = "entry not found or not authorized";
    for id in [
        others.as_str(),
        "11111111-1111-1111-1111-111111111111",
        "no such entry/../*",
    ] {
        let (_, csr) = key_and_csr()?;
        let item = |id: &str| NewX509svidParams {
            entry_id: id.into(),
            csr: csr.clone(),
        };
        let request = BatchNewX509svidRequest {
            params: vec![item(id), item(&own)],
        };
        let results = SvidClient::new(channel.clone())
            .batch_new_x509svid(request)
            .await?
            .into_inner()
            .results;
        let status = results[0].status.clone().unwrap_or_default();
        assert_eq!((status.code, status.message.as_str()), (5, unknown), "{id}");
        ensure!(
            results[0].svid.is_none() && results[1].svid.is_some(),
            "{id}: {results:?}"
        );

        let refused = refusal(id, agent.jwt(channel.clone(), id, "audience").await)?;
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::NotFound, unknown),
            "{id}"
        );
        watch.unchanged(id).await?;
    }

    // What is missing is named, one thing at a time.
    let item = NewX509svidParams {
        entry_id: String::new(),
        csr: key_and_csr()?.1,
    };
    let request = BatchNewX509svidRequest { params: vec![item] };
    let results = SvidClient::new(channel.clone())
        .batch_new_x509svid(request)
        .await?
        .into_inner()
        .results;
    assert_eq!(
        results[0].status.clone().unwrap_or_default().message,
        "missing entry ID"
    );
    let empty = SvidClient::new(channel.clone())
        .batch_new_x509svid(BatchNewX509svidRequest::default())
        .await;
    assert_eq!(
        refusal("an empty batch", empty)?.message(),
        "missing parameters"
    );
    let request = NewJwtsvidRequest {
        entry_id: own,
        audience: Vec::new(),
    };
    let refused = refusal(
        "no audience",
        SvidClient::new(channel).new_jwtsvid(request).await,
    )?;
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "at least one audience is required")
    );
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn an_administrator_hears_that_an_entry_is_not_there() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    let own = site.entry_of(&agent, "/web").await?;
    let mut client = EntryClient::new(site.admin().await?);
    let watch = site.watch().await?;

    let unknown = "11111111-1111-1111-1111-111111111111";
    let refused = refusal(
        unknown,
        client
            .get_entry(GetEntryRequest {
                id: unknown.into(),
                output_mask: None,
            })
            .await,
    )?;
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "entry not found")
    );
    let request = BatchDeleteEntryRequest {
        ids: vec![unknown.into(), String::new()],
    };
    let results = client
        .batch_delete_entry(request)
        .await?
        .into_inner()
        .results;
    let told: Vec<_> = results
        .iter()
        .map(|r| r.status.clone().unwrap_or_default())
        .collect();
    assert_eq!(
        (told[0].code, told[0].message.as_str()),
        (5, "entry not found")
    );
    assert_eq!(
        (told[1].code, told[1].message.as_str()),
        (3, "missing entry ID")
    );
    let said = site.cli_refuses(&["entry", "delete", "-entryID", unknown])?;
    ensure!(
        said.contains(unknown) && said.contains("entry not found"),
        "{said}"
    );

    // An entry that is there already is not made twice, and the one that is there is named.
    let twice = site
        .cluster
        .create(site.node(), vec![site.cluster.entry(agent.path(), "/web")])
        .await?;
    assert_eq!(
        (twice[0].0.code, twice[0].0.message.as_str()),
        (6, "similar entry already exists")
    );
    assert_eq!(
        twice[0].1.as_ref().map(|e| e.id.as_str()),
        Some(own.as_str())
    );
    watch.unchanged_for_administrators().await
}
