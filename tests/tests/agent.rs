//! Chancery's agent as a process: attested by a join token, it serves workloads by the Workload API.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use chancery_api::workload::{
    JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest, X509svidResponse,
};
use chancery_identity::bundle::split_certificates;
use chancery_identity::id::TrustDomain;
use chancery_identity::x509_svid::{Purpose, verify_chain};
use chancery_tests::cluster::{Cluster, Options, bin_dir, eventually, text};
use chancery_tests::tls::connect_admin;
use rustls::pki_types::CertificateDer;
use tonic::transport::Channel;
use tonic::{Code, Request};

const LIMIT: Duration = Duration::from_secs(60);

/// One agent and its folder.
struct Agent {
    dir: tempfile::TempDir,
    child: Child,
}

impl Agent {
    /// Starts one that knows every node of a cluster.
    fn start(cluster: &Cluster, token: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let servers: Vec<_> = cluster.nodes().iter().map(|node| &node.api).collect();
        let bundle = cluster.dir().join("bundle.pem");
        let config = format!(
            "trust_domain = 'example.org'\nservers = {servers:?}\ntrust_bundle_path = '{}'\n\
             data_dir = '{}'\nsocket_path = '{}'\njoin_token_file = '{}'\n",
            bundle.display(),
            path("data"),
            path("public/api.sock"),
            path("token"),
        );
        std::fs::write(path("agent.toml"), config)?;
        let mut file = std::fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path("token"))?;
        std::io::Write::write_all(&mut file, token.as_bytes())?;
        let child = spawn(dir.path())?;
        Ok(Self { dir, child })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("public/api.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn client(&self) -> anyhow::Result<SpiffeWorkloadApiClient<Channel>> {
        let connect = || async { Ok(connect_admin(&self.socket()).await.ok()) };
        let channel = eventually("the Workload API", LIMIT, connect).await;
        let channel = channel.with_context(|| self.log())?;
        Ok(SpiffeWorkloadApiClient::new(channel))
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn spawn(dir: &Path) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("log"))?;
    Ok(Command::new(bin_dir()?.join("chancery-agent"))
        .args(["run", "-config"])
        .arg(dir.join("agent.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?)
}

/// A request with the header that the standard asks of workloads.
fn request<T>(message: T) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("workload.spiffe.io", "true".parse()?);
    Ok(request)
}

/// What is served verifies under the bundle that comes with it; the ids.
fn verified(answer: &X509svidResponse) -> anyhow::Result<Vec<String>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = i64::try_from(now.as_secs())?;
    let mut ids = Vec::new();
    for svid in &answer.svids {
        let chain = split_certificates(&svid.x509_svid)?;
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let roots = split_certificates(&svid.bundle)?;
        let domain = TrustDomain::parse("example.org")?;
        let facts = verify_chain(&chain, &domain, &roots, Purpose::Client, now)?;
        ensure!(facts.id.as_str() == svid.spiffe_id, "{}", svid.spiffe_id);
        rcgen::KeyPair::try_from(svid.x509_svid_key.as_slice())?;
        ids.push(svid.spiffe_id.clone());
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_is_served_what_its_selectors_say_and_nothing_else() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options {
        keys: "memory",
        ..Options::default()
    })?;
    let node = &cluster.nodes()[0];
    let token = cluster.token(node).await?;
    let parent = format!("/spire/agent/join_token/{token}");
    let uid = rustix::process::geteuid().as_raw();
    let entry = |path: &str, selector: String| {
        let mut entry = cluster.entry(&parent, path);
        entry.selectors = vec![chancery_api::spire::api::types::Selector {
            r#type: "unix".into(),
            value: selector,
        }];
        entry
    };
    let mine = entry("/mine", format!("uid:{uid}"));
    let others = entry("/others", format!("uid:{}", uid + 1));
    let made = cluster.create(node, vec![mine, others]).await?;
    ensure!(made.iter().all(|(status, _)| status.code == 0), "{made:?}");
    let mut agent = Agent::start(&cluster, &token)?;
    let mut client = agent.client().await?;

    let mut answers = client.fetch_x509svid(request(X509svidRequest {})?).await?;
    let first = answers.get_mut().message().await?.context("an answer")?;
    ensure!(verified(&first)? == ["spiffe://example.org/mine"]);

    // Without the header it is nobody's.
    let naked = client.fetch_x509svid(X509svidRequest {}).await;
    let status = naked.err().context("no header is refused")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");

    let asked = JwtsvidRequest {
        audience: vec!["db".into()],
        spiffe_id: String::new(),
    };
    let tokens = client
        .fetch_jwtsvid(request(asked.clone())?)
        .await?
        .into_inner();
    ensure!(tokens.svids.len() == 1, "{tokens:?}");
    let svid = tokens.svids[0].svid.clone();
    let again = client.fetch_jwtsvid(request(asked)?).await?.into_inner();
    ensure!(again.svids[0].svid == svid, "it is kept");
    for (audience, good) in [("db", true), ("web", false)] {
        let asked = ValidateJwtsvidRequest {
            audience: audience.into(),
            svid: svid.clone(),
        };
        let judged = client.validate_jwtsvid(request(asked)?).await;
        ensure!(judged.is_ok() == good, "{audience}: {judged:?}");
    }

    // A new entry comes over the stream that is open.
    let more = entry("/more", format!("uid:{uid}"));
    cluster.create(node, vec![more]).await?;
    let next = tokio::time::timeout(LIMIT, answers.get_mut().message()).await;
    let next = next.context("an update")??.context("the stream goes on")?;
    ensure!(verified(&next)?.len() == 2, "{:?}", verified(&next)?);

    // What it keeps is its own, and does for a start without a token.
    let kept = agent.dir.path().join("data/agent.json");
    let mode = std::fs::metadata(&kept)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    agent.kill()?;
    std::fs::remove_file(agent.dir.path().join("token"))?;
    let config = agent.dir.path().join("agent.toml");
    let text_of = std::fs::read_to_string(&config)?;
    let without: Vec<_> = text_of
        .lines()
        .filter(|l| !l.starts_with("join_token"))
        .collect();
    std::fs::write(&config, without.join("\n"))?;
    agent.child = spawn(agent.dir.path())?;
    let socket = agent.socket();
    let fetched = eventually("an answer after a restart", LIMIT, || async {
        let out = agent.dir.path().join("out");
        std::fs::create_dir_all(&out)?;
        let fetched = Command::new(bin_dir()?.join("chancery-agent"))
            .args(["api", "fetch", "x509", "-socketPath"])
            .arg(&socket)
            .arg("-write")
            .arg(&out)
            .output()?;
        Ok(fetched.status.success().then_some(fetched))
    })
    .await?;
    ensure!(
        text(&fetched).contains("Received 2 svids"),
        "{}",
        text(&fetched)
    );
    ensure!(agent.dir.path().join("out/svid.1.key").exists());

    Ok(())
}
