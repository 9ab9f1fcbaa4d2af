//! Administrators of other trust domains, and federation relationships.

use super::*;

#[tokio::test]
async fn an_administrator_of_another_trust_domain_needs_its_bundle() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, _, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let (authority, impostor) = (Authority::of("admins.test")?, Authority::of("admins.test")?);
    let operator = authority.svid(FOREIGN_ADMIN)?;
    let call = |identity: ClientIdentity| async move {
        let channel = connect(&three.api, &cluster.trust()?, Some(&identity), None).await?;
        let request = api::CountBundlesRequest {};
        let answer = BundleClient::new(channel).count_bundles(request).await;
        anyhow::Ok(answer?.into_inner().count)
    };
    assert!(call(operator.clone()).await.is_err(), "there is no bundle");
    set(
        one,
        types::Bundle {
            trust_domain: "admins.test".into(),
            x509_authorities: vec![certificate(&authority.root)],
            ..Default::default()
        },
    )
    .await?;
    let count = eventually("the administrator is known", PATIENCE, || async {
        Ok(call(operator.clone()).await.ok())
    });
    assert!(count.await? >= 2);
    // Neither another ID of that trust domain nor another authority.
    let other = authority.svid("spiffe://admins.test/other")?;
    assert!(call(other).await.is_err());
    assert!(call(impostor.svid(FOREIGN_ADMIN)?).await.is_err());
    assert_eq!(delete(one, "admins.test", Mode::Restrict).await?, ok());
    eventually("the administrator is refused", PATIENCE, || async {
        Ok(call(operator.clone()).await.is_err().then_some(()))
    })
    .await
}

fn relationship(name: &str, id: Option<&str>) -> types::FederationRelationship {
    let profile = match id {
        None => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
        Some(id) => BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
            endpoint_spiffe_id: id.into(),
        }),
    };
    types::FederationRelationship {
        trust_domain: name.into(),
        bundle_endpoint_url: format!("https://{name}/bundle"),
        bundle_endpoint_profile: Some(profile),
        trust_domain_bundle: None,
    }
}

#[tokio::test]
async fn relationships_are_records_that_every_node_tells() -> anyhow::Result<()> {
    use relationships as api;
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let with_bundle = types::FederationRelationship {
        trust_domain_bundle: Some(bundle("a.rel.test")?),
        ..relationship("a.rel.test", None)
    };
    let spiffe = relationship("b.rel.test", Some("spiffe://c.rel.test/bundle"));
    let request = api::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![
            with_bundle.clone(),
            with_bundle.clone(),
            relationship("example.org", None),
            types::FederationRelationship {
                bundle_endpoint_url: "http://b.rel.test".into(),
                ..spiffe.clone()
            },
            spiffe.clone(),
        ],
        output_mask: None,
    };
    let mut client = trust_domains(one).await?;
    let created = client.batch_create_federation_relationship(request);
    let results = created.await?.into_inner().results;
    let told = results.iter().map(|r| words(r.status.clone()));
    assert_eq!(
        told.collect::<anyhow::Result<Vec<_>>>()?,
        [
            ok(),
            (
                Code::Internal,
                "failed to create federation relationship: datastore-sql: UNIQUE constraint \
                 failed: federated_trust_domains.trust_domain"
                    .into()
            ),
            (
                Code::InvalidArgument,
                "unable to create federation relationship for server trust domain".into()
            ),
            (
                Code::InvalidArgument,
                "failed to convert federation relationship: bundle endpoint URL must use the \
                 https scheme"
                    .into()
            ),
            ok(),
        ]
    );
    let log = std::fs::read_to_string(&one.log)?;
    assert!(log.contains("bundle not found for the endpoint SPIFFE ID trust domain"));
    assert_eq!(
        get(two, "a.rel.test").await??.refresh_hint,
        300,
        "the bundle came with it"
    );
    let get_one = |node, name: &'static str| async move {
        let request = api::GetFederationRelationshipRequest {
            trust_domain: name.into(),
            output_mask: None,
        };
        let mut client = trust_domains(node).await?;
        let answer = client.get_federation_relationship(request).await;
        anyhow::Ok(answer.map(tonic::Response::into_inner))
    };
    for node in [two, three] {
        let request = api::ListFederationRelationshipsRequest::default();
        let mut client = trust_domains(node).await?;
        let listed = client.list_federation_relationships(request).await?;
        let listed = listed.into_inner().federation_relationships;
        assert_eq!(listed, [with_bundle.clone(), spiffe.clone()]);
        assert_eq!(get_one(node, "b.rel.test").await??, spiffe);
    }
    assert_eq!(
        refused(get_one(one, "c.rel.test").await?)?,
        (
            Code::NotFound,
            "federation relationship does not exist".into()
        )
    );

    let update = |relationship: types::FederationRelationship, input_mask| async move {
        let request = api::BatchUpdateFederationRelationshipRequest {
            federation_relationships: vec![relationship],
            input_mask,
            output_mask: None,
        };
        let mut client = trust_domains(three).await?;
        let response = client.batch_update_federation_relationship(request);
        let result = response.await?.into_inner().results.pop();
        result.context("no result")
    };
    let changed = types::FederationRelationship {
        bundle_endpoint_url: "https://new.test".into(),
        ..relationship("b.rel.test", None)
    };
    let mask = types::FederationRelationshipMask {
        bundle_endpoint_url: true,
        ..Default::default()
    };
    let result = update(changed.clone(), Some(mask)).await?;
    let expected = types::FederationRelationship {
        bundle_endpoint_url: "https://new.test".into(),
        ..spiffe
    };
    assert_eq!(words(result.status)?, ok());
    assert_eq!(result.federation_relationship, Some(expected));
    let result = update(changed.clone(), None).await?;
    assert_eq!(result.federation_relationship, Some(changed.clone()));
    assert_eq!(get_one(one, "b.rel.test").await??, changed);
    let result = update(relationship("c.rel.test", None), None).await?;
    assert_eq!(
        words(result.status)?,
        (
            Code::Internal,
            "failed to update federation relationship: unable to fetch federation relationship: \
             record not found"
                .into()
        )
    );

    let refresh = |name: &'static str| async move {
        let request = api::RefreshBundleRequest {
            trust_domain: name.into(),
        };
        refused(trust_domains(two).await?.refresh_bundle(request).await)
    };
    let (code, text) = refresh("a.rel.test").await?;
    assert_eq!(code, Code::Unimplemented);
    assert!(text.starts_with("failed to refresh bundle: "), "{text}");
    assert_eq!(
        refresh("c.rel.test").await?,
        (
            Code::NotFound,
            "no relationship with trust domain \"c.rel.test\"".into()
        )
    );
    assert_eq!(
        refresh("").await?,
        (
            Code::InvalidArgument,
            "failed to parse trust domain: trust domain is missing".into()
        )
    );

    let request = api::BatchDeleteFederationRelationshipRequest {
        trust_domains: ["spiffe://a.rel.test", "a.rel.test", "", "b.rel.test"]
            .map(String::from)
            .into(),
    };
    let deleted = trust_domains(two).await?;
    let deleted = { deleted }
        .batch_delete_federation_relationship(request)
        .await?;
    let told = deleted.into_inner().results;
    let told = told
        .into_iter()
        .map(|r| Ok((r.trust_domain, words(r.status)?.1)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let text = |name: &str, words: &str| (name.to_owned(), words.to_owned());
    assert_eq!(
        told,
        [
            text("a.rel.test", "OK"),
            text("a.rel.test", "federation relationship not found"),
            text("", "missing trust domain"),
            text("b.rel.test", "OK"),
        ]
    );
    let request = api::ListFederationRelationshipsRequest::default();
    let left = client.list_federation_relationships(request).await?;
    assert!(left.into_inner().federation_relationships.is_empty());
    assert_eq!(
        delete(three, "a.rel.test", Mode::Restrict).await?,
        ok(),
        "the bundle stayed"
    );
    Ok(())
}
