//! BatchUpdateEntry, in the order and words of SPIRE.

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::entry::v1::entry_client::EntryClient;
use chancery_api::spire::api::server::entry::v1::{BatchUpdateEntryRequest, GetEntryRequest};
use chancery_api::spire::api::types;
use tonic::transport::Channel;

use super::{client, create_all, id, one_node, selector};

fn entry(name: &str) -> types::Entry {
    types::Entry {
        id: name.into(),
        parent_id: id("/p"),
        spiffe_id: id(&format!("/{name}")),
        selectors: vec![selector("unix", "uid:1"), selector("unix", "gid:1")],
        hint: "before".into(),
        x509_svid_ttl: 60,
        ..Default::default()
    }
}

async fn update(
    client: &mut EntryClient<Channel>,
    entries: Vec<types::Entry>,
    input_mask: Option<types::EntryMask>,
    output_mask: Option<types::EntryMask>,
) -> anyhow::Result<Vec<(i32, String, Option<types::Entry>)>> {
    let request = BatchUpdateEntryRequest {
        entries,
        input_mask,
        output_mask,
    };
    let answer = client.batch_update_entry(request).await?.into_inner();
    let result =
        |r: chancery_api::spire::api::server::entry::v1::batch_update_entry_response::Result| {
            let status = r.status.unwrap_or_default();
            (status.code, status.message, r.entry)
        };
    Ok(answer.results.into_iter().map(result).collect())
}

async fn get(client: &mut EntryClient<Channel>, id: &str) -> anyhow::Result<types::Entry> {
    let request = GetEntryRequest {
        id: id.into(),
        output_mask: None,
    };
    Ok(client.get_entry(request).await?.into_inner())
}

#[tokio::test]
async fn an_update_sets_what_the_mask_names_and_counts() -> anyhow::Result<()> {
    let cluster = one_node("", &[])?;
    let node = &cluster.nodes()[0];
    create_all(node, vec![entry("one"), entry("two")]).await?;
    let mut client = client(node).await?;
    let before = get(&mut client, "one").await?;

    // Without a mask everything is set, what is absent included.
    let whole = types::Entry {
        hint: String::new(),
        admin: true,
        dns_names: vec!["one.example.org".into()],
        expires_at: 4_000_000_000,
        revision_number: 77,
        created_at: 77,
        additional_attributes: Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
        }),
        ..entry("one")
    };
    let results = update(&mut client, vec![whole.clone()], None, None).await?;
    let expected = types::Entry {
        revision_number: 1,
        created_at: before.created_at,
        ..whole
    };
    assert_eq!(results, [(0, "OK".into(), Some(expected.clone()))]);
    assert_eq!(get(&mut client, "one").await?, expected);

    // With one, what it does not name may be absent and stays.
    let hint = types::EntryMask {
        hint: true,
        ..Default::default()
    };
    let named = types::Entry {
        id: "one".into(),
        hint: "after".into(),
        admin: false,
        ..Default::default()
    };
    let results = update(&mut client, vec![named], Some(hint), Some(hint)).await?;
    let told = types::Entry {
        id: "one".into(),
        hint: "after".into(),
        ..Default::default()
    };
    assert_eq!(
        results,
        [(0, "OK".into(), Some(told))],
        "the output mask holds"
    );
    let expected = types::Entry {
        hint: "after".into(),
        revision_number: 2,
        ..expected
    };
    assert_eq!(get(&mut client, "one").await?, expected);

    // A mask that names nothing changes nothing, and counts.
    let none = types::EntryMask::default();
    let nothing = types::Entry {
        id: "one".into(),
        ..Default::default()
    };
    update(&mut client, vec![nothing], Some(none), Some(none)).await?;
    let expected = types::Entry {
        revision_number: 3,
        ..expected
    };
    assert_eq!(get(&mut client, "one").await?, expected);

    // Similar entries are none of an update's business.
    let same = types::Entry {
        id: "two".into(),
        spiffe_id: id("/one"),
        ..Default::default()
    };
    let name = types::EntryMask {
        spiffe_id: true,
        ..Default::default()
    };
    let results = update(&mut client, vec![same], Some(name), None).await?;
    assert_eq!(results[0].0, 0, "{results:?}");
    let again = cluster.create(
        node,
        vec![types::Entry {
            id: String::new(),
            ..entry("one")
        }],
    );
    let (status, existing) = again.await?.pop().context("a result")?;
    assert_eq!(status.message, "similar entry already exists");
    assert_eq!(existing.context("the one that exists")?.id, "one");
    Ok(())
}

#[tokio::test]
async fn each_item_of_an_update_is_refused_for_itself_in_the_words_of_spire() -> anyhow::Result<()>
{
    let cluster = one_node("", &[])?;
    let node = &cluster.nodes()[0];
    create_all(node, vec![entry("one"), entry("two")]).await?;
    let mut client = client(node).await?;
    let items = vec![
        types::Entry {
            spiffe_id: None,
            ..entry("none")
        },
        entry("none"),
        types::Entry {
            x509_svid_ttl: -1,
            ..entry("none")
        },
        types::Entry {
            id: String::new(),
            ..entry("none")
        },
        types::Entry {
            selectors: Vec::new(),
            ..entry("one")
        },
        types::Entry {
            store_svid: true,
            selectors: vec![selector("unix", "uid:1"), selector("k8s", "ns:a")],
            ..entry("one")
        },
        types::Entry {
            hint: "after".into(),
            ..entry("two")
        },
    ];
    let results = update(&mut client, items, None, None).await?;
    let told: Vec<_> = results
        .iter()
        .map(|(code, text, entry)| (*code, text.as_str(), entry.is_some()))
        .collect();
    let store = "failed to update entry: datastore-validation: invalid registration entry: ";
    assert_eq!(
        told,
        [
            (
                3,
                "failed to convert entry: invalid spiffe ID: request must specify SPIFFE ID",
                false
            ),
            (5, "failed to update entry", false),
            (3, format!("{store}X509SvidTtl is not set").as_str(), false),
            (5, "failed to update entry", false),
            (3, "failed to convert entry: selector list is empty", false),
            (
                3,
                format!("{store}selector types must be the same when store SVID is enabled")
                    .as_str(),
                false
            ),
            (0, "OK", true),
        ]
    );
    assert_eq!(get(&mut client, "one").await?.revision_number, 0);
    assert_eq!(get(&mut client, "two").await?.hint, "after");

    // The log says it as SPIRE's would.
    let log = std::fs::read_to_string(&node.log)?;
    for line in [
        "Invalid argument: failed to convert entry error=\"selector list is empty\" entry_id=\"one\"",
        "Failed to update entry entry_id=\"none\"",
    ] {
        ensure!(log.contains(line), "no {line:?} in\n{log}");
    }
    Ok(())
}

#[tokio::test]
async fn an_update_reaches_the_agents_of_both_parents() -> anyhow::Result<()> {
    let cluster = one_node("", &[])?;
    let node = &cluster.nodes()[0];
    let attest = || async {
        let token = cluster.token(node).await?;
        chancery_tests::agent::Agent::attest(&node.api, &cluster.trust()?, &token, None).await
    };
    let (one, other) = (attest().await?, attest().await?);
    create_all(
        node,
        vec![types::Entry {
            parent_id: id(one.path()),
            ..entry("moving")
        }],
    )
    .await?;
    let synced = |agent: chancery_tests::agent::Agent| {
        let api = node.api.clone();
        async move {
            let entries = agent.sync(agent.connect(&api).await?).await?;
            let told = entries.into_iter().map(|e| (e.id, e.revision_number));
            anyhow::Ok(told.collect::<Vec<_>>())
        }
    };
    assert_eq!(synced(one.clone()).await?, [("moving".to_owned(), 0)]);
    let parent = types::EntryMask {
        parent_id: true,
        ..Default::default()
    };
    let moved = types::Entry {
        id: "moving".into(),
        parent_id: id(other.path()),
        ..Default::default()
    };
    let results = update(&mut client(node).await?, vec![moved], Some(parent), None).await?;
    assert_eq!(results[0].0, 0, "{results:?}");
    assert_eq!(synced(one).await?, []);
    assert_eq!(synced(other).await?, [("moving".to_owned(), 1)]);
    Ok(())
}
