//! Tests of the configuration as a whole: text in, values or problems out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::schema::{KEYS, Kind, WhenAbsent};
use super::*;

const MINIMAL: &str = "
trust_domain = 'example.org'
data_dir = '/var/lib/chancery'
[api]
address = '127.0.0.1:8081'
";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, "test.toml")
}

/// Problems of `text` as lines.
fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.problems.iter().map(ToString::to_string).collect(),
    }
}

/// The minimal file with lines added; top-level keys go first.
fn with(top: &str, sections: &str) -> String {
    format!("{top}\n{MINIMAL}\n{sections}")
}

#[test]
fn minimal_file_has_the_documented_defaults() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/chancery"));
    assert_eq!(config.api.advertise.as_str(), "127.0.0.1:8081");
    assert_eq!(config.peer.advertise.as_str(), "127.0.0.1:8082");
    assert_eq!(
        config.api.admin_socket,
        PathBuf::from("/tmp/spire-server/private/api.sock")
    );
    assert_eq!(config.api.max_connection_age, Duration::from_secs(180));
    assert_eq!(config.api.max_anonymous_connections_per_source, 200);
    assert_eq!(config.issuance.agent_ttl, Duration::from_secs(3_600));
    assert_eq!(
        config.issuance.default_jwt_svid_ttl,
        Duration::from_secs(300)
    );
    assert_eq!(config.issuance.ca_ttl, Duration::from_secs(86_400));
    assert_eq!(
        config.issuance.stale_issuance_limit,
        Duration::from_secs(600)
    );
    assert_eq!(config.issuance.ca_subject.organization, ["SPIFFE"]);
    assert_eq!(
        config.agents,
        Agents {
            prune_expired_for: None,
            prune_batch_size: 1000,
            prune_tofu: false
        }
    );
    assert_eq!(config.raft.heartbeat(), Duration::from_millis(70));
    assert_eq!(
        config.raft.election(),
        (Duration::from_millis(200), Duration::from_millis(400))
    );
    assert_eq!(config.keys, Keys::Memory);
    assert_eq!((config.metrics, config.health), (None, None));
    assert!(config.spire_metric_names);
    // As with SPIRE: both limits are on, and no proxy is believed.
    assert!(config.ratelimit.attestation && config.ratelimit.signing);
    assert_eq!(config.api.proxy_protocol_trusted_cidrs, []);
}

#[test]
fn switches_and_ranges_are_read_and_refused_by_their_paths() {
    let text = with(
        "",
        "proxy_protocol_trusted_cidrs = ['10.0.0.0/8', 'fd00::/8']\n[ratelimit]\nattestation = false",
    );
    let config = parse(&text).unwrap();
    assert!(!config.ratelimit.attestation && config.ratelimit.signing);
    let ranges: Vec<String> = config
        .api
        .proxy_protocol_trusted_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["10.0.0.0/8", "fd00::/8"]);
    let text = with(
        "",
        "proxy_protocol_trusted_cidrs = ['10.0.0.0/8', '10.0.0.1']\n[ratelimit]\nsigning = 'yes'",
    );
    assert_eq!(
        problems(&text),
        [
            "api.proxy_protocol_trusted_cidrs: item 2 must be an IP range, like \"10.0.0.0/8\" or \"fd00::/8\", not \"10.0.0.1\"",
            "ratelimit.signing: must be true or false, not string",
        ]
    );
}

#[test]
fn every_problem_is_reported_at_once_by_its_path() {
    let text = "
        data_dir = 7
        log_level = 'inof'
        admin_ids = ['spiffe://example.org/ok', 'example.org/bad']
        colour = 'red'
        [api]
        adress = '0.0.0.0:8081'
        max_connections = 0
        handshake_timeout = '10'
        [peer]
        address = 'localhost:8082'
        [cluster]
        peers = ['a.example:8082', 'a.example:8082', 'b.example:0']
        [issuance]
        mode = 'both'
        ca_key_type = 'rsa-1024'
        ca_ttl = '1h'
        intermediate_ttl = '601s'
        agent_ttl = '5m'
        stale_issuance_limit = '10m'
        [keys.pkcs11]
        module = '/usr/lib/token.so'
        [healt]
        address = '127.0.0.1:1'
        [raft.profile]
    ";
    let found = problems(text);
    let expected = [
        "admin_ids: \"example.org/bad\": scheme is missing or invalid",
        "api.adress: unknown key; did you mean `address`?",
        "api.advertise: is required, because api.address (0.0.0.0:8081) is a wildcard that nobody can connect to",
        "api.handshake_timeout: has no unit; write one of ns, us, ms, s, m, h, like \"10m\"",
        "api.max_connections: must be at least 1",
        "cluster.peers: item 3 needs a port other than 0",
        "colour: unknown key",
        "data_dir: must be a string, not integer",
        "healt: unknown key; did you mean `health`?",
        "issuance.ca_key_type: must be \"ec-p256\", \"ec-p384\", \"rsa-2048\" or \"rsa-4096\"; did you mean \"rsa-2048\"?",
        "issuance.intermediate_ttl: is 10m1s, more than a sixth of issuance.ca_ttl (1h): it would be cut off by its authority's end",
        "issuance.mode: must be \"direct\" or \"intermediate\"",
        "issuance.stale_issuance_limit: is 10m, more than issuance.agent_ttl (5m): a banned agent could be renewed without end by a node that is cut off",
        "keys.pkcs11.module: has no effect while keys.backend is \"memory\": remove it or set keys.backend = \"pkcs11\"",
        "log_level: must be \"panic\", \"fatal\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"; did you mean \"info\"?",
        "peer.address: must be an IP address and a port, like \"127.0.0.1:8081\" or \"[::]:8081\", not \"localhost:8082\"",
        "raft.profile: must be a string, not table",
        "trust_domain: is required",
    ];
    assert_eq!(found, expected, "{found:#?}");
}

#[test]
fn errors_name_the_file_and_count_the_problems() {
    let errors = parse("data_dir = '/x'\nx = 1").unwrap_err();
    let text = errors.to_string();
    assert!(text.starts_with("test.toml: 3 problems\n  "), "{text}");
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    let text = problems("trust_domain = 'example.org'\ndata_dir = ").concat();
    assert!(text.contains("line 2"), "{text}");
}

#[test]
fn misplaced_keys_are_found_elsewhere() {
    assert_eq!(
        problems(&with("agent_ttl = '1h'", "")),
        ["agent_ttl: unknown key; did you mean `issuance.agent_ttl`?"]
    );
    assert_eq!(
        problems("api = 1\ntrust_domain='a'\ndata_dir='/a'")[0],
        "api: is a section, write [api]"
    );
}

#[test]
fn pruning_of_agents_is_as_written() {
    let text = "[agents]\nprune_expired_for = '720h'\nprune_batch_size = 5\nprune_tofu = true";
    let expected = Agents {
        prune_expired_for: Some(Duration::from_secs(720 * 3_600)),
        prune_batch_size: 5,
        prune_tofu: true,
    };
    assert_eq!(parse(&with("", text)).unwrap().agents, expected);
    assert_eq!(
        problems(&with("", "[agents]\nprune_tofu = 'yes'")),
        ["agents.prune_tofu: must be true or false, not string"]
    );
}

#[test]
fn stale_limit_follows_a_shorter_agent_ttl_only_when_not_written() {
    let config = parse(&with("", "[issuance]\nagent_ttl = '5m'")).unwrap();
    assert_eq!(
        config.issuance.stale_issuance_limit,
        Duration::from_secs(300)
    );
    for (limit, ok) in [("0s", true), ("5m", true), ("5m1s", false)] {
        let text = with(
            "",
            &format!("[issuance]\nagent_ttl = '5m'\nstale_issuance_limit = '{limit}'"),
        );
        assert_eq!(parse(&text).is_ok(), ok, "{limit}");
    }
}

#[test]
fn token_keys_live_a_year_by_default_and_need_their_settings() {
    let token = "[keys]\nbackend = 'pkcs11'\n[keys.pkcs11]\nmodule = '/m.so'\npin_file = '/pin'\n";
    let config = parse(&with("", &format!("{token}token_label = 'ca'"))).unwrap();
    assert_eq!(config.issuance.ca_ttl, Duration::from_secs(8_760 * 3_600));
    let Keys::Pkcs11(pkcs11) = &config.keys else {
        panic!("{:?}", config.keys)
    };
    assert_eq!(pkcs11.token, TokenName::Label("ca".into()));
    assert_eq!((pkcs11.sessions, pkcs11.queue), (4, 1_024));
    let both = parse(&with(
        "",
        &format!("{token}token_label = 'ca'\ntoken_serial = '1'"),
    ))
    .unwrap();
    let Keys::Pkcs11(pkcs11) = &both.keys else {
        panic!("{:?}", both.keys)
    };
    assert_eq!(
        (pkcs11.token.label(), pkcs11.token.serial()),
        (Some("ca"), Some("1"))
    );
    assert_eq!(
        problems(&with("", token)),
        [
            "keys.pkcs11.token_label: is required (or token_serial), because keys.backend is \"pkcs11\""
        ]
    );
    assert_eq!(problems(&with("", "[keys]\nbackend = 'pkcs11'")).len(), 3);
}

#[test]
fn a_pin_is_in_a_file_or_in_a_credential() {
    let with_pin = |pin: &str| {
        let keys =
            "[keys]\nbackend = 'pkcs11'\n[keys.pkcs11]\nmodule = '/m.so'\ntoken_label = 'x'\n";
        with("", &format!("{keys}{pin}"))
    };
    let config = parse(&with_pin("pin_credential = 'chancery.pin'")).unwrap();
    let Keys::Pkcs11(pkcs11) = &config.keys else {
        panic!("{:?}", config.keys)
    };
    assert_eq!(pkcs11.pin, PinSource::Credential("chancery.pin".into()));
    assert_eq!(
        problems(&with_pin("pin_file = '/pin'\npin_credential = 'pin'")),
        [
            "keys.pkcs11.pin_credential: and keys.pkcs11.pin_file exclude each other: name one place of the PIN"
        ]
    );
    assert_eq!(
        problems(&with_pin("")),
        [
            "keys.pkcs11.pin_file: is required (or pin_credential), because keys.backend is \"pkcs11\""
        ]
    );
    for no_name in ["..", "/etc/pin", "a/b"] {
        assert_eq!(
            problems(&with_pin(&format!("pin_credential = '{no_name}'"))),
            [
                "keys.pkcs11.pin_credential: is the name of a credential, as in LoadCredential=, and no path"
            ]
        );
    }
}

#[test]
fn keys_on_disk_live_a_day_by_default_and_apart_from_the_data_directory() {
    let keys = |disk: &str| format!("[keys]\nbackend = 'disk'\n[keys.disk]\n{disk}");
    let config = parse(&with(
        "",
        &keys("directory = '/keys'\npassphrase_file = '/pass'"),
    ))
    .unwrap();
    assert_eq!(config.issuance.ca_ttl, Duration::from_secs(24 * 3_600));
    let Keys::Disk(disk) = &config.keys else {
        panic!("{:?}", config.keys)
    };
    assert_eq!(disk.directory, Path::new("/keys"));
    assert_eq!(disk.passphrase_file.as_deref(), Some(Path::new("/pass")));
    assert_eq!(
        problems(&with("", &keys(""))),
        ["keys.disk.directory: is required, because keys.backend is \"disk\""]
    );
    let data = config.data_dir.display();
    for (directory, ok) in [
        (format!("{data}-keys"), true),
        (format!("{data}/keys"), false),
        (data.to_string(), false),
        ("/".to_owned(), false),
    ] {
        let found = problems(&with("", &keys(&format!("directory = '{directory}'"))));
        assert_eq!(found.is_empty(), ok, "{directory}: {found:?}");
    }
    assert_eq!(
        problems(&with("", "[keys.disk]\ndirectory = '/keys'")),
        [
            "keys.disk.directory: has no effect while keys.backend is \"memory\": remove it or set keys.backend = \"disk\""
        ]
    );
    assert_eq!(
        problems(&with(
            "",
            &keys("directory = '/keys'\n[keys.pkcs11]\nmodule = '/m'")
        )),
        [
            "keys.pkcs11.module: has no effect while keys.backend is \"disk\": remove it or set keys.backend = \"pkcs11\""
        ]
    );
}

#[test]
fn the_directory_of_keys_and_its_passphrase_must_be_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let root = dir.path().display();
    let text = format!(
        "trust_domain = 'example.org'\ndata_dir = '{root}/data'\n\
         [api]\naddress = '127.0.0.1:8081'\nadmin_socket = '{root}/api.sock'\n\
         [keys]\nbackend = 'disk'\n\
         [keys.disk]\ndirectory = '{root}/keys'\npassphrase_file = '{root}/pass'\n"
    );
    let config = parse(&text).unwrap();
    let refused = || -> Vec<String> {
        let problems = config.check_environment().err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.path).collect()
    };
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (directory, passphrase) = ("keys.disk.directory", "keys.disk.passphrase_file");
    assert_eq!(refused(), [passphrase], "the directory will be made");
    std::fs::write(path("pass"), "0123456789abcdef").unwrap();
    mode("pass", 0o600);
    assert_eq!(refused(), [] as [&str; 0]);
    std::fs::create_dir(path("keys")).unwrap();
    mode("keys", 0o750);
    mode("pass", 0o640);
    assert_eq!(refused(), [directory, passphrase]);
    mode("keys", 0o700);
    mode("pass", 0o400);
    assert_eq!(refused(), [] as [&str; 0]);
}

#[test]
fn static_list_must_be_odd_unique_name_this_node_and_have_a_secret() {
    let list = |peers: &str, more: &str| {
        problems(&with(
            "",
            &format!("[peer]\nadvertise = 'a.example:1'\n[cluster]\npeers = [{peers}]\n{more}"),
        ))
    };
    let secret = "secret_file = '/s'";
    assert!(list("'a.example:1'", "").is_empty());
    assert!(list("'a.example:1', 'b.example:1', 'c.example:1'", secret).is_empty());
    assert_eq!(
        list("'a.example:1', 'b.example:1', 'c.example:1'", ""),
        ["cluster.secret_file: is required, because cluster.peers names more than one node"]
    );
    assert_eq!(
        list("'x.example:1', 'b.example:1', 'c.example:1'", secret),
        ["cluster.peers: does not name this node, whose peer.advertise is a.example:1"]
    );
    assert_eq!(
        list("'a.example:1', 'b.example:1'", secret),
        [
            "cluster.peers: names 2 nodes; an even number survives no more failures than one node less"
        ]
    );
    assert_eq!(
        list("'a.example:1', 'b.example:1', 'b.example:1'", secret),
        ["cluster.peers: names b.example:1 twice"]
    );
}

#[test]
fn addresses_that_nobody_can_connect_to_are_refused() {
    for (text, ok) in [
        ("node-1.example:8082", true),
        ("node_1:8082", true),
        ("node-1.example.:8082", true),
        ("10.0.0.1:8082", true),
        ("[::1]:8082", true),
        ("0.0.0.0:8082", false),
        ("[::]:8082", false),
        ("::1:8082", false),
        ("[10.0.0.1]:8082", false),
        ("node:0", false),
        ("node:65536", false),
        ("node:+1", false),
        ("node", false),
        (":8082", false),
        ("-node:1", false),
        ("node..example:1", false),
        ("no de:1", false),
        ("10.0.0.256:1", false),
        ("http://node:1", false),
    ] {
        assert_eq!(text.parse::<HostPort>().is_ok(), ok, "{text}");
    }
}

#[test]
fn listeners_must_differ_except_metrics_and_health() {
    let same = with(
        "",
        "[metrics]\naddress = '127.0.0.1:1'\n[health]\naddress = '127.0.0.1:1'",
    );
    assert_eq!(
        parse(&same).unwrap().metrics,
        Some(SocketAddr::from(([127, 0, 0, 1], 1)))
    );
    assert_eq!(
        problems(&with(
            "",
            "[peer]\naddress = '127.0.0.1:8081'\n[health]\naddress = '127.0.0.1:8081'"
        )),
        [
            "health.address: is the same as api.address",
            "health.address: is the same as peer.address",
            "peer.address: is the same as api.address",
        ]
    );
}

#[test]
fn health_paths_are_paths_of_their_own() {
    let config = parse(&with("", "[health]\nlive_path = '/healthz'")).unwrap();
    assert_eq!(
        (
            config.health_paths.live.as_str(),
            config.health_paths.ready.as_str()
        ),
        ("/healthz", "/ready")
    );
    let health = |keys: &str| problems(&with("", &format!("[health]\n{keys}")));
    let form = "must begin with / and hold letters, digits and / - . _ ~ only";
    for wrong in ["ready", "/a b", "/ready?for=write", "/\u{fc}"] {
        assert_eq!(
            health(&format!("ready_path = '{wrong}'")),
            [format!("health.ready_path: {form}")]
        );
    }
    assert_eq!(
        health("live_path = '/ready'"),
        ["health.ready_path: is the same as health.live_path"]
    );
    assert_eq!(
        health("live_path = '/metrics'"),
        ["health.live_path: is the path of the metrics"]
    );
}

#[test]
fn jwt_svids_are_there_unless_they_are_switched_off() {
    assert!(!parse(MINIMAL).unwrap().issuance.disable_jwt_svids);
    let off = with("", "[issuance]\ndisable_jwt_svids = true");
    assert!(parse(&off).unwrap().issuance.disable_jwt_svids);
    assert_eq!(
        problems(&with("", "[issuance]\ndisable_jwt_svids = 'yes'")),
        ["issuance.disable_jwt_svids: must be true or false, not string"]
    );
}

#[test]
fn socket_path_must_fit_the_kernel() {
    let at = |bytes: usize| {
        let directory = format!("/{}", "d".repeat(bytes - 1));
        problems(&format!("{MINIMAL}admin_socket = '{directory}/api.sock'"))
    };
    assert!(at(87).is_empty());
    assert_eq!(at(88).len(), 1);
    assert_eq!(
        problems(&format!("{MINIMAL}admin_socket = 'api.sock'")).len(),
        1
    );
}

#[test]
fn numbers_and_durations_are_held_to_both_bounds() {
    let file = |path: &str, literal: &str| {
        let (section, name) = path.split_once('.').expect("numbers stand in sections");
        let (section, name) = match name.split_once('.') {
            Some((inner, name)) => (format!("{section}.{inner}"), name),
            None => (section.to_owned(), name),
        };
        let mut text =
            format!("trust_domain = 'a'\ndata_dir = '/a'\n[{section}]\n{name} = {literal}\n");
        if section == "api" {
            text.push_str("address = '127.0.0.1:1'\n");
        } else {
            text.push_str("[api]\naddress = '127.0.0.1:1'\n");
        }
        problems(&text)
            .into_iter()
            .filter(|p| p.starts_with(path))
            .collect::<Vec<_>>()
    };
    let mut checked = 0;
    for key in KEYS {
        let cases = match key.kind {
            Kind::Integer { min, max } => vec![
                (i64::from(min).to_string(), true),
                ((i64::from(min) - 1).to_string(), false),
                (i64::from(max).to_string(), true),
                ((i64::from(max) + 1).to_string(), false),
            ],
            Kind::Duration { min, max } => {
                let nano = Duration::from_nanos(1);
                let quoted = |d| format!("'{}'", format_duration(d));
                let mut cases = vec![(quoted(min), true), (quoted(max + nano), false)];
                if let Some(less) = min.checked_sub(nano) {
                    cases.push((quoted(less), false));
                }
                // These have a second, lower bound: another key.
                let bound = ["issuance.stale_issuance_limit", "issuance.intermediate_ttl"];
                cases.push((quoted(max), !bound.contains(&key.path)));
                cases
            }
            _ => continue,
        };
        for (literal, ok) in cases {
            assert_eq!(
                file(key.path, &literal).is_empty(),
                ok,
                "{} = {literal}",
                key.path
            );
        }
        checked += 1;
    }
    assert!(checked > 15, "only {checked} keys have bounds");
}

/// A file with every default written out must mean the same as one without.
#[test]
fn written_defaults_mean_what_absent_keys_mean() {
    let mut table = MINIMAL.parse::<toml::Table>().unwrap();
    let spelled = {
        for key in KEYS {
            let WhenAbsent::Literal(literal) = key.default else {
                continue;
            };
            if key.path == "api.address" {
                continue;
            }
            let value = format!("v = {literal}")
                .parse::<toml::Table>()
                .unwrap()
                .remove("v")
                .unwrap();
            let mut at = &mut table;
            let mut parts: Vec<&str> = key.path.split('.').collect();
            let name = parts.pop().unwrap();
            for part in parts {
                at = at
                    .entry(part)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .unwrap();
            }
            at.insert(name.to_owned(), value);
        }
        toml::to_string(&table).unwrap()
    };
    assert_eq!(parse(&spelled).unwrap(), parse(MINIMAL).unwrap());
}

/// serde names the fields it knows when it meets one it does not; that list
/// must be the schema's.
#[test]
fn schema_and_raw_config_have_the_same_keys() {
    let mut full = toml::Table::new();
    assert!(
        !schema::conform(&mut full).is_empty(),
        "required keys are missing"
    );
    for section in [
        "",
        "api",
        "peer",
        "cluster",
        "ratelimit",
        "raft",
        "storage",
        "issuance",
        "issuance.ca_subject",
        "agents",
        "keys",
        "keys.pkcs11",
        "node_attestors",
        "node_attestors.x509pop",
        "metrics",
        "health",
    ] {
        let mut table = full.clone();
        let mut at = &mut table;
        for part in section.split('.').filter(|p| !p.is_empty()) {
            at = at
                .entry(part)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .unwrap();
        }
        at.insert("zzz".into(), toml::Value::Integer(1));
        let error = raw::RawConfig::deserialize_conformed(table)
            .unwrap_err()
            .to_string();
        let mut known: Vec<&str> = error
            .lines()
            .next()
            .unwrap()
            .split('`')
            .skip(3)
            .step_by(2)
            .collect();
        let prefix = if section.is_empty() {
            String::new()
        } else {
            format!("{section}.")
        };
        let mut schema: Vec<&str> = KEYS
            .iter()
            .filter_map(|k| k.path.strip_prefix(prefix.as_str())?.split('.').next())
            .collect();
        schema.sort_unstable();
        schema.dedup();
        known.sort_unstable();
        assert_eq!(known, schema, "[{section}] {error}");
    }
}

#[test]
fn manual_lists_exactly_the_keys_of_the_schema() {
    crate::golden::check_table("docs/configuration.md", &schema::manual());
}

#[test]
fn sample_configuration_is_valid() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/chancery.example.toml"
    );
    let config = Config::load(std::path::Path::new(path)).unwrap();
    assert_eq!(config.cluster.peers.len(), 3);
}

mod machine {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn config(dir: &Path) -> Config {
        let dir = dir.display();
        parse(&format!(
            "trust_domain = 'a'\ndata_dir = '{dir}/data'
            [api]\naddress = '127.0.0.1:1'\nadmin_socket = '{dir}/sock/api.sock'
            [peer]\naddress = '127.0.0.1:2'
            [cluster]\npeers = ['127.0.0.1:2', '127.0.0.1:3', '127.0.0.1:4']\nsecret_file = '{dir}/secret'
            [keys]\nbackend = 'pkcs11'
            [keys.pkcs11]\nmodule = '{dir}/module.so'\ntoken_label = 'x'\npin_file = '{dir}/pin'"
        ))
        .unwrap()
    }

    fn paths(config: &Config) -> Vec<String> {
        match config.check_environment() {
            Ok(()) => Vec::new(),
            Err(problems) => problems.into_iter().map(|p| p.path).collect(),
        }
    }

    #[test]
    fn a_log_file_is_one_that_lines_can_be_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let problem = |path: &Path| {
            let mut config = config(dir.path());
            config.log_file = Some(path.to_owned());
            let mut problems = config.check_environment().unwrap_err().into_iter();
            problems.find(|p| p.path == "log_file").map(|p| p.message)
        };
        assert_eq!(problem(&dir.path().join("log")), None);
        assert!(!dir.path().join("log").exists(), "checking makes no file");
        assert_eq!(problem(Path::new("/dev/null")), None);
        assert_eq!(problem(Path::new("log-beside-the-working-directory")), None);
        assert!(problem(dir.path()).unwrap().ends_with("is a directory"));
        let nowhere = problem(&dir.path().join("no/log")).unwrap();
        assert!(nowhere.ends_with("no/log does not exist"), "{nowhere}");
    }

    #[test]
    fn missing_and_open_files_are_all_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert_eq!(
            paths(&config),
            [
                "cluster.secret_file",
                "keys.pkcs11.module",
                "keys.pkcs11.pin_file"
            ]
        );
        for (name, content) in [
            ("secret", "0123456789abcdef\n"),
            ("module.so", ""),
            ("pin", "1234"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            mode(&path, 0o644);
        }
        assert_eq!(
            paths(&config),
            ["cluster.secret_file", "keys.pkcs11.pin_file"]
        );
        mode(&dir.path().join("secret"), 0o600);
        mode(&dir.path().join("pin"), 0o400);
        assert_eq!(config.check_environment(), Ok(()));
    }

    #[test]
    fn data_directory_must_be_a_directory_of_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let only = |data_dir: &Path| {
            let mut config = parse(MINIMAL).unwrap();
            config.data_dir = data_dir.to_owned();
            config.api.admin_socket = dir.path().join("s");
            paths(&config)
        };
        let data = dir.path().join("data");
        assert!(only(&data).is_empty(), "made at start");
        assert_eq!(only(&data.join("deeper")), ["data_dir"]);
        std::fs::create_dir(&data).unwrap();
        mode(&data, 0o700);
        assert!(only(&data).is_empty());
        mode(&data, 0o770);
        assert_eq!(only(&data), ["data_dir"]);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(only(&file), ["data_dir"]);
    }
}

mod node_attestors {
    use super::*;
    use crate::config::{X509PopConfig, X509PopRoots};

    fn x509pop(keys: &str) -> Result<X509PopConfig, Vec<String>> {
        let text = with("", &format!("[node_attestors.x509pop]\n{keys}"));
        match parse(&text) {
            Ok(config) => Ok(config.node_attestors.x509pop.unwrap()),
            Err(errors) => Err(errors.problems.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn without_its_section_the_method_is_off() {
        assert_eq!(parse(MINIMAL).unwrap().node_attestors.x509pop, None);
    }

    #[test]
    fn defaults_are_those_of_spire() {
        let config = x509pop("ca_bundle_path = '/ca.pem'").unwrap();
        let files = X509PopRoots::Files {
            key: "ca_bundle_path",
            paths: vec!["/ca.pem".into()],
        };
        assert_eq!(config.roots, files);
        let settings = config.settings;
        assert_eq!(
            (settings.max_intermediates, settings.max_rsa_key_size),
            (4, 8_192)
        );
        assert!(!settings.verify_client_ip && settings.agent_path_template.is_none());
        let prefix = |keys| match x509pop(keys).unwrap().roots {
            X509PopRoots::Spiffe { prefix } => prefix,
            X509PopRoots::Files { .. } => panic!("not spiffe"),
        };
        assert_eq!(prefix("mode = 'spiffe'"), "/spire-exchange/");
        assert_eq!(prefix("mode = 'spiffe'\nspiffe_prefix = '/a'"), "/a/");
        assert_eq!(prefix("mode = 'spiffe'\nspiffe_prefix = '/'"), "/");
    }

    #[test]
    fn contradictions_are_told_by_their_paths() {
        for (keys, problem) in [
            (
                "",
                "ca_bundle_path: one of ca_bundle_path or ca_bundle_paths must be configured",
            ),
            (
                "ca_bundle_paths = []",
                "ca_bundle_path: one of ca_bundle_path or ca_bundle_paths must be configured",
            ),
            (
                "ca_bundle_path = '/a'\nca_bundle_paths = ['/b']",
                "ca_bundle_paths: only one of ca_bundle_path or ca_bundle_paths can be configured, not both",
            ),
            (
                "mode = 'spiffe'\nca_bundle_path = '/a'",
                "ca_bundle_path: you can not use ca_bundle_path or ca_bundle_paths in spiffe mode",
            ),
            (
                "ca_bundle_path = '/a'\nspiffe_prefix = '/x'",
                "spiffe_prefix: has no effect unless mode is \"spiffe\"",
            ),
            (
                "ca_bundle_path = '/a'\nagent_path_template = '/{{ .Nope }}'",
                "agent_path_template: field .Nope is not supported",
            ),
            (
                "ca_bundle_path = '/a'\nverify_client_ip = 'yes'",
                "verify_client_ip: must be true or false, not string",
            ),
            (
                "mode = 'external'",
                "mode: must be \"external_pki\" or \"spiffe\"",
            ),
            (
                "ca_bundle_path = '/a'\nmax_intermediates = 0",
                "max_intermediates: must be at least 1",
            ),
        ] {
            let told = x509pop(keys).unwrap_err();
            let wanted = format!("node_attestors.x509pop.{problem}");
            assert!(
                told.iter().any(|p| p.starts_with(&wanted)),
                "{keys}: {told:?}"
            );
        }
    }

    #[test]
    fn files_without_roots_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let told =
            |path: &std::path::Path| crate::config::read_roots(path).unwrap_err().to_string();
        assert_eq!(told(&file("empty", "")), "no certificates found in file");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(told(&file("key", key)), "no certificates found in file");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(told(&file("broken", broken)).starts_with("unable to parse certificate 1: "));
        assert!(told(&dir.path().join("absent")).starts_with("cannot be read: "));
    }
}

#[test]
fn room_on_the_disk_has_a_default_and_bounds() {
    let of = |section: &str| parse(&format!("{MINIMAL}\n{section}"));
    let storage = of("").unwrap().storage;
    assert_eq!((storage.min_free, storage.reserve), (256 << 20, 192 << 20));
    let storage = of("[storage]\nmin_free_mib = 16\nreserve_mib = 0")
        .unwrap()
        .storage;
    assert_eq!((storage.min_free, storage.reserve), (16 << 20, 0));
    for bad in [
        "min_free_mib = 15",
        "reserve_mib = -1",
        "min_free = 16",
        "reserve_mib = \"1MiB\"",
    ] {
        assert!(of(&format!("[storage]\n{bad}")).is_err(), "{bad}");
    }
}

#[test]
fn nodes_share_authorities_in_a_token_alone() {
    let scope = |text: &str| parse(&with("", text)).map(|c| c.issuance.authority_scope);
    assert_eq!(scope("").unwrap(), None);
    let per_node = scope("[issuance]\nauthority_scope = 'per-node'").unwrap();
    assert_eq!(
        per_node,
        Some(chancery_raft_store::model::AuthorityScope::PerNode)
    );
    assert_eq!(
        problems(&with("", "[issuance]\nauthority_scope = 'shared'")),
        [
            "issuance.authority_scope: is \"shared\", and nodes can share keys in a token alone: use keys.backend = \"pkcs11\", or \"per-node\""
        ]
    );
}
