//! `moss network …`.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::args::{self, NetworkConnect, NetworkCreate};
use super::engine::Client;
use super::filters::filters;
use super::http::{Body, Target};
use super::objects::inspect;
use super::output::{each, line};
use super::prune::{confirm, list_removed};
use super::table::{Shape, labels, short};
use crate::api::network::{
    ConfigReference, EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, Network,
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
    NetworkPruneResponse,
};
use crate::types::prefix::Prefix;

const NETWORK: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

/// `moss network …`.
pub fn network(client: &Client, verb: &args::NetworkGroup) -> Result<()> {
    match verb {
        args::NetworkGroup::Connect(verb) => connect(client, verb),
        args::NetworkGroup::Create(verb) => {
            let request = request(verb)?;
            let target = Target::new("/networks/create", &[]);
            let made: NetworkCreateResponse = client.post(&target, &request)?;
            if !made.warning.is_empty() {
                eprintln!("WARNING: {}", made.warning);
            }
            line(&made.id)
        }
        args::NetworkGroup::Disconnect(verb) => {
            let request = NetworkDisconnectRequest {
                container: verb.container.clone(),
                force: verb.force,
            };
            let target = Target::new("/networks/{}/disconnect", &[&verb.network]);
            client.bytes("POST", &target, Body::Json(serde_json::to_vec(&request)?))?;
            Ok(())
        }
        args::NetworkGroup::Inspect(verb) => inspect(client, verb),
        args::NetworkGroup::Ls(listing) => list(client, listing),
        args::NetworkGroup::Prune(prune) => {
            let warning =
                "WARNING! This will remove all custom networks not used by at least one container.";
            if !prune.force && !confirm(warning)? {
                return Ok(());
            }
            list_removed("Deleted Networks:", &clear(client, &prune.filter)?)
        }
        args::NetworkGroup::Rm(rm) => each(&rm.names, |name| {
            client.bytes("DELETE", &Target::new("/networks/{}", &[name]), Body::Empty)?;
            Ok(name.to_owned())
        }),
    }
}

/// Removes networks that no container is attached to; their names.
pub fn clear(client: &Client, given: &[String]) -> Result<Vec<String>> {
    let target = Target::new("/networks/prune", &[]).with_some("filters", &filters(given)?);
    let gone: NetworkPruneResponse = client.post_empty(&target)?;
    Ok(gone.networks_deleted.unwrap_or_default())
}

fn list(client: &Client, listing: &args::Listing) -> Result<()> {
    let target = Target::new("/networks", &[]).with_some("filters", &filters(&listing.filter)?);
    let mut found: Vec<Network> = client.get(&target)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<Value> = found
        .iter()
        .map(|network| {
            json!({
                "ID": if listing.no_trunc { &network.id } else { short(&network.id) },
                "Name": network.name,
                "Driver": network.driver,
                "Scope": network.scope,
                "IPv4": network.enable_ipv4.to_string(),
                "IPv6": network.enable_ipv6.to_string(),
                "Internal": network.internal.to_string(),
                "Labels": labels(&network.labels),
                "CreatedAt": network.created,
            })
        })
        .collect();
    let shape = Shape {
        headings: NETWORK,
        columns: vec!["ID", "Name", "Driver", "Scope"],
        key: "ID",
        row: "*network.networkContext",
    };
    shape.print(&rows, listing.format.as_deref(), listing.quiet)
}

fn pairs(lines: &[String]) -> BTreeMap<String, String> {
    let pair = |line: &String| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        (key.to_owned(), value.to_owned())
    };
    lines.iter().map(pair).collect()
}

fn some(lines: &[String]) -> Option<Vec<String>> {
    (!lines.is_empty()).then(|| lines.to_vec())
}

fn connect(client: &Client, verb: &NetworkConnect) -> Result<()> {
    let ipam = EndpointIpamConfig {
        ipv4_address: verb.ip.clone(),
        ipv6_address: verb.ip6.clone(),
        link_local_ips: some(&verb.link_local_ip),
    };
    let request = NetworkConnectRequest {
        container: verb.container.clone(),
        endpoint_config: Some(EndpointSettings {
            ipam_config: Some(ipam),
            links: some(&verb.link),
            aliases: some(&verb.alias),
            driver_opts: (!verb.driver_opt.is_empty()).then(|| pairs(&verb.driver_opt)),
            gw_priority: verb.gw_priority,
            ..EndpointSettings::default()
        }),
    };
    let target = Target::new("/networks/{}/connect", &[&verb.network]);
    client.bytes("POST", &target, Body::Json(serde_json::to_vec(&request)?))?;
    Ok(())
}

fn request(verb: &NetworkCreate) -> Result<NetworkCreateRequest> {
    Ok(NetworkCreateRequest {
        name: verb.name.clone(),
        driver: verb.driver.clone(),
        enable_ipv4: verb.ipv4,
        enable_ipv6: verb.ipv6,
        ipam: Some(Ipam {
            driver: verb.ipam_driver.clone(),
            options: Some(pairs(&verb.ipam_opt)),
            config: Some(subnets(verb)?),
        }),
        internal: verb.internal,
        attachable: verb.attachable,
        config_only: verb.config_only,
        config_from: (!verb.config_from.is_empty()).then(|| ConfigReference {
            network: verb.config_from.clone(),
        }),
        options: Some(pairs(&verb.opt)),
        labels: Some(pairs(&verb.label)),
        ..NetworkCreateRequest::default()
    })
}

/// Puts ranges, gateways and other addresses to the subnets that they lie in (docker/cli,
/// `createIPAMConfig`).
fn subnets(verb: &NetworkCreate) -> Result<Vec<IpamConfig>> {
    if verb.subnet.len() < verb.ip_range.len() || verb.subnet.len() < verb.gateway.len() {
        bail!("every ip-range or gateway must have a corresponding subnet");
    }
    let mut all: Vec<(Option<Prefix>, IpamConfig)> = Vec::new();
    for subnet in &verb.subnet {
        let config = IpamConfig {
            subnet: subnet.clone(),
            ..IpamConfig::default()
        };
        all.push((subnet.parse().ok(), config));
    }
    let first = |text: &str| text.split('/').next().and_then(|text| text.parse().ok());
    let mut place = |what: &str, text: &str, set: &dyn Fn(&mut IpamConfig)| -> Result<()> {
        let holds = |subnet: &Option<Prefix>| {
            subnet
                .zip(first(text))
                .is_some_and(|(subnet, address)| subnet.contains(address))
        };
        match all.iter_mut().find(|(subnet, _)| holds(subnet)) {
            Some((_, config)) => {
                set(config);
                Ok(())
            }
            None => Err(anyhow!("no matching subnet for {what} {text}")),
        }
    };
    for range in &verb.ip_range {
        place("range", range, &|config| config.ip_range.clone_from(range))?;
    }
    for gateway in &verb.gateway {
        place("gateway", gateway, &|config| {
            config.gateway.clone_from(gateway);
        })?;
    }
    for (name, address) in pairs(&verb.aux_address) {
        place("aux-address", &address, &|config| {
            let all = config.auxiliary_addresses.get_or_insert_default();
            all.insert(name.clone(), address.clone());
        })?;
    }
    Ok(all.into_iter().map(|(_, config)| config).collect())
}
