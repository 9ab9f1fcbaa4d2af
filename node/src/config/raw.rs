//! The file as written: one field for each key, nothing checked across keys.
//!
//! Built only from a table that `schema::conform` passed, so a key that
//! `schema` does not know cannot arrive here and a key that is missing here is
//! refused by serde: a test holds the two lists equal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::checked::{CaKeyType, HostPort, LogFormat, LogLevel, RaftProfile};
use super::cidr::Cidr;
use super::duration::parse_duration;

/// A duration in Go's notation.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawDuration(pub(super) Duration);

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) trust_domain: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) log_level: LogLevel,
    pub(super) log_format: LogFormat,
    pub(super) log_file: Option<PathBuf>,
    pub(super) log_source_location: bool,
    pub(super) admin_ids: Vec<String>,
    pub(super) api: RawApi,
    pub(super) peer: RawPeer,
    pub(super) cluster: RawCluster,
    pub(super) ratelimit: RawRateLimit,
    pub(super) raft: RawRaft,
    pub(super) storage: RawStorage,
    pub(super) issuance: RawIssuance,
    pub(super) agents: RawAgents,
    pub(super) keys: RawKeys,
    #[serde(default)]
    pub(super) node_attestors: RawNodeAttestors,
    pub(super) metrics: RawMetrics,
    pub(super) health: RawHealth,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApi {
    pub(super) address: SocketAddr,
    pub(super) advertise: Option<HostPort>,
    pub(super) admin_socket: PathBuf,
    pub(super) max_connections: u32,
    pub(super) max_connections_per_source: u32,
    pub(super) max_anonymous_connections_per_source: u32,
    pub(super) max_handshakes: u32,
    pub(super) max_streams_per_connection: u32,
    pub(super) handshake_timeout: RawDuration,
    pub(super) max_connection_age: RawDuration,
    pub(super) connection_drain: RawDuration,
    pub(super) proxy_protocol_trusted_cidrs: Vec<Cidr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRateLimit {
    pub(super) attestation: bool,
    pub(super) signing: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    pub(super) address: SocketAddr,
    pub(super) advertise: Option<HostPort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) peers: Vec<HostPort>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) join_token_file: Option<PathBuf>,
    pub(super) auto_promote: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRaft {
    pub(super) profile: RaftProfile,
    pub(super) snapshot_after_entries: u32,
    pub(super) entries_kept_after_snapshot: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStorage {
    pub(super) min_free_mib: u32,
    pub(super) reserve_mib: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawMode {
    Direct,
    Intermediate,
}

/// See [`super::checked::Issuance::authority_scope`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawScope {
    Shared,
    PerNode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuance {
    pub(super) mode: Option<RawMode>,
    pub(super) authority_scope: Option<RawScope>,
    pub(super) intermediate_ttl: Option<RawDuration>,
    pub(super) agent_ttl: RawDuration,
    pub(super) default_x509_svid_ttl: RawDuration,
    pub(super) default_jwt_svid_ttl: RawDuration,
    pub(super) server_svid_ttl: RawDuration,
    pub(super) ca_ttl: Option<RawDuration>,
    pub(super) stale_issuance_limit: Option<RawDuration>,
    pub(super) ca_key_type: CaKeyType,
    pub(super) jwt_issuer: Option<String>,
    pub(super) disable_jwt_svids: bool,
    #[serde(default)]
    pub(super) ca_subject: RawSubject,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubject {
    pub(super) country: Option<Vec<String>>,
    pub(super) organization: Option<Vec<String>>,
    pub(super) common_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgents {
    pub(super) prune_expired_for: Option<RawDuration>,
    pub(super) prune_batch_size: u32,
    pub(super) prune_tofu: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawBackend {
    Memory,
    Disk,
    Pkcs11,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeys {
    pub(super) backend: RawBackend,
    #[serde(default)]
    pub(super) disk: RawDisk,
    pub(super) pkcs11: RawPkcs11,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDisk {
    pub(super) directory: Option<PathBuf>,
    pub(super) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPkcs11 {
    pub(super) module: Option<PathBuf>,
    pub(super) token_label: Option<String>,
    pub(super) token_serial: Option<String>,
    pub(super) pin_file: Option<PathBuf>,
    pub(super) pin_credential: Option<String>,
    pub(super) sessions: u32,
    pub(super) deadline: RawDuration,
    pub(super) queue: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    pub(super) address: Option<SocketAddr>,
    pub(super) spire_names: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNodeAttestors {
    pub(super) x509pop: Option<RawX509Pop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawX509PopMode {
    ExternalPki,
    Spiffe,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawX509Pop {
    pub(super) mode: Option<RawX509PopMode>,
    pub(super) ca_bundle_path: Option<PathBuf>,
    pub(super) ca_bundle_paths: Option<Vec<PathBuf>>,
    pub(super) spiffe_prefix: Option<String>,
    pub(super) agent_path_template: Option<String>,
    pub(super) max_intermediates: Option<u32>,
    pub(super) max_rsa_key_size: Option<u32>,
    pub(super) verify_client_ip: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    pub(super) address: Option<SocketAddr>,
    pub(super) live_path: String,
    pub(super) ready_path: String,
}

impl RawConfig {
    /// Takes a table that `schema::conform` has passed.
    pub(super) fn deserialize_conformed(table: toml::Table) -> Result<Self, toml::de::Error> {
        table.try_into()
    }
}
