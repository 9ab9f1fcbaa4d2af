//! Join tokens: a secret that an administrator makes and one agent redeems once.
//!
//! The registry stores a digest, so that neither a backup nor a member's disk holds a
//! token that still works; except where an alias was asked for with it: the alias entry
//! names the agent to be, and the token with it, from the start. The token is also the last segment of the agent's path
//! (SPIRE's naming), so only text that is one path segment can be a token; anything
//! else is refused when the token is made, not when an agent stands in front of it.

use aws_lc_rs::digest::{SHA256, digest};
use chancery_identity::id::{IdError, SpiffeId, TrustDomain};
use chancery_raft_store::model::Selector;

use super::Attestation;

/// Name of the method.
pub const NAME: &str = "join_token";
/// Type of the selector by which an alias names its agent.
const ALIAS_SELECTOR: &str = "spiffe_id";

/// Text that can be a join token in a trust domain. Whether it *is* one only the
/// registry knows.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    sha256: [u8; 32],
    agent_id: SpiffeId,
}

/// Shows the digest only: the token is a secret and the path contains it.
impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JoinToken")
            .field(&hex::encode(self.sha256))
            .finish()
    }
}

impl JoinToken {
    /// Checks the shape of a token.
    ///
    /// # Errors
    /// [`IdError`] when the text is not one path segment or makes the agent's ID too
    /// long (SPIFFE-ID §2.2, §2.3).
    pub fn parse(trust_domain: &TrustDomain, text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::EmptySegment);
        }
        // A token with a slash would be a valid path and a different agent.
        if text.contains('/') {
            return Err(IdError::BadPathChar);
        }
        let agent_id = SpiffeId::agent(trust_domain, &format!("/{NAME}/{text}"))?;
        let digest = digest(&SHA256, text.as_bytes());
        let sha256 = digest
            .as_ref()
            .try_into()
            .expect("a SHA-256 digest has 32 bytes");
        Ok(Self { sha256, agent_id })
    }

    /// SHA-256 of the text: the key under which the registry knows it.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The agent that redeems it: `spiffe://TD/spire/agent/join_token/<token>`.
    pub fn agent_id(&self) -> &SpiffeId {
        &self.agent_id
    }

    /// The selector of the entry that gives the agent a second name. Deleting the
    /// agent deletes the entry that has this selector alone.
    pub fn alias_selector(&self) -> Selector {
        Selector {
            kind: ALIAS_SELECTOR.into(),
            value: self.agent_id.to_string(),
        }
    }

    /// What presenting the token proves, if the registry knows it.
    pub fn attestation(self) -> Attestation {
        Attestation {
            id: self.agent_id.clone(),
            attestor: NAME,
            selectors: Vec::new(),
            can_reattest: false,
            token: Some(self),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    #[test]
    fn a_token_names_its_agent_and_is_known_by_its_digest() {
        let token = JoinToken::parse(&domain(), "abc").unwrap();
        assert_eq!(
            token.agent_id().as_str(),
            "spiffe://example.org/spire/agent/join_token/abc"
        );
        // FIPS 180-4, the one-block example.
        assert_eq!(
            hex::encode(token.sha256()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            token.alias_selector(),
            Selector {
                kind: "spiffe_id".into(),
                value: token.agent_id().to_string()
            }
        );
    }

    #[test]
    fn only_one_path_segment_can_be_a_token() {
        for text in ["", "a/b", "/", "..", ".", "a b", "ä", "a%2Fb", "a\0b"] {
            assert!(JoinToken::parse(&domain(), text).is_err(), "{text:?}");
        }
        assert!(JoinToken::parse(&domain(), "A-z_0.9").is_ok());
        assert!(JoinToken::parse(&domain(), &"a".repeat(1900)).is_ok());
        assert!(JoinToken::parse(&domain(), &"a".repeat(2048)).is_err());
    }

    #[test]
    fn the_token_is_not_shown() {
        let token = JoinToken::parse(&domain(), "very-secret").unwrap();
        assert!(!format!("{token:?}").contains("very-secret"));
    }

    #[test]
    fn an_attestation_consumes_its_token_and_may_not_be_repeated() {
        let token = JoinToken::parse(&domain(), "abc").unwrap();
        let attestation = token.clone().attestation();
        assert_eq!(attestation.id, *token.agent_id());
        assert!(!attestation.can_reattest && attestation.selectors.is_empty());
        assert_eq!(attestation.token, Some(token));
    }
}
