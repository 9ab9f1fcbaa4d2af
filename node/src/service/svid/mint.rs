//! MintX509SVID and MintJWTSVID: documents that an administrator decides on, without an
//! entry.
//!
//! Here alone the names and the subject of a CSR are used, each one judged first. What is
//! refused is refused in SPIRE's order and words.

use chancery_api::spire::api::server::svid::v1 as api;
use chancery_api::spire::api::types;
use chancery_identity::csr::Csr;
use chancery_identity::dns;
use chancery_identity::id::{SpiffeId, TrustDomain};
use tonic::Status;

use super::{check_audience, check_jwt_enabled, jwt_message, unsigned, x509_message};
use crate::authority::Mint;
use crate::authz::Permit;
use crate::issue::Subject;
use crate::service::{Context, audit, wire};

/// DNS names of one certificate at most.
const DNS_NAMES_MAX: usize = 256;

/// What a CSR asks for, judged.
#[derive(Debug)]
struct Order {
    id: SpiffeId,
    csr: Csr,
    dns_names: Vec<String>,
    subject: Subject,
}

impl Order {
    fn read(trust_domain: &TrustDomain, der: &[u8]) -> Result<Self, Status> {
        let refuse = |what: &str, why: &dyn std::fmt::Display| {
            Status::invalid_argument(format!("{what}: {why}"))
        };
        if der.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let malformed = |e| Status::invalid_argument(format!("{e}"));
        let csr = Csr::parse(der).map_err(malformed)?;
        let names = csr.requested_names().map_err(malformed)?;
        csr.verify_signature()
            .map_err(|e| refuse("failed to verify CSR signature", &wire::csr_detail(e)))?;
        let uri = match names.uris.as_slice() {
            [] => return Err(Status::invalid_argument("CSR URI SAN is required")),
            [uri] => uri,
            _ => return Err(Status::invalid_argument("only one URI SAN is expected")),
        };
        let invalid = |e| refuse("CSR URI SAN is invalid", &e);
        let id = SpiffeId::parse(uri).map_err(invalid)?;
        id.require_workload(trust_domain).map_err(invalid)?;
        if names.dns_names.len() > DNS_NAMES_MAX {
            return Err(refuse(
                "CSR DNS name is invalid",
                &format!("more than {DNS_NAMES_MAX} names"),
            ));
        }
        for name in &names.dns_names {
            dns::validate(name).map_err(|e| refuse("CSR DNS name is invalid", &e))?;
        }
        dns::check_wildcard_overlap(&names.dns_names).map_err(|e| {
            refuse(
                "CSR DNS name contains a wildcard that covers another non-wildcard name",
                &e,
            )
        })?;
        let subject = Subject::from_name_der(csr.subject_der());
        let subject = subject.map_err(|e| refuse("CSR subject is invalid", &e))?;
        Ok(Self {
            id,
            csr,
            dns_names: names.dns_names,
            subject,
        })
    }
}

/// Signs what a CSR asks for.
pub(super) async fn x509(
    context: &Context,
    permit: &Permit,
    request: &api::MintX509svidRequest,
) -> Result<types::X509svid, Status> {
    let trust_domain = context.issuer.trust_domain();
    let order = Order::read(trust_domain, &request.csr)?;
    context.doors.fresh().await?;
    let mint = Mint {
        id: &order.id,
        public_key: order.csr.public_key(),
        dns_names: order.dns_names.clone(),
        subject: order.subject.clone(),
        ttl: request.ttl,
    };
    let svid = context.issuer.mint_x509(mint).await;
    let svid = svid.map_err(|e| unsigned("X509-SVID", e))?;
    audit::minted_x509_svid(permit, &svid, &order.dns_names, &order.subject);
    context.ledger.lasting(&order.id, &svid).await?;
    context.doors.still_fresh()?;
    Ok(x509_message(trust_domain, svid))
}

/// Signs a token for an ID and an audience.
pub(super) async fn jwt(
    context: &Context,
    permit: &Permit,
    request: &api::MintJwtsvidRequest,
) -> Result<types::Jwtsvid, Status> {
    check_jwt_enabled(context)?;
    let trust_domain = context.issuer.trust_domain();
    let id = wire::workload_id(trust_domain, request.id.as_ref())
        .map_err(|e| Status::invalid_argument(format!("invalid SPIFFE ID: {e}")))?;
    let audience = check_audience(&request.audience)?;
    context.doors.fresh().await?;
    let svid = context.issuer.mint_jwt(&id, &audience, request.ttl).await;
    let svid = svid.map_err(|e| unsigned("JWT-SVID", e))?;
    audit::minted_jwt_svid(permit, &svid, &audience);
    context.ledger.jwt(&id, &svid).await?;
    context.doors.still_fresh()?;
    Ok(jwt_message(trust_domain, svid))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    use tonic::Code;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn csr(uris: &[&str], dns_names: &[&str], subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let uris = uris.iter().map(|u| SanType::URI((*u).try_into().unwrap()));
        let dns_names = dns_names.iter();
        let dns_names = dns_names.map(|d| SanType::DnsName((*d).try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns_names).collect();
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    fn refused(der: &[u8]) -> String {
        let status = Order::read(&domain(), der).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    }

    const WEB: &str = "spiffe://example.org/web";

    #[test]
    fn what_a_request_asks_for_is_taken_as_it_is() {
        let subject = [
            (DnType::OrganizationName, "Acme"),
            (DnType::CommonName, "web"),
        ];
        let names = ["web.example.org", "*.example.com", "web.example.org"];
        let order = Order::read(&domain(), &csr(&[WEB], &names, &subject)).unwrap();
        assert_eq!(order.id.as_str(), WEB);
        assert_eq!(order.dns_names, names);
        assert_eq!(order.subject.to_string(), "CN=web,O=Acme");
        let order = Order::read(&domain(), &csr(&[WEB], &[], &[])).unwrap();
        assert!(order.subject.is_empty() && order.dns_names.is_empty());
    }

    #[test]
    fn requests_are_refused_in_the_words_of_spire() {
        assert_eq!(refused(b""), "missing CSR");
        assert_eq!(refused(b"x"), "malformed CSR: input ends inside a value");
        let table: [(&[&str], &[&str], &str); 10] = [
            (&[], &[], "CSR URI SAN is required"),
            (&[WEB, WEB], &[], "only one URI SAN is expected"),
            (
                &["https://example.org/web"],
                &[],
                "CSR URI SAN is invalid: scheme is missing or invalid",
            ),
            (
                &["spiffe://example.org"],
                &[],
                "CSR URI SAN is invalid: \"spiffe://example.org\" is not a workload in trust \
                 domain \"example.org\"; path is empty",
            ),
            (
                &["spiffe://example.com/web"],
                &[],
                "CSR URI SAN is invalid: \"spiffe://example.com/web\" is not a member of trust \
                 domain \"example.org\"",
            ),
            (
                &["spiffe://example.org/spire/server"],
                &[],
                "CSR URI SAN is invalid: \"spiffe://example.org/spire/server\" is not a workload \
                 in trust domain \"example.org\"; path is in the reserved namespace",
            ),
            (
                &[WEB],
                &["a."],
                "CSR DNS name is invalid: domain ends with dot",
            ),
            (
                &[WEB],
                &["ok.org", "*.*.org"],
                "CSR DNS name is invalid: too many wildcards",
            ),
            (
                &[WEB],
                &["a.*.org"],
                "CSR DNS name is invalid: wildcard must be first label",
            ),
            (
                &[WEB],
                &["*.example.org", "a.example.org"],
                "CSR DNS name contains a wildcard that covers another non-wildcard name: name \
                 \"a.example.org\" overlaps with an existing wildcard name in the list: wildcard \
                 overlap",
            ),
        ];
        for (uris, dns_names, text) in table {
            assert_eq!(refused(&csr(uris, dns_names, &[])), text);
        }
    }

    #[test]
    fn possession_is_proved_before_names_are_looked_at() {
        let mut unsigned = csr(&[], &[], &[]);
        *unsigned.last_mut().unwrap() ^= 1;
        assert_eq!(
            refused(&unsigned),
            "failed to verify CSR signature: signature does not verify"
        );
    }

    #[test]
    fn names_without_end_are_refused() {
        let names: Vec<String> = (0..=DNS_NAMES_MAX).map(|n| format!("n{n}.org")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            refused(&csr(&[WEB], &names, &[])),
            "CSR DNS name is invalid: more than 256 names"
        );
        assert!(Order::read(&domain(), &csr(&[WEB], &names[1..], &[])).is_ok());
    }

    #[test]
    fn a_subject_that_no_name_can_hold_is_refused() {
        let long = "x".repeat(1025);
        let der = csr(&[WEB], &[], &[(DnType::CommonName, &long)]);
        assert_eq!(
            refused(&der),
            "CSR subject is invalid: subject is not possible: value is empty or too long"
        );
    }
}
