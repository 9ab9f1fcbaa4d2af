//! What the configuration means to the rooms that are made from it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chancery_hsm::{DiskConfig, KeyType, Pkcs11Config, TokenSelector};
use zeroize::Zeroizing;

use crate::authority::Lifetimes;
use crate::cluster::formation::Plan;
use crate::config::{CaKeyType, CaSubject, Config, DiskKeys, Pkcs11, Problem, TokenName};
use crate::housekeeping::{AgentPruning, Pace};
use crate::issue::Subject;

/// The shortest shared secret that is taken.
const SECRET_BYTES_MIN: usize = 16;

/// The token of a configuration, as the custody room names it.
///
/// # Errors
/// The PIN is a credential, and this process has none.
pub fn pkcs11_config(pkcs11: &Pkcs11, data_dir: &Path) -> Result<Pkcs11Config, Problem> {
    let token = match &pkcs11.token {
        TokenName::Label(label) => TokenSelector::Label(label.clone()),
        TokenName::Serial(serial) => TokenSelector::Serial(serial.clone()),
        TokenName::Both { label, serial } => TokenSelector::LabelAndSerial {
            label: label.clone(),
            serial: serial.clone(),
        },
    };
    let mut config = Pkcs11Config::new(&pkcs11.module, token, pkcs11.pin_file()?);
    config.record_dir = Some(data_dir.to_owned());
    config.sessions = pkcs11.sessions;
    config.queue_max = pkcs11.queue;
    config.deadline = pkcs11.deadline;
    Ok(config)
}

/// The directory of keys of a configuration, likewise.
pub(super) fn disk_config(disk: &DiskKeys) -> DiskConfig {
    DiskConfig {
        directory: disk.directory.clone(),
        passphrase_file: disk.passphrase_file.clone(),
    }
}

/// Subject of new authorities.
pub(super) fn ca_subject(subject: &CaSubject) -> Subject {
    Subject {
        country: subject.country.clone(),
        organization: subject.organization.clone(),
        common_name: subject.common_name.clone(),
        ..Subject::default()
    }
}

pub(crate) fn key_type(of: CaKeyType) -> KeyType {
    match of {
        CaKeyType::EcP256 => KeyType::EcP256,
        CaKeyType::EcP384 => KeyType::EcP384,
        CaKeyType::Rsa2048 => KeyType::Rsa2048,
        CaKeyType::Rsa4096 => KeyType::Rsa4096,
    }
}

pub(super) fn formation_plan(config: &Config) -> anyhow::Result<Plan> {
    let secret = match &config.cluster.secret_file {
        Some(path) => crate::config::read_secret_file(path, SECRET_BYTES_MIN)?,
        None => Zeroizing::new(Vec::new()),
    };
    let own = config.peer.advertise.to_string();
    let mut peers: Vec<String> = config
        .cluster
        .peers
        .iter()
        .map(ToString::to_string)
        .collect();
    if peers.is_empty() {
        // Founded by `chancery cluster init`, or joined by a token.
        peers.push(own.clone());
    }
    Ok(Plan {
        trust_domain: config.trust_domain.as_str().to_owned(),
        peers,
        own,
        api_address: config.api.advertise.to_string(),
        secret: Arc::new(secret),
        stay_learner: !config.cluster.auto_promote,
    })
}

pub(super) fn lifetimes(config: &Config) -> Lifetimes {
    Lifetimes {
        agent: seconds(config.issuance.agent_ttl),
        x509: seconds(config.issuance.default_x509_svid_ttl),
        jwt: seconds(config.issuance.default_jwt_svid_ttl),
        server: seconds(config.issuance.server_svid_ttl),
        ca: seconds(config.issuance.ca_ttl),
        jwt_issuer: config.issuance.jwt_issuer.clone(),
        jwt_enabled: !config.issuance.disable_jwt_svids,
    }
}

pub(super) fn agent_pruning(config: &Config) -> Option<AgentPruning> {
    let agents = &config.agents;
    Some(AgentPruning {
        expired_for: agents.prune_expired_for?,
        batch_size: agents.prune_batch_size,
        include_non_reattestable: agents.prune_tofu,
    })
}

#[cfg(not(feature = "faults"))]
pub(super) fn pace() -> Pace {
    Pace::default()
}

/// Tests ask for a quick one by an environment variable.
#[cfg(feature = "faults")]
pub(super) fn pace() -> Pace {
    let ms = std::env::var("CHANCERY_FAULT_PRUNE_EVERY_MS").ok();
    match ms.and_then(|v| v.parse().ok()).map(Duration::from_millis) {
        Some(every) => Pace {
            entries: every,
            agents: every,
            bundle: every,
        },
        None => Pace::default(),
    }
}

pub(super) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
