//! Node attestation: how a node proves what it is before it has an identity.
//!
//! A method turns what it was shown into an [`Attestation`]: which agent
//! this is, what was found out about it, and what the registry must consume when it
//! records it. Nothing is written here and nothing is signed: the command that
//! records the agent decides whether the proof still stands, so that of two nodes
//! shown one proof at the same moment one wins.
//!
//! Join tokens need the registry and are redeemed by the service; every other method
//! is a [`NodeAttestor`], found in [`Attestors`] by the name that agents send.

pub mod join_token;
pub mod template;
pub mod x509pop;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use chancery_identity::id::SpiffeId;
use chancery_raft_store::model::Selector;
use tonic::{Code, Status};

use self::join_token::JoinToken;

/// Largest attestation payload that is looked at, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// Largest answer to a challenge that is looked at, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// What an attestation method found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    /// Which agent it is.
    pub id: SpiffeId,
    /// By which method: the name that agents send, and the type of the agent's record.
    pub attestor: &'static str,
    /// What is known of the node.
    pub selectors: Vec<Selector>,
    /// Whether the agent may attest again instead of renewing.
    pub can_reattest: bool,
    /// The token that recording the agent consumes.
    pub token: Option<JoinToken>,
}

/// Why a node is not what it says, or cannot be judged.
#[derive(Clone, Debug)]
pub enum AttestError {
    /// The method's own no, in SPIRE's code and words.
    Refused {
        /// gRPC code.
        code: Code,
        /// What is wrong; told to the agent behind the method's name.
        message: String,
    },
    /// The conversation with the agent broke off; told as it is.
    Conversation(Status),
}

impl AttestError {
    /// A no of the method.
    pub fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }

    /// As the agent is told, by the method of this name.
    pub fn into_status(self, attestor: &str) -> Status {
        match self {
            Self::Refused { code, message } => {
                Status::new(code, format!("nodeattestor({attestor}): {message}"))
            }
            Self::Conversation(status) => status,
        }
    }
}

/// What is known of a node before it has shown anything.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Where it calls from, as the transport sees it.
    pub address: Option<IpAddr>,
    /// When it is judged, Unix seconds.
    pub now: i64,
}

/// The agent's side of a challenge.
#[async_trait]
pub trait Rounds: Send {
    /// Sends a challenge, which is not empty, and waits for the answer, which may be.
    ///
    /// # Errors
    /// The agent is gone, silent for too long, or its answer too large.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, Status>;
}

/// A method of attestation.
#[async_trait]
pub trait NodeAttestor: Send + Sync {
    /// The name that agents send.
    fn name(&self) -> &'static str;

    /// Judges `payload`, which is not empty and at most [`PAYLOAD_BYTES_MAX`] long, in
    /// as many rounds as the method has.
    ///
    /// # Errors
    /// [`AttestError`].
    async fn attest(
        &self,
        payload: Vec<u8>,
        node: Node,
        rounds: &mut dyn Rounds,
    ) -> Result<Attestation, AttestError>;
}

/// The configured methods. Cheap to clone.
#[derive(Clone, Default)]
pub struct Attestors {
    by_name: BTreeMap<&'static str, Arc<dyn NodeAttestor>>,
}

impl Attestors {
    /// Adds a method; one of the same name is replaced.
    pub fn add(&mut self, attestor: Arc<dyn NodeAttestor>) {
        self.by_name.insert(attestor.name(), attestor);
    }

    /// The method that agents call `name`.
    pub fn named(&self, name: &str) -> Option<&Arc<dyn NodeAttestor>> {
        self.by_name.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_of_a_method_names_it_and_a_broken_conversation_does_not() {
        let status = AttestError::refused(Code::InvalidArgument, "no").into_status("x509pop");
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "nodeattestor(x509pop): no")
        );
        let broken = AttestError::Conversation(Status::internal("gone"));
        assert_eq!(broken.into_status("x509pop").message(), "gone");
    }
}
