//! Bundles of other trust domains, relationships with them, the entries that federate
//! with them, and the authorities of the own bundle that are not this cluster's.

use super::{Table, Txn, authority_key, decode, parent_key, text};
use crate::feed::ChangeKind;
use crate::model::{BundleAuthority, Entry, FederatedBundle, FederationRelationship};
use crate::store::StoreError;

/// Bundles of other trust domains.
impl Txn<'_> {
    /// Bundle by trust domain.
    pub fn federated_bundle(
        &self,
        trust_domain: &str,
    ) -> Result<Option<FederatedBundle>, StoreError> {
        self.get(Table::FederatedBundles, trust_domain.as_bytes())
    }

    /// Inserts or replaces a bundle.
    pub fn put_federated_bundle(&mut self, bundle: &FederatedBundle) {
        let name = &bundle.trust_domain;
        self.put(Table::FederatedBundles, name.as_bytes(), bundle);
        self.changed(ChangeKind::FederatedBundleSet(name.clone()));
    }

    /// Removes a bundle. Whoever does it has seen to the entries that federate with it.
    pub fn remove_federated_bundle(&mut self, trust_domain: &str) {
        self.remove(Table::FederatedBundles, trust_domain.as_bytes());
        self.changed(ChangeKind::FederatedBundleRemoved(trust_domain.to_owned()));
    }

    /// How many entries federate with the trust domain.
    pub fn count_federating_with(&self, trust_domain: &str) -> Result<usize, StoreError> {
        let prefix = parent_key(trust_domain, None);
        let keys = self.keys(Table::EntryFederation, &prefix, usize::MAX / 4)?;
        Ok(keys.len())
    }

    /// The first `limit` entries that federate with the trust domain, by id.
    pub fn entries_federating_with(
        &self,
        trust_domain: &str,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let prefix = parent_key(trust_domain, None);
        let mut entries = Vec::new();
        for key in self.keys(Table::EntryFederation, &prefix, limit)? {
            let id = text(Table::EntryFederation, &key[prefix.len()..])?;
            let entry = self.entry(&id)?.ok_or_else(|| {
                StoreError::corrupt(format!(
                    "federation index names entry {id}, which is not there"
                ))
            })?;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Makes an entry federate with the trust domain no longer. It is a change of the
    /// entry, which agents learn of by its revision.
    pub fn dissociate_entry(&mut self, entry: &Entry, trust_domain: &str) {
        self.unindex_federation(entry);
        let mut entry = entry.clone();
        entry.federates_with.retain(|name| name != trust_domain);
        entry.revision_number = entry.revision_number.saturating_add(1);
        self.put(Table::Entries, entry.id.as_bytes(), &entry);
        self.index_federation(&entry);
        self.changed(ChangeKind::EntrySet(entry.id));
    }

    /// Index rows of what an entry federates with. Whoever puts an entry's row without
    /// [`Txn::insert_entry`] calls this and the next.
    pub(super) fn index_federation(&mut self, entry: &Entry) {
        for name in &entry.federates_with {
            let key = parent_key(name, Some(&entry.id));
            self.put_bytes(Table::EntryFederation, &key, Vec::new());
        }
    }

    /// Takes back what [`Txn::index_federation`] put for the entry as it was.
    pub(super) fn unindex_federation(&mut self, entry: &Entry) {
        for name in &entry.federates_with {
            self.remove(Table::EntryFederation, &parent_key(name, Some(&entry.id)));
        }
    }
}

/// Federation relationships.
impl Txn<'_> {
    /// Relationship by trust domain.
    pub fn relationship(
        &self,
        trust_domain: &str,
    ) -> Result<Option<FederationRelationship>, StoreError> {
        self.get(Table::Relationships, trust_domain.as_bytes())
    }

    /// Inserts or replaces a relationship.
    pub fn put_relationship(&mut self, relationship: &FederationRelationship) {
        let name = &relationship.trust_domain;
        self.put(Table::Relationships, name.as_bytes(), relationship);
        self.changed(ChangeKind::RelationshipSet(name.clone()));
    }

    /// Removes a relationship.
    pub fn remove_relationship(&mut self, trust_domain: &str) {
        self.remove(Table::Relationships, trust_domain.as_bytes());
        self.changed(ChangeKind::RelationshipRemoved(trust_domain.to_owned()));
    }
}

/// Authorities of the own bundle that are not this cluster's. Whoever changes one calls
/// [`Txn::bundle_changed`] once.
impl Txn<'_> {
    /// All of them, by kind and id. Bounded by [`BundleAuthority::COUNT_MAX`].
    pub fn bundle_authorities(&self) -> Result<Vec<BundleAuthority>, StoreError> {
        self.bundle_authorities_below(&[])
    }

    /// Those with this kind and id, in insertion order.
    pub fn bundle_authorities_named(
        &self,
        kind: i32,
        id: &str,
    ) -> Result<Vec<BundleAuthority>, StoreError> {
        let mut named = self.bundle_authorities_below(&bundle_authority_key(kind, id, None))?;
        // An id may hold any byte, so a prefix may be another's.
        named.retain(|authority| authority.id == id);
        Ok(named)
    }

    fn bundle_authorities_below(&self, prefix: &[u8]) -> Result<Vec<BundleAuthority>, StoreError> {
        self.pairs(Table::BundleAuthorities, prefix, usize::MAX / 4)?
            .into_iter()
            .map(|(_, bytes)| decode(Table::BundleAuthorities, &bytes))
            .collect()
    }

    /// Inserts or replaces one.
    pub fn put_bundle_authority(&mut self, authority: &BundleAuthority) {
        let sequence = Some(authority.sequence);
        let key = bundle_authority_key(authority.kind, &authority.id, sequence);
        self.put(Table::BundleAuthorities, &key, authority);
    }

    /// Removes one.
    pub fn remove_bundle_authority(&mut self, authority: &BundleAuthority) {
        let sequence = Some(authority.sequence);
        let key = bundle_authority_key(authority.kind, &authority.id, sequence);
        self.remove(Table::BundleAuthorities, &key);
    }
}

fn bundle_authority_key(kind: i32, id: &str, sequence: Option<u64>) -> Vec<u8> {
    let mut key = authority_key(kind, id);
    key.push(0);
    if let Some(sequence) = sequence {
        key.extend_from_slice(&sequence.to_be_bytes());
    }
    key
}
