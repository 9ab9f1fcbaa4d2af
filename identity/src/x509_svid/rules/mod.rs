//! The rules, one small function each, with the clause it enforces.
//!
//! The list is closed: an extension or a name that no rule expects is itself a
//! violation. Rules do not depend on each other's outcome, and one that finds its
//! extension missing leaves that to the rule about presence; so a test can show for
//! each that a certificate can break it alone.

mod envelope;
mod names;
mod usage;

use super::{Expected, ProfileViolation};
use crate::certificate::Tbs;

/// What a rule looks at.
pub(super) struct Judged<'a> {
    pub(super) tbs: &'a Tbs<'a>,
    /// None while the certificate is not signed yet.
    pub(super) outer_algorithm: Option<&'a [u8]>,
    pub(super) expected: &'a Expected<'a>,
}

type Verdict = Result<(), ProfileViolation>;

pub(super) struct Rule {
    /// Where the standard says so.
    #[cfg_attr(not(test), allow(dead_code))] // documentation that tests hold to be complete
    pub(super) clause: &'static str,
    pub(super) check: fn(&Judged<'_>) -> Verdict,
}

const fn rule(clause: &'static str, check: fn(&Judged<'_>) -> Verdict) -> Rule {
    Rule { clause, check }
}

/// All rules, cheap and telling ones first.
pub(super) const RULES: &[Rule] = &[
    rule("RFC 5280 §3.2 (self-issued)", envelope::issuer_presence),
    rule("RFC 5280 §4.1.2.2", envelope::serial_is_positive_and_short),
    rule("CA/Browser Forum BR §7.1", envelope::serial_has_entropy),
    rule("RFC 5280 §4.1.1.2 (key)", envelope::signature_algorithm),
    rule("RFC 5280 §4.1.1.2 (repeat)", envelope::outer_algorithm),
    rule("RFC 5280 §6.1.3 (a)(4)", envelope::issuer_name),
    rule("RFC 5280 §4.1.2.5", envelope::time_encoding),
    rule("RFC 5280 §6.1.3 (a)(2) (begin)", envelope::already_valid),
    rule("RFC 5280 §6.1.3 (a)(2) (end)", envelope::not_expired),
    rule(
        "RFC 5280 §4.1.2.5 (begin in issuer's)",
        envelope::begins_after_issuer,
    ),
    rule(
        "RFC 5280 §4.1.2.5 (end in issuer's)",
        envelope::ends_before_issuer,
    ),
    rule("RFC 5280 §4.1.2.6", envelope::subject_not_empty),
    rule("RFC 2986 §4.2", envelope::certified_key),
    rule("RFC 5280 §4.2 (closed set)", usage::no_other_extensions),
    rule(
        "RFC 5280 §4.2.1.9 (presence)",
        usage::basic_constraints_present,
    ),
    rule(
        "RFC 5280 §4.2.1.9 (critical)",
        usage::basic_constraints_critical,
    ),
    rule("X509-SVID §4.2", usage::ca_flag),
    rule("RFC 5280 §4.2.1.9 (pathLen)", usage::path_length),
    rule("RFC 5280 §6.1.4 (l)", usage::issuer_path_length),
    rule("X509-SVID §4.3 (presence)", usage::key_usage_present),
    rule("X509-SVID §4.3 (critical)", usage::key_usage_critical),
    rule("X509-SVID §4.3", usage::key_usage),
    rule("X509-SVID §4.4", usage::extended_key_usage),
    rule("RFC 5280 §4.2.1.12", usage::extended_key_usage_not_critical),
    rule("RFC 5280 §4.2.1.2", usage::subject_key_id),
    rule(
        "RFC 5280 §4.2.1.2 (critical)",
        usage::subject_key_id_not_critical,
    ),
    rule("RFC 5280 §4.2.1.1", usage::authority_key_id),
    rule(
        "RFC 5280 §4.2.1.1 (critical)",
        usage::authority_key_id_not_critical,
    ),
    rule("X509-SVID §2 (presence)", names::san_present),
    rule("RFC 5280 §4.2.1.6 (critical)", names::san_not_critical),
    rule("X509-SVID §2 (one)", names::one_uri),
    rule("X509-SVID §2 (ID)", names::uri_is_expected),
    rule("X509-SVID §2 (others)", names::no_other_names),
    rule("RFC 5280 §4.2.1.6 (DNS)", names::dns_names_are_expected),
    rule("RFC 1123 §2.1", names::dns_names_are_valid),
    rule("X509-SVID §4.1", names::id_path_fits),
    rule("SPIFFE-ID §2.2 (namespace)", names::id_kind_fits),
    rule("X509-SVID §5.1", names::trust_domain_is_issuers),
];

#[cfg(test)]
mod tests;
