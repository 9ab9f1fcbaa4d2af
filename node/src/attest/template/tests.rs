#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chancery_identity::pki::Certificate;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Vectors {
    certificate: String,
    trust_domain: String,
    svid_path_trimmed: String,
    uri_san_selectors: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    result: Option<String>,
}

/// Made by Go's `text/template` with sprig's functions; see the file's first lines.
fn vectors() -> Vectors {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/path_templates.json"
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn with_data<T>(run: impl FnOnce(&Data<'_>) -> T) -> T {
    let vectors = vectors();
    let der = STANDARD.decode(&vectors.certificate).unwrap();
    let certificate = Certificate::parse(&der).unwrap();
    run(&Data {
        certificate: &certificate,
        plugin_name: "x509pop",
        fingerprint: certificate.fingerprint(),
        serial_number_hex: hex::encode(certificate.serial()),
        trust_domain: &vectors.trust_domain,
        svid_path_trimmed: vectors.svid_path_trimmed,
        uri_san_selectors: vectors.uri_san_selectors,
    })
}

fn rendered(source: &str, data: &Data<'_>) -> Result<String, String> {
    let template = Template::parse(source).map_err(|e| e.to_string())?;
    template.render(data).map_err(|e| e.to_string())
}

#[test]
fn templates_mean_what_they_mean_in_go() {
    let cases = vectors().cases;
    assert!(cases.len() > 1_000, "{}", cases.len());
    let mut wrong = Vec::new();
    let mut unsupported = 0;
    with_data(|data| {
        for Case { template, result } in &cases {
            match (rendered(template, data), result) {
                (Ok(ours), Some(theirs)) if ours == *theirs => {}
                (Err(_), None) => {}
                // An error is never another meaning.
                (Err(why), Some(_)) if why.contains("support") || why.contains("regexp") => {
                    unsupported += 1;
                }
                (ours, theirs) => {
                    wrong.push(format!("{template}\n  ours {ours:?}\n  Go   {theirs:?}"))
                }
            }
        }
    });
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert!(
        unsupported < 60,
        "{unsupported} templates are not supported"
    );
}

#[test]
fn what_is_not_supported_is_named() {
    for (source, named) in [
        ("{{ .Raw }}", "field .Raw is not supported"),
        (
            "{{ .Subject.Names }}",
            "field .Subject.Names is not supported",
        ),
        (
            "{{ .NotBefore.Format \"x\" }}",
            "field .NotBefore.Format is not supported",
        ),
        ("{{ .DNSNames.x }}", "field .DNSNames.x is not supported"),
        ("{{ (index .URIs 0).User }}", "field .User is not supported"),
        ("{{ dict \"a\" 1 }}", "function \"dict\" is not supported"),
        ("{{ uuidv4 }}", "function \"uuidv4\" is not supported"),
        ("{{ env \"HOME\" }}", "function \"env\" not defined"),
        (
            "{{ range .DNSNames }}{{ end }}",
            "{{range}} is not supported",
        ),
        ("{{ with .Subject }}{{ end }}", "{{with}} is not supported"),
        ("{{ template \"x\" }}", "{{template}} is not supported"),
        ("{{ . }}", "the whole data (.) cannot be used; name a field"),
        (
            "{{ upper }}",
            "wrong number of args for upper: want 1 got 0",
        ),
        (
            "{{ \"a\" | trunc }}",
            "wrong number of args for trunc: want 2 got 1",
        ),
    ] {
        assert_eq!(
            Template::parse(source).unwrap_err().to_string(),
            named,
            "{source}"
        );
    }
}

#[test]
fn a_template_has_bounds() {
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(40), ")".repeat(40));
    assert!(Template::parse(&deep).is_err());
    let ifs = "{{ if true }}".repeat(40) + &"{{ end }}".repeat(40);
    assert!(Template::parse(&ifs).is_err());
    assert!(Template::parse(&"x".repeat(SOURCE_BYTES_MAX + 1)).is_err());
    with_data(|data| {
        for source in [
            "{{ repeat 3000 \"a\" }}",
            "{{ repeat 9000000000 \"abc\" | len }}",
            "{{ $a := repeat 1000 \"abcdefgh\" }}{{ $b := repeat 1000 $a }}x",
            "{{ wrapWith 1 (repeat 1000 \"x\") (repeat 1000 \"y\") | len }}",
            "{{ replace \"\" (repeat 10000 \"x\") (repeat 1000 \"y\") | len }}",
            "{{ regexReplaceAll \"\" (repeat 1000 \"x\") (repeat 10000 \"y\") | len }}",
            "{{ regexMatch \"((a{100}){100}){100}\" \"a\" }}",
            "{{ indent 100000000 \"x\" | len }}",
            "{{ seq 1 1000000000 | len }}",
        ] {
            assert!(rendered(source, data).is_err(), "{source}");
        }
        let many = "{{ regexMatch \"a\" \"a\" }}".repeat(60);
        assert!(rendered(&many, data).is_err());
    });
}

#[test]
fn no_character_is_cut_in_two() {
    with_data(|data| {
        for source in [
            "{{ trunc 1 \"é\" }}",
            "{{ substr 1 2 \"é\" }}",
            "{{ b64dec \"/w==\" }}",
            "{{ snakecase \"é\" }}",
        ] {
            assert!(rendered(source, data).is_err(), "{source}");
        }
    });
}
