//! Networks: the verbs, and how containers come to be in them.
//!
//! | file | what |
//! |---|---|
//! | `endpoints` | what a container asks for, and what the API shows of it |
//! | `join` | a start puts a container into its networks, its end takes it out |
//! | `links` | what stands for names in the default network |
//! | `repair` | what a daemon does first |
//! | `connect` | connect and disconnect |
//! | `ports` | which places of the host ports are published at |
//! | `outside` | what slirp is told |
//!
//! Nothing of the kernel's side is made before a container needs it.

mod connect;
mod endpoints;
mod join;
mod links;
mod outside;
mod ports;
mod repair;

use std::collections::BTreeMap;

use crate::api::container::{PortMap, PortSummary};
use crate::api::filters::Filters;
use crate::api::network::{
    EndpointResource, Network, NetworkCreateRequest, NetworkCreateResponse, NetworkPruneResponse,
};
use crate::container::record::Record as ContainerRecord;
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::prune;
use crate::network::NetworkError;
use crate::network::ipam::IpamError;
use crate::network::kernel;
use crate::network::record::{Record, RequestError};
use crate::network::store::Member;
use crate::types::port::Port;
use crate::types::prefix::Prefix;

pub(super) use endpoints::{asked, shown};
pub(super) use join::{Joining, Resolver, Surroundings};
pub(super) use ports::Memory;

impl Engine {
    /// The networks that pass the filters.
    pub fn network_list(&self, filters: &Filters) -> Result<Vec<Network>> {
        filters
            .validate(&["dangling", "driver", "id", "label", "name", "scope", "type"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        let dangling = dangling(filters)?;
        if let Some(kind) = filters
            .values("type")
            .find(|kind| !matches!(*kind, "custom" | "builtin"))
        {
            return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
        let kind = |record: &Record| {
            if record.is_predefined() {
                "builtin"
            } else {
                "custom"
            }
        };
        let found = self.networks.list().into_iter().filter(|record| {
            filters.matches_pattern("name", &record.name)
                && filters.matches_exactly("driver", &record.driver)
                && filters.matches_prefix("id", &record.id)
                && filters.matches_exactly("scope", "local")
                && filters.matches_exactly("type", kind(record))
                && filters.matches_labels("label", &record.labels)
                && dangling.is_none_or(|wanted| self.is_dangling(record) == wanted)
        });
        Ok(found.map(|record| network(&record)).collect())
    }

    /// One network, by name, id or prefix of its id; of a scope, where one is said.
    pub fn network_inspect(&self, wanted: &str, scope: &str) -> Result<Network> {
        let found = match scope {
            "" | "local" => self.networks.find(wanted),
            _ => Err(NetworkError::NotFound(wanted.to_owned())),
        };
        let record = found.map_err(|error| network_error(&error))?;
        let members = self.networks.members(&record.id);
        let containers = members.into_iter().map(|member| {
            let resource = resource(&record, &member);
            (member.container, resource)
        });
        Ok(Network {
            containers: Some(containers.collect()),
            status: Some(self.networks.status(&record.id)),
            ..network(&record)
        })
    }

    /// Makes a network.
    pub fn network_create(&self, request: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        let record = self
            .networks
            .create(request, &self.reserved_subnets())
            .map_err(|error| network_error(&error))?;
        self.network_event(&record, "create", None);
        let warnings = record.ineffective();
        for warning in &warnings {
            tracing::warn!(network = record.name, "{warning}");
        }
        Ok(NetworkCreateResponse {
            id: record.id,
            warning: warnings.join("\n"),
        })
    }

    /// Removes a network that no running container is in.
    pub fn network_remove(&self, wanted: &str) -> Result<()> {
        let record = self
            .networks
            .find(wanted)
            .map_err(|error| network_error(&error))?;
        self.remove_network(&record)
    }

    fn remove_network(&self, record: &Record) -> Result<()> {
        let bridge = self
            .networks
            .remove(&record.id)
            .map_err(|error| network_error(&error))?;
        if bridge.is_some() {
            self.forget_namespace(&record.id);
        }
        self.forget_outside(&record.id);
        if !record.config_only {
            self.network_event(record, "destroy", None);
        }
        Ok(())
    }

    /// Removes the networks that no container has.
    pub fn network_prune(&self, filters: &Filters) -> Result<NetworkPruneResponse> {
        filters
            .validate(&["label", "label!", "until"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        let until = prune::bound(filters)?;
        let mut deleted = Vec::new();
        for record in self.networks.list() {
            let wanted = !record.is_predefined()
                && filters.matches_labels("label", &record.labels)
                && filters.excludes_labels("label!", &record.labels)
                && until.is_none_or(|until| record.created < until)
                && self.is_dangling(&record);
            // One that a container has come into meanwhile stays.
            if wanted && self.remove_network(&record).is_ok() {
                deleted.push(record.name);
            }
        }
        self.prune_event("network", 0);
        Ok(NetworkPruneResponse {
            networks_deleted: (!deleted.is_empty()).then_some(deleted),
        })
    }

    /// Whether no container is in the network, running or not.
    fn is_dangling(&self, record: &Record) -> bool {
        !record.is_predefined()
            && !self.containers.all().iter().any(|container| {
                let data = container.data();
                asked(&data.record)
                    .keys()
                    .any(|name| *name == record.name || *name == record.id)
            })
    }

    /// The gateway of the default network: where the host is for a container without a way out.
    pub(in crate::engine) fn default_gateway(&self) -> Option<std::net::IpAddr> {
        let network = self.networks.find("bridge").ok()?;
        network.subnet(false).map(|subnet| subnet.gateway)
    }

    /// Subnets that no network is given unasked: what the host reaches, its name servers among it.
    pub(super) fn reserved_subnets(&self) -> Vec<Prefix> {
        reserved_subnets()
    }

    /// Tells of a network.
    fn network_event(&self, record: &Record, action: &str, container: Option<&str>) {
        let mut attributes = vec![
            ("name".to_owned(), record.name.clone()),
            ("type".to_owned(), record.driver.clone()),
        ];
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.events.emit("network", action, &record.id, attributes);
    }
}

/// The same, before there is an engine.
pub(super) fn reserved_subnets() -> Vec<Prefix> {
    let mut reserved = kernel::reached();
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = resolv_conf.lines().filter_map(|line| {
        let address = line
            .trim()
            .strip_prefix("nameserver")?
            .split_whitespace()
            .next()?;
        Some(Prefix::single(address.parse().ok()?))
    });
    reserved.extend(servers);
    reserved
}

fn dangling(filters: &Filters) -> Result<Option<bool>> {
    let mut values = filters.values("dangling");
    let value = values.next();
    if values.next().is_some() {
        let text = "got more than one value for filter key \"dangling\"";
        return Err(Error::invalid(text));
    }
    match value {
        None => Ok(None),
        Some("0" | "false") => Ok(Some(false)),
        Some("1" | "true") => Ok(Some(true)),
        Some(_) => Err(Error::invalid(
            "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \
             \"0\")",
        )),
    }
}

fn network(record: &Record) -> Network {
    Network {
        name: record.name.clone(),
        id: record.id.clone(),
        created: record.created.to_string(),
        scope: "local".to_owned(),
        driver: record.driver.clone(),
        enable_ipv4: record.ipv4,
        enable_ipv6: record.ipv6,
        ipam: match record.driver.as_str() {
            "bridge" => record.ipam(),
            _ => record.asked.clone(),
        },
        internal: record.internal,
        attachable: record.attachable,
        config_from: crate::api::network::ConfigReference {
            network: record.config_from.clone(),
        },
        config_only: record.config_only,
        options: record.options.clone(),
        labels: record.labels.clone(),
        ..Network::default()
    }
}

fn resource(record: &Record, member: &Member) -> EndpointResource {
    let with_length = |ipv6: bool, address: Option<std::net::IpAddr>| {
        let prefix = record.subnet(ipv6).map(|subnet| subnet.prefix.length());
        let shown = address
            .zip(prefix)
            .map(|(address, length)| format!("{address}/{length}"));
        shown.unwrap_or_default()
    };
    EndpointResource {
        name: member.name.clone(),
        endpoint_id: member.endpoint.clone(),
        mac_address: endpoints::mac(member),
        ipv4_address: with_length(false, member.ipv4),
        ipv6_address: with_length(true, member.ipv6),
    }
}

/// Statuses as moby gives them.
fn network_error(error: &NetworkError) -> Error {
    let kind = match error {
        NetworkError::NotFound(_) | NetworkError::Request(RequestError::NotFound(_)) => {
            Kind::NotFound
        }
        NetworkError::NameTaken(_) => Kind::Conflict,
        NetworkError::Predefined(_)
        | NetworkError::InUse { .. }
        | NetworkError::SameBridge { .. }
        | NetworkError::Request(RequestError::Forbidden(_))
        | NetworkError::Ipam(IpamError::Overlap | IpamError::InUse) => Kind::Forbidden,
        NetworkError::Ambiguous { .. }
        | NetworkError::Request(RequestError::Invalid(_))
        | NetworkError::Ipam(IpamError::NoMoreSubnets | IpamError::OutOfRange) => {
            Kind::InvalidParameter
        }
        NetworkError::Ipam(IpamError::NoAddress) => Kind::Unavailable,
        NetworkError::Gateway { .. }
        | NetworkError::Request(RequestError::System(_))
        | NetworkError::Io { .. } => Kind::System,
    };
    Error::new(kind, error.to_string())
}

/// Where a running container's ports are published; those that are only exposed are there, too.
pub(super) fn ports(record: &ContainerRecord) -> PortMap {
    let mut ports = record.ports.clone();
    if record.state.is_running() && !record.endpoints.is_empty() {
        let exposed = record
            .config
            .exposed_ports
            .iter()
            .flat_map(|map| map.keys());
        for port in exposed {
            ports.entry(port.clone()).or_insert(None);
        }
    }
    ports
}

/// The same as `ps` shows it.
pub(super) fn summary(record: &ContainerRecord) -> Vec<PortSummary> {
    let mut all = Vec::new();
    for (name, places) in ports(record) {
        let Ok(port) = name.parse::<Port>() else {
            continue;
        };
        let summary = |ip: &str, public_port: u16| PortSummary {
            ip: ip.to_owned(),
            private_port: port.number,
            public_port,
            kind: port.protocol.to_string(),
        };
        let places = places.unwrap_or_default();
        if places.is_empty() {
            all.push(summary("", 0));
        }
        let shown = places.iter();
        all.extend(
            shown.map(|place| summary(&place.host_ip, place.host_port.parse().unwrap_or_default())),
        );
    }
    all
}

/// Names and ids of what a container is in.
pub(super) type Names = BTreeMap<String, crate::api::network::EndpointSettings>;
