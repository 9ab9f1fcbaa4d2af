//! Targets over `chancery-node`: the configuration file, path templates, what agents
//! present, what proxies say of them, and the files that verbs read.

use std::collections::BTreeMap;
use std::str::from_utf8;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chancery_identity::bundle::{JwtAuthority, X509Authority};
use chancery_identity::id::TrustDomain;
use chancery_identity::pki::Certificate;
use chancery_node::attest::join_token::JoinToken;
use chancery_node::attest::template::{Data, OUTPUT_BYTES_MAX, Template};
use chancery_node::attest::x509pop::{Settings, read_payload, wire};
use chancery_node::cluster::token::NodeToken;
use chancery_node::config::{Config, format_duration, parse_duration};
use chancery_node::issue::Subject;
use chancery_node::ledger::debts;
use chancery_node::migrate::{expand, translate};
use chancery_node::service::inputs;
use chancery_node::service::moment;
use chancery_node::service::page::PageRequest;
use chancery_node::transport::proxy::{HEADER_BYTES_MAX, Parsed, parse};

/// The targets of this module.
pub const TARGETS: &[super::Target] = &[
    ("config", config),
    ("duration", duration),
    ("join_token", join_token),
    ("node_token", node_token),
    ("subject", subject),
    ("page_token", page_token),
    ("moment", moment),
    ("unnoted_holders", unnoted_holders),
    ("relationship", relationship),
    ("spire_config", spire_config),
    ("attestation_payload", attestation_payload),
    ("challenge_response", challenge_response),
    ("path_template", path_template),
    ("proxy_header", proxy_header),
    ("cli_input", cli_input),
];

/// A configuration file is valid or has problems that can be told, the same each time.
pub fn config(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Err(errors) = Config::parse(text, "fuzz.toml") {
        assert!(!errors.problems.is_empty());
        assert!(errors.to_string().starts_with("fuzz.toml: "));
        assert_eq!(Config::parse(text, "fuzz.toml").err(), Some(errors));
    }
}

/// A node token that is read is written so that it reads back, and names members by whole keys.
pub fn node_token(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Ok(token) = NodeToken::decode(text) {
        assert!(token.members.iter().all(|m| m.spki_sha256.len() == 32));
        assert!(NodeToken::decode(&token.encode()).is_ok_and(|again| again == token));
    }
}

/// A duration that is read is written so that it reads back.
pub fn duration(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
}

/// A configuration of SPIRE's is told to be none, or becomes one of ours in which nothing is wrong
/// but keys that are left open.
pub fn spire_config(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let expanded = expand(text, |name| Some(name.to_owned())).text;
    for text in [text, expanded.as_str()] {
        let Ok(translation) = translate(text, "server.conf") else {
            continue;
        };
        assert_eq!(
            translate(text, "server.conf").as_ref(),
            Ok(&translation),
            "the same each time"
        );
        for remark in &translation.remarks {
            let line = remark.to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        match Config::parse(&translation.toml, "server.conf") {
            Ok(_) => assert!(translation.left_open.is_empty()),
            Err(errors) => {
                // A value that is written was judged; what is between keys is theirs to mend.
                assert_eq!(errors.problems, translation.left_open);
                for problem in &errors.problems {
                    assert!(!problem.path.is_empty(), "{problem}");
                }
            }
        }
    }
}

/// A join token names one agent, one segment below the method's path.
pub fn join_token(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let trust_domain = TrustDomain::parse("example.org").expect("the constant is a name");
    let Ok(token) = JoinToken::parse(&trust_domain, text) else {
        return;
    };
    let id = token.agent_id();
    assert_eq!(id.require_agent(&trust_domain), Ok(()));
    assert_eq!(id.path(), format!("/spire/agent/join_token/{text}"));
    assert_eq!(id.path().split('/').count(), 5);
    // The secret is not shown. (A short one may stand in the digest by accident.)
    assert!(text.len() < 12 || !format!("{token:?}").contains(text));
}

/// The files of `entry`, `bundle` and `federation`, and the tokens of `jwt`.
pub fn cli_input(data: &[u8]) {
    chancery_node::cli::read_as_every_input(data);
}

/// The subject of a request: what is read is written so that it reads back.
pub fn subject(data: &[u8]) {
    let Ok(subject) = Subject::from_name_der(data) else {
        return;
    };
    let written = subject.to_name_der().expect("what was read can be written");
    let again = Subject::from_name_der(&written).expect("what was written can be read");
    // The values of one attribute are a set, so their order may have changed, once.
    assert_eq!(again.to_name_der().ok(), Some(written));
    assert_eq!(again.is_empty(), subject.is_empty());
    assert_eq!(subject.to_string().is_empty(), subject.is_empty());
}

/// A page token is a number, and a page's own token is taken back.
pub fn page_token(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    assert_eq!(PageRequest::new("x", 0, text).ok(), Some(PageRequest::All));
    let Ok(request) = PageRequest::new("x", 5, text) else {
        assert!(text.parse::<u64>().is_err() || text.starts_with('+'));
        return;
    };
    let PageRequest::Page { size: 5, after } = request else {
        panic!("{text:?} made {request:?}")
    };
    assert!(text.bytes().all(|b| b.is_ascii_digit()));
    assert_eq!(
        PageRequest::new("x", 5, &after.to_string()).ok(),
        Some(request)
    );
}

/// A moment as the command line writes one: what is read is a second that has a date of
/// four digits, give or take a zone, and nothing behind it is overlooked.
pub fn moment(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let Some(second) = moment::parse(text) else {
        return;
    };
    const DAY: i64 = 86_400;
    // 0000-01-01 and 9999-12-31, and a zone of a day beyond either.
    assert!((-62_167_219_200 - 2 * DAY..253_402_300_800 + 2 * DAY).contains(&second));
    assert_eq!(moment::parse(&format!("{text} ")), None);
}

/// The file of what the ledger could not note: what is taken names authorities alone, and is
/// written so that it reads back equal.
pub fn unnoted_holders(data: &[u8]) {
    let Ok(notes) = debts::decode(data) else {
        return;
    };
    assert!(!notes.is_empty());
    assert!(
        notes
            .iter()
            .all(|note| note.authority.is_some() && note.path.is_empty())
    );
    let owed = debts::owed(&notes);
    let again = debts::decode(&debts::encode(&owed));
    assert!(again.is_ok_and(|again| debts::owed(&again) == owed));
}

/// A federation relationship with its bundle, as a caller sends it. What is taken is told
/// so that it is taken again and is the same, and holds nothing that an agent could not
/// read: it would drop the whole bundle.
pub fn relationship(data: &[u8]) {
    let Some(draft) = inputs::relationship(data) else {
        return;
    };
    let told = inputs::relationship_told(&draft);
    assert!(inputs::relationship(&told).as_ref() == Some(&draft));
    let stored = draft.relationship.expect("a draft has a relationship");
    assert!(TrustDomain::parse(&stored.trust_domain).is_ok());
    assert!(stored.endpoint_url.starts_with("https://") && stored.endpoint_url.is_ascii());
    let Some(bundle) = draft.bundle else { return };
    assert_eq!(bundle.trust_domain, stored.trust_domain);
    for root in bundle.x509_authorities {
        assert!(X509Authority::new(root.certificate, false).is_ok());
    }
    for key in bundle.jwt_authorities {
        let read = JwtAuthority::new(&key.public_key, key.key_id, key.expires_at, false);
        assert!(read.is_ok());
    }
}

/// A payload of x509pop holds certificates within the bounds, or is refused.
pub fn attestation_payload(data: &[u8]) {
    let settings = Settings {
        agent_path_template: None,
        max_intermediates: 2,
        max_rsa_key_size: 4_096,
        verify_client_ip: false,
    };
    if let Ok((leaf, intermediates)) = read_payload(data, &settings) {
        assert!(intermediates.len() <= 2);
        let sizes = intermediates
            .iter()
            .chain([&leaf])
            .map(|c| c.key().rsa_bits());
        assert!(sizes.flatten().all(|bits| bits <= 4_096));
    }
}

/// An answer to a challenge reads the same when it is written again as Go writes it.
pub fn challenge_response(data: &[u8]) {
    let Ok(response) = wire::read_response(data) else {
        return;
    };
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    let rsa = response.rsa.as_ref().map_or_else(
        || "null".to_owned(),
        |r| {
            format!(
                r#"{{"nonce":"{}","signature":"{}"}}"#,
                text(&r.nonce),
                text(&r.signature)
            )
        },
    );
    let ecdsa = response.ecdsa.as_ref().map_or_else(
        || "null".to_owned(),
        |e| {
            format!(
                r#"{{"nonce":"{}","r":"{}","s":"{}"}}"#,
                text(&e.nonce),
                text(&e.r),
                text(&e.s)
            )
        },
    );
    let written = format!(r#"{{"rsa_signature":{rsa},"ecdsa_signature":{ecdsa}}}"#);
    assert_eq!(wire::read_response(written.as_bytes()), Ok(response));
}

/// A template that parses gives the same bounded result each time, or the same error.
pub fn path_template(data: &[u8]) {
    static LEAF: OnceLock<Certificate> = OnceLock::new();
    let Ok(source) = from_utf8(data) else { return };
    let Ok(template) = Template::parse(source) else {
        return;
    };
    let leaf = LEAF.get_or_init(|| {
        let der = include_bytes!("../corpus/pki_certificate/names");
        Certificate::parse(der).expect("the corpus holds a certificate")
    });
    let data = Data {
        certificate: leaf,
        plugin_name: "x509pop",
        fingerprint: leaf.fingerprint(),
        serial_number_hex: "01".into(),
        trust_domain: "example.org",
        svid_path_trimmed: "host/1".into(),
        uri_san_selectors: BTreeMap::from([("rack".into(), "7".into())]),
    };
    let first = template.render(&data);
    assert!(
        first
            .as_ref()
            .is_ok_and(|path| path.len() <= OUTPUT_BYTES_MAX)
            || first.is_err()
    );
    assert_eq!(template.render(&data), first);
}

/// A PROXY header is read the same from its own bytes alone as with more behind it, and a
/// beginning of one asks for some of the rest and never for more than there is.
pub fn proxy_header(data: &[u8]) {
    let Ok(Parsed::Whole(header)) = parse(data) else {
        return;
    };
    let length = header.length;
    assert!(length <= data.len() && length <= HEADER_BYTES_MAX);
    for end in 0..length {
        match parse(&data[..end]) {
            Ok(Parsed::More(more)) => assert!(more > 0 && end + more <= length),
            other => panic!("{end} of {length} bytes: {other:?}"),
        }
    }
    assert_eq!(parse(&data[..length]), Ok(Parsed::Whole(header)));
    if let Some(client) = header.client {
        let version = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, port) = (client.ip(), client.port());
        let line = format!("PROXY {version} {ip} {ip} {port} {port}\r\n");
        let again = parse(line.as_bytes());
        assert!(matches!(again, Ok(Parsed::Whole(h)) if h.client == Some(client)));
    }
}
