//! x509pop: the node holds the key of a certificate that is rooted where we trust.
//!
//! In `external_pki` mode the roots are files, read once when the server starts; in
//! `spiffe` mode they are the cluster's own trust bundle, and an X.509-SVID is exchanged
//! for an agent's. The order of the checks, their codes and their words are SPIRE's.
//!
//! What is weaker than SPIRE and why stands with [`chancery_identity::pki`].

mod facts;
mod proof;
pub mod wire;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::pki::{self, Certificate};
use tonic::Code;

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

/// Where the chains must end.
pub enum Roots {
    /// At these certificates.
    External(Arc<Vec<Certificate>>),
    /// At the cluster's own authorities.
    Spiffe {
        /// DER of the authorities, as this node knows them at that moment.
        authorities: Box<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>,
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
        }
    }

    fn roots(&self) -> Result<Arc<Vec<Certificate>>, AttestError> {
        let authorities = match &self.roots {
            Roots::External(roots) => return Ok(Arc::clone(roots)),
            Roots::Spiffe { authorities, .. } => authorities(),
        };
        let roots: Result<Vec<_>, _> = authorities.iter().map(|a| Certificate::parse(a)).collect();
        match roots {
            Ok(roots) if roots.is_empty() => refused(
                Code::Internal,
                "failed to get trust bundle: it holds no authority yet",
            ),
            Ok(roots) => Ok(Arc::new(roots)),
            Err(e) => refused(Code::Internal, format!("failed to get trust bundle: {e}")),
        }
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

/// Work that takes a processor for milliseconds, off the threads that serve others.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AttestError> + Send + 'static,
) -> Result<T, AttestError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| refused(Code::Internal, format!("the check was cut off: {e}")))
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
        let (leaf, intermediates) = aside(move || read_payload(&payload, &settings)).await?;
        let roots = self.roots()?;
        let (leaf, authorities) = aside(move || {
            let chains = pki::chains(&leaf, &intermediates, &roots, node.now);
            let authorities = chains.map(|chains| facts::authorities(&chains));
            match authorities {
                Ok(authorities) => Ok((leaf, authorities)),
                Err(e) => refused(
                    Code::PermissionDenied,
                    format!("certificate verification failed: {e}"),
                ),
            }
        })
        .await?;
        self.check_address(&leaf, node.address)?;

        let challenge = Challenge::new(&leaf, random()).or_else(|why| {
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
        challenge.check(&response).or_else(|why| {
            refused(
                Code::PermissionDenied,
                format!("challenge response verification failed: {why}"),
            )
        })?;
        self.attestation(&leaf, &authorities)
    }
}

#[cfg(test)]
mod tests;
