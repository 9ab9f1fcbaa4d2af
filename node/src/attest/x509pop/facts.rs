//! What a certificate tells of its node: selectors, and the data of path templates.

use std::collections::{BTreeMap, BTreeSet};

use chancery_identity::id::TrustDomain;
use chancery_identity::pki::{Certificate, Uri};
use chancery_raft_store::model::Selector;

use super::NAME;

/// Scheme of the URIs that carry selectors.
const SCHEME: &str = "x509pop";

/// The serial number in lower-case hex with an even number of digits.
pub(super) fn serial_hex(leaf: &Certificate) -> String {
    hex::encode(leaf.serial())
}

/// Keys and values of the leaf's URIs `x509pop://TD/<key>/<value>`; of several with one
/// key the last.
pub(super) fn uri_selectors(
    leaf: &Certificate,
    trust_domain: &TrustDomain,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let ours = |uri: &&Uri| {
        uri.scheme() == SCHEME
            && uri.user().is_none()
            && uri.host() == trust_domain.as_str()
            && uri.path().starts_with('/')
    };
    for uri in leaf.uris().iter().filter(ours) {
        match uri.path().trim_matches('/').split_once('/') {
            Some((key, value)) => {
                out.insert(key.to_owned(), value.to_owned());
            }
            None => tracing::warn!("cannot extract x509pop san selectors from {}", uri.as_str()),
        }
    }
    out
}

/// Fingerprints of every certificate above the leaf in every chain, each once.
pub(super) fn authorities(chains: &[Vec<&Certificate>]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let above = chains.iter().flat_map(|chain| chain.iter().skip(1));
    above
        .map(|authority| authority.fingerprint())
        .filter(|fingerprint| seen.insert(fingerprint.clone()))
        .collect()
}

/// The selectors of a node, in SPIRE's order.
pub(super) fn selectors(
    leaf: &Certificate,
    authorities: &[String],
    uri_selectors: &BTreeMap<String, String>,
) -> Vec<Selector> {
    let mut values = Vec::new();
    let common_name = leaf.subject().common_name();
    if !common_name.is_empty() {
        values.push(format!("subject:cn:{common_name}"));
    }
    let authorities = authorities.iter();
    values.extend(authorities.map(|fingerprint| format!("ca:fingerprint:{fingerprint}")));
    values.push(format!("serialnumber:{}", serial_hex(leaf)));
    values.extend(
        uri_selectors
            .iter()
            .map(|(key, value)| format!("san:{key}:{value}")),
    );
    let selector = |value| Selector {
        kind: NAME.into(),
        value,
    };
    values.into_iter().map(selector).collect()
}
