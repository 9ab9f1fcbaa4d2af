//! Refusals in the words of SPIRE, logged as SPIRE logs them.
//!
//! An operator's searches go on working: the line has SPIRE's message, `Invalid
//! argument: ` before it where the caller is at fault, and its field names. What a
//! caller reads is the message with the detail behind it; of something that is not
//! there SPIRE gives no detail.

use std::fmt::Display;

use tonic::{Code, Status};

/// What was asked for cannot be done for the caller's fault.
pub(super) fn invalid(trust_domain: &str, message: &str, detail: impl Display) -> Status {
    tracing::error!(
        trust_domain_id = trust_domain,
        error = %detail,
        "Invalid argument: {message}"
    );
    Status::invalid_argument(format!("{message}: {detail}"))
}

/// The same without a detail.
pub(super) fn invalid_alone(trust_domain: &str, message: &str) -> Status {
    tracing::error!(
        trust_domain_id = trust_domain,
        "Invalid argument: {message}"
    );
    Status::invalid_argument(message)
}

/// What was asked for is not there.
pub(super) fn not_found(trust_domain: &str, message: &str) -> Status {
    tracing::error!(trust_domain_id = trust_domain, "{}", capitalized(message));
    Status::not_found(message)
}

/// Any other refusal.
pub(super) fn failed(
    code: Code,
    trust_domain: &str,
    message: &str,
    detail: impl Display,
) -> Status {
    tracing::error!(
        trust_domain_id = trust_domain,
        error = %detail,
        "{}",
        capitalized(message)
    );
    Status::new(code, format!("{message}: {detail}"))
}

/// Any other refusal, without a detail.
pub(super) fn failed_alone(code: Code, trust_domain: &str, message: &str) -> Status {
    tracing::error!(trust_domain_id = trust_domain, "{}", capitalized(message));
    Status::new(code, message)
}

/// A page token that is none: SPIRE's code for it in these lists is Internal.
pub(super) fn bad_token(status: Status) -> Status {
    Status::internal(status.message())
}

fn capitalized(message: &str) -> String {
    let mut characters = message.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
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

    #[test]
    fn a_log_line_begins_with_a_capital() {
        assert_eq!(capitalized("bundle not found"), "Bundle not found");
        assert_eq!(capitalized(""), "");
    }
}
