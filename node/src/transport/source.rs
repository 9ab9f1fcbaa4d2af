//! What counts as one source, wherever something is counted by source.

use std::net::{IpAddr, Ipv6Addr};

/// The source that `address` belongs to: an IPv4 address, however a dual-stack socket
/// spells it, or the /64 of an IPv6 address, all of which one host can have for the
/// asking (RFC 4291 §2.5.4). The loopback is itself.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_its_network_and_an_ipv4_host_itself() {
        for (address, counts_as) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
            ("::1", "::1"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(source(address).to_string(), counts_as);
        }
    }
}
