//! Networks after a daemon's death.
//!
//! The records of running containers say who has which address; each network's namespace comes from
//! the keeper. One that is gone is made anew, and every running container's pair of interfaces with
//! it: the kernel has removed both ends of the old one. What belongs to nobody is removed.

use super::join::{member_of, plug_in};
use super::{endpoints, ports};
use crate::container::record::Record;
use crate::engine::Engine;
use crate::engine::error::{Error, Result};
use crate::network::kernel;

impl Engine {
    /// Notes the places of a container that runs, as an earlier daemon gave them.
    pub(in crate::engine) fn rejoin_networks(&self, record: &Record) {
        for (name, endpoint) in &record.endpoints {
            let settings = &endpoint.settings;
            let mut member = member_of(record, settings, &self.settings.containers.dns);
            if endpoint.published {
                member.ports = ports::unmap(&record.ports);
            }
            let mac = endpoints::parse_mac(&settings.mac_address);
            if let Err(error) = self.networks.join(&settings.network_id, member, mac) {
                tracing::error!(
                    id = record.id.short(),
                    "its place in {name} is lost: {error}"
                );
            }
        }
    }

    /// Plugs containers in again whose networks are gone, and removes what belongs to none.
    pub(in crate::engine) fn repair_networks(&self) {
        let held = self
            .keeper
            .status()
            .map(|status| status.networks)
            .unwrap_or_default();
        for id in &held {
            if self.networks.find(id).is_err() {
                self.forget_namespace(id);
            }
        }
        self.forget_unknown();
        let running: Vec<Record> = self.containers.all().iter().map(|it| it.record()).collect();
        let running: Vec<&Record> = running.iter().filter(|it| it.state.is_running()).collect();
        for network in self
            .networks
            .list()
            .iter()
            .filter(|it| it.driver == "bridge")
        {
            let members = self.networks.members(&network.id);
            if members.is_empty() && !held.contains(&network.id) {
                continue;
            }
            let swept = self.bridge(network).and_then(|(bridge, _)| {
                let near: Vec<String> = members
                    .iter()
                    .map(|it| kernel::near(&it.endpoint))
                    .collect();
                bridge
                    .sweep(|name| near.iter().any(|known| known == name))
                    .map_err(|error| Error::io("cannot list interfaces", &error))
            });
            if let Err(error) = swept {
                tracing::error!("the network {} cannot be repaired: {error}", network.name);
            }
            self.tell_outside(network);
        }
        for record in running {
            if let Err(error) = self.replug(record) {
                tracing::error!(
                    id = record.id.short(),
                    "its networks cannot be repaired: {error}"
                );
            }
        }
    }

    /// Makes the interfaces of a running container anew that are gone.
    fn replug(&self, record: &Record) -> Result<()> {
        let mut places = self.places(record);
        let missing = places.iter().filter(|place| {
            let near = kernel::near(&place.member.endpoint);
            place
                .bridge
                .as_ref()
                .is_some_and(|bridge| !bridge.has(&near))
        });
        let missing: Vec<String> = missing.map(|place| place.member.endpoint.clone()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let Some(started) = record.state.started() else {
            return Ok(());
        };
        tracing::info!(id = record.id.short(), "its interfaces are made anew");
        plug_in(&mut places, started.process(), |place| {
            missing.contains(&place.member.endpoint)
        })
        .map_err(|error| Error::io("cannot plug it in", &error))?;
        if let Some(container) = self.containers.by_id(&record.id) {
            self.note_places(&container, &places);
        }
        Ok(())
    }
}
