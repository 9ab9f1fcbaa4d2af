//! Intermediates for members that do not have the token: one that has it certifies their key.
//!
//! Why it exists: a learner in another place serves X.509-SVIDs under the authorities that nodes
//! share, without an HSM there.
//!
//! Promises: only a member is answered, over the connection that its pinned key made; it proves
//! that it has the key, to this very node and for this very authority, which signs or is to sign
//! next. A node serves one at a time. The profile is that of any intermediate, and what came back
//! is judged by it again. Every certificate is in the audit log of the node that had it signed.
//! Refuses to know: how members are reached.

use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::peer::v1 as wire;
use chancery_api::chancery::peer::v1::custody_server::Custody as CustodyService;
use chancery_hsm::{KeyRef, MemorySigner, Signature, SignatureAlgorithm, Signer};
use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_identity::key::{KeyKind, PublicKey};
use chancery_identity::x509_svid::{
    Expected, Profile, judge_certificate, verify_certificate_signature,
};
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityStatus};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{CertifyError, plan};
use crate::authority::Custody;
use crate::cluster::server::PeerServer;
use crate::cluster::status::Members;
use crate::issue::{Draw, X509Authority};
use crate::registry::Doors;

/// A member answers within it, or the next one is asked.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a public key of EC P-256, with room.
const KEY_BYTES_MAX: usize = 256;
const TAG: &[u8] = b"chancery intermediate";

/// What the key to be certified signs.
fn statement(cluster_id: &str, from: u64, to: u64, authority_id: &str, spki: &[u8]) -> Vec<u8> {
    let (from, to) = (from.to_string(), to.to_string());
    let fields = [
        TAG,
        cluster_id.as_bytes(),
        from.as_bytes(),
        to.as_bytes(),
        authority_id.as_bytes(),
    ];
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.push(0);
    }
    bytes.extend_from_slice(spki);
    bytes
}

/// A key of this node that another member is to certify.
pub(super) struct Asked<'a> {
    pub(super) doors: &'a Doors,
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) root: &'a X509Authority,
    pub(super) key: &'a KeyRef,
    pub(super) signer: &'a MemorySigner,
    pub(super) public: &'a PublicKey,
}

impl Asked<'_> {
    /// Asks the members that have the token, one after the other: the certificate and its end.
    pub(super) async fn certify(&self, members: &Members) -> Result<(Vec<u8>, i64), CertifyError> {
        let mut tried = Vec::new();
        for node in members.with_token() {
            match self.ask(node).await {
                Ok(certified) => return Ok(certified),
                Err(why) => tried.push(format!("node {node}: {why}")),
            }
        }
        Err(CertifyError::Elsewhere(if tried.is_empty() {
            "this node has no token, and no member that has one can issue now".to_owned()
        } else {
            format!(
                "no member that has the token certified it: {}",
                tried.join("; ")
            )
        }))
    }

    async fn ask(&self, node: u64) -> Result<(Vec<u8>, i64), String> {
        let consensus = self.doors.consensus();
        let spki = self.public.spki_der();
        let authority_id = self.root.id();
        let cluster_id = consensus.cluster_id();
        let statement = statement(cluster_id, consensus.me(), node, authority_id, spki);
        let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
        let proof = self.signer.sign(self.key, algorithm, &statement).await;
        let proof = proof.map_err(|e| e.to_string())?;
        let request = wire::CertifyRequest {
            target: None,
            authority_id: authority_id.to_owned(),
            public_key: spki.to_vec(),
            proof: proof.as_bytes().to_vec(),
        };
        let answer = consensus.certify(node, request, LIMIT).await;
        let der = answer.map_err(|e| e.to_string())?.certificate;
        let expected = Expected {
            profile: &Profile::Intermediate,
            id: &SpiffeId::of_trust_domain(self.trust_domain),
            public_key: self.public,
            issuer: Some(self.root.facts()),
            now: consensus.clock().now_unix_ms().div_euclid(1000),
        };
        let facts = judge_certificate(&der, &expected)
            .map_err(|e| format!("it sent something else than was asked for: {e}"))?;
        verify_certificate_signature(&der, self.root.facts().public_key())
            .map_err(|e| format!("what it sent is not signed by the authority: {e}"))?;
        Ok((der, facts.not_after))
    }
}

/// Serves members that do not have the token. Cheap to clone.
#[derive(Clone)]
pub struct Certifier {
    peers: PeerServer,
    doors: Doors,
    custody: Custody,
    turn: Arc<Mutex<()>>,
}

impl Certifier {
    /// Bytes of a request, many times what one needs.
    pub const MESSAGE_BYTES_MAX: usize = 16 << 10;

    /// A certifier that answers whom `peers` lets in.
    pub fn new(peers: PeerServer, doors: Doors, custody: Custody) -> Self {
        Self {
            peers,
            doors,
            custody,
            turn: Arc::default(),
        }
    }
}

/// The key of a request of `from` to `me`, if the caller has proved that it has it.
fn proved(
    cluster_id: &str,
    from: u64,
    me: u64,
    request: &wire::CertifyRequest,
) -> Result<PublicKey, Status> {
    let bad = |why: String| Status::invalid_argument(format!("the key to certify: {why}"));
    let spki = &request.public_key;
    if spki.len() > KEY_BYTES_MAX {
        return Err(bad(format!("has more than {KEY_BYTES_MAX} bytes")));
    }
    let key = PublicKey::from_spki_der(spki).map_err(|e| bad(e.to_string()))?;
    if key.kind() != KeyKind::EcP256 {
        return Err(bad("is not of EC P-256".to_owned()));
    }
    let statement = statement(cluster_id, from, me, &request.authority_id, spki);
    let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
    let proof = Signature::from_raw(algorithm, request.proof.clone());
    let proof = proof.map_err(|e| bad(format!("its proof: {e}")))?;
    if !chancery_hsm::verify(spki, algorithm, &statement, &proof) {
        return Err(Status::permission_denied(
            "the caller did not prove that it has the key to certify",
        ));
    }
    Ok(key)
}

/// Whether an intermediate of an authority is to be had: it signs, or is to sign next. What has
/// stopped to sign certifies nobody.
fn certifies(authority: &Authority, now: i64) -> bool {
    let status = authority.status();
    let signs = matches!(status, AuthorityStatus::Active | AuthorityStatus::Prepared);
    authority.node_id == 0 && signs && plan::may_sign(authority, now)
}

#[tonic::async_trait]
impl CustodyService for Certifier {
    async fn certify(
        &self,
        request: Request<wire::CertifyRequest>,
    ) -> Result<Response<wire::CertifyResponse>, Status> {
        let from = self
            .peers
            .check(&request, request.get_ref().target.as_ref())?;
        let request = request.into_inner();
        let consensus = self.doors.consensus();
        let key = proved(consensus.cluster_id(), from, consensus.me(), &request)?;
        // They go ahead of documents at the token: members must not fill its queue with them.
        let turn = Arc::clone(&self.turn).try_lock_owned().map_err(|_| {
            Status::resource_exhausted("another member's intermediate is being certified here")
        })?;
        // Behind a barrier: one that was removed a moment ago is to have no CA for a day.
        self.doors.exact().await?;
        self.doors.fresh().await?;
        let now = consensus.clock().now_unix_ms().div_euclid(1000);
        let authorities = {
            let directory = self.doors.local();
            if directory.member(from).is_none() {
                return Err(Status::permission_denied(
                    "the caller is no member any more",
                ));
            }
            if !self.custody.shares(directory.cluster()) {
                return Err(Status::failed_precondition(
                    "each node has authorities of its own",
                ));
            }
            directory.authorities(AuthorityKind::X509)
        };
        let record = authorities
            .iter()
            .find(|a| a.id == request.authority_id && certifies(a, now))
            .ok_or_else(|| {
                Status::failed_precondition(
                    "nodes share no authority of that id that signs or is to sign next",
                )
            })?;
        if !self.custody.is_usable(&record.id) {
            return Err(Status::unavailable(
                "this node cannot sign with the authority now",
            ));
        }
        let intermediates = self.custody.intermediates().clone();
        let failed = |error: CertifyError| {
            // Why not is for the operator: it may name tokens, files and modules.
            tracing::warn!(node = from, error = %crate::app::chain(&error), "a member's intermediate was not certified");
            Status::unavailable("the authority did not sign; this node's log says why")
        };
        let root = intermediates.root(record).map_err(failed)?;
        let draw = Draw::new(&**consensus.clock());
        let (custody, doors) = (self.custody.clone(), self.doors.clone());
        // To its end, whatever becomes of the caller: the token is at it, and it is audited.
        let issued = tokio::spawn(async move {
            let _turn = turn;
            intermediates
                .certificate(&custody, &doors, &root, &key, from, &draw)
                .await
        });
        let issued = issued
            .await
            .map_err(|_| Status::internal("certifying ended unexpectedly"))?;
        let certificate = issued.map_err(failed)?.certificate_der;
        Ok(Response::new(wire::CertifyResponse { certificate }))
    }
}

#[cfg(test)]
mod tests {
    use chancery_hsm::{KeyId, KeySpec, KeyType};
    use tonic::Code;

    use super::*;

    #[test]
    fn a_proof_is_for_one_key_authority_caller_and_node() {
        let of = statement("c", 4, 1, "a", b"key");
        assert_eq!(of, b"chancery intermediate\0c\x004\x001\0a\0key");
        for other in [
            statement("d", 4, 1, "a", b"key"),
            statement("c", 5, 1, "a", b"key"),
            statement("c", 4, 2, "a", b"key"),
            statement("c", 4, 1, "b", b"key"),
            statement("c", 4, 1, "a", b"yek"),
        ] {
            assert_ne!(of, other);
        }
    }

    #[test]
    fn an_authority_certifies_while_it_signs_or_is_to_sign_next() {
        let of = |status: AuthorityStatus, tainted: bool, node_id: u64| {
            let mut authority = Authority {
                node_id,
                tainted,
                expires_at: 100,
                ..Authority::default()
            };
            authority.set_status(status);
            certifies(&authority, 99)
        };
        assert!(of(AuthorityStatus::Active, false, 0));
        assert!(of(AuthorityStatus::Prepared, false, 0));
        for (status, tainted, node_id) in [
            (AuthorityStatus::Old, false, 0),
            (AuthorityStatus::Revoked, false, 0),
            (AuthorityStatus::Active, true, 0),
            (AuthorityStatus::Active, false, 1),
        ] {
            assert!(!of(status, tainted, node_id), "{status:?}");
        }
    }

    async fn asked(key_type: KeyType) -> wire::CertifyRequest {
        let signer = MemorySigner::new();
        let spec = KeySpec {
            key: KeyRef {
                id: KeyId::new([1; 16]),
                label: "own".into(),
            },
            key_type,
        };
        let spki = signer.generate(&spec).await.unwrap().spki_der;
        let statement = statement("c", 4, 1, "a", &spki);
        let algorithm = key_type.algorithm();
        let proof = signer.sign(&spec.key, algorithm, &statement).await.unwrap();
        wire::CertifyRequest {
            target: None,
            authority_id: "a".into(),
            public_key: spki,
            proof: proof.as_bytes().to_vec(),
        }
    }

    #[tokio::test]
    async fn who_has_not_proved_that_it_has_the_key_gets_nothing() {
        let good = asked(KeyType::EcP256).await;
        let code = |cluster: &str, from, me, request: &wire::CertifyRequest| {
            proved(cluster, from, me, request)
                .map_err(|status| status.code())
                .err()
        };
        assert_eq!(code("c", 4, 1, &good), None);
        let denied = Some(Code::PermissionDenied);
        assert_eq!(code("d", 4, 1, &good), denied, "in another cluster");
        assert_eq!(code("c", 5, 1, &good), denied, "by another member");
        assert_eq!(code("c", 4, 2, &good), denied, "at another node");
        let authority_id = "b".into();
        let other = wire::CertifyRequest {
            authority_id,
            ..good.clone()
        };
        assert_eq!(code("c", 4, 1, &other), denied, "under another authority");
        let public_key = asked(KeyType::EcP256).await.public_key;
        let other = wire::CertifyRequest {
            public_key,
            ..good.clone()
        };
        assert_eq!(code("c", 4, 1, &other), denied, "for another key");
        let invalid = Some(Code::InvalidArgument);
        let longer = asked(KeyType::EcP384).await;
        assert_eq!(code("c", 4, 1, &longer), invalid, "of another type");
        for (public_key, proof) in [
            (Vec::new(), good.proof.clone()),
            (vec![0; KEY_BYTES_MAX + 1], good.proof.clone()),
            (good.public_key.clone(), Vec::new()),
        ] {
            let broken = wire::CertifyRequest {
                public_key,
                proof,
                ..good.clone()
            };
            assert_eq!(code("c", 4, 1, &broken), invalid);
        }
    }
}
