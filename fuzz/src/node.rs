//! Targets over `chancery-node`: the configuration file, what agents present, and what
//! proxies say of them.

use std::str::from_utf8;

use chancery_identity::id::TrustDomain;
use chancery_node::attest::join_token::JoinToken;
use chancery_node::config::{Config, format_duration, parse_duration};
use chancery_node::transport::proxy::{HEADER_BYTES_MAX, Parsed, parse};

/// The targets of this module.
pub const TARGETS: &[super::Target] = &[
    ("config", config),
    ("duration", duration),
    ("join_token", join_token),
    ("proxy_header", proxy_header),
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
