#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

#[test]
fn valid_ids_keep_their_parts() {
    for (text, domain, path) in [
        ("spiffe://example.org", "example.org", ""),
        ("spiffe://example.org/a", "example.org", "/a"),
        ("spiffe://e_x-1.org/A.b/_-/...", "e_x-1.org", "/A.b/_-/..."),
        ("spiffe://10.0.0.1/x", "10.0.0.1", "/x"),
    ] {
        let parsed = id(text);
        assert_eq!(parsed.trust_domain_name(), domain);
        assert_eq!(parsed.trust_domain(), td(domain));
        assert_eq!(parsed.path(), path);
        assert_eq!(parsed.to_string(), text);
        assert_eq!(SpiffeId::new(&td(domain), path), Ok(parsed));
    }
}

#[test]
fn each_syntax_rule_refuses_what_breaks_it() {
    let long_path = format!("spiffe://td/{}", "a".repeat(2048 - 12 + 1));
    let long_domain = format!("spiffe://{}/a", "a".repeat(256));
    for (text, error) in [
        ("", IdError::Empty),
        ("example.org/a", IdError::WrongScheme),
        ("SPIFFE://example.org/a", IdError::WrongScheme),
        ("spiffe:/example.org/a", IdError::WrongScheme),
        ("https://example.org/a", IdError::WrongScheme),
        ("spiffe://", IdError::MissingTrustDomain),
        ("spiffe:///a", IdError::MissingTrustDomain),
        ("spiffe://Example.org/a", IdError::BadTrustDomainChar),
        ("spiffe://example.org:443/a", IdError::BadTrustDomainChar),
        ("spiffe://user@example.org/a", IdError::BadTrustDomainChar),
        ("spiffe://exämple.org/a", IdError::BadTrustDomainChar),
        ("spiffe://example.org?x", IdError::BadTrustDomainChar),
        ("spiffe://example%2eorg/a", IdError::BadTrustDomainChar),
        ("spiffe://example.org/a?b", IdError::BadPathChar),
        ("spiffe://example.org/a#b", IdError::BadPathChar),
        ("spiffe://example.org/a%20b", IdError::BadPathChar),
        ("spiffe://example.org/a b", IdError::BadPathChar),
        ("spiffe://example.org/é", IdError::BadPathChar),
        ("spiffe://example.org/", IdError::TrailingSlash),
        ("spiffe://example.org/a/", IdError::TrailingSlash),
        ("spiffe://example.org//a", IdError::EmptySegment),
        ("spiffe://example.org/a//b", IdError::EmptySegment),
        ("spiffe://example.org/./a", IdError::DotSegment),
        ("spiffe://example.org/a/..", IdError::DotSegment),
        (long_path.as_str(), IdError::TooLong),
        (long_domain.as_str(), IdError::TrustDomainTooLong),
    ] {
        assert_eq!(SpiffeId::parse(text), Err(error), "{text}");
    }
}

#[test]
fn the_limits_themselves_are_allowed() {
    assert!(SpiffeId::parse(&format!("spiffe://td/{}", "a".repeat(2048 - 12))).is_ok());
    assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
}

#[test]
fn joined_paths_are_checked_like_parsed_ones() {
    let domain = td("example.org");
    assert_eq!(SpiffeId::new(&domain, "a"), Err(IdError::NoLeadingSlash));
    assert_eq!(SpiffeId::new(&domain, "/../b"), Err(IdError::DotSegment));
    assert_eq!(
        SpiffeId::new(&domain, &format!("/{}", "a".repeat(2048))),
        Err(IdError::TooLong)
    );
    assert_eq!(SpiffeId::agent(&domain, ""), Err(IdError::NoLeadingSlash));
    assert_eq!(SpiffeId::agent(&domain, "x"), Err(IdError::NoLeadingSlash));
    assert_eq!(
        SpiffeId::agent(&domain, "/join_token/t").unwrap().as_str(),
        "spiffe://example.org/spire/agent/join_token/t"
    );
    assert_eq!(
        SpiffeId::server(&domain).as_str(),
        "spiffe://example.org/spire/server"
    );
    assert_eq!(
        SpiffeId::of_trust_domain(&domain).as_str(),
        domain.id_string()
    );
}

#[test]
fn upper_case_trust_domains_are_refused_everywhere() {
    assert_eq!(
        TrustDomain::parse("Example.org"),
        Err(IdError::BadTrustDomainChar)
    );
    assert_eq!(
        TrustDomain::parse_name_or_id("spiffe://Example.org"),
        Err(IdError::BadTrustDomainChar)
    );
}

#[test]
fn trust_domains_are_read_from_names_and_from_ids() {
    for text in [
        "example.org",
        "spiffe://example.org",
        "spiffe://example.org/a",
    ] {
        assert_eq!(TrustDomain::parse_name_or_id(text), Ok(td("example.org")));
    }
    assert_eq!(
        TrustDomain::parse_name_or_id("https://example.org"),
        Err(IdError::WrongScheme)
    );
    assert_eq!(
        TrustDomain::parse_name_or_id(""),
        Err(IdError::MissingTrustDomain)
    );
}

#[test]
fn refusals_have_the_text_of_spire() {
    let domain = td("example.org");
    let message = |result: Result<(), IdError>| result.unwrap_err().to_string();
    assert_eq!(
        message(id("spiffe://x/y").require_member(&domain)),
        r#""spiffe://x/y" is not a member of trust domain "example.org""#
    );
    assert_eq!(
        message(id("spiffe://example.org").require_member(&domain)),
        r#""spiffe://example.org" is not a member of trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        message(id("spiffe://example.org").require_workload(&domain)),
        r#""spiffe://example.org" is not a workload in trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        message(id("spiffe://example.org/spire/x").require_workload(&domain)),
        r#""spiffe://example.org/spire/x" is not a workload in trust domain "example.org"; path is in the reserved namespace"#
    );
    assert_eq!(
        message(id("spiffe://example.org").require_agent(&domain)),
        r#""spiffe://example.org" is not an agent in trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        message(id("spiffe://example.org/a").require_agent(&domain)),
        r#""spiffe://example.org/a" is not an agent in trust domain "example.org"; path is not in the agent namespace"#
    );
}

#[test]
fn the_reserved_namespace_is_spire_and_below_only() {
    for (path, reserved) in [
        ("/spire", true),
        ("/spire/server", true),
        ("/spire/agent/a", true),
        ("/spirex", false),
        ("/a/spire", false),
        ("/Spire", false),
    ] {
        let parsed = SpiffeId::new(&td("td"), path).unwrap();
        assert_eq!(parsed.is_reserved(), reserved, "{path}");
        assert_eq!(parsed.require_workload(&td("td")).is_ok(), !reserved);
    }
    assert!(!id("spiffe://td/spire/agent").is_agent());
    assert!(id("spiffe://td/spire/agent/a").is_agent());
}

proptest! {
    #[test]
    fn what_parses_prints_as_it_was(text in "spiffe://[a-zA-Z0-9._%-]{0,8}(/[a-zA-Z0-9._%-]{0,4}){0,4}") {
        if let Ok(parsed) = SpiffeId::parse(&text) {
            prop_assert_eq!(parsed.to_string(), text);
            let rebuilt = SpiffeId::new(&parsed.trust_domain(), parsed.path()).unwrap();
            prop_assert_eq!(&rebuilt, &parsed);
        }
    }

    #[test]
    fn every_well_formed_id_parses(name in "[a-z0-9_-]{1,20}", path in "(/[a-zA-Z0-9_-]{1,10}){0,5}") {
        let parsed = SpiffeId::parse(&format!("spiffe://{name}{path}")).unwrap();
        prop_assert_eq!(parsed.trust_domain_name(), name);
        prop_assert_eq!(parsed.path(), path);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,64}") {
        let _ = SpiffeId::parse(&text);
        let _ = TrustDomain::parse_name_or_id(&text);
    }
}
