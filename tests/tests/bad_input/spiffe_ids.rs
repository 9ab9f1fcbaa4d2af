//! SPIFFE IDs that are not in their one spelling, or not of this trust domain.

use anyhow::ensure;
use chancery_api::spire::api::server::agent::v1::agent_client::AgentClient;
use chancery_api::spire::api::server::agent::v1::{
    BanAgentRequest, CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest,
};
use chancery_api::spire::api::types::Spiffeid;
use tonic::Code;

use crate::site::{Site, refusal};

const DOTS: &str = "path cannot contain dot segments";
const CHARACTERS: &str =
    "path segment characters are limited to letters, numbers, dots, dashes, and underscores";
const EMPTY: &str = "path cannot contain empty segments";
const TRAILING: &str = "path cannot have a trailing slash";
const NO_SLASH: &str = "path must have a leading slash";
const TOO_LONG: &str = "ID cannot be longer than 2048 bytes";
const DOMAIN: &str = "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores";

/// Spellings that no ID has, and what is said of them.
fn tricks() -> Vec<(Spiffeid, &'static str)> {
    let id = |trust_domain: &str, path: &str| Spiffeid {
        trust_domain: trust_domain.into(),
        path: path.into(),
    };
    let here = |path: &str| id("example.org", path);
    // With `spiffe://example.org/` before it one byte more than an ID may have.
    let long = format!("/{}", "a".repeat(2049 - "spiffe://example.org/".len()));
    vec![
        (here("/a/../b"), DOTS),
        (here("/.."), DOTS),
        (here("/a/./b"), DOTS),
        (here("//"), EMPTY),
        (here("/a//b"), EMPTY),
        (here("//a"), EMPTY),
        (here("/a/"), TRAILING),
        (here("/"), TRAILING),
        (here("/%2e%2e/b"), CHARACTERS),
        (here("/a%2fb"), CHARACTERS),
        (here("/a?b"), CHARACTERS),
        (here("/a#b"), CHARACTERS),
        (here("/a b"), CHARACTERS),
        (here("/a\0b"), CHARACTERS),
        (here("/caf\u{e9}"), CHARACTERS),
        (here("/a\\b"), CHARACTERS),
        (here("a"), NO_SLASH),
        (here(&long), TOO_LONG),
        (id("Example.org", "/a"), DOMAIN),
        (id("EXAMPLE.ORG", "/a"), DOMAIN),
        (id("example.org:8081", "/a"), DOMAIN),
        (id("user@example.org", "/a"), DOMAIN),
        (id("example%2eorg", "/a"), DOMAIN),
        (id("", "/a"), "trust domain is missing"),
    ]
}

fn short(id: &Spiffeid) -> String {
    format!("{}{}", id.trust_domain, id.path)
        .chars()
        .take(60)
        .collect()
}

#[tokio::test]
async fn an_id_with_a_path_trick_names_nothing_anywhere() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    site.entry_of(&agent, "/b").await?;
    let mut agents = AgentClient::new(site.admin().await?);
    let watch = site.watch().await?;

    for (id, text) in tricks() {
        let what = short(&id);
        let mut as_workload = site.cluster.entry(agent.path(), "/a");
        as_workload.spiffe_id = Some(id.clone());
        let mut as_parent = site.cluster.entry(agent.path(), "/a");
        as_parent.parent_id = Some(id.clone());
        let statuses = site
            .cluster
            .create(site.node(), vec![as_workload, as_parent])
            .await?;
        for ((status, entry), field) in statuses.iter().zip(["spiffe ID", "parent ID"]) {
            let wanted = format!("failed to convert entry: invalid {field}: {text}");
            assert_eq!(
                (status.code, status.message.as_str()),
                (3, wanted.as_str()),
                "{what}"
            );
            ensure!(entry.is_none(), "{what}: an entry came back");
        }

        let named = format!("invalid agent ID: {text}");
        let got = agents
            .get_agent(GetAgentRequest {
                id: Some(id.clone()),
                output_mask: None,
            })
            .await;
        let banned = agents
            .ban_agent(BanAgentRequest {
                id: Some(id.clone()),
            })
            .await;
        let deleted = agents
            .delete_agent(DeleteAgentRequest {
                id: Some(id.clone()),
            })
            .await;
        let token = CreateJoinTokenRequest {
            ttl: 60,
            agent_id: Some(id),
            ..Default::default()
        };
        let token = agents.create_join_token(token).await;
        for status in [
            refusal(&what, got)?,
            refusal(&what, banned)?,
            refusal(&what, deleted)?,
            refusal(&what, token)?,
        ] {
            assert_eq!(
                (status.code(), status.message()),
                (Code::InvalidArgument, named.as_str()),
                "{what}"
            );
        }
        watch.unchanged(&what).await?;
    }
    watch.unchanged_for_administrators().await
}

#[tokio::test]
async fn the_longest_id_is_taken_and_reserved_or_foreign_ones_are_not() -> anyhow::Result<()> {
    let site = Site::shared().await?;
    let agent = site.agent().await?;
    // The other side of the bound.
    let longest = format!("/{}", "a".repeat(2048 - "spiffe://example.org/".len()));
    site.entry_of(&agent, &longest).await?;
    let mut agents = AgentClient::new(site.admin().await?);
    let watch = site.watch().await?;

    let not_workloads = [
        (
            "example.org",
            "/spire",
            "a workload in",
            "; path is in the reserved namespace",
        ),
        (
            "example.org",
            "/spire/server",
            "a workload in",
            "; path is in the reserved namespace",
        ),
        (
            "example.org",
            "/spire/agent/join_token/x",
            "a workload in",
            "; path is in the reserved namespace",
        ),
        ("example.org", "", "a workload in", "; path is empty"),
        ("other.org", "/web", "a member of", ""),
        ("example.org.evil.org", "/web", "a member of", ""),
    ];
    for (trust_domain, path, kind, rest) in not_workloads {
        let id = format!("spiffe://{trust_domain}{path}");
        let text = format!("\"{id}\" is not {kind} trust domain \"example.org\"{rest}");
        let mut entry = site.cluster.entry(agent.path(), "/a");
        entry.spiffe_id = Some(Spiffeid {
            trust_domain: trust_domain.into(),
            path: path.into(),
        });
        let statuses = site
            .cluster
            .create(site.node(), vec![entry.clone()])
            .await?;
        let (status, _) = &statuses[0];
        let wanted = format!("failed to convert entry: invalid spiffe ID: {text}");
        assert_eq!((status.code, status.message.as_str()), (3, wanted.as_str()));
        let token = CreateJoinTokenRequest {
            ttl: 60,
            agent_id: entry.spiffe_id,
            ..Default::default()
        };
        let refused = refusal(&id, agents.create_join_token(token).await)?;
        assert_eq!(refused.message(), format!("invalid agent ID: {text}"));
        watch.unchanged(&id).await?;
    }

    // A parent of another trust domain, as an administrator types it.
    let selector = ["-selector", "unix:uid:1"];
    // Where SPIRE's command line quotes a message, this one does.
    let create = [
        "entry",
        "create",
        "-parentID",
        "spiffe://other.org/host",
        "-spiffeID",
        "spiffe://example.org/a",
    ];
    let said = site.cli_refuses(&[create.as_slice(), &selector].concat())?;
    let wanted = r#"invalid parent ID: \"spiffe://other.org/host\" is not a member of trust domain \"example.org\""#;
    ensure!(said.contains(wanted), "{said}");
    let create = [
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/h",
        "-spiffeID",
        "spiffe://other.org/a",
    ];
    let said = site.cli_refuses(&[create.as_slice(), &selector].concat())?;
    let wanted = r#"invalid spiffe ID: \"spiffe://other.org/a\" is not a member of trust domain \"example.org\""#;
    ensure!(said.contains(wanted), "{said}");
    // One that is no ID does not reach the server.
    let create = [
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/a/../b",
        "-spiffeID",
        "spiffe://example.org/a",
    ];
    let said = site.cli_refuses(&[create.as_slice(), &selector].concat())?;
    ensure!(said.contains(DOTS), "{said}");
    watch.unchanged_for_administrators().await
}
