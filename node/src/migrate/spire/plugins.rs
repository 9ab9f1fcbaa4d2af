//! `plugins`: what SPIRE loads, and what stands in its place here.

use std::path::Path;

use toml::Value;

use super::Work;
use super::section::{Found, Section};

/// Types of plugins, and what to say of one that is not carried over.
#[rustfmt::skip]
const TYPES: &[(&str, &str)] = &[
    ("NodeAttestor", "not carried over: this way of attesting nodes is not there yet; its agents need join tokens or x509pop"),
    ("UpstreamAuthority", "not carried over: upstream authorities come later; until then the cluster's own authority is the root"),
    ("CredentialComposer", "not carried over: documents cannot be changed by plugins"),
    ("Notifier", "not carried over: there are no notifiers; fetch the bundle with chancery bundle show"),
    ("BundlePublisher", "not carried over: bundles are not published yet; fetch the bundle with chancery bundle show"),
];

pub(super) fn carry(work: &mut Work, section: Option<Section<'_>>) {
    let Some(section) = section else { return };
    for (kind, plugins) in section.into_sections() {
        let plugins = match plugins {
            Ok(plugins) => plugins,
            Err(found) => {
                work.not(&found, "is no section; it was left out");
                continue;
            }
        };
        for (name, plugin) in plugins.into_sections() {
            match plugin {
                Ok(plugin) => one(work, &kind, &name, plugin),
                Err(found) => work.not(&found, "is no section; it was left out"),
            }
        }
    }
}

fn one(work: &mut Work, kind: &str, name: &str, mut plugin: Section<'_>) {
    let (line, path) = (plugin.line, plugin.path.clone());
    let enabled = plugin.take("enabled");
    let enabled = work.of(enabled.as_ref(), Found::boolean).unwrap_or(true);
    let command = plugin.take("plugin_cmd");
    let external = work
        .of(command.as_ref(), Found::text)
        .is_some_and(|command| !command.is_empty());
    plugin.take("plugin_args");
    plugin.take("plugin_checksum");
    let data_file = plugin.take("plugin_data_file");
    let data = plugin.take_section("plugin_data");
    work.unknown(&plugin);
    let known = TYPES.iter().find(|(known, _)| *known == kind);
    let why = match (kind, name) {
        _ if !enabled => "not carried over: it is switched off",
        ("DataStore", _) => {
            "not needed: the cluster replicates its state itself; copy what the database holds with \
             chancery migrate data --from-socket PATH"
        }
        ("KeyManager", "memory") if !external => {
            let memory = Value::String("memory".to_owned());
            if work.draft.set("keys.backend", memory).is_ok() {
                return;
            }
            "not carried over"
        }
        ("KeyManager", "disk") if !external => {
            disk_keys(work, data);
            "keys stay in files: those of this cluster in keys.disk.directory. SPIRE's are not carried over; \
             each node makes its own. A PKCS#11 token, which nodes share, is the better place"
        }
        ("KeyManager", _) => {
            key_places(work);
            "not carried over: keys live in a PKCS#11 token, on disk or in memory; fill in [keys.pkcs11] and set \
             keys.backend = \"pkcs11\", or keys are lost when the server stops"
        }
        ("NodeAttestor", "join_token") if !external => return,
        ("NodeAttestor", "x509pop") if !external => {
            return match (data, data_file) {
                (Some(Ok(data)), _) => x509pop(work, data),
                (_, Some(file)) => work.not(
                    &file,
                    "not carried over: put the contents of that file into plugin_data and translate \
                     again",
                ),
                _ => work.remark(line, &path, "not carried over: it has no plugin_data"),
            };
        }
        _ if external => "not carried over: plugins of one's own cannot be loaded",
        _ => known.map_or(
            "unknown type of plugin; SPIRE's server has none of that name",
            |(_, why)| why,
        ),
    };
    work.remark(line, &path, why);
}

/// A folder of their own beside SPIRE's file.
fn disk_keys(work: &mut Work, data: Option<Result<Section<'_>, Found<'_>>>) {
    let found = data
        .and_then(Result::ok)
        .and_then(|mut d| d.take("keys_path"));
    let path = work.of(found.as_ref(), Found::text);
    let folder = Path::new(path.as_deref().unwrap_or_default()).parent();
    let disk = Value::String("disk".to_owned());
    let directory = folder.map(|folder| folder.join("chancery-keys").display().to_string());
    match (directory, found) {
        (Some(directory), Some(found)) => {
            work.set(&found, "keys.backend", disk);
            work.set(&found, "keys.disk.directory", Value::String(directory));
        }
        _ => {
            work.draft.leave_open("keys.backend", &disk);
            let directory = Value::String("/var/lib/chancery-keys".to_owned());
            work.draft.leave_open("keys.disk.directory", &directory);
        }
    }
}

/// Places for the token.
fn key_places(work: &mut Work) {
    for (path, example) in [
        ("keys.backend", "pkcs11"),
        ("keys.pkcs11.module", "/usr/lib/softhsm/libsofthsm2.so"),
        ("keys.pkcs11.token_label", "chancery"),
        ("keys.pkcs11.pin_file", "/etc/chancery/pin"),
    ] {
        if !work.draft.has(path) {
            let example = Value::String(example.to_owned());
            work.draft.leave_open(path, &example);
        }
    }
}

/// Our keys have SPIRE's names.
fn x509pop(work: &mut Work, mut data: Section<'_>) {
    for (key, path) in [
        ("mode", "node_attestors.x509pop.mode"),
        ("ca_bundle_path", "node_attestors.x509pop.ca_bundle_path"),
        ("spiffe_prefix", "node_attestors.x509pop.spiffe_prefix"),
        (
            "agent_path_template",
            "node_attestors.x509pop.agent_path_template",
        ),
    ] {
        work.text(&mut data, key, path);
    }
    work.texts(
        &mut data,
        "ca_bundle_paths",
        "node_attestors.x509pop.ca_bundle_paths",
    );
    for (key, path) in [
        (
            "max_intermediates",
            "node_attestors.x509pop.max_intermediates",
        ),
        (
            "max_rsa_key_size",
            "node_attestors.x509pop.max_rsa_key_size",
        ),
    ] {
        let found = data.take(key);
        if let (Some(number), Some(found)) = (work.of(found.as_ref(), Found::integer), found) {
            work.set(&found, path, Value::Integer(number));
        }
    }
    let found = data.take("verify_client_ip");
    if let (Some(value), Some(found)) = (work.of(found.as_ref(), Found::boolean), found) {
        let path = "node_attestors.x509pop.verify_client_ip";
        work.set(&found, path, Value::Boolean(value));
    }
    work.unknown(&data);
}
