//! Node attestation methods as configured: checked across keys, templates parsed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use chancery_identity::pki::Certificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Problem;
use super::raw::{RawNodeAttestors, RawX509Pop, RawX509PopMode};
use crate::attest::template::Template;
use crate::attest::x509pop::Settings;

const SECTION: &str = "node_attestors.x509pop";
/// SPIRE's defaults.
const PREFIX_DEFAULT: &str = "/spire-exchange/";
const INTERMEDIATES_DEFAULT: u32 = 4;
const RSA_BITS_DEFAULT: u32 = 8_192;
/// Largest file with roots, in bytes.
const ROOTS_BYTES_MAX: u64 = 4 << 20;

/// The methods that are switched on. Join tokens always are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeAttestors {
    /// By the key of a certificate.
    pub x509pop: Option<X509PopConfig>,
}

/// Attestation by the key of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509PopConfig {
    /// Where the certificates must be rooted.
    pub roots: X509PopRoots,
    /// Everything else.
    pub settings: Settings,
}

/// Where nodes' certificates must be rooted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum X509PopRoots {
    /// In these files, under the key that names them.
    Files {
        /// `ca_bundle_path` or `ca_bundle_paths`.
        key: &'static str,
        /// At least one.
        paths: Vec<PathBuf>,
    },
    /// In the cluster's own trust bundle.
    Spiffe {
        /// How the path of an SVID must begin; ends with a slash.
        prefix: String,
    },
}

/// Why a file with roots cannot be used. Worded to follow its path.
#[derive(Debug, thiserror::Error)]
pub enum RootsFileError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is larger than any set of roots.
    #[error("is larger than {ROOTS_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not PEM.
    #[error("is not PEM: {0}")]
    Pem(rustls_pki_types::pem::Error),
    /// One of its certificates cannot be read.
    #[error("unable to parse certificate {number}: {error}")]
    Certificate {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        error: chancery_identity::pki::PkiError,
    },
    /// It holds none.
    #[error("no certificates found in file")]
    Empty,
}

/// Reads the certificates of a PEM file; blocks of other kinds are skipped.
///
/// # Errors
/// [`RootsFileError`].
pub fn read_roots(path: &Path) -> Result<Vec<Certificate>, RootsFileError> {
    let mut pem = Vec::new();
    File::open(path)?
        .take(ROOTS_BYTES_MAX + 1)
        .read_to_end(&mut pem)?;
    if pem.len() as u64 > ROOTS_BYTES_MAX {
        return Err(RootsFileError::TooLarge);
    }
    let mut roots = Vec::new();
    for der in CertificateDer::pem_slice_iter(&pem) {
        let der = der.map_err(RootsFileError::Pem)?;
        let number = roots.len() + 1;
        let root = Certificate::parse(&der)
            .map_err(|error| RootsFileError::Certificate { number, error })?;
        roots.push(root);
    }
    if roots.is_empty() {
        return Err(RootsFileError::Empty);
    }
    Ok(roots)
}

impl X509PopConfig {
    /// What is wrong with the files, by the key that names them.
    pub(super) fn check_files(&self) -> Vec<Problem> {
        let X509PopRoots::Files { key, paths } = &self.roots else {
            return Vec::new();
        };
        let problem = |path: &PathBuf| {
            let error = read_roots(path).err()?;
            let text = format!("{} {error}", path.display());
            Some(Problem::new(format!("{SECTION}.{key}"), text))
        };
        paths.iter().filter_map(problem).collect()
    }
}

pub(super) fn check(raw: RawNodeAttestors, problems: &mut Vec<Problem>) -> NodeAttestors {
    NodeAttestors {
        x509pop: raw.x509pop.and_then(|raw| check_x509pop(raw, problems)),
    }
}

fn check_x509pop(raw: RawX509Pop, problems: &mut Vec<Problem>) -> Option<X509PopConfig> {
    let mut report = |key: &str, message: String| {
        problems.push(Problem::new(format!("{SECTION}.{key}"), message));
    };
    let template = raw.agent_path_template.and_then(|source| {
        let template = Template::parse(&source);
        template
            .map_err(|e| report("agent_path_template", e.to_string()))
            .ok()
    });
    let mode = raw.mode.unwrap_or(RawX509PopMode::ExternalPki);
    let roots = match mode {
        RawX509PopMode::ExternalPki => {
            if raw.spiffe_prefix.is_some() {
                report(
                    "spiffe_prefix",
                    "has no effect unless mode is \"spiffe\"".into(),
                );
            }
            match (raw.ca_bundle_path, raw.ca_bundle_paths) {
                (Some(_), Some(_)) => {
                    report(
                        "ca_bundle_paths",
                        "only one of ca_bundle_path or ca_bundle_paths can be configured, not both"
                            .into(),
                    );
                    None
                }
                (Some(path), None) => Some(X509PopRoots::Files {
                    key: "ca_bundle_path",
                    paths: vec![path],
                }),
                (None, Some(paths)) if !paths.is_empty() => Some(X509PopRoots::Files {
                    key: "ca_bundle_paths",
                    paths,
                }),
                (None, _) => {
                    report(
                        "ca_bundle_path",
                        "one of ca_bundle_path or ca_bundle_paths must be configured".into(),
                    );
                    None
                }
            }
        }
        RawX509PopMode::Spiffe => {
            for (key, set) in [
                ("ca_bundle_path", raw.ca_bundle_path.is_some()),
                ("ca_bundle_paths", raw.ca_bundle_paths.is_some()),
            ] {
                if set {
                    report(
                        key,
                        "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode".into(),
                    );
                }
            }
            let mut prefix = raw.spiffe_prefix.unwrap_or_else(|| PREFIX_DEFAULT.into());
            if !prefix.ends_with('/') {
                prefix.push('/');
            }
            Some(X509PopRoots::Spiffe { prefix })
        }
    };
    let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    Some(X509PopConfig {
        roots: roots?,
        settings: Settings {
            agent_path_template: template,
            max_intermediates: number(raw.max_intermediates.unwrap_or(INTERMEDIATES_DEFAULT)),
            max_rsa_key_size: number(raw.max_rsa_key_size.unwrap_or(RSA_BITS_DEFAULT)),
            verify_client_ip: raw.verify_client_ip.unwrap_or(false),
        },
    })
}
