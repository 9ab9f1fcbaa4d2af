//! Targets over `chancery-node`: the configuration file, path templates, and what agents
//! present.

use std::collections::BTreeMap;
use std::str::from_utf8;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chancery_identity::id::TrustDomain;
use chancery_identity::pki::Certificate;
use chancery_node::attest::join_token::JoinToken;
use chancery_node::attest::template::{Data, OUTPUT_BYTES_MAX, Template};
use chancery_node::attest::x509pop::{Settings, read_payload, wire};
use chancery_node::config::{Config, format_duration, parse_duration};

/// The targets of this module.
pub const TARGETS: &[super::Target] = &[
    ("config", config),
    ("duration", duration),
    ("join_token", join_token),
    ("attestation_payload", attestation_payload),
    ("challenge_response", challenge_response),
    ("path_template", path_template),
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

/// A duration that is read is written so that it reads back.
pub fn duration(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
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
