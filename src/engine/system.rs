//! The engine itself: info, version, disk usage, events.

use std::collections::BTreeMap;

use crate::api::container::Summary;
use crate::api::filters::Filters;
use crate::api::system::{
    ComponentVersion, DiskUsage, IndexInfo, Info, PlatformInfo, PluginsInfo, RegistryConfig,
    Runtime, Usage, Version,
};
use crate::api::version::ApiVersion;
use crate::container::record::State;
use crate::container::spec;
use crate::engine::Engine;
use crate::engine::error::Result;
use crate::engine::events::{Sink, Subscription};
use crate::engine::list::ListOptions;
use crate::registry::Shown;
use crate::types::platform::Platform;
use crate::types::timestamp::Timestamp;

/// The language, where clients look for Go's (and some fail where there is none).
const COMPILER: &str = concat!("rust ", env!("CARGO_PKG_RUST_VERSION"));

/// The first Docker release whose API is the newest that we speak (moby's tags docker-v29.6.0 to
/// docker-v29.7.2 have 1.55), with our own version as build metadata: clients compare the first,
/// people read the second.
pub const SERVER_VERSION: &str = concat!("29.6.0+moss.", env!("CARGO_PKG_VERSION"));

impl Engine {
    /// `docker info`.
    pub fn info(&self) -> Info {
        let facts = &self.facts;
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        for container in self.containers.all() {
            match container.data().record.state {
                State::Running { paused: true, .. } => paused += 1,
                State::Running { .. } => running += 1,
                _ => stopped += 1,
            }
        }
        let now = self.now();
        let proxies = now.settings.registry.proxies.shown();
        let platform = Platform::host();
        let containers = &self.settings.containers;
        let profile = &containers.seccomp_profile;
        let mut security = vec![format!("name=seccomp,profile={profile}")];
        // What clients read from it: files in bind mounts may show other owners, and root in a
        // container is nobody special.
        if facts.uid != 0 {
            security.push("name=rootless".to_owned());
        }
        if now.settings.cgroupns_mode == "private" {
            security.push("name=cgroupns".to_owned());
        }
        if containers.no_new_privileges {
            security.push("name=no-new-privileges".to_owned());
        }
        Info {
            id: facts.engine_id.clone(),
            containers: running + paused + stopped,
            containers_running: running,
            containers_paused: paused,
            containers_stopped: stopped,
            images: count(self.images.list().len()),
            driver: self.settings.storage_driver.name().to_owned(),
            driver_status: facts
                .storage
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            plugins: PluginsInfo {
                volume: Some(vec!["local".to_owned()]),
                network: Some(["bridge", "host", "null"].map(str::to_owned).to_vec()),
                authorization: None,
                log: Some(spec::log::DRIVERS.map(str::to_owned).to_vec()),
            },
            debug: now.settings.debug,
            ipv4_forwarding: true,
            n_fd: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| count(entries.count())),
            n_goroutines: std::fs::read_dir("/proc/self/task")
                .map_or(0, |entries| count(entries.count())),
            n_events_listener: count(self.events.listeners()),
            system_time: Timestamp::now().to_string(),
            logging_driver: containers.log.kind.clone(),
            cgroup_driver: "none".to_owned(),
            cgroup_version: if facts.unified_cgroups { "2" } else { "1" }.to_owned(),
            kernel_version: facts.kernel.clone(),
            operating_system: facts.operating_system.clone(),
            os_version: facts.os_version.clone(),
            os_type: "linux".to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            index_server_address: "https://index.docker.io/v1/".to_owned(),
            registry_config: registry_config(self.registries().shown()),
            http_proxy: proxies.http,
            https_proxy: proxies.https,
            no_proxy: proxies.no_proxy,
            n_cpu: count(facts.cpus),
            mem_total: i64::try_from(facts.memory).unwrap_or(i64::MAX),
            docker_root_dir: self.settings.data_root.display().to_string(),
            name: facts.hostname.clone(),
            labels: now.settings.labels.clone(),
            server_version: SERVER_VERSION.to_owned(),
            runtimes: BTreeMap::from([(
                "moss".to_owned(),
                Runtime {
                    path: "moss".to_owned(),
                    ..Runtime::default()
                },
            )]),
            default_runtime: "moss".to_owned(),
            live_restore_enabled: true,
            init_binary: match &containers.init_path {
                Some(path) => path.clone(),
                None => "docker-init".to_owned(),
            },
            security_options: security,
            warnings: Some(self.warnings()),
            experimental_build: platform.os != "linux",
            ..Info::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.facts.warnings.clone();
        if self.settings.containers.seccomp_profile != "builtin" {
            let warning = "WARNING: daemon is not using the default seccomp profile";
            warnings.push(warning.to_owned());
        }
        warnings.push("WARNING: this version sets no cgroup limits".to_owned());
        warnings
    }

    /// `docker version`.
    pub fn version(&self) -> Version {
        let platform = Platform::host();
        let details = |pairs: &[(&str, String)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect::<BTreeMap<_, _>>()
        };
        let engine = ComponentVersion {
            name: "Engine".to_owned(),
            version: SERVER_VERSION.to_owned(),
            details: details(&[
                ("ApiVersion", ApiVersion::MAX.to_string()),
                ("Arch", platform.architecture.clone()),
                ("Experimental", "false".to_owned()),
                ("KernelVersion", self.facts.kernel.clone()),
                ("MinAPIVersion", ApiVersion::MIN.to_string()),
                ("Os", "linux".to_owned()),
                ("BuildTime", String::new()),
                ("GitCommit", String::new()),
                ("GoVersion", COMPILER.to_owned()),
            ]),
        };
        let moss = ComponentVersion {
            name: "moss".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            details: details(&[(
                "StorageDriver",
                self.settings.storage_driver.name().to_owned(),
            )]),
        };
        Version {
            platform: PlatformInfo {
                name: format!("moss {}", env!("CARGO_PKG_VERSION")),
            },
            version: SERVER_VERSION.to_owned(),
            api_version: ApiVersion::MAX,
            min_api_version: ApiVersion::MIN,
            os: "linux".to_owned(),
            arch: platform.architecture,
            components: vec![engine, moss],
            go_version: COMPILER.to_owned(),
            kernel_version: self.facts.kernel.clone(),
            ..Version::default()
        }
    }

    /// `docker system df`.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let images = self.image_list(&super::images::ImageListOptions {
            shared_size: true,
            ..Default::default()
        })?;
        let containers = self.container_list(&ListOptions {
            all: true,
            size: true,
            ..ListOptions::default()
        })?;
        let mut volumes = Vec::new();
        for volume in self.volumes.list() {
            let mut shown = self.shape(&volume);
            let size =
                crate::sys::usage::disk_usage(&self.volumes.data_path(&volume.name)).unwrap_or(0);
            shown.usage_data = Some(crate::api::volume::UsageData {
                ref_count: count(self.volume_users(&volume.name).len()),
                size: i64::try_from(size).unwrap_or(i64::MAX),
            });
            volumes.push(shown);
        }
        let layers_size = i64::try_from(self.images.layers_size()).unwrap_or(i64::MAX);
        let idle_images = images.iter().filter(|image| image.containers == 0);
        let idle_images = idle_images.map(|image| image.size - image.shared_size.max(0));
        let is_active = |container: &&Summary| {
            matches!(
                container.state.as_str(),
                "running" | "paused" | "restarting"
            )
        };
        let size_of = |volume: &crate::api::volume::Volume| {
            volume.usage_data.as_ref().map_or(0, |usage| usage.size)
        };
        Ok(DiskUsage {
            layers_size,
            image_usage: Some(Usage {
                active_count: count(images.iter().filter(|image| image.containers > 0).count()),
                total_count: count(images.len()),
                total_size: layers_size,
                reclaimable: idle_images.sum(),
                items: images.clone(),
            }),
            container_usage: Some(Usage {
                active_count: count(containers.iter().filter(is_active).count()),
                total_count: count(containers.len()),
                total_size: containers.iter().map(|container| container.size_rw).sum(),
                reclaimable: containers
                    .iter()
                    .filter(|container| !is_active(container))
                    .map(|container| container.size_rw)
                    .sum(),
                items: containers.clone(),
            }),
            volume_usage: Some(Usage {
                active_count: count(
                    volumes
                        .iter()
                        .filter(|v| {
                            v.usage_data
                                .as_ref()
                                .is_some_and(|usage| usage.ref_count > 0)
                        })
                        .count(),
                ),
                total_count: count(volumes.len()),
                total_size: volumes.iter().map(size_of).sum(),
                reclaimable: volumes
                    .iter()
                    .filter(|v| {
                        v.usage_data
                            .as_ref()
                            .is_none_or(|usage| usage.ref_count == 0)
                    })
                    .map(size_of)
                    .sum(),
                items: volumes.clone(),
            }),
            build_cache_usage: Some(Usage::default()),
            images: Some(images),
            containers: Some(containers),
            volumes: Some(volumes),
            build_cache: Some(Vec::new()),
        })
    }

    /// Calls `sink` for the events from `since`, then, if `live`, for each to come until what is
    /// returned is dropped.
    pub fn events_subscribe(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: Filters,
        live: bool,
        sink: Sink,
    ) -> Option<Subscription> {
        self.events.subscribe(since, until, filters, live, sink)
    }
}

/// Registries as `docker info` shows them.
fn registry_config(shown: Shown) -> RegistryConfig {
    let index = |name: &str, mirrors: Vec<String>, official| {
        let info = IndexInfo {
            name: name.to_owned(),
            mirrors,
            secure: official,
            official,
        };
        (name.to_owned(), info)
    };
    let insecure = shown.insecure_hosts.iter();
    let mut indexes: BTreeMap<_, _> = insecure
        .map(|host| index(host, Vec::new(), false))
        .collect();
    indexes.extend([index("docker.io", shown.mirrors.clone(), true)]);
    RegistryConfig {
        insecure_registry_cidrs: shown.insecure_networks,
        index_configs: indexes,
        mirrors: Some(shown.mirrors),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
