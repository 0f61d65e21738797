//! A start puts a container into its networks, its end takes it out of them.
//!
//! ```text
//! join ─▶ addresses taken, the networks' namespaces there ─▶ attach ─▶ keep ═ recorded ══▶ leave
//!   └──────────── dropped on the way: all is given back ─────┘
//! ```
//!
//! `attach` comes when the first process waits at its last gate: its network namespace is there, and
//! nothing has run in it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::endpoints::{self, asked};
use super::outside::{self, Bound};
use super::{network_error, ports};
use crate::api::network::EndpointSettings;
use crate::container::record::{Endpoint, Record};
use crate::engine::Engine;
use crate::engine::containers::Container;
use crate::engine::error::{Error, Kind, Result};
use crate::network;
use crate::network::NetworkError;
use crate::network::ipam::IpamError;
use crate::network::kernel::{self, Bridge, InterfaceName, Routes, Wire};
use crate::network::store::Member;
use crate::network::unplug::Left;
use crate::sys::{netns, pidfd};
use crate::types::id::random_hex;
use crate::types::prefix::Prefix;
use crate::userns::plan::ProcessIdentity;

/// A container on its way into its networks. Dropped, it is in none.
pub(in crate::engine) struct Joining<'a> {
    engine: &'a Engine,
    container: String,
    places: Vec<Place>,
    /// What its ports are published by; slirp's once it is plugged in.
    bound: Bound,
}

/// A place in one network.
pub(super) struct Place {
    pub(super) network: network::Record,
    pub(super) member: Member,
    pub(super) settings: EndpointSettings,
    /// The kernel's side of the network; the host's and the empty one have none.
    pub(super) bridge: Option<Arc<Bridge>>,
    /// The interface in the container, once it is there.
    pub(super) interface: String,
}

impl Engine {
    /// Takes a place in each network that a container asks for.
    pub(in crate::engine) fn join_networks(&self, record: &Record) -> Result<Joining<'_>> {
        let mut joining = Joining {
            engine: self,
            container: record.id.to_string(),
            places: Vec::new(),
            bound: Bound::new(),
        };
        let mode = &record.host_config.network_mode;
        let mut wanted: Vec<_> = asked(record).into_iter().collect();
        // The mode's network is the first interface.
        let is_first = |name: &String| {
            let by_id = |network: network::Record| network.id == *mode;
            name == mode || self.networks.find(name).is_ok_and(by_id)
        };
        wanted.sort_by_key(|(name, _)| !is_first(name));
        for (name, settings) in wanted {
            joining.places.push(self.join(record, &name, settings)?);
        }
        joining.bound = self.publish(record, &joining.places)?;
        Ok(joining)
    }

    /// Binds the host's sockets for a container's ports, at the place that has its default route.
    pub(super) fn publish(&self, record: &Record, places: &[Place]) -> Result<Bound> {
        let Some(place) = gateway_of(places, false).or_else(|| gateway_of(places, true)) else {
            return Ok(Bound::new());
        };
        let bound = self
            .bind_ports(record, place.network.host_address())
            .map_err(|why| unpublished(place, &why))?;
        let ports = bound.iter().map(|(publication, _)| *publication).collect();
        self.networks
            .set_ports(&place.network.id, &place.member.endpoint, ports);
        Ok(bound)
    }

    /// Takes a place in one network.
    pub(super) fn join(
        &self,
        record: &Record,
        name: &str,
        settings: EndpointSettings,
    ) -> Result<Place> {
        let network = self
            .networks
            .find(name)
            .map_err(|error| network_error(&error))?;
        let ipam = settings.ipam_config.clone().unwrap_or_default();
        let member = Member {
            endpoint: random_hex(),
            container: record.id.to_string(),
            name: record.name.clone(),
            ipv4: endpoints::address(&ipam.ipv4_address),
            ipv6: endpoints::address(&ipam.ipv6_address),
            mac: [0; 6],
            names: endpoints::dns_names(record, &network.name, &settings).unwrap_or_default(),
            links: outside::links(&settings),
            servers: outside::servers(record, &self.settings.containers.dns),
            ports: Vec::new(),
        };
        let bridge = match network.driver.as_str() {
            "bridge" => Some(self.bridge(&network)?.0),
            _ => None,
        };
        let mac = endpoints::parse_mac(&settings.mac_address);
        let mut joined = self.networks.join(&network.id, member.clone(), mac);
        if let Err(NetworkError::Ipam(IpamError::InUse | IpamError::NoAddress)) = joined {
            // Somebody may just be leaving who has it.
            self.unplugger.settle();
            joined = self.networks.join(&network.id, member, mac);
        }
        let member = joined.map_err(|error| network_error(&error))?;
        Ok(Place {
            network,
            member,
            settings,
            bridge,
            interface: String::new(),
        })
    }

    /// The kernel's side of a network, and whether it had to be made.
    pub(super) fn bridge(&self, network: &network::Record) -> Result<(Arc<Bridge>, bool)> {
        let _turn = self
            .bridging
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bridge) = self.networks.bridge(&network.id) {
            return Ok((bridge, false));
        }
        let shape = network.shape();
        let held = self
            .keeper
            .namespace(&network.id)
            .map_err(|error| Error::system(&error))?;
        let taken = held.map(|namespace| Bridge::take_over(namespace, &shape));
        let (bridge, made) = match taken {
            Some(Ok(bridge)) => (bridge, false),
            // Half made by a daemon that was killed, or none.
            Some(Err(_)) | None => {
                let failed = |error: std::io::Error| {
                    Error::io(format!("cannot make the network {}", network.name), &error)
                };
                let bridge = Bridge::make(&shape).map_err(failed)?;
                self.foretell(network);
                self.keeper
                    .pin(&network.id, bridge.namespace())
                    .map_err(|error| Error::system(&error))?;
                (bridge, true)
            }
        };
        let bridge = Arc::new(bridge);
        self.networks
            .set_bridge(&network.id, Some(Arc::clone(&bridge)));
        Ok((bridge, made))
    }

    /// Has the keeper let go of a network's namespace.
    pub(super) fn forget_namespace(&self, network: &str) {
        if let Err(error) = self.keeper.unpin(network) {
            tracing::warn!("the keeper holds on to a network: {error}");
        }
    }

    /// Takes a container that has ended out of its networks.
    pub(in crate::engine) fn leave_networks(&self, record: &Record) {
        for endpoint in record.endpoints.values() {
            self.leave(
                &endpoint.settings.network_id,
                &endpoint.settings.endpoint_id,
            );
            if let Ok(network) = self.networks.find(&endpoint.settings.network_id) {
                self.network_event(&network, "disconnect", Some(record.id.as_str()));
            }
        }
    }

    /// Frees a place. Its interface goes, and its addresses are others' to have, a little later.
    pub(super) fn leave(&self, network: &str, endpoint: &str) {
        let Some(member) = self.networks.leave(network, endpoint) else {
            return;
        };
        self.ports.free(&member.ports);
        if let Ok(network) = self.networks.find(network) {
            self.tell_outside(&network);
        }
        let (network, bridge) = (network.to_owned(), self.networks.bridge(network));
        self.unplugger.push(Left {
            network,
            bridge,
            member,
        });
    }

    /// The places of a running container.
    pub(super) fn places(&self, record: &Record) -> Vec<Place> {
        let places = record.endpoints.values().filter_map(|endpoint| {
            let network = self.networks.find(&endpoint.settings.network_id).ok()?;
            let bridge = match network.driver.as_str() {
                "bridge" => Some(self.bridge(&network).ok()?.0),
                _ => None,
            };
            Some(Place {
                network,
                member: member_of(record, &endpoint.settings, &self.settings.containers.dns),
                settings: endpoint.settings.clone(),
                bridge,
                interface: endpoint.interface.clone(),
            })
        });
        places.collect()
    }

    /// Writes down where a container's ports are published.
    fn note_ports(&self, record: &mut Record) {
        record.ports.clear();
        for endpoint in record.endpoints.values_mut() {
            let members = self.networks.members(&endpoint.settings.network_id);
            let known = members
                .iter()
                .find(|it| it.endpoint == endpoint.settings.endpoint_id);
            let published = known
                .map(|member| ports::map(&member.ports))
                .unwrap_or_default();
            endpoint.published = !published.is_empty();
            record.ports.extend(published);
        }
    }

    /// Writes down what a running container has got.
    pub(super) fn note_places(&self, container: &Container, places: &[Place]) {
        {
            let mut data = container.data();
            let record = data.record.clone();
            data.record.endpoints = places.iter().map(|place| place.endpoint(&record)).collect();
            endpoints::remember(&mut data.record);
            self.note_ports(&mut data.record);
        }
        if let Err(error) = container.save(false) {
            tracing::error!("{}", Error::system(&error));
        }
    }
}

/// What a record says of a member.
pub(super) fn member_of(
    record: &Record,
    settings: &EndpointSettings,
    daemons: &[String],
) -> Member {
    Member {
        endpoint: settings.endpoint_id.clone(),
        container: record.id.to_string(),
        name: record.name.clone(),
        ipv4: endpoints::address(&settings.ip_address),
        ipv6: endpoints::address(&settings.global_ipv6_address),
        mac: endpoints::parse_mac(&settings.mac_address).unwrap_or_default(),
        names: settings.dns_names.clone().unwrap_or_default(),
        links: outside::links(settings),
        servers: outside::servers(record, daemons),
        ports: Vec::new(),
    }
}

impl Place {
    /// What is plugged in for it.
    fn wire(&self) -> Wire {
        let with_length = |ipv6: bool, address: Option<IpAddr>| {
            let subnet = self.network.subnet(ipv6)?;
            Prefix::new(address?, subnet.prefix.length())
        };
        let (four, six) = (
            with_length(false, self.member.ipv4),
            with_length(true, self.member.ipv6),
        );
        let asked = self.settings.ipam_config.as_ref();
        let link_local = asked
            .into_iter()
            .flat_map(|it| it.link_local_ips.iter().flatten());
        // As long as libnetwork has them.
        let link_local = link_local.filter_map(|text| {
            let address: IpAddr = text.parse().ok()?;
            Prefix::new(address, if address.is_ipv6() { 64 } else { 16 })
        });
        Wire {
            near: kernel::near(&self.member.endpoint),
            mac: self.member.mac,
            addresses: four.into_iter().chain(six).chain(link_local).collect(),
            names: self.has_names(),
            name: match endpoints::interface_name(&self.settings) {
                Some(name) => InterfaceName::Exactly(name.to_owned()),
                None => InterfaceName::Numbered(self.network.interfaces().to_owned()),
            },
            sysctls: endpoints::sysctls(&self.settings),
        }
    }

    /// Whether names are answered there at 127.0.0.11.
    fn has_names(&self) -> bool {
        !self.network.is_default() && self.member.ipv4.is_some()
    }

    /// The gateway that answers names, where that is not 127.0.0.11.
    fn name_server(&self) -> Option<IpAddr> {
        let only_ipv6 = self.network.subnet(false).is_none();
        let gateway = self.network.subnet(only_ipv6)?.gateway;
        (self.network.is_default() || only_ipv6).then_some(gateway)
    }

    /// The address of a family.
    fn address(&self, ipv6: bool) -> Option<IpAddr> {
        if ipv6 {
            self.member.ipv6
        } else {
            self.member.ipv4
        }
    }

    /// What the record says of it.
    fn endpoint(&self, record: &Record) -> (String, Endpoint) {
        let text = |address: Option<IpAddr>| address.map(|it| it.to_string()).unwrap_or_default();
        let length = |ipv6: bool| {
            let subnet = self
                .network
                .subnet(ipv6)
                .filter(|_| self.address(ipv6).is_some());
            subnet.map_or(0, |subnet| i64::from(subnet.prefix.length()))
        };
        let gateway = |ipv6: bool| {
            let subnet = self
                .network
                .subnet(ipv6)
                .filter(|_| self.address(ipv6).is_some());
            let subnet = subnet.filter(|_| !self.network.internal);
            text(subnet.map(|subnet| subnet.gateway))
        };
        let settings = EndpointSettings {
            network_id: self.network.id.clone(),
            endpoint_id: self.member.endpoint.clone(),
            gateway: gateway(false),
            ip_address: text(self.member.ipv4),
            ip_prefix_len: length(false),
            mac_address: endpoints::mac(&self.member),
            ipv6_gateway: gateway(true),
            global_ipv6_address: text(self.member.ipv6),
            global_ipv6_prefix_len: length(true),
            dns_names: endpoints::dns_names(record, &self.network.name, &self.settings),
            ..self.settings.clone()
        };
        let interface = self.interface.clone();
        let endpoint = Endpoint {
            settings,
            interface,
            published: false,
        };
        (self.network.name.clone(), endpoint)
    }
}

/// Which place has the default route of a family: the highest priority, then the first name, of
/// those with a way out.
pub(super) fn gateway_of(places: &[Place], ipv6: bool) -> Option<&Place> {
    let candidates = places.iter().filter(|place| {
        !place.network.internal && place.bridge.is_some() && place.address(ipv6).is_some()
    });
    candidates.min_by_key(|place| (-place.settings.gw_priority, place.network.name.clone()))
}

/// dockerd's sentence for ports that cannot be published.
fn unpublished(place: &Place, why: &str) -> Error {
    let (name, endpoint) = (&place.member.name, &place.member.endpoint);
    let text = format!(
        "driver failed programming external connectivity on endpoint {name} ({endpoint}): {why}"
    );
    Error::new(Kind::System, text)
}

/// The place that is asked for names: the one with the default route, or any that has them.
fn resolver_of(places: &[Place]) -> Option<&Place> {
    let gateway = gateway_of(places, false).filter(|place| place.has_names());
    gateway.or_else(|| places.iter().find(|place| place.has_names()))
}

/// A container's routes.
pub(super) fn routes(places: &[Place]) -> Routes {
    let gateways = [false, true].into_iter().filter_map(|ipv6| {
        let place = gateway_of(places, ipv6)?;
        let subnet = place.network.subnet(ipv6)?;
        Some((subnet.gateway, place.interface.clone()))
    });
    let resolver = resolver_of(places).and_then(|place| {
        let subnet = place.network.subnet(false)?;
        Some((subnet.gateway, place.interface.clone(), place.member.ipv4?))
    });
    Routes {
        gateways: gateways.collect(),
        resolver,
    }
}

/// Plugs those places in that `wanted` says, and sets up routes for all.
pub(super) fn plug_in(
    places: &mut [Place],
    process: ProcessIdentity,
    wanted: impl Fn(&Place) -> bool,
) -> std::io::Result<()> {
    // Held while its number is used, so that it is no other's.
    let _process = pidfd::open_identity(process.pid, process.start_time)?;
    let namespace = netns::of(process.pid)?;
    let mut plugged = Vec::new();
    // Those of one kind are numbered in order, the ones that are there already among them.
    let mut numbers: BTreeMap<InterfaceName, u32> = BTreeMap::new();
    for place in places.iter_mut() {
        let next = numbers.entry(place.wire().name).or_default();
        let number = std::mem::replace(next, *next + 1);
        if !wanted(place) {
            continue;
        }
        if let Some(bridge) = &place.bridge {
            let wire = place.wire();
            bridge.unplug_if_known(&wire.near, !place.interface.is_empty())?;
            place.interface = bridge.plug(&wire, number, namespace.as_fd())?;
            plugged.push((place.interface.clone(), wire));
        }
    }
    let plugged: Vec<_> = plugged
        .iter()
        .map(|(name, wire)| (name.clone(), wire))
        .collect();
    kernel::configure(namespace.as_fd(), &plugged, &routes(places))
}

impl Joining<'_> {
    /// Whether there is anything to be plugged in.
    pub(in crate::engine) fn has_interfaces(&self) -> bool {
        self.places.iter().any(|place| place.bridge.is_some())
    }

    /// What the container's files say of its networks.
    pub(in crate::engine) fn surroundings(&self) -> Surroundings {
        surroundings(&self.places)
    }

    /// Plugs the container in whose first process waits. May be said again for another process.
    pub(in crate::engine) fn attach(&mut self, process: ProcessIdentity) -> Result<()> {
        plug_in(&mut self.places, process, |_| true)
            .map_err(|error| Error::io("failed to set up container networking", &error))?;
        let bound = std::mem::take(&mut self.bound);
        for place in &self.places {
            let of_it = gateway_of(&self.places, false).or_else(|| gateway_of(&self.places, true));
            let of_it = of_it.is_some_and(|it| it.member.endpoint == place.member.endpoint);
            if !of_it || bound.is_empty() {
                self.engine.tell_outside(&place.network);
                continue;
            }
            let failed = self.engine.publish_outside(&place.network, &bound);
            let own = |publication| bound.iter().any(|(own, _)| own == publication);
            if let Some((publication, error)) = failed.iter().find(|(it, _)| own(it)) {
                return Err(unpublished(
                    place,
                    &ports::bind_failure(*publication, error),
                ));
            }
        }
        Ok(())
    }

    /// Writes down what the container has got: it is in its networks now.
    pub(in crate::engine) fn keep(mut self, record: &mut Record) {
        let places = std::mem::take(&mut self.places);
        let endpoints = places.iter().map(|place| place.endpoint(record)).collect();
        record.endpoints = endpoints;
        endpoints::remember(record);
        self.engine.note_ports(record);
        for place in &places {
            self.engine
                .network_event(&place.network, "connect", Some(record.id.as_str()));
        }
    }
}

/// Who answers a container's questions for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Resolver {
    /// One that knows the network's names, at 127.0.0.11.
    Names,
    /// One that asks others, at this address.
    Forwarder(IpAddr),
}

/// What a container's files say of its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::engine) struct Surroundings {
    /// Its addresses, IPv4 first.
    pub(in crate::engine) addresses: Vec<IpAddr>,
    /// Who answers names, where one of ours does.
    pub(in crate::engine) resolver: Option<Resolver>,
    /// Where the host is.
    pub(in crate::engine) gateway: Option<IpAddr>,
}

/// The same, from a container's places.
pub(super) fn surroundings(places: &[Place]) -> Surroundings {
    let four = places.iter().filter_map(|place| place.member.ipv4);
    let six = places.iter().filter_map(|place| place.member.ipv6);
    let gateway = gateway_of(places, false).and_then(|place| place.network.subnet(false));
    Surroundings {
        addresses: four.chain(six).collect(),
        resolver: resolver(places),
        gateway: gateway.map(|subnet| subnet.gateway),
    }
}

fn resolver(places: &[Place]) -> Option<Resolver> {
    if resolver_of(places).is_some() {
        return Some(Resolver::Names);
    }
    let mut places: Vec<&Place> = places.iter().filter(|it| it.bridge.is_some()).collect();
    // One that knows names is better than one that knows none.
    places.sort_by_key(|place| place.network.is_default());
    let server = places.iter().find_map(|place| place.name_server());
    server.map(Resolver::Forwarder)
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        if !self.places.is_empty() {
            tracing::debug!(
                id = self.container,
                "not started: out of its networks again"
            );
        }
        for place in &self.places {
            self.engine.leave(&place.network.id, &place.member.endpoint);
        }
    }
}
