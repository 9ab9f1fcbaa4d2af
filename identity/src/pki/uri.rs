//! URIs as certificates carry them, read the way Go's `net/url` reads them.
//!
//! Only what names and templates ask for: scheme, host, path, query, fragment. What
//! `net/url` refuses is refused; a few oddities that it takes are refused too.

/// Longest URI, in bytes.
const URI_BYTES_MAX: usize = 4096;

/// A URI of a subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    text: String,
    scheme: String,
    opaque: String,
    user: Option<String>,
    host: String,
    path: String,
    path_at: usize,
    path_length: usize,
    query: String,
    fragment: String,
}

/// Text that is no URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid URI")]
pub struct UriError;

impl Uri {
    /// Reads a URI reference.
    ///
    /// # Errors
    /// [`UriError`].
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > URI_BYTES_MAX || text.bytes().any(|b| b < 0x20 || b == 0x7f || b >= 0x80) {
            return Err(UriError);
        }
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, decoded(fragment)?),
            None => (text, String::new()),
        };
        let (scheme, after_scheme) = scheme(rest)?;
        let scheme_length = rest.len() - after_scheme.len();
        let (hierarchy, query) = after_scheme.split_once('?').unwrap_or((after_scheme, ""));
        let mut uri = Self {
            text: text.to_owned(),
            scheme,
            opaque: String::new(),
            user: None,
            host: String::new(),
            path: String::new(),
            path_at: scheme_length,
            path_length: 0,
            query: query.to_owned(),
            fragment,
        };
        if !uri.scheme.is_empty() && !hierarchy.starts_with('/') {
            hierarchy.clone_into(&mut uri.opaque);
            return Ok(uri);
        }
        let path = match hierarchy.strip_prefix("//") {
            // "///x" has an empty authority where there is a scheme, as "//" has.
            Some(after) if !uri.scheme.is_empty() || !after.starts_with('/') => {
                let end = after.find('/').unwrap_or(after.len());
                let (authority, path) = after.split_at(end);
                let (user, host) = match authority.rsplit_once('@') {
                    Some((user, host)) => (Some(user), host),
                    None => (None, authority),
                };
                if user.is_some_and(|user| !is_user(user)) {
                    return Err(UriError);
                }
                uri.user = user.map(str::to_owned);
                uri.host = checked_host(host)?;
                path
            }
            _ => {
                // A colon in the first segment of a reference would be a scheme.
                let first = hierarchy.split('/').next().unwrap_or_default();
                if uri.scheme.is_empty() && first.contains(':') {
                    return Err(UriError);
                }
                hierarchy
            }
        };
        uri.path = decoded(path)?;
        uri.path_at = scheme_length + hierarchy.len() - path.len();
        uri.path_length = path.len();
        Ok(uri)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Scheme, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What follows the scheme where that is no path.
    #[must_use]
    pub fn opaque(&self) -> &str {
        &self.opaque
    }

    /// User information, as written.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Host with its port, as written.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Host without port and without the brackets of an address.
    #[must_use]
    pub fn host_name(&self) -> &str {
        let host = split_port(&self.host).map_or(self.host.as_str(), |(host, _)| host);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        bare.unwrap_or(host)
    }

    /// Port, without the colon; empty where there is none.
    #[must_use]
    pub fn port(&self) -> &str {
        split_port(&self.host).map_or("", |(_, port)| port)
    }

    /// Path, percent signs resolved.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Path as written.
    #[must_use]
    pub fn escaped_path(&self) -> &str {
        &self.text[self.path_at..self.path_at + self.path_length]
    }

    /// Query, as written.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    /// Fragment, percent signs resolved.
    #[must_use]
    pub fn fragment(&self) -> &str {
        &self.fragment
    }
}

/// Scheme in lower case and the rest. Without a scheme all is rest.
fn scheme(text: &str) -> Result<(String, &str), UriError> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at > 0 => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            b':' => return Err(UriError),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn decoded(text: &str) -> Result<String, UriError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(UriError);
        };
        out.push(high << 4 | low);
    }
    String::from_utf8(out).map_err(|_| UriError)
}

fn is_user(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    text.bytes().all(plain) && decoded(text).is_ok()
}

/// Host and port, split where the port begins.
fn split_port(host: &str) -> Option<(&str, &str)> {
    let (name, port) = host.rsplit_once(':')?;
    let whole = !name.contains(':') || name.ends_with(']');
    (whole && port.bytes().all(|b| b.is_ascii_digit())).then_some((name, port))
}

fn checked_host(host: &str) -> Result<String, UriError> {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.rsplit_once(']').ok_or(UriError)?;
            let port = after.is_empty()
                || after
                    .strip_prefix(':')
                    .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
            if !port {
                return Err(UriError);
            }
            inner
        }
        None => {
            if host.contains(':') && split_port(host).is_none() {
                return Err(UriError);
            }
            host
        }
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=[]<>\"".contains(&b);
    if name.bytes().all(plain) {
        Ok(host.to_owned())
    } else {
        Err(UriError)
    }
}
