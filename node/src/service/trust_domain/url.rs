//! The URL of a bundle endpoint: `https`, with a host, without user information.
//!
//! Kept as it was written, so what is stored is what was checked: characters that a URL
//! would have to escape are refused instead of escaped.

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Why text is not the URL of a bundle endpoint. The words are SPIRE's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::service) enum UrlError {
    #[error("failed to parse bundle endpoint URL: {0}")]
    Malformed(&'static str),
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
        return Err(UrlError::Malformed("longer than 2048 bytes"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UrlError::Malformed("invalid character in URL"));
    }
    check_escapes(text)?;
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    if !scheme.eq_ignore_ascii_case("https") {
        return Err(UrlError::NotHttps);
    }
    let rest = rest.strip_prefix("//").ok_or(UrlError::NoHost)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => (true, host),
        None => (false, authority),
    };
    check_host(host)?;
    if user {
        return Err(UrlError::UserInfo);
    }
    Ok(format!("https://{rest}"))
}

/// Every percent sign is followed by two hexadecimal digits.
fn check_escapes(text: &str) -> Result<(), UrlError> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        let digits = bytes.get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(UrlError::Malformed("invalid URL escape"));
        }
    }
    Ok(())
}

/// A name or an address, in brackets if it is of version 6, and perhaps a port.
fn check_host(host: &str) -> Result<(), UrlError> {
    let (name, port) = if let Some(bracketed) = host.strip_prefix('[') {
        let (address, port) = bracketed
            .split_once(']')
            .ok_or(UrlError::Malformed("missing ']' in host"))?;
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(UrlError::Malformed("invalid host"));
        }
        (address, port)
    } else {
        let end = host.find(':').unwrap_or(host.len());
        let (name, port) = host.split_at(end);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if !name.bytes().all(allowed) {
            return Err(UrlError::Malformed("invalid character in host name"));
        }
        (name, port)
    };
    if name.is_empty() {
        return Err(UrlError::NoHost);
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if digits.is_empty() || digits.parse::<u16>().is_ok() => Ok(()),
        _ => Err(UrlError::Malformed("invalid port after host")),
    }
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
            let refused = text(url).unwrap_err();
            assert!(
                refused.starts_with("failed to parse bundle endpoint URL: "),
                "{url}: {refused}"
            );
        }
    }
}
