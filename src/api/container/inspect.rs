//! Everything about one container: the answer to `GET /containers/{id}/json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::ContainerConfig;
use super::host_config::{HostConfig, PortMap};
use super::mount::MountPoint;
use crate::api::descriptor::Descriptor;
use crate::api::network::EndpointSettings;
use crate::api::storage::{DriverData, Storage};

/// Everything about one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Inspect {
    /// Id.
    pub id: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it does at present.
    pub state: State,
    /// Id of its image.
    pub image: String,
    /// Its resolv.conf on the host.
    pub resolv_conf_path: String,
    /// Its hostname file on the host.
    pub hostname_path: String,
    /// Its hosts file on the host.
    pub hosts_path: String,
    /// Its log on the host.
    pub log_path: String,
    /// Name, after a slash.
    pub name: String,
    /// How often it was started again.
    pub restart_count: i64,
    /// Driver of its root filesystem.
    pub driver: String,
    /// `linux`.
    pub platform: String,
    /// SELinux label of its mounts.
    pub mount_label: String,
    /// SELinux label of its processes.
    pub process_label: String,
    /// AppArmor profile.
    pub app_armor_profile: String,
    /// Exec sessions that run.
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    /// What was asked of the host.
    pub host_config: HostConfig,
    /// Its root filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_driver: Option<DriverData>,
    /// Its root filesystem, where a snapshotter holds it (1.52 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Bytes that it has written (only when asked for).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    /// Those and the image's (only when asked for).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
    /// What it runs.
    pub config: ContainerConfig,
    /// Its networks.
    pub network_settings: NetworkSettings,
    /// The image's manifest (1.48 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
}

/// What a container does at present.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub status: String,
    /// Its first process is there, paused or not.
    pub running: bool,
    /// Frozen.
    pub paused: bool,
    /// Waiting to be started again.
    pub restarting: bool,
    /// The kernel's out-of-memory killer acted in it.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Its removal failed.
    pub dead: bool,
    /// Pid of its first process on the host; 0 when there is none.
    pub pid: i64,
    /// The last exit code.
    pub exit_code: i64,
    /// Why the last start failed.
    pub error: String,
    /// When it was last started, RFC 3339.
    pub started_at: String,
    /// When it last ended, RFC 3339.
    pub finished_at: String,
    /// Health, where it is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// A container's health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    /// `none`, `starting`, `healthy`, `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: i64,
    /// The last checks, oldest first.
    pub log: Option<Vec<HealthcheckResult>>,
}

/// What came of one check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthcheckResult {
    /// When it began, RFC 3339.
    pub start: String,
    /// When it ended, RFC 3339.
    pub end: String,
    /// 0 is healthy, 1 unhealthy.
    pub exit_code: i64,
    /// What it said.
    pub output: String,
}

/// A container's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// Id of its network namespace.
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Path of its network namespace.
    pub sandbox_key: String,
    /// Exposed ports, and where they are published.
    pub ports: PortMap,
    /// Its networks by name.
    pub networks: BTreeMap<String, EndpointSettings>,
}
