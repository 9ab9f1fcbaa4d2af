//! The configuration as used: typed, complete, valid by construction.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chancery_identity::id::{SpiffeId, TrustDomain};
use chancery_raft_store::model::{AuthorityScope, IssuanceMode};
use serde::Deserialize;

use super::Problem;
use super::cidr::Cidr;
use super::duration::format_duration;
use super::node_attestors::{self, NodeAttestors};
use super::raw::{RawBackend, RawConfig, RawIssuance, RawKeys, RawMode, RawScope, RawSubject};

/// Longest path of a unix socket on Linux, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What the admin socket's temporary name adds to its directory.
const SOCKET_TEMPORARY_BYTES: usize = 20;
/// Freshness limit where the file names none.
const STALE_ISSUANCE_LIMIT_DEFAULT: Duration = Duration::from_secs(600);
const CA_TTL_OWN_DEFAULT: Duration = Duration::from_secs(24 * 3_600);
const CA_TTL_TOKEN_DEFAULT: Duration = Duration::from_secs(8_760 * 3_600);
const INTERMEDIATE_TTL_DEFAULT: Duration = Duration::from_secs(24 * 3_600);
/// An intermediate lives for this part of its authority's life at most: what is left of an
/// authority when the next one takes over.
const INTERMEDIATE_PART: u32 = 6;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Trust domain of the cluster.
    pub trust_domain: TrustDomain,
    /// Directory of this node's state.
    pub data_dir: PathBuf,
    /// Least severe messages logged at start.
    pub log_level: LogLevel,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Where the log is written; standard error without one.
    pub log_file: Option<PathBuf>,
    /// Whether messages say where in the source they stand.
    pub log_source_location: bool,
    /// Administrators by configuration.
    pub admin_ids: Vec<SpiffeId>,
    /// Agent port and admin socket.
    pub api: Api,
    /// Peer port.
    pub peer: Peer,
    /// Which calls are limited by rate.
    pub ratelimit: RateLimit,
    /// Static formation.
    pub cluster: Cluster,
    /// Consensus timers and log.
    pub raft: Raft,
    /// `[storage]`.
    pub storage: Storage,
    /// Lifetimes and limits of documents.
    pub issuance: Issuance,
    /// What becomes of agents that stay away.
    pub agents: Agents,
    /// Custody of the authorities' keys.
    pub keys: Keys,
    /// How nodes attest beside join tokens.
    pub node_attestors: NodeAttestors,
    /// Where `/metrics` is served.
    pub metrics: Option<SocketAddr>,
    /// Whether metrics are told under SPIRE's names too.
    pub spire_metric_names: bool,
    /// Where health is served.
    pub health: Option<SocketAddr>,
    /// Under which paths.
    pub health_paths: HealthPaths,
}

/// Paths of the pages about health; different, and neither that of the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPaths {
    /// Whether the process should go on.
    pub live: String,
    /// Whether the server can issue.
    pub ready: String,
}

/// Agent port and admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Bound address.
    pub address: SocketAddr,
    /// Address told to others.
    pub advertise: HostPort,
    /// Path of the admin socket.
    pub admin_socket: PathBuf,
    /// Connections at once.
    pub max_connections: u32,
    /// Connections at once from one IPv4 address or /64 of IPv6.
    pub max_connections_per_source: u32,
    /// How many of these may be without a client certificate.
    pub max_anonymous_connections_per_source: u32,
    /// Handshakes at once.
    pub max_handshakes: u32,
    /// Calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// Longest handshake.
    pub handshake_timeout: Duration,
    /// Age at which a connection is asked to go.
    pub max_connection_age: Duration,
    /// Time its calls then have.
    pub connection_drain: Duration,
    /// Where proxies are whose PROXY protocol header is believed.
    pub proxy_protocol_trusted_cidrs: Vec<Cidr>,
}

/// Which calls are limited by rate, per node and source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// AttestAgent.
    pub attestation: bool,
    /// What signs for agents, workloads and downstream servers.
    pub signing: bool,
}

/// Peer port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Bound address.
    pub address: SocketAddr,
    /// Address told to the other nodes.
    pub advertise: HostPort,
}

/// Static formation of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Every founding node, in the order of the file; empty without a static
    /// list. Holds this node's [`Peer::advertise`] otherwise.
    pub peers: Vec<HostPort>,
    /// Shared secret; there whenever `peers` names more than one node.
    pub secret_file: Option<PathBuf>,
    /// Token by which a node without a cluster joins one.
    pub join_token_file: Option<PathBuf>,
    /// Becomes a voter by itself.
    pub auto_promote: bool,
}

/// Room on the disk of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Free bytes below which writes are refused.
    pub min_free: u64,
    /// Bytes of the reserve file; 0 is none.
    pub reserve: u64,
}

/// Consensus timers and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raft {
    /// Which timers.
    pub profile: RaftProfile,
    /// Log entries between snapshots.
    pub snapshot_after_entries: u32,
    /// Log entries kept behind a snapshot.
    pub entries_kept_after_snapshot: u32,
}

impl Raft {
    /// Time between the leader's heartbeats.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(70) * self.profile.scale()
    }

    /// Shortest and longest wait before an election.
    pub fn election(&self) -> (Duration, Duration) {
        let scale = self.profile.scale();
        (
            Duration::from_millis(200) * scale,
            Duration::from_millis(400) * scale,
        )
    }
}

/// Lifetimes and limits of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuance {
    /// Which key signs X.509-SVIDs in a cluster that this node founds, where the file says so.
    pub mode: Option<IssuanceMode>,
    /// Whose the keys of authorities are in a cluster that this node founds, where the file says
    /// so.
    pub authority_scope: Option<AuthorityScope>,
    /// Lifetime of a node's intermediate, at most a sixth of `ca_ttl`.
    pub intermediate_ttl: Duration,
    /// Lifetime of agents' SVIDs.
    pub agent_ttl: Duration,
    /// Lifetime of workloads' X.509-SVIDs without one of their own.
    pub default_x509_svid_ttl: Duration,
    /// Lifetime of JWT-SVIDs without one of their own.
    pub default_jwt_svid_ttl: Duration,
    /// Lifetime of the server's SVID.
    pub server_svid_ttl: Duration,
    /// Lifetime of a new authority.
    pub ca_ttl: Duration,
    /// Age of the state at which issuing stops; zero is strict. Never more
    /// than `agent_ttl`.
    pub stale_issuance_limit: Duration,
    /// Key type of a new authority.
    pub ca_key_type: CaKeyType,
    /// `iss` claim of JWT-SVIDs.
    pub jwt_issuer: Option<String>,
    /// There are no JWT-SVIDs.
    pub disable_jwt_svids: bool,
    /// Subject of a new authority.
    pub ca_subject: CaSubject,
}

/// What becomes of agents that stay away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agents {
    /// Time since the end of its SVID after which an agent is evicted; never without.
    pub prune_expired_for: Option<Duration>,
    /// Agents that are evicted at a time.
    pub prune_batch_size: u32,
    /// Whether also those are that cannot attest again by themselves.
    pub prune_tofu: bool,
}

/// Subject of a new authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSubject {
    /// Country attributes, in order.
    pub country: Vec<String>,
    /// Organization attributes, in order.
    pub organization: Vec<String>,
    /// Common name.
    pub common_name: Option<String>,
}

/// Custody of the authorities' keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// In this process, lost when it ends.
    Memory,
    /// In files of this machine.
    Disk(DiskKeys),
    /// In a token, which they never leave.
    Pkcs11(Pkcs11),
}

/// Where the files of the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskKeys {
    /// Their directory; never inside `data_dir`, nor around it.
    pub directory: PathBuf,
    /// File with the passphrase that seals them.
    pub passphrase_file: Option<PathBuf>,
}

/// Where the PIN of a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// In a file.
    File(PathBuf),
    /// In the systemd credential of this name.
    Credential(String),
}

/// A PKCS#11 token and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11 {
    /// The library.
    pub module: PathBuf,
    /// Which token.
    pub token: TokenName,
    /// Where the user PIN is.
    pub pin: PinSource,
    /// Sessions that sign at once.
    pub sessions: u32,
    /// Longest wait for a signature.
    pub deadline: Duration,
    /// Signatures that may wait.
    pub queue: u32,
}

/// How a token is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenName {
    /// By its label alone.
    Label(String),
    /// By its serial number alone.
    Serial(String),
    /// By both.
    Both {
        /// Label.
        label: String,
        /// Serial number.
        serial: String,
    },
}

impl TokenName {
    /// Label to match, if any.
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Label(label) | Self::Both { label, .. } => Some(label),
            Self::Serial(_) => None,
        }
    }

    /// Serial number to match, if any.
    pub fn serial(&self) -> Option<&str> {
        match self {
            Self::Serial(serial) | Self::Both { serial, .. } => Some(serial),
            Self::Label(_) => None,
        }
    }
}

/// Least severe messages logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// SPIRE's; nothing here is that severe, so nothing is logged.
    Panic,
    /// SPIRE's, as `Panic`.
    Fatal,
    /// Failures that need somebody.
    Error,
    /// What may become one.
    Warn,
    /// What happens.
    Info,
    /// Why it happens.
    Debug,
    /// Each step.
    Trace,
}

impl LogLevel {
    /// The word of SPIRE's logs: the file's, but `warning` for `warn`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One object a line.
    Json,
}

/// Which consensus timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RaftProfile {
    /// Round trips of a few milliseconds at most.
    Lan,
    /// Round trips of up to about a hundred milliseconds.
    Wan,
}

impl RaftProfile {
    fn scale(self) -> u32 {
        match self {
            Self::Lan => 1,
            Self::Wan => 10,
        }
    }
}

/// Key type of a new authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum CaKeyType {
    /// ECDSA over P-256.
    #[serde(rename = "ec-p256")]
    EcP256,
    /// ECDSA over P-384.
    #[serde(rename = "ec-p384")]
    EcP384,
    /// RSA of 2048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA of 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

/// A host and a port to connect to, as written: never normalised, compared as
/// text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort(String);

impl HostPort {
    /// `host:port`, an IPv6 address in brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostPort {
    /// Worded to follow the name of the key.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "must be a host and a port, like \"node-1.example:8082\" or \"[::1]:8082\", not \"{text}\""
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        match port.parse::<u16>() {
            Ok(0) => return Err("needs a port other than 0".to_owned()),
            Ok(_) if port.bytes().all(|b| b.is_ascii_digit()) => {}
            _ => return Err(wrong()),
        }
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let ip = match bracketed {
            Some(inner) => Some(IpAddr::V6(inner.parse().map_err(|_| wrong())?)),
            None => host.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
        };
        match ip {
            Some(ip) if ip.is_unspecified() => Err(format!(
                "must be an address others can connect to, not the wildcard \"{text}\""
            )),
            Some(_) => Ok(Self(text.to_owned())),
            None if is_host_name(host) => Ok(Self(text.to_owned())),
            None => Err(wrong()),
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

/// RFC 1123 §2.1 names, and the underscore that cluster DNS uses.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A name whose last label is a number would be read as an IPv4 address.
    let last = host.strip_suffix('.').unwrap_or(host);
    last.len() <= 253
        && last.split('.').all(label)
        && !last
            .rsplit('.')
            .next()
            .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()))
}

/// Checks what depends on meaning and on other keys. `None` only where a
/// problem was added or a required key is missing (which `schema` reported).
pub(super) fn check(raw: RawConfig, problems: &mut Vec<Problem>) -> Option<Config> {
    let trust_domain = raw.trust_domain.and_then(|name| {
        TrustDomain::parse(&name)
            .map_err(|e| problems.push(Problem::new("trust_domain", e.to_string())))
            .ok()
    });
    let mut admin_ids = Vec::new();
    for id in &raw.admin_ids {
        match SpiffeId::parse(id) {
            Ok(id) => admin_ids.push(id),
            Err(e) => problems.push(Problem::new("admin_ids", format!("\"{id}\": {e}"))),
        }
    }
    let api_advertise = advertised("api", raw.api.address, raw.api.advertise, problems);
    let peer_advertise = advertised("peer", raw.peer.address, raw.peer.advertise, problems);
    check_listeners(
        raw.api.address,
        raw.peer.address,
        raw.metrics.address,
        raw.health.address,
        problems,
    );
    check_socket(&raw.api.admin_socket, problems);
    let cluster = Cluster {
        peers: raw.cluster.peers,
        secret_file: raw.cluster.secret_file,
        join_token_file: raw.cluster.join_token_file,
        auto_promote: raw.cluster.auto_promote,
    };
    check_cluster(&cluster, peer_advertise.as_ref(), problems);
    let keys = check_keys(raw.keys, raw.data_dir.as_deref(), problems);
    let issuance = check_issuance(raw.issuance, keys.as_ref(), problems);
    let health_paths = HealthPaths {
        live: raw.health.live_path,
        ready: raw.health.ready_path,
    };
    check_health_paths(&health_paths, problems);
    let node_attestors = node_attestors::check(raw.node_attestors, problems);
    Some(Config {
        trust_domain: trust_domain?,
        data_dir: raw.data_dir?,
        log_level: raw.log_level,
        log_format: raw.log_format,
        log_file: raw.log_file,
        log_source_location: raw.log_source_location,
        admin_ids,
        api: Api {
            address: raw.api.address,
            advertise: api_advertise?,
            admin_socket: raw.api.admin_socket,
            max_connections: raw.api.max_connections,
            // No source can hold more than there are.
            max_connections_per_source: raw
                .api
                .max_connections_per_source
                .min(raw.api.max_connections),
            max_anonymous_connections_per_source: raw
                .api
                .max_anonymous_connections_per_source
                .min(raw.api.max_connections_per_source)
                .min(raw.api.max_connections),
            max_handshakes: raw.api.max_handshakes,
            max_streams_per_connection: raw.api.max_streams_per_connection,
            handshake_timeout: raw.api.handshake_timeout.0,
            max_connection_age: raw.api.max_connection_age.0,
            connection_drain: raw.api.connection_drain.0,
            proxy_protocol_trusted_cidrs: raw.api.proxy_protocol_trusted_cidrs,
        },
        ratelimit: RateLimit {
            attestation: raw.ratelimit.attestation,
            signing: raw.ratelimit.signing,
        },
        peer: Peer {
            address: raw.peer.address,
            advertise: peer_advertise?,
        },
        cluster,
        raft: Raft {
            profile: raw.raft.profile,
            snapshot_after_entries: raw.raft.snapshot_after_entries,
            entries_kept_after_snapshot: raw.raft.entries_kept_after_snapshot,
        },
        storage: Storage {
            min_free: u64::from(raw.storage.min_free_mib) << 20,
            reserve: u64::from(raw.storage.reserve_mib) << 20,
        },
        issuance,
        agents: Agents {
            prune_expired_for: raw.agents.prune_expired_for.map(|time| time.0),
            prune_batch_size: raw.agents.prune_batch_size,
            prune_tofu: raw.agents.prune_tofu,
        },
        keys: keys?,
        node_attestors,
        metrics: raw.metrics.address,
        spire_metric_names: raw.metrics.spire_names,
        health: raw.health.address,
        health_paths,
    })
}

fn advertised(
    section: &str,
    bind: SocketAddr,
    advertise: Option<HostPort>,
    problems: &mut Vec<Problem>,
) -> Option<HostPort> {
    if advertise.is_none() && bind.ip().is_unspecified() {
        problems.push(Problem::new(
            format!("{section}.advertise"),
            format!("is required, because {section}.address ({bind}) is a wildcard that nobody can connect to"),
        ));
        return None;
    }
    Some(advertise.unwrap_or_else(|| bind.into()))
}

fn check_listeners(
    api: SocketAddr,
    peer: SocketAddr,
    metrics: Option<SocketAddr>,
    health: Option<SocketAddr>,
    problems: &mut Vec<Problem>,
) {
    if peer == api {
        problems.push(Problem::new("peer.address", "is the same as api.address"));
    }
    for (path, address) in [("metrics.address", metrics), ("health.address", health)] {
        for (other, taken) in [("api.address", api), ("peer.address", peer)] {
            if address == Some(taken) {
                problems.push(Problem::new(path, format!("is the same as {other}")));
            }
        }
    }
}

fn check_health_paths(paths: &HealthPaths, problems: &mut Vec<Problem>) {
    for (key, path) in [
        ("health.live_path", &paths.live),
        ("health.ready_path", &paths.ready),
    ] {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
        if !path.starts_with('/') || !path.bytes().all(plain) {
            problems.push(Problem::new(
                key,
                "must begin with / and hold letters, digits and / - . _ ~ only",
            ));
        } else if path == "/metrics" {
            problems.push(Problem::new(key, "is the path of the metrics"));
        }
    }
    if paths.live == paths.ready {
        problems.push(Problem::new(
            "health.ready_path",
            "is the same as health.live_path",
        ));
    }
}

fn check_socket(path: &Path, problems: &mut Vec<Problem>) {
    let bytes = |p: &Path| p.as_os_str().len();
    let directory = path.parent().map_or(0, bytes);
    if bytes(path).max(directory + SOCKET_TEMPORARY_BYTES) > SOCKET_PATH_BYTES_MAX {
        problems.push(Problem::new(
            "api.admin_socket",
            format!("is too long for a unix socket: its directory may have at most {} bytes and the whole path {SOCKET_PATH_BYTES_MAX}",
                SOCKET_PATH_BYTES_MAX - SOCKET_TEMPORARY_BYTES),
        ));
    }
    if path.file_name().is_none() || !path.is_absolute() {
        problems.push(Problem::new(
            "api.admin_socket",
            "must be an absolute path of a file",
        ));
    }
}

fn check_cluster(cluster: &Cluster, own: Option<&HostPort>, problems: &mut Vec<Problem>) {
    let peers = &cluster.peers;
    let mut report = |message: String| problems.push(Problem::new("cluster.peers", message));
    for (at, peer) in peers.iter().enumerate() {
        if peers[..at].contains(peer) {
            report(format!("names {peer} twice"));
        }
    }
    if !peers.is_empty() {
        if let Some(own) = own.filter(|own| !peers.contains(own)) {
            report(format!(
                "does not name this node, whose peer.advertise is {own}"
            ));
        }
        if peers.len().is_multiple_of(2) {
            report(format!(
                "names {} nodes; an even number survives no more failures than one node less",
                peers.len()
            ));
        }
    }
    if peers.len() > 1 && cluster.secret_file.is_none() {
        problems.push(Problem::new(
            "cluster.secret_file",
            "is required, because cluster.peers names more than one node",
        ));
    }
}

fn check_keys(raw: RawKeys, data_dir: Option<&Path>, problems: &mut Vec<Problem>) -> Option<Keys> {
    let (disk, token) = (raw.disk, raw.pkcs11);
    // Whoever names a place for keys believes that it is used.
    let named = [
        ("disk", "directory", disk.directory.is_some()),
        ("disk", "passphrase_file", disk.passphrase_file.is_some()),
        ("pkcs11", "module", token.module.is_some()),
        ("pkcs11", "token_label", token.token_label.is_some()),
        ("pkcs11", "token_serial", token.token_serial.is_some()),
        ("pkcs11", "pin_file", token.pin_file.is_some()),
        ("pkcs11", "pin_credential", token.pin_credential.is_some()),
    ];
    let backend = match raw.backend {
        RawBackend::Memory => "memory",
        RawBackend::Disk => "disk",
        RawBackend::Pkcs11 => "pkcs11",
    };
    for (section, key, _) in named
        .iter()
        .filter(|(section, _, set)| *set && *section != backend)
    {
        problems.push(Problem::new(
            format!("keys.{section}.{key}"),
            format!(
                "has no effect while keys.backend is \"{backend}\": remove it or set keys.backend = \"{section}\""
            ),
        ));
    }
    match raw.backend {
        RawBackend::Memory => Some(Keys::Memory),
        RawBackend::Disk => {
            const DIRECTORY: &str = "keys.disk.directory";
            // A value that was there but wrong is already reported.
            if disk.directory.is_none() && !problems.iter().any(|p| p.path == DIRECTORY) {
                let why = "is required, because keys.backend is \"disk\"";
                problems.push(Problem::new(DIRECTORY, why));
            }
            let directory = disk.directory?;
            if data_dir
                .is_some_and(|data| directory.starts_with(data) || data.starts_with(&directory))
            {
                problems.push(Problem::new(
                    DIRECTORY,
                    "must be apart from data_dir: that is copied, set aside and removed, and keys must not be",
                ));
            }
            Some(Keys::Disk(DiskKeys {
                directory,
                passphrase_file: disk.passphrase_file,
            }))
        }
        RawBackend::Pkcs11 => {
            let name = match (token.token_label, token.token_serial) {
                (Some(label), Some(serial)) => Some(TokenName::Both { label, serial }),
                (Some(label), None) => Some(TokenName::Label(label)),
                (None, Some(serial)) => Some(TokenName::Serial(serial)),
                (None, None) => None,
            };
            let pin = pin_source(token.pin_file, token.pin_credential, problems);
            for (key, missing) in [
                ("module", token.module.is_none()),
                ("token_label", name.is_none()),
                ("pin_file", pin.is_none()),
            ] {
                // A value that was there but wrong is already reported.
                let path = format!("keys.pkcs11.{key}");
                let told = |p: &Problem| {
                    p.path == path || key == "pin_file" && p.path == "keys.pkcs11.pin_credential"
                };
                if missing && !problems.iter().any(told) {
                    let or = match key {
                        "token_label" => " (or token_serial)",
                        "pin_file" => " (or pin_credential)",
                        _ => "",
                    };
                    problems.push(Problem::new(
                        path,
                        format!("is required{or}, because keys.backend is \"pkcs11\""),
                    ));
                }
            }
            Some(Keys::Pkcs11(Pkcs11 {
                module: token.module?,
                token: name?,
                pin: pin?,
                sessions: token.sessions,
                deadline: token.deadline.0,
                queue: token.queue,
            }))
        }
    }
}

fn pin_source(
    file: Option<PathBuf>,
    credential: Option<String>,
    problems: &mut Vec<Problem>,
) -> Option<PinSource> {
    const CREDENTIAL: &str = "keys.pkcs11.pin_credential";
    match (file, credential) {
        (Some(_), Some(_)) => {
            let why = "and keys.pkcs11.pin_file exclude each other: name one place of the PIN";
            problems.push(Problem::new(CREDENTIAL, why));
            None
        }
        (Some(file), None) => Some(PinSource::File(file)),
        (None, Some(name)) if matches!(&*name, "" | "." | "..") || name.contains(['/', '\0']) => {
            let why = "is the name of a credential, as in LoadCredential=, and no path";
            problems.push(Problem::new(CREDENTIAL, why));
            None
        }
        (None, Some(name)) => Some(PinSource::Credential(name)),
        (None, None) => None,
    }
}

fn check_issuance(raw: RawIssuance, keys: Option<&Keys>, problems: &mut Vec<Problem>) -> Issuance {
    let agent_ttl = raw.agent_ttl.0;
    let stale_issuance_limit = match raw.stale_issuance_limit {
        Some(limit) => limit.0,
        None => STALE_ISSUANCE_LIMIT_DEFAULT.min(agent_ttl),
    };
    if stale_issuance_limit > agent_ttl {
        problems.push(Problem::new(
            "issuance.stale_issuance_limit",
            format!(
                "is {}, more than issuance.agent_ttl ({}): a banned agent could be renewed without end by a node that is cut off",
                format_duration(stale_issuance_limit),
                format_duration(agent_ttl)
            ),
        ));
    }
    let ca_ttl = raw.ca_ttl.map_or(
        match keys {
            Some(Keys::Pkcs11(_)) => CA_TTL_TOKEN_DEFAULT,
            Some(Keys::Memory | Keys::Disk(_)) | None => CA_TTL_OWN_DEFAULT,
        },
        |ttl| ttl.0,
    );
    let intermediate_max = ca_ttl / INTERMEDIATE_PART;
    let intermediate_ttl = match raw.intermediate_ttl {
        Some(ttl) => ttl.0,
        None => INTERMEDIATE_TTL_DEFAULT.min(intermediate_max),
    };
    if intermediate_ttl > intermediate_max {
        problems.push(Problem::new(
            "issuance.intermediate_ttl",
            format!(
                "is {}, more than a sixth of issuance.ca_ttl ({}): it would be cut off by its authority's end",
                format_duration(intermediate_ttl),
                format_duration(ca_ttl)
            ),
        ));
    }
    let in_token = matches!(keys, Some(Keys::Pkcs11(_)));
    if matches!(raw.authority_scope, Some(RawScope::Shared)) && keys.is_some() && !in_token {
        problems.push(Problem::new(
            "issuance.authority_scope",
            "is \"shared\", and nodes can share keys in a token alone: use keys.backend = \"pkcs11\", or \"per-node\"",
        ));
    }
    Issuance {
        authority_scope: raw.authority_scope.map(|scope| match scope {
            RawScope::Shared => AuthorityScope::Shared,
            RawScope::PerNode => AuthorityScope::PerNode,
        }),
        mode: raw.mode.map(|mode| match mode {
            RawMode::Direct => IssuanceMode::Direct,
            RawMode::Intermediate => IssuanceMode::Intermediate,
        }),
        intermediate_ttl,
        agent_ttl,
        default_x509_svid_ttl: raw.default_x509_svid_ttl.0,
        default_jwt_svid_ttl: raw.default_jwt_svid_ttl.0,
        server_svid_ttl: raw.server_svid_ttl.0,
        ca_ttl,
        stale_issuance_limit,
        ca_key_type: raw.ca_key_type,
        jwt_issuer: raw.jwt_issuer,
        disable_jwt_svids: raw.disable_jwt_svids,
        ca_subject: subject(raw.ca_subject),
    }
}

fn subject(raw: RawSubject) -> CaSubject {
    // Like SPIRE: a section that is there says all there is.
    if raw.country.is_none() && raw.organization.is_none() && raw.common_name.is_none() {
        return CaSubject {
            country: vec!["US".to_owned()],
            organization: vec!["SPIFFE".to_owned()],
            common_name: None,
        };
    }
    CaSubject {
        country: raw.country.unwrap_or_default(),
        organization: raw.organization.unwrap_or_default(),
        common_name: raw.common_name,
    }
}
