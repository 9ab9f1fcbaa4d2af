//! DNS names that an entry may put into a certificate.
//!
//! A name becomes a subject alternative name byte for byte, so what is accepted is
//! what a verifier will compare: ASCII, RFC 1123 labels plus the underscore that
//! SPIRE admits, at most one wildcard and only as the whole first label. Names are
//! not folded to lower case and A-labels (`xn--`) are not decoded: only their
//! characters and lengths are checked.

use std::collections::BTreeSet;

/// Longest DNS name, in bytes (RFC 1035 §2.3.4, without the root label).
const NAME_BYTES_MAX: usize = 253;
/// Longest label, in bytes (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Why a DNS name is refused. The text is SPIRE's, after its `invalid DNS name: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// The name has a character outside ASCII; A-labels are the way to write it.
    #[error("name must be ascii")]
    NotAscii,
    /// More than one asterisk.
    #[error("too many wildcards")]
    TooManyWildcards,
    /// The asterisk is not the whole first label.
    #[error("wildcard must be first label")]
    WildcardNotFirst,
    /// Nothing is left to name.
    #[error("empty or only whitespace")]
    Empty,
    /// The name ends with a dot.
    #[error("domain ends with dot")]
    EndsWithDot,
    /// A label breaks the rules for labels, or the whole name is too long.
    #[error("idna error\nidna: invalid label \"{}\"", .0.escape_default())]
    InvalidLabel(String),
    /// A wildcard in the list covers another name of the list.
    #[error("name \"{0}\" overlaps with an existing wildcard name in the list: wildcard overlap")]
    WildcardOverlap(String),
}

/// Checks one name.
///
/// # Errors
/// Every variant of [`DnsNameError`] but the overlap.
pub fn validate(name: &str) -> Result<(), DnsNameError> {
    if !name.is_ascii() {
        return Err(DnsNameError::NotAscii);
    }
    let plain = match name.bytes().filter(|byte| *byte == b'*').count() {
        0 => name,
        1 => name
            .strip_prefix("*.")
            .ok_or(DnsNameError::WildcardNotFirst)?,
        _ => return Err(DnsNameError::TooManyWildcards),
    };
    if plain.trim().is_empty() {
        return Err(DnsNameError::Empty);
    }
    if plain.ends_with('.') {
        return Err(DnsNameError::EndsWithDot);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(DnsNameError::InvalidLabel(name.to_owned()));
    }
    match plain.split('.').find(|label| !is_label(label)) {
        // An empty label has no text: SPIRE shows the name it stands in.
        Some("") => Err(DnsNameError::InvalidLabel(plain.to_owned())),
        Some(label) => Err(DnsNameError::InvalidLabel(label.to_owned())),
        None => Ok(()),
    }
}

/// Refuses a list in which a wildcard covers one of the other names, as SPIRE does
/// for certificates minted from a CSR.
///
/// # Errors
/// [`DnsNameError::WildcardOverlap`] with the covered name.
pub fn check_wildcard_overlap(names: &[String]) -> Result<(), DnsNameError> {
    let all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for name in &all {
        if let Some((first, rest)) = name.split_once('.')
            && first != "*"
            && all.contains(format!("*.{rest}").as_str())
        {
            return Err(DnsNameError::WildcardOverlap((*name).to_owned()));
        }
    }
    Ok(())
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    // RFC 5891 §4.2.3.1: hyphens in the third and fourth place mean an A-label.
    let reserved = bytes.len() > 4 && &bytes[2..4] == b"--" && !label.starts_with("xn--");
    !bytes.is_empty()
        && bytes.len() <= LABEL_BYTES_MAX
        && bytes.iter().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && !reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_for_a_certificate_are_accepted() {
        for name in [
            "com",
            "example.com",
            "*.example.com",
            "a-hello.com",
            "xn--ls8h.org",
            "_sip.example.com",
            "A.Example.com",
            "1.2.3.4",
        ] {
            assert_eq!(validate(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn each_rule_refuses_what_breaks_it() {
        let label = |text: &str| DnsNameError::InvalidLabel(text.to_owned());
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for (name, error) in [
            ("", DnsNameError::Empty),
            (" ", DnsNameError::Empty),
            ("*.", DnsNameError::Empty),
            (".", DnsNameError::EndsWithDot),
            ("example.com.", DnsNameError::EndsWithDot),
            ("*.foo.*.bar", DnsNameError::TooManyWildcards),
            ("foo.*.bar", DnsNameError::WildcardNotFirst),
            ("*", DnsNameError::WildcardNotFirst),
            ("*foo.bar", DnsNameError::WildcardNotFirst),
            ("exämple.com", DnsNameError::NotAscii),
            ("-hello.com", label("-hello")),
            ("hello-.com", label("hello-")),
            ("ab--c.com", label("ab--c")),
            ("a..b", label("a..b")),
            ("a b.com", label("a b")),
            ("a/b", label("a/b")),
            (long_label.as_str(), label(&long_label)),
            (long_name.as_str(), label(&long_name)),
        ] {
            assert_eq!(validate(name), Err(error), "{name}");
        }
    }

    #[test]
    fn a_wildcard_may_not_cover_another_name() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            check_wildcard_overlap(&list(&["example.com", "*.example.com"])),
            Ok(())
        );
        assert_eq!(
            check_wildcard_overlap(&list(&["*.example.com", "foo.bar.example.com"])),
            Ok(())
        );
        for names in [
            ["foo.example.com", "*.example.com"],
            ["*.example.com", "foo.example.com"],
        ] {
            assert_eq!(
                check_wildcard_overlap(&list(&names)),
                Err(DnsNameError::WildcardOverlap("foo.example.com".to_owned()))
            );
        }
    }
}
