use std::collections::BTreeSet;

use super::*;

const SMALL: &str = include_str!("samples/small.conf");
const PRODUCTION: &str = include_str!("samples/production.conf");
const JSON: &str = include_str!("samples/small.json");

fn translated(text: &str) -> Translation {
    let translation = translate(text, "server.conf").unwrap();
    // Whatever it holds, it is TOML, and nothing but keys left open is wrong with it.
    translation.toml.parse::<toml::Table>().unwrap();
    translation
}

/// `line path: text` of the remark on `path`.
fn remark(translation: &Translation, path: &str) -> String {
    let found: Vec<_> = translation
        .remarks
        .iter()
        .filter(|remark| remark.path == path)
        .collect();
    match found.as_slice() {
        [one] => format!("{} {one}", one.line.unwrap_or(0)),
        _ => panic!("{path}: {found:?} of {:#?}", translation.remarks),
    }
}

fn table(translation: &Translation) -> toml::Table {
    translation.toml.parse().unwrap()
}

fn value<'t>(table: &'t toml::Table, path: &str) -> Option<&'t toml::Value> {
    let mut parts = path.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table()?.get(part))
}

#[test]
fn a_small_server_passes_validation_as_it_is() {
    let small = translated(SMALL);
    assert_eq!(small.left_open, [], "{}", small.toml);
    let config = Config::parse(&small.toml, "test").unwrap();
    assert_eq!(config.trust_domain.to_string(), "lab.example");
    assert_eq!(config.api.address.to_string(), "127.0.0.1:8081");
    assert_eq!(config.data_dir.to_str(), Some("/opt/spire/data/chancery"));
    let paths: Vec<_> = small.remarks.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(
        paths,
        ["server.data_dir", "plugins.DataStore.sql", "cluster.peers"]
    );
    assert!(
        small
            .toml
            .contains("\n# peers = [\"node-1.example.org:8082\"")
    );
    assert!(small.toml.contains("log_level = \"debug\"\n"));
    assert_eq!(
        config.log_file.as_deref(),
        Some(std::path::Path::new("/var/log/spire.log"))
    );
    assert!(config.log_source_location);
}

#[test]
fn what_has_a_key_of_its_own_here_is_carried_over_without_a_word() {
    let translation = translated(
        "server { log_level = \"FATAL\" disable_jwt_svids = true log_source_location = false }\n\
         health_checks { live_path = \"/alive\" }",
    );
    let carried = table(&translation);
    for (path, expected) in [
        ("log_level", "fatal".into()),
        ("log_source_location", false.into()),
        ("issuance.disable_jwt_svids", true.into()),
        ("health.live_path", toml::Value::from("/alive")),
    ] {
        assert_eq!(value(&carried, path), Some(&expected), "{path}");
    }
    let named = |section: &str| {
        let mut paths = translation.remarks.iter().map(|remark| &remark.path);
        paths.any(|path| path.starts_with(section))
    };
    assert!(!named("server") && !named("health_checks"));
}

#[test]
fn a_file_of_spire_s_is_told_from_ours() {
    for text in [SMALL, PRODUCTION, JSON] {
        assert!(is_spire(text));
        let said = Config::parse(text, "test").unwrap_err().to_string();
        assert!(said.contains("`chancery migrate config"), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
    for text in ["", "trust_domain = \"a\"\n[api\n", "agent {}", "server = 1"] {
        assert!(!is_spire(text), "{text}");
    }
    let said = Config::parse("[api\n", "test").unwrap_err().to_string();
    assert!(said.contains("line 1"), "{said}");
}

#[test]
fn json_says_the_same() {
    let json = translated(JSON);
    let small = translated(SMALL);
    let (mut json_table, small_table) = (table(&json), table(&small));
    // The sample leaves out the socket, whose default is SPIRE's.
    let api = json_table["api"].as_table_mut().unwrap();
    api.insert(
        "admin_socket".into(),
        "/tmp/spire-server/private/api.sock".into(),
    );
    assert_eq!(json_table, small_table);
    assert!(remark(&json, "plugins.NodeAttestor.x509pop.plugin_data_file").contains("plugin_data"));
}

#[test]
fn everything_of_a_large_file_is_carried_or_named_with_its_line() {
    let large = translated(PRODUCTION);
    let carried = table(&large);
    for (path, expected) in [
        ("trust_domain", "prod.example"),
        ("data_dir", "/var/lib/spire/chancery"),
        ("log_level", "warn"),
        ("log_format", "json"),
        ("log_file", "/var/log/spire/server.log"),
        ("api.address", "0.0.0.0:9081"),
        ("api.admin_socket", "/run/spire/api.sock"),
        ("issuance.agent_ttl", "6h"),
        ("issuance.ca_ttl", "168h"),
        ("issuance.default_jwt_svid_ttl", "10m"),
        ("issuance.jwt_issuer", "https://oidc.prod.example"),
        ("metrics.address", "0.0.0.0:9988"),
        ("health.address", "127.0.0.1:8080"),
        ("health.live_path", "/healthz"),
        ("keys.backend", "disk"),
        ("keys.disk.directory", "/var/lib/spire/chancery-keys"),
    ] {
        let found = value(&carried, path).and_then(toml::Value::as_str);
        assert_eq!(found, Some(expected), "{path}");
    }
    let organizations = value(&carried, "issuance.ca_subject.organization").unwrap();
    assert_eq!(organizations[0].as_str(), Some("Example \"Prod\""));
    assert_eq!(
        value(&carried, "admin_ids")
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for (path, told) in [
        ("server.data_dir", "7 server.data_dir: carried over as"),
        (
            "server.audit_log_enabled",
            "14 server.audit_log_enabled: not needed",
        ),
        (
            "server.ca_subject.street",
            "23 server.ca_subject.street: unknown key",
        ),
        (
            "server.default_x509_svid_ttl",
            "25 server.default_x509_svid_ttl: not carried over: issuance.default_x509_svid_ttl must \
             be at least 5s; it stands in the result as a comment",
        ),
        ("server.agent_tll", "29 server.agent_tll: unknown key"),
        (
            "server.experimental.teleport",
            "34 server.experimental.teleport: unknown key",
        ),
        (
            "server.experimental.events_based_cache",
            "32 server.experimental.events_based_cache: not n",
        ),
        (
            "server.federation.bundle_endpoint",
            "37 server.federation.bundle_endpoint: not carried",
        ),
        (
            "server.federation.federates_with.partner.example",
            "38 server.federation.federates_with.partner.example: not carried over: relationships are \
             kept in the cluster and not in its files; create it with: chancery federation create \
             -trustDomain partner.example -bundleEndpointURL https://partner.example/bundle.json \
             -bundleEndpointProfile https_web",
        ),
        (
            "server.federation.federates_with.broken.example",
            "48 server.federation.federates_with.broken.example: not carried over: it lacks its URL",
        ),
        (
            "plugins.DataStore.sql",
            "52 plugins.DataStore.sql: not needed",
        ),
        (
            "plugins.KeyManager.disk",
            "56 plugins.KeyManager.disk: keys stay in files: those of t",
        ),
        (
            "plugins.NodeAttestor.k8s_psat",
            "57 plugins.NodeAttestor.k8s_psat: not carried over: this",
        ),
        (
            "plugins.NodeAttestor.own",
            "58 plugins.NodeAttestor.own: not carried over: plugins of one",
        ),
        (
            "plugins.NodeAttestor.sshpop",
            "59 plugins.NodeAttestor.sshpop: not carried over: it is sw",
        ),
        (
            "plugins.UpstreamAuthority.disk",
            "60 plugins.UpstreamAuthority.disk: not carried over: up",
        ),
        (
            "plugins.Notifier.k8sbundle",
            "61 plugins.Notifier.k8sbundle: not carried over",
        ),
        (
            "plugins.Gizmo.x",
            "62 plugins.Gizmo.x: unknown type of plugin",
        ),
        (
            "telemetry.Prometheus.tls",
            "65 telemetry.Prometheus.tls: not carried over",
        ),
        ("telemetry.Statsd", "66 telemetry.Statsd: not carried over"),
        ("extra", "76 extra: unknown key"),
    ] {
        let found = remark(&large, path);
        assert!(found.starts_with(told), "{found}");
    }
    assert!(remark(&large, "server.federation.federates_with.other.example").ends_with(
        r"-bundleEndpointURL 'https://other.example:8443/it'\''s?here' -bundleEndpointProfile https_spiffe -endpointSpiffeID spiffe://other.example/spire/server"
    ));
    // In order, and each in the file as well.
    let lines: Vec<_> = large.remarks.iter().filter_map(|r| r.line).collect();
    assert!(lines.is_sorted());
    for remark in &large.remarks {
        assert!(large.toml.contains(&remark.text), "{remark}");
    }
    let open: Vec<_> = large.left_open.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(open, ["api.advertise"], "{:?}", large.left_open);
}

#[test]
fn every_key_of_spire_s_server_is_known() {
    // From SPIRE's own list of keys. A key that is carried over has no remark, one without a
    // counterpart has one that does not call it unknown.
    let server = [
        "admin_ids",
        "agent_ttl",
        "audit_log_enabled",
        "bind_address",
        "bind_port",
        "ca_key_type",
        "ca_ttl",
        "data_dir",
        "default_x509_svid_ttl",
        "default_jwt_svid_ttl",
        "disable_jwt_svids",
        "jwt_issuer",
        "jwt_key_type",
        "log_file",
        "log_level",
        "log_format",
        "log_source_location",
        "prune_attested_nodes_expired_for",
        "prune_attested_nodes_batch_size",
        "prune_tofu_nodes",
        "proxy_protocol_trusted_cidrs",
        "socket_path",
        "trust_domain",
        "max_attested_node_info_staleness",
        "profiling_enabled",
        "profiling_port",
        "profiling_freq",
        "profiling_names",
    ];
    let experimental = [
        "agent_spiffe_id_as_selector",
        "auth_opa_policy_engine",
        "cache_reload_interval",
        "full_cache_reload_interval",
        "events_based_cache",
        "prune_events_older_than",
        "event_timeout",
        "sql_transaction_timeout",
        "require_pq_kem",
        "wit_key_type",
        "wit_issuer",
        "feature_flags",
        "named_pipe_name",
    ];
    let assign = |keys: &[&str]| {
        keys.iter()
            .map(|key| format!("{key} = \"1\"\n"))
            .collect::<String>()
    };
    let file = format!(
        "SERVER {{ {} ca_subject {{}} ratelimit {{ attestation = 1 signing = 0 }} federation {{}} \
         experimental {{ {} }} }}",
        assign(&server).to_uppercase(),
        assign(&experimental)
    );
    let translation = translated(&file);
    let unknown: BTreeSet<_> = translation
        .remarks
        .iter()
        .filter(|remark| remark.text.contains("unknown"))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn x509pop_is_carried_over_key_by_key() {
    let translation = translated(
        "plugins { NodeAttestor \"x509pop\" { plugin_data {\n\
         mode = \"external_pki\"\n ca_bundle_path = \"/etc/roots.pem\"\n\
         agent_path_template = \"/{{ .PluginName }}/{{ .Fingerprint }}\"\n\
         max_intermediates = 2\n verify_client_ip = true\n odd = 1 } } }",
    );
    let table = table(&translation);
    for (key, written) in [
        ("mode", "external_pki".into()),
        ("ca_bundle_path", "/etc/roots.pem".into()),
        (
            "agent_path_template",
            "/{{ .PluginName }}/{{ .Fingerprint }}".into(),
        ),
        ("max_intermediates", toml::Value::Integer(2)),
        ("verify_client_ip", toml::Value::Boolean(true)),
    ] {
        let ours = format!("node_attestors.x509pop.{key}");
        let theirs = format!("plugins.NodeAttestor.x509pop.plugin_data.{key}");
        let is_known = crate::config::schema::judge(&ours, &written).is_some();
        if is_known {
            assert_eq!(value(&table, &ours), Some(&written), "{ours}");
        } else {
            assert!(remark(&translation, &theirs).contains("no such setting"));
        }
    }
    let odd = remark(&translation, "plugins.NodeAttestor.x509pop.plugin_data.odd");
    assert!(
        odd.starts_with("7 plugins.NodeAttestor.x509pop.plugin_data.odd: unknown key"),
        "{odd}"
    );
}

#[test]
fn keys_go_where_they_can() {
    let manager = |plugin: &str| {
        let file = format!("plugins {{ KeyManager {plugin} }}");
        let translation = translated(&file);
        let table = table(&translation);
        let text = |path: &str| Some(value(&table, path)?.as_str()?.to_owned());
        let written = (text("keys.backend"), text("keys.disk.directory"));
        (written, translation.toml)
    };
    let disk = |directory: &str| (Some("disk".to_owned()), Some(directory.to_owned()));
    let of = |path: &str| {
        manager(&format!(
            "\"disk\" {{ plugin_data {{ keys_path = \"{path}\" }} }}"
        ))
        .0
    };
    assert_eq!(of("/opt/data/keys.json"), disk("/opt/data/chancery-keys"));
    assert_eq!(of("keys.json"), disk("chancery-keys"));
    for without in [
        "\"disk\" {}",
        "\"disk\" { plugin_data { keys_path = [1] } }",
    ] {
        let (written, toml) = manager(without);
        assert_eq!(written, (None, None));
        assert!(
            toml.contains("\n# directory = \"/var/lib/chancery-keys\"\n"),
            "{toml}"
        );
    }
    let (written, toml) = manager("\"aws_kms\" {}");
    assert_eq!(written, (None, None));
    assert!(toml.contains("\n# backend = \"pkcs11\"\n"), "{toml}");
}

#[test]
fn agents_live_as_long_as_workloads_where_the_file_says_nothing_else() {
    let agent_ttl = |server: &str| {
        let translation = translated(&format!("server {{ {server} }}"));
        let table = table(&translation);
        Some(value(&table, "issuance.agent_ttl")?.as_str()?.to_owned())
    };
    assert_eq!(agent_ttl("").as_deref(), None);
    assert_eq!(
        agent_ttl("default_x509_svid_ttl = \"2h\"").as_deref(),
        Some("2h")
    );
    assert_eq!(
        agent_ttl("default_x509_svid_ttl = \"2h\" agent_ttl = \"3h\"").as_deref(),
        Some("3h")
    );
}

#[test]
fn blocks_that_repeat_are_one_and_of_keys_the_last_counts() {
    let translation = translated(
        "server { log_level = \"INFO\" trust_domain = \"a.example\" }\n\
         server { LOG_LEVEL = \"ERROR\" log_level = \"TRACE\" }\n",
    );
    assert!(translation.toml.contains("log_level = \"trace\""));
    assert!(translation.toml.contains("trust_domain = \"a.example\""));
}

#[test]
fn wrong_types_are_named_and_left_out() {
    let translation = translated(
        "server { bind_port = [1] admin_ids = \"x\" trust_domain = \"A B\" data_dir = {} \
         ca_subject = 1 log_level = \"loud\" }\nplugins = 2\ntelemetry { Prometheus = 3 }",
    );
    for (path, told) in [
        ("server.bind_port", "is no whole number"),
        ("server.admin_ids", "is no list of strings"),
        ("server.trust_domain", "is wrong: "),
        ("server.data_dir", "is no string"),
        ("server.ca_subject", "is no section"),
        ("server.log_level", "log_level must be "),
        ("plugins", "is no section"),
        ("telemetry.Prometheus", "is no section"),
    ] {
        let found = remark(&translation, path);
        assert!(found.contains(told), "{found}");
    }
    let open: Vec<_> = translation
        .left_open
        .iter()
        .map(|p| p.path.as_str())
        .collect();
    assert_eq!(open, ["api.advertise", "data_dir", "trust_domain"]);
}

#[test]
fn an_address_that_is_a_name_is_left_open() {
    let translation = translated("server { bind_address = \"spire.internal\" }");
    assert!(remark(&translation, "server.bind_address").contains("name the address"));
    assert!(translation.toml.contains("# address = \"0.0.0.0:8081\""));
    let translation = translated("server { bind_address = \"[::1]\" bind_port = 0x1F91 }");
    assert!(translation.toml.contains("address = \"[::1]:8081\""));
    let translation = translated("server { bind_address = \"::1\" bind_port = 99999 }");
    assert!(remark(&translation, "server.bind_address").contains("api.address must be"));
}

#[test]
fn names_from_the_file_stay_on_their_line() {
    let translation = translated("\"a\\nb\\u2028\\u001b[1m\" = 1");
    let named: Vec<_> = translation
        .remarks
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        named[0].starts_with("a\\nb\\u{2028}\\u{1b}[1m: unknown key"),
        "{named:?}"
    );
}
