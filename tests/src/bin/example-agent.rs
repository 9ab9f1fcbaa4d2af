//! The example client of the agent protocol, for the demo: attests with a join
//! token, or goes on with what an earlier run left, and writes a workload's SVID.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chancery_tests::agent::{Agent, Svid, pem};
use chancery_tests::tls::Trust;
use clap::Parser;

/// Speaks the agent protocol once: attest (first run), sync, sign.
#[derive(Parser)]
struct Args {
    /// host:port of a server.
    #[arg(long)]
    server: String,
    /// Trust domain of the server.
    #[arg(long)]
    trust_domain: String,
    /// PEM bundle to trust.
    #[arg(long)]
    bundle: PathBuf,
    /// File with a join token; only for the first run.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Folder for the agent's SVID and the workload's: agent.pem, agent.key,
    /// svid.pem, svid.key, svid.jwt.
    #[arg(long)]
    dir: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir)?;
    let bundle = std::fs::read_to_string(&args.bundle).context("--bundle")?;
    let trust = Trust::from_pem(&args.trust_domain, &bundle)?;
    let agent = match &args.token_file {
        Some(file) => {
            let token = std::fs::read_to_string(file).context("--token-file")?;
            let agent = Agent::attest(&args.server, &trust, token.trim(), None).await?;
            write_secret(
                &args.dir.join("agent.key"),
                &pem("PRIVATE KEY", &agent.svid.key),
            )?;
            std::fs::write(args.dir.join("agent.pem"), chain_pem(&agent.svid))?;
            std::fs::write(args.dir.join("agent.id"), &agent.svid.id)?;
            say(&format!("attested as {}", agent.svid.id));
            agent
        }
        None => load(&args.dir, trust)?,
    };
    let svids = agent.round(&args.server).await?;
    ensure!(
        !svids.is_empty(),
        "no entry is registered for {}",
        agent.svid.id
    );
    let channel = agent.connect(&args.server).await?;
    let entries = agent.sync(channel.clone()).await?;
    for (svid, entry) in svids.iter().zip(&entries) {
        write_secret(&args.dir.join("svid.key"), &pem("PRIVATE KEY", &svid.key))?;
        std::fs::write(args.dir.join("svid.pem"), chain_pem(svid))?;
        let token = agent
            .jwt(channel.clone(), &entry.id, "demo")
            .await
            .context("NewJWTSVID")?;
        write_secret(&args.dir.join("svid.jwt"), &token)?;
        say(&format!(
            "X.509-SVID and JWT-SVID for {} from {}",
            svid.id, args.server
        ));
    }
    Ok(())
}

fn load(dir: &Path, trust: Trust) -> anyhow::Result<Agent> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(dir.join("agent.pem"))?
        .map(|c| c.map(|c| c.to_vec()))
        .collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(dir.join("agent.key"))?
        .secret_der()
        .to_vec();
    let id = std::fs::read_to_string(dir.join("agent.id"))?;
    Ok(Agent {
        trust,
        svid: Svid {
            id,
            chain,
            key,
            expires_at: 0,
        },
        source: None,
    })
}

fn chain_pem(svid: &Svid) -> String {
    svid.chain
        .iter()
        .map(|der| pem("CERTIFICATE", der))
        .collect()
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

#[allow(clippy::print_stdout, reason = "this is what the program says")]
fn say(text: &str) {
    println!("{text}");
}
