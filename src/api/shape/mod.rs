//! Makes answers look as an older version of the API had them.
//!
//! The structs of [`api`](super) hold what the newest version says. [`Shape::to_json`] serialises
//! one and then takes away what a version did not know yet, and puts in what it still had. The
//! rules are those of Docker's own daemon, found in its routes, completed from the OpenAPI files
//! of 1.41 to 1.55 where the daemon that spoke a version emitted more than the newest one does for
//! it. Requests are brought up to date by [`request`].
//!
//! An answer costs one tree of [`Value`]s on the way.

pub mod request;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::version::ApiVersion;
use super::{container, event, exec, image, network, system, volume};

/// An answer that may look different in older versions.
pub trait Shape: Serialize {
    /// Changes the newest version's form into `version`'s.
    fn adapt(&self, _version: ApiVersion, _answer: &mut Map<String, Value>) {}

    /// The answer as `version` has it.
    fn to_json(&self, version: ApiVersion) -> Value {
        // Wire types are made of strings, numbers, lists and maps with string keys, which always
        // serialise.
        let mut answer = serde_json::to_value(self).unwrap_or_default();
        if let Value::Object(fields) = &mut answer {
            self.adapt(version, fields);
        }
        answer
    }
}

impl<T: Shape> Shape for [T] {
    fn to_json(&self, version: ApiVersion) -> Value {
        self.iter().map(|item| item.to_json(version)).collect()
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn to_json(&self, version: ApiVersion) -> Value {
        self.as_slice().to_json(version)
    }
}

/// Answers that every version has alike.
macro_rules! same_in_all_versions {
    ($($type:ty),* $(,)?) => {$(impl Shape for $type {})*};
}

same_in_all_versions!(
    super::IdResponse,
    super::auth::AuthResponse,
    super::error::ErrorBody,
    container::CreateResponse,
    container::FilesystemChange,
    container::PruneResponse,
    container::TopResponse,
    container::UpdateResponse,
    container::WaitResponse,
    exec::ExecInspect,
    image::DeleteResponse,
    image::HistoryItem,
    image::PruneResponse,
    network::NetworkCreateResponse,
    network::NetworkPruneResponse,
    super::registry::DistributionInspect,
    super::registry::SearchResult,
    system::Version,
    volume::ListResponse,
    volume::PruneResponse,
    volume::Volume,
);

/// The object at `name`, if there is one.
fn object<'a>(
    fields: &'a mut Map<String, Value>,
    name: &str,
) -> Option<&'a mut Map<String, Value>> {
    fields.get_mut(name).and_then(Value::as_object_mut)
}

/// Puts in those fields of `more` that are not there.
fn fill(fields: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        for (name, value) in more {
            fields.entry(name).or_insert(value);
        }
    }
}

/// Takes away from every endpoint what came later.
fn endpoints(settings: Option<&mut Map<String, Value>>, version: ApiVersion) {
    let networks = settings.and_then(|settings| object(settings, "Networks"));
    for endpoint in networks.into_iter().flat_map(Map::values_mut) {
        if let Some(endpoint) = endpoint.as_object_mut() {
            if version.before(44) {
                endpoint.shift_remove("DNSNames");
            }
            if version.before(48) {
                endpoint.shift_remove("GwPriority");
            }
        }
    }
}

impl Shape for container::Summary {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if version.before(46)
            && let Some(host_config) = object(answer, "HostConfig")
        {
            host_config.shift_remove("Annotations");
        }
        if version.before(48) {
            answer.shift_remove("ImageManifestDescriptor");
            endpoints(object(answer, "NetworkSettings"), version);
        }
        if version.before(52) {
            answer.shift_remove("Health");
        }
    }
}

/// Networks that Docker knows without anyone having made them.
fn is_user_defined(network: &str) -> bool {
    !matches!(network, "default" | "bridge" | "host" | "none") && !network.starts_with("container:")
}

impl Shape for container::Inspect {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if version.at_least(52) {
            if let Some(config) = object(answer, "Config") {
                config.shift_remove("MacAddress");
            }
            return;
        }
        if let Some(settings) = object(answer, "NetworkSettings") {
            if version.before(45) {
                self.add_aliases(settings);
            }
            fill(settings, self.legacy_addresses());
            endpoints(Some(settings), version);
        }
        if let Some(config) = object(answer, "Config") {
            fill(config, json!({ "OnBuild": null }));
        }
        let host_config = object(answer, "HostConfig");
        if let Some(host_config) = host_config {
            if version.before(43) {
                host_config.shift_remove("Annotations");
            }
            if version.before(42) {
                fill(
                    host_config,
                    json!({ "KernelMemory": 0, "KernelMemoryTCP": 0 }),
                );
            }
        }
        if version.before(48) {
            answer.shift_remove("ImageManifestDescriptor");
        }
        if let Some(Value::Object(mut storage)) = answer.shift_remove("Storage") {
            let snapshot =
                object(&mut storage, "RootFS").and_then(|root| root.shift_remove("Snapshot"));
            let name = snapshot.and_then(|snapshot| snapshot.get("Name").cloned());
            fill(
                answer,
                json!({ "GraphDriver": { "Data": null, "Name": name.unwrap_or_default() } }),
            );
        }
    }
}

impl container::Inspect {
    /// The main network's addresses, which stood beside the networks before 1.52.
    fn legacy_addresses(&self) -> Value {
        let bridge = self.network_settings.networks.get("bridge");
        let bridge = bridge.cloned().unwrap_or_default();
        json!({
            "Bridge": "",
            "HairpinMode": false,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": null,
            "SecondaryIPv6Addresses": null,
            "EndpointID": bridge.endpoint_id,
            "Gateway": bridge.gateway,
            "GlobalIPv6Address": bridge.global_ipv6_address,
            "GlobalIPv6PrefixLen": bridge.global_ipv6_prefix_len,
            "IPAddress": bridge.ip_address,
            "IPPrefixLen": bridge.ip_prefix_len,
            "IPv6Gateway": bridge.ipv6_gateway,
            "MacAddress": bridge.mac_address,
        })
    }

    /// Short id and host name, which were among the aliases before 1.45.
    fn add_aliases(&self, settings: &mut Map<String, Value>) {
        let short = self.id.get(..crate::types::id::SHORT).unwrap_or(&self.id);
        let networks = object(settings, "Networks");
        for (name, endpoint) in networks.into_iter().flatten() {
            if !is_user_defined(name) {
                continue;
            }
            let mut aliases = match endpoint.get("Aliases") {
                Some(Value::Array(aliases)) => aliases.clone(),
                _ => Vec::new(),
            };
            for alias in [short, &self.config.hostname] {
                if !aliases.iter().any(|known| known == alias) {
                    aliases.push(alias.into());
                }
            }
            endpoint["Aliases"] = aliases.into();
        }
    }
}

impl Shape for image::Summary {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if version.before(43) && self.repo_tags.is_empty() && self.repo_digests.is_empty() {
            answer.insert("RepoTags".to_owned(), json!(["<none>:<none>"]));
            answer.insert("RepoDigests".to_owned(), json!(["<none>@<none>"]));
        }
        if version.before(44) {
            answer.insert("VirtualSize".to_owned(), self.size.into());
        }
        if version.before(48) {
            answer.shift_remove("Descriptor");
        }
        if version.before(51) {
            answer.insert("Containers".to_owned(), (-1).into());
        }
    }
}

impl Shape for image::Inspect {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if version.at_least(52) {
            return;
        }
        if version.before(44) {
            answer.insert("VirtualSize".to_owned(), self.size.into());
            fill(
                answer,
                json!({ "Created": crate::types::timestamp::Timestamp::ZERO }),
            );
        }
        if version.before(45) {
            let config = self.container_config.clone().unwrap_or_default();
            answer.insert("Container".to_owned(), json!(self.container));
            answer.insert("ContainerConfig".to_owned(), json!(config));
        }
        if version.before(48) {
            answer.shift_remove("Descriptor");
        }
        fill(
            answer,
            json!({ "Parent": "", "Comment": "", "DockerVersion": "", "Author": "" }),
        );
        let config = answer.entry("Config").or_insert(Value::Null);
        if config.is_null() {
            *config = json!({});
        }
        if let Some(config) = config.as_object_mut() {
            fill(
                config,
                json!({
                    "Cmd": null, "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null,
                    "User": "", "Volumes": null, "WorkingDir": "",
                }),
            );
            if version.before(50) {
                fill(
                    config,
                    json!({
                        "AttachStderr": false, "AttachStdin": false, "AttachStdout": false,
                        "Domainname": "", "Hostname": "", "Image": "", "OpenStdin": false,
                        "StdinOnce": false, "Tty": false,
                    }),
                );
            }
        }
    }
}

impl Shape for network::Network {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if version.before(47) {
            answer.shift_remove("EnableIPv4");
        }
        if version.before(52) {
            answer.shift_remove("Status");
            fill(answer, json!({ "Containers": {} }));
        }
    }
}

impl Shape for system::Info {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if version.before(42) {
            fill(
                answer,
                json!({ "KernelMemory": false, "KernelMemoryTCP": false }),
            );
        }
        if version.before(44) {
            let runtimes = object(answer, "Runtimes");
            for runtime in runtimes.into_iter().flat_map(Map::values_mut) {
                if let Some(runtime) = runtime.as_object_mut() {
                    runtime.shift_remove("status");
                }
            }
        }
        if version.before(47)
            && let Some(registries) = object(answer, "RegistryConfig")
        {
            fill(
                registries,
                json!({
                    "AllowNondistributableArtifactsCIDRs": null,
                    "AllowNondistributableArtifactsHostnames": null,
                }),
            );
        }
        if version.before(49) {
            answer.shift_remove("FirewallBackend");
            for name in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
                if let Some(commit) = object(answer, name) {
                    let id = commit.get("ID").cloned().unwrap_or_default();
                    fill(commit, json!({ "Expected": id }));
                }
            }
        }
        if version.before(50) {
            answer.shift_remove("DiscoveredDevices");
            fill(
                answer,
                json!({ "BridgeNfIptables": false, "BridgeNfIp6tables": false }),
            );
        }
    }
}

impl Shape for system::DiskUsage {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if let Some(images) = &self.images {
            // Their users are counted here in every version.
            let mut list = images.to_json(version);
            for (shown, image) in list.as_array_mut().into_iter().flatten().zip(images) {
                shown["Containers"] = image.containers.into();
            }
            answer.insert("Images".to_owned(), list);
        }
        if let Some(containers) = &self.containers {
            answer.insert("Containers".to_owned(), containers.to_json(version));
        }
        if version.before(52) {
            for name in [
                "ImageUsage",
                "ContainerUsage",
                "VolumeUsage",
                "BuildCacheUsage",
            ] {
                answer.shift_remove(name);
            }
        }
        if version.before(42) {
            fill(answer, json!({ "LayersSize": 0, "BuilderSize": 0 }));
        }
    }
}

impl Shape for event::Event {
    fn adapt(&self, version: ApiVersion, answer: &mut Map<String, Value>) {
        if version.at_least(52) || !matches!(self.kind.as_str(), "container" | "image") {
            return;
        }
        answer.insert("status".to_owned(), json!(self.action));
        answer.insert("id".to_owned(), json!(self.actor.id));
        if self.kind == "container" {
            // There even when it is not known, then empty.
            let image = self.actor.attributes.get("image");
            answer.insert("from".to_owned(), json!(image.map_or("", String::as_str)));
        }
    }
}

impl event::Event {
    /// Whether `version` knows this event at all.
    pub fn known_to(&self, version: ApiVersion) -> bool {
        version.at_least(46) || self.kind != "image" || self.action != "create"
    }
}

#[cfg(test)]
mod tests;
