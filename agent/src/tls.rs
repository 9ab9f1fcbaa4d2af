//! TLS towards nodes: a server is checked against the trust bundle and must be
//! `spiffe://TD/spire/server`; names and addresses do not matter.

use std::sync::Arc;

use chancery_identity::id::{IdError, SpiffeId, TrustDomain};
use chancery_identity::x509_svid::{Purpose, verify_chain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

/// Whom to trust: a trust domain and its roots.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Trust domain of the server.
    pub trust_domain: TrustDomain,
    /// DER of the roots.
    pub roots: Vec<Vec<u8>>,
}

/// Why there is nobody to trust.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrustError {
    /// No trust domain has this name.
    #[error(transparent)]
    TrustDomain(#[from] IdError),
    /// It is not PEM.
    #[error("the bundle is not PEM: {0}")]
    Pem(String),
    /// It is PEM of something else.
    #[error("the bundle holds no certificate")]
    Empty,
}

impl Trust {
    /// Reads the roots from PEM.
    ///
    /// # Errors
    /// The trust domain or the PEM is none, or there is no certificate.
    pub fn from_pem(trust_domain: &str, pem: &str) -> Result<Self, TrustError> {
        let trust_domain = TrustDomain::parse(trust_domain)?;
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(|c| c.map(|c| c.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TrustError::Pem(error.to_string()))?;
        if roots.is_empty() {
            return Err(TrustError::Empty);
        }
        Ok(Self {
            trust_domain,
            roots,
        })
    }
}

/// Certificate chain (leaf first, DER) and PKCS#8 key of a client.
#[derive(Clone)]
pub struct ClientIdentity {
    /// Leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub key: Vec<u8>,
}

/// A client's side of connections to nodes. Without `trust` any server of any trust domain is
/// taken at its word, which is for a first connection that an administrator has allowed to be
/// insecure.
///
/// # Errors
/// The identity is none that the provider takes.
pub fn client_config(
    trust: Option<Trust>,
    identity: Option<&ClientIdentity>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ServerIsSpire {
        trust,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = identity.chain.iter();
            let chain = chain.map(|der| CertificateDer::from(der.clone())).collect();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
            config.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct ServerIsSpire {
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerIsSpire {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trust) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity.clone())
            .chain(intermediates.iter().cloned())
            .collect();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let facts = verify_chain(
            &chain,
            &trust.trust_domain,
            &trust.roots,
            Purpose::Server,
            now,
        )
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        if facts.id == SpiffeId::server(&trust.trust_domain) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
