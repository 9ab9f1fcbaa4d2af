//! `chancery migrate` from one running cluster to another.
//!
//! Between SPIRE and a cluster it was run by hand (docs/compatibility.md); two clusters of ours hold
//! both sides of the calls together.

use std::process::Output;

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::agent::v1::CreateJoinTokenRequest;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::bundle::v1::BatchSetFederatedBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::trustdomain::v1::BatchCreateFederationRelationshipRequest;
use chancery_api::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use chancery_api::spire::api::types;
use chancery_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, count, text};
use chancery_tests::tls::connect_admin;
use serde_json::Value;

fn one_node() -> anyhow::Result<Cluster> {
    Cluster::start(&Options {
        nodes: 1,
        keys: "memory",
        ..Options::default()
    })
}

fn only(cluster: &Cluster) -> &Node {
    &cluster.nodes()[0]
}

/// `migrate data` with flags, and its report.
fn migrate(from: &Cluster, to: &Cluster, flags: &[&str]) -> anyhow::Result<(Output, Value)> {
    let socket = only(from).admin_socket.display().to_string();
    let verb = [
        "migrate",
        "data",
        "--from-socket",
        &socket,
        "-output",
        "json",
    ];
    let output = to.cli(only(to), &[verb.as_slice(), flags].concat())?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = out.lines().next().with_context(|| text(&output))?;
    let report = serde_json::from_str(line)?;
    Ok((output, report))
}

/// The numbers of a kind: at source, equal, created, failed.
fn counts(report: &Value, kind: &str) -> [u64; 4] {
    ["at_source", "equal", "created", "failed"]
        .map(|name| report["kinds"][kind][name].as_u64().unwrap_or(u64::MAX))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_copied_to_another_and_a_second_run_changes_nothing() -> anyhow::Result<()> {
    let (from, to) = (one_node()?, one_node()?);

    // A banned agent, a federated bundle, and entries over several pages.
    let token = from.token(only(&from)).await?;
    let agent = Agent::attest(&only(&from).api, &from.trust()?, &token, None).await?;
    let id = agent.svid.id.clone();
    let banned = from.cli(only(&from), &["agent", "ban", "-spiffeID", &id])?;
    ensure!(banned.status.success(), "{}", text(&banned));
    let mut bundles = BundleClient::new(connect_admin(&only(&from).admin_socket).await?);
    let own = bundles.get_bundle(tonic::Request::new(Default::default()));
    let federated = types::Bundle {
        trust_domain: "partner.test".into(),
        ..own.await?.into_inner()
    };
    bundles
        .batch_set_federated_bundle(BatchSetFederatedBundleRequest {
            bundle: vec![federated],
            output_mask: None,
        })
        .await?;
    let mut relationships = TrustDomainClient::new(connect_admin(&only(&from).admin_socket).await?);
    relationships
        .batch_create_federation_relationship(BatchCreateFederationRelationshipRequest {
            federation_relationships: vec![types::FederationRelationship {
                trust_domain: "partner.test".into(),
                bundle_endpoint_url: "https://127.0.0.1:9/bundle".into(),
                bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(
                    types::HttpsWebProfile {},
                )),
                trust_domain_bundle: None,
            }],
            output_mask: None,
        })
        .await?;
    let entries = count(1_200, 20_000);
    let all: Vec<_> = (0..entries)
        .map(|number| types::Entry {
            id: format!("entry-{number}"),
            federates_with: match number % 10 {
                0 => vec!["partner.test".into()],
                _ => vec![],
            },
            ..from.entry("/host", &format!("/workload/{number}"))
        })
        .collect();
    for batch in all.chunks(400) {
        for (status, _) in from.create(only(&from), batch.to_vec()).await? {
            ensure!(status.code == 0, "{}", status.message);
        }
    }

    let (output, dry) = migrate(&from, &to, &["--dry-run"])?;
    ensure!(output.status.success(), "{}", text(&output));
    let wanted = entries as u64;
    ensure!(counts(&dry, "entries") == [wanted, 0, wanted, 0], "{dry}");

    let (output, first) = migrate(&from, &to, &[])?;
    ensure!(output.status.success(), "{}", text(&output));
    ensure!(counts(&first, "agent_bans") == [1, 0, 1, 0], "{first}");
    ensure!(
        counts(&first, "federated_bundles") == [1, 0, 1, 0],
        "{first}"
    );
    ensure!(
        counts(&first, "federation_relationships") == [1, 0, 1, 0],
        "{first}"
    );
    ensure!(
        counts(&first, "entries") == [wanted, 0, wanted, 0],
        "{first}"
    );

    let (output, second) = migrate(&from, &to, &[])?;
    ensure!(output.status.success(), "{}", text(&output));
    ensure!(counts(&second, "agent_bans") == [1, 1, 0, 0], "{second}");
    ensure!(
        counts(&second, "federated_bundles") == [1, 1, 0, 0],
        "{second}"
    );
    ensure!(
        counts(&second, "federation_relationships") == [1, 1, 0, 0],
        "{second}"
    );
    ensure!(
        counts(&second, "entries") == [wanted, wanted, 0, 0],
        "{second}"
    );

    // The ban holds where the agent never was: with a token that names it, it is refused.
    let name = id.rsplit('/').next().context("a segment")?.to_owned();
    let mut agents = AgentClient::new(connect_admin(&only(&to).admin_socket).await?);
    agents
        .create_join_token(CreateJoinTokenRequest {
            ttl: 600,
            token: name.clone(),
            agent_id: None,
        })
        .await?;
    let refused = Agent::attest(&only(&to).api, &to.trust()?, &name, None).await;
    let Err(error) = refused else {
        anyhow::bail!("a banned agent attested");
    };
    ensure!(
        format!("{error:#}").contains("banned"),
        "refused for another reason: {error:#}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_come_to_trust_each_other() -> anyhow::Result<()> {
    let (from, to) = (one_node()?, one_node()?);
    let socket = only(&from).admin_socket.display().to_string();
    let verb = ["migrate", "trust", "--from-socket", &socket];
    let output = to.cli(only(&to), &verb)?;
    ensure!(output.status.success(), "{}", text(&output));
    let shown = |cluster: &Cluster| -> anyhow::Result<Vec<String>> {
        let output = cluster.cli(only(cluster), &["bundle", "show"])?;
        let pem = String::from_utf8(output.stdout)?;
        let mut blocks: Vec<_> = pem.split("-----BEGIN").map(str::to_owned).collect();
        blocks.sort();
        Ok(blocks)
    };
    let (one, other) = (shown(&from)?, shown(&to)?);
    ensure!(one.len() == 3 && one == other, "{one:?} {other:?}");
    let output = to.cli(only(&to), &verb)?;
    let again = text(&output);
    ensure!(again.matches("already").count() == 2, "{again}");
    Ok(())
}
