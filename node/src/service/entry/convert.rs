//! A registration entry on the wire and in the registry.
//!
//! What an entry may say is judged here, once, in SPIRE's order and words: first what
//! its conversion refuses (`failed to convert entry: `), then what its datastore does
//! (`failed to create entry: `, `failed to update entry: `). What an update makes of an
//! entry that is there depends on it, and is judged by the command.

use std::collections::BTreeSet;

use chancery_api::spire::api::types;
use chancery_identity::dns::{self, DnsNameError};
use chancery_identity::entry::{EntryFieldError, EntryId, validate_hint};
use chancery_identity::id::{IdError, TrustDomain};
use chancery_identity::selector::SelectorError;
use chancery_raft_store::Refusal;
use chancery_raft_store::command::{EntryFields, EntryResult, EntryUpdate};
use chancery_raft_store::model::Entry;
use prost::Message;
use tonic::Status;

use crate::environment::uuid_v4;
use crate::service::status;
use crate::service::wire::{self, WireIdError};

/// Begins what the store refuses of a creation.
pub(super) const CREATE: &str = "failed to create entry";
/// Begins what the store refuses of an update.
const UPDATE: &str = "failed to update entry";

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
        "datastore-validation: invalid registration entry: larger than {max} bytes",
        max = Entry::BYTES_MAX
    )]
    TooLarge,
}

impl From<ConvertError> for Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(format!("failed to convert entry: {error}"))
    }
}

impl StoreError {
    /// What the caller is told; `what` begins the message.
    fn status(&self, what: &str) -> Status {
        Status::invalid_argument(format!("{what}: {self}"))
    }
}

/// The entry to propose, with a random id where none is given. Sequence, revision and
/// creation time are not the caller's to say.
pub(super) fn draft(trust_domain: &TrustDomain, message: types::Entry) -> Result<Entry, Status> {
    let mut entry = converted(trust_domain, message, EntryFields::ALL)?;
    if entry.id.is_empty() {
        entry.id = uuid_v4();
    }
    check(&entry).map_err(|e| e.status(CREATE))?;
    Ok(entry)
}

/// The update to propose; no mask is every field. What the mask leaves out may be
/// empty, and is not looked at.
pub(super) fn update(
    trust_domain: &TrustDomain,
    message: types::Entry,
    mask: Option<&types::EntryMask>,
) -> Result<EntryUpdate, Status> {
    let fields = mask.map_or(EntryFields::ALL, fields);
    let values = converted(trust_domain, message, fields)?;
    check_lifetimes(&values)
        .and_then(|()| check_size(&values))
        .map_err(|e| e.status(UPDATE))?;
    // An id that no entry can have names none, as does one that none has.
    if EntryId::parse(values.id.as_str()).is_err() {
        return Err(Status::not_found(UPDATE));
    }
    Ok(EntryUpdate {
        id: values.id.clone(),
        values: Some(Entry {
            id: String::new(),
            ..values
        }),
        fields: Some(fields),
    })
}

/// What of an entry an input mask lets be set; revision and creation time never are.
fn fields(mask: &types::EntryMask) -> EntryFields {
    EntryFields {
        spiffe_path: mask.spiffe_id,
        parent_path: mask.parent_id,
        selectors: mask.selectors,
        x509_svid_ttl: mask.x509_svid_ttl,
        jwt_svid_ttl: mask.jwt_svid_ttl,
        federates_with: mask.federates_with,
        admin: mask.admin,
        downstream: mask.downstream,
        expires_at: mask.expires_at,
        dns_names: mask.dns_names,
        store_svid: mask.store_svid,
        hint: mask.hint,
        additional_attributes: mask.additional_attributes,
    }
}

/// The chosen fields of a message as the registry has them, the others at their zero
/// values.
fn converted(
    trust_domain: &TrustDomain,
    message: types::Entry,
    fields: EntryFields,
) -> Result<Entry, ConvertError> {
    let mut entry = Entry {
        id: message.id,
        ..Entry::default()
    };
    if fields.parent_path {
        let parent = wire::member_id(trust_domain, message.parent_id.as_ref());
        entry.parent_path = parent.map_err(ConvertError::Parent)?.path().to_owned();
    }
    if fields.spiffe_path {
        let spiffe_id = wire::workload_id(trust_domain, message.spiffe_id.as_ref());
        entry.spiffe_path = spiffe_id.map_err(ConvertError::SpiffeId)?.path().to_owned();
    }
    if fields.dns_names {
        for name in &message.dns_names {
            dns::validate(name)?;
        }
        entry.dns_names = message.dns_names;
    }
    if fields.federates_with {
        let names = message.federates_with.iter();
        let others = names
            .map(|name| TrustDomain::parse_name_or_id(name).map(|td| td.to_string()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(ConvertError::FederatesWith)?;
        // Whether their bundles are there is decided with the command.
        entry.federates_with = without_repetition(others);
    }
    if fields.selectors {
        if message.selectors.is_empty() {
            return Err(ConvertError::NoSelectors);
        }
        entry.selectors = without_repetition(wire::selectors(&message.selectors)?);
    }
    if fields.hint {
        validate_hint(&message.hint).map_err(ConvertError::Hint)?;
        entry.hint = message.hint;
    }
    if fields.x509_svid_ttl {
        entry.x509_svid_ttl = message.x509_svid_ttl;
    }
    if fields.jwt_svid_ttl {
        entry.jwt_svid_ttl = message.jwt_svid_ttl;
    }
    if fields.expires_at {
        entry.expires_at = message.expires_at;
    }
    entry.admin = fields.admin && message.admin;
    entry.downstream = fields.downstream && message.downstream;
    entry.store_svid = fields.store_svid && message.store_svid;
    if fields.additional_attributes {
        let attributes = message.additional_attributes.unwrap_or_default();
        entry.disable_x509_svid_prefetch = attributes.disable_x509_svid_prefetch;
        entry.jwt_svid_include_jti = attributes.jwt_svid_include_jti;
    }
    Ok(entry)
}

/// What SPIRE's datastore asks of a new entry.
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
    check_lifetimes(entry)?;
    check_size(entry)
}

fn check_lifetimes(entry: &Entry) -> Result<(), StoreError> {
    if entry.x509_svid_ttl < 0 {
        return Err(StoreError::X509Ttl);
    }
    if entry.jwt_svid_ttl < 0 {
        return Err(StoreError::JwtTtl);
    }
    Ok(())
}

fn check_size(entry: &Entry) -> Result<(), StoreError> {
    if entry.encoded_len() > Entry::BYTES_MAX {
        return Err(StoreError::TooLarge);
    }
    Ok(())
}

/// SPIRE's code and words for an entry that federates with what is not there; `what`
/// begins the message.
pub(super) fn unknown_bundle(what: &str, result: &EntryResult) -> Status {
    Status::internal(format!(
        "{what}: unable to find federated bundle \"spiffe://{}\"",
        result.unknown_bundle
    ))
}

/// What the store refuses of an update by what the entry would become.
pub(super) fn refused_update(result: &EntryResult) -> Status {
    match result.refusal() {
        Refusal::NoFederatedBundle => unknown_bundle(UPDATE, result),
        // SPIRE says no more where an entry is not there.
        Refusal::NotFound => Status::not_found(UPDATE),
        Refusal::EntryMixedSelectors => StoreError::MixedTypesOfStored.status(UPDATE),
        Refusal::EntryTooLarge => StoreError::TooLarge.status(UPDATE),
        refusal => {
            let status = status::refused(refusal, "entry");
            Status::new(status.code(), format!("{UPDATE}: {}", status.message()))
        }
    }
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
