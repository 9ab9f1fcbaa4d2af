//! The own bundle: what is appended, published, and pruned.

use super::*;

async fn own_bundle(channel: Channel) -> Result<types::Bundle, Status> {
    let request = api::GetBundleRequest { output_mask: None };
    let answer = BundleClient::new(channel).get_bundle(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn what_is_appended_to_the_own_bundle_is_trusted_on_each_node() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let admin = connect_admin(&one.admin_socket).await?;
    let before = own_bundle(admin.clone()).await?;
    let (first, second) = (Authority::of("example.org")?, Authority::of("example.org")?);
    let key = jwt_key("appended", 4_000_000_000)?;
    let request = api::AppendBundleRequest {
        // Two in one item, which agents could not read.
        x509_authorities: vec![types::X509Certificate {
            asn1: [first.root.clone(), second.root.clone()].concat(),
            tainted: true,
        }],
        jwt_authorities: vec![key.clone()],
        ..Default::default()
    };
    let mut client = BundleClient::new(admin);
    let appended = client.append_bundle(request.clone()).await?.into_inner();
    let mut expected = before.clone();
    expected.sequence_number += 1;
    expected.x509_authorities.push(certificate(&first.root));
    expected.x509_authorities.push(certificate(&second.root));
    expected.jwt_authorities.push(key.clone());
    assert_eq!(appended, expected);
    let again = client.append_bundle(request.clone()).await?.into_inner();
    assert_eq!(again, expected, "nothing is new, so nothing is counted");
    for node in [two, three] {
        let admin = connect_admin(&node.admin_socket).await?;
        assert_eq!(own_bundle(admin).await?, expected);
    }

    // The handshake trusts it at each node; nobody is an administrator by it.
    let visitor = second.svid("spiffe://example.org/visitor")?;
    for node in [one, two, three] {
        let denied = eventually("a root that is trusted", PATIENCE, || async {
            let channel = connect(&node.api, &cluster.trust()?, Some(&visitor), None).await?;
            let mut client = BundleClient::new(channel);
            let answer = client.count_bundles(api::CountBundlesRequest {}).await;
            let code = answer.err().context("a visitor was served")?.code();
            Ok((code == Code::PermissionDenied).then_some(()))
        });
        denied.await?;
        let anonymous = connect(&node.api, &cluster.trust()?, None, None).await?;
        eventually("the bundle for everyone", PATIENCE, || async {
            Ok((own_bundle(anonymous.clone()).await? == expected).then_some(()))
        })
        .await?;
    }

    let nothing = api::AppendBundleRequest::default();
    let wrong_key = api::AppendBundleRequest {
        jwt_authorities: vec![types::JwtKey {
            key_id: String::new(),
            ..key.clone()
        }],
        ..Default::default()
    };
    let wrong_root = api::AppendBundleRequest {
        x509_authorities: vec![certificate(b"malformed")],
        ..Default::default()
    };
    for (request, text) in [
        (nothing, "no authorities to append"),
        (wrong_key, "failed to convert JWT authority: missing key ID"),
        (
            wrong_root,
            "failed to convert X.509 authority: x509: malformed certificate",
        ),
    ] {
        assert_eq!(
            refused(client.append_bundle(request).await)?,
            (Code::InvalidArgument, text.into())
        );
    }
    // A key id that already names a key names no other.
    let taken = api::AppendBundleRequest {
        jwt_authorities: vec![jwt_key("appended", 4_000_000_000)?],
        ..Default::default()
    };
    assert_eq!(
        refused(client.append_bundle(taken).await)?.0,
        Code::AlreadyExists
    );
    let mask = types::BundleMask {
        sequence_number: true,
        ..Default::default()
    };
    let masked = api::AppendBundleRequest {
        output_mask: Some(mask),
        ..request
    };
    assert_eq!(
        client.append_bundle(masked).await?.into_inner(),
        types::Bundle {
            trust_domain: "example.org".into(),
            sequence_number: expected.sequence_number,
            ..Default::default()
        }
    );
    Ok(())
}

#[tokio::test]
async fn a_downstream_server_publishes_its_keys() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, three] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let agent = agent(cluster, one).await?;
    let draft = types::Entry {
        downstream: true,
        ..cluster.entry(agent.path(), "/downstream")
    };
    let (status, created) = cluster.create(two, vec![draft]).await?.remove(0);
    ensure!(status.code == 0, "{}", status.message);
    let id = created.context("an entry")?.id;
    let channel = agent.connect(&one.api).await?;
    let svid = agent.sign(channel.clone(), &[id]).await?.remove(0);
    let svid = svid.map_err(|status| anyhow::anyhow!(status.message))?;
    let downstream = Agent {
        svid,
        ..agent.clone()
    };
    let mut client = BundleClient::new(downstream.connect(&three.api).await?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let now = i64::try_from(now)?;
    let key = jwt_key("downstream", now + 3600)?;
    let publish =
        |key: Option<types::JwtKey>| api::PublishJwtAuthorityRequest { jwt_authority: key };
    let answer = client.publish_jwt_authority(publish(Some(key.clone())));
    let keys = answer.await?.into_inner().jwt_authorities;
    assert!(keys.contains(&key) && keys.len() > 1, "all keys come back");
    for node in [one, two] {
        let told = own_bundle(connect_admin(&node.admin_socket).await?).await?;
        assert_eq!(told.jwt_authorities, keys);
    }
    assert_eq!(
        refused(client.publish_jwt_authority(publish(None)).await)?,
        (Code::InvalidArgument, "missing JWT authority".into())
    );
    let nameless = types::JwtKey {
        key_id: String::new(),
        ..key.clone()
    };
    assert_eq!(
        refused(client.publish_jwt_authority(publish(Some(nameless))).await)?,
        (
            Code::InvalidArgument,
            "invalid JWT authority: missing key ID".into()
        )
    );
    let unbounded = [
        (jwt_key("endless", 0)?, "missing expiration"),
        (jwt_key("past", now - 1)?, "expired already"),
        (
            jwt_key(&"k".repeat(256), now + 3600)?,
            "key ID is longer than 255 bytes",
        ),
    ];
    for (bad, why) in unbounded {
        assert_eq!(
            refused(client.publish_jwt_authority(publish(Some(bad))).await)?,
            (
                Code::InvalidArgument,
                format!("invalid JWT authority: {why}")
            )
        );
    }
    // One server has its share and no more, and what it published can be taken out again.
    for n in 1..16 {
        let key = jwt_key(&format!("downstream-{n}"), now + 3600)?;
        client.publish_jwt_authority(publish(Some(key))).await?;
    }
    let surplus = jwt_key("downstream-16", now + 3600)?;
    let surplus = client.publish_jwt_authority(publish(Some(surplus)));
    assert_eq!(refused(surplus.await)?.0, Code::ResourceExhausted);
    let admin = connect_admin(&two.admin_socket).await?;
    let mut authorities = LocalAuthorityClient::new(admin.clone());
    let taint = |id: &str| TaintJwtAuthorityRequest {
        authority_id: id.into(),
    };
    let revoke = |id: &str| RevokeJwtAuthorityRequest {
        authority_id: id.into(),
    };
    assert_eq!(
        refused(authorities.taint_jwt_authority(taint("nope")).await)?,
        (Code::InvalidArgument, "unexpected authority ID".into())
    );
    assert_eq!(
        refused(
            authorities
                .revoke_jwt_authority(revoke("downstream-1"))
                .await
        )?,
        (
            Code::Internal,
            "failed to revoke JWT authority: it is not possible to revoke an untainted key".into()
        )
    );
    for n in 1..16 {
        let id = format!("downstream-{n}");
        let tainted = authorities.taint_jwt_authority(taint(&id)).await?;
        let tainted = tainted.into_inner().tainted_authority;
        assert_eq!(tainted.context("a state")?.authority_id, id);
        let marked = own_bundle(admin.clone()).await?.jwt_authorities;
        assert!(marked.iter().any(|key| key.key_id == id && key.tainted));
        authorities.revoke_jwt_authority(revoke(&id)).await?;
    }
    assert_eq!(own_bundle(admin).await?.jwt_authorities, keys);
    let wit = api::PublishWitAuthorityRequest::default();
    assert_eq!(
        refused(client.publish_wit_authority(wit).await)?,
        (
            Code::Unimplemented,
            "WIT-SVID functionality is not yet implemented".into()
        )
    );
    let mut by_agent = BundleClient::new(channel);
    let denied = by_agent.publish_jwt_authority(publish(Some(key))).await;
    assert_eq!(refused(denied)?.0, Code::PermissionDenied);
    Ok(())
}

#[tokio::test]
async fn what_ended_is_pruned_and_the_rest_stays() -> anyhow::Result<()> {
    let turn = shared().await?;
    let cluster: &Cluster = &turn;
    let [one, two, _] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    let admin = connect_admin(&one.admin_socket).await?;
    let before = own_bundle(admin.clone()).await?;
    let ended = jwt_key("ended", 1_000_000_000)?;
    let endless = jwt_key("endless", 0)?;
    let request = api::AppendBundleRequest {
        jwt_authorities: vec![ended.clone(), endless.clone()],
        ..Default::default()
    };
    BundleClient::new(admin).append_bundle(request).await?;
    let admin = connect_admin(&two.admin_socket).await?;
    let pruned = eventually("pruning", PATIENCE, || async {
        let told = own_bundle(admin.clone()).await?;
        Ok((!told.jwt_authorities.contains(&ended)).then_some(told))
    })
    .await?;
    let mut expected = before.clone();
    expected.jwt_authorities.push(endless);
    expected.sequence_number += 2;
    assert_eq!(pruned, expected, "one for appending, one for pruning");
    let told = cluster.nodes().iter().any(|node| {
        let log = std::fs::read_to_string(&node.log).unwrap_or_default();
        log.contains("Pruning JWT signing key due to expiration")
    });
    assert!(told, "{}", cluster.logs());
    Ok(())
}
