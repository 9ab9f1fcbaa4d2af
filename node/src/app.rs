//! The composition root: what a server is made of, and in which order it starts
//! and stops.
//!
//! Two runtimes: consensus (Raft core, peers, barriers, forwarding) has its own,
//! so that a storm of signing or handshakes cannot hold heartbeats up.

mod attestors;
mod data_dir;
mod joining;
mod settings;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chancery_api::chancery::cluster::v1::cluster_server::ClusterServer;
use chancery_api::chancery::peer::v1::bootstrap_server::BootstrapServer;
use chancery_api::chancery::peer::v1::control_server::ControlServer;
use chancery_api::chancery::peer::v1::custody_server::CustodyServer;
use chancery_api::chancery::peer::v1::raft_server::RaftServer;
use chancery_hsm::{AwaitedSigner, DiskSigner, MemorySigner, Metered, Signer};
use chancery_raft_store::command::{AnnounceMember, Command};
use chancery_raft_store::identity_record::IdentityRecord;
use chancery_raft_store::model::{AuthorityScope, IssuanceMode};
use chancery_raft_store::snapshot::Snapshots;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use self::attestors::{attestors, external_roots};

pub(crate) use self::data_dir::{QUARANTINE, own_data_dir};
use self::data_dir::{
    check_level, check_mark, check_place, identity, open_store, owner, quarantine,
};
pub use self::data_dir::{init_cluster, set_aside};
use self::joining::way_in;
pub(crate) use self::settings::key_type;
pub use self::settings::pkcs11_config;
use self::settings::{
    agent_pruning, ca_subject, disk_config, formation_plan, lifetimes, pace, seconds,
};
use crate::authority::{
    Certifier, Custody, Driver, Intermediates, Issuer, Logins, Making, ServerSvid, Steward,
    keep_foreign_roots, keep_intermediates, keep_own_roots, keep_server_svid,
};
use crate::authz::layer::GateLayer;
use crate::cluster::formation::{self, Admission, VERSION};
use crate::cluster::peers::GrpcPeers;
use crate::cluster::pins::PinBook;
use crate::cluster::server::{PeerServer, pinned_only};
use crate::cluster::status::{Members, SelfStatus};
use crate::cluster::successor::left_behind;
use crate::cluster::{Barriers, Consensus, Proposer, Start, Storage};
use crate::config::{Config, Keys};
use crate::disk::{self, Disk, Margin, make_room};
use crate::environment::{Clock, Stopwatch, SystemClock};
use crate::health::Health;
use crate::housekeeping::Housekeeping;
use crate::http_status::{self, Endpoints};
use crate::ledger::Ledger;
use crate::ratelimit::RateLimits;
use crate::registry::Doors;
use crate::service::cluster::ClusterService;
use crate::service::{self, gate::LocalGate};
use crate::telemetry::{self, LogFile};
use crate::transport::{
    AdminSocket, Descriptors, Limits, ListenError, PeerKey, PeerTls, TcpPort, TlsState,
    serve_agents, serve_peers,
};

/// Stopping takes at most this long; what still runs then is dropped.
const STOP_LIMIT: Duration = Duration::from_secs(9);
/// Threads of the consensus runtime.
const CONSENSUS_THREADS: usize = 2;
/// How often a member that cannot reach the leader tells of its start again.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);
/// A synced write that takes longer is a stall, at the earliest.
const STALL_LIMIT_MIN: Duration = Duration::from_secs(1);
/// How often a founder tries while it elects itself.
const FOUND_PAUSE: Duration = Duration::from_millis(50);

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Runs a server until SIGTERM or SIGINT, or until it cannot go on.
///
/// # Errors
/// Whatever keeps it from starting, and the reason why it had to stop. The process
/// must then exit non-zero.
pub fn run(config: Config) -> anyhow::Result<()> {
    let uptime = Stopwatch::start();
    let log_file = log_file(&config)?;
    let log = telemetry::logging(
        config.log_level,
        config.log_format,
        config.log_source_location,
        log_file.clone(),
    )
    .context("cannot start the log")?;
    let metrics = telemetry::install(config.spire_metric_names)
        .context("cannot install the metrics recorder")?;
    no_core_dumps();
    config.check_start().map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(lines.join("; "))
    })?;

    let consensus_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONSENSUS_THREADS)
        .thread_name("consensus")
        .enable_all()
        .build()
        .context("cannot start the consensus runtime")?;
    let service_runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("service")
        .enable_all()
        .build()
        .context("cannot start the service runtime")?;

    let process = Process {
        log,
        log_file,
        uptime,
    };
    let result = service_runtime.block_on(serve(config, &consensus_runtime, metrics, process));
    service_runtime.shutdown_timeout(Duration::from_millis(200));
    consensus_runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// What was there before the server was.
struct Process {
    log: telemetry::LogLevels,
    /// Where the log is written, unless that is standard error.
    log_file: Option<Arc<LogFile>>,
    uptime: Stopwatch,
}

fn log_file(config: &Config) -> anyhow::Result<Option<Arc<LogFile>>> {
    let Some(path) = &config.log_file else {
        return Ok(None);
    };
    let file =
        LogFile::open(path).with_context(|| format!("log_file: cannot open {}", path.display()))?;
    Ok(Some(Arc::new(file)))
}

/// Opens the log file again at each signal, for whoever has renamed it. A server that
/// logs to standard error takes the signal too, and goes on.
async fn reopen_log(mut rotate: Signal, file: Option<Arc<LogFile>>) {
    while rotate.recv().await.is_some() {
        let Some(file) = &file else { continue };
        match file.reopen() {
            Ok(()) => tracing::info!(path = %file.path().display(), "log file opened again"),
            Err(error) => tracing::error!(%error, "failed to rotate log after signal"),
        }
    }
}

/// Keys live in memory: a core file must not carry them to the disk.
fn no_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process cannot be made undumpable");
    }
}

/// Raises the limit of open files to what the machine allows; the limit then. A
/// connection each for thousands of agents does not fit what shells start with.
fn open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            limit.current
        }
    }
    .unwrap_or(u64::MAX)
}

/// Ports and sockets, bound before anything is written: what is in use is found
/// out at once.
struct Bound {
    agents: TcpPort,
    peers: TcpPort,
    admin: AdminSocket,
    status: Vec<(TcpListener, Endpoints)>,
}

/// The error of listening, under the key that says where, with what to do about it.
fn not_listening(key: &'static str, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let mut causes = std::iter::successors(Some(error), |e| e.source());
    let kind = causes
        .find_map(|e| e.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    let remedy = match kind {
        Some(io::ErrorKind::AddrInUse) => "; stop what listens there, or configure another address",
        Some(io::ErrorKind::AddrNotAvailable) => "; it must be an address of this machine",
        _ => "",
    };
    anyhow::anyhow!("{key}: {}{remedy}", chain(error))
}

async fn bind(config: &Config) -> anyhow::Result<Bound> {
    let mut wanted: BTreeMap<_, Endpoints> = BTreeMap::new();
    if let Some(address) = config.metrics {
        wanted.entry(address).or_default().metrics = true;
    }
    if let Some(address) = config.health {
        wanted.entry(address).or_default().health = Some(config.health_paths.clone());
    }
    let mut status = Vec::new();
    for (address, endpoints) in wanted {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            not_listening(
                "[metrics] or [health] address",
                &ListenError::Bind { address, source: e },
            )
        })?;
        status.push((listener, endpoints));
    }
    Ok(Bound {
        agents: TcpPort::bind(config.api.address)
            .map_err(|e| not_listening("[api] address", &e))?,
        peers: TcpPort::bind(config.peer.address)
            .map_err(|e| not_listening("[peer] address", &e))?,
        admin: AdminSocket::bind(&config.api.admin_socket)
            .context("[api] admin_socket: give each server a socket of its own")?,
        status,
    })
}

/// The signer, and the token behind it if there is one: that one is looked for once the cluster
/// can be asked.
async fn open_signer(
    config: &Config,
) -> anyhow::Result<(Arc<dyn Signer>, Option<Arc<AwaitedSigner>>)> {
    Ok(match &config.keys {
        Keys::Memory => {
            tracing::warn!(
                "keys are in memory: this node has its own authorities and makes new ones at every start; \
                 use [keys] backend = \"pkcs11\" or \"disk\" for keys that stay"
            );
            (Arc::new(Metered::new(MemorySigner::new())), None)
        }
        Keys::Disk(disk) => {
            if disk.passphrase_file.is_none() {
                tracing::warn!(
                    directory = %disk.directory.display(),
                    "keys are in files that are not sealed: whoever reads the disk or a copy of it can sign; set [keys.disk] \
                     passphrase_file, or keep keys in a token"
                );
            }
            let signer = DiskSigner::open(disk_config(disk))
                .await
                .context("[keys.disk]")?;
            (Arc::new(Metered::new(signer)), None)
        }
        Keys::Pkcs11(pkcs11) => {
            let config = pkcs11_config(pkcs11, &config.data_dir)
                .map_err(|problem| anyhow::anyhow!(problem.to_string()))?;
            let token = AwaitedSigner::new(config).context("[keys.pkcs11]")?;
            let token = Arc::new(token);
            (Arc::new(Metered::new(Arc::clone(&token))), Some(token))
        }
    })
}

async fn serve(
    config: Config,
    consensus_runtime: &Runtime,
    metrics: telemetry::PrometheusHandle,
    process: Process,
) -> anyhow::Result<()> {
    // Before anything else: unless somebody waits for it, this signal ends a process.
    let rotate = signal(SignalKind::user_defined2()).context("cannot wait for SIGUSR2")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let open_files = open_files();
    let descriptors = Descriptors::hold().context("cannot open spare descriptors")?;
    tokio::spawn(descriptors.clone().watch());
    let plan = formation_plan(&config)?;
    let external_roots = external_roots(&config)?;
    let _data_dir = own_data_dir(&config.data_dir)?;
    let bound = bind(&config).await?;
    let peer_port = bound.peers;
    #[cfg(feature = "faults")]
    arm_faults(&config.data_dir);
    make_room(&config.data_dir, config.storage.reserve).with_context(|| {
        format!(
            "cannot look for free space below {}",
            config.data_dir.display()
        )
    })?;
    let mut record = identity(&config)?;
    check_mark(&config.data_dir, &record)?;
    let (signer, token) = open_signer(&config).await?;
    let peer_tls = PeerTls::new(&PeerKey::from_pkcs8(&record.peer_key)?, Arc::clone(&clock))?;

    let peer_port = if record.node_id == 0 {
        let way = way_in(&config)?;
        let (plan, tls) = (plan.clone(), peer_tls.clone());
        let form = consensus_runtime.spawn(async move { way.take(&plan, &tls, peer_port).await });
        let formed = tokio::select! {
            formed = form => formed.context("formation panicked")??,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        record.founded = !formed.founder;
        record.cluster_id = formed.cluster_id;
        record.node_id = formed.node_id;
        record.pins = formed.pins;
        record.save(&config.data_dir)?;
        tracing::info!(cluster = %record.cluster_id, node = record.node_id, founder = formed.founder, "member of the cluster");
        TcpPort::bind(config.peer.address).context("[peer] address")?
    } else {
        peer_port
    };
    record.boot += 1;
    record.save(&config.data_dir)?;
    let margin = Margin {
        min_free: config.storage.min_free,
        reserve: config.storage.reserve,
    };
    let disk = Disk::new(
        &config.data_dir,
        margin,
        (config.raft.election().1 * 2).max(STALL_LIMIT_MIN),
    );
    let store = open_store(&config.data_dir, &mut record, disk.gate())?;
    let snapshots =
        Snapshots::open(&config.data_dir.join("snapshots")).context("snapshot directory")?;
    let storage = Storage::open(
        Arc::clone(&store),
        snapshots,
        &config.data_dir,
        &owner(&record),
    )?;
    check_place(&storage, &record, &plan)?;
    check_level(&storage)?;
    crate::backup::tell_epoch(&storage.registry);
    #[cfg(feature = "faults")]
    let storage = with_faults(storage);

    let pins = PinBook::new(storage.registry.clone(), &record.pins);
    let writes = storage.log.in_flight();
    let write_gate = disk.gate().clone();
    let start = Start {
        disk: disk.clone(),
        cluster_id: record.cluster_id.clone(),
        node_id: record.node_id,
        boot: record.boot,
        peers: Arc::new(GrpcPeers::new(peer_tls.clone(), pins.clone())),
        clock: Arc::clone(&clock),
        heartbeat: config.raft.heartbeat(),
        election: config.raft.election(),
        snapshot_after: u64::from(config.raft.snapshot_after_entries),
        keep_after_snapshot: u64::from(config.raft.entries_kept_after_snapshot),
    };
    let stale_limit = config.issuance.stale_issuance_limit;
    let known = pins.clone();
    let (consensus, proposer, barriers, members) = consensus_runtime
        .spawn(async move {
            let consensus = Consensus::start(start, storage).await?;
            let proposer = Proposer::start(consensus.clone());
            let barriers = Barriers::start(consensus.clone());
            tokio::spawn(known.clone().follow());
            let members = Members::start(consensus.clone(), known);
            tokio::spawn(disk::watch(
                disk,
                store,
                writes,
                consensus.clone(),
                members.clone(),
            ));
            Ok::<_, crate::cluster::ConsensusError>((consensus, proposer, barriers, members))
        })
        .await
        .context("consensus panicked while starting")??;

    let doors = Doors::new(
        consensus.clone(),
        proposer.clone(),
        barriers.clone(),
        stale_limit,
        members.clone(),
    );
    let intermediates = Intermediates::new(
        config.trust_domain.clone(),
        seconds(config.issuance.intermediate_ttl),
        members.clone(),
    );
    let custody = Custody::new(signer, intermediates);
    let tls = TlsState::new(
        config.trust_domain.clone(),
        config.admin_ids.iter().cloned(),
    );
    let server_svid = ServerSvid::default();
    let issuer = Issuer::new(
        doors.clone(),
        custody.clone(),
        lifetimes(&config),
        config.trust_domain.clone(),
        server_svid.clone(),
    );
    let attestors = attestors(&config, external_roots, &issuer, &doors);
    let ledger = Ledger::open(doors.clone(), record.boot, &config.data_dir)
        .map_err(anyhow::Error::msg)
        .context("ledger of holders")?;
    let health = Health::new(
        doors.clone(),
        issuer.clone(),
        Arc::clone(&tls),
        members.clone(),
        ledger.clone(),
    );
    let this: Arc<dyn SelfStatus> = Arc::new(health.clone());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(reopen_log(rotate, process.log_file));

    // Peers first: without them nothing else can come up.
    let peer_server = PeerServer::new(consensus.clone(), pins.clone(), Arc::clone(&this));
    let mut peer_routes = Routes::builder();
    let size = crate::cluster::peers::MESSAGE_BYTES_MAX;
    peer_routes
        .add_service(
            RaftServer::new(peer_server.clone())
                .max_decoding_message_size(size)
                .max_encoding_message_size(size),
        )
        .add_service(
            CustodyServer::new(Certifier::new(
                peer_server.clone(),
                doors.clone(),
                custody.clone(),
            ))
            .max_decoding_message_size(Certifier::MESSAGE_BYTES_MAX),
        )
        .add_service(
            ControlServer::new(peer_server)
                .max_decoding_message_size(size)
                .max_encoding_message_size(size),
        )
        .add_service(
            BootstrapServer::new(Admission::new(
                plan.clone(),
                consensus.clone(),
                proposer,
                barriers.clone(),
            ))
            .max_decoding_message_size(formation::MESSAGE_BYTES_MAX),
        );
    let peer_stop = CancellationToken::new();
    let peers = consensus_runtime.spawn(serve_peers(
        peer_port,
        peer_tls.clone(),
        Limits::of_peers().beside(&descriptors),
        pinned_only(peer_routes.routes().prepare(), pins.clone()),
        {
            let pins = pins.clone();
            move |key: &[u8; 32]| pins.knows(key)
        },
        peer_stop.clone(),
    ));
    consensus_runtime.spawn(consensus.clone().drive_membership(members.clone()));
    let left_behind = consensus_runtime.spawn(left_behind(
        consensus.clone(),
        barriers.clone(),
        plan.clone(),
        peer_tls.clone(),
    ));

    if !record.founded {
        // Also after a start that was cut off before the founding command was applied.
        consensus.initialise(plan.own.clone()).await?;
        tasks.spawn(found(
            doors.clone(),
            formation::found(
                &plan,
                &record.cluster_id,
                &peer_tls,
                config.issuance.mode.unwrap_or(IssuanceMode::Direct),
                config
                    .issuance
                    .authority_scope
                    .unwrap_or(match config.keys {
                        Keys::Pkcs11(_) => AuthorityScope::Shared,
                        Keys::Disk(_) | Keys::Memory => AuthorityScope::PerNode,
                    }),
            ),
            record.clone(),
            config.data_dir.clone(),
        ));
    }
    tasks.spawn(announce(
        doors.clone(),
        plan.api_address.clone(),
        record.boot,
        config.issuance.mode,
        config.issuance.authority_scope,
    ));

    // A PIN is tried only once it is known what others that share the token have tried.
    if let Some(token) = &token {
        let logins = Logins::start(doors.clone(), record.boot);
        token.start(Arc::new(logins)).context("[keys.pkcs11]")?;
    }
    let making = Making {
        key_type: key_type(config.issuance.ca_key_type),
        ttl: seconds(config.issuance.ca_ttl),
        subject: ca_subject(&config.issuance.ca_subject),
        trust_domain: config.trust_domain.clone(),
        jwt_enabled: !config.issuance.disable_jwt_svids,
    };
    let steward = Steward::new(doors.clone(), members.clone(), custody.clone());
    if config.issuance.disable_jwt_svids {
        tracing::info!("JWT-SVID profile is disabled");
    }
    tasks.spawn(keep_intermediates(custody.clone(), doors.clone()));
    tasks.spawn(Driver::new(doors.clone(), members.clone(), custody, making).run());
    tasks.spawn(keep_server_svid(
        issuer.clone(),
        doors.clone(),
        Arc::clone(&tls),
        server_svid.clone(),
    ));
    tasks.spawn(
        Housekeeping::new(
            doors.clone(),
            config.trust_domain.clone(),
            agent_pruning(&config),
            pace(),
        )
        .run(),
    );
    tasks.spawn(keep_own_roots(
        issuer.clone(),
        doors.clone(),
        Arc::clone(&tls),
    ));
    tasks.spawn(keep_foreign_roots(doors.clone(), Arc::clone(&tls)));
    tasks.spawn(ledger.clone().run());
    tasks.spawn(health.clone().measure());
    for (listener, endpoints) in bound.status {
        tasks.spawn(http_status::serve(
            listener,
            endpoints,
            Arc::new(health.clone()),
            metrics.clone(),
            descriptors.clone(),
            stop.clone(),
        ));
    }

    let limits = RateLimits::new(config.ratelimit);
    let context = service::Context::new(
        doors.clone(),
        issuer,
        steward,
        members.clone(),
        ledger,
        limits,
    )
    .with_attestors(attestors);
    let gate = Arc::new(LocalGate::new(&context, config.admin_ids.clone()));
    let layer = GateLayer::new(gate);
    let process = service::Process {
        log: process.log,
        uptime: process.uptime,
        server_svid,
    };
    let admin_routes = service::admin_routes(&context, process).add_service(ClusterServer::new(
        ClusterService::new(context.clone(), this, token),
    ));
    let admin = tokio::spawn(bound.admin.serve(
        Limits::of_admins().beside(&descriptors),
        tower::Layer::layer(&layer, admin_routes.prepare()),
        stop.clone(),
    ));
    let agent_routes = tower::Layer::layer(&layer, service::tcp_routes(&context).prepare());
    let agents = tokio::spawn(serve_agents(
        bound.agents,
        config.api.proxy_protocol_trusted_cidrs.clone(),
        Arc::clone(&tls),
        Arc::clone(&clock),
        Limits::of_agents(&config.api)
            .within(open_files)
            .beside(&descriptors),
        agent_routes,
        stop.clone(),
    ));
    // From here on a signal is heeded, and closes it.
    write_gate.arm();
    tracing::info!(
        node = record.node_id,
        cluster = %record.cluster_id,
        api = %config.api.address,
        peer = %config.peer.address,
        admin_socket = %config.api.admin_socket.display(),
        version = VERSION,
        "started"
    );

    tokio::pin!(agents, peers, admin, left_behind);
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            why = members.removed() => break Some(anyhow::anyhow!(
                "{why}: remove {} (chancery cluster rejoin does it) before it joins again",
                config.data_dir.display()
            )),
            index = members.is_wrong() => break Some(quarantine(&config.data_dir, index)),
            died = consensus.died() => break Some(anyhow::Error::new(died)),
            found = &mut left_behind => break Some(match found {
                Ok(found) => anyhow::Error::new(found),
                Err(panicked) => anyhow::Error::new(panicked).context("a part of the server ended"),
            }),
            result = &mut agents => break Some(ended_early("agent port", result)),
            result = &mut peers => break Some(ended_early("peer port", result)),
            result = &mut admin => {
                break Some(ended_early("admin socket", result.map(Ok::<_, std::io::Error>)));
            }
            // Founding and announcing end when they are done.
            Some(result) = tasks.join_next() => if let Err(panicked) = result {
                break Some(anyhow::Error::new(panicked).context("a part of the server ended"));
            },
        }
    };
    match &ended {
        None => tracing::info!("stopping: handing over leadership and finishing calls"),
        Some(error) => tracing::error!(error = format!("{error:#}"), "this server cannot go on"),
    }
    write_gate.close();
    // Whatever happens to the runtimes, the process ends: this thread needs none.
    std::thread::spawn(|| {
        std::thread::sleep(STOP_LIMIT + Duration::from_millis(700));
        std::process::exit(1);
    });
    let drain = async {
        consensus.step_down().await;
        stop.cancel();
        // What the ports say of their end does not matter any more.
        if !agents.is_finished() {
            let _ = agents.await;
        }
        if !admin.is_finished() {
            let _ = admin.await;
        }
        peer_stop.cancel();
        consensus.shutdown().await;
    };
    if tokio::time::timeout(STOP_LIMIT, drain).await.is_err() {
        tracing::warn!("calls were still open at the end of the time for stopping");
    }
    tasks.abort_all();
    ended.map_or(Ok(()), Err)
}

fn ended_early<E: std::error::Error + Send + Sync + 'static>(
    part: &'static str,
    result: Result<Result<(), E>, tokio::task::JoinError>,
) -> anyhow::Error {
    match result {
        Ok(Ok(())) => anyhow::anyhow!("the {part} closed"),
        Ok(Err(error)) => anyhow::Error::new(error).context(part),
        Err(panicked) => anyhow::Error::new(panicked).context(part),
    }
}

/// Proposes the first command until it is in the log, and notes that it is.
async fn found(
    doors: Doors,
    command: Command,
    mut record: IdentityRecord,
    data_dir: std::path::PathBuf,
) {
    while let Err(error) = doors.propose(command.clone()).await {
        tracing::debug!(%error, "the cluster is not founded yet");
        tokio::time::sleep(FOUND_PAUSE).await;
    }
    record.founded = true;
    if let Err(error) = record.save(&data_dir) {
        // The next start founds again, which changes nothing.
        tracing::warn!(%error, "the identity record could not be updated");
    }
}

/// Tells the cluster of this start until it is known.
async fn announce(
    doors: Doors,
    api_address: String,
    boot: u64,
    mode: Option<IssuanceMode>,
    scope: Option<AuthorityScope>,
) {
    let node_id = doors.consensus().me();
    let command = Command::AnnounceMember(AnnounceMember {
        node_id,
        api_address,
        version: VERSION.into(),
        boot,
    });
    loop {
        match doors
            .propose(command.clone())
            .await
            .map(|outcome| outcome.accepted())
        {
            Ok(Ok(_)) => {
                notice_other_mode(&doors, mode);
                return notice_other_scope(&doors, scope);
            }
            Ok(Err(refusal)) => tracing::debug!(?refusal, "this start is not recorded yet"),
            Err(error) => tracing::debug!(%error, "this start is not recorded yet"),
        }
        tokio::time::sleep(ANNOUNCE_PAUSE).await;
    }
}

/// The file's mode counts when the cluster is founded: what it says later is worth a word.
fn notice_other_mode(doors: &Doors, of_file: Option<IssuanceMode>) {
    let mode = doors.local().cluster().issuance_mode();
    if let Some(of_file) = of_file.filter(|of_file| *of_file != mode) {
        tracing::warn!(
            file = of_file.as_str(),
            cluster = mode.as_str(),
            "[issuance] mode is another than the cluster's, which counts: `chancery issuance mode` sets it"
        );
    }
}

/// And so is its scope of authorities.
fn notice_other_scope(doors: &Doors, of_file: Option<AuthorityScope>) {
    let scope = doors.local().cluster().authority_scope();
    if let Some(of_file) = of_file.filter(|of_file| *of_file != scope) {
        tracing::warn!(
            file = of_file.as_str(),
            cluster = scope.as_str(),
            "[issuance] authority_scope is another than the cluster's, which counts: `chancery localauthority migrate` sets it"
        );
    }
}

/// Tests that ask for it give their orders in a directory below the data directory.
#[cfg(feature = "faults")]
fn arm_faults(data_dir: &std::path::Path) {
    if std::env::var_os("CHANCERY_FAULT_POINTS").is_some() {
        chancery_raft_store::faults::arm(&data_dir.join("faults"));
    }
}

/// Faults that tests ask for by environment variables.
#[cfg(feature = "faults")]
fn with_faults(mut storage: Storage) -> Storage {
    if let Some(ms) = std::env::var("CHANCERY_FAULT_HOLD_APPLY_MS")
        .ok()
        .and_then(|v| v.parse().ok())
    {
        tracing::warn!(ms, "fault: every apply is held back");
        storage.machine.hold_back(Duration::from_millis(ms));
    }
    if let Some(index) = std::env::var("CHANCERY_FAULT_DIVERGE_AT")
        .ok()
        .and_then(|v| v.parse().ok())
    {
        tracing::warn!(index, "fault: the state comes out otherwise from here on");
        storage.machine.diverge_at(index);
    }
    storage
}
