//! Whether a chain proves a SPIFFE ID (X509-SVID §5).
//!
//! Path validation is webpki's; what SPIFFE adds comes after it, on the leaf of a
//! path that already holds. No name is matched and no DNS name is looked at: the
//! result is an identity, and what it may do is decided elsewhere.
//!
//! webpki refuses every URI name below a URI name constraint. That is an upstream
//! authority of its own kind, and its chains are refused here rather than believed
//! without the constraint.
//!
//! No text of an error here contains Go's phrase for an unknown authority: a stock
//! agent that reads it in an error bootstraps its trust anew.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

use super::ca::{CaError, check_signing_certificate};
use super::{Facts, Serial, SerialError};
use crate::certificate::{Certificate, GeneralName, KeyUsage, Tbs, oid, read_validity};
use crate::der::DerError;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::key::{KeyError, PublicKey};

/// Most certificates that a peer's chain may have, leaf included. webpki goes six
/// intermediates deep.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Largest certificate looked at, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// What the peer uses its certificate for. A certificate without extended key usage
/// is good for all (X509-SVID §4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The peer connected to us.
    Client,
    /// We connected to the peer.
    Server,
    /// There is no connection, or either side: one of the two will do.
    Either,
}

/// Why a chain proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No certificate was presented.
    #[error("no certificate was presented")]
    EmptyChain,
    /// More than [`CHAIN_CERTIFICATES_MAX`] certificates, or one larger than
    /// [`CERTIFICATE_BYTES_MAX`].
    #[error("the presented chain is too large")]
    TooLarge,
    /// The time is before 1970.
    #[error("the current time is not a Unix time")]
    Clock,
    /// The leaf is not a certificate.
    #[error("malformed certificate: {0}")]
    Malformed(DerError),
    /// No path leads from the leaf to a root of the trust domain.
    #[error("the presented chain does not lead to a root of trust domain \"{0}\"")]
    UnknownIssuer(TrustDomain),
    /// A certificate on the path has expired.
    #[error("a certificate of the chain has expired")]
    Expired,
    /// A certificate on the path is not valid yet.
    #[error("a certificate of the chain is not valid yet")]
    NotYetValid,
    /// The path is invalid for another reason.
    #[error("invalid certificate path: {0}")]
    Path(webpki::Error),
    /// An intermediate may not sign (X509-SVID §4.3).
    #[error("an intermediate certificate may not sign: {0}")]
    Intermediate(CaError),
    /// Not exactly one URI name (X509-SVID §2).
    #[error("expected one URI SAN but got {0}")]
    UriCount(usize),
    /// The URI name is not a SPIFFE ID.
    #[error("URI SAN is not a SPIFFE ID: {0}")]
    Id(IdError),
    /// The SPIFFE ID has no path (X509-SVID §5.2).
    #[error("\"{0}\" is a trust domain's own ID, not that of a leaf")]
    EmptyPath(SpiffeId),
    /// The ID is of another trust domain than the roots.
    #[error("\"{id}\" is not a member of trust domain \"{trust_domain}\"")]
    ForeignTrustDomain {
        /// In the certificate.
        id: SpiffeId,
        /// The trust domain whose roots were used.
        trust_domain: TrustDomain,
    },
    /// The leaf is a CA (X509-SVID §5.2).
    #[error("the leaf certificate is a CA")]
    LeafIsCa,
    /// The leaf may sign certificates or revocation lists (X509-SVID §5.2).
    #[error("the leaf certificate may sign certificates or revocation lists")]
    LeafSigns,
    /// The leaf's serial number is not valid.
    #[error(transparent)]
    Serial(SerialError),
    /// The leaf's key is not acceptable.
    #[error("leaf key is not acceptable: {0}")]
    Key(KeyError),
}

/// Verifies that `chain`, leaf first, leads to one of `roots` and proves an ID of
/// `trust_domain`. The roots must be those of that trust domain's bundle: roots
/// vouch for no other (SPIFFE Trust Domain and Bundle §3). Roots that cannot be
/// read are passed over, so that one bad item does not take down the others; so are
/// roots outside their own validity at `now`, of which a path validator knows nothing
/// (RFC 5280 §6.1.1 (d) leaves it to us, Go's verifier demands it).
///
/// # Errors
/// [`VerifyError`].
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    trust_domain: &TrustDomain,
    roots: &[Vec<u8>],
    purpose: Purpose,
    now: i64,
) -> Result<Facts, VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::EmptyChain)?;
    let oversized = chain.iter().any(|der| der.len() > CERTIFICATE_BYTES_MAX);
    if chain.len() > CHAIN_CERTIFICATES_MAX || oversized {
        return Err(VerifyError::TooLarge);
    }
    let seconds = u64::try_from(now).map_err(|_| VerifyError::Clock)?;
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));

    let roots: Vec<CertificateDer<'_>> = roots.iter().map(|der| der.as_slice().into()).collect();
    let (mut anchors, mut untimely) = (Vec::with_capacity(roots.len()), Vec::new());
    for der in &roots {
        let (Ok(anchor), Ok(validity)) =
            (webpki::anchor_from_trusted_cert(der), read_validity(der))
        else {
            continue;
        };
        let (not_before, not_after) = validity;
        if now < not_before {
            untimely.push((anchor, VerifyError::NotYetValid));
        } else if now > not_after {
            untimely.push((anchor, VerifyError::Expired));
        } else {
            anchors.push(anchor);
        }
    }
    let path_error = |error| describe(error, trust_domain);
    let end_entity = EndEntityCert::try_from(leaf).map_err(path_error)?;
    let leads_to = |anchors: &[TrustAnchor<'_>]| {
        let path = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            anchors,
            intermediates,
            time,
            purpose,
            None,
            None,
        );
        path.map_err(path_error)
            .and_then(|path| check_intermediates(&path))
    };
    if let Err(error) = leads_to(&anchors) {
        // Why there is no path, where one would lead to a root of another time. Roots of
        // one cluster share their name, so the first error may be about any of them.
        let why = untimely
            .into_iter()
            .find_map(|(anchor, why)| leads_to(&[anchor]).is_ok().then_some(why));
        return Err(why.unwrap_or(error));
    }

    let facts = read_svid(leaf)?;
    if !facts.id.is_member_of(trust_domain) {
        return Err(VerifyError::ForeignTrustDomain {
            id: facts.id,
            trust_domain: trust_domain.clone(),
        });
    }
    Ok(facts)
}

/// Reads an X.509-SVID by the rules for leaves, trusting nothing about who signed
/// it: what an agent's own file says, or the certificate of a connection that was
/// verified when it was made.
///
/// # Errors
/// [`VerifyError`].
pub fn read_svid(der: &[u8]) -> Result<Facts, VerifyError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(VerifyError::TooLarge);
    }
    let certificate = Certificate::parse(der).map_err(VerifyError::Malformed)?;
    let tbs = &certificate.tbs;
    check_leaf(tbs)?;
    let id = read_id(tbs)?;
    let extensions = &tbs.extensions;
    let ski = extensions.subject_key_id.as_ref();
    let aki = extensions.authority_key_id.as_ref();
    Ok(Facts {
        id,
        serial: Serial::from_content(tbs.serial).map_err(VerifyError::Serial)?,
        not_before: tbs.not_before.at,
        not_after: tbs.not_after.at,
        ski: ski.map(|known| known.value.to_vec()).unwrap_or_default(),
        aki: aki.and_then(|known| known.value).map(<[u8]>::to_vec),
        public_key: PublicKey::from_spki_der(tbs.spki).map_err(VerifyError::Key)?,
    })
}

/// X509-SVID §5.2: a leaf is no CA and signs neither certificates nor lists.
fn check_leaf(tbs: &Tbs<'_>) -> Result<(), VerifyError> {
    let constraints = tbs.extensions.basic_constraints.as_ref();
    if constraints.is_some_and(|known| known.value.ca) {
        return Err(VerifyError::LeafIsCa);
    }
    let usage = tbs.extensions.key_usage.as_ref();
    let signs = KeyUsage::KEY_CERT_SIGN | KeyUsage::CRL_SIGN;
    if usage.is_some_and(|known| known.value.has(signs)) {
        return Err(VerifyError::LeafSigns);
    }
    Ok(())
}

/// X509-SVID §2 and §5.2: exactly one URI name, a SPIFFE ID with a path. DNS names
/// and others may stand beside it.
fn read_id(tbs: &Tbs<'_>) -> Result<SpiffeId, VerifyError> {
    let names = tbs
        .extensions
        .subject_alt_name
        .iter()
        .flat_map(|san| &san.value);
    let uris: Vec<&str> = names
        .filter_map(|name| match name {
            GeneralName::Uri(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else {
        return Err(VerifyError::UriCount(uris.len()));
    };
    let id = SpiffeId::parse(uri).map_err(VerifyError::Id)?;
    if id.path().is_empty() {
        return Err(VerifyError::EmptyPath(id));
    }
    Ok(id)
}

/// webpki checks the CA bit of intermediates but not their key usage.
fn check_intermediates(path: &VerifiedPath<'_>) -> Result<(), VerifyError> {
    path.intermediate_certificates()
        .try_for_each(|certificate| check_signing_certificate(&certificate.der()))
        .map_err(VerifyError::Intermediate)
}

fn describe(error: webpki::Error, trust_domain: &TrustDomain) -> VerifyError {
    match error {
        webpki::Error::UnknownIssuer => VerifyError::UnknownIssuer(trust_domain.clone()),
        webpki::Error::CertExpired { .. } => VerifyError::Expired,
        webpki::Error::CertNotValidYet { .. } => VerifyError::NotYetValid,
        webpki::Error::CaUsedAsEndEntity => VerifyError::LeafIsCa,
        other => VerifyError::Path(other),
    }
}

/// RFC 5280 §4.2.1.12: absent means any; present must include ours.
impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        use webpki::KeyPurposeId;
        let client = KeyPurposeId::new(oid::CLIENT_AUTH);
        let server = KeyPurposeId::new(oid::SERVER_AUTH);
        let mut absent = true;
        for purpose in purposes {
            absent = false;
            let purpose = purpose?;
            let fits = match self {
                Purpose::Client => purpose == client,
                Purpose::Server => purpose == server,
                Purpose::Either => purpose == client || purpose == server,
            };
            if fits {
                return Ok(());
            }
        }
        if absent {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(
            webpki::RequiredEkuNotFoundContext {
                required: match self {
                    Purpose::Server => webpki::KeyUsage::server_auth(),
                    Purpose::Client | Purpose::Either => webpki::KeyUsage::client_auth(),
                },
                present: Vec::new(),
            },
        ))
    }
}

#[cfg(test)]
mod tests;
