//! CA certificates of downstream servers.
//!
//! One is signed first and leaves only when it is recorded here, so that every key
//! which can sign in the trust domain's name is known to all. Whether its caller may
//! have it is decided here as well: an entry that was deleted meanwhile, or an
//! authority that was tainted, has the last word.

use super::Ruling;
use crate::command::{Outcome, RecordDownstreamCa, Refusal};
use crate::model::{AuthorityKind, AuthorityStatus, DownstreamCa};
use crate::view::Txn;

/// Ended certificates that one command forgets at most.
const FORGET_MAX: usize = 16;

pub(super) fn record(txn: &mut Txn<'_>, command: &RecordDownstreamCa) -> Ruling {
    let Some(ca) = command.ca.as_ref().filter(|ca| is_whole(ca)) else {
        return Ok(Err(Refusal::Malformed));
    };
    let entry = txn.entry(&ca.entry_id)?;
    if !entry.is_some_and(|e| e.downstream && e.spiffe_path == ca.caller_path) {
        return Ok(Err(Refusal::NotFound));
    }
    let authority = txn.authority(AuthorityKind::X509.into(), &ca.authority_id)?;
    // One that was replaced between signature and record is trusted as before.
    let trusted = authority.is_some_and(|a| {
        let signs = matches!(a.status(), AuthorityStatus::Active | AuthorityStatus::Old);
        signs && !a.tainted
    });
    if !trusted {
        return Ok(Err(Refusal::Conflict));
    }
    if txn.has_downstream_ca(ca)? {
        return Ok(Err(Refusal::AlreadyExists));
    }
    txn.forget_ended_downstream_cas(FORGET_MAX)?;
    txn.put_downstream_ca(ca);
    Ok(Ok(Outcome::default()))
}

fn is_whole(ca: &DownstreamCa) -> bool {
    let texts = [
        &ca.caller_path,
        &ca.entry_id,
        &ca.authority_id,
        &ca.serial,
        &ca.subject_key_id,
    ];
    texts.iter().all(|text| !text.is_empty()) && 0 < ca.issued_at && ca.issued_at < ca.expires_at
}
