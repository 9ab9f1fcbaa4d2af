//! The one list of configuration keys: type, bounds, default, meaning.
//!
//! Why it exists: the check of a file, the defaults and
//! `docs/configuration.md` must say the same, so all three come from here.
//!
//! Promises: after [`conform`] a table holds known keys only, each of its type
//! and inside its bounds, with every default filled in. Refuses to know: how
//! keys depend on each other (that is `checked`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use toml::{Table, Value};

use super::Problem;
use super::checked::HostPort;
use super::cidr::Cidr;
use super::duration::{format_duration, parse_duration};

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text without control characters.
    Text {
        /// Longest text, in bytes.
        bytes_max: usize,
    },
    /// A path on this machine.
    Path,
    /// An IP address and a port to listen on.
    Bind,
    /// A host name or IP address and a port that others connect to.
    Address,
    /// A duration in Go's notation.
    Duration {
        /// Shortest allowed.
        min: Duration,
        /// Longest allowed.
        max: Duration,
    },
    /// A whole number.
    Integer {
        /// Smallest allowed.
        min: u32,
        /// Largest allowed.
        max: u32,
    },
    /// `true` or `false`.
    Bool,
    /// One of a few words.
    Choice {
        /// What may be written.
        of: &'static [&'static str],
    },
    /// A list of texts.
    Texts {
        /// Most items.
        items_max: usize,
    },
    /// A list of addresses.
    Addresses {
        /// Most items.
        items_max: usize,
    },
    /// A list of IP ranges.
    Ranges {
        /// Most items.
        items_max: usize,
    },
}

/// What holds when the key is not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenAbsent {
    /// The file must name it.
    Required,
    /// This TOML literal.
    Literal(&'static str),
    /// Nothing, or something that depends on other keys, in words.
    Absent(&'static str),
}

/// One key of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Dotted path.
    pub path: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// Value when absent.
    pub default: WhenAbsent,
    /// What it does, for the manual.
    pub meaning: &'static str,
}

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

const fn span(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max }
}
const fn count(min: u32, max: u32) -> Kind {
    Kind::Integer { min, max }
}
const fn one_of(of: &'static [&'static str]) -> Kind {
    Kind::Choice { of }
}
const fn key(path: &'static str, kind: Kind, default: WhenAbsent, meaning: &'static str) -> Key {
    Key {
        path,
        kind,
        default,
        meaning,
    }
}

use WhenAbsent::{Absent, Literal, Required};

/// Every key, in the order of the manual.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("trust_domain", Kind::Text { bytes_max: 255 }, Required,
        "Name of the trust domain, without `spiffe://`. The same on every node; it cannot be changed later."),
    key("data_dir", Kind::Path, Required,
        "Directory of this node's state. Made with mode 0700 if its parent exists. One process at a time."),
    key("log_level", one_of(&["panic", "fatal", "error", "warn", "info", "debug", "trace"]), Literal("\"info\""),
        "Least severe messages that are logged. Nothing is as severe as `panic` or `fatal`: they silence the log."),
    key("log_format", one_of(&["text", "json"]), Literal("\"text\""),
        "Form of the log."),
    key("log_file", Kind::Path, Absent("standard error"),
        "File that the log is appended to, made with mode 0640 if its directory exists. SIGUSR2 opens it again under its name, for who rotates it by renaming."),
    key("log_source_location", Kind::Bool, Literal("false"),
        "Whether messages say file and line of the source they come from."),
    key("admin_ids", Kind::Texts { items_max: 100 }, Literal("[]"),
        "SPIFFE IDs that may administer over the network. IDs of other trust domains need that domain's bundle."),

    key("api.address", Kind::Bind, Literal("\"0.0.0.0:8081\""),
        "Where agents connect. The port is open only while the node has a server SVID."),
    key("api.advertise", Kind::Address, Absent("`api.address`, unless that is a wildcard: then required"),
        "Under which address others reach `api.address`; told to members and Chancery's agents."),
    key("api.admin_socket", Kind::Path, Literal("\"/tmp/spire-server/private/api.sock\""),
        "Unix socket for administration (mode 0770). The default is where SPIRE's command line looks."),
    key("api.max_connections", count(1, 1_000_000), Literal("10000"),
        "Connections open at once on the agent port; one more is closed at once. The server raises its limit of open files as far as it may and takes no more connections than that leaves; within 64 descriptors of the limit (a quarter of a limit below 256), also where it is lowered later, agents are turned away."),
    key("api.max_connections_per_source", count(1, 1_000_000), Literal("2000"),
        "Connections open at once from one IP address (of IPv6, from one /64); many agents behind one address translation share it."),
    key("api.max_anonymous_connections_per_source", count(1, 1_000_000), Literal("200"),
        "Of these, connections without a client certificate: agents that attest, and whoever reads the bundle. Not more than `api.max_connections_per_source`."),
    key("api.max_handshakes", count(1, 10_000), Literal("256"),
        "TLS handshakes under way at once, from the client's first byte on; others wait inside `api.handshake_timeout`."),
    key("api.max_streams_per_connection", count(1, 10_000), Literal("100"),
        "Calls at once on one connection (HTTP/2 concurrent streams)."),
    key("api.handshake_timeout", span(Duration::from_millis(100), seconds(MINUTE)), Literal("\"10s\""),
        "Time from accepting a connection to the end of its TLS handshake, a PROXY header included, and again from there to the first frame of HTTP/2."),
    key("api.max_connection_age", span(seconds(1), seconds(DAY)), Literal("\"3m\""),
        "Age at which a connection is asked to go (GOAWAY), varied by a tenth so that clients do not return together."),
    key("api.connection_drain", span(seconds(0), seconds(10 * MINUTE)), Literal("\"30s\""),
        "Time that calls have to finish on a connection that was asked to go; then it is closed."),
    key("api.proxy_protocol_trusted_cidrs", Kind::Ranges { items_max: 100 }, Literal("[]"),
        "IP ranges of load balancers whose PROXY protocol header (v1 or v2) names the client on the agent port. A header from anywhere else ends the connection."),

    key("ratelimit.attestation", Kind::Bool, Literal("true"),
        "Whether one source IP address may attest once a second only. Further calls wait, inside their deadlines."),
    key("ratelimit.signing", Kind::Bool, Literal("true"),
        "Whether one source IP address gets 500 signatures a second at most: X.509 (renewals and downstream CAs included) and JWT each."),

    key("peer.address", Kind::Bind, Literal("\"127.0.0.1:8082\""),
        "Where the other nodes of the cluster connect."),
    key("peer.advertise", Kind::Address, Absent("`peer.address`, unless that is a wildcard: then required"),
        "Under which address the other nodes reach `peer.address`."),

    key("cluster.peers", Kind::Addresses { items_max: 7 }, Literal("[]"),
        "`peer.advertise` of every node that forms the cluster together, this one included, the same list on each; an odd number. Empty: `chancery cluster init` or a token decides."),
    key("cluster.secret_file", Kind::Path, Absent("required when `cluster.peers` names more than one node"),
        "File with the secret by which the listed nodes recognise each other once: at least 16 bytes, readable by its owner alone."),
    key("cluster.join_token_file", Kind::Path, Absent("a node without a cluster is on the list, or founds one by `chancery cluster init`"),
        "File with a token of `chancery cluster token`, readable by its owner alone. Read only while this node belongs to no cluster."),
    key("cluster.auto_promote", Kind::Bool, Literal("true"),
        "Whether this node, once it joined and has caught up, becomes a voter by itself as soon as that leaves an odd number of voters. `false`: it stays a learner until `chancery cluster promote`."),

    key("raft.profile", one_of(&["lan", "wan"]), Literal("\"lan\""),
        "Timers: `lan` has heartbeats every 70 ms and elections after 200 to 400 ms; `wan` ten times as long. The same on every node."),
    key("raft.snapshot_after_entries", count(100, 10_000_000), Literal("20000"),
        "Log entries after the last snapshot at which the next is taken."),
    key("raft.entries_kept_after_snapshot", count(0, 10_000_000), Literal("5000"),
        "Log entries kept behind a snapshot, so that a node that was briefly away needs no snapshot."),

    key("storage.min_free_mib", count(16, 1_048_576), Literal("256"),
        "Free space on the disk of `data_dir`, in MiB, below which this node takes no writes, before it is full: `ResourceExhausted`. Signing goes on. Below a quarter of it, at most 64 MiB, nothing at all is written: what the log must write waits for room. The reserve, while it is missing, counts as used."),
    key("storage.reserve_mib", count(0, 1_048_576), Literal("192"),
        "Size in MiB of the file `reserve` in `data_dir`, which is removed at a start that finds less free space than this, and made again when there is room. Opening the store may need as much as its write-ahead log has, at most 128 MiB and a little. 0: none."),

    key("issuance.mode", one_of(&["direct", "intermediate"]), Absent("`\"direct\"`"),
        "Which key signs X.509-SVIDs. `direct`: the authority's own. `intermediate`: a CA of each node's, in memory and short-lived, so that they go on while the token is away ([issuance modes](issuance-modes.md)). Counts when the cluster is founded; later `chancery issuance mode` sets it."),
    key("issuance.authority_scope", one_of(&["shared", "per-node"]), Absent("`\"shared\"` with keys in a token, else `\"per-node\"`"),
        "Whether nodes share authorities, whose keys are then in a token that each has, or each node has its own ([whose authorities](authority-scope.md)). Counts when the cluster is founded; later `chancery localauthority migrate` sets it."),
    key("issuance.intermediate_ttl", span(seconds(5), seconds(7 * DAY)), Absent("`\"24h\"`, or a sixth of `issuance.ca_ttl` where that is shorter"),
        "Lifetime of a node's intermediate CA in mode `intermediate`, renewed at 40 to 50 % of it. At most 168h and a sixth of `issuance.ca_ttl`."),
    key("issuance.agent_ttl", span(seconds(5), seconds(30 * DAY)), Literal("\"1h\""),
        "Lifetime of an agent's SVID."),
    key("issuance.default_x509_svid_ttl", span(seconds(5), seconds(365 * DAY)), Literal("\"1h\""),
        "Lifetime of a workload's X.509-SVID where its entry names none."),
    key("issuance.default_jwt_svid_ttl", span(seconds(5), seconds(DAY)), Literal("\"5m\""),
        "Lifetime of a JWT-SVID where its entry names none."),
    key("issuance.server_svid_ttl", span(seconds(5), seconds(30 * DAY)), Literal("\"24h\""),
        "Lifetime of this node's own SVID, renewed at half of it."),
    key("issuance.ca_ttl", span(seconds(30), seconds(3_653 * DAY)), Absent("`\"24h\"` with keys in memory or on disk, `\"8760h\"` with keys in a token"),
        "Lifetime of a new authority. No SVID outlives its authority."),
    key("issuance.stale_issuance_limit", span(seconds(0), seconds(30 * DAY)), Absent("`\"10m\"`, or `issuance.agent_ttl` where that is shorter"),
        "Age of the replicated state, measured from the last confirmation by a quorum, at which this node stops issuing. At most `issuance.agent_ttl`. `\"0s\"` is strict: every document waits for a confirmation made after its request came."),
    key("issuance.ca_key_type", one_of(&["ec-p256", "ec-p384", "rsa-2048", "rsa-4096"]), Literal("\"ec-p256\""),
        "Key type of new authorities; JWT-SVIDs are signed ES256, ES384 or RS256 by it. It may become another one at any time, and counts for the next authority. The node that makes a key goes by its own file, so let all say the same."),
    key("issuance.jwt_issuer", Kind::Text { bytes_max: 2_048 }, Absent("no `iss` claim"),
        "`iss` claim of JWT-SVIDs; for OIDC discovery the provider's URL."),
    key("issuance.disable_jwt_svids", Kind::Bool, Literal("false"),
        "No JWT-SVIDs: requests for one are refused and no authority for them is made. The same on every node."),
    key("issuance.ca_subject.country", Kind::Texts { items_max: 8 }, Absent("`[\"US\"]` where no key of the section is set"),
        "Countries in the subject of a new authority."),
    key("issuance.ca_subject.organization", Kind::Texts { items_max: 8 }, Absent("`[\"SPIFFE\"]` where no key of the section is set"),
        "Organizations in the subject of a new authority."),
    key("issuance.ca_subject.common_name", Kind::Text { bytes_max: 64 }, Absent("none"),
        "Common name in the subject of a new authority."),

    key("agents.prune_expired_for", span(seconds(1), seconds(3_653 * DAY)), Absent("agents are not pruned"),
        "Time since the end of an agent's SVID after which the agent is evicted, looked at every hour. Banned agents stay. The same on every node: the one that leads acts. SPIRE: `prune_attested_nodes_expired_for`."),
    key("agents.prune_batch_size", count(1, 100_000), Literal("1000"),
        "Agents that are evicted so at a time. SPIRE: `prune_attested_nodes_batch_size`."),
    key("agents.prune_tofu", Kind::Bool, Literal("false"),
        "Whether agents that cannot attest again by themselves (as those by join token) are evicted too. SPIRE: `prune_tofu_nodes`."),

    key("keys.backend", one_of(&["memory", "disk", "pkcs11"]), Literal("\"memory\""),
        "Where the authorities' keys live: in this process, lost when it ends; in files of this machine ([keys on disk](disk-keys.md)); or in a PKCS#11 token, which they never leave."),
    key("keys.disk.directory", Kind::Path, Absent("required with `keys.backend = \"disk\"`"),
        "Directory of the key files, apart from `data_dir`. Made with mode 0700 if its parent exists. One process at a time, and nothing else in it."),
    key("keys.disk.passphrase_file", Kind::Path, Absent("key files are not sealed"),
        "File with the passphrase that seals the key files: 16 to 1024 bytes, readable by its owner alone."),
    key("keys.pkcs11.module", Kind::Path, Absent("required with `keys.backend = \"pkcs11\"`"),
        "The token's PKCS#11 library."),
    key("keys.pkcs11.token_label", Kind::Text { bytes_max: 32 }, Absent("this or the serial is required with `keys.backend = \"pkcs11\"`"),
        "Label of the token. Exactly one token must match what is given of label and serial."),
    key("keys.pkcs11.token_serial", Kind::Text { bytes_max: 16 }, Absent("this or the label is required with `keys.backend = \"pkcs11\"`"),
        "Serial number of the token."),
    key("keys.pkcs11.pin_file", Kind::Path, Absent("this or `pin_credential` is required with `keys.backend = \"pkcs11\"`"),
        "File with the user PIN, readable by its owner alone."),
    key("keys.pkcs11.pin_credential", Kind::Text { bytes_max: 255 }, Absent("this or `pin_file` is required with `keys.backend = \"pkcs11\"`"),
        "Name of the systemd credential (`LoadCredential=`, `LoadCredentialEncrypted=`) with the user PIN: the file of that name in `$CREDENTIALS_DIRECTORY`."),
    key("keys.pkcs11.sessions", count(1, 64), Literal("4"),
        "Sessions that sign at once, each on a thread of its own."),
    key("keys.pkcs11.deadline", span(Duration::from_millis(100), seconds(MINUTE)), Literal("\"5s\""),
        "Time a signature may take before the caller is told that the token does not answer."),
    key("keys.pkcs11.queue", count(1, 65_536), Literal("1024"),
        "Signatures that may wait for a session; one more is refused at once."),

    key("node_attestors.x509pop.mode", one_of(&["external_pki", "spiffe"]), Absent("`\"external_pki\"` where the section is there; without it the method is off"),
        "Where certificates of nodes must be rooted: in `ca_bundle_path`, or in this cluster's own trust bundle, to exchange X.509-SVIDs for agents' SVIDs."),
    key("node_attestors.x509pop.ca_bundle_path", Kind::Path, Absent("this or `ca_bundle_paths` is required in mode `external_pki`"),
        "PEM file with the roots of the nodes' certificates, read when the server starts."),
    key("node_attestors.x509pop.ca_bundle_paths", Kind::Texts { items_max: 64 }, Absent("none"),
        "Several such files, in the place of `ca_bundle_path`."),
    key("node_attestors.x509pop.spiffe_prefix", Kind::Text { bytes_max: 1_024 }, Absent("`\"/spire-exchange/\"`"),
        "How the path of an X.509-SVID must begin to be exchanged in mode `spiffe`; a slash is added at the end. `/` takes every SVID."),
    key("node_attestors.x509pop.agent_path_template", Kind::Text { bytes_max: 4_096 }, Absent("`/{{ .PluginName }}/{{ .Fingerprint }}`, or `/{{ .PluginName }}/{{ .SVIDPathTrimmed }}` in mode `spiffe`"),
        "The agent's path below `/spire/agent`; see [path templates](#path-templates)."),
    key("node_attestors.x509pop.max_intermediates", count(1, 32), Absent("`4`"),
        "Most certificates that a node may send beside its own."),
    key("node_attestors.x509pop.max_rsa_key_size", count(1, 8_192), Absent("`8192`"),
        "Largest RSA key in the certificates that a node sends, in bits."),
    key("node_attestors.x509pop.verify_client_ip", Kind::Bool, Absent("`false`"),
        "Whether a node must call from an IP address that is a subject alternative name of its certificate."),

    key("metrics.address", Kind::Bind, Absent("no listener"),
        "Where `/metrics` is served over HTTP. May equal `health.address`."),
    key("metrics.spire_names", Kind::Bool, Literal("true"),
        "Whether what SPIRE measures too is there under SPIRE's names as well ([list](telemetry.md))."),
    key("health.address", Kind::Bind, Absent("no listener"),
        "Where health is served over HTTP. May equal `metrics.address`."),
    key("health.live_path", Kind::Text { bytes_max: 256 }, Literal("\"/live\""),
        "Path that says whether the process should go on."),
    key("health.ready_path", Kind::Text { bytes_max: 256 }, Literal("\"/ready\""),
        "Path that says whether this node can issue now."),
];

/// Whether `value` may stand under `path`, and if not, why not; worded to follow the path.
/// `None` for a path that is no key.
pub fn judge(path: &str, value: &Value) -> Option<Result<(), String>> {
    let key = KEYS.iter().find(|key| key.path == path)?;
    Some(check_value(key.kind, value))
}

/// Makes `table` hold known keys of the right kind only, fills in defaults, and
/// returns what was wrong. A wrong value is replaced by the default, so that
/// the check can go on and find the rest.
pub fn conform(table: &mut Table) -> Vec<Problem> {
    let mut problems = Vec::new();
    prune(table, "", &mut problems);
    for key in KEYS {
        match key.default {
            Required if get(table, key.path).is_none() => {
                // A value that was there but wrong is already reported.
                if !problems.iter().any(|p| p.path == key.path) {
                    problems.push(Problem::new(key.path, "is required"));
                }
            }
            Literal(literal) if get(table, key.path).is_none() => {
                set(table, key.path, literal_value(literal));
            }
            Required | Literal(_) | Absent(_) => {}
        }
    }
    problems
}

/// Removes what does not belong, section by section.
fn prune(section: &mut Table, prefix: &str, problems: &mut Vec<Problem>) {
    let names: Vec<String> = section.keys().cloned().collect();
    for name in names {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let known = KEYS.iter().find(|key| key.path == path);
        let Some(value) = section.get_mut(&name) else {
            continue;
        };
        let problem = match (known, value) {
            (Some(key), value) => check_value(key.kind, value).err(),
            (None, Value::Table(inner)) if is_section(&path) => {
                prune(inner, &path, problems);
                None
            }
            (None, _) if is_section(&path) => Some(format!("is a section, write [{path}]")),
            (None, _) => Some(unknown_key(prefix, &name)),
        };
        if let Some(message) = problem {
            problems.push(Problem::new(path, message));
            section.remove(&name);
        }
    }
}

fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| {
        key.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn check_value(kind: Kind, value: &Value) -> Result<(), String> {
    let text = || {
        value
            .as_str()
            .ok_or_else(|| format!("must be a string, not {}", value.type_str()))
    };
    match kind {
        Kind::Text { bytes_max } => check_text(text()?, bytes_max),
        Kind::Path => check_text(text()?, 4_096),
        Kind::Bind => match text()?.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err("needs a port other than 0".to_owned()),
            Ok(_) => Ok(()),
            Err(_) => Err(format!(
                "must be an IP address and a port, like \"127.0.0.1:8081\" or \"[::]:8081\", not {value}"
            )),
        },
        Kind::Address => text()?.parse::<HostPort>().map(drop),
        Kind::Duration { min, max } => {
            let duration = parse_duration(text()?).map_err(|e| e.to_string())?;
            if duration < min {
                Err(format!("must be at least {}", format_duration(min)))
            } else if duration > max {
                Err(format!("must be at most {}", format_duration(max)))
            } else {
                Ok(())
            }
        }
        Kind::Integer { min, max } => {
            let number = value
                .as_integer()
                .ok_or_else(|| format!("must be a whole number, not {}", value.type_str()))?;
            if number < i64::from(min) {
                Err(format!("must be at least {min}"))
            } else if number > i64::from(max) {
                Err(format!("must be at most {max}"))
            } else {
                Ok(())
            }
        }
        Kind::Bool => match value.as_bool() {
            Some(_) => Ok(()),
            None => Err(format!("must be true or false, not {}", value.type_str())),
        },
        Kind::Choice { of } => {
            let text = text()?;
            if of.contains(&text) {
                return Ok(());
            }
            let hint = closest(text, of.iter().copied())
                .map(|word| format!("; did you mean \"{word}\"?"))
                .unwrap_or_default();
            Err(format!("must be {}{hint}", choices(of)))
        }
        Kind::Texts { items_max } => each(value, items_max, |text| check_text(text, 2_048)),
        Kind::Addresses { items_max } => {
            each(value, items_max, |text| text.parse::<HostPort>().map(drop))
        }
        Kind::Ranges { items_max } => each(value, items_max, |text| text.parse::<Cidr>().map(drop)),
    }
}

fn each(
    value: &Value,
    items_max: usize,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<(), String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("must be a list, not {}", value.type_str()))?;
    if items.len() > items_max {
        return Err(format!(
            "has {} items; at most {items_max} are allowed",
            items.len()
        ));
    }
    for (at, item) in items.iter().enumerate() {
        let text = item
            .as_str()
            .ok_or_else(|| format!("item {} must be a string, not {}", at + 1, item.type_str()))?;
        check(text).map_err(|message| format!("item {} {message}", at + 1))?;
    }
    Ok(())
}

fn check_text(text: &str, bytes_max: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > bytes_max {
        return Err(format!(
            "has {} bytes; at most {bytes_max} are allowed",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}

fn choices(of: &[&str]) -> String {
    let quoted: Vec<String> = of.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// The word a person probably meant, if any is near enough.
fn closest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (strsim::damerau_levenshtein(written, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len().min(written.len()) / 4)
        .min()
        .map(|(_, word)| word)
}

fn unknown_key(prefix: &str, name: &str) -> String {
    // First a neighbour in the same section, then the same name elsewhere.
    let siblings: BTreeSet<&str> = KEYS
        .iter()
        .filter_map(|key| {
            let rest = if prefix.is_empty() {
                key.path
            } else {
                key.path.strip_prefix(prefix)?.strip_prefix('.')?
            };
            rest.split('.').next()
        })
        .collect();
    if let Some(near) = closest(name, siblings.into_iter()) {
        return format!("unknown key; did you mean `{near}`?");
    }
    let elsewhere = KEYS
        .iter()
        .map(|key| key.path)
        .find(|path| path.rsplit('.').next() == Some(name));
    match elsewhere {
        Some(path) => format!("unknown key; did you mean `{path}`?"),
        None => "unknown key".to_owned(),
    }
}

fn get<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table()?.get(part))
}

fn set(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = table
                .entry(head)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .expect("prune left nothing but tables where sections stand");
            set(inner, rest, value);
        }
    }
}

fn literal_value(literal: &str) -> Value {
    format!("v = {literal}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .expect("defaults are TOML literals; a test parses each")
}

/// The manual's table of keys, as it stands in `docs/configuration.md`.
pub fn manual() -> String {
    let mut text =
        String::from("| key | type and bounds | default | meaning |\n| --- | --- | --- | --- |\n");
    for key in KEYS {
        let default = match key.default {
            Required => "required".to_owned(),
            Literal(literal) => format!("`{literal}`"),
            Absent(words) => words.to_owned(),
        };
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            key.path,
            describe(key.kind),
            default,
            key.meaning
        ));
    }
    text
}

fn describe(kind: Kind) -> String {
    match kind {
        Kind::Text { bytes_max } => format!("string, at most {bytes_max} bytes"),
        Kind::Path => "path".to_owned(),
        Kind::Bind => "IP address and port".to_owned(),
        Kind::Address => "host and port".to_owned(),
        Kind::Duration { min, max } => {
            format!(
                "duration, {} to {}",
                format_duration(min),
                format_duration(max)
            )
        }
        Kind::Integer { min, max } => format!("integer, {min} to {max}"),
        Kind::Bool => "true or false".to_owned(),
        Kind::Choice { of } => choices(of),
        Kind::Texts { items_max } => format!("list of strings, at most {items_max}"),
        Kind::Addresses { items_max } => format!("list of host and port, at most {items_max}"),
        Kind::Ranges { items_max } => format!("list of IP ranges, at most {items_max}"),
    }
}
