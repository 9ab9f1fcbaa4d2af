//! Messages that are larger than a message may be.

use anyhow::ensure;
use chancery_api::spire::api::server::entry::v1::BatchCreateEntryRequest;
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};
use chancery_tests::agent::{attest_call, key_and_csr};
use prost::Message as _;
use tonic::{Code, Status};

use crate::site::{Site, refusal};

/// Largest request that is read, in bytes: gRPC's usual limit.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// gRPC's implementations differ in the code.
fn too_large(what: &str, status: &Status) -> anyhow::Result<()> {
    ensure!(
        matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange),
        "{what}: {status:?}"
    );
    ensure!(
        status.message().contains("4194304"),
        "{what} does not tell the limit: {}",
        status.message()
    );
    Ok(())
}

/// A batch with one CSR that makes the whole message `bytes` long.
fn batch_of(bytes: usize) -> BatchNewX509svidRequest {
    let batch = |csr: usize| BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: "e".into(),
            csr: vec![0x30; csr],
        }],
    };
    let overhead = batch(bytes).encoded_len() - bytes;
    batch(bytes - overhead)
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_the_connection_lives_on() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    let entry_id = site.entry_of(&agent, "/web").await?;
    let channel = agent.connect(&site.node().api).await?;
    let watch = site.watch().await?;

    // One byte decides.
    let mut svids = SvidClient::new(channel.clone());
    ensure!(
        batch_of(REQUEST_BYTES_MAX + 1).encoded_len() == REQUEST_BYTES_MAX + 1,
        "the test's sum is wrong"
    );
    let over = refusal(
        "one byte too many",
        svids
            .batch_new_x509svid(batch_of(REQUEST_BYTES_MAX + 1))
            .await,
    )?;
    too_large("one byte too many", &over)?;
    let read = svids
        .batch_new_x509svid(batch_of(REQUEST_BYTES_MAX))
        .await?
        .into_inner();
    ensure!(
        read.results.len() == 1 && read.results[0].svid.is_none(),
        "{read:?}"
    );
    watch.unchanged("a message at the limit").await?;

    // Somebody whom nobody knows.
    let anonymous = site.anonymous().await?;
    let refused = attest_call(anonymous.clone(), "unknown", vec![0x30; 8 << 20]).await;
    let refused = refusal("8 MiB without a certificate", refused)?;
    ensure!(refused.message().contains("524288"), "{refused:?}");
    ensure!(
        refused.code() != Code::Internal && refused.code() != Code::Unknown,
        "{refused:?}"
    );
    let refused = refusal(
        "a token",
        attest_call(anonymous, "unknown", key_and_csr()?.1).await,
    )?;
    assert_eq!(
        refused.code(),
        Code::InvalidArgument,
        "the connection goes on"
    );
    watch.unchanged("8 MiB without a certificate").await?;
    let mut bundles = tonic::client::Grpc::new(site.anonymous().await?);
    bundles.ready().await?;
    let path = "/spire.api.server.bundle.v1.Bundle/GetBundle".parse()?;
    let codec = tonic_prost::ProstCodec::<BatchNewX509svidRequest, ()>::default();
    let request = tonic::Request::new(batch_of(4097));
    let refused = refusal("a mask of 4 KiB", bundles.unary(request, path, codec).await)?;
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::OutOfRange,
            "Error, decoded message length too large: found 4097 bytes, the limit is: 4096 bytes"
        )
    );

    // An administrator.
    let mut entries = EntryClient::new(site.admin().await?);
    let mut entry = site.cluster.entry(agent.path(), "/large");
    entry.hint = "h".repeat(5 << 20);
    let request = BatchCreateEntryRequest {
        entries: vec![entry.clone()],
        output_mask: None,
    };
    too_large(
        "5 MiB",
        &refusal("5 MiB", entries.batch_create_entry(request).await)?,
    )?;
    watch.unchanged("5 MiB of entry").await?;
    // What can be read may be too large all the same.
    entry.hint = "h".repeat(1 << 20);
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let results = entries
        .batch_create_entry(request)
        .await?
        .into_inner()
        .results;
    let status = results[0].status.clone().unwrap_or_default();
    assert_eq!(
        (status.code, status.message.contains("hint is too long")),
        (3, true),
        "{}",
        status.message
    );
    watch.unchanged("1 MiB of hint").await?;

    // More signatures than a call may ask for.
    let (_, csr) = key_and_csr()?;
    let item = NewX509svidParams { entry_id, csr };
    let request = BatchNewX509svidRequest {
        params: vec![item; 501],
    };
    let refused = refusal("501 SVIDs", svids.batch_new_x509svid(request).await)?;
    let text = "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst size (500)";
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, text)
    );
    watch.unchanged_for_administrators().await
}
