//! NewDownstreamX509CA: a CA certificate for a server below this cluster.
//!
//! It signs in the name of the whole trust domain, so it is one of the two documents that
//! are written before they leave: a majority knows it, and the command that records it
//! has decided that its caller may have it.

use chancery_api::spire::api::server::svid::v1 as api;
use chancery_identity::csr::Csr;
use chancery_identity::id::SpiffeId;
use chancery_raft_store::command::{Command, RecordDownstreamCa};
use chancery_raft_store::model::DownstreamCa;
use chancery_raft_store::{Directory, Refusal};
use tonic::Status;

use super::unsigned;
use crate::authority::X509Svid;
use crate::authz::Permit;
use crate::service::{Context, audit};

/// Signs, records, and only then tells.
pub(super) async fn sign(
    context: &Context,
    permit: &Permit,
    request: &api::NewDownstreamX509caRequest,
) -> Result<api::NewDownstreamX509caResponse, Status> {
    let caller = permit
        .downstream()
        .ok_or_else(|| Status::internal("caller is not a downstream workload"))?;
    let csr = proved(&request.csr)?;
    context.doors.fresh().await?;
    // It was there when the call was admitted.
    let entry_id = entry_of(&context.doors.local(), caller).ok_or_else(changed)?;
    let key = csr.public_key();
    let ca = context.issuer.downstream_ca(key, request.preferred_ttl);
    let ca = ca.await.map_err(|e| unsigned("downstream X.509 CA", e))?;
    context.doors.still_fresh()?;
    let record = DownstreamCa {
        caller_path: caller.path().to_owned(),
        entry_id,
        authority_id: ca.authority_id.clone(),
        serial: ca.serial.clone(),
        subject_key_id: hex::encode(key.ski()),
        issued_at: ca.issued_at,
        expires_at: ca.expires_at,
    };
    record_it(context, permit, &record).await?;
    context.ledger.lasting(caller, &ca).await?;
    audit::downstream_ca(caller, &record, &ca);
    tell(context, ca)
}

fn proved(der: &[u8]) -> Result<Csr, Status> {
    let refused = |e: chancery_identity::csr::CsrError| Status::invalid_argument(e.to_string());
    let csr = Csr::parse(der).map_err(refused)?;
    csr.verify_signature().map_err(refused)?;
    Ok(csr)
}

/// The entry that makes the caller a downstream server; of several the first.
fn entry_of(directory: &Directory, caller: &SpiffeId) -> Option<String> {
    let mut named = directory.entries_named(caller.path());
    named
        .find(|entry| entry.downstream)
        .map(|entry| entry.id.clone())
}

async fn record_it(
    context: &Context,
    permit: &Permit,
    record: &DownstreamCa,
) -> Result<(), Status> {
    let command = Command::RecordDownstreamCa(RecordDownstreamCa {
        ca: Some(record.clone()),
    });
    let outcome = context.doors.write(command).await?;
    outcome
        .accepted()
        .map(drop)
        .map_err(|refusal| refused(refusal, permit.method()))
}

fn refused(refusal: Refusal, method: &str) -> Status {
    match refusal {
        // Decided in the log, so this no is exact.
        Refusal::NotFound => {
            Status::permission_denied(format!("authorization denied for method {method}"))
        }
        Refusal::Conflict | Refusal::AlreadyExists => changed(),
        refusal => crate::service::status::refused(refusal, "downstream CA"),
    }
}

fn changed() -> Status {
    Status::unavailable("the entry or the authority changed while it was signed; try again")
}

fn tell(context: &Context, ca: X509Svid) -> Result<api::NewDownstreamX509caResponse, Status> {
    let roots = context.issuer.bundle().roots();
    if roots.is_empty() {
        return Err(Status::not_found("bundle not found"));
    }
    Ok(api::NewDownstreamX509caResponse {
        ca_cert_chain: ca.chain,
        x509_authorities: roots,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_raft_store::model::Entry;
    use chancery_raft_store::view::Table;
    use prost::Message;
    use tonic::Code;

    use super::*;

    fn directory(entries: &[(&str, &str, bool)]) -> Directory {
        let mut directory = Directory::default();
        for (sequence, (id, path, downstream)) in (1..).zip(entries) {
            let entry = Entry {
                id: (*id).into(),
                sequence,
                spiffe_path: (*path).into(),
                parent_path: "/p".into(),
                downstream: *downstream,
                ..Entry::default()
            };
            let key = Table::Entries.key(id.as_bytes());
            directory
                .absorb_row(&key, Some(&entry.encode_to_vec()))
                .unwrap();
        }
        directory
    }

    #[test]
    fn the_entry_is_one_that_says_downstream() {
        let caller = SpiffeId::parse("spiffe://example.org/nested").unwrap();
        let entries = [
            ("a", "/nested", false),
            ("b", "/other", true),
            ("c", "/nested", true),
            ("d", "/nested", true),
        ];
        let found = entry_of(&directory(&entries), &caller);
        assert_eq!(found.as_deref(), Some("c"));
        assert_eq!(entry_of(&directory(&entries[..2]), &caller), None);
    }

    #[test]
    fn possession_of_the_key_is_proved() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        let mut der = params.serialize_request(&key).unwrap().der().to_vec();
        assert!(proved(&der).is_ok());
        *der.last_mut().unwrap() ^= 1;
        let text = |der: &[u8]| {
            let status = proved(der).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            status.message().to_owned()
        };
        assert_eq!(
            text(&der),
            "invalid CSR signature: signature does not verify"
        );
        assert_eq!(text(b""), "malformed CSR: input ends inside a value");
    }

    #[test]
    fn what_the_log_refuses_is_no_certificate() {
        let method = "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA";
        let status = refused(Refusal::NotFound, method);
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(
            status.message(),
            format!("authorization denied for method {method}")
        );
        for refusal in [Refusal::Conflict, Refusal::AlreadyExists] {
            assert_eq!(refused(refusal, method).code(), Code::Unavailable);
        }
        assert_eq!(refused(Refusal::Malformed, method).code(), Code::Internal);
    }
}
