//! What a container is to be attached to: `--network`, `--network-alias`, `--ip` and the like.

use std::collections::BTreeMap;

use super::values::fields;
use super::{ContainerFlags, list};
use crate::api::container::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};

/// One value of `--network`: a name, or `name=N,alias=A,ip=…`; the name and the settings.
///
/// # Errors
/// Docker's sentence.
pub fn attachment(text: &str) -> Result<(String, EndpointSettings), String> {
    let mut settings = EndpointSettings::default();
    if !is_long(text) {
        return Ok((text.to_owned(), settings));
    }
    let mut ipam = EndpointIpamConfig::default();
    let mut name = String::new();
    for field in fields(text) {
        let lower = field.to_lowercase();
        let (key, value) = lower
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field {field}"))?;
        let (key, value) = (key.trim(), value.trim().to_owned());
        match key {
            "name" => name = value,
            "alias" => settings.aliases.get_or_insert_default().push(value),
            "ip" => ipam.ipv4_address = value,
            "ip6" => ipam.ipv6_address = value,
            "mac-address" => settings.mac_address = value,
            "link-local-ip" => ipam.link_local_ips.get_or_insert_default().push(value),
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .filter(|(key, _)| !key.is_empty())
                    .ok_or("invalid key value pair format in driver options")?;
                let options = settings.driver_opts.get_or_insert_default();
                options.insert(key.trim().to_owned(), value.trim().to_owned());
            }
            "gw-priority" => {
                settings.gw_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if name.is_empty() {
        return Err("network name/id is not specified".into());
    }
    settings.ipam_config = Some(ipam).filter(|ipam| *ipam != EndpointIpamConfig::default());
    Ok((name, settings))
}

/// Whether a value has `key=value` in it, both beginning and ending with a letter, digit or `_`.
fn is_long(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('=')
        .any(|(at, _)| text[..at].ends_with(is_word) && text[at + 1..].starts_with(is_word))
}

/// Endpoints, and the network mode.
///
/// # Errors
/// Docker's sentence.
pub fn networks(flags: &ContainerFlags) -> Result<(NetworkingConfig, String), String> {
    let mut given = Vec::new();
    for text in &flags.network {
        given.push(attachment(text)?);
    }
    if given.is_empty() {
        given.push(("default".to_owned(), EndpointSettings::default()));
    }
    let only = given.len() == 1;
    let mode = given.first().map(|(name, _)| name.clone());
    let (mut own, mut others) = (false, false);
    let mut endpoints = BTreeMap::new();
    for (index, (name, mut settings)) in given.into_iter().enumerate() {
        match is_user_defined(&name) {
            true => own = true,
            false => others = true,
        }
        if index == 0 {
            apply(&name, &mut settings, flags)?;
        }
        if name.trim().is_empty() {
            return Err("no name set for network".into());
        }
        if !is_user_defined(&name) && settings.aliases.is_some() {
            return Err(
                "network-scoped aliases are only supported for user-defined networks".into(),
            );
        }
        let mac_address = &settings.mac_address;
        if !mac_address.is_empty() && !is_mac(mac_address.trim()) {
            return Err(format!("{mac_address} is not a valid mac address"));
        }
        if endpoints.contains_key(&name) {
            return Err(format!("network {name:?} is specified multiple times"));
        }
        // The engine knows of the only network by the mode.
        if !only || settings != EndpointSettings::default() {
            endpoints.insert(name, Some(settings));
        }
    }
    if own && others {
        return Err(
            "conflicting options: cannot attach both user-defined and non-user-defined \
             network-modes"
                .into(),
        );
    }
    let networking = NetworkingConfig {
        endpoints_config: Some(endpoints),
    };
    Ok((networking, mode.unwrap_or_default()))
}

/// Puts what was said beside `--network` into the first network's settings.
fn apply(
    name: &str,
    settings: &mut EndpointSettings,
    flags: &ContainerFlags,
) -> Result<(), String> {
    let twice = |set: bool, given: bool, what: &str| match set && given {
        true => Err(format!("conflicting options: cannot specify both {what}")),
        false => Ok(()),
    };
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    twice(
        settings.aliases.is_some(),
        !flags.network_alias.is_empty(),
        "--network-alias and per-network alias",
    )?;
    twice(
        !ipam.ipv4_address.is_empty(),
        flags.ip.is_some(),
        "--ip and per-network IPv4 address",
    )?;
    twice(
        !ipam.ipv6_address.is_empty(),
        flags.ip6.is_some(),
        "--ip6 and per-network IPv6 address",
    )?;
    twice(
        !settings.mac_address.is_empty(),
        flags.mac_address.is_some(),
        "--mac-address and per-network MAC address",
    )?;
    twice(
        ipam.link_local_ips.is_some(),
        !flags.link_local_ip.is_empty(),
        "--link-local-ip and per-network link-local IP addresses",
    )?;
    settings.aliases = settings
        .aliases
        .take()
        .or_else(|| list(&flags.network_alias));
    // On the default bridge a link is the container's.
    settings.links = list(&flags.link).filter(|_| is_user_defined(name));
    if let Some(address) = &flags.mac_address {
        settings.mac_address.clone_from(address);
    }
    let ipam = EndpointIpamConfig {
        ipv4_address: flags.ip.clone().unwrap_or(ipam.ipv4_address),
        ipv6_address: flags.ip6.clone().unwrap_or(ipam.ipv6_address),
        link_local_ips: ipam.link_local_ips.or_else(|| list(&flags.link_local_ip)),
    };
    settings.ipam_config = Some(ipam).filter(|ipam| *ipam != EndpointIpamConfig::default());
    Ok(())
}

/// Whether a network mode names a network of the user's own.
fn is_user_defined(mode: &str) -> bool {
    !matches!(mode, "default" | "bridge" | "host" | "none") && !mode.starts_with("container:")
}

/// Whether a text is a hardware address in one of the notations of Go's `net.ParseMAC`, of 6, 8 or
/// 20 bytes.
fn is_mac(text: &str) -> bool {
    let is = |separator: char, digits: usize| {
        let parts: Vec<&str> = text.split(separator).collect();
        matches!(parts.len() * digits / 2, 6 | 8 | 20)
            && parts.iter().all(|part| {
                part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
    };
    is(':', 2) || is('-', 2) || is('.', 4)
}
