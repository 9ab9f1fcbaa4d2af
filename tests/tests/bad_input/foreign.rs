//! Identities and tokens of other clusters.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::agent::{Agent, Svid, attest_call, key_and_csr};
use chancery_tests::cluster::eventually;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use tonic::Code;

use crate::site::{Site, refusal};

/// Fails if the site serves an agent with this identity, or if its log does not say
/// `reason` of it: the client hears no more than the alert.
async fn turned_away(site: &Site, agent: &Agent, reason: &str) -> anyhow::Result<()> {
    // TLS 1.3 tells a client of a refused certificate only after its handshake.
    if let Ok(channel) = agent.connect(&site.node().api).await {
        let status = refusal("a foreign certificate", agent.post_status(channel).await)?;
        let source = std::error::Error::source(&status);
        ensure!(
            source.is_some_and(|e| e.is::<tonic::transport::Error>()),
            "a service answered: {status:?}"
        );
    }
    eventually(
        &format!("{reason:?} in the log"),
        Duration::from_secs(10),
        || async {
            let log = std::fs::read_to_string(&site.node().log)?;
            Ok(log
                .lines()
                .any(|l| l.contains("connection refused") && l.contains(reason))
                .then_some(()))
        },
    )
    .await
    .with_context(|| site.cluster.logs())
}

#[tokio::test]
async fn an_agent_of_another_cluster_does_not_get_past_the_handshake() -> anyhow::Result<()> {
    let (site, other) = (Site::shared().await?, Site::start_in("other.org")?);
    let foreign = other.agent().await?;
    let known = site.agent().await?;
    let watch = site.watch().await?;

    // It knows whom to trust here, and shows what it has from there.
    let visitor = Agent {
        trust: known.trust.clone(),
        ..foreign.clone()
    };
    turned_away(&site, &visitor, &foreign.svid.id).await?;
    watch.unchanged("an SVID of another trust domain").await?;

    // An SVID that says all the right things, of an authority that is not ours.
    let forged = Agent {
        svid: forged(&known.svid.id)?,
        ..known.clone()
    };
    turned_away(&site, &forged, "UnknownIssuer").await?;
    watch.unchanged("an SVID of an unknown authority").await?;

    // The server's side: an agent of this trust domain speaks to no server of another.
    let error = known
        .connect(&other.node().api)
        .await
        .err()
        .context("a foreign server was trusted")?;
    let said = format!("{error:#}");
    ensure!(
        said.contains("does not lead to a root of trust domain \"example.org\""),
        "{said}"
    );
    known
        .round(&site.node().api)
        .await
        .context("the agent that belongs here")?;
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn a_join_token_of_another_cluster_attests_nobody_here() -> anyhow::Result<()> {
    let (site, other) = (Site::shared().await?, Site::start_in("other.org")?);
    let token = site.cluster.token(site.node()).await?;
    let (watch, watch_other) = (site.watch().await?, other.watch().await?);

    // An agent that is configured for this trust domain does not send its token to a
    // server of another.
    let sent = Agent::attest(&other.node().api, &site.trust()?, &token, None).await;
    let said = format!("{:#}", sent.err().context("attested at a foreign server")?);
    ensure!(said.contains("cannot connect"), "{said}");
    watch_other.unchanged("an agent that hung up").await?;

    // One that is told to trust it has a token that nobody knows there.
    let refused = attest_call(other.anonymous().await?, &token, key_and_csr()?.1).await;
    let refused = refusal("a foreign token", refused)?;
    let text = "failed to attest: join token does not exist or has already been used";
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, text)
    );
    watch_other.unchanged("a foreign token").await?;
    watch.unchanged_for_administrators().await?;

    // It was not spent by that.
    attest_call(site.anonymous().await?, &token, key_and_csr()?.1)
        .await
        .context("at home")?;
    Ok(())
}

/// An SVID with this ID in SPIFFE's own form, of an authority that nobody trusts.
fn forged(id: &str) -> anyhow::Result<Svid> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name = DistinguishedName::new();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.subject_alt_names = vec![SanType::URI("spiffe://example.org".try_into()?)];
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(Vec::new())?;
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    leaf.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyAgreement,
    ];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    leaf.use_authority_key_identifier_extension = true;
    leaf.is_ca = IsCa::ExplicitNoCa;
    let certificate = leaf.signed_by(&key, &issuer)?;
    let chain = vec![certificate.der().to_vec()];
    Ok(Svid {
        id: id.into(),
        chain,
        key: key.serialize_der(),
        expires_at: i64::MAX,
    })
}
