//! Rules about the extensions that say what a key is for and whose it is.

use super::super::ProfileViolation;
use super::{Judged, Verdict};
use crate::certificate::{Known, oid};

fn require_critical<T>(known: Option<&Known<T>>, critical: bool, name: &'static str) -> Verdict {
    match known {
        Some(known) if known.critical != critical => Err(ProfileViolation::Criticality(name)),
        _ => Ok(()),
    }
}

/// Nothing but the six extensions that the profiles know: no name constraints, no
/// policies, nothing copied from a request.
pub(super) fn no_other_extensions(judged: &Judged<'_>) -> Verdict {
    if judged.tbs.extensions.others.is_empty() {
        Ok(())
    } else {
        Err(ProfileViolation::UnexpectedExtension)
    }
}

/// Basic constraints are there on leaves as well.
pub(super) fn basic_constraints_present(judged: &Judged<'_>) -> Verdict {
    match judged.tbs.extensions.basic_constraints {
        Some(_) => Ok(()),
        None => Err(ProfileViolation::Missing("basicConstraints")),
    }
}

/// Basic constraints are critical.
pub(super) fn basic_constraints_critical(judged: &Judged<'_>) -> Verdict {
    let known = judged.tbs.extensions.basic_constraints.as_ref();
    require_critical(known, true, "basicConstraints")
}

/// Leaves are not CAs, signing certificates are.
pub(super) fn ca_flag(judged: &Judged<'_>) -> Verdict {
    match &judged.tbs.extensions.basic_constraints {
        Some(known) if known.value.ca != judged.expected.profile.is_ca() => {
            Err(ProfileViolation::CaFlag)
        }
        _ => Ok(()),
    }
}

/// A path length only where the profile has one.
pub(super) fn path_length(judged: &Judged<'_>) -> Verdict {
    match &judged.tbs.extensions.basic_constraints {
        Some(known) if known.value.path_len != judged.expected.profile.path_len() => {
            Err(ProfileViolation::PathLength)
        }
        _ => Ok(()),
    }
}

/// No CA below an issuer whose path length is zero.
pub(super) fn issuer_path_length(judged: &Judged<'_>) -> Verdict {
    let limit = judged.expected.issuer.and_then(|issuer| issuer.path_len());
    if judged.expected.profile.is_ca() && limit == Some(0) {
        return Err(ProfileViolation::IssuerPathLength);
    }
    Ok(())
}

/// Key usage is there.
pub(super) fn key_usage_present(judged: &Judged<'_>) -> Verdict {
    match judged.tbs.extensions.key_usage {
        Some(_) => Ok(()),
        None => Err(ProfileViolation::Missing("keyUsage")),
    }
}

/// Key usage is critical.
pub(super) fn key_usage_critical(judged: &Judged<'_>) -> Verdict {
    require_critical(judged.tbs.extensions.key_usage.as_ref(), true, "keyUsage")
}

/// Key usage is exactly the profile's: leaves sign no certificates and no lists.
pub(super) fn key_usage(judged: &Judged<'_>) -> Verdict {
    match &judged.tbs.extensions.key_usage {
        Some(known) if known.value != judged.expected.profile.key_usage() => {
            Err(ProfileViolation::KeyUsage)
        }
        _ => Ok(()),
    }
}

/// Leaves serve both sides of a connection; signing certificates carry none.
pub(super) fn extended_key_usage(judged: &Judged<'_>) -> Verdict {
    let expected: &[&[u8]] = if judged.expected.profile.is_ca() {
        &[]
    } else {
        &[oid::SERVER_AUTH, oid::CLIENT_AUTH]
    };
    let known = judged.tbs.extensions.extended_key_usage.as_ref();
    if known.map_or(&[][..], |known| &known.value) != expected {
        return Err(ProfileViolation::ExtendedKeyUsage);
    }
    Ok(())
}

/// Extended key usage is not critical, as SPIRE's.
pub(super) fn extended_key_usage_not_critical(judged: &Judged<'_>) -> Verdict {
    let known = judged.tbs.extensions.extended_key_usage.as_ref();
    require_critical(known, false, "extendedKeyUsage")
}

/// The subject key identifier is that of the certified key.
pub(super) fn subject_key_id(judged: &Judged<'_>) -> Verdict {
    match &judged.tbs.extensions.subject_key_id {
        None => Err(ProfileViolation::Missing("subjectKeyIdentifier")),
        Some(known) if known.value != judged.expected.public_key.ski() => {
            Err(ProfileViolation::SubjectKeyId)
        }
        Some(_) => Ok(()),
    }
}

/// The subject key identifier is not critical.
pub(super) fn subject_key_id_not_critical(judged: &Judged<'_>) -> Verdict {
    let known = judged.tbs.extensions.subject_key_id.as_ref();
    require_critical(known, false, "subjectKeyIdentifier")
}

/// The authority key identifier is the issuer's subject key identifier; a root has
/// none, as SPIRE's.
pub(super) fn authority_key_id(judged: &Judged<'_>) -> Verdict {
    let found = judged.tbs.extensions.authority_key_id.as_ref();
    match (judged.expected.issuer, found) {
        (None, None) => Ok(()),
        (Some(_), None) => Err(ProfileViolation::Missing("authorityKeyIdentifier")),
        (Some(issuer), Some(known)) if known.value == Some(issuer.ski()) => Ok(()),
        _ => Err(ProfileViolation::AuthorityKeyId),
    }
}

/// The authority key identifier is not critical.
pub(super) fn authority_key_id_not_critical(judged: &Judged<'_>) -> Verdict {
    let known = judged.tbs.extensions.authority_key_id.as_ref();
    require_critical(known, false, "authorityKeyIdentifier")
}
