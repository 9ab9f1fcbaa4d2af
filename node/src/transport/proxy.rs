//! The PROXY protocol, versions 1 and 2 ("The PROXY protocol", HAProxy): how a load
//! balancer in front of the agent port tells who its client is.
//!
//! Promises: a header is believed from the configured ranges alone, and a
//! connection from anywhere else that begins with one ends; no more is read than
//! the header has, and of that at most [`HEADER_BYTES_MAX`] bytes; parsing is pure.
//! A trusted source may leave the header out, or say that it speaks for itself
//! (health checks): then it is the client. Whatever else the header carries is
//! not looked at.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::config::Cidr;

/// Longest header that is read, in bytes. Version 1 has at most 107; version 2 has
/// 52 and what proxies add (names, TLS facts), a few hundred.
pub const HEADER_BYTES_MAX: usize = 2_048;

const V1_BYTES_MAX: usize = 107;
/// `PROXY UNKNOWN` and the line end: the shortest line there is.
const V1_BYTES_MIN: usize = 15;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to and with the length of the rest.
const V2_FIXED_BYTES: usize = 16;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client, if the proxy speaks for one.
    pub client: Option<SocketAddr>,
    /// Bytes of the header; what follows is the client's.
    pub length: usize,
}

/// What can be said of the first bytes of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// At least so many more bytes belong to it.
    More(usize),
    /// It is whole.
    Whole(Header),
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Neither version begins so.
    #[error("it is no PROXY header")]
    Start,
    /// A line of version 1 that is none of its forms.
    #[error("it is no line of version 1")]
    Line,
    /// A command that version 2 does not have.
    #[error("it has an unknown version or command")]
    Command,
    /// The client did not come over TCP.
    #[error("it tells of something other than TCP over IPv4 or IPv6")]
    Family,
    /// Too short for its addresses.
    #[error("it is shorter than its addresses")]
    Short,
    /// Longer than anybody's header.
    #[error("it is longer than {HEADER_BYTES_MAX} bytes")]
    Long,
}

/// Reads a header from its first bytes. Bytes behind it are ignored.
///
/// # Errors
/// [`HeaderError`], as soon as no further bytes could make it one.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let starts = |start: &[u8]| {
        let known = bytes.len().min(start.len());
        bytes[..known] == start[..known]
    };
    if starts(V1_START) {
        parse_v1(bytes)
    } else if starts(V2_START) {
        parse_v2(bytes)
    } else {
        Err(HeaderError::Start)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let looked_at = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = looked_at.windows(2).position(|pair| pair == b"\r\n") else {
        if bytes.len() >= V1_BYTES_MAX {
            return Err(HeaderError::Line);
        }
        let left = V1_BYTES_MIN.saturating_sub(bytes.len()).max(1);
        return Ok(Parsed::More(left));
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| HeaderError::Line)?;
    let client = client_of_line(line).ok_or(HeaderError::Line)?;
    Ok(Parsed::Whole(Header {
        client,
        length: end + 2,
    }))
}

/// `PROXY TCP4 <client> <server> <client's port> <server's port>`; the outer option
/// is whether it is a line, the inner one whether it names a client.
#[allow(clippy::option_option, reason = "two questions, one local answer")]
fn client_of_line(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let address = |family: &str, word: &str| match family {
        "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        _ => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    };
    let family = words.next()?;
    match family {
        // What follows is to be ignored.
        "UNKNOWN" => return Some(None),
        "TCP4" | "TCP6" => {}
        _ => return None,
    }
    let client = address(family, words.next()?)?;
    address(family, words.next()?)?;
    let client_port = port(words.next()?)?;
    port(words.next()?)?;
    words
        .next()
        .is_none()
        .then_some(Some(SocketAddr::new(client, client_port)))
}

/// A port in its one decimal form.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED_BYTES) else {
        return Ok(Parsed::More(V2_FIXED_BYTES - bytes.len()));
    };
    let (command, family) = (fixed[12], fixed[13]);
    let rest_length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let length = V2_FIXED_BYTES + rest_length;
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::Long);
    }
    let addresses = match (command, family) {
        // The proxy itself: what it says of addresses is to be ignored.
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, _) => return Err(HeaderError::Family),
        _ => return Err(HeaderError::Command),
    };
    if rest_length < addresses {
        return Err(HeaderError::Short);
    }
    let Some(rest) = rest.get(..rest_length) else {
        return Ok(Parsed::More(rest_length - rest.len()));
    };
    let client = match addresses {
        12 => v4(rest),
        36 => v6(rest),
        _ => None,
    };
    Ok(Parsed::Whole(Header { client, length }))
}

/// Client and server, then their ports.
fn v4(block: &[u8]) -> Option<SocketAddr> {
    let (client, rest) = block.split_first_chunk::<4>()?;
    let (_server, ports) = rest.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes(*ports.first_chunk::<2>()?);
    Some(SocketAddr::new(Ipv4Addr::from(*client).into(), port))
}

fn v6(block: &[u8]) -> Option<SocketAddr> {
    let (client, rest) = block.split_first_chunk::<16>()?;
    let (_server, ports) = rest.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(*ports.first_chunk::<2>()?);
    Some(SocketAddr::new(Ipv6Addr::from(*client).into(), port))
}

/// Why a connection has no client that is believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("it begins with a PROXY header and is not from api.proxy_protocol_trusted_cidrs")]
    Untrusted,
    #[error("a trusted proxy sent a bad PROXY header: {0}")]
    Header(#[from] HeaderError),
    #[error("no PROXY header came")]
    Io(#[from] io::Error),
}

/// The ranges that proxies are in.
#[derive(Debug, Clone, Default)]
pub(super) struct TrustedProxies(Vec<Cidr>);

impl TrustedProxies {
    pub(super) fn new(ranges: Vec<Cidr>) -> Self {
        Self(ranges)
    }

    /// Whether a header from there is believed.
    pub(super) fn hold(&self, source: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(source))
    }

    /// Who the client of a connection from `source` is. Waits for the first bytes
    /// and takes a header off, if there is one; the caller sets the time limit.
    pub(super) async fn client(
        &self,
        stream: &mut TcpStream,
        source: SocketAddr,
    ) -> Result<SocketAddr, ProxyError> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // TLS begins with 0x16: one byte tells.
        if !matches!(first, [b'P' | b'\r']) {
            return Ok(source);
        }
        if !self.hold(source.ip()) {
            return Err(ProxyError::Untrusted);
        }
        let mut bytes = Vec::new();
        loop {
            match parse(&bytes)? {
                Parsed::Whole(header) => return Ok(header.client.unwrap_or(source)),
                Parsed::More(count) => {
                    // Bounded: a header that would be longer is an error.
                    let have = bytes.len();
                    bytes.resize(have + count, 0);
                    stream.read_exact(&mut bytes[have..]).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2 with a command, a family and what follows the length.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family], &length, rest].concat()
    }

    fn whole(bytes: &[u8]) -> Option<String> {
        match parse(bytes) {
            Ok(Parsed::Whole(header)) => {
                assert_eq!(header.length, bytes.len());
                header.client.map(|client| client.to_string())
            }
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    const V4: [u8; 12] = [198, 51, 100, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x1f, 0x91];

    fn v6_block() -> Vec<u8> {
        let client: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let server: Ipv6Addr = "2001:db8::1".parse().unwrap();
        [
            &client.octets()[..],
            &server.octets(),
            &[0xdc, 0x04, 0x1f, 0x91],
        ]
        .concat()
    }

    #[test]
    fn both_versions_name_clients_of_both_families() {
        let line = b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 8081\r\n";
        assert_eq!(whole(line), some("198.51.100.7:56324"));
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 8081\r\n";
        assert_eq!(whole(line), some("[2001:db8::7]:56324"));
        assert_eq!(whole(&v2(0x21, 0x11, &V4)), some("198.51.100.7:56324"));
        assert_eq!(
            whole(&v2(0x21, 0x21, &v6_block())),
            some("[2001:db8::7]:56324")
        );
        // Extensions behind the addresses are not looked at.
        let extended = [&V4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        assert_eq!(
            whole(&v2(0x21, 0x11, &extended)),
            some("198.51.100.7:56324")
        );
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_nobody() {
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(whole(b"PROXY UNKNOWN ffff::1 ::1 65535 65535\r\n"), None);
        assert_eq!(whole(&v2(0x20, 0x00, &[])), None);
        assert_eq!(whole(&v2(0x20, 0x11, &V4)), None);
        assert_eq!(whole(&v2(0x21, 0x00, &[])), None);
    }

    #[test]
    fn every_beginning_of_a_header_asks_for_more_and_never_for_too_much() {
        let headers = [
            b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 8081\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x21, 0x11, &V4),
            v2(0x21, 0x21, &v6_block()),
        ];
        for header in headers {
            for end in 0..header.len() {
                match parse(&header[..end]) {
                    Ok(Parsed::More(count)) => {
                        assert!(count > 0 && end + count <= header.len(), "{end}: {count}");
                    }
                    other => panic!("{end}: {other:?}"),
                }
            }
            // What follows is the client's.
            let followed = [header.as_slice(), b"\x16\x03\x01"].concat();
            let parsed = parse(&followed).unwrap();
            assert!(matches!(parsed, Parsed::Whole(h) if h.length == header.len()));
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let refused: [(&[u8], HeaderError); 4] = [
            (b"\x16\x03\x01", HeaderError::Start),
            (b"PRI * HTTP/2.0\r\n", HeaderError::Start),
            (b"proxy UNKNOWN\r\n", HeaderError::Start),
            (b"\r\n\r\n\0\r\nQUIT\r", HeaderError::Start),
        ];
        for (bytes, error) in refused {
            assert_eq!(parse(bytes), Err(error), "{}", bytes.escape_ascii());
        }
        for line in [
            "PROXY TCP4 198.51.100.7 192.0.2.1 56324\r\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 56324 8081 9\r\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 56324 65536\r\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 +1 8081\r\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 01 8081\r\n",
            "PROXY TCP4  198.51.100.7 192.0.2.1 1 8081\r\n",
            "PROXY TCP4 2001:db8::7 192.0.2.1 1 8081\r\n",
            "PROXY TCP6 198.51.100.7 192.0.2.1 1 8081\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 8081\r\n",
            "PROXY UDP4 198.51.100.7 192.0.2.1 1 8081\r\n",
            "PROXY TCP4 host 192.0.2.1 1 8081\r\n",
            "PROXY UNKNOW\r\nxx",
            "PROXY \r\n        ",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(HeaderError::Line), "{line:?}");
        }
    }

    #[test]
    fn lengths_are_held_to_their_bounds() {
        let padded = |length: usize| {
            let padding = "x".repeat(length - V1_BYTES_MIN - 1);
            format!("PROXY UNKNOWN {padding}\r\n").into_bytes()
        };
        assert_eq!(whole(&padded(107)), None);
        assert_eq!(parse(&padded(108)), Err(HeaderError::Line));
        let tlv = |length: usize| v2(0x20, 0, &vec![0; length - V2_FIXED_BYTES]);
        assert_eq!(whole(&tlv(2_048)), None);
        assert_eq!(parse(&tlv(2_049)), Err(HeaderError::Long));
        // Refused by what it announces, before that is read.
        assert_eq!(parse(&tlv(2_049)[..16]), Err(HeaderError::Long));
        assert_eq!(parse(&v2(0x21, 0x11, &V4[..11])), Err(HeaderError::Short));
        assert_eq!(
            parse(&v2(0x21, 0x21, &v6_block()[..35])),
            Err(HeaderError::Short)
        );
    }

    #[test]
    fn other_families_versions_and_commands_are_refused() {
        for family in [0x12, 0x22, 0x31, 0x32, 0x10, 0x20, 0xff] {
            let header = v2(0x21, family, &[0; 216]);
            assert_eq!(parse(&header), Err(HeaderError::Family), "{family:#x}");
        }
        for command in [0x00, 0x10, 0x11, 0x22, 0x31, 0x2f] {
            let header = v2(command, 0x11, &V4);
            assert_eq!(parse(&header), Err(HeaderError::Command), "{command:#x}");
        }
    }
}
