//! Networks as `insecure-registries` and `NO_PROXY` name them: `10.0.0.0/8`, `fd00::/8`.

use std::fmt;
use std::net::IpAddr;

/// An address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Parses `address/length`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= most).then(|| Self {
            address: masked(address, prefix),
            prefix,
        })
    }

    /// Whether an address is within.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same_prefix(
                u128::from(own.to_bits()) << 96,
                u128::from(other.to_bits()) << 96,
                self.prefix,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                same_prefix(own.to_bits(), other.to_bits(), self.prefix)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The address with nothing after its prefix.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

fn same_prefix(one: u128, other: u128, length: u8) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    (one ^ other) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_without_what_it_ignores() {
        let shown = |text: &str| Network::parse(text).map(|network| network.to_string());
        assert_eq!(shown("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(shown("10.1.2.3/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(shown("10.1.2.3/32").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(shown("fd00::1/8").as_deref(), Some("fd00::/8"));
        assert_eq!(shown("::1/128").as_deref(), Some("::1/128"));
    }

    #[test]
    fn contains() {
        let within = |network: &str, address: &str| {
            Network::parse(network).is_some_and(|network| {
                address
                    .parse()
                    .is_ok_and(|address| network.contains(address))
            })
        };
        assert!(within("127.0.0.0/8", "127.9.9.9"));
        assert!(!within("127.0.0.0/8", "128.0.0.1"));
        assert!(within("10.1.0.0/15", "10.0.255.255"));
        assert!(within("0.0.0.0/0", "203.0.113.1"));
        assert!(within("192.0.2.1/32", "192.0.2.1"));
        assert!(within("127.0.0.0/8", "::ffff:127.0.0.1"));
        assert!(within("::1/128", "::1"));
        assert!(within("fd00::/8", "fdff::1"));
        assert!(!within("fd00::/8", "fe80::1"));
        for nonsense in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "x/8",
            "::/129",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Network::parse(nonsense), None, "{nonsense}");
        }
    }
}
