//! The own trust bundle, put together from the replicated state.

use std::sync::{Arc, Mutex, PoisonError};

use chancery_identity::bundle::{AuthorityError, Bundle, JwtAuthority, X509Authority};
use chancery_identity::id::TrustDomain;
use chancery_raft_store::Directory;
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityStatus, BundleAuthority};

/// Both kinds of authority that a bundle tells.
const KINDS: [AuthorityKind; 2] = [AuthorityKind::X509, AuthorityKind::Jwt];

/// The bundle as it was put together last: reading certificates and keys anew for each
/// question would let whoever may ask buy much work.
#[derive(Debug, Default)]
pub(super) struct OwnBundle(Mutex<Option<(Sources, Arc<Bundle>)>>);

impl OwnBundle {
    /// The bundle of `directory`, as [`own_bundle`] puts it together.
    pub(super) fn of(&self, trust_domain: &TrustDomain, directory: &Directory) -> Arc<Bundle> {
        let sources = Sources::of(directory);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, bundle)) = held.as_ref()
            && known.are(&sources)
        {
            return Arc::clone(bundle);
        }
        let bundle = Arc::new(own_bundle(trust_domain, directory));
        *held = Some((sources, Arc::clone(&bundle)));
        bundle
    }
}

/// Everything that a bundle is made of. The records themselves, so that no change of
/// them can be missed, whether it is counted or not: a record that changes is another.
#[derive(Debug)]
struct Sources {
    sequence: u64,
    own: Vec<Arc<Authority>>,
    foreign: Vec<Arc<BundleAuthority>>,
}

impl Sources {
    fn of(directory: &Directory) -> Self {
        let own = KINDS.iter().flat_map(|kind| directory.authorities(*kind));
        let federation = directory.federation();
        let foreign = KINDS.iter().flat_map(|k| federation.authorities_of(*k));
        Self {
            sequence: directory.cluster().bundle_sequence,
            own: own.collect(),
            foreign: foreign.collect(),
        }
    }

    fn are(&self, others: &Self) -> bool {
        fn same<T>(these: &[Arc<T>], those: &[Arc<T>]) -> bool {
            let pairs = these.iter().zip(those);
            these.len() == those.len() && pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
        }
        self.sequence == others.sequence
            && same(&self.own, &others.own)
            && same(&self.foreign, &others.foreign)
    }
}

/// The authorities of the cluster and those that were appended or published, in the
/// order they came to be. A certificate that is there twice is told once.
fn own_bundle(trust_domain: &TrustDomain, directory: &Directory) -> Bundle {
    let mut bundle = Bundle::new(trust_domain.clone());
    bundle.sequence = directory.cluster().bundle_sequence;
    for (id, authority) in roots(directory) {
        match authority {
            Ok(root) if is_told(&bundle, &root) => {}
            Ok(root) => bundle.x509_authorities.push(root),
            Err(error) => unreadable(&id, &error),
        }
    }
    for (id, authority) in jwt_keys(directory) {
        match authority {
            Ok(key) => bundle.jwt_authorities.push(key),
            Err(error) => unreadable(&id, &error),
        }
    }
    bundle
}

type Read<T> = (String, Result<T, AuthorityError>);

fn roots(directory: &Directory) -> Vec<Read<X509Authority>> {
    let own = directory.authorities(AuthorityKind::X509);
    let own = own.iter().filter(|a| is_trusted(a)).map(|authority| {
        let root = X509Authority::new(authority.certificate.clone(), authority.tainted);
        (authority.sequence, (authority.id.clone(), root))
    });
    let foreign = directory.federation().authorities_of(AuthorityKind::X509);
    let foreign = foreign.iter().map(|authority| {
        let root = X509Authority::new(authority.der.clone(), authority.tainted);
        (authority.sequence, (authority.id.clone(), root))
    });
    in_order(own.chain(foreign).collect())
}

fn jwt_keys(directory: &Directory) -> Vec<Read<JwtAuthority>> {
    let key = |der: &[u8], id: &str, expires_at, tainted| {
        let key = JwtAuthority::new(der, id.to_owned(), expires_at, tainted);
        (id.to_owned(), key)
    };
    let own = directory.authorities(AuthorityKind::Jwt);
    let own = own.iter().filter(|a| is_trusted(a)).map(|a| {
        let key = key(&a.public_key, &a.id, a.expires_at, a.tainted);
        (a.sequence, key)
    });
    let foreign = directory.federation().authorities_of(AuthorityKind::Jwt);
    let foreign = foreign.iter().map(|a| {
        let key = key(&a.der, &a.id, a.expires_at, a.tainted);
        (a.sequence, key)
    });
    in_order(own.chain(foreign).collect())
}

/// What is revoked keeps its record, and has left the bundle.
fn is_trusted(authority: &Authority) -> bool {
    authority.status() != AuthorityStatus::Revoked
}

fn in_order<T>(mut numbered: Vec<(u64, T)>) -> Vec<T> {
    numbered.sort_by_key(|(sequence, _)| *sequence);
    numbered.into_iter().map(|(_, item)| item).collect()
}

fn is_told(bundle: &Bundle, root: &X509Authority) -> bool {
    let told = bundle.x509_authorities.iter();
    told.map(X509Authority::der).any(|der| der == root.der())
}

/// One unreadable record must not take the others out of the bundle.
fn unreadable(id: &str, error: &AuthorityError) {
    tracing::error!(
        authority = id,
        error = %crate::app::chain(error),
        "a recorded authority cannot be read"
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_raft_store::model::{Authority, BundleAuthority, Cluster};
    use chancery_raft_store::view::{Table, meta};
    use prost::Message;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData};

    use super::*;

    fn root() -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pair = KeyPair::generate().unwrap();
        params.self_signed(&pair).unwrap().der().to_vec()
    }

    fn key() -> Vec<u8> {
        KeyPair::generate().unwrap().subject_public_key_info()
    }

    fn put(directory: &mut Directory, table: Table, key: &[u8], row: &impl Message) {
        directory
            .absorb_row(&table.key(key), Some(&row.encode_to_vec()))
            .unwrap();
    }

    fn own(directory: &mut Directory, kind: AuthorityKind, id: &str, sequence: u64, der: &[u8]) {
        let authority = Authority {
            id: id.into(),
            kind: kind.into(),
            sequence,
            certificate: der.to_vec(),
            public_key: der.to_vec(),
            expires_at: 7,
            ..Authority::default()
        };
        let kind = u8::try_from(i32::from(kind)).unwrap();
        let key = [&[kind], id.as_bytes()].concat();
        put(directory, Table::Authorities, &key, &authority);
    }

    fn foreign(
        directory: &mut Directory,
        kind: AuthorityKind,
        id: &str,
        sequence: u64,
        der: &[u8],
    ) {
        let authority = BundleAuthority {
            kind: kind.into(),
            id: id.into(),
            sequence,
            der: der.to_vec(),
            expires_at: 8,
            tainted: true,
            publisher: String::new(),
        };
        let key = sequence.to_be_bytes();
        put(directory, Table::BundleAuthorities, &key, &authority);
    }

    #[test]
    fn the_held_bundle_changes_with_every_record_counted_or_not() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let mut directory = Directory::default();
        let held = OwnBundle::default();
        let told = |directory: &Directory| {
            let bundle = held.of(&domain, directory);
            let again = held.of(&domain, directory);
            assert!(Arc::ptr_eq(&bundle, &again), "it is put together once");
            assert_eq!(*bundle, own_bundle(&domain, directory));
            bundle
        };
        let (x509, jwt) = (AuthorityKind::X509, AuthorityKind::Jwt);
        assert!(told(&directory).x509_authorities.is_empty());
        own(&mut directory, x509, "a", 1, &root());
        assert_eq!(told(&directory).x509_authorities.len(), 1);
        let other = root();
        own(&mut directory, x509, "a", 1, &other);
        assert_eq!(told(&directory).roots(), [other]);
        foreign(&mut directory, jwt, "k", 2, &key());
        assert_eq!(told(&directory).jwt_authorities.len(), 1);
        put(
            &mut directory,
            Table::BundleAuthorities,
            &2u64.to_be_bytes(),
            &BundleAuthority {
                kind: x509.into(),
                id: "b".into(),
                sequence: 2,
                der: root(),
                ..BundleAuthority::default()
            },
        );
        told(&directory);
        let cluster = Cluster {
            bundle_sequence: 5,
            ..Cluster::default()
        };
        put(&mut directory, Table::Meta, meta::CLUSTER, &cluster);
        assert_eq!(told(&directory).sequence, 5);
    }

    #[test]
    fn own_and_foreign_authorities_stand_in_the_order_they_came() {
        let mut directory = Directory::default();
        let cluster = Cluster {
            bundle_sequence: 5,
            ..Cluster::default()
        };
        put(&mut directory, Table::Meta, meta::CLUSTER, &cluster);
        let (x509, jwt) = (AuthorityKind::X509, AuthorityKind::Jwt);
        let roots = [root(), root(), root()];
        let keys = [key(), key()];
        own(&mut directory, x509, "a", 1, &roots[0]);
        foreign(&mut directory, x509, "b", 2, &roots[1]);
        own(&mut directory, x509, "c", 3, &roots[2]);
        // The same certificate, and one that nobody can read.
        foreign(&mut directory, x509, "c", 4, &roots[2]);
        foreign(&mut directory, x509, "d", 5, b"nonsense");
        foreign(&mut directory, jwt, "k", 6, &keys[0]);
        own(&mut directory, jwt, "l", 7, &keys[1]);
        let bundle = own_bundle(&TrustDomain::parse("example.org").unwrap(), &directory);
        assert_eq!(bundle.sequence, 5);
        assert_eq!(bundle.roots(), roots);
        let tainted = bundle
            .x509_authorities
            .iter()
            .map(X509Authority::is_tainted);
        assert_eq!(tainted.collect::<Vec<_>>(), [false, true, false]);
        let told: Vec<_> = bundle
            .jwt_authorities
            .iter()
            .map(|k| {
                (
                    k.kid(),
                    k.spki_der().to_vec(),
                    k.expires_at(),
                    k.is_tainted(),
                )
            })
            .collect();
        let [first, second] = keys;
        assert_eq!(told, [("k", first, 8, true), ("l", second, 7, false)]);
    }
}
