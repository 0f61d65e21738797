//! Which names there are in a network, for whom. Pure.
//!
//! The rules are libnetwork's: a container finds those that share a network with it, by any of their
//! names, also with the network's name behind it; what only has an address of the other family is
//! there, without an answer; links are known to the one that has them alone. The default network has
//! no names but the host's.

use std::net::IpAddr;
use std::sync::Arc;

use super::wire::{A, AAAA, MX, PTR, reversed};
use crate::slirp::state::{MemberState, NetworkState};

/// The host, as it is called in containers.
const HOST: &str = "host.docker.internal";

/// What we know of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// These addresses; none where the name has others only.
    Addresses(Vec<IpAddr>),
    /// This name.
    Name(String),
}

/// Looks a name up for a container that is in `networks`; `None` where others may know it.
pub fn look_up(
    networks: &[Arc<NetworkState>],
    asker: &str,
    name: &str,
    kind: u16,
) -> Option<Known> {
    if matches!(kind, A | AAAA) && name == HOST {
        let gateways = networks.iter().filter(|network| !network.internal);
        let gateways = gateways.flat_map(|network| &network.gateways);
        let mut wanted = gateways.filter(|address| address.is_ipv6() == (kind == AAAA));
        let address = wanted.next().copied();
        return Some(Known::Addresses(address.into_iter().collect()));
    }
    let networks = || networks.iter().filter(|network| network.names);
    match kind {
        A | AAAA | MX => {
            let found: Vec<&MemberState> = networks()
                .map(|network| called(network, asker, name))
                .find(|found| !found.is_empty())?;
            let wanted = |address: &&IpAddr| match kind {
                A => address.is_ipv4(),
                AAAA => address.is_ipv6(),
                _ => false,
            };
            let addresses = found.iter().flat_map(|member| &member.addresses);
            Some(Known::Addresses(
                addresses.filter(wanted).copied().collect(),
            ))
        }
        PTR => {
            let address = reversed(name)?;
            let mut networks = networks();
            networks.find_map(|network| {
                let name = network.member_at(address)?.names.first()?;
                Some(Known::Name(format!("{name}.{}", network.name)))
            })
        }
        _ => None,
    }
}

/// Who is called so in a network.
fn called<'a>(network: &'a NetworkState, asker: &str, name: &str) -> Vec<&'a MemberState> {
    // `NAME.NETWORK` is a name in that network.
    let suffix = network.name.to_lowercase();
    let short = name
        .strip_suffix(&*suffix)
        .and_then(|it| it.strip_suffix('.'));
    let is = |known: &String, name: &str| known.eq_ignore_ascii_case(name);
    for name in [Some(name), short].into_iter().flatten() {
        let own = network
            .members
            .iter()
            .find(|member| member.container == asker);
        let linked = own.and_then(|own| own.links.iter().find(|(alias, _)| is(alias, name)));
        let found = network.members.iter().filter(|member| match linked {
            Some((_, other)) => member.container == *other || member.names.contains(other),
            None => member.names.iter().any(|known| is(known, name)),
        });
        let found: Vec<_> = found.collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(container: &str, names: &[&str], addresses: &[&str]) -> MemberState {
        MemberState {
            container: container.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..MemberState::default()
        }
    }

    fn networks() -> Vec<Arc<NetworkState>> {
        let mut asker = member("c1", &["web"], &["10.1.0.2"]);
        asker.links.push(("cache".to_owned(), "c3".to_owned()));
        let front = NetworkState {
            name: "Front".to_owned(),
            names: true,
            gateways: vec!["10.1.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            members: vec![
                asker,
                member("c2", &["app_1", "app"], &["10.1.0.3"]),
                member("c3", &["app_2", "app"], &["10.1.0.4", "fd00::4"]),
            ],
            ..NetworkState::default()
        };
        let plain = NetworkState {
            name: "bridge".to_owned(),
            gateways: vec!["10.2.0.1".parse().unwrap()],
            members: vec![member("c4", &["hidden"], &["10.2.0.2"])],
            ..NetworkState::default()
        };
        vec![Arc::new(plain), Arc::new(front)]
    }

    fn addresses(texts: &[&str]) -> Option<Known> {
        Some(Known::Addresses(
            texts.iter().map(|text| text.parse().unwrap()).collect(),
        ))
    }

    #[test]
    fn containers_are_found_by_all_their_names() {
        let networks = networks();
        let ask = |name: &str, kind| look_up(&networks, "c1", name, kind);
        assert_eq!(ask("app", A), addresses(&["10.1.0.3", "10.1.0.4"]));
        assert_eq!(ask("app", AAAA), addresses(&["fd00::4"]));
        assert_eq!(ask("app_1.front", A), addresses(&["10.1.0.3"]));
        assert_eq!(ask("cache", A), addresses(&["10.1.0.4"]));
        assert_eq!(look_up(&networks, "c2", "cache", A), None);
        // A name with addresses of the other family only is nobody else's to answer.
        assert_eq!(ask("web", AAAA), addresses(&[]));
        assert_eq!(ask("web", MX), addresses(&[]));
        assert_eq!(ask("hidden", A), None);
        assert_eq!(ask(HOST, A), addresses(&["10.2.0.1"]));
        assert_eq!(ask(HOST, AAAA), addresses(&["fd00::1"]));
        assert_eq!(ask("example.org", A), None);
        let name = "3.0.1.10.in-addr.arpa";
        assert_eq!(ask(name, PTR), Some(Known::Name("app_1.Front".to_owned())));
        assert_eq!(ask("9.9.9.9.in-addr.arpa", PTR), None);
    }
}
