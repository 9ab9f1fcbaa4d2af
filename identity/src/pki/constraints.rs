//! Name constraints (RFC 5280 §4.2.1.10): which names an authority may speak for.
//!
//! DNS names, mail addresses, IP addresses and the hosts of URIs, as Go compares them:
//! a constraint with a leading dot is about names below it alone, one without about
//! the name and those below. A constraint of another kind was not understood.

use std::net::IpAddr;

use super::certificate::{Certificate, PkiError};
use crate::der::{Reader, tag};

/// Most subtrees of one certificate.
const SUBTREES_MAX: usize = 1024;

/// The name constraints of one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Constraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Subtrees {
    dns: Vec<String>,
    emails: Vec<String>,
    uris: Vec<String>,
    /// Address and mask, of equal length.
    addresses: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Constraints {
    /// Reads the extension; also whether every subtree in it was understood.
    pub(super) fn parse(value: &mut Reader<'_>) -> Result<(Self, bool), PkiError> {
        let mut fields = value.nested(tag::SEQUENCE)?;
        let permitted = fields.optional(tag::constructed(0))?;
        let excluded = fields.optional(tag::constructed(1))?;
        fields.finish()?;
        let (permitted, excluded) = (permitted.unwrap_or_default(), excluded.unwrap_or_default());
        if permitted.is_empty() && excluded.is_empty() {
            return Err(PkiError::NameConstraints);
        }
        let (permitted, first) = Subtrees::parse(permitted)?;
        let (excluded, second) = Subtrees::parse(excluded)?;
        let constraints = Self {
            permitted,
            excluded,
        };
        Ok((constraints, first && second))
    }

    /// Whether this authority may speak for every name of `below`.
    pub(super) fn allow(&self, below: &Certificate) -> bool {
        let names = &below.extensions;
        // Wherever there are constraints at all, names that cannot be compared with
        // any are refused.
        let dns = |name: &String| {
            is_domain(name, false)
                && judge(&self.permitted.dns, &self.excluded.dns, |c, excluding| {
                    is_below(name, c) || (excluding && covers_wildcard(name, c))
                })
        };
        let uri_hosts = names.uris.iter().map(|uri| host_to_compare(uri.host()));
        let uri = |host: Option<String>| {
            host.is_some_and(|host| {
                judge(&self.permitted.uris, &self.excluded.uris, |c, _| {
                    is_below(&host, c)
                })
            })
        };
        let email = |text: &String| {
            mailbox(text).is_some_and(|mailbox| {
                judge(&self.permitted.emails, &self.excluded.emails, |c, _| {
                    matches_mailbox(&mailbox, c)
                })
            })
        };
        let address = |address: &IpAddr| {
            judge(
                &self.permitted.addresses,
                &self.excluded.addresses,
                |c, excluding| is_in_network(address, c, excluding),
            )
        };
        names.dns_names.iter().all(dns)
            && uri_hosts.into_iter().all(uri)
            && names.emails.iter().all(email)
            && names.addresses.iter().all(address)
    }
}

/// Permitted by one where there are any, excluded by none. The second argument of
/// `matches` says whether it is asked for an exclusion.
fn judge<C>(permitted: &[C], excluded: &[C], matches: impl Fn(&C, bool) -> bool) -> bool {
    (permitted.is_empty() || permitted.iter().any(|c| matches(c, false)))
        && !excluded.iter().any(|c| matches(c, true))
}

impl Subtrees {
    fn parse(list: &[u8]) -> Result<(Self, bool), PkiError> {
        const EMAIL: u8 = tag::primitive(1);
        const DNS: u8 = tag::primitive(2);
        const URI: u8 = tag::primitive(6);
        const IP: u8 = tag::primitive(7);
        let mut list = Reader::new(list);
        let (mut out, mut understood, mut count) = (Self::default(), true, 0);
        while !list.is_empty() {
            // Minimum and maximum have no meaning in PKIX.
            let base = list.nested(tag::SEQUENCE)?.any()?;
            count += 1;
            if count > SUBTREES_MAX {
                return Err(PkiError::NameConstraints);
            }
            let text = || match std::str::from_utf8(base.contents) {
                Ok(text) if text.is_ascii() => Ok(text.to_owned()),
                _ => Err(PkiError::NameConstraints),
            };
            let good = match base.tag {
                DNS => {
                    out.dns.push(text()?);
                    out.dns.last().is_some_and(|c| is_domain(c, true))
                }
                URI => {
                    out.uris.push(text()?);
                    let last = out.uris.last();
                    last.is_some_and(|c| is_domain(c, true) && c.parse::<IpAddr>().is_err())
                }
                EMAIL => {
                    out.emails.push(text()?);
                    out.emails.last().is_some_and(|c| {
                        if c.contains('@') {
                            mailbox(c).is_some()
                        } else {
                            is_domain(c, true)
                        }
                    })
                }
                IP if matches!(base.contents.len(), 8 | 32) => {
                    let (address, mask) = base.contents.split_at(base.contents.len() / 2);
                    out.addresses.push((address.to_vec(), mask.to_vec()));
                    is_mask(mask)
                }
                IP => false,
                _ => {
                    understood = false;
                    true
                }
            };
            if !good {
                return Err(PkiError::NameConstraints);
            }
        }
        Ok((out, understood))
    }
}

/// Ones, then zeros.
fn is_mask(mask: &[u8]) -> bool {
    let ones: u32 = mask.iter().map(|octet| octet.leading_ones()).sum();
    let set: u32 = mask.iter().map(|octet| octet.count_ones()).sum();
    let whole = usize::try_from(ones / 8).unwrap_or(0);
    ones == set && mask.iter().take(whole).all(|octet| *octet == 0xff)
}

/// Whether an address is in a network. An IPv4 address is one however it is spelled: it
/// is permitted as IPv4 alone, and excluded in either spelling.
fn is_in_network(address: &IpAddr, (network, mask): &(Vec<u8>, Vec<u8>), excluding: bool) -> bool {
    let holds = |octets: &[u8]| {
        octets.len() == network.len()
            && octets
                .iter()
                .zip(network)
                .zip(mask)
                .all(|((octet, network), mask)| octet & mask == network & mask)
    };
    match address.to_canonical() {
        IpAddr::V4(address) => {
            holds(&address.octets()) || (excluding && holds(&address.to_ipv6_mapped().octets()))
        }
        IpAddr::V6(address) => holds(&address.octets()),
    }
}

/// Whether text can be compared as a domain name: printable labels, none empty, no
/// dot at the end. A constraint may begin with a dot. Empty text is one, too.
pub(super) fn is_domain(text: &str, constraint: bool) -> bool {
    if text.is_empty() {
        return true;
    }
    let labels = if constraint {
        text.strip_prefix('.').unwrap_or(text)
    } else {
        text
    };
    let label = |label: &str| !label.is_empty() && label.bytes().all(|b| (33..=126).contains(&b));
    labels.split('.').all(label)
}

/// Whether a name is the constraint or below it.
fn is_below(name: &str, constraint: &str) -> bool {
    if constraint.is_empty() {
        return true;
    }
    let (name, constraint) = (name.to_ascii_lowercase(), constraint.to_ascii_lowercase());
    let Some(before) = name.strip_suffix(&constraint) else {
        return false;
    };
    if constraint.starts_with('.') {
        !before.is_empty()
    } else {
        before.is_empty() || before.ends_with('.')
    }
}

/// Whether a wildcard name stands for a name that is excluded.
fn covers_wildcard(name: &str, excluded: &str) -> bool {
    let Some(parent) = name.strip_prefix("*.") else {
        return false;
    };
    let excluded = excluded.strip_prefix('.').unwrap_or(excluded);
    excluded
        .split_once('.')
        .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent))
}

/// The host of a URI, if it has one that constraints can speak of.
fn host_to_compare(host: &str) -> Option<String> {
    let bracketed = host.starts_with('[');
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !bracketed => name,
        _ => host,
    };
    let good =
        !name.is_empty() && !bracketed && name.parse::<IpAddr>().is_err() && is_domain(name, false);
    good.then(|| name.to_ascii_lowercase())
}

/// Local part and domain of a mail address. Quoted local parts are not compared with
/// anything: no certificate for a node has one.
fn mailbox(text: &str) -> Option<(String, String)> {
    let (local, domain) = text.rsplit_once('@')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    let good = !local.is_empty()
        && local.bytes().all(plain)
        && !local.split('.').any(str::is_empty)
        && !domain.is_empty()
        && is_domain(domain, false);
    good.then(|| (local.to_owned(), domain.to_ascii_lowercase()))
}

fn matches_mailbox((local, domain): &(String, String), constraint: &str) -> bool {
    match mailbox(constraint) {
        Some(exact) if constraint.contains('@') => exact == (local.clone(), domain.clone()),
        _ => is_below(domain, constraint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(permitted: &[(&[u8], &[u8])], excluded: &[(&[u8], &[u8])], address: &str) -> bool {
        let networks = |list: &[(&[u8], &[u8])]| -> Vec<(Vec<u8>, Vec<u8>)> {
            let owned = list.iter().map(|(a, m)| (a.to_vec(), m.to_vec()));
            owned.collect()
        };
        let address: IpAddr = address.parse().expect("an address");
        judge(
            &networks(permitted),
            &networks(excluded),
            |network, excluding| is_in_network(&address, network, excluding),
        )
    }

    #[test]
    fn an_ipv4_address_evades_no_constraint_in_the_spelling_of_ipv6() {
        let ten: (&[u8], &[u8]) = (&[10, 0, 0, 0], &[255, 0, 0, 0]);
        let all: (&[u8], &[u8]) = (&[0; 16], &[0; 16]);
        for ours in ["10.1.2.3", "::ffff:10.1.2.3"] {
            assert!(!of(&[], &[ten], ours), "{ours} is excluded");
            assert!(!of(&[], &[all], ours), "{ours} is excluded as IPv6");
            assert!(of(&[ten], &[], ours), "{ours} is permitted");
            assert!(!of(&[all], &[], ours), "{ours} is not IPv6");
        }
        for other in ["11.1.2.3", "::ffff:11.1.2.3"] {
            assert!(of(&[], &[ten], other) && !of(&[ten], &[], other), "{other}");
        }
        assert!(of(&[all], &[ten], "2001:db8::1"));
    }
}
