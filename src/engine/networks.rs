//! Networks, as far as this version has them: the two that need no bridge, and the default one,
//! which gives a container a loopback interface and says so.

use std::collections::BTreeMap;

use crate::api::filters::Filters;
use crate::api::network::{EndpointSettings, Ipam, Network, NetworkPruneResponse};
use crate::container::record::Record;
use crate::engine::Engine;
use crate::engine::error::{Error, Result};
use crate::types::digest::Digest;

/// Names and drivers.
const NETWORKS: &[(&str, &str)] = &[("bridge", "bridge"), ("host", "host"), ("none", "null")];

impl Engine {
    /// The networks that pass the filters.
    pub fn network_list(&self, filters: &Filters) -> Result<Vec<Network>> {
        filters
            .validate(&["dangling", "driver", "id", "label", "name", "scope", "type"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        Ok(NETWORKS
            .iter()
            .filter(|(name, driver)| {
                filters.matches_pattern("name", name)
                    && filters.matches_exactly("driver", driver)
                    && filters.matches_prefix("id", &network_id(name))
                    && filters.matches_exactly("scope", "local")
                    && filters.matches_exactly("type", "builtin")
                    && !filters.contains("label")
            })
            .map(|(name, driver)| self.network(name, driver))
            .collect())
    }

    /// One network, by name, id or prefix of its id.
    pub fn network_inspect(&self, wanted: &str) -> Result<Network> {
        NETWORKS
            .iter()
            .find(|(name, _)| {
                *name == wanted || (!wanted.is_empty() && network_id(name).starts_with(wanted))
            })
            .map(|(name, driver)| Network {
                containers: Some(BTreeMap::new()),
                ..self.network(name, driver)
            })
            .ok_or_else(|| Error::not_found(format!("network {wanted} not found")))
    }

    /// Removes what nobody uses of networks, of which there are none that could be.
    pub fn network_prune(&self, filters: &Filters) -> Result<NetworkPruneResponse> {
        filters
            .validate(&["label", "label!", "until"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        self.prune_event("network", 0);
        Ok(NetworkPruneResponse::default())
    }

    fn network(&self, name: &str, driver: &str) -> Network {
        Network {
            name: name.to_owned(),
            id: network_id(name),
            created: self.started.to_string(),
            scope: "local".to_owned(),
            driver: driver.to_owned(),
            enable_ipv4: true,
            ipam: Ipam {
                driver: "default".to_owned(),
                ..Ipam::default()
            },
            ..Network::default()
        }
    }
}

/// The same id in every daemon: nothing about these networks is ever stored.
fn network_id(name: &str) -> String {
    Digest::of(format!("moss network {name}").as_bytes()).hex()
}

/// The endpoints that inspect and ps show of a container.
pub(super) fn endpoints(record: &Record) -> BTreeMap<String, EndpointSettings> {
    let mode = record.host_config.network_mode.as_str();
    let Some((name, _)) = NETWORKS.iter().find(|(name, _)| *name == mode) else {
        return BTreeMap::new();
    };
    let endpoint = EndpointSettings {
        network_id: network_id(name),
        ..EndpointSettings::default()
    };
    BTreeMap::from([((*name).to_owned(), endpoint)])
}
