//! Trust bundles on the wire and in the registry.
//!
//! What a bundle may hold is judged here, once, for everything that comes in: each
//! certificate and each key must be one that stock agents can read, because they drop a
//! whole bundle for one item that they cannot. Several certificates written one after
//! the other, which SPIRE's server takes as one item and its agents do not, are taken
//! apart. Tainted flags and WIT keys that a caller sends are ignored, as by SPIRE.

use chancery_api::spire::api::types;
use chancery_identity::DerError;
use chancery_identity::bundle::{
    self, AuthorityError, JwtAuthority, KEYS_MAX, X509Authority, split_certificates,
};
use chancery_identity::id::{IdError, TrustDomain};
use chancery_identity::key::{KeyError, PublicKey};
use chancery_raft_store::model::{
    AuthorityKind, BundleAuthority, BundleCertificate, BundleJwtKey, FederatedBundle,
};
use prost::Message;

use crate::transport::Caller;

/// Largest bundle of another trust domain, encoded: pages of them must fit an answer.
pub(super) const BUNDLE_BYTES_MAX: usize = 512 << 10;

/// Why a list of authorities is refused; in the words of Go where they can be known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::service) enum AuthoritiesError {
    /// An item that is not made of certificates.
    #[error("x509: malformed certificate")]
    NoCertificates,
    /// A certificate that cannot be read.
    #[error("x509: malformed certificate: {0}")]
    Certificate(DerError),
    /// A key that cannot be read, or that stock clients could not.
    #[error("{0}")]
    Key(KeyError),
    /// A JWT key without an id.
    #[error("missing key ID")]
    NoKeyId,
    /// A certificate whose subject key id, or a key whose id, nobody needs so long.
    #[error("{0}")]
    IdTooLong(AuthorityError),
    /// More than anyone has.
    #[error("more than {KEYS_MAX} authorities")]
    TooMany,
}

/// Why the end of a published key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndError {
    /// It would stay for ever.
    #[error("missing expiration")]
    Missing,
    /// It is of no use.
    #[error("expired already")]
    Past,
}

/// Why a bundle is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::service) enum BundleError {
    /// It does not say whose it is.
    #[error("invalid trust domain: {0}")]
    TrustDomain(IdError),
    /// A certificate that is none of ours to give out.
    #[error("unable to parse X.509 authority: {0}")]
    X509(AuthoritiesError),
    /// A key that is none of ours to give out.
    #[error("unable to parse JWT authority: {0}")]
    Jwt(AuthoritiesError),
    /// Larger than [`BUNDLE_BYTES_MAX`].
    #[error("larger than {BUNDLE_BYTES_MAX} bytes")]
    TooLarge,
}

impl From<AuthorityError> for AuthoritiesError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Certificate(error) => Self::Certificate(error),
            AuthorityError::Key(error) => Self::Key(error),
            AuthorityError::NoKeyId => Self::NoKeyId,
            AuthorityError::IdTooLong => Self::IdTooLong(error),
        }
    }
}

/// Reads the bundle of another trust domain.
pub(in crate::service) fn federated(
    message: &types::Bundle,
) -> Result<FederatedBundle, BundleError> {
    let trust_domain =
        TrustDomain::parse_name_or_id(&message.trust_domain).map_err(BundleError::TrustDomain)?;
    let roots = x509_authorities(&message.x509_authorities).map_err(BundleError::X509)?;
    let keys = jwt_authorities(&message.jwt_authorities).map_err(BundleError::Jwt)?;
    let roots = roots.into_iter().map(|root| BundleCertificate {
        certificate: root.der().to_vec(),
    });
    let keys = keys.into_iter().map(|key| BundleJwtKey {
        public_key: key.spki_der().to_vec(),
        key_id: key.kid().to_owned(),
        expires_at: key.expires_at(),
    });
    let bundle = FederatedBundle {
        trust_domain: trust_domain.to_string(),
        sequence: 0,
        x509_authorities: roots.collect(),
        jwt_authorities: keys.collect(),
        refresh_hint: message.refresh_hint,
        sequence_number: message.sequence_number,
    };
    if bundle.encoded_len() > BUNDLE_BYTES_MAX {
        return Err(BundleError::TooLarge);
    }
    Ok(bundle)
}

/// Reads certificates, in their order, each of which becomes an authority of its own.
pub(super) fn x509_authorities(
    messages: &[types::X509Certificate],
) -> Result<Vec<X509Authority>, AuthoritiesError> {
    let mut authorities = Vec::new();
    for message in messages {
        let parts =
            split_certificates(&message.asn1).map_err(|_| AuthoritiesError::NoCertificates)?;
        for der in parts {
            if authorities.len() == KEYS_MAX {
                return Err(AuthoritiesError::TooMany);
            }
            authorities.push(X509Authority::new(der, false)?);
        }
    }
    Ok(authorities)
}

/// Reads keys, in their order.
pub(super) fn jwt_authorities(
    messages: &[types::JwtKey],
) -> Result<Vec<JwtAuthority>, AuthoritiesError> {
    if messages.len() > KEYS_MAX {
        return Err(AuthoritiesError::TooMany);
    }
    let one = |message: &types::JwtKey| {
        let (key, id) = (&message.public_key, &message.key_id);
        // SPIRE looks at the key before its id.
        PublicKey::from_spki_der(key).map_err(AuthoritiesError::Key)?;
        Ok(JwtAuthority::new(
            key,
            id.clone(),
            message.expires_at,
            false,
        )?)
    };
    messages.iter().map(one).collect()
}

/// A root as a record of the own bundle.
pub(super) fn root_record(root: X509Authority) -> BundleAuthority {
    BundleAuthority {
        kind: AuthorityKind::X509.into(),
        id: root.authority_id(),
        expires_at: root.not_after(),
        der: root.der().to_vec(),
        ..BundleAuthority::default()
    }
}

/// A JWT key as a record of the own bundle.
pub(super) fn key_record(key: JwtAuthority) -> BundleAuthority {
    BundleAuthority {
        kind: AuthorityKind::Jwt.into(),
        id: key.kid().to_owned(),
        expires_at: key.expires_at(),
        der: key.spki_der().to_vec(),
        ..BundleAuthority::default()
    }
}

/// The same, published by the downstream server with this path.
pub(super) fn published_record(key: JwtAuthority, publisher: &str) -> BundleAuthority {
    BundleAuthority {
        publisher: publisher.to_owned(),
        ..key_record(key)
    }
}

/// Whether a key that a downstream server publishes ends when it should. `now` is in Unix
/// seconds.
pub(super) fn check_end(key: &JwtAuthority, now: i64) -> Result<(), EndError> {
    match key.expires_at() {
        0 => Err(EndError::Missing),
        end if end <= now => Err(EndError::Past),
        _ => Ok(()),
    }
}

/// Whether a caller of a method that is open to everyone may be more than an agent.
pub(super) fn may_administer(own: &TrustDomain, caller: Option<&Caller>) -> bool {
    match caller {
        Some(Caller::Local(_)) => true,
        Some(caller) => caller.id().is_some_and(|id| id.require_agent(own).is_err()),
        None => false,
    }
}

/// Whether the own bundle is there: nothing before it has a root.
pub(super) fn is_there(bundle: &bundle::Bundle) -> bool {
    !bundle.x509_authorities.is_empty()
}

/// The own bundle as it is told, if it is there. No mask is everything.
pub(super) fn own_message(
    bundle: &bundle::Bundle,
    mask: Option<&types::BundleMask>,
) -> Option<types::Bundle> {
    is_there(bundle).then(|| whole_message(bundle, mask))
}

/// The own bundle as it is told.
pub(super) fn whole_message(
    bundle: &bundle::Bundle,
    mask: Option<&types::BundleMask>,
) -> types::Bundle {
    let root = |authority: &X509Authority| types::X509Certificate {
        asn1: authority.der().to_vec(),
        tainted: authority.is_tainted(),
    };
    let key = |authority: &JwtAuthority| types::JwtKey {
        public_key: authority.spki_der().to_vec(),
        key_id: authority.kid().to_owned(),
        expires_at: authority.expires_at(),
        tainted: authority.is_tainted(),
    };
    let mut told = types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        x509_authorities: bundle.x509_authorities.iter().map(root).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(key).collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence,
        ..Default::default()
    };
    apply_mask(&mut told, mask);
    told
}

/// The bundle of another trust domain as it is told.
pub(in crate::service) fn federated_message(
    bundle: &FederatedBundle,
    mask: Option<&types::BundleMask>,
) -> types::Bundle {
    let root = |root: &BundleCertificate| types::X509Certificate {
        asn1: root.certificate.clone(),
        tainted: false,
    };
    let key = |key: &BundleJwtKey| types::JwtKey {
        public_key: key.public_key.clone(),
        key_id: key.key_id.clone(),
        expires_at: key.expires_at,
        tainted: false,
    };
    let mut told = types::Bundle {
        trust_domain: bundle.trust_domain.clone(),
        x509_authorities: bundle.x509_authorities.iter().map(root).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(key).collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
        ..Default::default()
    };
    apply_mask(&mut told, mask);
    told
}

/// Takes out what the mask does not name. The trust domain always stays.
pub(super) fn apply_mask(told: &mut types::Bundle, mask: Option<&types::BundleMask>) {
    let Some(mask) = mask else { return };
    if !mask.x509_authorities {
        told.x509_authorities.clear();
    }
    if !mask.jwt_authorities {
        told.jwt_authorities.clear();
    }
    if !mask.wit_authorities {
        told.wit_authorities.clear();
    }
    if !mask.refresh_hint {
        told.refresh_hint = 0;
    }
    if !mask.sequence_number {
        told.sequence_number = 0;
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
