//! Messages of SPIRE's API into what the rules of SPIFFE say of them.

use chancery_api::spire::api::types;
use chancery_identity::bundle::{Bundle, JwtAuthority, X509Authority};
use chancery_identity::id::TrustDomain;
use chancery_identity::selector::Selector;
use zeroize::Zeroizing;

use crate::credentials::Svid;

/// `spiffe://` form of an id.
pub(crate) fn id(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// A bundle. What cannot be read of it is an error: serving less would make workloads refuse
/// their peers.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn bundle(message: &types::Bundle) -> Result<Bundle, String> {
    let domain = &message.trust_domain;
    let wrong = |what: String| format!("the bundle of \"{domain}\": {what}");
    let trust_domain = TrustDomain::parse(domain).map_err(|e| wrong(e.to_string()))?;
    let roots = message.x509_authorities.iter();
    let roots = roots.map(|root| X509Authority::new(root.asn1.clone(), root.tainted));
    let keys = message.jwt_authorities.iter();
    let keys = keys.map(|key| {
        JwtAuthority::new(
            &key.public_key,
            key.key_id.clone(),
            key.expires_at,
            key.tainted,
        )
    });
    Ok(Bundle {
        x509_authorities: roots
            .collect::<Result<_, _>>()
            .map_err(|e| wrong(e.to_string()))?,
        jwt_authorities: keys
            .collect::<Result<_, _>>()
            .map_err(|e| wrong(e.to_string()))?,
        sequence: message.sequence_number,
        refresh_hint: message.refresh_hint,
        ..Bundle::new(trust_domain)
    })
}

/// An entry, as far as serving workloads needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) spiffe_id: String,
    pub(crate) selectors: Vec<Selector>,
    pub(crate) federates_with: Vec<String>,
    pub(crate) revision: i64,
    pub(crate) hint: String,
    pub(crate) created_at: i64,
    /// For stores of SVIDs, never for workloads.
    pub(crate) store_svid: bool,
}

impl Entry {
    /// # Errors
    /// A selector that is none.
    pub(crate) fn read(entry: types::Entry) -> Result<Self, String> {
        let selectors = entry.selectors.iter();
        let selectors = selectors.map(|s| Selector::new(s.r#type.as_str(), s.value.as_str()));
        let selectors = selectors
            .collect::<Result<_, _>>()
            .map_err(|e| format!("entry {}: {e}", entry.id))?;
        Ok(Self {
            spiffe_id: id(entry.spiffe_id.as_ref()),
            selectors,
            federates_with: entry.federates_with,
            revision: entry.revision_number,
            hint: entry.hint,
            created_at: entry.created_at,
            store_svid: entry.store_svid,
            id: entry.id,
        })
    }
}

/// A signed SVID and the key that it was asked for with.
pub(crate) fn svid(message: types::X509svid, key: Zeroizing<Vec<u8>>, now: i64) -> Svid {
    Svid {
        id: id(message.id.as_ref()),
        chain: message.cert_chain,
        key,
        issued_at: now,
        expires_at: message.expires_at,
    }
}
