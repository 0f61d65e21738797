//! Containers: what creates them, lists them and shows them.

mod config;
mod host_config;
mod inspect;
mod mount;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

pub use super::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
pub use config::{ContainerConfig, HealthConfig};
pub use host_config::{
    DeviceMapping, DeviceRequest, HostConfig, LogConfig, PortBinding, PortMap, RestartPolicy,
    ThrottleDevice, Ulimit, WeightDevice,
};
pub use inspect::{Health, HealthcheckResult, Inspect, NetworkSettings, State};
pub use mount::{
    BindOptions, Driver, ImageOptions, Mount, MountPoint, TmpfsOptions, VolumeOptions,
};

use super::descriptor::Descriptor;
use super::json::{self, is_default, is_empty};

/// Body of `POST /containers/create`: the configuration's own fields, and two objects beside them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateRequest {
    /// What to run.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// What is asked of the host.
    pub host_config: HostConfig,
    /// Networks to be in.
    pub networking_config: NetworkingConfig,
}

// By hand, since a flattened struct would hide its fields from the tolerant reader: the object is
// read twice, each time for some of its fields.
impl<'de> Deserialize<'de> for CreateRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(rename = "CreateRequest", rename_all = "PascalCase", default)]
        struct Beside {
            host_config: HostConfig,
            networking_config: NetworkingConfig,
        }
        #[derive(Deserialize)]
        #[serde(rename = "CreateRequest")]
        struct Whole(Value);

        let Whole(value) = Whole::deserialize(deserializer)?;
        // The caller's reader puts the sentence's beginning before it.
        let sentence = |error: json::JsonError| {
            let reason = error.reason();
            de::Error::custom(reason.replace("field ContainerConfig.", "field CreateRequest."))
        };
        let config = json::from_value(value.clone()).map_err(sentence)?;
        let beside: Beside = json::from_value(value).map_err(sentence)?;
        Ok(Self {
            config,
            host_config: beside.host_config,
            networking_config: beside.networking_config,
        })
    }
}

/// Answer to `POST /containers/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateResponse {
    /// The container's id.
    pub id: String,
    /// What could not be had, and other things to know.
    pub warnings: Vec<String>,
}

/// A container in `GET /containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Summary {
    /// Id.
    pub id: String,
    /// Names, each after a slash.
    pub names: Vec<String>,
    /// The image, as it was written, or its id when that name means another by now.
    pub image: String,
    /// The image's id.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// The image's manifest (1.48 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
    /// Program and arguments in one string.
    pub command: String,
    /// When it was made, in seconds since the epoch.
    pub created: i64,
    /// Its ports.
    pub ports: Vec<PortSummary>,
    /// Bytes that it has written (only when asked for).
    #[serde(skip_serializing_if = "is_default")]
    pub size_rw: i64,
    /// Those and the image's (only when asked for).
    #[serde(skip_serializing_if = "is_default")]
    pub size_root_fs: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `running`, `exited` …
    pub state: String,
    /// For people: `Up 5 minutes`.
    pub status: String,
    /// Some of what was asked of the host.
    pub host_config: SummaryHostConfig,
    /// Health (1.52 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSummary>,
    /// Its networks.
    pub network_settings: SummaryNetworkSettings,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
}

/// What a list shows of `HostConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SummaryHostConfig {
    /// The network's mode.
    #[serde(skip_serializing_if = "is_default")]
    pub network_mode: String,
    /// Annotations (1.46 and newer).
    #[serde(skip_serializing_if = "is_empty")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What a list shows of a container's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SummaryNetworkSettings {
    /// By name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// What a list shows of a container's health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthSummary {
    /// `none`, `starting`, `healthy`, `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: i64,
}

/// A port in a list of containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortSummary {
    /// Address on the host, where it is published.
    #[serde(rename = "IP", skip_serializing_if = "is_default")]
    pub ip: String,
    /// Port of the container.
    pub private_port: u16,
    /// Port of the host, where it is published.
    #[serde(skip_serializing_if = "is_default")]
    pub public_port: u16,
    /// `tcp`, `udp`, `sctp`.
    #[serde(rename = "Type")]
    pub kind: String,
}

/// Answer to `POST /containers/{id}/wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitResponse {
    /// What went wrong while waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WaitExitError>,
    /// Exit code.
    pub status_code: i64,
}

/// What went wrong while waiting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitExitError {
    /// The sentence.
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
}

/// Answer to `GET /containers/{id}/top`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TopResponse {
    /// A row for each process.
    pub processes: Vec<Vec<String>>,
    /// Names of the columns.
    pub titles: Vec<String>,
}

/// Answer to `POST /containers/{id}/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateResponse {
    /// What could not be had.
    pub warnings: Option<Vec<String>>,
}

/// Answer to `POST /containers/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PruneResponse {
    /// Ids of those removed.
    pub containers_deleted: Option<Vec<String>>,
    /// Bytes freed.
    pub space_reclaimed: u64,
}

/// An element of `GET /containers/{id}/changes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FilesystemChange {
    /// 0 changed, 1 added, 2 deleted.
    pub kind: u8,
    /// Path in the container.
    pub path: String,
}
