//! Many entries, listed by pages of 500.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::bundle::v1::BatchSetFederatedBundleRequest;
use chancery_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use chancery_api::spire::api::server::entry::v1::{
    CountEntriesRequest, count_entries_request, list_entries_request,
};
use chancery_api::spire::api::types;
use chancery_tests::cluster::{Cluster, Node, Options, count, eventually};
use chancery_tests::tls::connect_admin;

use super::{Cursor, client, create_all, id, selector};

const KILL: i32 = 9;
const PAGE: i32 = 500;

/// The entry at a place: its fields follow from the place, so that what a filter must find
/// can be told without asking.
fn entry(place: usize) -> types::Entry {
    let path = match place % 3 {
        0 => "/shared".to_owned(),
        _ => format!("/w/{place}"),
    };
    types::Entry {
        parent_id: id(&format!("/host/{}", place % 7)),
        spiffe_id: id(&path),
        selectors: vec![
            selector("place", &place.to_string()),
            selector("tenth", &(place % 10).to_string()),
        ],
        hint: if place.is_multiple_of(11) {
            "eleven"
        } else {
            ""
        }
        .into(),
        downstream: place.is_multiple_of(13),
        federates_with: [(17, "a.test"), (34, "b.test")]
            .into_iter()
            .filter(|(of, _)| place.is_multiple_of(*of))
            .map(|(_, domain)| domain.to_owned())
            .collect(),
        ..Default::default()
    }
}

fn by_selectors(rule: i32, selectors: Vec<types::Selector>) -> Option<types::SelectorMatch> {
    Some(types::SelectorMatch {
        selectors,
        r#match: rule,
    })
}

fn by_federates_with(rule: i32, trust_domains: &[&str]) -> Option<types::FederatesWithMatch> {
    Some(types::FederatesWithMatch {
        trust_domains: trust_domains.iter().map(ToString::to_string).collect(),
        r#match: rule,
    })
}

type Filter = list_entries_request::Filter;
type Case = (&'static str, Filter, fn(usize) -> bool);

/// A filter of each kind, and whom it must find.
fn cases() -> Vec<Case> {
    let tenth = |n: usize| selector("tenth", &n.to_string());
    let place = |n: usize| selector("place", &n.to_string());
    vec![
        ("everything", Filter::default(), |_| true),
        (
            "by SPIFFE ID, shared by a third",
            Filter {
                by_spiffe_id: id("/shared"),
                ..Default::default()
            },
            |n| n % 3 == 0,
        ),
        (
            "by parent ID",
            Filter {
                by_parent_id: id("/host/4"),
                ..Default::default()
            },
            |n| n % 7 == 4,
        ),
        (
            "by hint",
            Filter {
                by_hint: Some("eleven".into()),
                ..Default::default()
            },
            |n| n % 11 == 0,
        ),
        (
            "by downstream",
            Filter {
                by_downstream: Some(true),
                ..Default::default()
            },
            |n| n % 13 == 0,
        ),
        (
            "by exactly these selectors",
            Filter {
                by_selectors: by_selectors(0, vec![tenth(7), place(1007)]),
                ..Default::default()
            },
            |n| n == 1007,
        ),
        (
            "by a subset of these selectors",
            Filter {
                by_selectors: by_selectors(1, vec![tenth(7), place(1007), place(1017), place(8)]),
                ..Default::default()
            },
            |n| n == 1007 || n == 1017,
        ),
        (
            "by a superset of these selectors",
            Filter {
                by_selectors: by_selectors(2, vec![tenth(3)]),
                ..Default::default()
            },
            |n| n % 10 == 3,
        ),
        (
            "by any of these selectors",
            Filter {
                by_selectors: by_selectors(3, vec![tenth(3), tenth(4), place(1005)]),
                ..Default::default()
            },
            |n| n % 10 == 3 || n % 10 == 4 || n == 1005,
        ),
        (
            "by exactly these trust domains",
            Filter {
                by_federates_with: by_federates_with(0, &["a.test", "b.test"]),
                ..Default::default()
            },
            |n| n % 34 == 0,
        ),
        (
            "by a subset of these trust domains",
            Filter {
                by_federates_with: by_federates_with(1, &["a.test"]),
                ..Default::default()
            },
            |n| n % 34 == 17,
        ),
        (
            "by a superset of these trust domains",
            Filter {
                by_federates_with: by_federates_with(2, &["a.test"]),
                ..Default::default()
            },
            |n| n % 17 == 0,
        ),
        (
            "by any of these trust domains",
            Filter {
                by_federates_with: by_federates_with(3, &["b.test", "c.test"]),
                ..Default::default()
            },
            |n| n % 34 == 0,
        ),
        (
            "by several",
            Filter {
                by_spiffe_id: id("/shared"),
                by_parent_id: id("/host/0"),
                by_hint: Some("eleven".into()),
                ..Default::default()
            },
            |n| n % (3 * 7 * 11) == 0,
        ),
        (
            "nothing",
            Filter {
                by_hint: Some("twelve".into()),
                ..Default::default()
            },
            |_| false,
        ),
    ]
}

async fn counted(node: &Node, filter: Filter) -> anyhow::Result<usize> {
    let filter = count_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    };
    let request = CountEntriesRequest {
        filter: Some(filter),
    };
    let answer = client(node).await?.count_entries(request).await?;
    Ok(usize::try_from(answer.into_inner().count)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_complete_from_each_node_by_each_filter_and_across_a_change_of_leaders()
-> anyhow::Result<()> {
    let cluster = Cluster::start(&Options {
        keys: "memory",
        ..Options::default()
    })?;
    let total = count(3_000, 100_000);
    let first = &cluster.nodes()[0];
    know_bundles(&cluster, first, &["a.test", "b.test"]).await?;
    let watch = Instant::now();
    let ids = create_all(first, (0..total).map(entry).collect()).await?;
    println!("listing: {total} entries created in {:?}", watch.elapsed());
    ensure!(ids.len() == total);

    for node in cluster.nodes() {
        for (what, filter, finds) in cases() {
            let wanted: Vec<&String> = (0..total).filter(|n| finds(*n)).map(|n| &ids[n]).collect();
            let watch = Instant::now();
            let found = Cursor::new(Some(filter.clone()), PAGE).finish(node).await?;
            let listed = watch.elapsed();
            ensure!(
                found.iter().eq(wanted.iter().copied()),
                "{what} at node {}: {} entries instead of {}, or in another order",
                node.id,
                found.len(),
                wanted.len()
            );
            let counted = counted(node, filter).await?;
            ensure!(counted == wanted.len(), "{what}: counted {counted}");
            println!(
                "listing: node {}, {what}: {} entries in {listed:?}",
                node.id,
                found.len()
            );
            // What is quadratic takes minutes for 100,000 entries.
            ensure!(
                listed < Duration::from_secs(60),
                "{what} took {listed:?} at node {}",
                node.id
            );
        }
    }
    across_a_change_of_leaders(&cluster, &ids).await
}

/// Makes bundles known, so that entries may federate; whose root it is does not matter here.
async fn know_bundles(cluster: &Cluster, node: &Node, names: &[&str]) -> anyhow::Result<()> {
    let root = cluster.trust()?.roots.into_iter().next();
    let asn1 = root.context("a root")?;
    let bundle = |name: &&str| types::Bundle {
        trust_domain: (*name).into(),
        x509_authorities: vec![types::X509Certificate {
            asn1: asn1.clone(),
            tainted: false,
        }],
        ..Default::default()
    };
    let request = BatchSetFederatedBundleRequest {
        bundle: names.iter().map(bundle).collect(),
        output_mask: None,
    };
    let mut client = BundleClient::new(connect_admin(&node.admin_socket).await?);
    let answer = client.batch_set_federated_bundle(request).await?;
    for result in answer.into_inner().results {
        let status = result.status.unwrap_or_default();
        ensure!(status.code == 0, "{}", status.message);
    }
    Ok(())
}

/// Three lists are under way when the leader is killed: two from the nodes that stay, one
/// from the leader, which goes on elsewhere with its token.
#[allow(clippy::print_stdout, reason = "a long run tells what it saw")]
async fn across_a_change_of_leaders(cluster: &Cluster, ids: &[String]) -> anyhow::Result<()> {
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let (gone, stay): (Vec<&Node>, Vec<&Node>) =
        cluster.nodes().iter().partition(|node| node.id == leader);
    let gone = *gone.first().context("the leader")?;
    let mut lists = Vec::new();
    for node in [gone, stay[0], stay[1]] {
        let mut list = Cursor::new(None, PAGE);
        let mut client = client(node).await?;
        while list.ids.len() < ids.len() / 3 {
            list.page(&mut client).await?;
        }
        lists.push(list);
    }
    cluster.signal(&leader, KILL)?;
    for (list, node) in lists.into_iter().zip([stay[0], stay[1], stay[0]]) {
        ensure!(!list.done && list.pages > 1, "the list was over too soon");
        let found = list.finish(node).await?;
        ensure!(
            found == ids,
            "the list that was interrupted has {} entries instead of {}, or in another order",
            found.len(),
            ids.len()
        );
    }
    let next = eventually("another leader", Duration::from_secs(30), || async {
        let named = cluster.status(stay[0])?["leader"]
            .as_str()
            .map(str::to_owned);
        Ok(named.filter(|id| *id != leader))
    });
    println!("listing: leader {leader} was killed, {} leads", next.await?);
    // And the same again under the new one.
    for node in stay {
        ensure!(Cursor::new(None, PAGE).finish(node).await? == ids);
    }
    Ok(())
}
