//! Certificates that sign: what must hold for one to be an issuer.

use super::{Serial, SerialError};
use crate::certificate::{Certificate, GeneralName, KeyUsage, Tbs};
use crate::der::DerError;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::key::{KeyError, PublicKey};

/// Why a certificate cannot be an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// Not a certificate.
    #[error("malformed CA certificate: {0}")]
    Malformed(DerError),
    /// Basic constraints are missing or say that it is not a CA (X509-SVID §4.2).
    #[error("cA constraint is not set")]
    NotCa,
    /// Key usage does not let it sign certificates (X509-SVID §4.3).
    #[error("keyCertSign key usage must be set")]
    CannotSign,
    /// Key usage lets it do what no issuer does.
    #[error("only keyCertSign, cRLSign, or digitalSignature key usage can be set")]
    KeyUsage,
    /// More than one URI name (X509-SVID §2).
    #[error("expected at most one URI SAN but got {0}")]
    UriCount(usize),
    /// The URI name is not a SPIFFE ID.
    #[error("URI SAN is not a SPIFFE ID: {0}")]
    Id(IdError),
    /// The SPIFFE ID has a path (X509-SVID §4.1).
    #[error("URI SAN \"{0}\" must not have a path")]
    Path(SpiffeId),
    /// The SPIFFE ID is one of another trust domain.
    #[error("URI SAN \"{found}\" is not that of trust domain \"{expected}\"")]
    TrustDomain {
        /// In the certificate.
        found: TrustDomain,
        /// Ours.
        expected: TrustDomain,
    },
    /// There is no subject key identifier (RFC 5280 §4.2.1.2 demands one of CAs).
    #[error("subject key identifier is missing")]
    NoKeyId,
    /// There is no subject, which RFC 5280 §4.1.2.6 demands of CAs.
    #[error("subject is empty")]
    EmptySubject,
    /// The key is too weak or of a kind that clients cannot read.
    #[error("CA key is not acceptable: {0}")]
    Key(KeyError),
    /// The serial number is not valid.
    #[error(transparent)]
    Serial(SerialError),
}

/// What an issuer's certificate says that its own certificates depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFacts {
    subject: Vec<u8>,
    ski: Vec<u8>,
    public_key: PublicKey,
    serial: Serial,
    not_before: i64,
    not_after: i64,
    trust_domain: Option<TrustDomain>,
    path_len: Option<u32>,
}

impl CaFacts {
    /// Reads a signing certificate by X509-SVID §4 and RFC 5280, leaving room for
    /// what upstream authorities do: no URI name, or digitalSignature besides.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn read(der: &[u8]) -> Result<Self, CaError> {
        let certificate = Certificate::parse(der).map_err(CaError::Malformed)?;
        let tbs = &certificate.tbs;
        let constraints = tbs.extensions.basic_constraints.as_ref();
        let path_len = match constraints.map(|known| known.value) {
            Some(value) if value.ca => value.path_len,
            _ => return Err(CaError::NotCa),
        };
        check_signs(tbs)?;
        let key_id = tbs.extensions.subject_key_id.as_ref();
        let ski = key_id.map(|known| known.value).unwrap_or_default();
        if ski.is_empty() {
            return Err(CaError::NoKeyId);
        }
        if Self::is_empty_name(tbs.subject) {
            return Err(CaError::EmptySubject);
        }
        Ok(CaFacts {
            subject: tbs.subject.to_vec(),
            ski: ski.to_vec(),
            public_key: PublicKey::from_spki_der(tbs.spki).map_err(CaError::Key)?,
            serial: Serial::from_content(tbs.serial).map_err(CaError::Serial)?,
            not_before: tbs.not_before.at,
            not_after: tbs.not_after.at,
            trust_domain: read_trust_domain(tbs)?,
            path_len,
        })
    }

    /// As [`CaFacts::read`], for an authority of `trust_domain`: its URI name, where
    /// it has one, is that trust domain's.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn read_for(trust_domain: &TrustDomain, der: &[u8]) -> Result<Self, CaError> {
        let facts = Self::read(der)?;
        match &facts.trust_domain {
            Some(found) if found != trust_domain => Err(CaError::TrustDomain {
                found: found.clone(),
                expected: trust_domain.clone(),
            }),
            _ => Ok(facts),
        }
    }

    fn is_empty_name(name: &[u8]) -> bool {
        name.len() == 2
    }

    /// The subject, as the DER of a Name.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// The subject key identifier: what its certificates carry as authority key
    /// identifier, and in hex the authority's id.
    #[must_use]
    pub fn ski(&self) -> &[u8] {
        &self.ski
    }

    /// The key that verifies its signatures.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The serial number of the issuer's own certificate.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Unix seconds, inclusive.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Unix seconds, inclusive.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The trust domain it names; upstream authorities may name none.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// How many further CAs may follow below it; none is no limit.
    #[must_use]
    pub fn path_len(&self) -> Option<u32> {
        self.path_len
    }
}

/// X509-SVID §4.3: keyCertSign must be set; what SPIRE admits besides.
fn check_signs(tbs: &Tbs<'_>) -> Result<(), CaError> {
    let usage = tbs.extensions.key_usage.as_ref().map(|known| known.value);
    let usage = usage.ok_or(CaError::CannotSign)?;
    if !usage.has(KeyUsage::KEY_CERT_SIGN) {
        return Err(CaError::CannotSign);
    }
    let allowed = KeyUsage::KEY_CERT_SIGN | KeyUsage::CRL_SIGN | KeyUsage::DIGITAL_SIGNATURE;
    if usage.has(!allowed) {
        return Err(CaError::KeyUsage);
    }
    Ok(())
}

/// The check of [`CaFacts::read`] that path validation by webpki leaves out, for
/// the intermediates of a peer's chain.
pub(super) fn check_signing_certificate(der: &[u8]) -> Result<(), CaError> {
    let certificate = Certificate::parse(der).map_err(CaError::Malformed)?;
    let usage = certificate.tbs.extensions.key_usage.as_ref();
    match usage.map(|known| known.value) {
        Some(usage) if usage.has(KeyUsage::KEY_CERT_SIGN) => Ok(()),
        _ => Err(CaError::CannotSign),
    }
}

fn read_trust_domain(tbs: &Tbs<'_>) -> Result<Option<TrustDomain>, CaError> {
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
    match uris[..] {
        [] => Ok(None),
        [uri] => {
            let id = SpiffeId::parse(uri).map_err(CaError::Id)?;
            if !id.path().is_empty() {
                return Err(CaError::Path(id));
            }
            Ok(Some(id.trust_domain()))
        }
        _ => Err(CaError::UriCount(uris.len())),
    }
}
