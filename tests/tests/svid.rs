//! Documents that no workload asks for: minted by administrators, signed for downstream
//! servers; and what the admin socket says of the process.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chancery_api::grpc::health::v1 as health_api;
use chancery_api::grpc::health::v1::health_client::HealthClient;
use chancery_api::spire::api::server::debug::v1::GetInfoRequest;
use chancery_api::spire::api::server::debug::v1::debug_client::DebugClient;
use chancery_api::spire::api::server::logger::v1 as logger_api;
use chancery_api::spire::api::server::logger::v1::logger_client::LoggerClient;
use chancery_api::spire::api::server::svid::v1 as api;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_api::spire::api::types;
use chancery_raft_store::model::DownstreamCa;
use chancery_raft_store::snapshot::Snapshots;
use chancery_raft_store::store::rocks::RocksStore;
use chancery_raft_store::{Registry, StateMachine};
use chancery_tests::agent::{Agent, Svid, key_and_csr, pem};
use chancery_tests::cluster::{Cluster, Node, Options, eventually};
use chancery_tests::tls::{ClientIdentity, Trust, connect, connect_admin};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use tonic::Code;
use tonic::transport::Channel;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const KILL: i32 = 9;
const TERMINATE: i32 = 15;
const STOP: i32 = 19;
const CONTINUE: i32 = 18;

/// A key and a request for these names.
fn request(
    uri: &str,
    dns_names: &[&str],
    organization: &str,
) -> anyhow::Result<(KeyPair, Vec<u8>)> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !organization.is_empty() {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
    }
    params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    for name in dns_names {
        params
            .subject_alt_names
            .push(SanType::DnsName((*name).try_into()?));
    }
    let key = KeyPair::generate()?;
    let der = params.serialize_request(&key)?.der().to_vec();
    Ok((key, der))
}

async fn mint(channel: Channel, csr: Vec<u8>, ttl: i32) -> Result<types::X509svid, tonic::Status> {
    let request = api::MintX509svidRequest { csr, ttl };
    let answer = SvidClient::new(channel).mint_x509svid(request).await?;
    let svid = answer.into_inner().svid;
    svid.ok_or_else(|| tonic::Status::internal("no SVID"))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// openssl's judgement of a leaf below intermediates below roots.
fn openssl_verifies(
    dir: &Path,
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    roots: &[Vec<u8>],
) -> anyhow::Result<()> {
    let file = |name: &str, certificates: &[Vec<u8>]| -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        let text: String = certificates
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect();
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let mut command = Command::new("openssl");
    command
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(file("roots.pem", roots)?);
    if !intermediates.is_empty() {
        command
            .arg("-untrusted")
            .arg(file("between.pem", intermediates)?);
    }
    let output = command
        .arg(file("leaf.pem", &[leaf.to_vec()])?)
        .output()
        .context("openssl")?;
    ensure!(
        output.status.success(),
        "openssl verify: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// URIs and DNS names of a certificate.
fn names(certificate: &X509Certificate<'_>) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    let san = certificate
        .subject_alternative_name()?
        .context("no alternative name")?;
    for name in &san.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            other => anyhow::bail!("another name: {other}"),
        }
    }
    Ok((uris, dns_names))
}

/// An SVID that the admin socket mints, as the identity of a connection.
async fn minted_identity(node: &Node, uri: &str) -> anyhow::Result<ClientIdentity> {
    let (key, csr) = request(uri, &[], "")?;
    let svid = mint(connect_admin(&node.admin_socket).await?, csr, 0).await?;
    Ok(ClientIdentity {
        chain: svid.cert_chain,
        key: key.serialize_der(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_mint_over_the_socket_and_over_the_network() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let trust = cluster.trust()?;
    let first = cluster.nodes()[0].clone();
    let (_, csr) = request(
        "spiffe://example.org/web",
        &["web.example.org", "*.example.com"],
        "Acme",
    )?;
    let socket = connect_admin(&first.admin_socket).await?;
    let svid = mint(socket.clone(), csr, 120).await?;
    let id = svid.id.clone().context("no id")?;
    assert_eq!(
        (id.trust_domain.as_str(), id.path.as_str()),
        ("example.org", "/web")
    );
    let (_, leaf) = X509Certificate::from_der(&svid.cert_chain[0])?;
    assert_eq!(leaf.subject().to_string(), "O=Acme, CN=web.example.org");
    assert_eq!(
        names(&leaf)?,
        (
            vec!["spiffe://example.org/web".to_owned()],
            vec!["web.example.org".to_owned(), "*.example.com".to_owned()]
        )
    );
    let life = svid.expires_at - now();
    ensure!((100..=120).contains(&life), "it lives {life} s");
    openssl_verifies(cluster.dir(), &svid.cert_chain[0], &[], &trust.roots)?;

    // An administrator by entry, on each node.
    let admin_entry = types::Entry {
        admin: true,
        ..cluster.entry("/spire/agent/x", "/admin")
    };
    let created = cluster.create(&first, vec![admin_entry]).await?;
    ensure!(created[0].0.code == 0, "{created:?}");
    let admin = minted_identity(&first, "spiffe://example.org/admin").await?;
    let nobody = minted_identity(&first, "spiffe://example.org/web").await?;
    for node in cluster.nodes() {
        let channel = connect(&node.api, &trust, Some(&admin), None).await?;
        let (_, csr) = request("spiffe://example.org/by-admin", &[], "")?;
        let svid = mint(channel.clone(), csr, 0).await?;
        let (_, leaf) = X509Certificate::from_der(&svid.cert_chain[0])?;
        assert_eq!(leaf.subject().to_string(), "C=US, O=SPIRE");
        openssl_verifies(cluster.dir(), &svid.cert_chain[0], &[], &trust.roots)?;
        let token = SvidClient::new(channel)
            .mint_jwtsvid(api::MintJwtsvidRequest {
                id: Some(types::Spiffeid {
                    trust_domain: "example.org".into(),
                    path: "/api".into(),
                }),
                audience: vec!["a".into(), String::new(), "b".into()],
                ttl: 77,
            })
            .await?;
        let token = token.into_inner().svid.context("no JWT-SVID")?;
        let claims = token.token.split('.').nth(1).context("no claims")?;
        let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
        let wanted = serde_json::json!({
            "sub": "spiffe://example.org/api",
            "aud": ["a", "b"],
            "iat": token.issued_at,
            "exp": token.issued_at + 77,
        });
        assert_eq!(claims, wanted, "and no jti");

        let plain = connect(&node.api, &trust, Some(&nobody), None).await?;
        let (_, csr) = request("spiffe://example.org/by-nobody", &[], "")?;
        let status = mint(plain, csr, 0).await.err().context("minted")?;
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    Ok(())
}

async fn downstream_ca(
    channel: Channel,
    csr: Vec<u8>,
    preferred_ttl: i32,
) -> Result<api::NewDownstreamX509caResponse, tonic::Status> {
    let request = api::NewDownstreamX509caRequest { csr, preferred_ttl };
    let mut client = SvidClient::new(channel);
    let answer = client.new_downstream_x509ca(request).await?;
    Ok(answer.into_inner())
}

/// An agent, and the SVID of a workload of its that may run a downstream server.
async fn nested(cluster: &Cluster, trust: &Trust) -> anyhow::Result<(Agent, ClientIdentity)> {
    let node = &cluster.nodes()[0];
    let token = cluster.token(node).await?;
    let agent = Agent::attest(&node.api, trust, &token, None).await?;
    let entries = vec![
        types::Entry {
            downstream: true,
            ..cluster.entry(agent.path(), "/nested")
        },
        cluster.entry(agent.path(), "/plain"),
    ];
    let created = cluster.create(node, entries).await?;
    let id = created[0].1.clone().context("an entry")?.id;
    let signed = agent.sign(agent.connect(&node.api).await?, &[id]).await?;
    let svid: Svid = signed
        .into_iter()
        .next()
        .context("no result")?
        .map_err(|status| anyhow::anyhow!("{status:?}"))?;
    let identity = ClientIdentity {
        chain: svid.chain,
        key: svid.key,
    };
    Ok((agent, identity))
}

/// Waits until a node's process has ended, and with it its hold on the store.
async fn ended(node: &Node) -> anyhow::Result<()> {
    let proc = PathBuf::from(format!("/proc/{}", node.pid));
    eventually("the end of the node", Duration::from_secs(20), || async {
        let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
        let threads = std::fs::read_dir(proc.join("task")).map_or(0, Iterator::count);
        Ok((stat.is_empty() || (stat.contains(") Z ") && threads <= 1)).then_some(()))
    })
    .await
}

/// What the tables of a stopped node hold.
fn recorded(node: &Node) -> anyhow::Result<Vec<DownstreamCa>> {
    let store = RocksStore::open(&node.data_dir.join("store"))?;
    let snapshots = Snapshots::open(&node.data_dir.join("snapshots"))?;
    let opened: (StateMachine, Registry) = StateMachine::open(Arc::new(store), snapshots)?;
    let registry = opened.1;
    let directory = registry.read();
    Ok(directory
        .downstream_cas()
        .map(|ca| (**ca).clone())
        .collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downstream_ca_is_known_to_a_majority_before_it_leaves() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let trust = cluster.trust()?;
    let (agent, identity) = nested(&cluster, &trust).await?;
    let mut serials = Vec::new();
    for node in cluster.nodes() {
        let channel = connect(&node.api, &trust, Some(&identity), None).await?;
        let (key, csr) = request("spiffe://elsewhere.org/ignored", &["ignored.org"], "No")?;
        let answer = downstream_ca(channel, csr, 3600).await?;
        assert_eq!(answer.x509_authorities, trust.roots);
        let [ca] = answer.ca_cert_chain.as_slice() else {
            anyhow::bail!("{} certificates", answer.ca_cert_chain.len())
        };
        let (_, parsed) = X509Certificate::from_der(ca)?;
        assert_eq!(
            names(&parsed)?,
            (vec!["spiffe://example.org".to_owned()], vec![])
        );
        let subject = parsed.subject().to_string();
        ensure!(
            subject.starts_with("C=US, O=SPIFFE, OU=DOWNSTREAM-1, serialNumber="),
            "{subject}"
        );
        let constraints = parsed.basic_constraints()?.context("no constraints")?;
        ensure!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, None);
        let usage = parsed.key_usage()?.context("no usage")?;
        ensure!(usage.value.key_cert_sign() && usage.value.crl_sign());
        let life = parsed.validity().not_after.timestamp() - now();
        ensure!((3500..=3600).contains(&life), "it lives {life} s");
        serials.push(parsed.serial.to_string());

        // What it signs leads to the root.
        let issuer = rcgen::Issuer::from_ca_cert_der(&ca.as_slice().into(), &key)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://example.org/below".try_into()?)];
        params.use_authority_key_identifier_extension = true;
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let leaf_key = KeyPair::generate()?;
        let leaf = params.signed_by(&leaf_key, &issuer)?;
        openssl_verifies(
            cluster.dir(),
            leaf.der(),
            &answer.ca_cert_chain,
            &trust.roots,
        )?;
        openssl_verifies(cluster.dir(), leaf.der(), &[], &trust.roots)
            .err()
            .context("the leaf verifies without the CA")?;
    }

    // Without a quorum it stays, while what writes nothing is signed as before.
    let last = cluster.nodes()[2].clone();
    let others: Vec<Node> = cluster.nodes()[..2].to_vec();
    let channel = connect(&last.api, &trust, Some(&identity), None).await?;
    let entries = agent.sync(agent.connect(&last.api).await?).await?;
    for other in &others {
        cluster.signal(&other.id, STOP)?;
    }
    let refused = downstream_ca(channel.clone(), key_and_csr()?.1, 0).await;
    let ids = vec![entries[0].id.clone()];
    let signed = agent.sign(agent.connect(&last.api).await?, &ids).await;
    for other in &others {
        cluster.signal(&other.id, CONTINUE)?;
    }
    let status = refused.err().context("a CA left without a quorum")?;
    ensure!(
        matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded),
        "{status:?}"
    );
    ensure!(signed?[0].is_ok(), "a workload's SVID was not signed");

    // The node that answers is gone the moment after: the others know what it signed.
    let answer = eventually("a quorum", Duration::from_secs(20), || async {
        Ok(downstream_ca(channel.clone(), key_and_csr()?.1, 0)
            .await
            .ok())
    })
    .await?;
    cluster.signal(&last.id, KILL)?;
    let (_, ca) = X509Certificate::from_der(&answer.ca_cert_chain[0])?;
    serials.push(ca.serial.to_string());
    ended(&last).await?;
    eventually("a write", Duration::from_secs(30), || async {
        let entry = cluster.entry("/spire/agent/x", "/after");
        let created = cluster.create(&others[0], vec![entry]).await?;
        // A try that was reported as lost may have been applied after all.
        Ok(matches!(created[0].0.code, 0 | 6).then_some(()))
    })
    .await?;
    // It answered when it had applied the write itself, and all before it.
    cluster.signal(&others[0].id, TERMINATE)?;
    ended(&others[0]).await?;
    let known = recorded(&others[0])?;
    for serial in &serials {
        let ca = known.iter().find(|ca| ca.serial == *serial);
        let ca = ca.with_context(|| format!("{serial} is not among {known:?}"))?;
        assert_eq!(ca.caller_path, "/nested");
        ensure!(!ca.entry_id.is_empty() && ca.issued_at < ca.expires_at);
    }
    Ok(())
}

/// Body of a GET.
fn http_body(address: &str, path: &str) -> anyhow::Result<(u16, serde_json::Value)> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let code = head.split(' ').nth(1).context("no code")?.parse()?;
    Ok((code, serde_json::from_str(body)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_tells_of_the_process_and_changes_its_log() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options {
        nodes: 1,
        keys: "memory",
        extra: "[issuance]\ndisable_jwt_svids = true\n",
        ..Options::default()
    })?;
    let node = cluster.nodes()[0].clone();
    let socket = connect_admin(&node.admin_socket).await?;
    let log = || std::fs::read_to_string(&node.log);

    // The level takes effect on what is logged.
    const SIGNED: &str = "Signed X509 SVID";
    let mut logger = LoggerClient::new(socket.clone());
    let told = logger
        .get_logger(logger_api::GetLoggerRequest {})
        .await?
        .into_inner();
    let info = types::LogLevel::Info;
    assert_eq!((told.current_level(), told.launch_level()), (info, info));
    let minted = |path: &'static str| {
        let socket = socket.clone();
        async move {
            let (_, csr) = request(&format!("spiffe://example.org{path}"), &["a.org"], "")?;
            anyhow::Ok(mint(socket, csr, 0).await?)
        }
    };
    minted("/before").await?;
    let new_level = types::LogLevel::Debug.into();
    let told = logger
        .set_log_level(logger_api::SetLogLevelRequest { new_level })
        .await?
        .into_inner();
    assert_eq!(
        (told.current_level(), told.launch_level()),
        (types::LogLevel::Debug, info)
    );
    minted("/during").await?;
    let told = logger
        .reset_log_level(logger_api::ResetLogLevelRequest {})
        .await?
        .into_inner();
    assert_eq!((told.current_level(), told.launch_level()), (info, info));
    minted("/after").await?;
    let log = log()?;
    let signed: Vec<&str> = log.lines().filter(|line| line.contains(SIGNED)).collect();
    let [only] = signed.as_slice() else {
        anyhow::bail!("signed lines: {signed:?}")
    };
    for field in [
        "spiffe_id=spiffe://example.org/during",
        "dns_name=\"a.org\"",
        "serial_num=",
        "expiration=\"20",
    ] {
        ensure!(only.contains(field), "{only} lacks {field}");
    }
    for line in [
        "Logger service configured",
        "GetLogger Called",
        "SetLogLevel Called",
        "new_log_level=\"debug\"",
        "ResetLogLevel Called",
        "JWT-SVID profile is disabled",
    ] {
        ensure!(log.contains(line), "the log lacks {line}");
    }

    // JWT-SVIDs are switched off, X.509-SVIDs are not.
    let request = api::MintJwtsvidRequest {
        audience: vec!["a".into()],
        ..Default::default()
    };
    let status = SvidClient::new(socket.clone())
        .mint_jwtsvid(request)
        .await
        .err()
        .context("a JWT-SVID")?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "JWT functionality is disabled")
    );

    let info = DebugClient::new(socket.clone())
        .get_info(GetInfoRequest {})
        .await?
        .into_inner();
    assert_eq!((info.agents_count, info.entries_count), (0, 0));
    assert_eq!(info.federated_bundles_count, 1, "its own");
    ensure!((0..600).contains(&info.uptime), "{}", info.uptime);
    let chain: Vec<(String, &str)> = info
        .svid_chain
        .iter()
        .map(|cert| {
            let id = cert.id.clone().unwrap_or_default();
            (
                format!("{}{}", id.trust_domain, id.path),
                cert.subject.as_str(),
            )
        })
        .collect();
    let [(leaf, "O=SPIRE,C=US"), (root, subject)] = chain.as_slice() else {
        anyhow::bail!("{chain:?}")
    };
    assert_eq!(
        (leaf.as_str(), root.as_str()),
        ("example.org/spire/server", "example.org")
    );
    ensure!(
        subject.starts_with("SERIALNUMBER=") && subject.ends_with(",O=SPIFFE,C=US"),
        "{subject}"
    );

    let mut health = HealthClient::new(socket);
    let told = health
        .check(health_api::HealthCheckRequest::default())
        .await?
        .into_inner();
    assert_eq!(
        told.status(),
        health_api::health_check_response::ServingStatus::Serving
    );
    let request = || health_api::HealthCheckRequest {
        service: "x".into(),
    };
    let status = health.check(request()).await.err().context("check")?;
    assert_eq!(status.message(), "per-service health is not supported");
    let status = health.watch(request()).await.err().context("watch")?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "method Watch not implemented")
    );

    let subsystems = serde_json::json!({
        "catalog.datastore": {}, "server": {}, "server.ca": {}, "server.ca.rotator": {},
    });
    for path in ["/live", "/ready", "/ready?for=write"] {
        assert_eq!(
            http_body(&node.health, path)?,
            (200, subsystems.clone()),
            "{path}"
        );
    }
    Ok(())
}
