//! The gRPC services: one thin module an API, which translates, calls and translates
//! back.
//!
//! A service never reads state, decides, and then writes: what depends on state is
//! decided by the command (`raft-store`). It reads through a door that names its
//! freshness ([`Doors`]), and demands the [`Permit`] of each call, so that one that was
//! not authorized cannot be served. A no that makes an agent drop its identity is said
//! only after a barrier; where there is none the answer is UNAVAILABLE.
//!
//! It refuses to know how a caller proved who it is (`transport`), what it may do
//! (`authz`), and how a document is built and signed (`issue`, `authority`).

mod activator;
mod agent;
mod audit;
mod backup;
mod batch;
mod bundle;
pub mod cluster;
mod debug;
mod entry;
pub mod gate;
mod health;
mod holds;
pub mod inputs;
mod keys;
mod ledger;
mod local_authority;
mod logger;
mod migrate;
pub mod moment;
pub mod page;
mod refusal;
mod status;
mod svid;
mod trust_domain;
mod wire;

use chancery_api::chancery::backup::v1::backup_server::BackupServer;
use chancery_api::chancery::keys::v1::keys_server::KeysServer;
use chancery_api::chancery::ledger::v1::ledger_server::LedgerServer;
use chancery_api::chancery::migrate::v1::migration_server::MigrationServer;
use chancery_api::grpc::health::v1::health_server::HealthServer;
use chancery_api::spire::api::server::agent::v1::agent_server::AgentServer;
use chancery_api::spire::api::server::bundle::v1::bundle_server::BundleServer;
use chancery_api::spire::api::server::debug::v1::debug_server::DebugServer;
use chancery_api::spire::api::server::entry::v1::entry_server::EntryServer;
use chancery_api::spire::api::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
use chancery_api::spire::api::server::logger::v1::logger_server::LoggerServer;
use chancery_api::spire::api::server::svid::v1::svid_server::SvidServer;
use chancery_api::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use chancery_identity::id::SpiffeId;
use tonic::service::Routes;
use tonic::{Request, Status};

use self::agent::Versions;
use crate::attest::Attestors;
use crate::authority::{Issuer, ServerSvid, Steward};
use crate::authz::{CallDeadline, Permit};
use crate::cluster::status::Members;
use crate::environment::Stopwatch;
use crate::ledger::Ledger;
use crate::ratelimit::{Allowance, RateLimits};
use crate::registry::Doors;
use crate::telemetry::LogLevels;
use crate::transport::Caller;

/// What the services stand on, made once a node. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    doors: Doors,
    issuer: Issuer,
    steward: Steward,
    members: Members,
    ledger: Ledger,
    limits: RateLimits,
    versions: Versions,
    attestors: Attestors,
}

impl Context {
    /// Starts the services' background work on the current runtime.
    pub fn new(
        doors: Doors,
        issuer: Issuer,
        steward: Steward,
        members: Members,
        ledger: Ledger,
        limits: RateLimits,
    ) -> Self {
        let versions = Versions::start(doors.clone());
        Self {
            doors,
            issuer,
            steward,
            members,
            ledger,
            limits,
            versions,
            attestors: Attestors::default(),
        }
    }

    /// The same with methods of node attestation beside join tokens.
    #[must_use]
    pub fn with_attestors(mut self, attestors: Attestors) -> Self {
        self.attestors = attestors;
        self
    }
}

/// What the services of the admin socket know beside [`Context`]: this process.
pub struct Process {
    /// Level of its log.
    pub log: LogLevels,
    /// Runs since it started.
    pub uptime: Stopwatch,
    /// The SVID that it serves.
    pub server_svid: ServerSvid,
}

/// What agents and administrators reach over TCP. Without a gate in front of them
/// they refuse every call.
pub fn tcp_routes(context: &Context) -> Routes {
    Routes::new(AgentServer::new(agent::AgentService::new(context.clone())))
        .add_service(EntryServer::new(entry::EntryService::new(context.clone())))
        .add_service(SvidServer::new(svid::SvidService::new(context.clone())))
        .add_service(BundleServer::new(bundle::BundleService::new(
            context.clone(),
        )))
        .add_service(LocalAuthorityServer::new(
            local_authority::LocalAuthorityService::new(context.clone()),
        ))
        .add_service(TrustDomainServer::new(
            trust_domain::TrustDomainService::new(context.clone()),
        ))
        .add_service(LedgerServer::new(ledger::LedgerService::new(
            context.clone(),
        )))
        .add_service(MigrationServer::new(migrate::MigrationService::new(
            context.clone(),
        )))
}

/// The same and what only the admin socket has. The cluster's own service is added
/// by the server that knows its state.
pub fn admin_routes(context: &Context, process: Process) -> Routes {
    let Process {
        log,
        uptime,
        server_svid,
    } = process;
    tcp_routes(context)
        .add_service(BackupServer::new(backup::BackupService::new(
            context.clone(),
        )))
        .add_service(KeysServer::new(keys::KeysService::new(context.clone())))
        .add_service(HealthServer::new(health::HealthService::new(
            context.clone(),
        )))
        .add_service(LoggerServer::new(logger::LoggerService::new(log)))
        .add_service(DebugServer::new(debug::DebugService::new(
            context.clone(),
            server_svid,
            uptime,
        )))
}

/// The proof that the call was authorized. Every method asks for it first.
fn permit<T>(request: &Request<T>) -> Result<&Permit, Status> {
    Permit::of(request.extensions())
}

/// What the caller has of its method's rate limit; taken where SPIRE takes it.
fn allowance<T>(context: &Context, request: &Request<T>) -> Result<Allowance, Status> {
    let method = permit(request)?.method();
    let extensions = request.extensions();
    let caller = extensions.get::<Caller>();
    let caller = caller.ok_or_else(|| Status::internal("caller is unknown"))?;
    let deadline = extensions.get::<CallDeadline>();
    let deadline = *deadline.ok_or_else(|| Status::internal("the call has no deadline"))?;
    context.limits.allowance(method, caller, deadline)
}

/// The agent that calls.
fn agent<T>(request: &Request<T>) -> Result<&SpiffeId, Status> {
    let agent = permit(request)?.agent();
    agent.ok_or_else(|| Status::internal("caller ID missing from request context"))
}
