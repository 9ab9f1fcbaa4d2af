//! x509pop: the node holds the key of a certificate that is rooted where we trust.
//!
//! In `external_pki` mode the roots are files, read once when the server starts; in
//! `spiffe` mode they are the cluster's own trust bundle, and an X.509-SVID is exchanged
//! for an agent's. The order of the checks, their codes and their words are SPIRE's.
//!
//! A no in `spiffe` mode is said only when this node knows every authority there is, and
//! the chain is judged again after the proof if they have changed meanwhile.
//!
//! What is weaker than SPIRE and why stands with [`chancery_identity::pki`].

mod facts;
mod proof;
pub mod wire;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::pki::{self, Certificate, ChainError};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use self::proof::Challenge;
use super::template::{Data, Template};
use super::{AttestError, Attestation, Node, NodeAttestor, Rounds};
use crate::environment::random;

/// Name of the method.
pub const NAME: &str = "x509pop";
/// Path template of the `external_pki` mode where none is configured.
const TEMPLATE_EXTERNAL: &str = "/{{ .PluginName }}/{{ .Fingerprint }}";
/// Path template of the `spiffe` mode where none is configured.
const TEMPLATE_SPIFFE: &str = "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}";

/// Checks of certificates and signatures at once: whoever connects may ask for them, and
/// the processors are for everybody.
const CHECKS_MAX: usize = 2;
/// Checks that wait for their turn at most; one more is sent away.
const CHECKS_WAITING_MAX: usize = 64;

/// The cluster's own authorities.
#[async_trait]
pub trait OwnAuthorities: Send + Sync {
    /// DER of each, as this node knows them at this moment.
    fn known(&self) -> Vec<Vec<u8>>;

    /// Returns when this node knows all that was decided before the call.
    ///
    /// # Errors
    /// UNAVAILABLE without a quorum.
    async fn exact(&self) -> Result<(), Status>;
}

/// Where the chains must end.
pub enum Roots {
    /// At these certificates.
    External(Arc<Vec<Certificate>>),
    /// At the cluster's own authorities.
    Spiffe {
        /// The authorities.
        authorities: Arc<dyn OwnAuthorities>,
        /// How the path of an SVID begins that may become an agent's; ends with a slash.
        prefix: String,
    },
}

/// What an administrator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The agent's path below `/spire/agent`; none is SPIRE's of the mode.
    pub agent_path_template: Option<Template>,
    /// Most certificates between leaf and root that an agent may send.
    pub max_intermediates: usize,
    /// Largest modulus of an RSA key that an agent may send, in bits.
    pub max_rsa_key_size: usize,
    /// Whether the agent must call from an address that its certificate names.
    pub verify_client_ip: bool,
}

/// The method, configured.
pub struct X509Pop {
    trust_domain: TrustDomain,
    roots: Roots,
    template: Template,
    settings: Settings,
    /// The cluster's authorities as they were read last.
    read: Mutex<Arc<Vec<Certificate>>>,
    checks: Checks,
}

/// What was shown, and is judged more than once.
struct Shown {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
}

fn refused<T>(code: Code, message: impl Into<String>) -> Result<T, AttestError> {
    Err(AttestError::refused(code, message))
}

/// Reads the payload in SPIRE's order and words.
///
/// # Errors
/// InvalidArgument.
pub fn read_payload(
    payload: &[u8],
    settings: &Settings,
) -> Result<(Certificate, Vec<Certificate>), AttestError> {
    let invalid = |message: String| AttestError::refused(Code::InvalidArgument, message);
    let certificates = wire::read_payload(payload)
        .map_err(|e| invalid(format!("failed to unmarshal data: {e}")))?;
    let Some((leaf, intermediates)) = certificates.split_first() else {
        return Err(invalid("no certificate to attest".into()));
    };
    if intermediates.len() > settings.max_intermediates {
        return Err(invalid("too many intermediate certificates".into()));
    }
    let too_large = |certificate: &Certificate| {
        let bits = certificate.key().rsa_bits();
        bits.is_some_and(|bits| bits > settings.max_rsa_key_size)
    };
    let leaf = Certificate::parse(leaf)
        .map_err(|e| invalid(format!("unable to parse leaf certificate: {e}")))?;
    if too_large(&leaf) {
        return Err(invalid("leaf certificate key size too large".into()));
    }
    let mut read = Vec::with_capacity(intermediates.len());
    for (at, der) in intermediates.iter().enumerate() {
        let certificate = Certificate::parse(der).map_err(|e| {
            invalid(format!(
                "unable to parse intermediate certificate {at}: {e}"
            ))
        })?;
        if too_large(&certificate) {
            return Err(invalid(format!(
                "intermediate certificate {at} key size too large"
            )));
        }
        read.push(certificate);
    }
    Ok((leaf, read))
}

impl X509Pop {
    /// The method for agents of a trust domain.
    pub fn new(trust_domain: TrustDomain, roots: Roots, settings: Settings) -> Self {
        let default = match roots {
            Roots::External(_) => TEMPLATE_EXTERNAL,
            Roots::Spiffe { .. } => TEMPLATE_SPIFFE,
        };
        let template = settings.agent_path_template.clone().unwrap_or_else(|| {
            Template::parse(default).expect("a test parses the templates of both modes")
        });
        Self {
            trust_domain,
            roots,
            template,
            settings,
            read: Mutex::default(),
            checks: Checks::new(CHECKS_MAX, CHECKS_WAITING_MAX),
        }
    }

    fn roots(&self) -> Result<Arc<Vec<Certificate>>, AttestError> {
        let authorities = match &self.roots {
            Roots::External(roots) => return Ok(Arc::clone(roots)),
            Roots::Spiffe { authorities, .. } => authorities.known(),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if !read.is_empty() && read.iter().map(Certificate::der).eq(&authorities) {
            return Ok(Arc::clone(&read));
        }
        let roots: Result<Vec<_>, _> = authorities.iter().map(|a| Certificate::parse(a)).collect();
        match roots {
            Ok(roots) if roots.is_empty() => refused(
                Code::Internal,
                "failed to get trust bundle: it holds no authority yet",
            ),
            Ok(roots) => {
                *read = Arc::new(roots);
                Ok(Arc::clone(&read))
            }
            Err(e) => refused(Code::Internal, format!("failed to get trust bundle: {e}")),
        }
    }

    /// Judges what was shown: the roots it was held against, and the fingerprints of the
    /// authorities that vouch for it. A no for lack of an authority is said only when this
    /// node knows all there are.
    async fn vouched(
        &self,
        shown: &Arc<Shown>,
        now: i64,
    ) -> Result<(Arc<Vec<Certificate>>, Vec<String>), AttestError> {
        let roots = self.roots()?;
        let mut error = match self.authorities_over(shown, &roots, now).await? {
            Ok(authorities) => return Ok((roots, authorities)),
            Err(error) => error,
        };
        if let Roots::Spiffe { authorities, .. } = &self.roots {
            authorities
                .exact()
                .await
                .map_err(AttestError::Conversation)?;
            let newer = self.roots()?;
            if !Arc::ptr_eq(&newer, &roots) {
                match self.authorities_over(shown, &newer, now).await? {
                    Ok(authorities) => return Ok((newer, authorities)),
                    Err(newer) => error = newer,
                }
            }
        }
        refused(
            Code::PermissionDenied,
            format!("certificate verification failed: {error}"),
        )
    }

    async fn authorities_over(
        &self,
        shown: &Arc<Shown>,
        roots: &Arc<Vec<Certificate>>,
        now: i64,
    ) -> Result<Result<Vec<String>, ChainError>, AttestError> {
        let (shown, roots) = (Arc::clone(shown), Arc::clone(roots));
        let judge = move || {
            let chains = pki::chains(&shown.leaf, &shown.intermediates, &roots, now)?;
            Ok(facts::authorities(&chains))
        };
        self.checks.run(judge).await
    }

    fn check_address(
        &self,
        leaf: &Certificate,
        address: Option<IpAddr>,
    ) -> Result<(), AttestError> {
        if !self.settings.verify_client_ip {
            return Ok(());
        }
        let Some(address) = address else {
            return refused(Code::Internal, "client IP not available for verification");
        };
        let address = address.to_canonical();
        if leaf
            .ip_addresses()
            .iter()
            .any(|own| own.to_canonical() == address)
        {
            return Ok(());
        }
        refused(
            Code::PermissionDenied,
            format!("client IP {address} does not match any certificate IP SAN"),
        )
    }

    /// The path of the leaf's SPIFFE ID without the prefix; empty outside the mode.
    fn trimmed_path(&self, leaf: &Certificate) -> Result<String, AttestError> {
        let Roots::Spiffe { prefix, .. } = &self.roots else {
            return Ok(String::new());
        };
        let Some(id) = leaf.uris().iter().find(|uri| uri.scheme() == "spiffe") else {
            return refused(Code::PermissionDenied, "valid SVID x509 cert not found");
        };
        match id.escaped_path().strip_prefix(prefix.as_str()) {
            Some(rest) => Ok(rest.to_owned()),
            None => refused(Code::PermissionDenied, "x509 cert doesnt match SVID prefix"),
        }
    }

    /// What an agent with a proven certificate is.
    fn attestation(
        &self,
        leaf: &Certificate,
        authorities: &[String],
    ) -> Result<Attestation, AttestError> {
        let trimmed = self.trimmed_path(leaf)?;
        let uri_selectors = facts::uri_selectors(leaf, &self.trust_domain);
        let data = Data {
            certificate: leaf,
            plugin_name: NAME,
            fingerprint: leaf.fingerprint(),
            serial_number_hex: facts::serial_hex(leaf),
            trust_domain: self.trust_domain.as_str(),
            svid_path_trimmed: trimmed,
            uri_san_selectors: uri_selectors.clone(),
        };
        let failed = |why: String| {
            AttestError::refused(Code::Internal, format!("failed to make spiffe id: {why}"))
        };
        let path = self
            .template
            .render(&data)
            .map_err(|e| failed(e.to_string()))?;
        let id = SpiffeId::agent(&self.trust_domain, &path)
            .map_err(|e| failed(format!("invalid agent path suffix {path:?}: {e}")))?;
        Ok(Attestation {
            id,
            attestor: NAME,
            selectors: facts::selectors(leaf, authorities, &uri_selectors),
            can_reattest: true,
            token: None,
        })
    }
}

/// Work that takes a processor for milliseconds, off the threads that serve others, a
/// little of it at a time.
struct Checks {
    running: Arc<Semaphore>,
    /// Those that run and those that wait.
    admitted: Arc<Semaphore>,
}

impl Checks {
    fn new(running: usize, waiting: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running)),
            admitted: Arc::new(Semaphore::new(running + waiting)),
        }
    }

    /// Does `work` when its turn comes. Work that nobody waits for any more keeps its
    /// place until it is done: it takes its processor all the same.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AttestError> {
        let busy = "too many certificates wait to be verified; try again";
        let Ok(admitted) = Arc::clone(&self.admitted).try_acquire_owned() else {
            return refused(Code::Unavailable, busy);
        };
        let Ok(running) = Arc::clone(&self.running).acquire_owned().await else {
            return refused(Code::Unavailable, busy);
        };
        let done = tokio::task::spawn_blocking(move || {
            let _places = (admitted, running);
            work()
        });
        done.await
            .or_else(|e| refused(Code::Internal, format!("the check was cut off: {e}")))
    }
}

#[async_trait]
impl NodeAttestor for X509Pop {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(
        &self,
        payload: Vec<u8>,
        node: Node,
        rounds: &mut dyn Rounds,
    ) -> Result<Attestation, AttestError> {
        let settings = self.settings.clone();
        let read = move || read_payload(&payload, &settings);
        let (leaf, intermediates) = self.checks.run(read).await??;
        let shown = Arc::new(Shown {
            leaf,
            intermediates,
        });
        let (roots, mut authorities) = self.vouched(&shown, node.now).await?;
        self.check_address(&shown.leaf, node.address)?;

        let nonce = random();
        let challenge = Challenge::new(&shown.leaf, nonce).or_else(|why| {
            refused(
                Code::Internal,
                format!("unable to generate challenge: {why}"),
            )
        })?;
        let answer = rounds.challenge(challenge.to_json()).await;
        let answer = answer.map_err(AttestError::Conversation)?;
        let response = wire::read_response(&answer).or_else(|e| {
            refused(
                Code::InvalidArgument,
                format!("unable to unmarshal challenge response: {e}"),
            )
        })?;
        let challenged = Arc::clone(&shown);
        let check = move || Challenge::new(&challenged.leaf, nonce)?.check(&response);
        self.checks.run(check).await?.or_else(|why| {
            refused(
                Code::PermissionDenied,
                format!("challenge response verification failed: {why}"),
            )
        })?;
        // An authority may have been revoked while the agent thought.
        if !Arc::ptr_eq(&self.roots()?, &roots) {
            (_, authorities) = self.vouched(&shown, node.now).await?;
        }
        self.attestation(&shown.leaf, &authorities)
    }
}

#[cfg(test)]
mod tests;
