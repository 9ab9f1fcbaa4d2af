//! What a node answers of trust bundles and federation.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{text, value_of};
use crate::model::{AuthorityKind, BundleAuthority, FederatedBundle, FederationRelationship};
use crate::store::StoreError;
use crate::view::Table;

/// Bundles and relationships of other trust domains, and the authorities of the own
/// bundle that are not this cluster's.
#[derive(Debug, Default)]
pub struct Federation {
    bundles: BTreeMap<String, Arc<FederatedBundle>>,
    bundle_sequence: BTreeMap<u64, Arc<FederatedBundle>>,
    relationships: BTreeMap<String, Arc<FederationRelationship>>,
    relationship_sequence: BTreeMap<u64, Arc<FederationRelationship>>,
    /// By their key in the table.
    authorities: BTreeMap<Vec<u8>, Arc<BundleAuthority>>,
}

impl Federation {
    /// Takes in one row of one of the three tables; `None` is a removal.
    pub(super) fn absorb(
        &mut self,
        table: Table,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        match table {
            Table::FederatedBundles => {
                let name = text(table, key)?;
                if let Some(old) = self.bundles.remove(&name) {
                    self.bundle_sequence.remove(&old.sequence);
                }
                if let Some(bundle) = value_of::<FederatedBundle>(table, value)? {
                    let bundle = Arc::new(bundle);
                    self.bundle_sequence
                        .insert(bundle.sequence, Arc::clone(&bundle));
                    self.bundles.insert(name, bundle);
                }
            }
            Table::Relationships => {
                let name = text(table, key)?;
                if let Some(old) = self.relationships.remove(&name) {
                    self.relationship_sequence.remove(&old.sequence);
                }
                if let Some(relationship) = value_of::<FederationRelationship>(table, value)? {
                    let relationship = Arc::new(relationship);
                    self.relationship_sequence
                        .insert(relationship.sequence, Arc::clone(&relationship));
                    self.relationships.insert(name, relationship);
                }
            }
            Table::BundleAuthorities => {
                match value_of::<BundleAuthority>(table, value)? {
                    Some(authority) => self.authorities.insert(key.to_vec(), Arc::new(authority)),
                    None => self.authorities.remove(key),
                };
            }
            _ => {}
        }
        Ok(())
    }

    /// Bundle of another trust domain.
    pub fn bundle(&self, trust_domain: &str) -> Option<&Arc<FederatedBundle>> {
        self.bundles.get(trust_domain)
    }

    /// Bundles inserted after `sequence`, in insertion order.
    pub fn bundles_after(&self, sequence: u64) -> impl Iterator<Item = &Arc<FederatedBundle>> {
        self.bundle_sequence
            .range(sequence.saturating_add(1)..)
            .map(|(_, bundle)| bundle)
    }

    /// Number of bundles of other trust domains.
    pub fn bundle_count(&self) -> usize {
        self.bundles.len()
    }

    /// Relationship with another trust domain.
    pub fn relationship(&self, trust_domain: &str) -> Option<&Arc<FederationRelationship>> {
        self.relationships.get(trust_domain)
    }

    /// Relationships inserted after `sequence`, in insertion order.
    pub fn relationships_after(
        &self,
        sequence: u64,
    ) -> impl Iterator<Item = &Arc<FederationRelationship>> {
        self.relationship_sequence
            .range(sequence.saturating_add(1)..)
            .map(|(_, relationship)| relationship)
    }

    /// Authorities of the own bundle that are not this cluster's, in no order.
    pub fn authorities(&self) -> impl Iterator<Item = &Arc<BundleAuthority>> {
        self.authorities.values()
    }

    /// Those of one kind, in insertion order.
    pub fn authorities_of(&self, kind: AuthorityKind) -> Vec<Arc<BundleAuthority>> {
        let mut found: Vec<_> = self
            .authorities
            .values()
            .filter(|authority| authority.kind() == kind)
            .cloned()
            .collect();
        found.sort_by_key(|authority| authority.sequence);
        found
    }
}
