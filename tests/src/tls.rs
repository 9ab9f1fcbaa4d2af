//! TLS as an agent does it: the server is checked against the trust bundle and
//! must be `spiffe://TD/spire/server`; names and addresses do not matter.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::x509_svid::{Purpose, verify_chain};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tonic::transport::{Channel, Endpoint, Uri};

/// Whom to trust: a trust domain and its roots.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Trust domain of the server.
    pub trust_domain: TrustDomain,
    /// DER of the roots.
    pub roots: Vec<Vec<u8>>,
}

impl Trust {
    /// Reads the roots from PEM.
    pub fn from_pem(trust_domain: &str, pem: &str) -> anyhow::Result<Self> {
        use rustls::pki_types::pem::PemObject as _;
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(|c| c.map(|c| c.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .context("the bundle is not PEM")?;
        anyhow::ensure!(!roots.is_empty(), "the bundle holds no certificate");
        Ok(Self {
            trust_domain: TrustDomain::parse(trust_domain)?,
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

#[derive(Debug)]
struct ServerIsSpire {
    trust: Trust,
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
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity.clone())
            .chain(intermediates.iter().cloned())
            .collect();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let facts = verify_chain(
            &chain,
            &self.trust.trust_domain,
            &self.trust.roots,
            Purpose::Server,
            now,
        )
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        if facts.id == SpiffeId::server(&self.trust.trust_domain) {
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

/// Connects to a server's agent port.
pub async fn connect(
    address: &str,
    trust: &Trust,
    identity: Option<&ClientIdentity>,
    source: Option<IpAddr>,
) -> anyhow::Result<Channel> {
    connect_behind(address, trust, identity, source, b"").await
}

/// The same, with `header` in front of everything, as a load balancer puts it there.
pub async fn connect_behind(
    address: &str,
    trust: &Trust,
    identity: Option<&ClientIdentity>,
    source: Option<IpAddr>,
    header: &'static [u8],
) -> anyhow::Result<Channel> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ServerIsSpire {
        trust: trust.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = identity
                .chain
                .iter()
                .map(|der| CertificateDer::from(der.clone()))
                .collect();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
            config.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let target: SocketAddr = address
        .parse()
        .with_context(|| format!("address {address}"))?;
    let connector = tower::service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move {
            let socket = TcpSocket::new_v4()?;
            if let Some(source) = source {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            let mut stream = socket.connect(target).await?;
            stream.set_nodelay(true)?;
            stream.write_all(header).await?;
            let name = ServerName::from(target.ip());
            let stream = tokio_rustls::TlsConnector::from(config)
                .connect(name, stream)
                .await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://server").connect_timeout(Duration::from_secs(5));
    let channel = endpoint.connect_with_connector(connector).await;
    channel.with_context(|| format!("cannot connect to {address}"))
}

/// Connects to a server's admin socket.
pub async fn connect_admin(path: &std::path::Path) -> anyhow::Result<Channel> {
    let path = path.to_path_buf();
    let shown = path.display().to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            tokio::net::UnixStream::connect(path)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://admin").connect_timeout(Duration::from_secs(5));
    endpoint
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("cannot connect to {shown}"))
}
