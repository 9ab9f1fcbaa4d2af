//! The four rules by which sets match, against the rules as they are written down.

use std::collections::BTreeSet;

use anyhow::ensure;
use chancery_api::spire::api::server::entry::v1::{
    CountEntriesRequest, ListEntriesRequest, count_entries_request, list_entries_request,
};
use chancery_api::spire::api::types;
use tonic::Code;

use super::{Cursor, client, create_all, id, one_node, selector};

const RULES: [(i32, &str); 4] = [(0, "exact"), (1, "subset"), (2, "superset"), (3, "any")];

/// Every set of the letters a, b and c but the empty one.
fn sets() -> Vec<BTreeSet<&'static str>> {
    (1..8u8)
        .map(|bits| {
            ["a", "b", "c"]
                .into_iter()
                .enumerate()
                .filter(|(place, _)| bits & (1 << place) != 0)
                .map(|(_, letter)| letter)
                .collect()
        })
        .collect()
}

fn matches(rule: i32, filter: &BTreeSet<&str>, entry: &BTreeSet<&str>) -> bool {
    match rule {
        0 => entry == filter,
        1 => entry.is_subset(filter),
        2 => entry.is_superset(filter),
        _ => !entry.is_disjoint(filter),
    }
}

#[tokio::test]
async fn each_rule_matches_each_set_as_it_says() -> anyhow::Result<()> {
    let cluster = one_node("", &[])?;
    let node = &cluster.nodes()[0];
    let sets = sets();
    let entry = |set: &BTreeSet<&str>| types::Entry {
        id: set.iter().copied().collect(),
        parent_id: id("/p"),
        spiffe_id: id("/w"),
        selectors: set.iter().map(|letter| selector("l", letter)).collect(),
        ..Default::default()
    };
    create_all(node, sets.iter().map(entry).collect()).await?;
    let mut client = client(node).await?;
    for (rule, name) in RULES {
        for filter in &sets {
            let wanted: Vec<String> = sets
                .iter()
                .filter(|set| matches(rule, filter, set))
                .map(|set| set.iter().copied().collect())
                .collect();
            let selectors = Some(types::SelectorMatch {
                selectors: filter.iter().map(|letter| selector("l", letter)).collect(),
                r#match: rule,
            });
            // Pages of one: most of them look past entries that do not match.
            let by = list_entries_request::Filter {
                by_selectors: selectors.clone(),
                ..Default::default()
            };
            let listed = Cursor::new(Some(by), 1).finish(node).await?;
            ensure!(listed == wanted, "{name} {filter:?}: {listed:?} {wanted:?}");
            let by = count_entries_request::Filter {
                by_selectors: selectors,
                ..Default::default()
            };
            let request = CountEntriesRequest { filter: Some(by) };
            let counted = client.count_entries(request).await?.into_inner().count;
            ensure!(
                usize::try_from(counted)? == wanted.len(),
                "{name} {filter:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn lists_are_paged_by_insertion_and_refuse_other_tokens() -> anyhow::Result<()> {
    let cluster = one_node("", &[])?;
    let node = &cluster.nodes()[0];
    let entries = ["c", "a", "b"].map(|name| types::Entry {
        id: name.into(),
        parent_id: id("/p"),
        spiffe_id: id("/w"),
        selectors: vec![selector("l", name)],
        ..Default::default()
    });
    create_all(node, entries.into()).await?;
    let mut client = client(node).await?;
    let list = |page_size: i32, page_token: &str| ListEntriesRequest {
        page_size,
        page_token: page_token.into(),
        ..Default::default()
    };
    let whole = client.list_entries(list(0, "ignored")).await?.into_inner();
    let ids: Vec<_> = whole.entries.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(
        (ids, whole.next_page_token.as_str()),
        (vec!["c", "a", "b"], "")
    );

    // The last page has a token too; the page behind it has neither entries nor token.
    let page = client.list_entries(list(2, "")).await?.into_inner();
    assert_eq!(page.entries.len(), 2);
    let last = client
        .list_entries(list(2, &page.next_page_token))
        .await?
        .into_inner();
    assert_eq!(last.entries.len(), 1);
    assert!(last.next_page_token.parse::<u64>()? > page.next_page_token.parse::<u64>()?);
    let behind = client
        .list_entries(list(2, &last.next_page_token))
        .await?
        .into_inner();
    assert_eq!(
        (behind.entries.len(), behind.next_page_token.as_str()),
        (0, "")
    );

    for token in ["next", "-1", "1.5", "18446744073709551616"] {
        let refused = client.list_entries(list(2, token)).await;
        let status = refused.err().map(|s| (s.code(), s.message().to_owned()));
        let text = format!("failed to list entries: could not parse token '{token}'");
        assert_eq!(status, Some((Code::InvalidArgument, text)));
    }
    Ok(())
}
