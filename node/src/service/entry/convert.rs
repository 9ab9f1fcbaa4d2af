//! A registration entry on the wire and in the registry.
//!
//! What an entry may say is judged here, once, in SPIRE's order and words: first what
//! its conversion refuses (`failed to convert entry: `), then what its datastore does
//! (`failed to create entry: `).

use std::collections::BTreeSet;

use chancery_api::spire::api::types;
use chancery_identity::dns::{self, DnsNameError};
use chancery_identity::entry::{EntryFieldError, EntryId, validate_hint};
use chancery_identity::id::{IdError, TrustDomain};
use chancery_identity::selector::SelectorError;
use chancery_raft_store::model::Entry;
use prost::Message;
use tonic::Status;

use crate::environment::uuid_v4;
use crate::service::wire::{self, WireIdError};

/// Largest entry, encoded: every agent it is for keeps it in memory, and a page of
/// them must fit an answer.
pub(super) const ENTRY_BYTES_MAX: usize = 256 << 10;

/// What conversion refuses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ConvertError {
    #[error("invalid parent ID: {0}")]
    Parent(WireIdError),
    #[error("invalid spiffe ID: {0}")]
    SpiffeId(WireIdError),
    #[error("invalid DNS name: {0}")]
    DnsName(#[from] DnsNameError),
    #[error("invalid federated trust domain: {0}")]
    FederatesWith(IdError),
    #[error("selector list is empty")]
    NoSelectors,
    #[error(transparent)]
    Selector(#[from] SelectorError),
    #[error(transparent)]
    Hint(EntryFieldError),
}

/// What the datastore refuses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum StoreError {
    #[error("datastore-validation: specifying cache behaviour is incompatible with storable SVIDs")]
    PrefetchOfStored,
    #[error(
        "datastore-validation: invalid registration entry: selector types must be the same when \
         store SVID is enabled"
    )]
    MixedTypesOfStored,
    #[error("datastore-validation: {0}")]
    Id(EntryFieldError),
    #[error("datastore-validation: invalid registration entry: X509SvidTtl is not set")]
    X509Ttl,
    #[error("datastore-validation: invalid registration entry: JwtSvidTtl is not set")]
    JwtTtl,
    #[error(
        "datastore-validation: invalid registration entry: larger than {ENTRY_BYTES_MAX} bytes"
    )]
    TooLarge,
}

impl From<ConvertError> for Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(format!("failed to convert entry: {error}"))
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        Self::invalid_argument(format!("failed to create entry: {error}"))
    }
}

/// The entry to propose, with a random id where none is given. Sequence, revision and
/// creation time are not the caller's to say.
pub(super) fn draft(trust_domain: &TrustDomain, message: types::Entry) -> Result<Entry, Status> {
    let entry = converted(trust_domain, message)?;
    check(&entry)?;
    Ok(entry)
}

fn converted(trust_domain: &TrustDomain, message: types::Entry) -> Result<Entry, ConvertError> {
    let parent =
        wire::member_id(trust_domain, message.parent_id.as_ref()).map_err(ConvertError::Parent)?;
    let spiffe_id = wire::workload_id(trust_domain, message.spiffe_id.as_ref())
        .map_err(ConvertError::SpiffeId)?;
    for name in &message.dns_names {
        dns::validate(name)?;
    }
    let others = message
        .federates_with
        .iter()
        .map(|name| TrustDomain::parse_name_or_id(name));
    let others = others
        .collect::<Result<Vec<_>, _>>()
        .map_err(ConvertError::FederatesWith)?;
    let others = without_repetition(others);
    if message.selectors.is_empty() {
        return Err(ConvertError::NoSelectors);
    }
    let selectors = without_repetition(wire::selectors(&message.selectors)?);
    validate_hint(&message.hint).map_err(ConvertError::Hint)?;
    let attributes = message.additional_attributes.unwrap_or_default();
    let entry = Entry {
        id: if message.id.is_empty() {
            uuid_v4()
        } else {
            message.id
        },
        sequence: 0,
        spiffe_path: spiffe_id.path().to_owned(),
        parent_path: parent.path().to_owned(),
        selectors,
        x509_svid_ttl: message.x509_svid_ttl,
        jwt_svid_ttl: message.jwt_svid_ttl,
        // Whether their bundles are there is decided with the command.
        federates_with: others.iter().map(ToString::to_string).collect(),
        admin: message.admin,
        downstream: message.downstream,
        expires_at: message.expires_at,
        dns_names: message.dns_names,
        revision_number: 0,
        store_svid: message.store_svid,
        hint: message.hint,
        created_at: 0,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    };
    Ok(entry)
}

fn check(entry: &Entry) -> Result<(), StoreError> {
    if entry.store_svid {
        if entry.disable_x509_svid_prefetch {
            return Err(StoreError::PrefetchOfStored);
        }
        let types: BTreeSet<&str> = entry.selectors.iter().map(|s| s.kind.as_str()).collect();
        if types.len() > 1 {
            return Err(StoreError::MixedTypesOfStored);
        }
    }
    EntryId::parse(entry.id.as_str()).map_err(StoreError::Id)?;
    if entry.x509_svid_ttl < 0 {
        return Err(StoreError::X509Ttl);
    }
    if entry.jwt_svid_ttl < 0 {
        return Err(StoreError::JwtTtl);
    }
    if entry.encoded_len() > ENTRY_BYTES_MAX {
        return Err(StoreError::TooLarge);
    }
    Ok(())
}

/// What is said twice is stored once; the order stays.
fn without_repetition<T: Ord + Clone>(items: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items
        .into_iter()
        .filter(|item| seen.insert(item.clone()))
        .collect()
}

/// The entry as it is told. The id is always there; no mask is everything.
pub(super) fn message(
    trust_domain: &TrustDomain,
    entry: &Entry,
    mask: Option<&types::EntryMask>,
) -> types::Entry {
    let shown = |field: fn(&types::EntryMask) -> bool| mask.is_none_or(field);
    let mut told = types::Entry {
        id: entry.id.clone(),
        ..types::Entry::default()
    };
    if shown(|m| m.spiffe_id) {
        told.spiffe_id = Some(wire::id_message(trust_domain, &entry.spiffe_path));
    }
    if shown(|m| m.parent_id) {
        told.parent_id = Some(wire::id_message(trust_domain, &entry.parent_path));
    }
    if shown(|m| m.selectors) {
        told.selectors = wire::selector_messages(&entry.selectors);
    }
    if shown(|m| m.x509_svid_ttl) {
        told.x509_svid_ttl = entry.x509_svid_ttl;
    }
    if shown(|m| m.federates_with) {
        told.federates_with.clone_from(&entry.federates_with);
    }
    if shown(|m| m.admin) {
        told.admin = entry.admin;
    }
    if shown(|m| m.downstream) {
        told.downstream = entry.downstream;
    }
    if shown(|m| m.expires_at) {
        told.expires_at = entry.expires_at;
    }
    if shown(|m| m.dns_names) {
        told.dns_names.clone_from(&entry.dns_names);
    }
    if shown(|m| m.revision_number) {
        told.revision_number = entry.revision_number;
    }
    if shown(|m| m.store_svid) {
        told.store_svid = entry.store_svid;
    }
    if shown(|m| m.jwt_svid_ttl) {
        told.jwt_svid_ttl = entry.jwt_svid_ttl;
    }
    if shown(|m| m.hint) {
        told.hint.clone_from(&entry.hint);
    }
    if shown(|m| m.created_at) {
        told.created_at = entry.created_at;
    }
    let attributes = types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    // An entry that sets none has none.
    if shown(|m| m.additional_attributes) && attributes != Default::default() {
        told.additional_attributes = Some(attributes);
    }
    told
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
