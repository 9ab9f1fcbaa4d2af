//! A no, and what an agent is told of it.

use chancery_api::google::rpc;
use chancery_api::spire::api::types::PermissionDeniedDetails;
pub use chancery_api::spire::api::types::permission_denied_details::Reason;
use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status};

/// Where SPIRE's clients look the detail up.
const DETAILS_TYPE_URL: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// The caller may not call the method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authorization denied for method {method}")]
pub struct Denial {
    method: Box<str>,
    reason: Option<Reason>,
    /// Whether no newer state could turn this into a yes.
    settled: bool,
}

impl Denial {
    /// Newer state cannot change it.
    pub(super) fn settled(method: &str, reason: Option<Reason>) -> Self {
        Self {
            method: method.into(),
            reason,
            settled: true,
        }
    }

    /// Said from the state at hand; newer state may say otherwise.
    pub(super) fn of_this_state(method: &str, reason: Option<Reason>) -> Self {
        Self {
            method: method.into(),
            reason,
            settled: false,
        }
    }

    /// Path of the method that was refused.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What an agent is to make of it, if there is something.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Whether the answer depends on replicated state. Then it may be said only if
    /// it is still the answer after a read-index barrier; where that cannot be had
    /// the answer is UNAVAILABLE without detail, because an agent that reads a typed
    /// reason may give up its identity.
    pub fn needs_barrier(&self) -> bool {
        !self.settled
    }

    /// PermissionDenied, with the typed reason where there is one.
    ///
    /// SPIRE's agents act on `grpc-status-details-bin` alone: without it a banned or
    /// evicted agent retries for ever.
    pub fn into_status(self) -> Status {
        let message = self.to_string();
        let Some(reason) = self.reason else {
            return Status::permission_denied(message);
        };
        typed_denial(reason, &message)
    }
}

/// PermissionDenied with the typed reason that an agent acts upon. Give it only after a
/// barrier: an agent drops its identity for it.
pub fn typed_denial(reason: Reason, message: &str) -> Status {
    let detail = PermissionDeniedDetails {
        reason: reason.into(),
    };
    let details = rpc::Status {
        code: Code::PermissionDenied.into(),
        message: message.to_owned(),
        details: vec![Any {
            type_url: DETAILS_TYPE_URL.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(
        Code::PermissionDenied,
        message,
        details.encode_to_vec().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: &str = "/spire.api.server.agent.v1.Agent/RenewAgent";

    #[test]
    fn typed_reason_travels_where_spire_agents_look() {
        let status = Denial::settled(METHOD, Some(Reason::AgentBanned)).into_status();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(
            status.message(),
            format!("authorization denied for method {METHOD}")
        );
        let details = rpc::Status::decode(status.details()).unwrap();
        assert_eq!(
            (details.code, details.message.as_str()),
            (7, status.message())
        );
        let [detail] = details.details.as_slice() else {
            panic!("one detail: {details:?}")
        };
        assert_eq!(
            detail.type_url,
            "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
        );
        // Field 1, varint 4: SPIRE's number of AGENT_BANNED.
        assert_eq!(detail.value, [0x08, 0x04]);
    }

    #[test]
    fn plain_denial_has_no_detail() {
        let status = Denial::settled(METHOD, None).into_status();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.details().is_empty());
    }
}
