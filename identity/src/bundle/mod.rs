//! Trust bundles: the keys that vouch for one trust domain
//! (SPIFFE Trust Domain and Bundle §4).
//!
//! Strict in what is written, so that every client reads it: SPIRE's agents drop a
//! whole bundle for one item that they cannot parse. Lenient where the standard
//! asks for it in what is read, and as strict as SPIRE where SPIRE is asked for.
//! Bundles of two trust domains are never merged; nothing here even tries.

mod jwk;
mod read;
mod write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use read::{DOCUMENT_BYTES_MAX, KEYS_MAX, ReadError, Strictness};

use crate::certificate::Certificate;
use crate::der::{DerError, Reader, tag};
use crate::id::TrustDomain;
use crate::key::{KeyError, PublicKey};

/// Bytes of the id by which an authority of a bundle is known, at most: every client is told
/// all of them.
pub const ID_BYTES_MAX: usize = 255;

/// Why an authority is not fit for a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Not exactly one DER certificate.
    #[error("malformed X.509 authority: {0}")]
    Certificate(DerError),
    /// The key is too weak, or of a kind that stock clients cannot parse.
    #[error("authority key is not acceptable: {0}")]
    Key(KeyError),
    /// A JWT key without an id.
    #[error("missing key ID")]
    NoKeyId,
    /// A JWT key's id, or a certificate's subject key id in hex, beyond [`ID_BYTES_MAX`].
    #[error("key ID is longer than {ID_BYTES_MAX} bytes")]
    IdTooLong,
}

/// A root certificate of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Authority {
    der: Vec<u8>,
    tainted: bool,
}

impl X509Authority {
    /// An authority of exactly one certificate whose key clients can read.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn new(der: Vec<u8>, tainted: bool) -> Result<Self, AuthorityError> {
        public_key_of(&der)?;
        let authority = X509Authority { der, tainted };
        if authority.authority_id().len() > ID_BYTES_MAX {
            return Err(AuthorityError::IdTooLong);
        }
        Ok(authority)
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it is about to be revoked, so that everyone should move away from it.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// The id by which APIs name it: that of its certificate's subject key
    /// identifier, or of its key where the certificate has none.
    #[must_use]
    pub fn authority_id(&self) -> String {
        let certificate = Certificate::parse(&self.der).ok();
        let written = certificate
            .as_ref()
            .and_then(|certificate| certificate.tbs.extensions.subject_key_id.as_ref());
        match written {
            Some(known) => authority_id(known.value),
            None => authority_id(&self.public_key().ski()),
        }
    }

    /// Last second at which its certificate is valid, Unix time.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        let certificate = Certificate::parse(&self.der);
        certificate
            .expect("the certificate was read when the authority was made")
            .tbs
            .not_after
            .at
    }

    /// The key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        public_key_of(&self.der).expect("the key was read when the authority was made")
    }
}

/// A key of a bundle that signs JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    key: PublicKey,
    kid: String,
    expires_at: i64,
    tainted: bool,
}

impl JwtAuthority {
    /// An authority of a SubjectPublicKeyInfo and its id. `expires_at` is in Unix
    /// seconds, 0 for never.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn new(
        spki_der: &[u8],
        kid: String,
        expires_at: i64,
        tainted: bool,
    ) -> Result<Self, AuthorityError> {
        if kid.is_empty() {
            return Err(AuthorityError::NoKeyId);
        }
        if kid.len() > ID_BYTES_MAX {
            return Err(AuthorityError::IdTooLong);
        }
        let key = PublicKey::from_spki_der(spki_der).map_err(AuthorityError::Key)?;
        Ok(JwtAuthority {
            key,
            kid,
            expires_at,
            tainted,
        })
    }

    /// The key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// Its SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        self.key.spki_der()
    }

    /// The key id, which is also the authority id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Unix seconds, 0 for never.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Whether it is about to be revoked.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }
}

/// The bundle of one trust domain. Authorities keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle it is.
    pub trust_domain: TrustDomain,
    /// Roots of X.509-SVIDs.
    pub x509_authorities: Vec<X509Authority>,
    /// Keys of JWT-SVIDs.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// `spiffe_sequence`; grows with every change, 0 where unknown (§4.1.1).
    pub sequence: u64,
    /// `spiffe_refresh_hint` in seconds; 0 where there is none (§4.1.2).
    pub refresh_hint: i64,
}

impl Bundle {
    /// An empty bundle.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Bundle {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            sequence: 0,
            refresh_hint: 0,
        }
    }

    /// The roots as PEM, one block after the other, as SPIRE prints them.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let blocks = self.x509_authorities.iter();
        blocks
            .map(|authority| pem_certificate(authority.der()))
            .collect()
    }

    /// The roots as certificates, for [`crate::x509_svid::verify_chain`].
    #[must_use]
    pub fn roots(&self) -> Vec<Vec<u8>> {
        let authorities = self.x509_authorities.iter();
        authorities.map(|authority| authority.der.clone()).collect()
    }
}

/// An authority's id as APIs, journals and taint lists show it: its subject key
/// identifier in lower-case hex without separators.
#[must_use]
pub fn authority_id(ski: &[u8]) -> String {
    hex::encode(ski)
}

/// One certificate as PEM (RFC 7468 §5).
#[must_use]
pub fn pem_certificate(der: &[u8]) -> String {
    pem("CERTIFICATE", der)
}

/// One block of PEM (RFC 7468 §2), in lines of 64 characters.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    const LINE: usize = 64;
    let body = STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / LINE + 2 * label.len() + 64);
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Takes apart DER certificates written one after the other, which SPIRE's server
/// accepts as one authority and its agents do not.
///
/// # Errors
/// [`DerError`] when the input is empty or not made of DER sequences.
pub fn split_certificates(der: &[u8]) -> Result<Vec<Vec<u8>>, DerError> {
    let mut reader = Reader::new(der);
    let mut out = Vec::new();
    while !reader.is_empty() {
        if out.len() == KEYS_MAX {
            return Err(DerError::ListLength);
        }
        out.push(reader.value(tag::SEQUENCE)?.raw.to_vec());
    }
    if out.is_empty() {
        return Err(DerError::ListLength);
    }
    Ok(out)
}

fn public_key_of(der: &[u8]) -> Result<PublicKey, AuthorityError> {
    let certificate = Certificate::parse(der).map_err(AuthorityError::Certificate)?;
    PublicKey::from_spki_der(certificate.tbs.spki).map_err(AuthorityError::Key)
}

#[cfg(test)]
mod tests;
