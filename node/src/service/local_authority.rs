//! `spire.api.server.localauthority.v1.LocalAuthority`: rotating authorities by hand.
//!
//! Where nodes share their keys the answers are of the whole cluster; where each has its own,
//! of the node that was asked, as with SPIRE. While one gives way to the other they are of what
//! signs on that node. What SPIRE cannot do and this can: an old authority
//! can be tainted and revoked while another one is prepared, and so can a JWT key of the bundle that
//! is kept elsewhere: a downstream server that publishes what it should not is no reason to wait.

use std::time::Duration;

use chancery_api::spire::api::server::localauthority::v1 as api;
use chancery_api::spire::api::server::localauthority::v1::local_authority_server::LocalAuthority;
use chancery_raft_store::Refusal;
use chancery_raft_store::model::{Authority, AuthorityKind};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::status::{Subject, logged, logged_of};
use super::svid::check_jwt_enabled;
use super::{Context, holds, permit};
use crate::authority::{OtherKey, Slot, StepFailed};
use crate::authz::CallDeadline;
use crate::registry::Freshness;

/// Longest time a key may take to be made and recorded.
const PREPARE_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for what the other members have to do.
const MEMBERS_LIMIT: Duration = Duration::from_secs(10);
/// Kept of the caller's time to tell it how the wait ended.
const ANSWER_TIME: Duration = Duration::from_millis(300);

/// The service.
pub(super) struct LocalAuthorityService {
    context: Context,
}

impl LocalAuthorityService {
    /// A service over the node's authorities.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// What every method asks first.
    fn begin<T>(&self, kind: AuthorityKind, request: &Request<T>) -> Result<(), Status> {
        permit(request)?;
        match kind {
            AuthorityKind::Jwt => check_jwt_enabled(&self.context),
            AuthorityKind::X509 | AuthorityKind::Unspecified => Ok(()),
        }
    }

    /// Active, prepared and old authority of a kind.
    async fn show(
        &self,
        kind: AuthorityKind,
    ) -> Result<(Freshness, [Option<api::AuthorityState>; 3]), Status> {
        let freshness = self.context.doors.linearizable().await;
        Ok((freshness, states(&self.context.steward.slot(kind))?))
    }

    /// Takes one step with an authority, by id where there is one; what came of it, in the
    /// log too where it was refused.
    async fn step<T>(
        &self,
        kind: AuthorityKind,
        step: Step,
        id: &str,
        request: &Request<T>,
    ) -> Result<Option<api::AuthorityState>, Status> {
        self.begin(kind, request)?;
        let done = match step {
            Step::Prepare => self.prepare(kind, until(request, PREPARE_LIMIT)).await,
            Step::Activate => self.activate(kind, id, until(request, MEMBERS_LIMIT)).await,
            Step::Taint => self.taint(kind, id).await,
            Step::Revoke => self.revoke(kind, id, until(request, MEMBERS_LIMIT)).await,
        };
        let subject = Subject {
            local_authority_id: (!id.is_empty()).then_some(id),
            ..Subject::default()
        };
        done.map(Some).map_err(|status| logged_of(status, subject))
    }

    /// The state of a kind, exact: what any node acknowledged is seen.
    async fn exact(&self, kind: AuthorityKind) -> Result<Slot, Status> {
        self.context.doors.exact().await?;
        Ok(self.context.steward.slot(kind))
    }

    async fn prepare(
        &self,
        kind: AuthorityKind,
        until: Instant,
    ) -> Result<api::AuthorityState, Status> {
        let slot = self.exact(kind).await?;
        slot.active.ok_or_else(initializing)?;
        let what = format!("failed to prepare {} authority", name(kind));
        let made = self.context.steward.prepare(kind, until).await;
        let authority = made.map_err(|e| failed(kind, &what, &e))?;
        Ok(state(&authority))
    }

    async fn activate(
        &self,
        kind: AuthorityKind,
        id: &str,
        until: Instant,
    ) -> Result<api::AuthorityState, Status> {
        let slot = self.exact(kind).await?;
        let authority = to_activate(&slot, id)?;
        let what = format!("failed to activate {} authority", name(kind));
        let done = self.context.steward.activate(authority, until).await;
        done.map_err(|e| failed(kind, &what, &e))?;
        Ok(state(authority))
    }

    async fn taint(&self, kind: AuthorityKind, id: &str) -> Result<api::AuthorityState, Status> {
        let slot = self.exact(kind).await?;
        let what = format!("failed to taint {} authority", name(kind));
        let steward = &self.context.steward;
        let (done, told) = match to_taint(&slot, id) {
            Ok(authority) => (steward.taint(authority).await, state(authority)),
            Err(unknown) if kind == AuthorityKind::Jwt && is_none_of(&slot, id) => {
                match steward.other_jwt_key(id) {
                    Some(OtherKey::KeptElsewhere) => {
                        (steward.taint_kept_elsewhere(id).await, named(id))
                    }
                    Some(OtherKey::OfNode(_)) | None => return Err(unknown),
                }
            }
            Err(refused) => return Err(refused),
        };
        done.map_err(|e| failed(kind, &what, &e))?;
        tracing::info!(local_authority_id = %id, "{} authority tainted successfully", name(kind));
        Ok(told)
    }

    async fn revoke(
        &self,
        kind: AuthorityKind,
        id: &str,
        until: Instant,
    ) -> Result<api::AuthorityState, Status> {
        let slot = self.exact(kind).await?;
        let what = format!("failed to revoke {} authority", name(kind));
        let steward = &self.context.steward;
        let done = match to_revoke(kind, &slot, id) {
            Ok(authority) => steward.revoke(authority, until).await,
            // As SPIRE: any other JWT key of the bundle, if it is tainted.
            Err(unknown) if kind == AuthorityKind::Jwt && is_none_of(&slot, id) => {
                match steward.other_jwt_key(id) {
                    Some(OtherKey::OfNode(other)) if other.tainted => {
                        steward.revoke(&other, until).await
                    }
                    Some(OtherKey::OfNode(_)) => Err(StepFailed::Refused(Refusal::NotTainted)),
                    Some(OtherKey::KeptElsewhere) => steward.revoke_kept_elsewhere(id).await,
                    None => return Err(unknown),
                }
            }
            Err(refused) => return Err(refused),
        };
        done.map_err(|e| failed(kind, &what, &e))?;
        tracing::info!(local_authority_id = %id, "{} authority revoked successfully", name(kind));
        Ok(named(id))
    }
}

/// A state that tells the ID alone.
fn named(id: &str) -> api::AuthorityState {
    api::AuthorityState {
        authority_id: id.to_owned(),
        ..api::AuthorityState::default()
    }
}

/// The steps of a rotation.
#[derive(Clone, Copy, Debug)]
enum Step {
    Prepare,
    Activate,
    Taint,
    Revoke,
}

/// When a wait of at most `limit` ends, the caller's deadline considered.
fn until<T>(request: &Request<T>, limit: Duration) -> Instant {
    let end = Instant::now() + limit;
    match request.extensions().get::<CallDeadline>() {
        Some(deadline) => {
            let theirs = deadline.instant();
            end.min(theirs.checked_sub(ANSWER_TIME).unwrap_or(theirs))
        }
        None => end,
    }
}

fn name(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::Jwt => "JWT",
        AuthorityKind::X509 | AuthorityKind::Unspecified => "X.509",
    }
}

fn state(authority: &Authority) -> api::AuthorityState {
    api::AuthorityState {
        authority_id: authority.id.clone(),
        expires_at: authority.expires_at,
        // Every authority is a root of its own: there is no upstream yet.
        upstream_authority_subject_key_id: String::new(),
    }
}

fn initializing() -> Status {
    Status::unavailable("server is initializing")
}

/// Active, prepared and old one, as `show` prints them.
fn states(slot: &Slot) -> Result<[Option<api::AuthorityState>; 3], Status> {
    let active = slot.active.as_ref().ok_or_else(initializing)?;
    Ok([
        Some(state(active)),
        slot.prepared.as_deref().map(state),
        slot.old.first().map(|a| state(a)),
    ])
}

fn is(authority: Option<&std::sync::Arc<Authority>>, id: &str) -> bool {
    authority.is_some_and(|a| a.id == id)
}

/// Whether an ID is neither missing nor that of an authority of this slot.
fn is_none_of(slot: &Slot, id: &str) -> bool {
    !id.is_empty() && !is(slot.active.as_ref(), id) && !is(slot.prepared.as_ref(), id)
}

fn to_activate<'a>(slot: &'a Slot, id: &str) -> Result<&'a Authority, Status> {
    if id.is_empty() {
        return Err(Status::invalid_argument("no authority ID provided"));
    }
    match &slot.prepared {
        Some(prepared) if prepared.id == id => Ok(prepared),
        // What signed last stands where the next one would.
        None if is(slot.old.first(), id) => Err(Status::internal(
            "only Prepared authorities can be activated: unsupported local authority status: OLD",
        )),
        _ => Err(Status::invalid_argument("unexpected authority ID")),
    }
}

fn to_taint<'a>(slot: &'a Slot, id: &str) -> Result<&'a Authority, Status> {
    if id.is_empty() {
        return Err(Status::invalid_argument("no authority ID provided"));
    }
    if is(slot.active.as_ref(), id) {
        return Err(Status::invalid_argument(
            "unable to taint current local authority",
        ));
    }
    if is(slot.prepared.as_ref(), id) {
        return Err(Status::invalid_argument(
            "only Old local authorities can be tainted: unsupported local authority status: PREPARED",
        ));
    }
    once(slot, id).ok_or_else(|| Status::invalid_argument("unexpected authority ID"))
}

fn to_revoke<'a>(kind: AuthorityKind, slot: &'a Slot, id: &str) -> Result<&'a Authority, Status> {
    let invalid = |why: &str| Status::invalid_argument(format!("invalid authority ID: {why}"));
    if id.is_empty() {
        return Err(invalid("no authority ID provided"));
    }
    if is(slot.active.as_ref(), id) {
        return Err(invalid("unable to use current authority"));
    }
    let jwt = kind == AuthorityKind::Jwt;
    if jwt && is(slot.prepared.as_ref(), id) {
        return Err(invalid("unable to use a prepared key"));
    }
    once(slot, id).ok_or_else(|| {
        invalid(if jwt {
            "no JWT authority found with provided authority ID"
        } else {
            "only Old local authority can be revoked"
        })
    })
}

/// An authority that signed once; what is revoked is for `apply` to refuse.
fn once<'a>(slot: &'a Slot, id: &str) -> Option<&'a Authority> {
    let mut once = slot.old.iter().chain(&slot.revoked);
    once.find(|a| a.id == id).map(|a| &**a)
}

/// A step that was not done, in SPIRE's words where it has some.
fn failed(kind: AuthorityKind, what: &str, error: &StepFailed) -> Status {
    let jwt = kind == AuthorityKind::Jwt;
    let internal = |why: &str| Status::internal(format!("{what}: {why}"));
    match error {
        StepFailed::Write(error) => crate::registry::write_failed(error),
        StepFailed::Refused(Refusal::AlreadyTainted) if jwt => internal("key is already tainted"),
        StepFailed::Refused(Refusal::AlreadyTainted) => internal("root CA is already tainted"),
        StepFailed::Refused(Refusal::NotTainted) if jwt => {
            internal("it is not possible to revoke an untainted key")
        }
        StepFailed::Refused(Refusal::NotTainted) => {
            internal("it is not possible to revoke an untainted root CA")
        }
        StepFailed::Refused(Refusal::NotFound) if jwt => {
            internal("no JWT Key found with provided key ID")
        }
        StepFailed::Refused(Refusal::NotFound) if what.contains("revoke") => {
            internal("no root CA found with provided subject key ID")
        }
        StepFailed::Refused(Refusal::NotFound) => {
            internal("no ca found with provided subject key ID")
        }
        StepFailed::Refused(_) => Status::aborted(format!("{what}: {error}; try again")),
        StepFailed::Making(_) | StepFailed::NoKey => internal(&error.to_string()),
        StepFailed::NoToken
        | StepFailed::OthersKey(_)
        | StepFailed::NotProved(_)
        | StepFailed::StillServed(_) => Status::failed_precondition(format!("{what}: {error}")),
    }
}

/// As SPIRE's today: the methods are there, what they are for is not.
fn no_wit<T>(request: &Request<impl Sized>) -> Result<Response<T>, Status> {
    permit(request)?;
    Err(Status::unimplemented(
        "WIT-SVID functionality is not yet implemented",
    ))
}

fn no_upstream() -> Status {
    Status::failed_precondition("upstream authority is not configured")
}

#[tonic::async_trait]
impl LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        request: Request<api::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<api::GetJwtAuthorityStateResponse>, Status> {
        self.begin(AuthorityKind::Jwt, &request)?;
        let (freshness, [active, prepared, old]) = self.show(AuthorityKind::Jwt).await?;
        Ok(
            freshness.mark(Response::new(api::GetJwtAuthorityStateResponse {
                active,
                prepared,
                old,
            })),
        )
    }

    async fn prepare_jwt_authority(
        &self,
        request: Request<api::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<api::PrepareJwtAuthorityResponse>, Status> {
        let id = "";
        let state = self
            .step(AuthorityKind::Jwt, Step::Prepare, id, &request)
            .await?;
        Ok(Response::new(api::PrepareJwtAuthorityResponse {
            prepared_authority: state,
        }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<api::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<api::ActivateJwtAuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let state = self
            .step(AuthorityKind::Jwt, Step::Activate, id, &request)
            .await?;
        Ok(Response::new(api::ActivateJwtAuthorityResponse {
            activated_authority: state,
        }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<api::TaintJwtAuthorityRequest>,
    ) -> Result<Response<api::TaintJwtAuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let state = self
            .step(AuthorityKind::Jwt, Step::Taint, id, &request)
            .await?;
        // SPIRE's answer tells no expiry here.
        let state = state.map(|state| api::AuthorityState {
            expires_at: 0,
            ..state
        });
        let response = Response::new(api::TaintJwtAuthorityResponse {
            tainted_authority: state,
        });
        Ok(holds::mark(&self.context, response).await)
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<api::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<api::RevokeJwtAuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let state = self
            .step(AuthorityKind::Jwt, Step::Revoke, id, &request)
            .await?;
        let response = Response::new(api::RevokeJwtAuthorityResponse {
            revoked_authority: state,
        });
        Ok(holds::mark(&self.context, response).await)
    }

    async fn get_x509_authority_state(
        &self,
        request: Request<api::GetX509AuthorityStateRequest>,
    ) -> Result<Response<api::GetX509AuthorityStateResponse>, Status> {
        self.begin(AuthorityKind::X509, &request)?;
        let (freshness, [active, prepared, old]) = self.show(AuthorityKind::X509).await?;
        Ok(
            freshness.mark(Response::new(api::GetX509AuthorityStateResponse {
                active,
                prepared,
                old,
            })),
        )
    }

    async fn prepare_x509_authority(
        &self,
        request: Request<api::PrepareX509AuthorityRequest>,
    ) -> Result<Response<api::PrepareX509AuthorityResponse>, Status> {
        let id = "";
        let state = self
            .step(AuthorityKind::X509, Step::Prepare, id, &request)
            .await?;
        Ok(Response::new(api::PrepareX509AuthorityResponse {
            prepared_authority: state,
        }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<api::ActivateX509AuthorityRequest>,
    ) -> Result<Response<api::ActivateX509AuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let state = self
            .step(AuthorityKind::X509, Step::Activate, id, &request)
            .await?;
        Ok(Response::new(api::ActivateX509AuthorityResponse {
            activated_authority: state,
        }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<api::TaintX509AuthorityRequest>,
    ) -> Result<Response<api::TaintX509AuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let state = self
            .step(AuthorityKind::X509, Step::Taint, id, &request)
            .await?;
        let response = Response::new(api::TaintX509AuthorityResponse {
            tainted_authority: state,
        });
        Ok(holds::mark(&self.context, response).await)
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<api::RevokeX509AuthorityRequest>,
    ) -> Result<Response<api::RevokeX509AuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let state = self
            .step(AuthorityKind::X509, Step::Revoke, id, &request)
            .await?;
        let response = Response::new(api::RevokeX509AuthorityResponse {
            revoked_authority: state,
        });
        Ok(holds::mark(&self.context, response).await)
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<api::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<api::TaintX509UpstreamAuthorityResponse>, Status> {
        permit(&request)?;
        Err(logged(no_upstream()))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<api::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<api::RevokeX509UpstreamAuthorityResponse>, Status> {
        permit(&request)?;
        Err(logged(no_upstream()))
    }

    async fn get_wit_authority_state(
        &self,
        request: Request<api::GetWitAuthorityStateRequest>,
    ) -> Result<Response<api::GetWitAuthorityStateResponse>, Status> {
        no_wit(&request)
    }

    async fn prepare_wit_authority(
        &self,
        request: Request<api::PrepareWitAuthorityRequest>,
    ) -> Result<Response<api::PrepareWitAuthorityResponse>, Status> {
        no_wit(&request)
    }

    async fn activate_wit_authority(
        &self,
        request: Request<api::ActivateWitAuthorityRequest>,
    ) -> Result<Response<api::ActivateWitAuthorityResponse>, Status> {
        no_wit(&request)
    }

    async fn taint_wit_authority(
        &self,
        request: Request<api::TaintWitAuthorityRequest>,
    ) -> Result<Response<api::TaintWitAuthorityResponse>, Status> {
        no_wit(&request)
    }

    async fn revoke_wit_authority(
        &self,
        request: Request<api::RevokeWitAuthorityRequest>,
    ) -> Result<Response<api::RevokeWitAuthorityResponse>, Status> {
        no_wit(&request)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tonic::Code;

    use super::*;

    fn authority(id: &str) -> Arc<Authority> {
        Arc::new(Authority {
            id: id.into(),
            expires_at: 99,
            ..Authority::default()
        })
    }

    fn slot(prepared: bool) -> Slot {
        Slot {
            active: Some(authority("active")),
            prepared: prepared.then(|| authority("prepared")),
            old: vec![authority("old"), authority("older")],
            revoked: vec![authority("revoked")],
        }
    }

    fn refusal(answer: Result<&Authority, Status>) -> (Code, String) {
        let status = answer.unwrap_err();
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn only_the_prepared_authority_can_be_activated() {
        let slot = slot(true);
        assert_eq!(to_activate(&slot, "prepared").unwrap().id, "prepared");
        for id in ["active", "old", "older", "nope"] {
            assert_eq!(
                refusal(to_activate(&slot, id)),
                (Code::InvalidArgument, "unexpected authority ID".into()),
                "{id}"
            );
        }
        assert_eq!(
            refusal(to_activate(&slot, "")),
            (Code::InvalidArgument, "no authority ID provided".into())
        );
        let none_prepared = self::slot(false);
        assert_eq!(
            refusal(to_activate(&none_prepared, "old")),
            (
                Code::Internal,
                "only Prepared authorities can be activated: unsupported local authority status: OLD"
                    .into()
            )
        );
    }

    #[test]
    fn only_an_old_authority_can_be_tainted() {
        let slot = slot(true);
        for id in ["old", "older", "revoked"] {
            assert_eq!(to_taint(&slot, id).unwrap().id, id);
        }
        let text = |id| refusal(to_taint(&slot, id));
        let invalid = |text: &str| (Code::InvalidArgument, text.to_owned());
        assert_eq!(text(""), invalid("no authority ID provided"));
        assert_eq!(
            text("active"),
            invalid("unable to taint current local authority")
        );
        assert_eq!(
            text("prepared"),
            invalid(
                "only Old local authorities can be tainted: unsupported local authority status: PREPARED"
            )
        );
        assert_eq!(text("nope"), invalid("unexpected authority ID"));
    }

    #[test]
    fn only_an_old_authority_can_be_revoked() {
        let slot = slot(true);
        let text = |kind, id| refusal(to_revoke(kind, &slot, id)).1;
        use AuthorityKind::{Jwt, X509};
        for kind in [Jwt, X509] {
            assert_eq!(to_revoke(kind, &slot, "old").unwrap().id, "old");
            assert_eq!(
                text(kind, ""),
                "invalid authority ID: no authority ID provided"
            );
            assert_eq!(
                text(kind, "active"),
                "invalid authority ID: unable to use current authority"
            );
        }
        assert_eq!(
            text(X509, "prepared"),
            "invalid authority ID: only Old local authority can be revoked"
        );
        assert_eq!(
            text(Jwt, "prepared"),
            "invalid authority ID: unable to use a prepared key"
        );
        assert_eq!(
            text(Jwt, "nope"),
            "invalid authority ID: no JWT authority found with provided authority ID"
        );
    }

    #[test]
    fn what_apply_refuses_is_told_in_the_words_of_spire() {
        let text = |kind, what: &str, refusal| {
            let status = failed(kind, what, &StepFailed::Refused(refusal));
            (status.code(), status.message().to_owned())
        };
        let table = [
            (
                AuthorityKind::X509,
                "failed to taint X.509 authority",
                Refusal::AlreadyTainted,
                "root CA is already tainted",
            ),
            (
                AuthorityKind::Jwt,
                "failed to taint JWT authority",
                Refusal::AlreadyTainted,
                "key is already tainted",
            ),
            (
                AuthorityKind::X509,
                "failed to revoke X.509 authority",
                Refusal::NotTainted,
                "it is not possible to revoke an untainted root CA",
            ),
            (
                AuthorityKind::Jwt,
                "failed to revoke JWT authority",
                Refusal::NotTainted,
                "it is not possible to revoke an untainted key",
            ),
            (
                AuthorityKind::X509,
                "failed to revoke X.509 authority",
                Refusal::NotFound,
                "no root CA found with provided subject key ID",
            ),
        ];
        for (kind, what, refusal, why) in table {
            assert_eq!(
                text(kind, what, refusal),
                (Code::Internal, format!("{what}: {why}"))
            );
        }
        let lost_race = text(
            AuthorityKind::X509,
            "failed to taint X.509 authority",
            Refusal::AuthorityInUse,
        );
        assert_eq!(lost_race.0, Code::Aborted);
    }

    #[test]
    fn before_the_first_activation_the_server_is_initializing() {
        let status = states(&Slot::default()).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "server is initializing")
        );
        let [active, prepared, old] = states(&slot(false)).unwrap();
        assert_eq!(active.unwrap().authority_id, "active");
        assert_eq!(prepared, None);
        assert_eq!(old.unwrap().authority_id, "old");
    }
}
