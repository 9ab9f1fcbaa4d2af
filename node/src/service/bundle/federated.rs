//! Creating, changing and deleting the bundles of other trust domains.

use std::time::Duration;

use chancery_api::spire::api::server::bundle::v1::batch_create_federated_bundle_response::Result as Created;
use chancery_api::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use chancery_api::spire::api::server::bundle::v1::batch_delete_federated_bundle_response::Result as Deleted;
use chancery_api::spire::api::server::bundle::v1::batch_set_federated_bundle_response::Result as WasSet;
use chancery_api::spire::api::server::bundle::v1::batch_update_federated_bundle_response::Result as Updated;
use chancery_api::spire::api::types;
use chancery_identity::id::TrustDomain;
use chancery_raft_store::Refusal;
use chancery_raft_store::command::{
    BundleFields, Command, DeleteFederatedBundles, DeleteMode, FederatedBundleResult,
    FederatedBundles, Outcome, UpdateFederatedBundles,
};
use chancery_raft_store::model::FederatedBundle;
use prost::Message;
use tonic::{Code, Status};

use super::{convert, foreign, foreign_bundle};
use crate::authz::CallDeadline;
use crate::registry::Doors;
use crate::service::batch::{Batch, Room};
use crate::service::{refusal, status};

/// What became of an item: what was written, and what `apply` says of it.
type Done<T> = Result<(T, FederatedBundleResult), Status>;

/// Creates each bundle for itself.
pub(super) async fn create(
    doors: &Doors,
    own: &TrustDomain,
    bundles: Vec<types::Bundle>,
    mask: Option<&types::BundleMask>,
) -> Result<Vec<Created>, Status> {
    let not_allowed =
        "creating a federated bundle for the server's own trust domain is not allowed";
    let batch = Batch::sort_out(bundles, |bundle| foreign_bundle(own, bundle, not_allowed));
    let make = |bundles| Command::CreateFederatedBundles(FederatedBundles { bundles });
    let size = FederatedBundle::encoded_len;
    let results = batch
        .write(doors, "bundle", size, make, |o| o.federated_bundles)
        .await?;
    Ok(results.into_iter().map(|r| created(r, mask)).collect())
}

/// Creates or replaces each bundle for itself.
pub(super) async fn set(
    doors: &Doors,
    own: &TrustDomain,
    bundles: Vec<types::Bundle>,
    mask: Option<&types::BundleMask>,
) -> Result<Vec<WasSet>, Status> {
    let not_allowed = "setting a federated bundle for the server's own trust domain is not allowed";
    let batch = Batch::sort_out(bundles, |bundle| foreign_bundle(own, bundle, not_allowed));
    let make = |bundles| Command::SetFederatedBundles(FederatedBundles { bundles });
    let size = FederatedBundle::encoded_len;
    let results = batch
        .write(doors, "bundle", size, make, |o| o.federated_bundles)
        .await?;
    Ok(results.into_iter().map(|r| was_set(r, mask)).collect())
}

/// What of a bundle is taken, and what of it is told.
#[derive(Clone, Copy)]
pub(super) struct Masks<'a> {
    pub(super) input: Option<&'a types::BundleMask>,
    pub(super) output: Option<&'a types::BundleMask>,
}

/// Changes each bundle for itself.
pub(super) async fn update(
    doors: &Doors,
    own: &TrustDomain,
    bundles: Vec<types::Bundle>,
    masks: Masks<'_>,
) -> Result<Vec<Updated>, Status> {
    let not_allowed =
        "updating a federated bundle for the server's own trust domain is not allowed";
    let batch = Batch::sort_out(bundles, |bundle| foreign_bundle(own, bundle, not_allowed));
    let fields = Some(fields(masks.input));
    let make =
        |bundles| Command::UpdateFederatedBundles(UpdateFederatedBundles { bundles, fields });
    let size = FederatedBundle::encoded_len;
    let results = batch
        .write(doors, "bundle", size, make, |o| o.federated_bundles)
        .await?;
    let mut room = Room::new();
    let mut told = |result| {
        let stored = |name: &str| {
            let directory = doors.local();
            let bundle = directory.federation().bundle(name)?;
            Some(convert::federated_message(bundle, masks.output))
        };
        updated(result, |name| room.fit(stored(name)?))
    };
    Ok(results.into_iter().map(&mut told).collect())
}

/// Kept of the caller's time to tell it how far a deletion came.
const ANSWER_TIME: Duration = Duration::from_millis(300);

/// Deletes each bundle for itself. One command touches a bounded number of entries, and a
/// bundle goes after the last entry that federates with it, so this asks again until all
/// is done. What is cut short leaves a state that is as good as any: some entries
/// deleted or dissociated, the bundle still there; the same deletion goes on from there.
pub(super) async fn delete(
    doors: &Doors,
    own: &TrustDomain,
    names: Vec<String>,
    mode: DeleteMode,
    deadline: CallDeadline,
) -> Result<Vec<Deleted>, Status> {
    let not_allowed = "removing the bundle for the server trust domain is not allowed";
    let nameable = |name: String| Ok(foreign(own, &name, not_allowed)?.to_string());
    let batch = Batch::sort_out(names.clone(), nameable);
    let make = |trust_domains| {
        let mode = mode.into();
        Command::DeleteFederatedBundles(DeleteFederatedBundles {
            trust_domains,
            mode,
        })
    };
    let mut results = batch
        .write(doors, "bundle", String::len, make, |o| o.federated_bundles)
        .await?;
    loop {
        let left = unfinished(&results);
        if left.is_empty() {
            break;
        }
        let trust_domains = left.iter().map(|(_, name)| name.clone()).collect();
        let written = if deadline.remaining() <= ANSWER_TIME {
            Err(Status::deadline_exceeded("out of time"))
        } else {
            doors.write(make(trust_domains)).await
        };
        go_on(&mut results, &left, written.and_then(accepted));
    }
    let told = |(name, result)| deleted(name, result, mode);
    Ok(names.into_iter().zip(results).map(told).collect())
}

/// Places and names of bundles that more entries federate with than were touched.
fn unfinished(results: &[Done<String>]) -> Vec<(usize, String)> {
    let more = |(at, result): (usize, &Done<String>)| match result {
        Ok((name, result)) if result.more => Some((at, name.clone())),
        _ => None,
    };
    results.iter().enumerate().filter_map(more).collect()
}

fn accepted(outcome: Outcome) -> Result<Vec<FederatedBundleResult>, Status> {
    match outcome.accepted() {
        Ok(outcome) => Ok(outcome.federated_bundles),
        Err(refusal) => Err(status::refused(refusal, "bundle")),
    }
}

/// Adds what one more command did of what is unfinished.
fn go_on(
    results: &mut [Done<String>],
    left: &[(usize, String)],
    written: Result<Vec<FederatedBundleResult>, Status>,
) {
    let written = match written {
        Ok(written) => written.into_iter().map(Ok).collect(),
        Err(status) => vec![Err(status); left.len()],
    };
    for ((at, name), step) in left.iter().zip(written) {
        let before = match &results[*at] {
            Ok((_, result)) => result.entries,
            Err(_) => 0,
        };
        results[*at] = match step {
            Ok(step) => {
                let entries = before.saturating_add(step.entries);
                Ok((name.clone(), FederatedBundleResult { entries, ..step }))
            }
            Err(status) => Err(refusal::failed(
                status.code(),
                name,
                "failed to delete federated bundle",
                format!(
                    "{}; {before} registration entries no longer federate with it, others do, \
                     and the bundle is still there: delete it again",
                    status.message()
                ),
            )),
        };
    }
}

/// What becomes of entries, by the wire's number.
pub(super) fn delete_mode(mode: i32) -> Result<DeleteMode, Status> {
    match Mode::try_from(mode) {
        Ok(Mode::Restrict) => Ok(DeleteMode::Restrict),
        Ok(Mode::Delete) => Ok(DeleteMode::Delete),
        Ok(Mode::Dissociate) => Ok(DeleteMode::Dissociate),
        Err(_) => Err(refusal::invalid(
            "",
            "failed to parse deletion mode",
            format!("unhandled delete mode \"{mode}\""),
        )),
    }
}

/// No mask is everything.
fn fields(mask: Option<&types::BundleMask>) -> BundleFields {
    let taken = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    BundleFields {
        x509_authorities: taken(|m| m.x509_authorities),
        jwt_authorities: taken(|m| m.jwt_authorities),
        refresh_hint: taken(|m| m.refresh_hint),
        sequence_number: taken(|m| m.sequence_number),
    }
}

fn created(result: Done<FederatedBundle>, mask: Option<&types::BundleMask>) -> Created {
    let done = result.and_then(|(bundle, result)| {
        let name = bundle.trust_domain.as_str();
        match result.refusal() {
            Refusal::None => {
                tracing::debug!(trust_domain_id = name, "Federated bundle created");
                Ok(convert::federated_message(&bundle, mask))
            }
            Refusal::AlreadyExists => Err(refusal::failed_alone(
                Code::AlreadyExists,
                name,
                "bundle already exists",
            )),
            other => Err(unexpected(other, name, "unable to create bundle")),
        }
    });
    let (status, bundle) = item(done);
    Created { status, bundle }
}

fn was_set(result: Done<FederatedBundle>, mask: Option<&types::BundleMask>) -> WasSet {
    let done = result.and_then(|(bundle, result)| {
        let name = bundle.trust_domain.as_str();
        match result.refusal() {
            Refusal::None => {
                tracing::info!(trust_domain_id = name, "Bundle set successfully");
                Ok(convert::federated_message(&bundle, mask))
            }
            other => Err(unexpected(other, name, "failed to set bundle")),
        }
    });
    let (status, bundle) = item(done);
    WasSet { status, bundle }
}

/// `stored` gives the bundle as it is now: the answer of the log does not carry it.
fn updated(
    result: Done<FederatedBundle>,
    stored: impl FnOnce(&str) -> Option<types::Bundle>,
) -> Updated {
    let done = result.and_then(|(given, result)| {
        let name = given.trust_domain.as_str();
        match result.refusal() {
            Refusal::None => {
                tracing::debug!(trust_domain_id = name, "Federated bundle updated");
                Ok(stored(name))
            }
            Refusal::NotFound => Err(refusal::not_found(name, "bundle not found")),
            other => Err(unexpected(other, name, "failed to update bundle")),
        }
    });
    let (status, bundle) = item(done);
    Updated {
        status,
        bundle: bundle.flatten(),
    }
}

fn deleted(trust_domain: String, result: Done<String>, mode: DeleteMode) -> Deleted {
    let done = result.and_then(|(name, result)| match result.refusal() {
        Refusal::None => {
            tracing::info!(
                trust_domain_id = name,
                delete_federated_bundle_mode = ?mode,
                entries = result.entries,
                "federated bundle deleted"
            );
            Ok(())
        }
        Refusal::NotFound => Err(refusal::not_found(&name, "bundle not found")),
        Refusal::FederatedWith => Err(refusal::failed(
            Code::FailedPrecondition,
            &name,
            "failed to delete federated bundle",
            format!(
                "datastore-sql: cannot delete bundle; federated with {} registration entries",
                result.entries
            ),
        )),
        other => Err(unexpected(
            other,
            &name,
            "failed to delete federated bundle",
        )),
    });
    let status = match done {
        Ok(()) => status::item_ok(),
        Err(status) => status::item(&status),
    };
    Deleted {
        status,
        trust_domain,
    }
}

fn unexpected(other: Refusal, name: &str, message: &str) -> Status {
    let status = status::refused(other, "bundle");
    refusal::failed(status.code(), name, message, status.message())
}

fn item<T>(done: Result<T, Status>) -> (Option<types::Status>, Option<T>) {
    match done {
        Ok(bundle) => (status::item_ok(), Some(bundle)),
        Err(status) => (status::item(&status), None),
    }
}

#[cfg(test)]
#[path = "federated_tests.rs"]
mod tests;
