//! A container's configuration that concerns the host: limits, mounts, namespaces, rights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::mount::Mount;
use crate::api::json::{is_default, is_empty, string_or_list};

/// Published ports: container port (`80/tcp`) to places on the host.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// `HostConfig` of the OpenAPI, its `Resources` among the rest as on the wire.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// Bind mounts and volumes, `source:target[:options]`.
    pub binds: Option<Vec<String>>,
    /// Where the client writes the container's id.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Where output goes.
    pub log_config: LogConfig,
    /// `default`, `none`, `host`, `bridge`, `container:X` or a network.
    pub network_mode: String,
    /// Published ports.
    pub port_bindings: Option<PortMap>,
    /// When to start it again.
    pub restart_policy: RestartPolicy,
    /// Remove it when it ends.
    pub auto_remove: bool,
    /// Driver of its named volumes.
    pub volume_driver: String,
    /// Containers whose volumes it gets too, `X[:ro]`.
    pub volumes_from: Option<Vec<String>>,
    /// Rows and columns of the terminal at the start.
    pub console_size: [u64; 2],
    /// Annotations for the runtime (1.43 and newer).
    #[serde(skip_serializing_if = "is_empty")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Capabilities to add.
    #[serde(deserialize_with = "string_or_list")]
    pub cap_add: Option<Vec<String>>,
    /// Capabilities to take away.
    #[serde(deserialize_with = "string_or_list")]
    pub cap_drop: Option<Vec<String>>,
    /// `private`, `host` or empty.
    pub cgroupns_mode: String,
    /// Name servers.
    pub dns: Option<Vec<String>>,
    /// Options of resolv.conf.
    pub dns_options: Option<Vec<String>>,
    /// Search domains.
    pub dns_search: Option<Vec<String>>,
    /// More lines of /etc/hosts, `name:address`.
    pub extra_hosts: Option<Vec<String>>,
    /// More groups, names or numbers.
    pub group_add: Option<Vec<String>>,
    /// `private`, `shareable`, `none`, `host`, `container:X` or empty.
    pub ipc_mode: String,
    /// Cgroup to be in (`container:X`).
    pub cgroup: String,
    /// Containers known by other names, `name:alias`.
    pub links: Option<Vec<String>>,
    /// Rank for the kernel's out-of-memory killer.
    pub oom_score_adj: i64,
    /// `host`, `container:X` or empty.
    pub pid_mode: String,
    /// With everything that the user has.
    pub privileged: bool,
    /// Publish every exposed port.
    pub publish_all_ports: bool,
    /// With a read-only root filesystem.
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `apparmor=…`, `label=…`, `no-new-privileges`, `systempaths=unconfined`.
    pub security_opt: Option<Vec<String>>,
    /// Options of the storage driver.
    #[serde(skip_serializing_if = "is_empty")]
    pub storage_opt: Option<BTreeMap<String, String>>,
    /// Temporary filesystems: path to options.
    #[serde(skip_serializing_if = "is_empty")]
    pub tmpfs: Option<BTreeMap<String, String>>,
    /// `host` or empty.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// `host` or empty.
    pub userns_mode: String,
    /// Size of /dev/shm in bytes.
    pub shm_size: i64,
    /// Kernel parameters of its namespaces.
    #[serde(skip_serializing_if = "is_empty")]
    pub sysctls: Option<BTreeMap<String, String>>,
    /// Name of the OCI runtime.
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: String,
    /// `default` or empty (Windows).
    pub isolation: String,

    /// Weight of its share of CPU time.
    pub cpu_shares: i64,
    /// Most memory in bytes.
    pub memory: i64,
    /// Most CPU time in billionths of a CPU.
    pub nano_cpus: i64,
    /// Cgroup to make its own in.
    pub cgroup_parent: String,
    /// Weight of its block I/O, 10 to 1000.
    pub blkio_weight: u16,
    /// The same by device.
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    /// Most bytes read in a second by device.
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    /// Most bytes written in a second by device.
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    /// Most reads in a second by device.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    /// Most writes in a second by device.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    /// Length of a CFS period in microseconds.
    pub cpu_period: i64,
    /// CPU time in a CFS period in microseconds.
    pub cpu_quota: i64,
    /// Length of a real-time period in microseconds.
    pub cpu_realtime_period: i64,
    /// CPU time in a real-time period in microseconds.
    pub cpu_realtime_runtime: i64,
    /// CPUs to run on, `0-2,4`.
    pub cpuset_cpus: String,
    /// NUMA nodes to have memory from.
    pub cpuset_mems: String,
    /// Devices of the host.
    pub devices: Option<Vec<DeviceMapping>>,
    /// Rules of the device cgroup.
    pub device_cgroup_rules: Option<Vec<String>>,
    /// Devices by driver (GPUs, CDI).
    pub device_requests: Option<Vec<DeviceRequest>>,
    /// Memory in bytes that it is pushed back to under pressure.
    pub memory_reservation: i64,
    /// Most memory and swap together in bytes; -1 is without a limit.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Keep the kernel's out-of-memory killer away (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// Most processes; 0 and -1 are without a limit.
    pub pids_limit: Option<i64>,
    /// Resource limits.
    pub ulimits: Option<Vec<Ulimit>>,
    /// Number of CPUs (Windows).
    pub cpu_count: i64,
    /// Percentage of CPU time (Windows).
    pub cpu_percent: i64,
    /// Most I/O operations in a second (Windows).
    #[serde(rename = "IOMaximumIOps")]
    pub io_maximum_iops: u64,
    /// Most bytes in a second (Windows).
    #[serde(rename = "IOMaximumBandwidth")]
    pub io_maximum_bandwidth: u64,

    /// Mounts in the long form.
    #[serde(skip_serializing_if = "is_empty")]
    pub mounts: Option<Vec<Mount>>,
    /// Paths hidden from it; `None` is Docker's own list, an empty list none.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only in it; `None` is Docker's own list, an empty list none.
    pub readonly_paths: Option<Vec<String>>,
    /// Run an init as its first process; the daemon's default where not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

/// Where output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// `json-file`, `local`, `none` …; the daemon's default where empty.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Options of the driver.
    pub config: Option<BTreeMap<String, String>>,
}

/// When to start a container again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure` or empty.
    pub name: String,
    /// How often at most (`on-failure`).
    pub maximum_retry_count: i64,
}

/// A place on the host that a port is published at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// Address; every one where empty.
    #[serde(rename = "HostIp")]
    pub host_ip: String,
    /// Port or range; any where empty or 0.
    #[serde(rename = "HostPort")]
    pub host_port: String,
}

/// Weight of block I/O on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WeightDevice {
    /// The device.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// Most I/O on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ThrottleDevice {
    /// The device.
    pub path: String,
    /// Bytes or operations in a second.
    pub rate: u64,
}

/// A device of the host in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// Path on the host.
    pub path_on_host: String,
    /// Path in the container.
    pub path_in_container: String,
    /// `rwm` or a part of it.
    pub cgroup_permissions: String,
}

/// Devices asked of a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceRequest {
    /// `nvidia`, `cdi` …
    pub driver: String,
    /// How many; -1 is all.
    pub count: i64,
    /// Which.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    /// What they can do: one of these lists, all of its elements.
    pub capabilities: Option<Vec<Vec<String>>>,
    /// Options of the driver.
    pub options: Option<BTreeMap<String, String>>,
}

/// A resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// `nofile`, `nproc` …
    pub name: String,
    /// Hard limit; -1 is without.
    pub hard: i64,
    /// Soft limit; -1 is without.
    pub soft: i64,
}
