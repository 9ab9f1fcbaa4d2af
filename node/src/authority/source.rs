//! What signs X.509-SVIDs on this node at the moment: an authority's own key, or an intermediate.

use std::sync::Arc;

use chancery_hsm::Signer;
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityStatus, IssuanceMode};

use super::intermediate::Intermediate;
use super::issuer::{IssueFailed, Issuer};
use crate::issue::X509Authority;

/// An issuer of certificates with its key.
pub(super) struct Source {
    pub(super) authority: Arc<X509Authority>,
    /// Id of the authority of the cluster that it is, or that certified it.
    pub(super) authority_id: String,
    key: Key,
}

enum Key {
    Custody(Arc<dyn Signer>),
    Intermediate(Arc<Intermediate>),
}

impl Source {
    /// An authority of the cluster itself.
    pub(super) fn direct(authority: Arc<X509Authority>, signer: &Arc<dyn Signer>) -> Self {
        Self {
            authority_id: authority.id().to_owned(),
            authority,
            key: Key::Custody(Arc::clone(signer)),
        }
    }

    fn intermediate(held: Arc<Intermediate>) -> Self {
        Self {
            authority: Arc::clone(held.authority()),
            authority_id: held.authority_id().to_owned(),
            key: Key::Intermediate(held),
        }
    }

    /// What signs with its key.
    pub(super) fn signer(&self) -> &dyn Signer {
        match &self.key {
            Key::Custody(signer) => &**signer,
            Key::Intermediate(held) => held.signer(),
        }
    }
}

/// Which issuer an SVID that is made now comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Id of the authority of the cluster.
    pub(super) authority_id: String,
    /// By an intermediate of it.
    pub(super) mode: IssuanceMode,
}

impl Issuer {
    /// How this node signs; see [`Custody::mode`](super::Custody::mode).
    pub(super) fn mode(&self) -> IssuanceMode {
        self.custody().mode(self.doors().local().cluster())
    }

    /// The authority of which an intermediate is wanted first: that which signs, or would with
    /// the token.
    fn to_certify(&self) -> Option<Arc<Authority>> {
        if let Some(signing) = self.signing(AuthorityKind::X509) {
            return Some(signing);
        }
        let directory = self.doors().local();
        if !self.custody().lacks_token(directory.cluster()) {
            return None;
        }
        let authorities = directory.authorities(AuthorityKind::X509);
        let now = self.now();
        authorities.into_iter().find(|a| {
            let signs = a.status() == AuthorityStatus::Active && !a.tainted;
            a.node_id == 0 && signs && a.expires_at > now
        })
    }

    /// Where an SVID of this moment would come from; `None` where nothing can sign one.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let mode = self.mode();
        let authority_id = self.signing_record()?.id.clone();
        Some(Wanted { authority_id, mode })
    }

    /// The record of the authority of the cluster that X.509-SVIDs of this moment lead to.
    pub(super) fn signing_record(&self) -> Option<Arc<Authority>> {
        let Some(held) = self.custody().signing_intermediate(self.doors()) else {
            return self.signing(AuthorityKind::X509);
        };
        let authorities = self.doors().local().authorities(AuthorityKind::X509);
        authorities
            .into_iter()
            .find(|a| a.id == held.authority_id())
    }

    /// What signs X.509-SVIDs now. Where intermediates do and none is held, one is certified.
    ///
    /// # Errors
    /// [`IssueFailed::NoAuthority`], [`IssueFailed::NoIntermediate`].
    pub(super) async fn svid_source(&self) -> Result<Source, IssueFailed> {
        if self.mode() == IssuanceMode::Direct {
            return self.authority_source();
        }
        if let Some(held) = self.custody().signing_intermediate(self.doors()) {
            return Ok(Source::intermediate(held));
        }
        let record = self.to_certify().ok_or(IssueFailed::NoAuthority("X.509"))?;
        let custody = self.custody();
        custody
            .intermediates()
            .certify(custody, self.doors(), &record)
            .await
            .map_err(IssueFailed::NoIntermediate)?;
        // Asked again: the authority may have been tainted while the token signed.
        let held = custody.signing_intermediate(self.doors());
        held.map(Source::intermediate)
            .ok_or(IssueFailed::NoAuthority("X.509"))
    }

    /// What keeps this node from signing X.509-SVIDs, if anything does.
    pub fn obstacle(&self) -> Option<String> {
        let intermediate = match self.mode() {
            IssuanceMode::Direct => "",
            IssuanceMode::Intermediate => {
                if self.custody().signing_intermediate(self.doors()).is_some() {
                    return None;
                }
                "it holds no intermediate, and "
            }
        };
        if let Some(why) = self.signer_trouble().filter(|_| !self.lacks_token()) {
            return Some(format!("{intermediate}{why}"));
        }
        let Some(record) = self.to_certify() else {
            return Some(format!(
                "{intermediate}no X.509 authority can sign on it yet"
            ));
        };
        if intermediate.is_empty() {
            return None;
        }
        let why = self.custody().intermediates().failure(&record.id);
        let why = why.unwrap_or_else(|| "it is about to be certified".to_owned());
        Some(format!("it holds no intermediate: {why}"))
    }

    /// What this node cannot sign although it signs X.509-SVIDs.
    pub fn shortfall(&self) -> Option<String> {
        let held = self.custody().signing_intermediate(self.doors())?;
        if self.lacks_token() {
            return Some(
                "it has no token: JWT-SVIDs and CAs of downstream servers are not signed on it"
                    .to_owned(),
            );
        }
        let why = self.signer_trouble()?;
        let left = (held.not_after() - self.now()).max(0);
        Some(format!(
            "{why}: JWT-SVIDs and CAs of downstream servers are not signed, X.509-SVIDs for {left} s more"
        ))
    }

    fn lacks_token(&self) -> bool {
        self.custody().lacks_token(self.doors().local().cluster())
    }

    fn signer_trouble(&self) -> Option<String> {
        let health = self.custody().signer().health();
        if health.usable {
            return None;
        }
        let why = health
            .last_error
            .map_or_else(|| "no reason is known".to_owned(), |e| e.to_string());
        Some(format!("its signing keys cannot be reached: {why}"))
    }
}
