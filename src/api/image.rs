//! Images: lists, inspection, history, removal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Empty;
use super::container::{ContainerConfig, HealthConfig};
use super::descriptor::Descriptor;
use super::json::{is_default, is_empty};
use super::storage::DriverData;

/// An image in `GET /images/json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Summary {
    /// Containers that use it; -1 where not counted.
    pub containers: i64,
    /// When it was made, in seconds since the epoch.
    pub created: i64,
    /// Id: its configuration's digest.
    pub id: String,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Id of the image that it was built from.
    pub parent_id: String,
    /// Its manifest or index (1.48 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// `name@digest`.
    pub repo_digests: Vec<String>,
    /// `name:tag`.
    pub repo_tags: Vec<String>,
    /// Bytes shared with other images; -1 where not reckoned.
    pub shared_size: i64,
    /// Bytes of all its layers.
    pub size: i64,
}

/// Answer to `GET /images/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Inspect {
    /// Id: its configuration's digest.
    pub id: String,
    /// `name:tag`.
    pub repo_tags: Vec<String>,
    /// `name@digest`.
    pub repo_digests: Vec<String>,
    /// Id of the image that it was built from by the classic builder.
    #[serde(skip_serializing_if = "is_default")]
    pub parent: String,
    /// What was said when it was made.
    #[serde(skip_serializing_if = "is_default")]
    pub comment: String,
    /// When it was made, RFC 3339; empty where not known.
    #[serde(skip_serializing_if = "is_default")]
    pub created: String,
    /// The container that it was committed from (before 1.45).
    #[serde(skip_serializing)]
    pub container: String,
    /// That container's configuration (before 1.45).
    #[serde(skip_serializing)]
    pub container_config: Option<ContainerConfig>,
    /// Version of the Docker that made it.
    #[serde(skip_serializing_if = "is_default")]
    pub docker_version: String,
    /// Who made it.
    #[serde(skip_serializing_if = "is_default")]
    pub author: String,
    /// What a container of it runs.
    pub config: Option<ImageConfig>,
    /// Architecture.
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(skip_serializing_if = "is_default")]
    pub variant: String,
    /// `linux`.
    pub os: String,
    /// Version of the system (Windows).
    #[serde(skip_serializing_if = "is_default")]
    pub os_version: String,
    /// Bytes of all its layers.
    pub size: i64,
    /// Its layers on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_driver: Option<DriverData>,
    /// Its layers.
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    /// What is known of it on this machine.
    pub metadata: Metadata,
    /// Its manifest or index (1.48 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
}

/// `Config` of an image, with what is not set left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user[:group]`.
    #[serde(skip_serializing_if = "is_default")]
    pub user: String,
    /// Ports that it listens on.
    #[serde(skip_serializing_if = "is_empty")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// Environment.
    #[serde(skip_serializing_if = "is_empty")]
    pub env: Option<Vec<String>>,
    /// The program, before `Cmd`.
    #[serde(
        skip_serializing_if = "is_empty",
        deserialize_with = "super::json::string_or_list"
    )]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or the program.
    #[serde(
        skip_serializing_if = "is_empty",
        deserialize_with = "super::json::string_or_list"
    )]
    pub cmd: Option<Vec<String>>,
    /// Directories that get a volume.
    #[serde(skip_serializing_if = "is_empty")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Working directory.
    #[serde(skip_serializing_if = "is_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "is_empty")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that asks it to stop.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: String,
    /// The command is one string that is already escaped (Windows).
    #[serde(skip_serializing_if = "is_default")]
    pub args_escaped: bool,
    /// How to find out whether it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Build steps of images that are made from this one.
    #[serde(skip_serializing_if = "is_empty")]
    pub on_build: Option<Vec<String>>,
    /// The shell for the shell form.
    #[serde(
        skip_serializing_if = "is_empty",
        deserialize_with = "super::json::string_or_list"
    )]
    pub shell: Option<Vec<String>>,
}

/// An image's layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "Type", skip_serializing_if = "is_default")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(skip_serializing_if = "is_default")]
    pub layers: Vec<String>,
}

/// What is known of an image on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Metadata {
    /// When it last got a name, RFC 3339; Go's zero time where never.
    pub last_tag_time: String,
}

/// An element of `GET /images/{name}/history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HistoryItem {
    /// What was said.
    pub comment: String,
    /// In seconds since the epoch.
    pub created: i64,
    /// The step that made it.
    pub created_by: String,
    /// The image's id, or `<missing>`.
    pub id: String,
    /// Bytes of the layer.
    pub size: i64,
    /// Names of the image.
    pub tags: Option<Vec<String>>,
}

/// An element of the answer to `DELETE /images/{name}`: one of both is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeleteResponse {
    /// A name that was taken away.
    #[serde(skip_serializing_if = "is_default")]
    pub untagged: String,
    /// An image or layer that was removed.
    #[serde(skip_serializing_if = "is_default")]
    pub deleted: String,
}

/// Answer to `POST /images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PruneResponse {
    /// What was untagged and removed.
    pub images_deleted: Option<Vec<DeleteResponse>>,
    /// Bytes freed.
    pub space_reclaimed: u64,
}
