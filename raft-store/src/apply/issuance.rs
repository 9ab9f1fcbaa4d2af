//! How X.509-SVIDs are signed.

use super::Ruling;
use crate::command::{Outcome, Refusal, SetIssuanceMode};
use crate::feed::ChangeKind;
use crate::model::{AuthorityKind, AuthorityStatus, IssuanceMode};
use crate::store::StoreError;
use crate::view::Txn;

/// The mode in which the cluster signs.
pub(super) fn mode(txn: &Txn<'_>) -> Result<IssuanceMode, StoreError> {
    Ok(txn
        .cluster()?
        .map_or(IssuanceMode::Direct, |c| c.issuance_mode()))
}

/// Setting the mode that holds already changes nothing. With intermediates the proofs of an
/// authority that is to sign next count no more: a member that could sign with its key may hold
/// no intermediate of it.
pub(super) fn set_mode(txn: &mut Txn<'_>, command: &SetIssuanceMode) -> Ruling {
    let Ok(mode) = IssuanceMode::try_from(command.mode) else {
        return Ok(Err(Refusal::Malformed));
    };
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    if cluster.issuance_mode() == mode {
        return Ok(Ok(Outcome::default()));
    }
    cluster.set_issuance_mode(mode);
    txn.put_cluster(&cluster);
    if mode == IssuanceMode::Intermediate {
        for mut next in txn.authorities(AuthorityKind::X509.into())? {
            if next.status() == AuthorityStatus::Prepared && !next.proved_by.is_empty() {
                next.proved_by.clear();
                txn.put_authority(&next);
            }
        }
    }
    txn.changed(ChangeKind::IssuanceModeSet);
    Ok(Ok(Outcome::default()))
}
