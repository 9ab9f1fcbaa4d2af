//! Targets over `chancery-node`: the configuration file and what agents present.

use std::str::from_utf8;

use chancery_identity::id::TrustDomain;
use chancery_node::attest::join_token::JoinToken;
use chancery_node::config::{Config, format_duration, parse_duration};
use chancery_node::issue::Subject;

/// The targets of this module.
pub const TARGETS: &[super::Target] = &[
    ("config", config),
    ("duration", duration),
    ("join_token", join_token),
    ("subject", subject),
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
