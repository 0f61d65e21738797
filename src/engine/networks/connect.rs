//! `network connect` and `network disconnect`, of containers that run and of others.

use super::endpoints::{asked, check_company, dns_names, remember, validate};
use super::join::{Place, Surroundings, gateway_of, plug_in, routes, surroundings};
use super::outside::Bound;
use super::{Names, network_error, ports};
use crate::api::network::{EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest};
use crate::container::record::Record;
use crate::container::spec::NetworkMode;
use crate::engine::Engine;
use crate::engine::containers::Container;
use crate::engine::error::{Error, Kind, Result};
use crate::network;
use crate::network::kernel;
use crate::sys::{netns, pidfd};
use crate::userns::plan::ProcessIdentity;
use std::os::fd::AsFd;

impl Engine {
    /// Puts a container into one more network.
    pub fn network_connect(&self, wanted: &str, request: NetworkConnectRequest) -> Result<()> {
        let container = self.containers.find(&request.container)?;
        let mut settings = request.endpoint_config.unwrap_or_default();
        let _operation = container.operate();
        let record = self.connectable(&container)?;
        let running = record.state.is_running();
        // It may be there by the time that the container is started.
        let (network, name) = self.meant(wanted, !running)?;
        validate(network.as_ref().ok(), &name, &settings).map_err(Error::invalid)?;
        self.check_companions(&record, &name)?;
        if record.endpoints.contains_key(&name) {
            return Err(Error::new(
                Kind::Forbidden,
                format!(
                    "endpoint with name {} already exists in network {name}",
                    record.name
                ),
            ));
        }
        // What was prepared has other addresses in its files.
        container.data().discard_prepared();
        if running {
            self.plug(&container, &record, &name, settings.clone())?;
        } else if network.is_ok() {
            settings.dns_names = dns_names(&record, &name, &settings);
        }
        self.ask_for(&container, |all| {
            all.insert(name, settings);
        })
    }

    /// Takes a container out of a network.
    pub fn network_disconnect(
        &self,
        wanted: &str,
        request: &NetworkDisconnectRequest,
    ) -> Result<()> {
        let container = self.containers.find(&request.container)?;
        let _operation = container.operate();
        let record = self.connectable(&container)?;
        let running = record.state.is_running();
        let (network, name) = self.meant(wanted, !running || request.force)?;
        container.data().discard_prepared();
        if let Some(endpoint) = record.endpoints.get(&name).filter(|_| running) {
            let network = network?;
            if network.driver == "host" {
                return Err(Error::invalid(
                    "cannot disconnect container from host network - container was created in host \
                     network mode",
                ));
            }
            let endpoint = endpoint.settings.endpoint_id.clone();
            self.unplug(&container, &record, &network, &endpoint)?;
        } else if running || !asked(&record).contains_key(&name) {
            return Err(Error::new(
                Kind::System,
                match running {
                    true => format!("container {} is not connected to network {name}", record.id),
                    false => format!(
                        "container {} is not connected to the network {name}",
                        record.id
                    ),
                },
            ));
        }
        self.ask_for(&container, |all| {
            all.remove(&name);
        })
    }

    /// The network that is meant, and its name. With `may_lack` one that is not there has the name
    /// that it was asked for by.
    fn meant(&self, wanted: &str, may_lack: bool) -> Result<(Result<network::Record>, String)> {
        let network = self
            .networks
            .find(wanted)
            .map_err(|error| network_error(&error));
        let name = match &network {
            Ok(network) => network.name.clone(),
            Err(_) if may_lack => wanted.to_owned(),
            Err(error) => return Err(error.clone()),
        };
        Ok((network, name))
    }

    /// Changes which networks a container is to be in.
    fn ask_for(&self, container: &Container, change: impl FnOnce(&mut Names)) -> Result<()> {
        {
            let mut data = container.data();
            let mut all = asked(&data.record);
            change(&mut all);
            let all = all
                .into_iter()
                .map(|(name, settings)| (name, Some(settings)));
            data.record.networking.endpoints_config = Some(all.collect());
            remember(&mut data.record);
        }
        self.save(container)
    }

    /// The record of a container whose networks may change.
    fn connectable(&self, container: &Container) -> Result<Record> {
        let data = container.data();
        if data.removing {
            return Err(Error::new(
                Kind::System,
                format!(
                    "Container {} is marked for removal and cannot be connected or disconnected to \
                     the network",
                    container.id
                ),
            ));
        }
        Ok(data.record.clone())
    }

    fn check_companions(&self, record: &Record, name: &str) -> Result<()> {
        let mode = NetworkMode::parse(&record.host_config.network_mode);
        if matches!(mode, NetworkMode::Container(_)) {
            return check_company("host");
        }
        if NetworkMode::parse(name) == NetworkMode::Host && mode != NetworkMode::Host {
            return Err(Error::invalid(
                "cannot connect container to host network - container must be created in host \
                 network mode",
            ));
        }
        let others = asked(record);
        let mut others = others.keys().filter(|other| *other != name).peekable();
        if others.peek().is_none() {
            return Ok(());
        }
        check_company(name)?;
        others.try_for_each(|other| check_company(other))
    }

    fn plug(
        &self,
        container: &Container,
        record: &Record,
        name: &str,
        settings: EndpointSettings,
    ) -> Result<()> {
        let place = self.join(record, name, settings)?;
        let (network, endpoint) = (place.network.clone(), place.member.endpoint.clone());
        let mut places = self.places(record);
        let before = surroundings(&places);
        places.push(place);
        let new = |place: &Place| place.member.endpoint == endpoint;
        let plugged = process(record)
            .and_then(|process| plug_in(&mut places, process, new))
            .map_err(|error| Error::io("cannot plug the container in", &error));
        if let Err(error) = plugged {
            self.leave(&network.id, &endpoint);
            return Err(error);
        }
        self.move_ports(record, &places, None);
        self.note_places(container, &places);
        self.update(container, &before, &places);
        self.network_event(&network, "connect", Some(record.id.as_str()));
        Ok(())
    }

    fn unplug(
        &self,
        container: &Container,
        record: &Record,
        network: &network::Record,
        endpoint: &str,
    ) -> Result<()> {
        let mut places = self.places(record);
        let before = surroundings(&places);
        let is_left = |place: &mut Place| place.member.endpoint == endpoint;
        let left: Vec<Place> = places.extract_if(.., is_left).collect();
        let routed = process(record).and_then(|process| {
            let _process = pidfd::open_identity(process.pid, process.start_time)?;
            let namespace = netns::of(process.pid)?;
            kernel::configure(namespace.as_fd(), &[], &routes(&places))
        });
        if let Err(error) = routed {
            tracing::warn!(id = record.id.short(), "cannot set its routes: {error}");
        }
        self.move_ports(record, &places, left.first());
        self.leave(&network.id, endpoint);
        self.unplugger.settle();
        self.note_places(container, &places);
        self.update(container, &before, &places);
        self.network_event(network, "disconnect", Some(record.id.as_str()));
        Ok(())
    }

    /// Has a container's ports published at the place that has its default route now, and tells slirp
    /// of all its networks, the one that it has `left` among them.
    fn move_ports(&self, record: &Record, places: &[Place], left: Option<&Place>) {
        let mut ports = ports::unmap(&record.ports);
        let place = gateway_of(places, false).or_else(|| gateway_of(places, true));
        let mut bound = Bound::new();
        if let Some(place) = place.filter(|_| ports.is_empty()) {
            // It had no way out before.
            match self.bind_ports(record, place.network.host_address()) {
                Ok(sockets) => bound = sockets,
                Err(why) => tracing::warn!(id = record.id.short(), "not published: {why}"),
            }
            ports = bound.iter().map(|(publication, _)| *publication).collect();
        }
        let now = place.map(|place| place.member.endpoint.clone());
        // The new place first: the sockets are its before they are not the old one's any more.
        let mut sorted: Vec<&Place> = places.iter().chain(left).collect();
        sorted.sort_by_key(|place| now.as_ref() != Some(&place.member.endpoint));
        for place in sorted {
            let here = now.as_ref() == Some(&place.member.endpoint);
            let published = if here { ports.clone() } else { Vec::new() };
            self.networks
                .set_ports(&place.network.id, &place.member.endpoint, published);
            let none = Bound::new();
            let sockets = if here { &bound } else { &none };
            let failed = self.publish_outside(&place.network, sockets);
            for (publication, error) in failed
                .into_iter()
                .filter(|(it, _)| here && ports.contains(it))
            {
                let why = ports::bind_failure(publication, &error);
                tracing::warn!(id = record.id.short(), "not published yet: {why}");
            }
        }
    }

    /// Has a running container's files say where it is now.
    fn update(&self, container: &Container, old: &Surroundings, places: &[Place]) {
        let new = surroundings(places);
        let record = container.record();
        if let Err(error) = self.update_files(&record, &container.directory, [old, &new]) {
            tracing::warn!(
                id = record.id.short(),
                "cannot change its /etc files: {error}"
            );
        }
    }

    fn save(&self, container: &Container) -> Result<()> {
        container.save(true).map_err(|error| Error::system(&error))
    }
}

/// The first process of a running container.
fn process(record: &Record) -> std::io::Result<ProcessIdentity> {
    let started = record.state.started().ok_or(std::io::ErrorKind::NotFound)?;
    Ok(started.process())
}
