//! What a container asks of networks, and what the API shows of its places in them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Names;
use crate::api::container::{HostConfig, NetworkingConfig};
use crate::api::network::EndpointSettings;
use crate::container::record::Record;
use crate::container::spec::NetworkMode;
use crate::engine::Engine;
use crate::engine::error::{Error, Result};
use crate::network;
use crate::network::record::{is_unnamable, joined};
use crate::network::store::Member;
use crate::types::id::ContainerId;

/// The networks that a container asks for, by name; at least the one of its mode, unless it is to
/// have none at all.
pub(in crate::engine) fn asked(record: &Record) -> Names {
    let mode = &record.host_config.network_mode;
    if record.config.network_disabled || mode.starts_with("container:") {
        return Names::new();
    }
    let endpoints = record.networking.endpoints_config.iter().flatten();
    let mut asked: Names = endpoints
        .map(|(name, settings)| (name.clone(), settings.clone().unwrap_or_default()))
        .collect();
    // A container may have been taken out of all of its networks; then the map is there, and empty.
    if record.networking.endpoints_config.is_none() {
        asked.insert(mode.clone(), EndpointSettings::default());
    }
    asked
}

/// The endpoints that inspect and ps show of a container.
pub(in crate::engine) fn shown(record: &Record) -> BTreeMap<String, EndpointSettings> {
    let mut all = asked(record);
    for (name, endpoint) in &record.endpoints {
        all.insert(name.clone(), endpoint.settings.clone());
    }
    all
}

/// Keeps what outlives a container's run of what it has got (moby, daemon/container_operations.go,
/// `cleanOperationalData`).
pub(super) fn remember(record: &mut Record) {
    let asked = record.networking.endpoints_config.iter_mut().flatten();
    for (name, settings) in asked {
        if let Some((settings, endpoint)) = settings.as_mut().zip(record.endpoints.get(name)) {
            let got = &endpoint.settings;
            settings.network_id.clone_from(&got.network_id);
            settings.dns_names.clone_from(&got.dns_names);
        }
    }
}

/// A member's Ethernet address as people read it.
pub(super) fn mac(member: &Member) -> String {
    if member.ipv4.is_none() && member.ipv6.is_none() {
        return String::new();
    }
    let [a, b, c, d, e, f] = member.mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Reads an Ethernet address.
pub(super) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Reads an address; empty is none.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// Label of what an endpoint's interface is called.
const OPTION_NAME: &str = "com.docker.network.endpoint.ifname";
/// Label of the kernel's settings for it.
const OPTION_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

fn option<'a>(settings: &'a EndpointSettings, label: &str) -> Option<&'a str> {
    let value = settings.driver_opts.as_ref()?.get(label)?;
    (!value.is_empty()).then_some(value.as_str())
}

/// What an endpoint's interface is to be called.
pub(super) fn interface_name(settings: &EndpointSettings) -> Option<&str> {
    option(settings, OPTION_NAME)
}

/// The kernel's settings that an endpoint's interface is to have.
pub(super) fn sysctls(settings: &EndpointSettings) -> Vec<(String, String)> {
    let all = option(settings, OPTION_SYSCTLS).unwrap_or_default();
    let all = all.split(',').filter_map(|one| one.split_once('='));
    all.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What is wrong with one of them (moby, `validateEndpointSettings` and `setSysctls`).
fn check_sysctl(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.splitn(5, '.').collect();
    let recognised = matches!(
        parts.as_slice(),
        ["net", "ipv4" | "ipv6" | "mpls", _, "IFNAME" | "ifname", _]
    );
    if !recognised {
        return Some(format!(
            "unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as \
             'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
        ));
    }
    let Some((name, _)) = text.split_once('=') else {
        return Some(format!(
            "expected sysctl '{text}' to have format name=value"
        ));
    };
    // Each part is a name in a directory.
    (name.split('.').count() != 5 || name.contains('/'))
        .then(|| format!("expected sysctl '{text}' to have format net.X.Y.IFNAME.Z"))
}

/// Whether a user made the network of this name.
fn is_user_defined(name: &str) -> bool {
    matches!(NetworkMode::parse(name), NetworkMode::Named(_))
}

/// The names by which a container is found in a network.
pub(super) fn dns_names(
    record: &Record,
    network: &str,
    settings: &EndpointSettings,
) -> Option<Vec<String>> {
    if !is_user_defined(network) {
        return None;
    }
    let aliases = settings.aliases.iter().flatten().map(String::as_str);
    let own = [record.id.short(), &record.config.hostname];
    let all = std::iter::once(record.name.as_str())
        .chain(aliases)
        .chain(own);
    let mut names: Vec<String> = Vec::new();
    for name in all.filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

impl Engine {
    /// Settles which networks a new container is in: by name, the mode's among them.
    pub(in crate::engine) fn settle_networks(
        &self,
        id: &ContainerId,
        host: &mut HostConfig,
        networking: &mut NetworkingConfig,
    ) -> Result<()> {
        let mode = NetworkMode::parse(&host.network_mode);
        if matches!(mode, NetworkMode::Container(_)) {
            return Ok(());
        }
        let mut errors = Vec::new();
        let mut settled = BTreeMap::new();
        for (name, settings) in networking.endpoints_config.take().into_iter().flatten() {
            let Some(settings) = settings else {
                errors.push(format!(
                    "invalid config for network {name}: EndpointsConfig is nil"
                ));
                continue;
            };
            let network = self.networks.find(&name).ok();
            if let Err(error) = validate(network.as_ref(), &name, &settings) {
                errors.push(format!("invalid config for network {name}: {error}"));
            }
            let name = network.map_or(name, |network| network.name);
            settled.insert(name, Some(settings));
        }
        if !errors.is_empty() {
            return Err(Error::invalid(joined(&errors)));
        }
        if let NetworkMode::Named(name) = mode
            && let Ok(network) = self.networks.find(name)
        {
            // A part of an id would find another network one day.
            if name != network.name && name != network.id {
                host.network_mode.clone_from(&network.id);
            }
            settled
                .entry(network.name)
                .or_insert_with(|| Some(EndpointSettings::default()));
        } else if settled.is_empty() {
            settled.insert(host.network_mode.clone(), Some(EndpointSettings::default()));
        }
        let several = settled.len() > 1;
        for name in settled.keys().filter(|_| several) {
            check_company(name)?;
        }
        for (name, settings) in &mut settled {
            let Some(settings) = settings else { continue };
            if is_user_defined(name) && settings.aliases.as_ref().is_some_and(Vec::is_empty) {
                settings.aliases = None;
            }
        }
        tracing::trace!(id = id.short(), networks = ?settled.keys(), "settled");
        networking.endpoints_config = Some(settled);
        Ok(())
    }
}

/// Refuses networks that a container cannot be in together with another.
pub(super) fn check_company(name: &str) -> Result<()> {
    match NetworkMode::parse(name) {
        NetworkMode::None => Err(Error::invalid(
            "container cannot be connected to multiple networks with one of the networks in private \
             (none) mode",
        )),
        NetworkMode::Host => Err(Error::invalid(
            "container sharing network namespace with another container or host cannot be connected \
             to any other network",
        )),
        _ => Ok(()),
    }
}

/// Refuses what a network cannot give (moby, `validateEndpointSettings`).
pub(super) fn validate(
    network: Option<&network::Record>,
    name: &str,
    settings: &EndpointSettings,
) -> std::result::Result<(), String> {
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let mut errors = Vec::new();
    let asked = [(&ipam.ipv4_address, false), (&ipam.ipv6_address, true)];
    if !is_user_defined(network.map_or(name, |network| &network.name)) {
        if asked.iter().any(|(text, _)| !text.is_empty()) {
            let text = "user-specified IP address is supported on user-defined networks only";
            errors.push(text.to_owned());
        }
        if settings
            .aliases
            .as_ref()
            .is_some_and(|aliases| !aliases.is_empty())
        {
            let text = "network-scoped aliases are only supported for user-defined networks";
            errors.push(text.to_owned());
        }
    }
    for (text, ipv6) in asked.into_iter().filter(|(text, _)| !text.is_empty()) {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        match address(text).filter(|it| it.is_ipv6() == ipv6 && !it.is_unspecified()) {
            None => errors.push(format!("invalid {family} address: {text}")),
            Some(address) => {
                let inside = |network: &network::Record| {
                    network
                        .subnets
                        .iter()
                        .any(|subnet| subnet.prefix.contains(address))
                };
                if network.is_some_and(|network| !inside(network)) {
                    errors.push(format!(
                        "no configured subnet contains IP address {address}"
                    ));
                }
            }
        }
    }
    let sysctls = option(settings, OPTION_SYSCTLS).unwrap_or_default();
    errors.extend(
        sysctls
            .split(',')
            .filter(|it| !it.is_empty())
            .filter_map(check_sysctl),
    );
    if let Some(name) = interface_name(settings)
        && (name.len() > 15 || name.bytes().any(is_unnamable) || matches!(name, "." | ".." | "lo"))
    {
        errors.push(format!("invalid interface name: {name:?}"));
    }
    let mac = &settings.mac_address;
    if !mac.is_empty() && parse_mac(mac).is_none() {
        errors.push(format!("invalid MAC address: {mac}"));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(format!("invalid endpoint settings:\n{}", joined(&errors))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::network::EndpointIpamConfig;

    #[test]
    fn ethernet_addresses_are_read_as_people_write_them() {
        assert_eq!(
            parse_mac("02:42:ac:11:00:02"),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert_eq!(
            parse_mac("02-42-AC-11-00-02"),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        for text in [
            "",
            "02:42",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "xx:42:ac:11:00:02",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }

    #[test]
    fn endpoints_are_refused_in_dockers_words() {
        let ipam = |ipv4: &str| EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: ipv4.to_owned(),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        let refused =
            |name, settings: &EndpointSettings| validate(None, name, settings).unwrap_err();
        assert_eq!(
            refused("bridge", &ipam("10.0.0.2")),
            "invalid endpoint settings:\nuser-specified IP address is supported on user-defined \
             networks only"
        );
        assert_eq!(
            refused("mine", &ipam("::1")),
            "invalid endpoint settings:\ninvalid IPv4 address: ::1"
        );
        assert!(validate(None, "mine", &ipam("10.0.0.2")).is_ok());
    }
}
