//! Refusals about the bundle of a trust domain, or a relationship with one, in the words of
//! SPIRE and in the log. What a caller reads is the message with the detail behind it; of
//! something that is not there SPIRE gives no detail.

use std::fmt::Display;

use tonic::{Code, Status};

use super::status::{Subject, logged_of};

/// What was asked for cannot be done for the caller's fault.
pub(super) fn invalid(trust_domain: &str, message: &str, detail: impl Display) -> Status {
    failed(Code::InvalidArgument, trust_domain, message, detail)
}

/// The same without a detail.
pub(super) fn invalid_alone(trust_domain: &str, message: &str) -> Status {
    failed_alone(Code::InvalidArgument, trust_domain, message)
}

/// What was asked for is not there.
pub(super) fn not_found(trust_domain: &str, message: &str) -> Status {
    failed_alone(Code::NotFound, trust_domain, message)
}

/// Any other refusal.
pub(super) fn failed(
    code: Code,
    trust_domain: &str,
    message: &str,
    detail: impl Display,
) -> Status {
    told(
        trust_domain,
        Status::new(code, format!("{message}: {detail}")),
    )
}

/// Any other refusal, without a detail.
pub(super) fn failed_alone(code: Code, trust_domain: &str, message: &str) -> Status {
    told(trust_domain, Status::new(code, message))
}

fn told(trust_domain: &str, status: Status) -> Status {
    let subject = Subject {
        trust_domain_id: Some(trust_domain),
        ..Subject::default()
    };
    logged_of(status, subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_reads_the_message_and_its_detail() {
        let told = |status: Status| (status.code(), status.message().to_owned());
        assert_eq!(
            told(invalid("td", "no good", "why")),
            (Code::InvalidArgument, "no good: why".into())
        );
        assert_eq!(
            told(invalid_alone("td", "no good")),
            (Code::InvalidArgument, "no good".into())
        );
        assert_eq!(
            told(not_found("td", "not here")),
            (Code::NotFound, "not here".into())
        );
        assert_eq!(
            told(failed(Code::Internal, "td", "failed", "why")),
            (Code::Internal, "failed: why".into())
        );
        assert_eq!(
            told(failed_alone(Code::AlreadyExists, "td", "there")),
            (Code::AlreadyExists, "there".into())
        );
    }
}
