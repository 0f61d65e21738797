//! Blocks of IP addresses: `172.20.0.0/16`, `fd00:1::/64`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and how many of its first bits name a network. The other bits may be set, as they are
/// in an interface's address; [`Prefix::masked`] clears them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct PrefixError(pub String);

/// Width in bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address of that number, in the family of `like`.
fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        // What does not fit cannot be reached: callers stay inside a prefix.
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl Prefix {
    /// The prefix of this length; `None` where the address has not so many bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= width(address)).then_some(Self { address, length })
    }

    /// A single address.
    pub fn single(address: IpAddr) -> Self {
        let length = width(address);
        Self { address, length }
    }

    /// The address, with all its bits.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits name the network.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// How many addresses lie in it, less one.
    fn rest(&self) -> u128 {
        let bits = width(self.address) - self.length;
        u128::MAX.checked_shr(128 - u32::from(bits)).unwrap_or(0)
    }

    /// The same with the bits cleared that do not name the network.
    #[must_use]
    pub fn masked(&self) -> Self {
        let address = address(number(self.address) & !self.rest(), self.address);
        Self { address, ..*self }
    }

    /// Its first address.
    pub fn first(&self) -> IpAddr {
        self.masked().address
    }

    /// Its last address.
    pub fn last(&self) -> IpAddr {
        address(number(self.first()) | self.rest(), self.address)
    }

    /// The address that many after the first; `None` beyond the last.
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        let inside = index <= self.rest();
        inside.then(|| address(number(self.first()) + index, self.address))
    }

    /// How many addresses it has, at most `u64::MAX`.
    pub fn size(&self) -> u64 {
        u64::try_from(self.rest())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    /// Whether the address lies in it.
    pub fn contains(&self, other: IpAddr) -> bool {
        self.is_ipv6() == other.is_ipv6() && (self.first()..=self.last()).contains(&other)
    }

    /// Whether they have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    /// The blocks of `length` bits in it, from the first on.
    pub fn split(self, length: u8) -> impl Iterator<Item = Self> {
        let bits = length.checked_sub(self.length);
        let bits = bits.filter(|_| length <= width(self.address));
        let count = bits.map_or(0, |bits| {
            1_u128.checked_shl(bits.into()).unwrap_or(u128::MAX)
        });
        let step = u32::from(width(self.address) - length.min(width(self.address)));
        (0..count).map_while(move |index| Self::new(self.nth(index.checked_shl(step)?)?, length))
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let parsed = text.split_once('/').and_then(|(address, length)| {
            // Go's parser takes no sign and no leading zero.
            let plain = length == "0" || !length.starts_with(['0', '+']);
            let length = length.parse().ok().filter(|_| plain)?;
            Self::new(address.parse().ok()?, length)
        });
        parsed.ok_or_else(|| PrefixError(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

super::serde_as_string!(Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_know_their_addresses() {
        let block = prefix("172.20.5.9/16");
        assert_eq!(block.masked().to_string(), "172.20.0.0/16");
        assert_eq!(block.last().to_string(), "172.20.255.255");
        assert_eq!(block.nth(256).unwrap().to_string(), "172.20.1.0");
        assert_eq!(block.nth(65536), None);
        assert_eq!(block.size(), 65536);
        assert!(block.contains("172.20.0.0".parse().unwrap()));
        assert!(!block.contains("172.21.0.0".parse().unwrap()));
        assert!(!block.contains("::1".parse().unwrap()));
        assert!(block.overlaps(&prefix("172.16.0.0/12")) && prefix("0.0.0.0/0").overlaps(&block));
        assert_eq!(
            prefix("::/0").last(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
                .parse::<IpAddr>()
                .unwrap()
        );
        assert_eq!(prefix("::/0").size(), u64::MAX);
        assert_eq!(
            prefix("10.0.0.7/32").nth(0).unwrap().to_string(),
            "10.0.0.7"
        );
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "::/129",
            "x/8",
            "1.2.3.4/08",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn blocks_are_split_in_order() {
        let parts: Vec<_> = prefix("172.20.0.0/14")
            .split(16)
            .map(|it| it.to_string())
            .collect();
        assert_eq!(
            parts,
            [
                "172.20.0.0/16",
                "172.21.0.0/16",
                "172.22.0.0/16",
                "172.23.0.0/16"
            ]
        );
        assert_eq!(prefix("10.0.0.0/24").split(16).count(), 0);
        assert_eq!(
            prefix("fd00::/48").split(64).nth(1).unwrap().to_string(),
            "fd00:0:0:1::/64"
        );
        assert_eq!(prefix("10.0.0.1/32").split(32).count(), 1);
    }
}
