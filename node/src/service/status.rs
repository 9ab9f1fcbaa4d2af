//! What a service answers when it does not do what it was asked.
//!
//! The texts are SPIRE's wherever SPIRE has one, because its clients show them and
//! some match on them. One exhaustive function maps the refusals of the registry.

use chancery_api::spire::api::types;
use chancery_api::spire::api::types::permission_denied_details::Reason;
use chancery_raft_store::Refusal;
use chancery_raft_store::apply::member::VOTERS_MAX;
use tonic::{Code, Status};

use crate::authz::typed_denial;

/// A refusal of the registry as a caller sees it; `subject` is `agent` or `entry`.
pub(super) fn refused(refusal: Refusal, subject: &str) -> Status {
    match refusal {
        Refusal::AlreadyExists => Status::already_exists(format!("{subject} already exists")),
        Refusal::NotFound => Status::not_found(format!("{subject} not found")),
        Refusal::TokenUnknown => token_unknown(),
        Refusal::TokenExpired => Status::invalid_argument("join token expired"),
        Refusal::AgentBanned => typed_denial(Reason::AgentBanned, "agent is banned"),
        Refusal::AgentMustReattest => must_reattest(),
        Refusal::Conflict => Status::aborted("the state changed meanwhile; try again"),
        Refusal::EntryMixedSelectors => {
            Status::invalid_argument("selector types must be the same when store SVID is enabled")
        }
        Refusal::EntryTooLarge => Status::invalid_argument(format!("{subject} is too large")),
        Refusal::OutcomeUnknown => {
            Status::aborted("outcome unknown: an earlier attempt may or may not have taken effect")
        }
        Refusal::AuthorityInUse => {
            Status::failed_precondition(format!("{subject} is in use: it signs, or is about to"))
        }
        Refusal::AlreadyTainted => {
            Status::invalid_argument(format!("{subject} is already tainted"))
        }
        Refusal::NotTainted => Status::invalid_argument(format!("{subject} is not tainted")),
        Refusal::FederatedWith => {
            Status::failed_precondition("registration entries federate with the bundle")
        }
        Refusal::NoFederatedBundle => Status::internal("unable to find federated bundle"),
        Refusal::BundleFull => {
            Status::resource_exhausted("the trust bundle has as many authorities as it may have")
        }
        Refusal::PublishedTooMuch => Status::resource_exhausted(
            "downstream servers published as many keys as this one, or all together, may",
        ),
        Refusal::LastAuthority => {
            Status::failed_precondition("the trust bundle would lose its last authority")
        }
        Refusal::EvenVoters => Status::failed_precondition(
            "the cluster would have an even number of voters, which bears no more failures than one voter less: \
             change one more, or insist with -allowEven",
        ),
        Refusal::VoterCount => {
            Status::failed_precondition(format!("a cluster has 1 to {VOTERS_MAX} voters"))
        }
        Refusal::ClockStep => Status::unavailable(
            "the cluster's time would step forward by more than an hour, and no majority of clocks bears that out: \
             look at the members' clocks (chancery cluster status)",
        ),
        Refusal::LoginRefused => Status::failed_precondition("the token refused a PIN"),
        Refusal::LoginUnderWay => {
            Status::failed_precondition("another login on the token is under way")
        }
        Refusal::TooManyTokens => Status::resource_exhausted(
            "logins on as many tokens as may be are under way or were refused",
        ),
        // Neither can come of a request: the node made a command that it must not make.
        Refusal::None | Refusal::Malformed => {
            Status::internal("this node proposed a malformed command")
        }
    }
}

/// A join token that cannot be redeemed.
pub(super) fn token_unknown() -> Status {
    Status::invalid_argument("failed to attest: join token does not exist or has already been used")
}

/// An agent that would renew although it can attest again.
pub(super) fn must_reattest() -> Status {
    typed_denial(
        Reason::AgentMustReattest,
        "agent must reattest instead of renew",
    )
}

/// Status of an item of a batch that went well. Agents read it without asking
/// whether it is there.
pub(super) fn item_ok() -> Option<types::Status> {
    Some(types::Status {
        code: Code::Ok.into(),
        message: "OK".into(),
    })
}

/// Puts a refusal into the log as SPIRE does, so that its operators' searches go on
/// working: what is wrong as the message, why as the field `error`, and of what.
pub(super) fn log(status: &Status, subject: Subject<'_>) {
    let (what, error) = match status.message().split_once(": ") {
        // SPIRE drops the cause where something is not there.
        Some((what, error)) if status.code() != Code::NotFound => (what, Some(error)),
        _ => (status.message(), None),
    };
    let Subject {
        entry_id,
        spiffe_id,
        trust_domain_id,
        local_authority_id,
    } = subject;
    let what = if status.code() == Code::InvalidArgument {
        format!("Invalid argument: {what}")
    } else {
        capitalized(what)
    };
    tracing::error!(
        error,
        entry_id,
        spiffe_id,
        trust_domain_id,
        local_authority_id,
        "{what}"
    );
}

/// Whom or what a refusal was about, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subject<'a> {
    /// Id of a registration entry.
    pub(super) entry_id: Option<&'a str>,
    /// SPIFFE ID of an agent or an entry.
    pub(super) spiffe_id: Option<&'a str>,
    /// Trust domain of a bundle or a relationship.
    pub(super) trust_domain_id: Option<&'a str>,
    /// Id of an authority.
    pub(super) local_authority_id: Option<&'a str>,
}

/// The status of a call, once it is in the log.
pub(super) fn logged(status: Status) -> Status {
    logged_of(status, Subject::default())
}

/// The same where it is known what it is about.
pub(super) fn logged_of(status: Status, subject: Subject<'_>) -> Status {
    log(&status, subject);
    status
}

/// A message as it begins a line of the log.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

/// Status of an item of a batch that did not.
pub(super) fn item(status: &Status) -> Option<types::Status> {
    Some(types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_code_and_text() {
        let table = [
            (
                Refusal::AlreadyExists,
                Code::AlreadyExists,
                "entry already exists",
            ),
            (Refusal::NotFound, Code::NotFound, "entry not found"),
            (
                Refusal::TokenUnknown,
                Code::InvalidArgument,
                "failed to attest: join token does not exist or has already been used",
            ),
            (
                Refusal::TokenExpired,
                Code::InvalidArgument,
                "join token expired",
            ),
            (
                Refusal::AgentBanned,
                Code::PermissionDenied,
                "agent is banned",
            ),
            (
                Refusal::AgentMustReattest,
                Code::PermissionDenied,
                "agent must reattest instead of renew",
            ),
            (
                Refusal::Conflict,
                Code::Aborted,
                "the state changed meanwhile; try again",
            ),
            (
                Refusal::OutcomeUnknown,
                Code::Aborted,
                "outcome unknown: an earlier attempt may or may not have taken effect",
            ),
            (
                Refusal::EntryMixedSelectors,
                Code::InvalidArgument,
                "selector types must be the same when store SVID is enabled",
            ),
            (
                Refusal::EntryTooLarge,
                Code::InvalidArgument,
                "entry is too large",
            ),
            (
                Refusal::FederatedWith,
                Code::FailedPrecondition,
                "registration entries federate with the bundle",
            ),
            (
                Refusal::NoFederatedBundle,
                Code::Internal,
                "unable to find federated bundle",
            ),
            (
                Refusal::BundleFull,
                Code::ResourceExhausted,
                "the trust bundle has as many authorities as it may have",
            ),
            (
                Refusal::PublishedTooMuch,
                Code::ResourceExhausted,
                "downstream servers published as many keys as this one, or all together, may",
            ),
            (
                Refusal::LastAuthority,
                Code::FailedPrecondition,
                "the trust bundle would lose its last authority",
            ),
            (
                Refusal::Malformed,
                Code::Internal,
                "this node proposed a malformed command",
            ),
            (
                Refusal::None,
                Code::Internal,
                "this node proposed a malformed command",
            ),
        ];
        for (refusal, code, text) in table {
            let status = refused(refusal, "entry");
            assert_eq!(
                (status.code(), status.message()),
                (code, text),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn only_typed_refusals_carry_a_detail() {
        for refusal in [
            Refusal::NotFound,
            Refusal::TokenUnknown,
            Refusal::OutcomeUnknown,
        ] {
            assert!(refused(refusal, "agent").details().is_empty());
        }
        for refusal in [Refusal::AgentBanned, Refusal::AgentMustReattest] {
            assert!(!refused(refusal, "agent").details().is_empty());
        }
    }

    #[test]
    fn items_always_have_a_status() {
        assert_eq!(
            item_ok(),
            Some(types::Status {
                code: 0,
                message: "OK".into()
            })
        );
        let refused = item(&Status::not_found("entry not found"));
        assert_eq!(
            refused,
            Some(types::Status {
                code: 5,
                message: "entry not found".into()
            })
        );
    }
}
