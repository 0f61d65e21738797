//! Which subnets networks get, and which addresses their members. Pure.
//!
//! The rules are those of dockerd's default allocator: subnets from its built-in pools, the first
//! that overlaps nothing that is taken or that the host reaches; addresses from the lowest that is
//! free on, never a subnet's first, nor its last where that is a broadcast address. Nothing of this
//! is stored: it follows from the networks' records and the endpoints that are in use.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::types::prefix::Prefix;

/// dockerd's pools for networks that ask for no subnet, and the length of the blocks given from them
/// (moby, libnetwork/ipamutils).
const POOLS: [(&str, u8); 7] = [
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
];

/// The length of IPv6 subnets that are given.
const IPV6_LENGTH: u8 = 64;

/// How many free addresses are looked for before a subnet counts as full: none has more members.
const MOST_TRIES: u128 = 1 << 20;

/// Why there is no subnet or address, in dockerd's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Another network has some of these addresses.
    #[error("invalid pool request: Pool overlaps with other one on this address space")]
    Overlap,
    /// No subnet is left.
    #[error("all predefined address pools have been fully subnetted")]
    NoMoreSubnets,
    /// No address is left.
    #[error("no available addresses on this pool")]
    NoAddress,
    /// Somebody has the address.
    #[error("Address already in use")]
    InUse,
    /// The address lies outside.
    #[error("requested address is out of range")]
    OutOfRange,
}

/// The first subnet for a network that asks for none. `taken` are other networks', `reserved` is
/// what the host reaches, `own` the pools of IPv6 addresses of this host alone.
pub fn choose(
    ipv6: Option<Prefix>,
    taken: &[Prefix],
    reserved: &[Prefix],
) -> Result<Prefix, IpamError> {
    let free = |block: &Prefix| {
        let mut others = taken.iter().chain(reserved);
        !others.any(|other| other.length() > 0 && other.overlaps(block))
    };
    if let Some(own) = ipv6 {
        return own
            .split(IPV6_LENGTH)
            .find(free)
            .ok_or(IpamError::NoMoreSubnets);
    }
    let pools = POOLS
        .iter()
        .filter_map(|(pool, length)| Some((pool.parse::<Prefix>().ok()?, *length)));
    let mut blocks = pools.flat_map(|(pool, length)| pool.split(length));
    blocks.find(free).ok_or(IpamError::NoMoreSubnets)
}

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Prefix,
    /// What is given to those who ask for no address in particular.
    range: Prefix,
    used: BTreeSet<IpAddr>,
}

impl Pool {
    /// All addresses of a subnet, but those that nobody may have.
    pub fn new(subnet: Prefix, range: Option<Prefix>) -> Self {
        let subnet = subnet.masked();
        let mut used = BTreeSet::new();
        let plenty = if subnet.is_ipv6() { 127 } else { 31 };
        if subnet.length() < plenty {
            used.insert(subnet.first());
            if !subnet.is_ipv6() {
                used.insert(subnet.last());
            }
        }
        Self {
            subnet,
            range: range.unwrap_or(subnet).masked(),
            used,
        }
    }

    /// The subnet.
    pub fn subnet(&self) -> Prefix {
        self.subnet
    }

    /// Gives an address, the one that is wanted or the lowest free one.
    pub fn take(&mut self, wanted: Option<IpAddr>) -> Result<IpAddr, IpamError> {
        let address = match wanted {
            Some(wanted) if !self.subnet.contains(wanted) => return Err(IpamError::OutOfRange),
            Some(wanted) if self.used.contains(&wanted) => return Err(IpamError::InUse),
            Some(wanted) => wanted,
            None => (0..MOST_TRIES)
                .map_while(|index| self.range.nth(index))
                .find(|address| !self.used.contains(address))
                .ok_or(IpamError::NoAddress)?,
        };
        self.used.insert(address);
        Ok(address)
    }

    /// Takes an address back.
    pub fn give_back(&mut self, address: IpAddr) {
        self.used.remove(&address);
    }

    /// Addresses in use, those that nobody may have among them; and those left to give.
    pub fn counts(&self) -> (u64, u64) {
        let size = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let in_range = self.used.iter().filter(|used| self.range.contains(**used));
        let left = self.range.size().saturating_sub(size(in_range.count()));
        (size(self.used.len()), left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn subnets_avoid_what_is_taken_and_what_the_host_reaches() {
        let choose = |taken: &[&str], reserved: &[&str]| {
            choose(None, &prefixes(taken), &prefixes(reserved)).map(|it| it.to_string())
        };
        assert_eq!(choose(&[], &[]).unwrap(), "172.17.0.0/16");
        assert_eq!(choose(&["172.17.0.0/16"], &[]).unwrap(), "172.18.0.0/16");
        assert_eq!(
            choose(&["172.17.5.0/24"], &["172.16.0.0/14"]).unwrap(),
            "172.20.0.0/16"
        );
        // A default route is no reason to give none.
        assert_eq!(
            choose(&["172.16.0.0/12"], &["0.0.0.0/0"]).unwrap(),
            "192.168.0.0/20"
        );
        assert_eq!(
            choose(&["172.16.0.0/12"], &["192.168.1.1/32"]).unwrap(),
            "192.168.16.0/20"
        );
        assert_eq!(
            choose(&["172.16.0.0/12", "192.168.0.0/16"], &[]),
            Err(IpamError::NoMoreSubnets)
        );
        let own = "fd12:3456:789a::/48".parse().ok();
        let six = super::choose(own, &prefixes(&["fd12:3456:789a::/64"]), &[]).unwrap();
        assert_eq!(six.to_string(), "fd12:3456:789a:1::/64");
    }

    #[test]
    fn addresses_are_given_from_the_lowest_on() {
        let mut pool = Pool::new("10.9.0.0/29".parse().unwrap(), None);
        let mut take = |wanted: Option<&str>| {
            let wanted = wanted.map(|text| text.parse().unwrap());
            pool.take(wanted).map(|address| address.to_string())
        };
        assert_eq!(take(None).unwrap(), "10.9.0.1");
        assert_eq!(take(Some("10.9.0.3")).unwrap(), "10.9.0.3");
        assert_eq!(take(None).unwrap(), "10.9.0.2");
        assert_eq!(take(None).unwrap(), "10.9.0.4");
        assert_eq!(take(Some("10.9.0.7")), Err(IpamError::InUse));
        assert_eq!(take(Some("10.9.0.9")), Err(IpamError::OutOfRange));
        take(None).unwrap();
        take(None).unwrap();
        assert_eq!(take(None), Err(IpamError::NoAddress));
        pool.give_back("10.9.0.2".parse().unwrap());
        assert_eq!(pool.counts(), (7, 1));
        assert_eq!(pool.take(None).unwrap().to_string(), "10.9.0.2");
    }

    #[test]
    fn a_range_bounds_what_is_given_unasked() {
        let range = "10.9.1.0/30".parse().ok();
        let mut pool = Pool::new("10.9.0.0/16".parse().unwrap(), range);
        assert_eq!(pool.take(None).unwrap().to_string(), "10.9.1.0");
        assert_eq!(
            pool.take("10.9.0.1".parse().ok()).unwrap().to_string(),
            "10.9.0.1"
        );
        assert_eq!(pool.counts(), (4, 3));
        let mut all = Pool::new("10.0.0.4/31".parse().unwrap(), None);
        assert_eq!(all.take(None).unwrap().to_string(), "10.0.0.4");
        let mut six = Pool::new("fd00::/64".parse().unwrap(), None);
        assert_eq!(six.take(None).unwrap().to_string(), "fd00::1");
    }
}
