//! Node attestation: how a node proves what it is before it has an identity.
//!
//! Each method is one file and one variant of [`Attestor`], found by the name that
//! agents send. A method turns what it was shown into an [`Attestation`]: which agent
//! this is, what was found out about it, and what the registry must consume when it
//! records it. Nothing is written here and nothing is signed: the command that
//! records the agent decides whether the proof still stands, so that of two nodes
//! shown one proof at the same moment one wins.

pub mod join_token;

use chancery_identity::id::SpiffeId;
use chancery_raft_store::model::Selector;

use self::join_token::JoinToken;

/// Largest attestation payload that is looked at, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// The attestation methods of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attestor {
    /// A token that an administrator made; see [`join_token`].
    JoinToken,
}

impl Attestor {
    /// The method that agents call `name`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            join_token::NAME => Some(Self::JoinToken),
            _ => None,
        }
    }

    /// The name that agents send, and the type of the agent's record.
    pub fn name(self) -> &'static str {
        match self {
            Self::JoinToken => join_token::NAME,
        }
    }
}

/// What an attestation method found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    /// Which agent it is.
    pub id: SpiffeId,
    /// By which method.
    pub attestor: Attestor,
    /// What is known of the node.
    pub selectors: Vec<Selector>,
    /// Whether the agent may attest again instead of renewing.
    pub can_reattest: bool,
    /// The token that recording the agent consumes.
    pub token: Option<JoinToken>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_by_the_name_it_tells() {
        assert_eq!(Attestor::named("join_token"), Some(Attestor::JoinToken));
        assert_eq!(Attestor::JoinToken.name(), "join_token");
        for unknown in ["", "JOIN_TOKEN", "x509pop", "join_token "] {
            assert_eq!(Attestor::named(unknown), None);
        }
    }
}
