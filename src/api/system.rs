//! The engine itself: what it is, what it can do, how much it holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::{is_default, is_empty};
use super::version::ApiVersion;
use super::{container, image, volume};

/// Answer to `GET /info`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    /// Id of this engine.
    #[serde(rename = "ID")]
    pub id: String,
    /// Containers.
    pub containers: i64,
    /// Those that run.
    pub containers_running: i64,
    /// Those that are paused.
    pub containers_paused: i64,
    /// Those that do not run.
    pub containers_stopped: i64,
    /// Images.
    pub images: i64,
    /// Storage driver.
    pub driver: String,
    /// What it says of itself, names and values.
    pub driver_status: Vec<(String, String)>,
    /// Plugins.
    pub plugins: PluginsInfo,
    /// Memory can be limited.
    pub memory_limit: bool,
    /// Swap can be limited.
    pub swap_limit: bool,
    /// `CpuPeriod` works.
    pub cpu_cfs_period: bool,
    /// `CpuQuota` works.
    pub cpu_cfs_quota: bool,
    /// `CpuShares` works.
    #[serde(rename = "CPUShares")]
    pub cpu_shares: bool,
    /// `CpusetCpus` works.
    #[serde(rename = "CPUSet")]
    pub cpu_set: bool,
    /// `PidsLimit` works.
    pub pids_limit: bool,
    /// The host forwards IPv4.
    #[serde(rename = "IPv4Forwarding")]
    pub ipv4_forwarding: bool,
    /// The daemon logs at debug level.
    pub debug: bool,
    /// Open descriptors (when debugging).
    #[serde(rename = "NFd")]
    pub n_fd: i64,
    /// `OomKillDisable` works.
    pub oom_kill_disable: bool,
    /// Threads (when debugging).
    #[serde(rename = "NGoroutines")]
    pub n_goroutines: i64,
    /// The host's time, RFC 3339.
    pub system_time: String,
    /// Default log driver.
    pub logging_driver: String,
    /// `systemd`, `cgroupfs` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_version: String,
    /// Clients that listen to events.
    #[serde(rename = "NEventsListener")]
    pub n_events_listener: i64,
    /// Version of the kernel.
    pub kernel_version: String,
    /// Name of the system.
    pub operating_system: String,
    /// Version of the system.
    #[serde(rename = "OSVersion")]
    pub os_version: String,
    /// `linux`.
    #[serde(rename = "OSType")]
    pub os_type: String,
    /// As `uname -m` says.
    pub architecture: String,
    /// Default registry.
    pub index_server_address: String,
    /// Registries.
    pub registry_config: RegistryConfig,
    /// CPUs.
    #[serde(rename = "NCPU")]
    pub n_cpu: i64,
    /// Bytes of memory.
    pub mem_total: i64,
    /// Resources of a swarm's node.
    pub generic_resources: Option<Vec<serde_json::Value>>,
    /// Data root.
    pub docker_root_dir: String,
    /// Proxy.
    pub http_proxy: String,
    /// Proxy for TLS.
    pub https_proxy: String,
    /// Hosts reached without a proxy.
    pub no_proxy: String,
    /// Host name.
    pub name: String,
    /// Labels of the daemon.
    pub labels: Vec<String>,
    /// Experiments are on.
    pub experimental_build: bool,
    /// Version of the engine.
    pub server_version: String,
    /// OCI runtimes by name.
    pub runtimes: BTreeMap<String, Runtime>,
    /// The one used where none is named.
    pub default_runtime: String,
    /// The swarm that this node is in.
    pub swarm: SwarmInfo,
    /// Containers outlive the daemon.
    pub live_restore_enabled: bool,
    /// Default isolation (Windows).
    pub isolation: String,
    /// The program behind `--init`.
    pub init_binary: String,
    /// Commit of containerd.
    pub containerd_commit: Commit,
    /// Commit of runc.
    pub runc_commit: Commit,
    /// Commit of the init.
    pub init_commit: Commit,
    /// `name=seccomp,profile=builtin`, `name=rootless` …
    pub security_options: Vec<String>,
    /// Licence of a product.
    #[serde(skip_serializing_if = "is_default")]
    pub product_license: String,
    /// Where new networks get their subnets from.
    #[serde(skip_serializing_if = "is_default")]
    pub default_address_pools: Vec<AddressPool>,
    /// The firewall in use (1.49 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_backend: Option<FirewallInfo>,
    /// Directories with CDI specifications.
    #[serde(rename = "CDISpecDirs")]
    pub cdi_spec_dirs: Vec<String>,
    /// Devices that drivers found (1.50 and newer).
    #[serde(skip_serializing_if = "is_default")]
    pub discovered_devices: Vec<DeviceInfo>,
    /// What does not work or is not safe.
    pub warnings: Option<Vec<String>>,
}

/// Plugins by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PluginsInfo {
    /// Volume drivers.
    pub volume: Option<Vec<String>>,
    /// Network drivers.
    pub network: Option<Vec<String>>,
    /// Authorization plugins.
    pub authorization: Option<Vec<String>>,
    /// Log drivers.
    pub log: Option<Vec<String>>,
}

/// Registries that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryConfig {
    /// Networks whose registries may be without TLS.
    #[serde(rename = "InsecureRegistryCIDRs")]
    pub insecure_registry_cidrs: Vec<String>,
    /// Registries by name.
    #[serde(rename = "IndexConfigs")]
    pub index_configs: BTreeMap<String, IndexInfo>,
    /// Mirrors of the default registry.
    #[serde(rename = "Mirrors")]
    pub mirrors: Option<Vec<String>>,
}

/// A registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IndexInfo {
    /// Name.
    pub name: String,
    /// Mirrors.
    pub mirrors: Vec<String>,
    /// With TLS.
    pub secure: bool,
    /// The default one.
    pub official: bool,
}

/// An OCI runtime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    /// The program.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Its arguments.
    #[serde(rename = "runtimeArgs", skip_serializing_if = "is_empty")]
    pub runtime_args: Option<Vec<String>>,
    /// What it says of itself (1.44 and newer).
    #[serde(skip_serializing_if = "is_empty")]
    pub status: Option<BTreeMap<String, String>>,
}

/// A node's part in a swarm. The default is a node outside one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmInfo {
    /// Id of the node.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// Address of the node.
    pub node_addr: String,
    /// `inactive`.
    pub local_node_state: String,
    /// It is a manager.
    pub control_available: bool,
    /// What is wrong.
    pub error: String,
    /// Managers.
    pub remote_managers: Option<Vec<serde_json::Value>>,
}

impl Default for SwarmInfo {
    fn default() -> Self {
        Self {
            node_id: String::new(),
            node_addr: String::new(),
            local_node_state: "inactive".to_owned(),
            control_available: false,
            error: String::new(),
            remote_managers: None,
        }
    }
}

/// Commit that a part was built from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Commit {
    /// Its hash.
    #[serde(rename = "ID")]
    pub id: String,
}

/// Where new networks get their subnets from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AddressPool {
    /// `172.17.0.0/12`.
    pub base: String,
    /// Length of a subnet's prefix.
    pub size: i64,
}

/// The firewall in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FirewallInfo {
    /// Its driver.
    pub driver: String,
    /// What it says of itself.
    #[serde(skip_serializing_if = "is_default")]
    pub info: Vec<(String, String)>,
}

/// A device that a driver found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceInfo {
    /// `cdi`.
    #[serde(rename = "Source")]
    pub source: String,
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
}

/// Answer to `GET /version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Version {
    /// The product.
    pub platform: PlatformInfo,
    /// Version of the engine.
    pub version: String,
    /// Newest version of the API.
    pub api_version: ApiVersion,
    /// Oldest version of the API.
    #[serde(rename = "MinAPIVersion")]
    pub min_api_version: ApiVersion,
    /// `linux`.
    pub os: String,
    /// Architecture by Go's name.
    pub arch: String,
    /// Parts of the engine.
    #[serde(skip_serializing_if = "is_default")]
    pub components: Vec<ComponentVersion>,
    /// Commit that it was built from.
    #[serde(skip_serializing_if = "is_default")]
    pub git_commit: String,
    /// Version of the compiler; clients print it as it is.
    #[serde(skip_serializing_if = "is_default")]
    pub go_version: String,
    /// Version of the kernel.
    #[serde(skip_serializing_if = "is_default")]
    pub kernel_version: String,
    /// Experiments are on.
    #[serde(skip_serializing_if = "is_default")]
    pub experimental: bool,
    /// When it was built, RFC 3339.
    #[serde(skip_serializing_if = "is_default")]
    pub build_time: String,
}

/// The product.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PlatformInfo {
    /// Its name.
    pub name: String,
}

/// A part of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ComponentVersion {
    /// `Engine`, `moss` …
    pub name: String,
    /// Its version.
    pub version: String,
    /// More: `ApiVersion`, `Arch`, `GitCommit` …
    #[serde(skip_serializing_if = "is_default")]
    pub details: BTreeMap<String, String>,
}

/// Answer to `GET /system/df`. Since 1.52 the totals are said beside the lists; a client that asks
/// with `verbose` gets no lists but those of the totals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DiskUsage {
    /// Bytes of all layers.
    #[serde(skip_serializing_if = "is_default")]
    pub layers_size: i64,
    /// Images; `None` where not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<image::Summary>>,
    /// Containers; `None` where not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<container::Summary>>,
    /// Volumes; `None` where not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<volume::Volume>>,
    /// Build cache; `None` where not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<Vec<serde_json::Value>>,
    /// Totals of images (1.52 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_usage: Option<Usage<image::Summary>>,
    /// Totals of containers (1.52 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_usage: Option<Usage<container::Summary>>,
    /// Totals of volumes (1.52 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_usage: Option<Usage<volume::Volume>>,
    /// Totals of the build cache (1.52 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache_usage: Option<Usage<serde_json::Value>>,
}

/// Totals of one kind of thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "PascalCase",
    default,
    bound(deserialize = "T: Deserialize<'de>")
)]
pub struct Usage<T> {
    /// In use.
    #[serde(skip_serializing_if = "is_default")]
    pub active_count: i64,
    /// Each (with `verbose`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<T>,
    /// Bytes that removing what is not in use would free.
    #[serde(skip_serializing_if = "is_default")]
    pub reclaimable: i64,
    /// All.
    #[serde(skip_serializing_if = "is_default")]
    pub total_count: i64,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub total_size: i64,
}

impl<T> Default for Usage<T> {
    fn default() -> Self {
        Self {
            active_count: 0,
            items: Vec::new(),
            reclaimable: 0,
            total_count: 0,
            total_size: 0,
        }
    }
}
