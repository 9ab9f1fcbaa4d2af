//! Bundles of other trust domains, and entries that federate with them.

use super::*;

#[tokio::test]
async fn a_federated_bundle_written_on_one_node_is_there_on_each() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let count = |node| async move {
        let mut client = bundles(node).await?;
        let response = client.count_bundles(api::CountBundlesRequest {});
        anyhow::Ok(response.await?.into_inner().count)
    };
    let before = count(one).await?;
    let (a, b) = (bundle("a.seen.test")?, bundle("b.seen.test")?);
    let request = api::BatchCreateFederatedBundleRequest {
        bundle: vec![
            a.clone(),
            a.clone(),
            bundle("example.org")?,
            types::Bundle {
                x509_authorities: vec![certificate(b"malformed")],
                ..b.clone()
            },
            types::Bundle::default(),
            b.clone(),
        ],
        output_mask: None,
    };
    let mut client = bundles(one).await?;
    let created = client.batch_create_federated_bundle(request);
    let results = created.await?.into_inner().results;
    let told = results.iter().map(|r| words(r.status.clone()));
    let told = told.collect::<anyhow::Result<Vec<_>>>()?;
    let invalid = |text: &str| (Code::InvalidArgument, text.to_owned());
    assert_eq!(
        told,
        [
            ok(),
            (Code::AlreadyExists, "bundle already exists".into()),
            invalid("creating a federated bundle for the server's own trust domain is not allowed"),
            invalid(
                "failed to convert bundle: unable to parse X.509 authority: \
                 x509: malformed certificate"
            ),
            invalid("trust domain argument is not valid: trust domain is missing"),
            ok(),
        ]
    );
    assert_eq!(results[0].bundle, Some(a.clone()));
    assert!(results[1..5].iter().all(|r| r.bundle.is_none()));
    for node in [two, three] {
        assert_eq!(get(node, "a.seen.test").await??, a);
        assert_eq!(get(node, "spiffe://b.seen.test").await??, b);
        assert_eq!(count(node).await?, before + 2);
        let mut token = String::new();
        let mut names = Vec::new();
        loop {
            let request = api::ListFederatedBundlesRequest {
                output_mask: Some(types::BundleMask::default()),
                page_size: 1,
                page_token: token,
            };
            let mut client = bundles(node).await?;
            let response = client.list_federated_bundles(request);
            let page = response.await?.into_inner();
            assert!(page.bundles.iter().all(|b| b.jwt_authorities.is_empty()));
            names.extend(page.bundles.into_iter().map(|b| b.trust_domain));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let seen = |name: &str| names.iter().filter(|n| *n == name).count();
        assert_eq!((seen("a.seen.test"), seen("b.seen.test")), (1, 1));
        assert_eq!(seen("example.org"), 0, "the own one is not listed");
    }

    let none = types::BundleMask::default();
    let update = |bundle: types::Bundle, input_mask| async move {
        let request = api::BatchUpdateFederatedBundleRequest {
            bundle: vec![bundle],
            input_mask,
            output_mask: None,
        };
        let mut client = bundles(two).await?;
        let response = client.batch_update_federated_bundle(request);
        let result = response.await?.into_inner().results.pop();
        result.context("no result")
    };
    let other = types::Bundle {
        refresh_hint: 5,
        sequence_number: 99,
        ..bundle("a.seen.test")?
    };
    let hint = types::BundleMask {
        refresh_hint: true,
        ..none
    };
    let result = update(other.clone(), Some(hint)).await?;
    let expected = types::Bundle {
        refresh_hint: 5,
        ..a.clone()
    };
    assert_eq!(words(result.status)?, ok());
    assert_eq!(result.bundle, Some(expected.clone()));
    assert_eq!(get(three, "a.seen.test").await??, expected);
    let result = update(other.clone(), None).await?;
    assert_eq!(result.bundle, Some(other.clone()));
    assert_eq!(get(one, "a.seen.test").await??, other);
    let result = update(bundle("c.seen.test")?, None).await?;
    let not_found = || (Code::NotFound, "bundle not found".to_owned());
    assert_eq!((words(result.status)?, result.bundle), (not_found(), None));

    set(three, a.clone()).await?;
    assert_eq!(get(two, "a.seen.test").await??, a);
    assert_eq!(refused(get(one, "c.seen.test").await?)?, not_found());
    let own = "getting a federated bundle for the server's own trust domain is not allowed";
    assert_eq!(refused(get(one, "example.org").await?)?, invalid(own));
    for name in ["a.seen.test", "b.seen.test"] {
        assert_eq!(delete(two, name, Mode::Restrict).await?, ok());
        assert_eq!(refused(get(one, name).await?)?, not_found());
        assert_eq!(delete(one, name, Mode::Restrict).await?, not_found());
    }
    let own = "removing the bundle for the server trust domain is not allowed";
    assert_eq!(
        delete(one, "example.org", Mode::Delete).await?,
        invalid(own)
    );
    assert_eq!(count(one).await?, before);
    Ok(())
}

#[tokio::test]
async fn entries_federate_with_bundles_that_are_there() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let agent = agent(cluster, two).await?;
    let (a, b) = (bundle("a.with.test")?, bundle("b.with.test")?);
    set(one, a.clone()).await?;
    set(two, b).await?;
    let draft = |path: &str, with: &[&str]| types::Entry {
        federates_with: with.iter().map(|name| (*name).into()).collect(),
        ..cluster.entry(agent.path(), path)
    };
    let drafts = vec![
        draft("/with/1", &["a.with.test", "b.with.test"]),
        draft("/with/2", &["spiffe://a.with.test"]),
        draft("/with/3", &["a.with.test", "c.with.test"]),
        draft("/with/4", &["example.org"]),
    ];
    let created = cluster.create(three, drafts).await?;
    let unknown = |name: &str| {
        let text =
            format!("failed to create entry: unable to find federated bundle \"spiffe://{name}\"");
        (Code::Internal, text)
    };
    let told: Vec<_> = created
        .iter()
        .map(|(status, _)| (Code::from(status.code), status.message.clone()))
        .collect();
    assert_eq!(
        told,
        [ok(), ok(), unknown("c.with.test"), unknown("example.org")]
    );
    let ids: Vec<_> = created
        .iter()
        .filter_map(|(_, entry)| entry.as_ref())
        .map(|entry| entry.id.clone())
        .collect();
    let [first, second] = ids.as_slice() else {
        anyhow::bail!("{ids:?}")
    };

    // The agent reads it on the way that a stock one does.
    let channel = agent.connect(&three.api).await?;
    let told = agent.sync(channel.clone()).await?;
    let with = told.iter().find(|e| e.id == *second).context("an entry")?;
    assert_eq!(with.federates_with, ["a.with.test"]);
    let mut client = BundleClient::new(channel);
    let ask = |name: &str| api::GetFederatedBundleRequest {
        trust_domain: name.into(),
        output_mask: None,
    };
    let told = client.get_federated_bundle(ask("a.with.test")).await?;
    assert_eq!(told.into_inner(), a);
    let not_found = (Code::NotFound, "bundle not found".to_owned());
    let missing = client.get_federated_bundle(ask("c.with.test")).await;
    assert_eq!(refused(missing)?, not_found);
    let denied = client.count_bundles(api::CountBundlesRequest {}).await;
    assert_eq!(refused(denied)?.0, Code::PermissionDenied);

    let kept = "failed to delete federated bundle: datastore-sql: cannot delete bundle; federated \
                with 2 registration entries";
    assert_eq!(
        delete(one, "a.with.test", Mode::Restrict).await?,
        (Code::FailedPrecondition, kept.into())
    );
    assert!(get(two, "a.with.test").await?.is_ok());
    assert_eq!(delete(three, "a.with.test", Mode::Dissociate).await?, ok());
    let after = entry(two, first).await??;
    assert_eq!(after.federates_with, ["b.with.test"]);
    assert_eq!(after.revision_number, 1);
    assert!(entry(one, second).await??.federates_with.is_empty());
    assert_eq!(delete(one, "b.with.test", Mode::Delete).await?, ok());
    for node in [one, two, three] {
        assert_eq!(refused(entry(node, first).await?)?.0, Code::NotFound);
        assert!(entry(node, second).await?.is_ok());
    }
    let told = agent.sync(agent.connect(&one.api).await?).await?;
    assert!(told.iter().all(|e| e.id != *first));

    let unknown_mode = api::BatchDeleteFederatedBundleRequest {
        trust_domains: vec!["a.with.test".into()],
        mode: 3,
    };
    let mut client = bundles(one).await?;
    let answer = client.batch_delete_federated_bundle(unknown_mode);
    assert_eq!(
        refused(answer.await)?,
        (
            Code::InvalidArgument,
            "failed to parse deletion mode: unhandled delete mode \"3\"".into()
        )
    );
    Ok(())
}

#[tokio::test]
async fn a_bundle_goes_with_more_entries_than_one_command_touches() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, _] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let agent = agent(cluster, one).await?;
    set(one, bundle("many.test")?).await?;
    let mut ids = Vec::new();
    for part in 0..3 {
        let draft = |n: usize| types::Entry {
            federates_with: vec!["many.test".into()],
            ..cluster.entry(agent.path(), &format!("/many/{part}/{n}"))
        };
        let drafts = (0..367).map(draft).collect();
        for (status, created) in cluster.create(two, drafts).await? {
            ensure!(status.code == 0, "{}", status.message);
            ids.push(created.context("an entry")?.id);
        }
    }
    assert!(ids.len() > 1000, "more than one command");
    assert_eq!(delete(two, "many.test", Mode::Delete).await?, ok());
    let gone = (Code::NotFound, "bundle not found".to_owned());
    assert_eq!(refused(get(one, "many.test").await?)?, gone);
    for id in ids.iter().step_by(100).chain(ids.last()) {
        assert_eq!(refused(entry(one, id).await?)?.0, Code::NotFound);
    }
    Ok(())
}
