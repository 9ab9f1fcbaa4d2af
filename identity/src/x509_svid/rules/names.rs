//! Rules about the subject alternative name, and about the ID itself.

use super::super::{Profile, ProfileViolation};
use super::{Judged, Verdict};
use crate::certificate::GeneralName;
use crate::dns;
use crate::id::SpiffeId;

fn san<'a>(judged: &Judged<'a>) -> &'a [GeneralName<'a>] {
    let known = judged.tbs.extensions.subject_alt_name.as_ref();
    known.map_or(&[], |known| &known.value)
}

/// There is a subject alternative name.
pub(super) fn san_present(judged: &Judged<'_>) -> Verdict {
    match judged.tbs.extensions.subject_alt_name {
        Some(_) => Ok(()),
        None => Err(ProfileViolation::Missing("subjectAltName")),
    }
}

/// It is not critical, because the subject is not empty.
pub(super) fn san_not_critical(judged: &Judged<'_>) -> Verdict {
    match &judged.tbs.extensions.subject_alt_name {
        Some(known) if known.critical => Err(ProfileViolation::Criticality("subjectAltName")),
        _ => Ok(()),
    }
}

/// Exactly one URI.
pub(super) fn one_uri(judged: &Judged<'_>) -> Verdict {
    let is_uri = |name: &&GeneralName<'_>| matches!(name, GeneralName::Uri(_));
    let count = san(judged).iter().filter(is_uri).count();
    if count != 1 && judged.tbs.extensions.subject_alt_name.is_some() {
        return Err(ProfileViolation::UriCount(count));
    }
    Ok(())
}

/// The first URI is the expected ID, byte for byte.
pub(super) fn uri_is_expected(judged: &Judged<'_>) -> Verdict {
    let first = san(judged).iter().find_map(|name| match name {
        GeneralName::Uri(uri) => Some(*uri),
        _ => None,
    });
    match first {
        Some(uri) if uri != judged.expected.id.as_str() => Err(ProfileViolation::UriDiffers),
        _ => Ok(()),
    }
}

/// No mail addresses, no IP addresses, no names that nobody asked for.
pub(super) fn no_other_names(judged: &Judged<'_>) -> Verdict {
    let other = |name: &GeneralName<'_>| matches!(name, GeneralName::Other(_));
    if san(judged).iter().any(other) {
        return Err(ProfileViolation::OtherName);
    }
    Ok(())
}

/// The DNS names are those of the profile, in its order, each once per mention.
pub(super) fn dns_names_are_expected(judged: &Judged<'_>) -> Verdict {
    let found = san(judged).iter().filter_map(|name| match name {
        GeneralName::Dns(dns) => Some(*dns),
        _ => None,
    });
    let expected = judged
        .expected
        .profile
        .dns_names()
        .iter()
        .map(String::as_str);
    if !found.eq(expected) {
        return Err(ProfileViolation::DnsNames);
    }
    Ok(())
}

/// Every DNS name can be one.
pub(super) fn dns_names_are_valid(judged: &Judged<'_>) -> Verdict {
    let invalid = |name: &GeneralName<'_>| match name {
        GeneralName::Dns(dns) => dns::validate(dns).is_err(),
        _ => false,
    };
    if san(judged).iter().any(invalid) {
        return Err(ProfileViolation::DnsNameInvalid);
    }
    Ok(())
}

/// Signing certificates have an ID without a path, the server has its own, and
/// leaves have one (X509-SVID §4.1, §5.2).
pub(super) fn id_path_fits(judged: &Judged<'_>) -> Verdict {
    let id = judged.expected.id;
    let fits = match judged.expected.profile {
        Profile::SelfSignedCa | Profile::DownstreamCa | Profile::Intermediate => {
            id.path().is_empty()
        }
        Profile::Server => *id == SpiffeId::server(&id.trust_domain()),
        // Their namespaces imply a path.
        Profile::Agent | Profile::Workload { .. } => true,
    };
    if fits {
        Ok(())
    } else {
        Err(ProfileViolation::IdPath)
    }
}

/// Agents are named in their namespace, workloads outside the reserved one: no
/// entry can make a workload look like a server.
pub(super) fn id_kind_fits(judged: &Judged<'_>) -> Verdict {
    let id = judged.expected.id;
    match judged.expected.profile {
        Profile::Agent => id.require_agent(&id.trust_domain()),
        Profile::Workload { .. } => id.require_workload(&id.trust_domain()),
        _ => Ok(()),
    }
    .map_err(ProfileViolation::IdKind)
}

/// An issuer that names a trust domain issues for that one only.
pub(super) fn trust_domain_is_issuers(judged: &Judged<'_>) -> Verdict {
    let issuer = judged
        .expected
        .issuer
        .and_then(|issuer| issuer.trust_domain());
    match issuer {
        Some(trust_domain) if !judged.expected.id.is_member_of(trust_domain) => {
            Err(ProfileViolation::TrustDomain)
        }
        _ => Ok(()),
    }
}
