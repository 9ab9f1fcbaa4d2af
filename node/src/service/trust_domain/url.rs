//! The URL of a bundle endpoint: `https`, with a host, without user information.
//!
//! Kept as it was written, so what is stored is what was checked: characters that a URL
//! would have to escape are refused instead of escaped.

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Why text is not the URL of a bundle endpoint. The words are SPIRE's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::service) enum UrlError {
    #[error("failed to parse bundle endpoint URL: parse {url:?}: {why}")]
    Malformed { url: String, why: String },
    #[error("failed to parse bundle endpoint URL: longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("bundle endpoint URL must use the https scheme")]
    NotHttps,
    #[error("bundle endpoint URL must specify the host")]
    NoHost,
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
}

/// The URL with its scheme in lower case.
pub(super) fn parse(text: &str) -> Result<String, UrlError> {
    if text.len() > URL_BYTES_MAX {
        return Err(UrlError::TooLong);
    }
    let malformed = |why: String| UrlError::Malformed {
        url: text.to_owned(),
        why,
    };
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(malformed(
            "net/url: invalid control character in URL".into(),
        ));
    }
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    if !scheme.eq_ignore_ascii_case("https") {
        return Err(UrlError::NotHttps);
    }
    let rest = rest.strip_prefix("//").ok_or(UrlError::NoHost)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => (true, host),
        None => (false, authority),
    };
    let named = check_host(host).map_err(malformed)?;
    check_rest(behind).map_err(malformed)?;
    if !named {
        return Err(UrlError::NoHost);
    }
    if user {
        return Err(UrlError::UserInfo);
    }
    Ok(format!("https://{rest}"))
}

/// Characters that need no escape, and percent signs with two hexadecimal digits.
fn check_rest(rest: &str) -> Result<(), String> {
    if let Some(odd) = rest.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(format!("invalid character {odd:?} in URL"));
    }
    let bytes = rest.as_bytes();
    for (at, _) in rest.match_indices('%') {
        let digits = bytes.get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let escape = &rest[at..rest.len().min(at + 3)];
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    Ok(())
}

/// A name or an address, in brackets if it is of version 6, and perhaps a port; whether
/// there is one.
fn check_host(host: &str) -> Result<bool, String> {
    let (name, port) = if let Some(bracketed) = host.strip_prefix('[') {
        let (address, port) = bracketed
            .split_once(']')
            .ok_or_else(|| "missing ']' in host".to_owned())?;
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("invalid host {host:?}"));
        }
        (address, port)
    } else {
        let end = host.find(':').unwrap_or(host.len());
        let (name, port) = host.split_at(end);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if let Some(odd) = name.chars().find(|c| !allowed(*c)) {
            let odd = odd.to_string();
            return Err(format!("invalid character {odd:?} in host name"));
        }
        (name, port)
    };
    let valid = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.is_empty() || digits.parse::<u16>().is_ok(),
    };
    if !valid {
        return Err(format!("invalid port {port:?} after host"));
    }
    Ok(!name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_kept_as_it_was_written() {
        for url in [
            "https://a.test",
            "https://a.test/",
            "https://a.test:8443/p/a%20th?q=1#f",
            "https://127.0.0.1:8443",
            "https://[2001:db8::1]:8443/x",
            "https://a.test:",
            "https://a.test/x@y:z",
        ] {
            assert_eq!(parse(url), Ok(url.to_owned()));
        }
        assert_eq!(parse("HTTPS://A.test"), Ok("https://A.test".to_owned()));
    }

    #[test]
    fn every_other_url_is_refused_in_the_words_of_spire() {
        let text = |url: &str| parse(url).map_err(|error| error.to_string());
        let scheme = "bundle endpoint URL must use the https scheme";
        for url in ["", "http://a.test", "a.test", "/a", "spiffe://a.test"] {
            assert_eq!(text(url), Err(scheme.to_owned()), "{url}");
        }
        let host = "bundle endpoint URL must specify the host";
        for url in [
            "https:",
            "https://",
            "https:///p",
            "https:a.test",
            "https://:8443",
            "https://u@",
        ] {
            assert_eq!(text(url), Err(host.to_owned()), "{url}");
        }
        let user = "bundle endpoint URL must not contain user info";
        for url in ["https://u@a.test", "https://u:p@a.test/", "https://@a.test"] {
            assert_eq!(text(url), Err(user.to_owned()), "{url}");
        }
        for url in [
            "https://a b",
            "https://a.test/\n",
            "https://ä.test",
            "https://a.test/%2",
            "https://a.test/%zz",
            "https://a.test:x",
            "https://a.test:70000",
            "https://[::1",
            "https://[x]",
            "https://[::1]x",
            "https://a<b",
            &format!("https://a.test/{}", "x".repeat(2048)),
        ] {
            let refused = text(url).err().unwrap_or_default();
            assert!(
                refused.starts_with("failed to parse bundle endpoint URL: "),
                "{url}: {refused}"
            );
        }
        let exact = |url: &str| text(url).err().unwrap_or_default();
        assert_eq!(
            exact("https://fed test/%zz"),
            "failed to parse bundle endpoint URL: parse \"https://fed test/%zz\": invalid \
             character \" \" in host name"
        );
        assert_eq!(
            exact("https://a.test/%zz"),
            "failed to parse bundle endpoint URL: parse \"https://a.test/%zz\": invalid URL \
             escape \"%zz\""
        );
    }
}
