//! Bundles of other trust domains and relationships with them.
//!
//! Whether entries federate with a bundle that is to go, and whether there is a bundle
//! for what a new entry federates with, is decided here and nowhere else: both would be
//! a race between two nodes.

use chancery_identity::id::TrustDomain;

use super::Ruling;
use crate::command::{
    BundleFields, DeleteFederatedBundles, DeleteMode, EntryResult, FederatedBundleResult,
    FederatedBundles, Outcome, Refusal, RelationshipDraft, RelationshipFields, RelationshipResult,
    Relationships, TrustDomains, UpdateFederatedBundles, UpdateRelationships,
};
use crate::model::{EndpointProfile, FederatedBundle, FederationRelationship};
use crate::store::StoreError;
use crate::view::Txn;

/// The refusal of an entry that federates with a trust domain whose bundle is not
/// there. The own trust domain is not federated with: agents could not fetch it as such.
pub(super) fn unknown_bundle(
    txn: &Txn<'_>,
    federates_with: &[String],
) -> Result<Option<EntryResult>, StoreError> {
    for name in federates_with {
        if txn.federated_bundle(name)?.is_none() {
            return Ok(Some(EntryResult {
                refusal: Refusal::NoFederatedBundle.into(),
                unknown_bundle: name.clone(),
                ..EntryResult::default()
            }));
        }
    }
    Ok(None)
}

pub(super) fn create_bundles(txn: &mut Txn<'_>, command: &FederatedBundles) -> Ruling {
    each_bundle(&command.bundles, |bundle| {
        if !is_foreign(txn, &bundle.trust_domain)? {
            return Ok(refused_bundle(Refusal::Malformed));
        }
        if txn.federated_bundle(&bundle.trust_domain)?.is_some() {
            return Ok(refused_bundle(Refusal::AlreadyExists));
        }
        set_bundle(txn, bundle)?;
        Ok(FederatedBundleResult::default())
    })
}

pub(super) fn set_bundles(txn: &mut Txn<'_>, command: &FederatedBundles) -> Ruling {
    each_bundle(&command.bundles, |bundle| {
        if !is_foreign(txn, &bundle.trust_domain)? {
            return Ok(refused_bundle(Refusal::Malformed));
        }
        set_bundle(txn, bundle)?;
        Ok(FederatedBundleResult::default())
    })
}

pub(super) fn update_bundles(txn: &mut Txn<'_>, command: &UpdateFederatedBundles) -> Ruling {
    let fields = command.fields.unwrap_or_default();
    each_bundle(&command.bundles, |given| {
        let Some(stored) = txn.federated_bundle(&given.trust_domain)? else {
            return Ok(refused_bundle(Refusal::NotFound));
        };
        txn.put_federated_bundle(&merge(stored, given, fields));
        Ok(FederatedBundleResult::default())
    })
}

pub(super) fn delete_bundles(txn: &mut Txn<'_>, command: &DeleteFederatedBundles) -> Ruling {
    let Ok(mode) = DeleteMode::try_from(command.mode) else {
        return Ok(Err(Refusal::Malformed));
    };
    txn.forget_deleted_entries()?;
    let mut outcome = Outcome::default();
    let mut left = DeleteFederatedBundles::ENTRIES_MAX;
    for name in &command.trust_domains {
        outcome
            .federated_bundles
            .push(delete_bundle(txn, name, mode, &mut left)?);
    }
    Ok(Ok(outcome))
}

/// The bundle goes last: until it does no entry names a bundle that is not there.
fn delete_bundle(
    txn: &mut Txn<'_>,
    name: &str,
    mode: DeleteMode,
    left: &mut usize,
) -> Result<FederatedBundleResult, StoreError> {
    if txn.federated_bundle(name)?.is_none() {
        return Ok(refused_bundle(Refusal::NotFound));
    }
    let mut result = FederatedBundleResult::default();
    if mode == DeleteMode::Restrict {
        result.entries = txn.count_federating_with(name)? as u64;
        if result.entries > 0 {
            result.refusal = Refusal::FederatedWith.into();
            return Ok(result);
        }
    } else {
        let mut entries = txn.entries_federating_with(name, *left + 1)?;
        result.more = entries.len() > *left;
        entries.truncate(*left);
        *left -= entries.len();
        result.entries = entries.len() as u64;
        for entry in &entries {
            if mode == DeleteMode::Delete {
                txn.remove_entry(entry);
            } else {
                txn.dissociate_entry(entry, name);
            }
        }
    }
    if !result.more {
        txn.remove_federated_bundle(name);
    }
    Ok(result)
}

pub(super) fn create_relationships(txn: &mut Txn<'_>, command: &Relationships) -> Ruling {
    each_relationship(&command.drafts, |draft, relationship| {
        let foreign = is_foreign(txn, &relationship.trust_domain)?;
        if !foreign || !is_whole(relationship) || !is_of(draft.bundle.as_ref(), relationship) {
            return Ok(refused_relationship(Refusal::Malformed));
        }
        if txn.relationship(&relationship.trust_domain)?.is_some() {
            return Ok(refused_relationship(Refusal::AlreadyExists));
        }
        if let Some(bundle) = &draft.bundle {
            set_bundle(txn, bundle)?;
        }
        let sequence = txn.next_sequence()?;
        txn.put_relationship(&FederationRelationship {
            sequence,
            ..relationship.clone()
        });
        Ok(RelationshipResult::default())
    })
}

pub(super) fn update_relationships(txn: &mut Txn<'_>, command: &UpdateRelationships) -> Ruling {
    let fields = command.fields.unwrap_or_default();
    each_relationship(&command.drafts, |draft, given| {
        update_relationship(txn, draft, given, fields)
    })
}

fn update_relationship(
    txn: &mut Txn<'_>,
    draft: &RelationshipDraft,
    given: &FederationRelationship,
    fields: RelationshipFields,
) -> Result<RelationshipResult, StoreError> {
    let Some(mut stored) = txn.relationship(&given.trust_domain)? else {
        return Ok(refused_relationship(Refusal::NotFound));
    };
    if fields.endpoint_url {
        stored.endpoint_url.clone_from(&given.endpoint_url);
    }
    if fields.profile {
        stored.profile = given.profile;
        stored
            .endpoint_spiffe_id
            .clone_from(&given.endpoint_spiffe_id);
    }
    let given_bundle = draft.bundle.as_ref().filter(|_| fields.bundle);
    if !is_whole(&stored) || !is_of(given_bundle, &stored) {
        return Ok(refused_relationship(Refusal::Malformed));
    }
    if let Some(bundle) = given_bundle {
        set_bundle(txn, bundle)?;
    }
    txn.put_relationship(&stored);
    Ok(RelationshipResult::default())
}

pub(super) fn delete_relationships(txn: &mut Txn<'_>, command: &TrustDomains) -> Ruling {
    let mut outcome = Outcome::default();
    for name in &command.names {
        let result = if txn.relationship(name)?.is_some() {
            txn.remove_relationship(name);
            RelationshipResult::default()
        } else {
            refused_relationship(Refusal::NotFound)
        };
        outcome.relationships.push(result);
    }
    Ok(Ok(outcome))
}

/// Creates or replaces; the place in lists stays.
fn set_bundle(txn: &mut Txn<'_>, bundle: &FederatedBundle) -> Result<(), StoreError> {
    let sequence = match txn.federated_bundle(&bundle.trust_domain)? {
        Some(stored) => stored.sequence,
        None => txn.next_sequence()?,
    };
    txn.put_federated_bundle(&FederatedBundle {
        sequence,
        ..bundle.clone()
    });
    Ok(())
}

fn merge(
    mut stored: FederatedBundle,
    given: &FederatedBundle,
    fields: BundleFields,
) -> FederatedBundle {
    if fields.x509_authorities {
        stored.x509_authorities.clone_from(&given.x509_authorities);
    }
    if fields.jwt_authorities {
        stored.jwt_authorities.clone_from(&given.jwt_authorities);
    }
    if fields.refresh_hint {
        stored.refresh_hint = given.refresh_hint;
    }
    if fields.sequence_number {
        stored.sequence_number = given.sequence_number;
    }
    stored
}

/// A valid name, and not the cluster's own. Bundles of two trust domains are never mixed.
fn is_foreign(txn: &Txn<'_>, name: &str) -> Result<bool, StoreError> {
    let own = txn.cluster()?.unwrap_or_default().trust_domain;
    Ok(name != own && TrustDomain::parse(name).is_ok())
}

fn is_whole(relationship: &FederationRelationship) -> bool {
    let profile = match EndpointProfile::try_from(relationship.profile) {
        Ok(EndpointProfile::HttpsWeb) => relationship.endpoint_spiffe_id.is_empty(),
        Ok(EndpointProfile::HttpsSpiffe) => !relationship.endpoint_spiffe_id.is_empty(),
        Ok(EndpointProfile::Unspecified) | Err(_) => false,
    };
    profile && !relationship.endpoint_url.is_empty()
}

fn is_of(bundle: Option<&FederatedBundle>, relationship: &FederationRelationship) -> bool {
    bundle.is_none_or(|bundle| bundle.trust_domain == relationship.trust_domain)
}

fn each_bundle(
    bundles: &[FederatedBundle],
    mut one: impl FnMut(&FederatedBundle) -> Result<FederatedBundleResult, StoreError>,
) -> Ruling {
    let mut outcome = Outcome::default();
    for bundle in bundles {
        outcome.federated_bundles.push(one(bundle)?);
    }
    Ok(Ok(outcome))
}

fn each_relationship(
    drafts: &[RelationshipDraft],
    mut one: impl FnMut(
        &RelationshipDraft,
        &FederationRelationship,
    ) -> Result<RelationshipResult, StoreError>,
) -> Ruling {
    let mut outcome = Outcome::default();
    for draft in drafts {
        outcome.relationships.push(match &draft.relationship {
            Some(relationship) => one(draft, relationship)?,
            None => refused_relationship(Refusal::Malformed),
        });
    }
    Ok(Ok(outcome))
}

fn refused_bundle(refusal: Refusal) -> FederatedBundleResult {
    FederatedBundleResult {
        refusal: refusal.into(),
        ..FederatedBundleResult::default()
    }
}

fn refused_relationship(refusal: Refusal) -> RelationshipResult {
    RelationshipResult {
        refusal: refusal.into(),
    }
}
