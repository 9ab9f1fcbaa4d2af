//! `server.federation`: the bundle endpoint, and the domains that this one federates with.
//!
//! SPIRE keeps relationships of the file out of its store and does not list them, so `migrate data`
//! cannot see them. Each becomes the command that creates it.

use super::section::{Found, Section};
use super::{Work, quoted};

pub(super) fn carry(work: &mut Work, server: &mut Section<'_>) {
    let mut federation = match server.take_section("federation") {
        None => return,
        Some(Err(found)) => return work.not(&found, "is no section; it was left out"),
        Some(Ok(federation)) => federation,
    };
    if let Some(found) = federation.take("bundle_endpoint") {
        let why = "not carried over: Chancery does not serve a bundle endpoint yet; other domains need \
                   the bundle by hand: chancery bundle show -format spiffe";
        work.not(&found, why);
    }
    match federation.take_section("federates_with") {
        None => {}
        Some(Err(found)) => work.not(&found, "is no section; it was left out"),
        Some(Ok(domains)) => {
            for (name, domain) in domains.into_sections() {
                match domain {
                    Ok(domain) => relationship(work, &name, domain),
                    Err(found) => work.not(&found, "is no section; it was left out"),
                }
            }
        }
    }
    work.unknown(&federation);
}

fn relationship(work: &mut Work, name: &str, mut domain: Section<'_>) {
    let (line, path) = (domain.line, domain.path.clone());
    let url = domain.take("bundle_endpoint_url");
    let url = work.of(url.as_ref(), Found::text).unwrap_or_default();
    let mut command = format!(
        "chancery federation create -trustDomain {} -bundleEndpointURL {}",
        quoted(name),
        quoted(&url)
    );
    let mut profile = None;
    match domain.take_section("bundle_endpoint_profile") {
        None => {}
        Some(Err(found)) => work.not(&found, "is no section; it was left out"),
        Some(Ok(mut profiles)) => {
            for known in ["https_web", "https_spiffe"] {
                if let Some(Ok(mut section)) = profiles.take_section(known) {
                    profile = Some(known);
                    command.push_str(&format!(" -bundleEndpointProfile {known}"));
                    let id = section.take("endpoint_spiffe_id");
                    if let Some(id) = work.of(id.as_ref(), Found::text) {
                        command.push_str(&format!(" -endpointSpiffeID {}", quoted(&id)));
                    }
                    work.unknown(&section);
                }
            }
            work.unknown(&profiles);
        }
    }
    let text = if profile.is_none() || url.is_empty() {
        "not carried over: it lacks its URL or its profile, https_web or https_spiffe".to_owned()
    } else {
        format!(
            "not carried over: relationships are kept in the cluster and not in its files; create it \
             with: {command}"
        )
    };
    work.remark(line, &path, text);
    work.unknown(&domain);
}
