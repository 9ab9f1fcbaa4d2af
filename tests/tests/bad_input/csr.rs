//! CSRs that are none, or that prove nothing.

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1 as agent_api;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};
use chancery_tests::agent::{attest_call, key_and_csr};
use tonic::Code;

use crate::site::{Site, refusal};

/// What is wrong with it, the bytes, and how the text goes on after `malformed CSR: `.
fn malformed() -> anyhow::Result<Vec<(&'static str, Vec<u8>, &'static str)>> {
    let (_, good) = key_and_csr()?;
    let mut trailing = good.clone();
    trailing.push(0);
    // A fixed sequence without a pattern: a failure can be repeated.
    let random = (0u32..512).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]);
    Ok(vec![
        (
            "a CSR cut short",
            good[..good.len() - 1].to_vec(),
            "input ends inside a value",
        ),
        (
            "half a CSR",
            good[..good.len() / 2].to_vec(),
            "input ends inside a value",
        ),
        ("one byte", vec![0x30], "input ends inside a value"),
        (
            "random bytes",
            random.collect(),
            "length is not in DER form",
        ),
        ("a trailing byte", trailing, "trailing data"),
        ("100 KiB", vec![0x30; 100 << 10], "larger than 65536 bytes"),
    ])
}

#[tokio::test]
async fn a_malformed_csr_gets_no_svid_and_says_what_is_malformed() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    let entry_id = site.entry_of(&agent, "/web").await?;
    let channel = agent.connect(&site.node().api).await?;
    agent.post_status(channel.clone()).await?;
    let watch = site.watch().await?;

    // A workload's: the bad item is refused, the good ones beside it are signed.
    for (what, csr, text) in malformed()? {
        let item = |csr| NewX509svidParams {
            entry_id: entry_id.clone(),
            csr,
        };
        let params = vec![item(key_and_csr()?.1), item(csr), item(key_and_csr()?.1)];
        let answer = SvidClient::new(channel.clone())
            .batch_new_x509svid(BatchNewX509svidRequest { params })
            .await;
        let results = answer
            .with_context(|| format!("BatchNewX509SVID with {what}"))?
            .into_inner()
            .results;
        let [first, bad, last] = results.as_slice() else {
            anyhow::bail!("{} results", results.len())
        };
        ensure!(
            first.svid.is_some() && last.svid.is_some(),
            "{what} took the good items along"
        );
        ensure!(bad.svid.is_none(), "{what} was signed");
        let status = bad.status.clone().unwrap_or_default();
        assert_eq!(
            (status.code, status.message.as_str()),
            (3, format!("malformed CSR: {text}").as_str()),
            "{what}"
        );
        watch.unchanged(what).await?;
    }

    // An agent's own: attesting with the very token goes on to work.
    let token = site.cluster.token(site.node()).await?;
    for (what, csr, text) in malformed()? {
        let params = agent_api::AgentX509svidParams { csr: csr.clone() };
        let request = agent_api::RenewAgentRequest {
            params: Some(params),
        };
        let renewed = AgentClient::new(channel.clone()).renew_agent(request).await;
        let attested = attest_call(site.anonymous().await?, &token, csr).await;
        for status in [refusal(what, renewed)?, refusal(what, attested)?] {
            let wanted = format!("failed to parse CSR: {text}");
            assert_eq!(
                (status.code(), status.message()),
                (Code::InvalidArgument, wanted.as_str()),
                "{what}"
            );
        }
        watch.unchanged(what).await?;
    }
    attest_call(site.anonymous().await?, &token, key_and_csr()?.1)
        .await
        .context("the token was spent")?;
    Ok(())
}

#[tokio::test]
async fn a_csr_without_proof_of_possession_is_not_signed_for_a_workload() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    let entry_id = site.entry_of(&agent, "/web").await?;
    let channel = agent.connect(&site.node().api).await?;
    let watch = site.watch().await?;

    // The last byte is of the signature's `s`; the structure stays what it was.
    let (_, mut csr) = key_and_csr()?;
    let last = csr.last_mut().context("an empty CSR")?;
    *last ^= 1;
    let item = |csr: &[u8]| NewX509svidParams {
        entry_id: entry_id.clone(),
        csr: csr.to_vec(),
    };
    let params = vec![item(&csr), item(&[]), item(&key_and_csr()?.1)];
    let answer = SvidClient::new(channel)
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await?;
    let results = answer.into_inner().results;
    let told: Vec<_> = results
        .iter()
        .map(|r| r.status.clone().unwrap_or_default())
        .collect();
    assert_eq!(
        (told[0].code, told[0].message.as_str()),
        (3, "invalid CSR signature: signature does not verify")
    );
    assert_eq!((told[1].code, told[1].message.as_str()), (3, "missing CSR"));
    assert_eq!((told[2].code, told[2].message.as_str()), (0, "OK"));
    let signed: Vec<_> = results.iter().map(|r| r.svid.is_some()).collect();
    assert_eq!(signed, [false, false, true]);
    watch.unchanged_for_administrators().await
}
