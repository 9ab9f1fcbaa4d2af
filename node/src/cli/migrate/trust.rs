//! `migrate trust`: each of two servers of one trust domain learns the other's authorities.
//!
//! Why it exists: while agents move from one to the other, workloads on both sides meet. With both
//! sets of authorities in both bundles they trust each other, and an agent that learned the target's
//! from the source attests to the target without a new bundle file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chancery_api::spire::api::types::{Bundle, JwtKey, X509Certificate};
use chancery_identity::bundle::split_certificates;
use clap::Args;
use serde::Serialize;

use super::peer;
use crate::cli::error::CliError;
use crate::cli::host::Host;
use crate::cli::output;
use crate::cli::session::{Common, Session};
use crate::cli::text;

/// `migrate trust`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    chancery migrate trust --from-socket /tmp/spire-server/private/api.sock -socketPath /run/chancery/api.sock --dry-run\n  \
    chancery migrate trust --from-socket /tmp/spire-server/private/api.sock -socketPath /run/chancery/api.sock")]
pub(in crate::cli) struct Trust {
    /// Admin socket of the server that agents move away from
    #[arg(long = "from-socket", value_name = "PATH")]
    from_socket: PathBuf,
    /// Says what each bundle lacks, without adding it
    #[arg(long = "dry-run")]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// What a bundle lacks of another.
#[derive(Debug, Default, PartialEq)]
struct Lacking {
    x509: Vec<X509Certificate>,
    jwt: Vec<JwtKey>,
    /// Authorities that nobody should trust any more.
    tainted: usize,
}

impl Lacking {
    fn is_nothing(&self) -> bool {
        self.x509.is_empty() && self.jwt.is_empty()
    }
}

#[derive(Serialize)]
struct Told {
    x509_authorities_added: usize,
    jwt_authorities_added: usize,
    tainted_authorities_left_out: usize,
}

impl Trust {
    pub(super) fn run(self, host: &mut Host<'_>) -> Result<(), CliError> {
        Session::run(&self.common, host, async |session| {
            self.exchange(session).await
        })
    }

    async fn exchange(&self, session: &mut Session<'_, '_>) -> Result<(), CliError> {
        let to_socket = session.socket().to_owned();
        let (source, target, _) = peer::two(session, &self.from_socket, &to_socket).await?;
        let from = source.bundle(session).await?;
        let to = target.bundle(session).await?;
        let target_lacks = lacking(&to, &from)?;
        let source_lacks = lacking(&from, &to)?;
        // The target first: whoever then hears of it through the source finds it ready.
        let mut page = String::new();
        for (name, socket, peer, lacks) in [
            ("target", to_socket.as_path(), &target, &target_lacks),
            ("source", self.from_socket.as_path(), &source, &source_lacks),
        ] {
            if !self.dry_run && !lacks.is_nothing() {
                let (x509, jwt) = (lacks.x509.clone(), lacks.jwt.clone());
                peer.append(session, x509, jwt).await?;
            }
            page.push_str(&line(name, socket, lacks, self.dry_run));
        }
        let text = if session.is_json() {
            output::value_json(&serde_json::json!({
                "dry_run": self.dry_run,
                "source": told(&source_lacks),
                "target": told(&target_lacks),
            }))?
        } else {
            page
        };
        session.out(&text)
    }
}

fn told(lacks: &Lacking) -> Told {
    Told {
        x509_authorities_added: lacks.x509.len(),
        jwt_authorities_added: lacks.jwt.len(),
        tainted_authorities_left_out: lacks.tainted,
    }
}

fn line(name: &str, socket: &Path, lacks: &Lacking, dry_run: bool) -> String {
    let mut line = format!("{name} (unix:{}): ", socket.display());
    if lacks.is_nothing() {
        line.push_str("has the other's authorities already");
    } else {
        let x509 = text::count(lacks.x509.len(), "X.509 authority", "X.509 authorities");
        let jwt = text::count(lacks.jwt.len(), "JWT authority", "JWT authorities");
        let verb = if dry_run { "would add" } else { "added" };
        let _ = write!(line, "{verb} {x509} and {jwt}");
    }
    if lacks.tainted > 0 {
        let tainted = text::count(lacks.tainted, "tainted authority", "tainted authorities");
        let _ = write!(line, "; left out {tainted}");
    }
    line.push('\n');
    line
}

/// What `of` has and `bundle` has not. One item may hold several certificates.
fn lacking(bundle: &Bundle, of: &Bundle) -> Result<Lacking, CliError> {
    let mut certificates = BTreeSet::new();
    for authority in &bundle.x509_authorities {
        certificates.extend(split(&authority.asn1)?);
    }
    let mut keys: BTreeSet<&str> = bundle
        .jwt_authorities
        .iter()
        .map(|key| key.key_id.as_str())
        .collect();
    let mut lacking = Lacking::default();
    for authority in &of.x509_authorities {
        for asn1 in split(&authority.asn1)? {
            if !certificates.insert(asn1.clone()) {
                continue;
            }
            if authority.tainted {
                lacking.tainted += 1;
            } else {
                let tainted = false;
                lacking.x509.push(X509Certificate { asn1, tainted });
            }
        }
    }
    for key in &of.jwt_authorities {
        if !keys.insert(&key.key_id) {
            continue;
        }
        if key.tainted {
            lacking.tainted += 1;
        } else {
            lacking.jwt.push(key.clone());
        }
    }
    Ok(lacking)
}

fn split(asn1: &[u8]) -> Result<Vec<Vec<u8>>, CliError> {
    split_certificates(asn1)
        .map_err(|error| CliError::Answer(format!("malformed X.509 authority: {error}")))
}
